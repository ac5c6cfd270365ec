"""Which integer initializers stand for real numbers, by which scale, and putting them back."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from ml_dtypes import int4
from onnx import TensorProto, helper, numpy_helper, parser

import surgeon
from surgeon.errors import UnknownNameError, UsageError
from surgeon.graph.cuts import study
from surgeon.graph.frontier import split
from surgeon.graph.weights import quantized_weights, roles, write_back

RANDOM = np.random.default_rng(0)


def model_of(text, opset=21, inputs="float[n, 4] x", outputs="float[n, k] y", **tensors):
    opsets = f'"": {opset}, "com.microsoft": 1'
    model = parser.parse_model(
        f"<ir_version: 10, opset_import: [{opsets}]> g ({inputs}) => ({outputs}) {{ {text} }}"
    )
    for name, value in tensors.items():
        proto = isinstance(value, TensorProto)
        model.graph.initializer.append(value if proto else numpy_helper.from_array(value, name))
    return model


def int8(*shape):
    return RANDOM.integers(-128, 128, shape).astype(np.int8)


def f(*values):
    return np.asarray(values, np.float32).reshape(-1 if len(values) > 1 else ())


DEQUANTISED = "w = DequantizeLinear<{}>({}) y = MatMul(x, w)"
FORMS = {
    "per tensor": (DEQUANTISED.format("axis = 1", "q, s"), {"q": int8(4, 3), "s": f(0.5)}, 0.5, 0),
    "zero point": (
        DEQUANTISED.format("axis = 1", "q, s, z"),
        {"q": int8(4, 3), "s": f(0.5), "z": np.array(3, np.int8)},
        0.5,
        3,
    ),
    "per axis": (
        DEQUANTISED.format("axis = -1", "q, s"),
        {"q": int8(4, 3), "s": f(1, 2, 3)},
        [[1, 2, 3]] * 4,
        0,
    ),
    "blocked": (
        DEQUANTISED.format("axis = 0, block_size = 2", "q, s, z"),
        {
            "q": int8(4, 3).astype(int4),
            "s": np.arange(6, dtype=np.float32).reshape(2, 3) + 1,
            "z": np.arange(6).reshape(2, 3).astype(int4),
        },
        [[1, 2, 3]] * 2 + [[4, 5, 6]] * 2,
        [[0, 1, 2]] * 2 + [[3, 4, 5]] * 2,
    ),
    "microsoft": (
        "w = com.microsoft.DequantizeLinear<axis = 0>(q, s, z) y = MatMul(x, w)",
        {"q": int8(4, 3), "s": f(1, 2, 3, 4), "z": np.zeros(4, np.int8)},
        [[1] * 3, [2] * 3, [3] * 3, [4] * 3],
        0,
    ),
    "transposed": (
        "t = Transpose<perm = [1, 0]>(q) w = DequantizeLinear<axis = 0>(t, s) y = MatMul(x, w)",
        {"q": int8(3, 4), "s": f(1, 2, 3, 4)},
        [[1, 2, 3, 4]] * 3,
        0,
    ),
    "reshaped": (
        "t = Reshape(q, shape) w = DequantizeLinear<axis = 1>(t, s) y = MatMul(x, w)",
        {"q": int8(12), "s": f(1, 2, 3), "shape": np.array([4, -1])},
        [1, 2, 3] * 4,
        0,
    ),
    "gathered": (
        "r = Gather(q, rows) w = DequantizeLinear(r, s) y = MatMul(x, w)",
        {"q": int8(9, 3), "s": f(0.25), "rows": np.array([1, 1, 5, 7])},
        0.25,
        0,
    ),
    "twice": (
        "w = DequantizeLinear(q, s) v = DequantizeLinear(q, s) u = Add(w, v) y = MatMul(x, u)",
        {"q": int8(4, 3), "s": f(0.25)},
        0.25,
        0,
    ),
    "by hand": (
        "c = Cast<to = 1>(q) w = Mul(s, c) y = MatMul(x, w)",
        {"q": int8(4, 3), "s": f(1, 2, 3)},
        [[1, 2, 3]] * 4,
        0,
    ),
    "by hand, shifted": (
        "z = Cast<to = 1>(iz) c = Cast<to = 1>(q) d = Sub(c, z) w = Mul(d, s) y = MatMul(x, w)",
        {"q": int8(4, 3).astype(np.uint8), "s": f(0.5), "iz": np.array(128, np.uint8)},
        0.5,
        128,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_of_every_form_is_found_with_its_scale(form):
    text, tensors, scale, zero = FORMS[form]
    found = quantized_weights(model_of(text, **tensors))
    assert list(found) == ["q"]
    shape = tensors["q"].shape
    assert np.array_equal(np.broadcast_to(found["q"].scale, shape), np.broadcast_to(scale, shape))
    assert np.array_equal(np.broadcast_to(found["q"].zero, shape), np.broadcast_to(zero, shape))


NONE = {
    "a scale of the data": (
        "m = ReduceMax<keepdims = 0>(x) w = DequantizeLinear(q, m) y = MatMul(x, w)",
        {"q": int8(4, 3)},
    ),
    "two scales": (
        "w = DequantizeLinear(q, s) v = DequantizeLinear(q, t) u = Add(w, v) y = MatMul(x, u)",
        {"q": int8(4, 3), "s": f(0.25), "t": f(0.5)},
    ),
    "another use": (
        "w = DequantizeLinear(q, s) m = MatMul(x, w) n = Cast<to = 1>(q) y = Add(m, n)",
        {"q": int8(4, 3), "s": f(0.25)},
    ),
    "rows of several scales, gathered": (
        "r = Gather(q, rows) w = DequantizeLinear<axis = 0>(r, s) y = MatMul(x, w)",
        {"q": int8(9, 3), "s": f(1, 2, 3, 4), "rows": np.array([1, 1, 5, 7])},
    ),
    "a mask": (
        "c = Cast<to = 1>(q) w = Mul(c, s) y = MatMul(x, w)",
        {"q": (int8(4, 3) > 0).astype(np.uint8), "s": f(-1e4)},
    ),
    "positions": (
        "c = Cast<to = 1>(q) w = Mul(c, s) m = MatMul(x, w) y = Cos(m)",
        {"q": np.arange(4, dtype=np.int8).reshape(4, 1), "s": f(1, 2, 3)},
    ),
    "no gradient": (
        "w = DequantizeLinear(q, s) m = MatMul(x, w) i = ArgMax(m) y = Cast<to = 1>(i)",
        {"q": int8(4, 3), "s": f(0.25)},
    ),
    "unused": ("y = Neg(x)", {"q": int8(4, 3)}),
    "a scale that is not finite": (
        "w = DequantizeLinear(q, s) y = MatMul(x, w)",
        {"q": int8(4, 3), "s": f(np.inf)},
    ),
}


@pytest.mark.parametrize("what", NONE)
def test_what_has_no_fixed_scale_of_its_own_is_none(what):
    text, tensors = NONE[what]
    assert quantized_weights(model_of(text, **tensors)) == {}


def test_an_integer_that_the_graph_gives_out_is_none():
    text, tensors, *_ = FORMS["per tensor"]
    model = model_of(text, outputs="float[n, k] y, int8[4, 3] q", **tensors)
    assert quantized_weights(model) == {}


def test_a_scale_written_by_hand_is_a_setting_unless_it_scales_something_else_too():
    text, tensors, *_ = FORMS["by hand"]
    assert roles(model_of(text, **tensors)) == {"s": "setting"}
    shared = text.replace("y = MatMul(x, w)", "m = MatMul(x, w) y = Mul(m, s)")
    assert roles(model_of(shared, **tensors)) == {"s": "parameter"}


def test_everything_means_quantised_weights_of_several_elements_too():
    text = (
        "w = DequantizeLinear(q, s) m = MatMul(x, w) b = DequantizeLinear(one, s) a = Add(m, b)"
        " y = MatMul(a, v)"
    )
    model = surgeon.load(
        model_of(text, q=int8(4, 3), s=f(0.1), one=np.array([5], np.int8), v=f(1, 2, 3)[:, None])
    )
    assert model.parameters() == ["q", "v"]
    assert model.learnable() == ["q", "one", "v"]
    assert set(model.roles()) == {"s", "v"}


# ── the frontier ─────────────────────────────────────────────────────────────────────────────────


def test_a_trainable_integer_counts_at_its_first_use():
    text = (
        "w = DequantizeLinear(q, s) a = MatMul(x, w) r = Relu(a) v = DequantizeLinear(p, s)"
        " y = MatMul(r, v)"
    )
    model = surgeon.load(model_of(text, q=int8(4, 3), p=int8(3, 2), s=f(0.1)))
    shapes = study(model.proto).shapes
    for trainable, tensors, behind in ((["p"], ["r"], 2), (["q", "p"], ["x"], 5)):
        front = split(model.proto, trainable, shapes, keep_weightless=False)
        assert [info.name for info in front.tensors] == tensors
        assert front.nodes_trained == behind
        assert set(trainable) <= {tensor.name for tensor in front.trained.graph.initializer}


# ── writing back ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["per tensor", "blocked"])
@pytest.mark.parametrize("raw", [True, False])
def test_integers_are_replaced_in_their_field_and_nothing_else(form, raw):
    text, tensors, *_ = FORMS[form]
    wanted = np.clip(tensors["q"].astype(np.int64) + 1, -8, 7)
    stored = helper.make_tensor(
        "q",
        helper.np_dtype_to_tensor_dtype(tensors["q"].dtype),
        tensors["q"].shape,
        numpy_helper.from_array(tensors["q"]).raw_data if raw else tensors["q"].reshape(-1),
        raw=raw,
    )
    model = model_of(text, **{**tensors, "q": stored})
    same = write_back(model, {"q": tensors["q"]}, partial=True)
    assert same.SerializeToString() == model.SerializeToString()
    result = write_back(model, {"q": wanted}, partial=True)
    (before,) = (t for t in model.graph.initializer if t.name == "q")
    (after,) = (t for t in result.graph.initializer if t.name == "q")
    assert after.data_type == before.data_type
    assert np.array_equal(numpy_helper.to_array(after).astype(np.int64), wanted)
    if form == "per tensor":
        assert after.HasField("raw_data") is raw
    after.CopyFrom(before)
    assert result.SerializeToString() == model.SerializeToString()
    onnx.checker.check_model(result)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((4, 3), 128), "from -128 to 127; the values go from 128 to 128"),
        (np.zeros((4, 3), np.float64), "the values are float64"),
        (np.zeros((3, 4), np.int8), r"shape \[3, 4\]"),
    ],
)
def test_values_that_the_stored_type_cannot_hold_are_refused(values, words):
    text, tensors, *_ = FORMS["per tensor"]
    with pytest.raises(UsageError, match=words):
        write_back(model_of(text, **tensors), {"q": values}, partial=True)


def test_an_integer_that_is_no_weight_is_an_unknown_name():
    text, tensors, *_ = FORMS["reshaped"]
    with pytest.raises(UnknownNameError, match="shape"):
        write_back(model_of(text, **tensors), {"shape": np.array([3, 4])}, partial=True)
