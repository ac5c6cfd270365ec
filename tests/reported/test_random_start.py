"""Random weights asked for by name are what is delivered, and `changed` is what changed."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import surgeon
from surgeon.job import tuning


def data(n=60, width=8):
    random = np.random.default_rng(3)
    x = random.standard_normal((n, width)).astype(np.float32)
    return {"x": x, "labels": np.array([f"c{code}" for code in np.arange(n) % 3])}


def weights(proto):
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def feed(model):
    shape = surgeon.load(model).inputs[0].shape
    return data(width=int(np.prod(shape[1:])))


@pytest.mark.parametrize("led_nowhere", [True, False])
@pytest.mark.parametrize("case", ["large-similar", "large-different"])
def test_random_weights_that_were_asked_for_are_delivered(case, led_nowhere, tmp_path, monkeypatch):
    if led_nowhere:
        real = tuning.fit

        def fit(*arguments, **options):
            from dataclasses import replace

            return replace(real(*arguments, **options), improved=False)

        monkeypatch.setattr(tuning, "fit", fit)
    model, out = nw.mlp(), tmp_path / "o.onnx"
    given = feed(model)
    name = surgeon.load(model).inputs[0].name
    given[name] = given.pop("x")
    done = surgeon.finetune(
        model, given, out, case=case, init="random", epochs=2, device="cpu", threads=1
    )
    assert done.delivered == ("start" if led_nowhere else "tuned")
    assert done.model.plan.init == "random"
    source, written = weights(model), weights(onnx.load(out))
    operated = weights(surgeon.operate(model, case=case, classes=3, init="random", seed=0).proto)
    trained = [name for name in done.document()["trainable"] if name in source]
    assert any("w" in name for name in trained)
    for weight in trained:
        if source[weight].ndim > 1:  # biases start at zero, as they may in the source
            assert not np.array_equal(source[weight], written[weight])
    told = set(done.document()["changed"])
    assert told == {n for n in written if not np.array_equal(operated[n], written[n])}
    if led_nowhere:
        assert not told
    assert surgeon.verify(out).passed


def test_a_race_whose_probe_is_delivered_says_pretrained(tmp_path, monkeypatch):
    """The file says where its weights come from: here from the source."""
    monkeypatch.setattr("surgeon.probe.guard.Comparison.better", property(lambda _: False))
    model = nw.mlp()
    given = feed(model)
    given[surgeon.load(model).inputs[0].name] = given.pop("x")
    done = surgeon.finetune(
        model, given, case="large-different", init="race", epochs=2, device="cpu", threads=1
    )
    assert done.delivered == "probe"
    assert done.model.plan.init == "pretrained"
    source, delivered = weights(model), weights(done.model.proto)
    assert set(done.document()["changed"]) == {"surgeon.head.weight", "surgeon.head.bias"}
    assert all(np.array_equal(source[n], delivered[n]) for n in source if n in delivered)
