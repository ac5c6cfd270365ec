"""Adapters of files: what a plugin may make of the operated file, and what is refused."""

from __future__ import annotations

import networks as nw
import numpy as np
import pytest

import surgeon
from surgeon.errors import DataError, PluginError

MINE = '''
import numpy as np
from onnx import helper, numpy_helper
from surgeon.plugin import hookimpl
from surgeon.records import Adapter, Rewritten

def scaled(model, feeds, head, trainable, *, count: int = 4, name: str = "surgeon.gain"):
    """Multiply what the head reads by numbers that learn; their start is measured."""
    last = model.graph.node[-1]
    features, last.input[0] = last.input[0], "scaled"
    seen = [one[features] for one in feeds(count, [features])]
    start = np.full(2, 1.0 if seen else 0.0, np.float32).repeat(seen[0].shape[1] // 2)
    model.graph.initializer.append(numpy_helper.from_array(start, name))
    factor = helper.make_node("Mul", [features, name], ["scaled"])
    model.graph.node.insert(len(model.graph.node) - 1, factor)
    assert set(head) <= set(trainable)
    return Rewritten(model, also=(name,), notes=(f"{len(seen)} samples seen",))

def wrong(model, feeds, *, how: str):
    if how == "raises":
        raise KeyError("lost")
    if how == "nothing":
        return model
    if how == "output":
        model.graph.output[0].name = model.graph.node[-1].output[0] = "other"
    if how == "head":
        del model.graph.initializer[-1]
    if how == "broken":
        model.graph.node[0].op_type = "Unheard"
    if how == "behind":
        model.graph.node.append(helper.make_node("Relu", ["before"], [model.graph.output[0].name]))
        model.graph.node[-2].output[0] = "before"
    return Rewritten(model, also=("nowhere",) if how == "trains" else ())

@hookimpl
def surgeon_adapters():
    yield Adapter("gain", "a factor behind", "{module}:scaled", of="file")
    yield Adapter("wrong", "what none may do", "{module}:wrong", of="file")
'''


@pytest.fixture
def mine(install):
    install("their-dist", "mine", MINE.replace("{module}", "fixture_their_dist_0"), version="2.5")


def data(model, n=24):
    feeds = nw.feeds(model, batch=n)
    (name,) = feeds
    return {name: feeds[name], "labels": np.arange(n) % 3}


def tuned(model, adapter, **options):
    given = {"case": "large-similar", "epochs": 1, "device": "cpu"} | options
    return surgeon.finetune(model, data(model), adapter=adapter, **given)


def test_what_is_added_is_delivered_and_trains(mine, tmp_path):
    model, out = nw.mlp(), tmp_path / "tuned.onnx"
    outcome = tuned(model, "gain:count=3", out=out)
    document = outcome.document()
    assert document["plan"]["adapter"] == "gain:count=3"
    assert document["plan"]["trainable"][-1] == "surgeon.gain"
    assert "3 samples seen" in document["warnings"]
    assert outcome.model.proto.graph.node[-2].op_type == "Mul"
    assert surgeon.verify(out).passed
    assert surgeon.verify(out, surgeon.load(model)).passed
    again = surgeon.finetune(out, data(model), epochs=1, device="cpu")
    assert len(again.model.proto.graph.node) == len(outcome.model.proto.graph.node)


def test_a_dry_run_says_what_would_be_put_in(mine):
    outcome = tuned(nw.mlp(), "gain", dry_run=True)
    assert "4 samples seen" in outcome.document()["warnings"]
    assert "surgeon.gain" in outcome.model.trainable


@pytest.mark.parametrize(
    "how", ["raises", "nothing", "output", "head", "broken", "trains", "behind"]
)
def test_a_code_that_misbehaves_is_one_error_that_names_whose_it_is(mine, how):
    with pytest.raises(PluginError, match=r"their-dist 2\.5") as caught:
        tuned(nw.mlp(), f"wrong:how={how}")
    assert caught.value.remedy


def test_an_initializer_of_a_foreign_name_is_refused(mine):
    with pytest.raises(PluginError, match="gain") as caught:
        tuned(nw.mlp(), "gain:name=gain")
    assert "surgeon." in caught.value.message


def test_no_sample_is_one_error(mine):
    with pytest.raises(DataError, match="can be read"):
        tuned(nw.mlp(), "gain:count=0")
