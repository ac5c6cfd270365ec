"""Heads of plugins, ours among them: built, trained, written and gone on with."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest
import two_layers
from onnx import numpy_helper

import surgeon
from surgeon.errors import UnknownNameError, UsageError
from surgeon.plugin.manager import load_plugins
from surgeon.records import HeadKind

NAMES = [f"surgeon.head.{place}.{what}" for place in (1, 2) for what in ("weight", "bias")]


@pytest.fixture
def plugins():
    found = load_plugins()
    found.manager.register(two_layers, name="two-layers")
    return found


@pytest.fixture(autouse=True)
def _no_options(monkeypatch):
    monkeypatch.setattr(two_layers, "OPTIONS", {})


def two_clouds(n=120, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    values = random.standard_normal((n, 8)) + 2.0 * labels[:, None]
    return {"x": values.astype(np.float32), "labels": labels}


def arrays(model):
    return {t.name: numpy_helper.to_array(t) for t in model.proto.graph.initializer}


def test_the_linear_head_is_offered_as_anyones():
    found = load_plugins(enabled=False).offer(HeadKind, "gemm")
    assert found.distribution == "onnx-surgeon"
    assert found.offer.solves
    operated = surgeon.operate(nw.mlp(), case="small-similar", classes=3, seed=5)
    held = arrays(operated)
    weight = held["surgeon.head.weight"]
    bound = 1 / np.sqrt(weight.shape[1])
    drawn = np.random.Generator(np.random.PCG64(5)).uniform(-bound, bound, weight.shape)
    np.testing.assert_array_equal(weight, drawn.astype(np.float32))
    assert not held["surgeon.head.bias"].any()
    assert operated.plan.head.weights == ("surgeon.head.weight", "surgeon.head.bias")


def test_a_head_of_a_plugin_is_built_where_the_plan_names_it(plugins, monkeypatch):
    monkeypatch.setattr(two_layers, "OPTIONS", {"hidden": 5})
    operated = surgeon.operate(nw.residual(), case="two-layers", classes=3, plugins=plugins)
    assert operated.trainable == NAMES == list(operated.plan.head.weights)
    held = arrays(operated)
    assert [held[name].shape for name in NAMES] == [
        (5, held[NAMES[0]].shape[1]),
        (5,),
        (3, 5),
        (3,),
    ]
    added = [n.op_type for n in operated.proto.graph.node if n.name.startswith("surgeon.head")]
    assert added[-3:] == ["Gemm", "Relu", "Gemm"]
    assert [value.name for value in operated.proto.graph.output] == ["logits"]
    onnx.checker.check_model(operated.proto, full_check=True)
    assert operated.plan.head.options == {"hidden": 5}
    assert [stage.method for stage in operated.plan.stages] == ["adamw"]


def test_names_that_are_taken_are_left_alone(plugins):
    model = nw.mlp()
    taken = model.graph.initializer[0].name
    for node in model.graph.node:
        node.input[:] = [NAMES[0] if name == taken else name for name in node.input]
    model.graph.initializer[0].name = NAMES[0]
    operated = surgeon.operate(model, case="two-layers", classes=2, plugins=plugins)
    assert operated.trainable == [f"{NAMES[0]}.2", *NAMES[1:]]


def test_it_is_trained_by_steps_proven_and_gone_on_with(plugins, tmp_path):
    data = two_clouds()
    outcome = surgeon.finetune(
        nw.mlp(), data, case="two-layers", epochs=8, lr=0.02, device="cpu", plugins=plugins
    )
    body = outcome.document()
    assert body["delivered"] == "tuned"
    assert set(body["changed"]) == set(NAMES)
    assert body["plan"]["head"]["kind"] == "two-layers"
    assert {row["stage"] for row in body["history"]} == {"head"}
    assert body["metrics"]["validation"]["accuracy"] > 0.9
    path = outcome.model.save(tmp_path / "tuned.onnx")
    assert surgeon.verify(path).passed
    model = surgeon.load(path)
    assert model.plan.head.weights == tuple(NAMES)
    again = surgeon.finetune(path, data, epochs=2, device="cpu")  # without the plugin
    assert set(again.document()["changed"]) <= set(NAMES)


def test_what_cannot_be_built_is_refused(plugins, monkeypatch):
    with pytest.raises(UnknownNameError, match="unheard-of"):
        surgeon.operate(nw.mlp(), case="unheard-of", classes=2, plugins=plugins)
    with pytest.raises(UsageError, match="one answer per place of length") as caught:
        surgeon.operate(nw.mlp(), case="per-token", classes=2, plugins=plugins)
    assert "gemm" in caught.value.remedy
    monkeypatch.setattr(two_layers, "OPTIONS", {"width": 3})
    with pytest.raises(UsageError, match="width") as caught:
        surgeon.operate(nw.mlp(), case="two-layers", classes=2, plugins=plugins)
    assert "hidden" in caught.value.remedy
