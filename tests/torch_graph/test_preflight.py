"""Everything that will not convert, at once, and only where it would have to."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, parser

from surgeon.torch_graph.preflight import examine


def model_of(nodes: str, functions: str = "", **weights: np.ndarray) -> onnx.ModelProto:
    opsets = '"" : 17, "org.example" : 1, "local" : 1'
    model = parser.parse_model(
        f"<ir_version: 8, opset_import: [{opsets}]> g (float[n, 2] x) => (float[n, 2] y)"
        f" {{ {nodes} }} {functions}"
    )
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(value.astype("f"), name))
    return model


def found(model: onnx.ModelProto, trainable=None, **roles: str) -> list[tuple[str, str | None]]:
    roles = roles or {t.name: "parameter" for t in model.graph.initializer}
    return [(f.kind, f.operator) for f in examine(model, trainable, roles) if f.level == "error"]


W = np.ones(2)


def test_all_strangers_at_once_in_branches_too() -> None:
    model = model_of(
        "a = Mul (x, w) b = org.example.Thing (a) c = ReduceSum <keepdims = 0> (b)"
        " d = Cast <to = 9> (c) y = If (d) <then_branch = t () => (float[n, 2] p)"
        " { p = org.example.Other (a) }, else_branch = e () => (float[n, 2] q) { q = Neg (a) }>",
        w=W,
    )
    assert found(model) == [("unsupported-operator", "Thing"), ("unsupported-operator", "Other")]


def test_in_front_of_the_first_trained_weight_nothing_matters() -> None:
    model = model_of("a = org.example.Thing (x) b = Mul (a, w) y = Add (b, v)", w=W, v=W)
    assert found(model) == []
    behind = model_of("a = Mul (x, w) b = org.example.Thing (a) y = Add (b, v)", w=W, v=W)
    assert found(behind) == [("unsupported-operator", "Thing")]
    assert found(behind, trainable=["v"]) == []


def test_in_a_local_function() -> None:
    model = model_of(
        "a = Mul (x, w) b = local.Twice (a) y = local.Twice (b)",
        '<domain: "local", opset_import: ["" : 17, "org.example" : 1]>'
        " Twice (s) => (r) { r = org.example.Thing (s) }",
        w=W,
    )
    assert found(model) == [("unsupported-operator", "Thing")]


def test_an_attribute_that_the_version_lacks_is_found() -> None:
    model = model_of("y = Mul <broadcast = 1> (x, w)", w=W)
    assert found(model) == [("unsupported", None)]
    (finding,) = [f for f in examine(model, None, {"w": "parameter"}) if f.level == "error"]
    assert "broadcast" in finding.message
