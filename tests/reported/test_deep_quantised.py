"""Deep networks of dynamic quantisation: every step is judged from ONNX Runtime's own integers."""

from __future__ import annotations

import networks as nw
import numpy as np
import pytest
import torch
from onnx import TensorProto, numpy_helper

import surgeon
from surgeon.graph.weights import roles
from surgeon.torch_graph.module import to_module
from surgeon.torch_graph.stepwise import compare, quantised_values


def deep(depth, width=6, side=6):
    net = nw.Net()
    random = np.random.default_rng(0)
    x, into = net.input("x", ["N", 3, side, side]), 3
    for step in range(depth):
        kernel = random.standard_normal((width, into, 3, 3)) * 1.4 / np.sqrt(into * 9)
        scale = np.float32(np.abs(kernel).max() / 127)
        for name, value in (("w", np.round(kernel / scale).astype(np.int8)), ("s", scale),
                            ("z", np.int8(0))):  # fmt: skip
            net.weights.append(numpy_helper.from_array(value, f"{name}{step}"))
        q = net.node("DynamicQuantizeLinear", x, out=[f"q{step}", f"qs{step}", f"qz{step}"])
        y = net.node("ConvInteger", q[0], f"w{step}", q[2], f"z{step}", pads=[1, 1, 1, 1])
        y = net.node(
            "Mul", net.node("Cast", y, to=TensorProto.FLOAT), net.node("Mul", q[1], f"s{step}")
        )
        x, into = (
            net.node("Relu", net.node("Add", y, net.weight(f"b{step}", 1, width, 1, 1))),
            width,
        )
    f = net.node("Flatten", net.node("GlobalAveragePool", x), out="f")
    net.node("MatMul", f, net.weight("v", width, 4), out="y")
    return net.model("y", shape=["N", 4])


def judge(model, changed):
    random = np.random.default_rng(1)
    feeds = [{"x": random.standard_normal((1, 3, 6, 6)).astype(np.float32)} for _ in range(2)]
    return compare(
        model, to_module(changed, roles=roles(changed)), quantised_values(model), feeds,
        as_tensor=lambda values: torch.from_numpy(np.array(values)),
    )  # fmt: skip


def test_every_step_of_a_deep_network_is_right():
    model = deep(119)
    found = judge(model, model)
    assert found.rounds_alike
    assert found.relative < 1e-4
    assert found.values > 119 * 2 * 36


def test_one_wrong_step_of_many_shows():
    model, wrong = deep(40), deep(40)
    bias = next(t for t in wrong.graph.initializer if t.name == "b20")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.05), "b20"))
    found = judge(model, wrong)
    assert not (found.rounds_alike and found.relative < 1e-4)


@pytest.mark.slow
def test_a_deep_network_is_tuned(tmp_path):
    random = np.random.default_rng(2)
    x = random.standard_normal((24, 3, 6, 6)).astype(np.float32)
    x[::2] += 1
    data = {"x": x, "labels": np.array(["a", "b"] * 12)}
    for case in ("small-similar", "large-similar"):
        out = tmp_path / f"{case}.onnx"
        done = surgeon.finetune(deep(119), data, out, case=case, epochs=1, device="cpu", threads=1)
        assert done.document()["frontier"]["one_by_one"]
        assert surgeon.verify(out).passed
