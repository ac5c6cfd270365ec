"""Quantised operators that learn: written as float ones between roundings, fused again."""

from __future__ import annotations

from collections import Counter

import networks as nw
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.quantization import QuantFormat
from quantised import digits, quantised_network

import surgeon
from surgeon_qat.operators import open_up

MICROSOFT = "com.microsoft"


def operators(model):
    return Counter(node.op_type for node in model.graph.node)


def arrays(model):
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    """Return the small network of QLinearConv and QGemm."""
    folder = tmp_path_factory.mktemp("operators")
    return quantised_network(folder, quant_format=QuantFormat.QOperator)


@pytest.fixture(scope="module")
def data():
    values, labels = digits(60)
    return {"x": values, "labels": labels}


@pytest.mark.parametrize("settings", ["qat", "qat:scales=learned"])
def test_weights_of_quantised_operators_learn_and_run_in_8_bits(
    quantised, data, settings, tmp_path
):
    assert operators(quantised)["QLinearConv"] == 2
    outcome = surgeon.finetune(
        quantised, data, case="large-similar", adapter=settings, epochs=1, lr=0.01, device="cpu",
    )  # fmt: skip
    document, tuned = outcome.document(), outcome.model.proto
    onnx.checker.check_model(tuned)
    trained = document["plan"]["trainable"]
    assert {"c1.weight_quantized", "c2.weight_quantized"} <= set(trained)
    assert sum(name.endswith(".bias") for name in trained) == 3  # the head's, too
    assert any(name.endswith("_scale") for name in trained) == settings.endswith("learned")
    assert any("written as QDQ" in warning for warning in document["warnings"])
    assert "QLinearConv" not in operators(tuned)
    assert arrays(tuned)["c1.weight_quantized"].dtype == np.int8
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(tuned.SerializeToString(), options)
    assert operators(onnx.load(tmp_path / "optimised.onnx"))["QLinearConv"] == 2


def test_a_case_that_trains_the_head_alone_keeps_the_operators(quantised, data):
    model = surgeon.operate(quantised, "small-similar", 5)
    assert operators(model.proto)["QLinearConv"] == 2
    with pytest.raises(surgeon.errors.UnsupportedError, match="quantise"):
        surgeon.finetune(quantised, data, case="small-similar", adapter="qat", device="cpu")


def every(turned):
    """Return a network of every form, the last one giving floats."""
    net, draw = nw.Net(opset=17), np.random.default_rng(0)

    def put(array, name):
        net.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def scale(name, value):
        zero = put(np.uint8(120), f"{name}.zero")
        return [put(np.float32(value), f"{name}.scale"), zero]

    def ms(kind, *inputs, **attributes):
        return net.node(kind, *inputs, domain=MICROSOFT, **attributes)

    def whole(*shape):
        return draw.integers(-60, 60, shape).astype(np.int8)

    x = net.input("x", ["N", 4, 6, 6])
    first = scale("first", 0.03)
    value = net.node("QuantizeLinear", x, *first)
    per_channel = [put(np.linspace(0.01, 0.02, 5, dtype=np.float32), "w.scale"),
                   put(np.zeros(5, np.int8), "w.zero")]  # fmt: skip
    bias = put(draw.integers(-500, 500, 5).astype(np.int32), "w.bias")
    second = scale("second", 0.05)
    value = net.node("QLinearConv", value, *first, put(whole(5, 4, 3, 3), "w"), *per_channel,
                     *second, bias, pads=[1, 1, 1, 1])  # fmt: skip
    pads = net.ints("pads", 0, 0, 1, 1, 0, 0, 1, 1)
    value = net.node("Pad", value, pads, "second.zero")  # as exporters pad in front of strides
    bent = ms("QLinearLeakyRelu", value, *second, *second, alpha=0.1)
    soft = ms("QLinearSigmoid", value, *second, *scale("soft", 1 / 120))
    added = ms("QLinearAdd", bent, *second, soft, "soft.scale", "soft.zero", *scale("sum", 0.06))
    times = ms("QLinearMul", added, "sum.scale", "sum.zero", soft, "soft.scale", "soft.zero",
               *scale("times", 0.06))  # fmt: skip
    joined = ms("QLinearConcat", *scale("joined", 0.06), added, "sum.scale", "sum.zero", times,
                "times.scale", "times.zero", axis=1)  # fmt: skip
    some = ms("QLinearAveragePool", joined, "joined.scale", "joined.zero", *scale("some", 0.05),
              kernel_shape=[2, 2], strides=[2, 2])  # fmt: skip
    mean = ms("QLinearGlobalAveragePool", some, "some.scale", "some.zero", *scale("mean", 0.02))
    flat = net.node("Flatten", mean)
    columns = [put(np.linspace(0.01, 0.02, 7, dtype=np.float32), "m.scale"),
               put(np.zeros(7, np.int8), "m.zero")]  # fmt: skip
    product = net.node("QLinearMatMul", flat, "mean.scale", "mean.zero", put(whole(10, 7), "m"),
                       *columns, *scale("product", 0.03))  # fmt: skip
    shape = (3, 7) if turned else (7, 3)
    rows = [put(np.linspace(0.01, 0.02, 3, dtype=np.float32), "g.scale"),
            put(np.zeros(3, np.int8), "g.zero")]  # fmt: skip
    rows.append(put(np.array([300, -20, 1], np.int32), "g.bias"))
    ms("QGemm", product, "product.scale", "product.zero", put(whole(*shape), "g"), *rows, out="y",
       transB=int(turned), alpha=0.5)  # fmt: skip
    return net.model("y", shape=["N", 3])


@pytest.mark.parametrize("turned", [False, True])
def test_every_form_computes_the_same_but_for_a_step_of_rounding(turned):
    model = every(turned)
    opened = open_up(model)
    onnx.checker.check_model(opened.model, full_check=True)
    assert not [kind for kind in operators(opened.model) if kind.startswith(("QL", "QG"))]
    assert {"w", "m", "g"} <= set(opened.trains)
    feeds = nw.feeds(model, batch=3)
    before, after = (
        onnxruntime.InferenceSession(one.SerializeToString()).run(None, feeds)[0]
        for one in (model, opened.model)
    )
    assert np.ptp(before) > 1
    np.testing.assert_allclose(before, after, atol=0.06)


def test_gradients_reach_every_weight():
    opened = open_up(every(turned=True))
    module = surgeon.to_torch(opened.model, quantized=True)
    parameters = dict(module.named_parameters())
    module(torch.randn(4, 4, 6, 6)).square().sum().backward()
    for name in opened.trains:
        assert parameters[name].grad.abs().sum() > 0, name


def test_what_has_no_form_stays_and_nothing_learns_in_front_of_it():
    model = every(turned=True)
    for node in model.graph.node:
        if node.op_type == "QLinearAdd":
            del node.input[-1]  # no zero point: its type is not told
    opened = open_up(model)
    assert operators(opened.model)["QLinearAdd"] == 1
    assert "w" not in opened.trains
    assert "g" in opened.trains
    assert "in front of" in opened.notes[0]
