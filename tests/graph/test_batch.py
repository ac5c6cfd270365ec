"""Fixed batches freed in every form exporters write them, proven by running both graphs."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest

import surgeon
from surgeon.graph.batch import free_batch, free_batch_stepwise


def attention():
    """One sample of attention, its batch folded into the heads by Reshape targets."""
    net = nw.Net()
    steps, wide, heads = 5, 8, 2
    x = net.input("x", [1, steps, 4])
    x = net.node("MatMul", x, net.weight("in", 4, wide), out="projected")
    x = net.node("Transpose", x, perm=[1, 0, 2], out="turned")
    parts = []
    for part in "qkv":
        y = net.node("MatMul", x, net.weight(part, wide, wide))
        y = net.node("Reshape", y, net.ints(f"{part}.heads", steps, heads, wide // heads))
        parts.append(net.node("Transpose", y, perm=[1, 0, 2]))
    scores = net.node("MatMul", parts[0], net.node("Transpose", parts[1], perm=[0, 2, 1]))
    y = net.node("MatMul", net.node("Softmax", scores, axis=-1), parts[2])
    y = net.node("Transpose", y, perm=[1, 0, 2])
    y = net.node("Reshape", y, net.ints("rows", steps, wide), out="rows_out")
    y = net.node("Gemm", y, net.weight("out", wide, wide))
    y = net.node("Reshape", y, net.ints("back", steps, 1, wide), out="mixed")
    y = net.node("Transpose", y, perm=[1, 0, 2])
    y = net.node("Add", y, "projected", out="block")
    y = net.node("ReduceMean", y, axes=[1], keepdims=0, out="pooled")
    net.node("Gemm", y, net.weight("fc", wide, 3), out="y")
    return net.model("y", shape=[1, 3])


def class_token(batch=1):
    """A class token as a constant of one sample, concatenated in front of the patches."""
    net = nw.Net()
    x = net.input("x", [batch, 3, 8, 8])
    x = nw.conv(net, x, "patch", 8, 3, kernel=4, strides=[4, 4], pads=[0] * 4)
    x = net.node("Reshape", x, net.ints("flat", batch, 8, 4))
    x = net.node("Transpose", x, perm=[0, 2, 1])
    x = net.node("Concat", net.weight("token", batch, 1, 8), x, axis=1, out="tokens")
    x = net.node("Add", x, net.weight("position", 1, 5, 8), out="embedded")
    x = net.node("Gather", x, net.weight_int("first", 0), axis=1, out="first_token")
    net.node("Gemm", x, net.weight("fc", 8, 3), out="y")
    return net.model("y", shape=[batch, 3])


def recurrent_state():
    """The zero state of an LSTM as a constant of one sample."""
    model = nw.lstm(batch=1, length=5)
    node = next(n for n in model.graph.node if n.op_type == "LSTM")
    for name in ("h0", "c0"):
        tensor = onnx.numpy_helper.from_array(np.full((1, 1, 4), 0.5, np.float32), name)
        model.graph.initializer.append(tensor)
    node.input.extend(["", "h0", "c0"])
    return model


@pytest.mark.parametrize("build", [attention, class_token, recurrent_state, nw.shuffle])
def test_freed_graphs_compute_sample_by_sample(build):
    model = build()
    loaded = surgeon.load(model)
    assert "proven" in loaded.batch_note
    patient = surgeon.operate(loaded, case="small-similar", classes=4)
    onnx.checker.check_model(patient.proto, full_check=True)
    cut = patient.plan.cut
    (info,) = loaded.inputs
    samples = [nw.feeds(model, seed=seed)[info.name] for seed in range(5)]
    joint = nw.run(
        nw.with_outputs(patient.proto, cut), {info.name: np.concatenate(samples, info.batch_axis)}
    )
    assert joint["logits"].shape == (5, 4)
    original = nw.with_outputs(model, cut)
    apart = [nw.run(original, {info.name: sample})[cut] for sample in samples]
    np.testing.assert_allclose(joint[cut], np.concatenate(apart), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", [attention, class_token, recurrent_state])
def test_freed_graphs_are_tuned_and_verified(build):
    model = build()
    (info,) = surgeon.load(model).inputs
    shape = [24 if axis == info.batch_axis else dim for axis, dim in enumerate(info.shape)]
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    data = {info.name: values, "labels": np.arange(24) % 3}
    for case in ("small-similar", "large-similar"):
        outcome = surgeon.finetune(model, data, case=case, epochs=1, device="cpu")
        verdict = surgeon.verify(outcome.model.proto, source=model)
        assert verdict.passed, [check for check in verdict.checks if not check.passed]


def test_a_free_batch_is_left_alone():
    assert free_batch(nw.mlp()) is None
    assert free_batch_stepwise(nw.mlp()) is None
    assert surgeon.load(nw.mlp()).batch_note is None


def test_the_source_is_not_changed_by_the_attempt():
    model = class_token()
    content = model.SerializeToString()
    free_batch(model)
    free_batch_stepwise(model)
    assert model.SerializeToString() == content


def test_a_target_two_nodes_share_is_freed_for_the_data_only():
    net = nw.Net()
    x = net.input("x", [1, 4, 3])
    target = net.ints("target", 1, 12)
    flat = net.node("Reshape", x, target)
    weight = net.node("Reshape", net.weight("w", 4, 3), target, out="row")
    x = net.node("Add", flat, weight, out="features")
    net.node("Gemm", x, net.weight("fc", 12, 3), out="y")
    patient = surgeon.operate(net.model("y", shape=[1, 3]), case="small-similar", classes=2)
    assert nw.run(patient.proto, {"x": np.ones((5, 4, 3), np.float32)})["logits"].shape == (5, 2)


def test_windows_of_six_axes_are_pooled_without_a_pooling_kernel():
    net = nw.Net()
    x = net.input("x", ["N", 8, 8, 3])
    x = net.node("MatMul", x, net.weight("w", 3, 6), out="wide")
    x = net.node("Reshape", x, net.ints("split", 0, 2, 4, 2, 4, 6), out="windows")
    x = net.node("ReduceMean", x, axes=[1, 2, 3, 4], keepdims=0)
    net.node("Gemm", x, net.weight("fc", 6, 3), out="y")
    patient = surgeon.operate(net.model("y"), case="small-similar", classes=2, cut="windows")
    values = nw.run(nw.with_outputs(patient.proto, "windows"), nw.feeds(patient.proto))
    head = {t.name: t for t in patient.proto.graph.initializer}["surgeon.head.weight"]
    weight = onnx.numpy_helper.to_array(head)
    assert weight.shape == (2, 6)
    wanted = values["windows"].mean((1, 2, 3, 4)) @ weight.T
    np.testing.assert_allclose(values["logits"], wanted, rtol=1e-4, atol=1e-5)
