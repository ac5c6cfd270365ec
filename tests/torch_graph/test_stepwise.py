"""Quantised features are compared one quantisation at a time: ties pass, other numbers do not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser

from surgeon.graph.weights import roles
from surgeon.torch_graph.module import to_module
from surgeon.torch_graph.stepwise import Agreement, compare, quantised_values


def network():
    """Two layers, each followed by a quantisation."""
    random = np.random.default_rng(0)
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21]> g (float[n, 8] x) => (float[n, 4] y) {
        a = MatMul(x, w) q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, z)
        b = MatMul(d, v) p = QuantizeLinear(b, s, z) e = DequantizeLinear(p, s, z)
        y = MatMul(e, u) }"""
    )
    weights = {name: random.standard_normal(shape).astype(np.float32) for name, shape in
               {"w": (8, 16), "v": (16, 16), "u": (16, 4)}.items()}  # fmt: skip
    weights |= {"s": np.float32(0.1), "z": np.int8(3)}
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def judge(model, changed=None):
    """Compare ONNX Runtime on a model with torch on it, or on a changed one."""
    graph = changed or model
    feeds = [{"x": np.random.default_rng(n).standard_normal((4, 8), np.float32)} for n in (1, 2)]
    return compare(
        model, to_module(graph, roles=roles(graph)), quantised_values(graph), feeds,
        as_tensor=torch.from_numpy,
    )  # fmt: skip


def moved(model, name, by):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor) + np.float32(by)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return copy


def test_the_same_graph_agrees_at_every_step():
    found = judge(network())
    assert found.rounds_alike
    assert found.values == 2 * 2 * 4 * 16
    assert found.relative < 1e-6


@pytest.mark.parametrize("name", ["w", "v"])
def test_another_weight_in_front_of_a_quantisation_shows_in_its_values(name):
    found = judge(network(), moved(network(), name, 0.05))
    assert found.differing > 20
    assert not found.rounds_alike
    assert found.relative < 1e-6  # what follows is judged from ONNX Runtime's own numbers


def test_another_weight_behind_the_last_one_shows_in_the_logits():
    found = judge(network(), moved(network(), "u", 0.05))
    assert found.rounds_alike
    assert found.relative > 1e-3


@pytest.mark.parametrize(
    ("values", "differing", "steps", "alike"),
    [(100, 0, 0, True), (100, 1, 1, True), (100, 2, 1, False), (10_000, 10, 1, True),
     (10_000, 11, 1, False), (10_000, 1, 2, False)],
)  # fmt: skip
def test_single_steps_in_few_places_are_ties(values, differing, steps, alike):
    assert Agreement(0.0, values, differing, steps, 0.0).rounds_alike is alike
