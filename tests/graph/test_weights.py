"""Roles as the contract's words have them; bytes, hashes and write-back."""

from __future__ import annotations

import hashlib
import struct

import ml_dtypes
import networks as nw
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import surgeon
from surgeon.errors import ModelError, UnknownNameError, UsageError
from surgeon.graph.normalize import normalize
from surgeon.graph.weights import dense, hash_tensors, non_finite, roles, write_back


def roles_of(text, opset=17):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
    return roles(normalize(model)[0])


FORMS = {
    "clip bounds": (
        (
            "(float[N,2] x) => (float[N,2] y) <float low = {0}, float high = {6}, float[2,2] w = "
            "{1,2,3,4}> { m = MatMul(x, w) y = Clip(m, low, high) }"
        ),
        {"low": "setting", "high": "setting", "w": "parameter"},
    ),
    "exponent and base of a Pow": (
        (
            "(float[N,2] x) => (float[N,2] y) <float two = {2}, float[2] b = {1, 2}> "
            "{ p = Pow(x, two) y = Pow(b, p) }"
        ),
        {"two": "setting", "b": "parameter"},
    ),
    "resize": (
        (
            "(float[N,1,2,2] x) => (float[N,1,4,4] y) <float[4] s = {1,1,2,2}, float[0] roi = {}> "
            "{ y = Resize(x, roi, s) }"
        ),
        {"s": "setting", "roi": "setting"},
    ),
    "pad value and dropout ratio": (
        (
            "(float[N,2] x) => (float[N,4] y) <int64[4] p = {0,1,0,1}, float v = {1}, "
            "float r = {0.5}> "
            "{ a = Pad(x, p, v) y = Dropout(a, r) }"
        ),
        {"v": "setting", "r": "setting"},
    ),
    "quantisation scales": (
        (
            "(float[N,2] x) => (float[N,2] y) <float s = {0.1}, uint8 z = {3}> "
            "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
        ),
        {"s": "setting"},
    ),
    "a setting that is a weight elsewhere": (
        "(float[N,2] x) => (float[N,2] y) <float two = {2}> { p = Pow(x, two) y = Mul(p, two) }",
        {"two": "parameter"},
    ),
    "unused, compared, or only its shape": (
        (
            "(float[N,2] x) => (float[N,2] y) <float[2] u = {1,2}, float c = {0}, "
            "float[3] s = {1,2,3}>"
            " { b = Greater(x, c) n = Shape(s) k = Relu(x) y = Where(b, x, k) }"
        ),
        {"u": "constant", "c": "constant", "s": "constant"},
    ),
    "behind an ArgMax or a cast to integers": (
        (
            "(float[N,2] x) => (int64[N] y) <float[2] w = {1,2}> { m = Mul(x, w) c = Cast<to=7>(m) "
            "y = ArgMax<axis=1,keepdims=0>(m) }"
        ),
        {"w": "constant"},
    ),
    "integers are nothing": (
        (
            "(float[N,2] x) => (float[N,2] y) <int64[2] shape = {-1,2}, float w = {1}> "
            "{ m = Mul(x, w) y = Reshape(m, shape) }"
        ),
        {"w": "parameter"},
    ),
    "through a cast between floats": (
        (
            "(float[N,2] x) => (double[N,2] y) <float[2] w = {1,2}> { c = Cast<to=11>(w) "
            "d = Cast<to=11>(x) y = Mul(c, d) }"
        ),
        {"w": "parameter"},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_roles(form):
    text, wanted = FORMS[form]
    assert roles_of(f"g {text}") == wanted


def test_statistics_are_means_and_variances():
    found = roles(normalize(nw.batchnorm())[0])
    assert {name for name, role in found.items() if role == "statistics"} == {
        "l1.bn.mean", "l1.bn.var", "l2.bn.mean", "l2.bn.var"
    }  # fmt: skip
    assert {role for name, role in found.items() if "bn" not in name} == {"parameter"}


def test_everything_is_parameters_with_more_than_one_element():
    loaded = surgeon.load(nw.transformer())
    assert "one" not in loaded.parameters()
    assert "minus" not in loaded.parameters()
    assert "embed.weight" in loaded.parameters()
    assert set(loaded.parameters()) < set(loaded.roles())


def tensor_forms():
    values = np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5
    half = values.astype(np.float16)
    brain = values.astype(ml_dtypes.bfloat16)
    return {
        "raw": (numpy_helper.from_array(values, "t"), values),
        "float_data": (helper.make_tensor("t", TensorProto.FLOAT, [2, 3], values.ravel()), values),
        "half raw": (numpy_helper.from_array(half, "t"), half),
        "half int32_data": (
            helper.make_tensor("t", TensorProto.FLOAT16, [2, 3], half.ravel().tolist()),
            half,
        ),
        "bfloat16 raw": (
            helper.make_tensor("t", TensorProto.BFLOAT16, [2, 3], brain.tobytes(), raw=True),
            brain,
        ),
        "bfloat16 int32_data": (
            helper.make_tensor("t", TensorProto.BFLOAT16, [2, 3], values.ravel().tolist()),
            brain,
        ),
        "double_data": (
            helper.make_tensor("t", TensorProto.DOUBLE, [2, 3], values.ravel().astype(float)),
            values.astype(np.float64),
        ),
        "scalar": (numpy_helper.from_array(np.float32(3.0), "t"), np.float32(3.0)),
        "empty": (helper.make_tensor("t", TensorProto.FLOAT, [0, 2], []), np.zeros((0, 2), "f4")),
    }


def holder(tensor):
    """Return a model that carries one initializer."""
    net = nw.Net()
    net.node("Relu", net.input("x", ["N", 2]), out="y")
    model = net.model("y", shape=["N", 2])
    model.graph.initializer.append(tensor)
    return model


@pytest.mark.parametrize("form", tensor_forms())
def test_dense_bytes_do_not_depend_on_the_field_that_stores_them(form):
    tensor, values = tensor_forms()[form]
    assert dense(tensor) == np.ascontiguousarray(values).tobytes()


@pytest.mark.parametrize("form", tensor_forms())
def test_writing_back_keeps_bits_and_storage(form):
    tensor, values = tensor_forms()[form]
    model = holder(tensor)
    same = write_back(model, {"t": values})
    assert same.SerializeToString() == model.SerializeToString()
    doubled = np.asarray(values * 2, values.dtype)
    changed = write_back(model, {"t": doubled})
    (stored,) = changed.graph.initializer
    assert numpy_helper.to_array(stored).tobytes() == doubled.tobytes()
    assert [f.name for f, _ in stored.ListFields()] == [f.name for f, _ in tensor.ListFields()]
    assert model.graph.initializer[0] == tensor


def test_the_sign_of_zero_and_nan_bits_are_bits():
    odd = np.frombuffer(struct.pack("<4I", 0x80000000, 0x7FC00001, 0xFFC00000, 1), np.float32)
    model = holder(numpy_helper.from_array(odd, "t"))
    assert write_back(model, {"t": odd}).SerializeToString() == model.SerializeToString()
    assert write_back(model, {"t": np.abs(odd)}) != model
    assert non_finite(model) == ["t"]


def test_unknown_missing_and_misshapen_tensors_raise():
    model = normalize(nw.mlp())[0]
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert write_back(model, arrays) == model
    with pytest.raises(UnknownNameError, match="w3"):
        write_back(model, arrays | {"w3": arrays["w1"]})
    missing = dict(arrays)
    del missing["b2"]
    with pytest.raises(ModelError) as caught:
        write_back(model, missing)
    assert "b2" in str(caught.value)
    with pytest.raises(UsageError, match="shape"):
        write_back(model, arrays | {"w1": arrays["w1"].T})
    assert write_back(model, {"w1": arrays["w1"] + 1}, partial=True) != model


def test_the_hash_of_a_tensor_set_is_as_documented():
    a = helper.make_tensor("b/é", TensorProto.FLOAT, [2], [1.0, 2.0])
    b = numpy_helper.from_array(np.int64([[7]]), "a")
    digest = hashlib.sha256()
    digest.update(b"a\0" + struct.pack("<4q", 7, 2, 1, 1) + struct.pack("<q", 7))
    digest.update("b/é".encode() + b"\0" + struct.pack("<3q", 1, 1, 2) + struct.pack("<2f", 1, 2))
    assert hash_tensors([a, b]) == hash_tensors([b, a]) == digest.hexdigest()
