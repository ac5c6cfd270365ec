"""A batch that a file declares open while its constants hold it at a number.

What is done for a declared number is done here: the batch is made free where that is proven, else
it is pinned, which is said, and samples run one by one. ONNX Runtime on single batches of the file
as it is says what is right.
"""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import surgeon
from surgeon import operation


def _front(b, side=8):
    """A convolution over [b, 3, 8, 8]; the batch is declared open unless `declared` says else."""
    net = nw.Net()
    x = net.input("x", ["N", 3, side, side])
    return net, nw.conv(net, x, "c1", 6, 3)


def _back(net, x, features=6, shape=("N", 4)):
    x = net.node("Flatten", net.node("GlobalAveragePool", x), out="features")
    return _score(net, x, features, shape)


def _score(net, x, features, shape=("N", 4)):
    net.node("Gemm", x, net.weight("fc", features, 4), net.weight("fc.bias", 4), out="y")
    return net.model("y", shape=list(shape))


def flatten(b):
    net, x = _front(b)
    return _score(net, net.node("Reshape", x, net.ints("s", b, 384)), 384)


def flatten_all(b):
    net, x = _front(b)
    x = net.node("GlobalAveragePool", x)
    x = net.node("Reshape", x, net.ints("flat", -1))
    return _score(net, net.node("Reshape", x, net.ints("rows", b, 6)), 6)


def concat(b):
    net, x = _front(b)
    values = np.repeat(net.random.standard_normal((1, 2, 8, 8)), b, 0)
    x = net.node("Concat", x, net.weight("extra", values=values), axis=1)
    return _back(net, x, 8)


def shuffle(b):
    net, x = _front(b)
    x = net.node("Reshape", x, net.ints("split", b, 2, 3, 8, 8))
    x = net.node("Transpose", x, perm=[0, 2, 1, 3, 4])
    return _back(net, net.node("Reshape", x, net.ints("join", b, 6, 8, 8)))


def resize(b):
    net, x = _front(b)
    x = net.node("Resize", x, "", "", net.ints("sizes", b, 6, 12, 12), mode="nearest")
    return _back(net, net.node("Relu", nw.conv(net, x, "c2", 6, 6)))


def keep_all(b):
    net, x = _front(b)
    one = [net.ints("start", 0), net.ints("end", b), net.ints("axis", 0)]
    return _back(net, net.node("Slice", x, *one))


def squeeze(b):
    net, x = _front(b)
    x = net.node("Squeeze", net.node("GlobalAveragePool", x), out="features")
    net.node("MatMul", x, net.weight("fc", 6, 4), out="y")
    return net.model("y", shape=None)


def expand(b):
    net, x = _front(b)
    x = net.node("Expand", net.node("GlobalAveragePool", x), net.ints("wide", b, 6, 4, 4))
    return _back(net, net.node("Relu", nw.conv(net, x, "c2", 6, 6)))


def scaled(b):
    net, x = _front(b)
    values = np.repeat(net.random.standard_normal((1, 6, 1, 1)), b, 0)
    return _back(net, net.node("Mul", x, net.weight("scale", values=values)))


def grid(b):
    net, x = _front(b)
    values = np.repeat(net.random.uniform(-1, 1, (1, 5, 5, 2)), b, 0)
    return _back(net, net.node("GridSample", x, net.weight("grid", values=values)))


