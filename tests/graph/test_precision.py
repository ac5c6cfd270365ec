"""Half-precision graphs widened for training: the same nodes, float32 inside."""

from __future__ import annotations

import networks as nw
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from surgeon.graph.normalize import normalize
from surgeon.graph.precision import is_half, widen

HALVES = {TensorProto.FLOAT16, TensorProto.BFLOAT16}


@pytest.mark.parametrize("dtype", [nw.F16, nw.BF16])
@pytest.mark.parametrize("name", ["mlp", "convnet", "transformer", "vit", "batchnorm"])
def test_a_widened_graph_runs_in_float32_and_stays_close(name, dtype):
    model = normalize(nw.ZOO[name](dtype=dtype))[0]
    content = model.SerializeToString()
    wide = widen(model)
    assert model.SerializeToString() == content
    assert is_half(model)
    assert not is_half(wide)
    assert [n.name for n in wide.graph.node] == [n.name for n in model.graph.node]
    for before, after in zip(model.graph.initializer, wide.graph.initializer, strict=True):
        assert before.name == after.name
        np.testing.assert_array_equal(
            numpy_helper.to_array(after), numpy_helper.to_array(before).astype(np.float32)
            if before.data_type in HALVES else numpy_helper.to_array(before),
        )  # fmt: skip
    got = nw.run(wide, nw.feeds(wide))["y"]
    assert got.dtype == np.float32
    if dtype == nw.F16:
        inputs = {
            key: value.astype(np.float16) if value.dtype == np.float32 else value
            for key, value in nw.feeds(wide).items()
        }
        wanted = nw.run(model, inputs)["y"].astype(np.float32)
        np.testing.assert_allclose(got, wanted, rtol=0.05, atol=0.02)


def test_casts_and_constants_are_widened_too():
    net = nw.Net(dtype=nw.F16)
    x = net.input("x", ["N", 4], nw.F)
    x = net.node("Cast", x, to=TensorProto.FLOAT16)
    half = numpy_helper.from_array(np.float16([1, 2, 3, 4]), "c")
    net.nodes.append(helper.make_node("Constant", [], ["c"], value=half))
    x = net.node("Mul", x, "c")
    x = net.node("MatMul", x, net.weight("w", 4, 3))
    net.node("Cast", x, to=TensorProto.FLOAT, out="y")
    wide = widen(net.model("y", shape=["N", 3], dtype=nw.F))
    kinds = {a.i for n in wide.graph.node for a in n.attribute if a.name == "to"}
    assert kinds == {TensorProto.FLOAT}
    assert nw.run(wide, nw.feeds(wide))["y"].dtype == np.float32


def test_a_float32_graph_is_not_half():
    assert not is_half(nw.mlp())
    assert not is_half(nw.mlp(dtype=nw.F64))
