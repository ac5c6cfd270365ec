"""QLoRA on files as ONNX Runtime's own 4-bit quantiser writes them: folded, or nodes beside."""

from __future__ import annotations

import logging

import networks as nw
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from quantised import digits

import surgeon
from surgeon.errors import UsageError

WIDE = 64


def network():
    """Two MatMul on digits, and a third that a new head takes the place of."""
    net = nw.Net(opset=21, seed=1, ir=10)
    x = net.input("x", ["N", WIDE])
    for layer in ("first", "second"):
        x = net.node("MatMul", x, net.weight(f"{layer}.w", WIDE, WIDE))
        x = net.node("Relu", net.node("Add", x, net.weight(f"{layer}.b", WIDE)))
    net.node("MatMul", x, net.weight("last.w", WIDE, 5), out="y")
    return net.model("y", shape=["N", 5])


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Return the path of the network with its MatMul of 4 bits in blocks."""
    return written(tmp_path_factory.mktemp("q"), "QOperator")


def written(folder, form, **options):
    logging.disable(logging.INFO)
    try:
        quantiser = MatMulNBitsQuantizer(
            network(), block_size=16, quant_format=quantization.QuantFormat[form], **options
        )
        quantiser.process()
    finally:
        logging.disable(logging.NOTSET)
    onnx.save(quantiser.model.model, folder / "packed.onnx")
    return folder / "packed.onnx"


def data(count=200):
    pictures, labels = digits(count)
    return {"x": pictures.reshape(count, WIDE), "labels": labels}


def tuned(path, adapter, out=None, **options):
    options = {"case": "large-similar", "epochs": 4, "device": "cpu", "lr": 0.02} | options
    return surgeon.finetune(path, data(), out, adapter=adapter, **options)


def stored(path):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def test_thin_matrices_learn_beside_packed_weights_which_keep_their_bytes(packed, tmp_path):
    outcome = tuned(packed, "qlora:rank=4", tmp_path / "tuned.onnx")
    before, after = stored(packed), stored(tmp_path / "tuned.onnx")
    learns = [one for one in outcome.body["trainable"] if not one.startswith("surgeon.head")]
    assert {one.rpartition(".")[2] for one in learns} == {"A", "B"}
    assert len(learns) == 4
    assert all(one.startswith("surgeon.") for one in outcome.body["changed"])
    same = [name for name in before if name in after]
    assert len([name for name in same if before[name].dtype == np.uint8]) >= 2
    assert all((before[name] == after[name]).all() for name in same)
    kinds = [node.op_type for node in onnx.load(tmp_path / "tuned.onnx").graph.node]
    assert kinds.count("MatMulNBits") == 2
    assert any("nodes of their own beside 2 MatMulNBits" in one for one in outcome.body["warnings"])
    assert surgeon.verify(tmp_path / "tuned.onnx", packed).passed
    losses = [row["loss"] for row in outcome.history if row["loss"] is not None]
    assert losses[-1] < losses[0]


def test_what_they_say_of_a_sample_is_the_sum(packed, tmp_path):
    tuned(packed, "qlora:rank=4,targets=*irst*", tmp_path / "tuned.onnx", epochs=1)
    model, after = onnx.load(tmp_path / "tuned.onnx"), stored(tmp_path / "tuned.onnx")
    (first, second, scale) = (
        next(value for name, value in after.items() if name.endswith(f".{key}")
             and name.startswith("surgeon.lora"))
        for key in ("A", "B", "scale")
    )  # fmt: skip
    node = next(one for one in model.graph.node if one.op_type == "MatMulNBits")
    added = next(one for one in model.graph.node if node.output[0] in one.input)
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in (node.output[0], added.output[0])
    )
    x = data(8)["x"]
    made = nw.run(shown, {"x": x})
    wanted = made[node.output[0]] + x @ first * scale @ second
    np.testing.assert_allclose(made[added.output[0]], wanted, rtol=1e-4, atol=1e-4)
    assert sum(name.startswith("surgeon.lora") for name in after) == 3


def test_training_goes_on_and_nothing_is_added_twice(packed, tmp_path):
    tuned(packed, "qlora:rank=2", tmp_path / "tuned.onnx", epochs=1)
    again = surgeon.finetune(tmp_path / "tuned.onnx", data(), device="cpu", epochs=1, lr=0.02)
    trained = again.body["trainable"]
    assert sum(name.startswith("surgeon.lora") for name in trained) == 4
    with pytest.raises(UsageError, match="already"):
        surgeon.finetune(tmp_path / "tuned.onnx", data(), device="cpu", adapter="qlora")


def test_four_bits_that_are_dequantised_are_folded_into(tmp_path):
    path = written(tmp_path, "QDQ", is_symmetric=True)
    outcome = tuned(path, "lora:rank=4", tmp_path / "tuned.onnx")
    before, after = onnx.load(path).graph, onnx.load(tmp_path / "tuned.onnx").graph
    kinds = [[node.op_type for node in graph.node] for graph in (before, after)]
    assert kinds[0][:4] == kinds[1][:4]
    assert kinds[1].count("DequantizeLinear") == 2
    old, new = ({t.name: t for t in graph.initializer} for graph in (before, after))
    moved = [name for name in old if name in new and old[name].raw_data != new[name].raw_data]
    assert len(moved) == 2
    assert {new[name].data_type for name in moved} == {onnx.TensorProto.INT4}
    assert set(moved) == {n for n in outcome.body["changed"] if not n.startswith("surgeon.")}
    assert surgeon.verify(tmp_path / "tuned.onnx", path).passed


@pytest.mark.parametrize(
    ("model", "adapter", "words"),
    [
        ("float", "qlora", "no MatMulNBits"),
        ("packed", "qlora:targets=nowhere*", "nowhere"),
        ("packed", "qlora:rank=0", "rank"),
        ("packed", "qlora:depth=2", "targets"),
        ("packed", "lora:depth=2", "targets"),
    ],
)
def test_what_cannot_be_meant_is_refused(packed, tmp_path, model, adapter, words):
    path = packed
    if model == "float":
        path = tmp_path / "float.onnx"
        onnx.save(network(), path)
    with pytest.raises(UsageError) as caught:
        tuned(path, adapter)
    assert words in f"{caught.value.message} {caught.value.remedy}"
