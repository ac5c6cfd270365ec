"""Adapters of the trained part: a graph that trains in place of the file's own, or is refused."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest

import surgeon
from surgeon.errors import PluginError, UsageError
from surgeon.job.weaving import pieces

MINE = '''
import numpy as np
from onnx import ModelProto, helper, numpy_helper
from surgeon.plugin import hookimpl
from surgeon.records import Adapter, Woven

SEEN = []

def gained(graph, trainable, batches, *, gain: float = 2.0, how: str = "well"):
    """Let the first convolution's weight learn as gain · w: the file gets w · gain."""
    SEEN.append((trainable, [sorted(batch.items()) for batch in batches(4)]))
    if how == "raises":
        raise KeyError("lost")
    if how == "text":
        return "a graph"
    woven, first = ModelProto(), graph.graph.node[0]
    woven.CopyFrom(graph)
    name = first.input[1]
    weight = next(t for t in woven.graph.initializer if t.name == name)
    small = numpy_helper.to_array(weight) / (1 if how == "function" else gain)
    weight.CopyFrom(numpy_helper.from_array(small, name))
    woven.graph.initializer.append(numpy_helper.from_array(np.float32(gain), "gain"))
    woven.graph.node[0].input[1] = "gained"
    kind = "Unheard" if how == "operator" else "Mul"
    woven.graph.node.insert(0, helper.make_node(kind, [name, "gain"], ["gained"]))
    if how == "output":
        woven.graph.output[0].name = "other"
    learns = {one: (one,) for one in trainable}
    if how == "name":
        learns[name] = ("nothing",)
    if how == "foreign":
        learns["nothing"] = (name,)

    def fold(values):
        found = dict(values)
        found[name] = values[name] * values["gain"]
        if how == "shape":
            found[name] = found[name][:1]
        if how == "lost":
            del found[name]
        return found

    return Woven(woven, learns, fold, ("gained",))

def placed(graph, trainable, batches, batch, scratch):
    SEEN.append((batch, scratch, [len(next(iter(one.values()))) for one in batches(5)]))
    return Woven(graph, {one: (one,) for one in trainable}, dict)

@hookimpl
def surgeon_adapters():
    yield Adapter("gained", "a weight and a factor", "{module}:gained", of="part")
    yield Adapter("placed", "nothing", "{module}:placed", of="part")
'''
MODULE = "fixture_their_dist_0"


@pytest.fixture
def seen(install):
    """What the adapter was called with."""
    import sys

    install("their-dist", "mine", MINE.replace("{module}", MODULE), version="2.5")
    return lambda: sys.modules[MODULE].SEEN


def data(n=60):
    random = np.random.default_rng(0)
    labels = np.arange(n) % 3
    x = random.standard_normal((n, 3, 12, 12)).astype(np.float32)
    x[np.arange(n), labels] += 0.4
    return {"x": x, "labels": labels}


def tuned(adapter, model=None, **options):
    given = {"case": "large-similar", "epochs": 2, "device": "cpu", "init": "random"} | options
    return surgeon.finetune(model or nw.convnet(), data(), adapter=adapter, **given)


def test_the_graph_of_the_file_stays_and_its_weights_are_folded(seen):
    outcome = tuned("gained")
    operated = surgeon.operate(nw.convnet(), "large-similar", 3)
    proto = outcome.model.proto
    assert list(proto.graph.node) == list(operated.proto.graph.node)
    assert [t.name for t in proto.graph.initializer] == [
        t.name for t in operated.proto.graph.initializer
    ]
    body = outcome.document()
    assert "gained" in body["warnings"]
    assert body["delivered"] == "tuned"
    assert "c1.weight" in body["changed"]
    trainable, batches = seen()[-1]
    assert set(trainable) == set(operated.trainable)
    assert all(name == "x" and value.shape[1:] == (3, 12, 12) for ((name, value),) in batches)


def test_what_it_trains_in_is_what_it_says(seen):
    """Adam moves each number alike, so that a weight written small moves further in the file."""
    drawn = surgeon.operate(nw.convnet(), "large-similar", 3, init="random")
    before, moves = weight(drawn), []
    for gain in (1.0, 50.0):
        after = weight(tuned(f"gained:gain={gain}", epochs=1, lr=1e-3).model)
        moves.append(np.abs(after - before).max() / np.abs(before).max())
    assert moves[1] > 5 * moves[0] > 0


def weight(model):
    found = next(t for t in model.proto.graph.initializer if t.name == "c1.weight")
    return onnx.numpy_helper.to_array(found).astype(np.float64)


def test_the_batch_and_the_start_go_to_those_who_ask(seen):
    tuned("placed", init="pretrained")
    assert seen()[-1][:2] == (None, False)
    tuned("placed")
    assert seen()[-1] == (None, True, [5])
    tuned("placed", nw.convnet(batch=2))
    batch, _, sizes = seen()[-1]
    assert set(sizes) == {batch or 5}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raises", "lost"), ("text", "str"), ("operator", "Unheard"), ("output", "output"),
        ("name", "nothing"), ("foreign", "nothing"), ("shape", "folds"), ("lost", "fold"),
        ("function", "computes"),
    ],
)  # fmt: skip
def test_what_none_may_do_is_refused_by_name(seen, how, said):
    with pytest.raises(PluginError, match=said) as caught:
        tuned(f"gained:how={how}")
    assert "gained" in caught.value.message
    assert "their-dist 2.5" in caught.value.message
    assert caught.value.remedy


def test_the_head_alone_is_nothing_to_adapt(seen):
    with pytest.raises(UsageError, match="head alone"):
        tuned("gained", case="small-similar")


@pytest.mark.parametrize(
    ("samples", "count", "batch", "sizes"),
    [(100, 64, None, [32, 32]), (5, 64, None, [5]), (5, 64, 4, [4, 4]), (1, 3, 2, [2]),
     (9, 3, 1, [1, 1, 1])],
)  # fmt: skip
def test_batches_are_of_one_size(samples, count, batch, sizes):
    found = pieces(samples, count, batch)
    assert [len(piece) for piece in found] == sizes
    assert all(0 <= row < samples for piece in found for row in piece)
