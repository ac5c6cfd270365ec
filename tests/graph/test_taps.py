"""Taps: what they read is what a head cut there would read, in every form of network."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest
from onnxruntime import quantization
from quantised import digits, float_network

import surgeon
from surgeon.graph import taps


class Pictures:
    """What the quantiser calibrates with."""

    def __init__(self, pictures):
        self._left = iter([{"x": pictures}])

    def get_next(self):
        return next(self._left, None)


@pytest.fixture
def eight_bit(tmp_path):
    """A network quantised operator by operator: integers carry its features."""
    onnx.save(float_network(), tmp_path / "float.onnx")
    quantization.quantize_static(
        tmp_path / "float.onnx", tmp_path / "int8.onnx", Pictures(digits(100)[0]),
        quant_format=quantization.QuantFormat.QOperator,
        activation_type=quantization.QuantType.QUInt8,
    )  # fmt: skip
    return tmp_path / "int8.onnx"


def one_score():
    """Features squeezed into one score by layers that are no classifier."""
    net = nw.Net()
    x = net.input("x", ["N", 3, 12, 12])
    for at, (out, into) in enumerate(((8, 3), (16, 8), (16, 16), (16, 16))):
        x = net.node("Relu", nw.conv(net, x, f"c{at}", out, into))
    x = net.node("GlobalAveragePool", x)
    x = net.node("Flatten", x, out="pooled")
    x = net.node("Mul", x, net.weight("scale", 16))
    net.node("ReduceMean", x, out="score", axes=[1], keepdims=1)
    return net.model("score", shape=["N", 1])


def time_first(classes=4):
    """A recurrent classifier whose scores have samples along axis 1."""
    net = nw.Net()
    x = net.input("x", ["T", "N", 6])
    shape = net.weight("w", 1, 32, 6), net.weight("r", 1, 32, 8)
    net.node("LSTM", x, *shape, out=["steps"], hidden_size=8)
    x = net.node("Squeeze", "steps", net.ints("one", 1))
    x = net.node("MatMul", x, net.weight("fc.w", 8, classes))
    x = net.node("Add", x, net.weight("fc.b", classes))
    net.node("Softmax", x, out="probs", axis=2)
    return net.model("probs", shape=["T", "N", classes])


def check_taps(model):
    """Compare every tap with what enters the Gemm of a head that is cut at the same place."""
    loaded = surgeon.load(model)
    anatomy = loaded.anatomy()
    found = taps.add_taps(anatomy, taps.choose_cuts(anatomy))
    inputs = nw.feeds(found.model, batch=3)
    values = nw.run(found.model, inputs, found.outputs)
    for cut, name in zip(found.cuts, found.outputs, strict=True):
        operated = surgeon.operate(loaded, "small-different", 2, cut.tensor).proto
        gemm = operated.graph.node[-1]
        read = gemm.input[0]
        features = nw.run(nw.with_outputs(operated, read), inputs, [read])[read]
        np.testing.assert_allclose(values[name], features, rtol=1e-5, atol=1e-6, err_msg=name)
    return found


@pytest.mark.parametrize("name", ["convnet", "nhwc", "transformer", "residual", "lstm"])
def test_a_tap_reads_what_a_head_cut_there_reads(name):
    check_taps(nw.ZOO[name]())


def test_integers_are_read_as_the_floats_they_stand_for(eight_bit):
    found = check_taps(eight_bit)
    assert len(found.cuts) >= 2
    assert {cut.dtype for cut in found.cuts} == {"uint8"}
    pictures, labels = digits(120)
    advice = surgeon.advise(eight_bit, {"x": pictures, "labels": labels})
    assert max(candidate.accuracy for candidate in advice.candidates) > 0.6


def test_the_features_in_front_of_a_single_score_are_listened_to():
    anatomy = surgeon.load(one_score()).anatomy()
    *_, wide, late = taps.choose_cuts(anatomy)
    assert late.tensor == "score"
    assert wide.depth >= taps.NEAR_THE_END
    assert wide.shape[1] == 16
    check_taps(one_score())


def test_everything_is_trained_in_front_of_a_single_score_that_says_nothing():
    pictures = np.random.default_rng(0).random((200, 3, 12, 12), np.float32)
    labels = np.arange(200) % 2
    pictures[labels == 1, 0] *= 0.5
    found = surgeon.advise(one_score(), {"x": pictures, "labels": labels})
    late = found.candidates[-1]
    assert max(item.accuracy for item in found.candidates) > late.accuracy + 0.1
    assert found.plan.cut != late.cut.tensor


def test_scores_along_another_axis_are_no_table_of_scores():
    anatomy = surgeon.load(time_first()).anatomy()
    assert anatomy.head is not None
    found = taps.add_taps(anatomy, taps.choose_cuts(anatomy))
    assert found.head is None
    data = {
        "x": np.random.default_rng(0).random((5, 30, 6), np.float32),
        "labels": np.arange(30) % 2,
    }
    assert surgeon.advise(time_first(), data).evidence.leep is None
