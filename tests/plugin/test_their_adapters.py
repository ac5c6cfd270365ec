"""Adapters: what a plugin's parametrization may stand for, what then trains, what is refused."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest

import surgeon
from surgeon.errors import PluginError, UnknownNameError, UsageError
from surgeon.graph.adaptable import adaptable

MINE = """
import torch
from torch import nn
from surgeon.plugin import hookimpl
from surgeon.records import Adapter

class Scaled(nn.Module):
    def __init__(self, weight, axis, *, start: float = 1.0):
        super().__init__()
        shape = [1] * weight.ndim
        shape[axis] = weight.shape[axis]
        self.factor = nn.Parameter(torch.full(shape, start))

    def forward(self, weight):
        return weight * self.factor

class Wrong(nn.Module):
    def __init__(self, weight, *, how: str):
        super().__init__()
        self.how, self.factor = how, nn.Parameter(torch.ones(1))
        if how == "raises":
            raise KeyError("lost")

    def forward(self, weight):
        wrong = {"shape": weight[:1], "nan": weight / 0 * 0, "dtype": weight.double(), "no": None}
        return wrong[self.how]

def function(weight):
    return weight

@hookimpl
def surgeon_adapters():
    yield Adapter("scaled", "a factor per output", "{module}:Scaled")
    yield Adapter("quick", "the same, quickly", "{module}:Scaled", lr=0.02)
    yield Adapter("wrong", "what none may do", "{module}:Wrong")
    yield Adapter("function", "no module", "{module}:function")
"""


@pytest.fixture
def mine(install):
    install("their-dist", "mine", MINE.replace("{module}", "fixture_their_dist_0"), version="2.5")


def data(model, n=24, classes=3):
    feeds = nw.feeds(model, batch=n)
    labels = np.arange(n) % classes
    (name,) = feeds
    values = feeds[name].copy()
    values[labels == 1] += 0.5
    values[labels == 2] *= 1.5
    return {name: values, "labels": labels}


def tuned(model, adapter="scaled", **options):
    given = {"case": "large-similar", "epochs": 2, "device": "cpu", "lr": 0.05} | options
    return surgeon.finetune(model, data(model), adapter=adapter, **given)


def arrays(proto):
    return {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}


def test_adapted_weights_and_the_head_alone_change_and_the_graph_stays(mine):
    model = nw.convnet()
    operated = surgeon.operate(model, "large-similar", 3, adapter="scaled")
    outcome = tuned(model)
    plan, before = outcome.document()["plan"], arrays(operated.proto)
    after = arrays(outcome.model.proto)
    assert plan["adapter"] == "scaled"
    assert plan["trainable"] == operated.trainable == outcome.model.trainable
    head = set(operated.plan.head.weights)
    adapted = set(operated.trainable) - head
    assert adapted
    assert all(before[name].ndim >= 2 for name in adapted)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed & adapted
    assert changed <= adapted | head
    assert list(outcome.model.proto.graph.node) == list(operated.proto.graph.node)
    for name in adapted & changed:  # one factor per output, and no more
        ratio = (after[name] / before[name]).reshape(len(before[name]), -1)
        np.testing.assert_allclose(ratio, ratio[:, :1] * np.ones_like(ratio), rtol=1e-4)
    numbers = sum(len(before[name]) for name in adapted) + sum(before[name].size for name in head)
    assert outcome.document()["trained_parameters"] == numbers


@pytest.mark.parametrize(("adapter", "given", "rate"), [
    ("scaled", None, 3e-4), ("quick", None, 0.02), ("quick", 0.1, 0.1),
])  # fmt: skip
def test_an_adapter_names_a_rate_that_holds_where_people_name_none(mine, adapter, given, rate):
    told = tuned(nw.convnet(), adapter, lr=given, epochs=1).document()
    assert max(block["lr"] or 0 for block in told["blocks"]) == pytest.approx(rate)
    assert max(row["lr"] or 0 for row in told["history"]) <= rate


def test_targets_are_names_of_weights_or_of_their_nodes(mine):
    model = nw.convnet()
    known = surgeon.load(model)
    every = adaptable(known.proto, known.parameters(), ())
    chosen = every[0]
    for pattern in (chosen.name, chosen.nodes[0], f"nothing|{chosen.name[:-1]}?"):
        operated = surgeon.operate(model, "large-similar", 3, adapter=f"scaled:targets={pattern}")
        assert set(operated.trainable) - set(operated.plan.head.weights) == {chosen.name}
    with pytest.raises(UsageError, match="no weight") as caught:
        surgeon.operate(model, "large-similar", 3, adapter="scaled:targets=nothing*")
    assert chosen.name in caught.value.remedy
    assert chosen.nodes[0] in caught.value.remedy


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"case": "small-similar"}, "head alone"),
        ({"init": "random"}, "pretrained"),
        ({"init": "race"}, "pretrained"),
        ({"adapter": "scaled:start=big"}, "start"),
        ({"adapter": "scaled:more=1"}, "more"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_training(mine, options, said):
    with pytest.raises(UsageError, match=said) as caught:
        tuned(nw.mlp(), **options)
    assert caught.value.remedy


def test_an_unknown_adapter_names_the_nearest(mine):
    with pytest.raises(UnknownNameError, match="scale") as caught:
        tuned(nw.mlp(), adapter="scale")
    assert "scaled" in caught.value.remedy


@pytest.mark.parametrize(
    "adapter",
    ["function", *(f"wrong:how={how}" for how in ("raises", "shape", "nan", "dtype", "no"))],
)
def test_a_code_that_misbehaves_is_one_error_that_names_whose_it_is(mine, adapter):
    with pytest.raises(PluginError, match=r"their-dist 2\.5") as caught:
        tuned(nw.mlp(), adapter=adapter)
    assert adapter.partition(":")[0] in caught.value.message
    assert caught.value.remedy


def test_a_tuned_file_goes_on_with_its_adapter_or_with_none(mine):
    model = nw.mlp()
    first = tuned(model)
    again = surgeon.finetune(first.model, data(model), epochs=1, device="cpu")
    assert again.document()["plan"]["adapter"] == "scaled"
    none = surgeon.finetune(first.model, data(model), epochs=1, device="cpu", adapter="none")
    assert none.document()["plan"]["adapter"] is None
    assert none.document()["trained_parameters"] > again.document()["trained_parameters"]


def test_the_same_seed_gives_the_same_bits_and_a_broken_run_goes_on(mine, tmp_path):
    model = nw.mlp()
    one, two = tuned(model), tuned(model)
    assert one.model.proto == two.model.proto
