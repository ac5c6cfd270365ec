"""int8 weights whose products ONNX Runtime cuts off on processors without VNNI."""

from __future__ import annotations

import networks as nw
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import surgeon
from surgeon.errors import UnsupportedError
from surgeon.runtime.saturation import saturates, saturating

STEPS, WIDTH, HIDDEN = 3, 8, 12


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))


def network(largest):
    """A quantised LSTM between two products of floats; its weights are ± `largest`."""
    random = np.random.default_rng(0)
    net = nw.Net()

    def stored(name, values):
        net.weights.append(numpy_helper.from_array(values, name))
        return name

    def whole(name, *shape):
        return stored(name, random.choice([-largest, largest, largest], shape).astype(np.int8))

    h = net.node("Relu", net.node("MatMul", net.input("x", ["N", STEPS, WIDTH]),
                                  net.weight("w", WIDTH, WIDTH)))  # fmt: skip
    h = net.node("Transpose", h, perm=[1, 0, 2])
    scale = net.weight("scale", values=np.array([0.1 / largest], "f"))
    zero = stored("zero", np.zeros(1, np.int8))
    weights = [whole("W", 1, WIDTH, 4 * HIDDEN), whole("R", 1, HIDDEN, 4 * HIDDEN)]
    net.nodes.append(
        helper.make_node(
            "DynamicQuantizeLSTM",
            [h, *weights, "", "", "", "", "", scale, zero, scale, zero],
            ["", "last"],
            name="memory",
            domain="com.microsoft",
            hidden_size=HIDDEN,
        )
    )
    h = net.node("Squeeze", "last", net.ints("axes", 0))
    net.node("Gemm", h, net.weight("v", 3, HIDDEN), net.weight("b", 3), out="y", transB=1)
    return net.model("y", shape=["N", 3])


def data():
    random = np.random.default_rng(1)
    labels = np.arange(30) % 3
    centres = random.standard_normal((3, STEPS, WIDTH))
    x = centres[labels] + 0.5 * random.standard_normal((30, STEPS, WIDTH))
    return {"x": x.astype("f"), "labels": labels}


def tune(model, case):
    return surgeon.finetune(model, data(), case=case, epochs=1, device="cpu", threads=1)


def test_an_lstm_of_seven_bits_learns_what_the_runtime_computes():
    outcome = tune(network(60), "large-similar")
    assert "w" in outcome.document()["trainable"]
    assert outcome.proof["parity"]["max_relative"] < 1e-4


def test_an_lstm_of_eight_bits_is_trained_where_it_is_computed_exactly():
    model = network(127)
    if not saturates():
        assert tune(model, "large-similar").proof["parity"]["max_relative"] < 1e-4
        return
    with pytest.raises(UnsupportedError, match="VNNI") as caught:
        tune(model, "large-similar")
    assert "memory" in caught.value.where
    assert "reduce_range" in caught.value.remedy


def test_a_head_behind_it_is_always_solved():
    assert tune(network(127), "small-similar").proof["parity"]["max_relative"] < 1e-4


@pytest.mark.parametrize(
    ("largest", "operator", "named"),
    [(64, "MatMulInteger", 0), (65, "MatMulInteger", 1), (127, "DequantizeLinear", 0)],
)
def test_which_nodes_are_named(largest, operator, named, monkeypatch):
    monkeypatch.setattr("surgeon.runtime.saturation.saturates", lambda: True)
    weight = numpy_helper.from_array(np.full((2, 2), -largest, np.int8), "w")
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 2])],
        [weight],
    )
    assert len(saturating(helper.make_model(graph))) == named
