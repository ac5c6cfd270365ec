"""A detector is tuned on boxes, and the file decodes as before: trained, judged, told, proven."""

from __future__ import annotations

import json
import subprocess
import sys

import detecting
import numpy as np
import onnx
import pytest

import surgeon
from surgeon.errors import DataError, UsageError
from surgeon_detect import boxes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("boxes")
    drawn = detecting.pictures(12)
    drawn[3] = (drawn[3][0], [])
    return detecting.yolo_folder(root / "yolo", drawn), detecting.coco_folder(root / "coco", drawn)


@pytest.fixture(scope="module")
def tuned(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("tuned")
    onnx.save(detecting.v8(classes=5, batch=1, width=8), path / "model.onnx")
    outcome = surgeon.finetune(
        path / "model.onnx", data[0], path / "tuned.onnx", case="large-similar", epochs=1, batch=8
    )
    return outcome, path


def test_the_tuned_file_keeps_its_form_and_is_proven(tuned):
    outcome, path = tuned
    told = outcome.document()
    assert told["plan"]["task"] == "detection"
    assert told["plan"]["cut"] == "output0"
    assert not {"centres", "strides", "head.dfl.conv.weight"} & {*told["trainable"]}
    assert "head.cv2.0.2.weight" in told["trainable"]
    assert told["labels"] == list(detecting.NAMES)
    assert {"map_50", "map"} <= told["metrics"]["validation"].keys()
    assert told["history"][-1]["validation_picture_ap_50"] is not None
    assert "1 of 12 pictures have no boxes" in told["warnings"]
    before, after = onnx.load(path / "model.onnx"), onnx.load(path / "tuned.onnx")
    assert [n.op_type for n in after.graph.node] == [n.op_type for n in before.graph.node]
    assert [v.name for v in after.graph.output] == ["output0"]
    names = {one.key: one.value for one in after.metadata_props}["names"]
    assert names == repr(dict(enumerate(detecting.NAMES)))  # where post-processing looks
    assert surgeon.verify(path / "tuned.onnx", path / "model.onnx").passed


def test_both_forms_of_the_data_judge_alike(tuned, data):
    _, path = tuned
    yolo, coco = (surgeon.evaluate(path / "tuned.onnx", one) for one in data)
    one, other = (found["metrics"] for found in (yolo, coco))
    assert one.pop("interval") == pytest.approx(other.pop("interval"))
    assert one == pytest.approx(other, nan_ok=True)
    assert [row["support"] for row in yolo["per_class"]] == [
        row["support"] for row in coco["per_class"]
    ]


def test_boxes_are_told_in_pixels_of_each_picture(tuned, data, monkeypatch):
    _, path = tuned
    monkeypatch.setattr(boxes, "SHOWN", 0.0)
    rows = surgeon.predict(path / "tuned.onnx", [str(data[0] / "images")]).rows
    assert len(rows) == 12
    told = rows[0]["boxes"]
    assert told
    assert told[0].keys() == {"label", "probability", "box"}
    assert {one["label"] for one in told} <= set(detecting.NAMES)
    places = np.array([one["box"] for one in told])
    assert (places >= 0).all()
    assert (places <= 64).all()


def test_training_goes_on_with_the_plan_of_the_file(tuned, data):
    _, path = tuned
    again = surgeon.finetune(path / "tuned.onnx", data[1], epochs=1, batch=8)
    assert again.document()["plan"]["head"]["kind"] == "detector"
    assert again.document()["labels"] == list(detecting.NAMES)


def test_data_that_nothing_can_be_learnt_from_are_refused(tmp_path, data):
    empty = detecting.yolo_folder(tmp_path / "empty", [])
    bare = detecting.yolo_folder(tmp_path / "bare", [(i, []) for i, _ in detecting.pictures(4)])
    for root, told in ((empty, "no pictures"), (bare, "none of 4 pictures")):
        with pytest.raises(DataError, match=told):
            surgeon.finetune(detecting.v8(), root, case="large-similar")
    with pytest.raises(UsageError, match="turned and cut"):
        surgeon.finetune(detecting.v8(), data[0], case="large-similar", augment="light")


def learnt(form, tmp_path, count, epochs):
    """Return the outcome of training on coloured shapes, and AP before and after on others."""
    drawn = [detecting.pictures(n, seed=s, coloured=True) for n, s in ((count, 0), (80, 1))]
    data, held = (detecting.yolo_folder(tmp_path / str(n), one) for n, one in enumerate(drawn))
    model = getattr(detecting, form)(classes=5, batch=1)
    start = surgeon.operate(model, "large-similar", 3, task="detection")
    outcome = surgeon.finetune(
        model,
        data,
        tmp_path / "tuned.onnx",
        case="large-similar",
        epochs=epochs,
        batch=16,
        lr=0.003,
    )
    judged = [surgeon.evaluate(one, held)["metrics"] for one in (start, tmp_path / "tuned.onnx")]
    return outcome, *(one["map_50"] for one in judged)


@pytest.mark.slow
def test_boxes_are_learnt_from_random_weights(tmp_path):
    _, before, after = learnt("v8", tmp_path, 160, 20)
    assert before < 0.05
    assert after > before + 0.1


@pytest.mark.slow
def test_interleaved_anchors_train(tmp_path):
    outcome, *_ = learnt("v5", tmp_path, 48, 2)
    lost = [row["loss"] for row in outcome.history if row.get("loss") is not None]
    assert np.isfinite(lost).all()
    assert {"model.24.m.0.weight", "model.24.m.1.bias"} <= {*outcome.document()["changed"]}
    assert surgeon.verify(tmp_path / "tuned.onnx").passed


def test_the_command_line_tells_boxes(tuned, data):
    _, path = tuned
    ran = subprocess.run(
        [sys.executable, "-m", "surgeon", "predict", path / "tuned.onnx",
         data[0] / "images" / "0000.png", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (row,) = json.loads(ran.stdout)["predictions"]
    assert isinstance(row["boxes"], list)
