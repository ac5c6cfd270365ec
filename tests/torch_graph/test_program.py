"""The program: constants early, shape arithmetic on the host, control flow, function bodies."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from surgeon.errors import ModelError
from surgeon.torch_graph.build import build
from surgeon.torch_graph.coverage import unsupported
from surgeon.torch_graph.module import to_module
from surgeon.torch_graph.program import names_of


def model_of(
    nodes: str, inputs: str, outputs: str, opset: int = 17, **values: np.ndarray
) -> onnx.ModelProto:
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {{ {nodes} }}'
    )
    model = onnx.parser.parse_model(text)
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


FLATTENING = """
    s = Shape(x)
    zero = Constant<value_ints = [0]>()
    first = Gather(s, zero)
    minus = Constant<value_ints = [-1]>()
    wanted = Concat<axis = 0>(first, minus)
    y = Reshape(x, wanted)
"""


def test_shape_arithmetic_stays_on_the_host() -> None:
    module = to_module(model_of(FLATTENING, "float[n, 3, 4] x", "float[n, 12] y"), roles={})
    compiled = torch.compile(module, fullgraph=True, backend="eager", dynamic=True)
    for batch in (2, 5):
        example = torch.randn(batch, 3, 4)
        assert torch.equal(compiled(example), example.reshape(batch, 12))


def test_constants_are_computed_once() -> None:
    model = model_of(
        "a = Constant<value_floats = [1.0, 2.0]>() b = Exp(a) y = Add(x, b)",
        "float[2] x",
        "float[2] y",
    )
    program = build(model, {})
    assert names_of(program.steps) == ["ai.onnx Add-14"]
    (constant,) = program.constants.values()
    assert torch.allclose(constant, torch.tensor([1.0, 2.0]).exp())


def test_parameters_are_never_folded() -> None:
    model = model_of("b = Exp(w) y = Add(x, b)", "float[2] x", "float[2] y", w=np.ones(2, "f"))
    assert len(build(model, {"w": "parameter"}).steps) == 2
    assert len(build(model, {"w": "setting"}).steps) == 1


def test_values_are_freed_after_their_last_use() -> None:
    model = model_of("a = Exp(x) b = Exp(a) y = Add(b, b)", "float[2] x", "float[2] y")
    assert [step.frees for step in build(model, {}).steps] == [("x",), ("a",), ("b",)]


def test_a_branch_captures_values_around_it() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (bool c, float[2] x) => (float[2] y)
    <float[2] w = {1.0, 2.0}>
    {
        h = Exp(x)
        y = If (c) <
            then_branch = t () => (float[2] a) { k = Constant<value_float = 3.0>() p = Mul(h, w) a = Add(p, k) },
            else_branch = e () => (float[2] b) { k = Constant<value_float = 5.0>() b = Sub(h, k) }
        >
    }"""  # noqa: E501 - a graph in ONNX's own text form
    module = to_module(onnx.parser.parse_model(text), roles={"w": "parameter"})
    x = torch.tensor([0.5, -0.5])
    w = torch.tensor([1.0, 2.0])
    assert torch.allclose(module(torch.tensor(True), x), x.exp() * w + 3)
    assert torch.allclose(module(torch.tensor(False), x), x.exp() - 5)
    module(torch.tensor(True), x).sum().backward()
    assert next(module.parameters()).grad is not None


def test_a_loop_carries_and_collects() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["carried", "step"], ["next"]),
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Mul", ["next", "next"], ["collected"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [1]),
            helper.make_tensor_value_info("collected", TensorProto.FLOAT, [1]),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["count", "", "start"], ["end", "all"], "loop", body=body)],
        "g",
        [helper.make_tensor_value_info("start", TensorProto.FLOAT, [1])],
        [
            helper.make_tensor_value_info("end", TensorProto.FLOAT, [1]),
            helper.make_tensor_value_info("all", TensorProto.FLOAT, ["n", 1]),
        ],
        [
            numpy_helper.from_array(np.array(3, np.int64), "count"),
            numpy_helper.from_array(np.array([2.0], np.float32), "step"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    end, collected = to_module(model, roles={"step": "parameter"})(torch.zeros(1))
    assert end.item() == 6
    assert collected.flatten().tolist() == [4, 16, 36]


def test_an_operator_falls_back_on_its_own_definition() -> None:
    model = model_of("y = HannWindow(n)", "int64 n", "float[k] y")
    found = to_module(model, roles={})(torch.tensor(8))
    assert torch.allclose(found, torch.hann_window(8), atol=1e-6)


def test_local_functions_are_inlined() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    g (float[2] x) => (float[2] y) { y = local.twice(x) }
    <domain: "local", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }"""
    module = to_module(onnx.parser.parse_model(text), roles={})
    assert module(torch.ones(2)).tolist() == [2, 2]


def test_a_value_nobody_makes_is_an_error_with_its_node() -> None:
    model = model_of("y = Add(x, x)", "float[2] x", "float[2] y")
    model.graph.node[0].input[1] = "nowhere"
    with pytest.raises(ModelError, match="'nowhere' is read, but nothing makes it"):
        build(model, {})


def test_an_attribute_out_of_place_is_an_error() -> None:
    model = model_of("y = Relu(x)", "float[2] x", "float[2] y")
    model.graph.node[0].attribute.append(helper.make_attribute("slope", 0.5))
    with pytest.raises(ModelError, match="slope"):
        build(model, {})


def test_gradients_pass_straight_through_quantisation() -> None:
    model = model_of(
        """q = QuantizeLinear(w, scale, zero)
           d = DequantizeLinear(q, scale, zero)
           y = Mul(x, d)""",
        "float[3] x",
        "float[3] y",
        w=np.array([0.26, -0.1, 500.0], np.float32),
        scale=np.array(0.1, np.float32),
        zero=np.array(0, np.int8),
    )
    roles = {"w": "parameter", "scale": "setting"}
    module = to_module(model, roles=roles)
    y = module(torch.ones(3))
    assert torch.allclose(y.detach(), torch.tensor([0.3, -0.1, 12.7]))
    y.sum().backward()
    assert next(module.parameters()).grad.tolist() == [1, 1, 0]  # what saturated does not learn


def test_everything_unsupported_is_listed_at_once() -> None:
    model = model_of("a = Relu(x) y = Add(a, x)", "float[2] x", "float[2] y")
    assert unsupported(model) == []
    for node in model.graph.node:
        node.domain = "org.example"
    first, second = unsupported(model)
    assert "org.example Relu" in first.message
    assert "org.example Add" in second.message
    assert "'y'" in (second.where or "")