def class_token(b, heads=2, wide=8):
    """A vision transformer: class token, positions, heads folded into the batch."""
    net = nw.Net()
    x = net.input("x", ["N", 3, 8, 8])
    x = nw.conv(net, x, "patch", wide, 3, kernel=4, strides=[4, 4], pads=[0] * 4)
    x = net.node("Transpose", net.node("Reshape", x, net.ints("flat", b, wide, 4)), perm=[0, 2, 1])
    token = net.node("Expand", net.weight("token", 1, 1, wide), net.ints("tokens", b, 1, wide))
    x = net.node("Concat", token, x, axis=1)
    x = net.node("Add", x, net.weight("positions", 1, 5, wide), out="embedded")
    parts = []
    for part in "qkv":
        y = net.node("MatMul", x, net.weight(part, wide, wide))
        y = net.node("Reshape", y, net.ints(f"{part}.heads", b, 5, heads, wide // heads))
        y = net.node("Transpose", y, perm=[0, 2, 1, 3])
        parts.append(net.node("Reshape", y, net.ints(f"{part}.rows", b * heads, 5, wide // heads)))
    scores = net.node("MatMul", parts[0], net.node("Transpose", parts[1], perm=[0, 2, 1]))
    y = net.node("MatMul", net.node("Softmax", scores, axis=-1), parts[2])
    y = net.node("Reshape", y, net.ints("apart", b, heads, 5, wide // heads))
    y = net.node("Transpose", y, perm=[0, 2, 1, 3])
    y = net.node("Add", net.node("Reshape", y, net.ints("merged", b, 5, wide)), x)
    x = net.node("Gather", y, net.weight_int("first", 0), axis=1, out="features")
    return _score(net, x, wide)


def recurrent(b, kind="LSTM", state="constant", gates=4):
    net = nw.Net()
    hidden = 6
    x = net.input("x", [5, "N", 3])
    parts = [
        net.weight("W", 1, gates * hidden, 3),
        net.weight("R", 1, gates * hidden, hidden),
        net.weight("B", 1, 2 * gates * hidden),
        "lengths",
    ]
    lengths = np.asarray([4] * b, np.int32)
    net.weights.append(onnx.numpy_helper.from_array(lengths, "lengths"))
    states = ["h0", "c0"] if kind == "LSTM" else ["h0"]
    for name in states:
        if state == "constant":
            values = np.repeat(net.random.standard_normal((1, 1, hidden)), b, 1)
            parts.append(net.weight(name, values=values))
        else:
            zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.25])
            shape = net.ints(f"{name}.shape", 1, b, hidden)
            parts.append(net.node("ConstantOfShape", shape, value=zero))
    outs = ["Y", "last", "cell"][: 3 if kind == "LSTM" else 2]
    net.node(kind, x, *parts, out=outs, hidden_size=hidden)
    x = net.node("Squeeze", "last", net.ints("zero", 0), out="features")
    return _score(net, x, hidden)


def lstm(b):
    return recurrent(b)


def lstm_made_state(b):
    return recurrent(b, state="made")


def gru(b):
    return recurrent(b, "GRU", gates=3)


def rnn(b):
    return recurrent(b, "RNN", state="made", gates=1)


def first_alone(b):
    """The first sample is taken out of the batch: nothing can free that."""
    assert b == 1
    net, x = _front(b)
    x = net.node("Gather", x, net.weight_int("zero", 0), axis=0)
    return _back(net, net.node("Unsqueeze", x, net.ints("axes", 0)))


FREED = [flatten, flatten_all, concat, shuffle, resize, keep_all, squeeze, expand, scaled, grid,
         class_token, lstm, lstm_made_state, gru, rnn]  # fmt: skip
OF_ONE_ONLY = {squeeze}


def _samples(model, count, b=1):
    (info,) = surgeon.load(model).inputs
    shape = [b if axis == info.batch_axis else dim for axis, dim in enumerate(info.shape)]
    random = np.random.default_rng(0)
    values = [random.standard_normal(shape).astype(np.float32) for _ in range(count)]
    return info.name, info.batch_axis, values


@pytest.mark.parametrize(
    ("build", "b"),
    [(build, b) for build in FREED for b in (1, 4) if b == 1 or build not in OF_ONE_ONLY],
)
def test_the_batch_is_freed_and_every_sample_is_its_own(build, b):
    model = build(b)
    patient = surgeon.operate(model, case="small-similar", classes=3)
    onnx.checker.check_model(patient.proto, full_check=True)
    name, axis, values = _samples(model, 5, b)
    cut = patient.plan.cut
    original = nw.with_outputs(model, cut)
    apart = [nw.run(original, {name: value})[cut] for value in values]
    wanted = np.concatenate([np.atleast_2d(part) for part in apart])
    everything = np.concatenate(values, axis)
    for count in (1, 2, 5):
        some = np.take(everything, range(count), axis)
        got = nw.run(nw.with_outputs(patient.proto, cut), {name: some})
        assert got["logits"].shape == (count, 3)
        np.testing.assert_allclose(got[cut], wanted[:count], rtol=1e-4, atol=1e-5)
    declared = {info.name: info for info in patient.inputs}[name].shape[axis]
    assert not isinstance(declared, int)


def _data(model, per=8):
    (info,) = surgeon.load(model).inputs
    random = np.random.default_rng(1)
    rest = [dim for axis, dim in enumerate(info.shape) if axis != info.batch_axis]
    means = random.standard_normal((3, *rest))
    labels = np.repeat(np.arange(3), per)
    values = (means[labels] + 0.3 * random.standard_normal((3 * per, *rest))).astype(np.float32)
    return {info.name: np.moveaxis(values, 0, info.batch_axis), "labels": labels}


@pytest.mark.parametrize("build", [flatten, class_token, lstm, first_alone])
@pytest.mark.parametrize("case", ["small-similar", "large-similar"])
def test_it_is_tuned_and_verified(build, case):
    model = build(1)
    data = _data(model)
    outcome = surgeon.finetune(model, data, case=case, epochs=1, device="cpu")
    assert surgeon.verify(outcome.model.proto, source=model).passed
    inputs = {name: value for name, value in data.items() if name != "labels"}
    found = surgeon.predict(outcome.model.proto, inputs, device="cpu")
    assert found.probabilities.shape == (24, 3)


def test_what_cannot_be_freed_is_pinned_and_said():
    model = first_alone(1)
    patient = surgeon.operate(model, case="small-similar", classes=3)
    assert patient.inputs[0].shape[0] == 1
    assert [dim.dim_value for dim in patient.proto.graph.output[0].type.tensor_type.shape.dim] == [
        1, 3,
    ]  # fmt: skip
    assert any("stays fixed at 1" in note for note in patient.notes)
    # The same from the other verbs: the late cut is a cut.
    body = operation.cuts(model)
    assert body["late"] == "features"
    assert any("stays fixed at 1" in note for note in body["warnings"])


@pytest.mark.parametrize("build", [flatten, first_alone, concat, lstm])
def test_the_file_as_it_is_predicts_one_by_one(build):
    model = build(1)
    name, axis, values = _samples(model, 4)
    found = surgeon.predict(model, {name: np.concatenate(values, axis)}, device="cpu")
    scores = np.concatenate([nw.run(model, {name: value})["y"] for value in values])
    assert found.probabilities.argmax(1).tolist() == scores.argmax(1).tolist()


@pytest.mark.parametrize("build", [nw.mlp, nw.convnet, nw.residual, nw.squeezenet])
def test_an_open_batch_stays_as_it_is_without_a_word(build):
    loaded = surgeon.load(build())
    assert loaded.batch_note is None
    assert loaded.anatomy().held is None
    assert loaded.anatomy().model is loaded.proto


def test_inspect_says_what_seems_to_hold_the_batch():
    assert any("hold it at 1" in note for note in operation.inspect(flatten(1))["warnings"])
