"""surgeon-batchnorm on MobileNetV2 as it was exported, its 52 layers folded."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import surgeon

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from surgeon_models import datasets

    place = tmp_path_factory.mktemp("digits") / "digits"
    data = datasets.load("digits")
    datasets.write_folder(data.images[:160], data.labels[:160], place, classes=data.classes)
    return place


def tuned(folder, out=None, **settings):
    from surgeon_models import get

    given = {
        "case": "large-different", "epochs": 1, "size": (32, 32), "device": "cpu",
        "augment": "none", **settings,
    }  # fmt: skip
    return surgeon.finetune(get("mobilenetv2"), folder, out, **given)


def test_layers_come_back_and_the_file_keeps_its_structure(folder, tmp_path):
    out = tmp_path / "out.onnx"
    body = tuned(folder, out, init="random", adapter="batchnorm").document()
    assert any("behind 52 of 52" in text for text in body["warnings"])
    assert body["delivered"] == "tuned"
    proto = onnx.load(out)
    operated = surgeon.operate(surgeon.load(proto), classes=10, case="large-different")
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds == [node.op_type for node in operated.proto.graph.node]
    assert "BatchNormalization" not in kinds
    assert surgeon.verify(out).passed


def test_nothing_changes_before_the_first_step(folder):
    starts = []
    for adapter in (None, "batchnorm"):
        rows = tuned(folder, adapter=adapter).document()["history"]
        starts.append(next(row for row in rows if row["epoch"] == 0)["validation_loss"])
    assert np.isclose(*starts, rtol=1e-3)
