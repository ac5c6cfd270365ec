"""The scheme of a start from scratch: fan-in of every layout, constant of every slot."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from surgeon.graph.initialization import EMBEDDING_STD, scheme


def graph(nodes, weights, opset=17):
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [
                numpy_helper.from_array(
                    value if isinstance(value, np.ndarray) else np.ones(value, np.float32), name
                )
                for name, value in weights.items()
            ],
        ),
        opset_imports=[
            helper.make_opsetid("", opset),
            helper.make_opsetid("com.microsoft", 1),
        ],
    )


def rule_of(operator, inputs, shape, *, after=None, **attributes):
    node = helper.make_node(operator, inputs, ["m"], **attributes)
    end = helper.make_node(after or "Identity", ["m"], ["y"])
    return scheme(graph([node, end], {"w": shape}))["w"]


@pytest.mark.parametrize(
    ("operator", "inputs", "shape", "attributes", "fan"),
    [
        ("Conv", ["x", "w"], (8, 3, 5, 5), {}, 75),
        ("Conv", ["x", "w"], (8, 1, 3, 3), {"group": 8}, 9),
        ("ConvTranspose", ["x", "w"], (6, 4, 4, 4), {"strides": [2, 2]}, 24),
        ("ConvTranspose", ["x", "w"], (6, 2, 3, 3), {"group": 2}, 27),
        ("Gemm", ["x", "w"], (7, 5), {}, 7),
        ("Gemm", ["x", "w"], (7, 5), {"transB": 1}, 5),
        ("Gemm", ["w", "x"], (7, 5), {}, 5),
        ("Gemm", ["w", "x"], (7, 5), {"transA": 1}, 7),
        ("MatMul", ["x", "w"], (7, 5), {}, 7),
        ("MatMul", ["x", "w"], (2, 7, 5), {}, 7),
        ("MatMul", ["w", "x"], (7, 5), {}, 5),
        ("MatMul", ["x", "w"], (7,), {}, 7),
    ],
)
def test_fan_in(operator, inputs, shape, attributes, fan):
    plain = rule_of(operator, inputs, shape, **attributes)
    assert plain.draw == "normal"
    assert plain.scaled
    assert plain.std == pytest.approx(1 / math.sqrt(fan))
    rectified = rule_of(operator, inputs, shape, after="Relu", **attributes)
    assert rectified.std == pytest.approx(math.sqrt(2 / fan))


def test_a_rectifier_behind_bias_and_normalization_counts():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("BatchNormalization", ["a", "s", "b", "m", "v"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    weights = {"w": (4, 2, 3, 3), **dict.fromkeys("sbmv", (4,))}
    rules = scheme(graph(nodes, weights))
    assert rules["w"].std == pytest.approx(math.sqrt(2 / 18))
    assert [rules[name].value for name in "sbmv"] == [1, 0, 0, 1]
    assert all(rules[name].draw == "constant" for name in "sbmv")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Gelu", ["c"], ["y"], domain="com.microsoft"),
    ]
    rules = scheme(graph(nodes, {"w": (8, 4), "b": (4,)}))
    assert rules["w"].std == pytest.approx(math.sqrt(2 / 8))
    assert (rules["b"].draw, rules["b"].value) == ("constant", 0)


def test_views_are_followed():
    transposed = graph(
        [
            helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "t"], ["y"]),
        ],
        {"w": (5, 7)},
    )
    assert scheme(transposed)["w"].std == pytest.approx(1 / math.sqrt(7))
    reshaped = graph(
        [
            helper.make_node("Reshape", ["w", "s"], ["t"]),
            helper.make_node("Conv", ["x", "t"], ["y"]),
        ],
        {"w": (36,), "s": np.array([2, 2, 3, -1])},
    )
    rule = scheme(reshaped)["w"]
    assert rule.operator == "Conv"
    assert rule.std == pytest.approx(1 / math.sqrt(18))


@pytest.mark.parametrize(
    ("operator", "inputs", "shape", "domain", "value"),
    [
        ("Mul", ["x", "w"], (6, 1, 1), "", 1),
        ("Div", ["x", "w"], (6,), "", 1),
        ("Add", ["w", "x"], (6,), "", 0),
        ("Sub", ["x", "w"], (1, 6, 1, 1), "", 0),
        ("PRelu", ["x", "w"], (6, 1, 1), "", 0.25),
        ("LayerNormalization", ["x", "w"], (6,), "", 1),
        ("LayerNormalization", ["x", "x", "w"], (6,), "", 0),
        ("SkipLayerNormalization", ["x", "x", "w"], (6,), "com.microsoft", 1),
        ("Gemm", ["x", "x", "w"], (6,), "", 0),
    ],
)
def test_constants(operator, inputs, shape, domain, value):
    rule = rule_of(operator, inputs, shape, domain=domain)
    assert (rule.draw, rule.value) == ("constant", value)


def test_embeddings_positions_and_tokens():
    assert rule_of("Gather", ["w", "x"], (100, 8)).std == EMBEDDING_STD
    assert rule_of("Add", ["x", "w"], (1, 197, 8)).std == EMBEDDING_STD
    assert rule_of("Concat", ["w", "x"], (1, 1, 8), axis=1).std == EMBEDDING_STD


def test_scalars_and_settings_are_kept():
    assert rule_of("Mul", ["x", "w"], ()).draw == "keep"
    assert rule_of("Clip", ["x", "w"], (1,)).draw == "keep"
    assert rule_of("Pow", ["x", "w"], (3,)).draw == "keep"
    unused = graph([helper.make_node("Identity", ["x"], ["y"])], {"w": (3, 3)})
    assert scheme(unused)["w"].draw == "keep"


def test_recurrent():
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "b", "", "h", "c", "p"], ["y"], hidden_size=4)
    ]
    weights = {
        "w": (1, 16, 9), "r": (1, 16, 4), "b": (1, 32),
        "h": (1, 1, 4), "c": (1, 1, 4), "p": (1, 12),
    }  # fmt: skip
    rules = scheme(graph(nodes, weights))
    assert rules["w"].std == pytest.approx(1 / 3)
    assert (rules["r"].draw, rules["r"].gates) == ("orthogonal", 4)
    assert rules["b"].draw == "forget"
    assert all((rules[n].draw, rules[n].value) == ("constant", 0) for n in "hcp")
    gru = scheme(
        graph(
            [helper.make_node("GRU", ["x", "w", "r", "b"], ["y"], hidden_size=4)],
            {"w": (1, 12, 9), "r": (1, 12, 4), "b": (1, 24)},
        )
    )
    assert (gru["r"].draw, gru["r"].gates) == ("orthogonal", 3)
    assert (gru["b"].draw, gru["b"].value) == ("constant", 0)


def test_attention_is_glorot():
    rule = rule_of("Attention", ["x", "w"], (64, 192), domain="com.microsoft", num_heads=4)
    assert rule.std == pytest.approx(math.sqrt(2 / 128))


def test_weights_in_subgraphs_are_found():
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["out"])],
        "branch",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)
    model = graph([node], {"w": (7, 5), "flag": np.array(True)})
    assert scheme(model)["w"].std == pytest.approx(1 / math.sqrt(7))
