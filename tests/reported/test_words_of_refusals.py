"""Refusals that were right, in words that help; what a second run says is what the first said."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

import surgeon
from surgeon.errors import ModelError, UnsupportedError


def test_an_operator_nobody_knows_in_front_of_the_cut_is_named():
    model = nw.convnet()
    model.opset_import.append(helper.make_opsetid("my.custom", 1))
    place = next(i for i, n in enumerate(model.graph.node) if n.op_type == "Relu")
    model.graph.node[place].op_type, model.graph.node[place].domain = "MyOp", "my.custom"
    with pytest.raises(ModelError, match="MyOp"):
        surgeon.operate(model, case="small-similar", classes=2)


def test_batchnormalization_in_training_mode_by_its_outputs_is_said():
    net = nw.Net(opset=9)
    x = net.input("x", ["N", 3, 4, 4])
    scale, bias, mean = (net.weight(name, 3) for name in ("s", "b", "m"))
    net.node(
        "BatchNormalization", x, scale, bias, mean, net.weight("v", values=np.ones(3)), out="y"
    )
    model = net.model("y", shape=["N", 3, 4, 4])
    model.graph.node[0].output.extend(["m1", "v1", "m2", "v2"])
    torch = pytest.importorskip("torch")
    with pytest.raises(UnsupportedError, match="training mode"):
        surgeon.to_torch(model)(torch.zeros(2, 3, 4, 4))


def test_what_a_cached_pass_could_not_read_is_said_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for i in range(40):
        path = tmp_path / "d" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (12, 12, 3), np.uint8)).save(path)
    (tmp_path / "d" / "a" / "0.png").write_bytes(b"broken")
    onnx.save(nw.convnet(), tmp_path / "m.onnx")
    runs = [
        surgeon.finetune(
            tmp_path / "m.onnx", str(tmp_path / "d"), case="small-similar", preprocess="zero-one"
        ).body
        for _ in range(2)
    ]
    assert runs[1]["frontier"]["cache"]["hit"]
    assert [len(run["data"]["skipped"]) for run in runs] == [1, 1]
    assert runs[0]["data"] == runs[1]["data"]
