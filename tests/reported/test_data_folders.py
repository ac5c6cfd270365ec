"""What a folder, a table or labels are taken for: understood, or said."""

from __future__ import annotations

import json

import networks as nw
import numpy as np
import pytest
from PIL import Image

import surgeon
from surgeon.data import open_data
from surgeon.data.examine import label_findings
from surgeon.data.folder import list_classes
from surgeon.errors import DataError
from surgeon.records import TensorInfo
from surgeon.targets import ask_for
from surgeon.tasks.labels import alike, check_trainable, joined

X = TensorInfo("x", "float", ("N", 3), 0)


def lay(root, *names):
    """Write a small picture under each name; a name that ends in / is an empty folder."""
    for number, name in enumerate(names):
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (20 * number % 256, 3, 9)).save(path)


def parts(root, *names, classes=("a", "b")):
    lay(root, *(f"{name}/{label}/{i}.png" for name in names for label in classes for i in range(2)))


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (("train", "valid"), {"train", "validation"}),
        (("Train", "Valid"), {"train", "validation"}),
        (("TRAIN", "TEST"), {"train", "test"}),
        (("training", "validation", "testing"), {"train", "validation", "test"}),
        (("trn", "Dev", "tst"), {"train", "validation", "test"}),
        (("training_set", "test_set"), {"train", "test"}),
        (("trainset", "eval set"), {"train", "validation"}),
        (("seg_train", "seg_test"), {"train", "test"}),
        (("train2017", "val2017"), {"train", "validation"}),
    ],
)
def test_parts_by_their_usual_names_are_splits_and_said(tmp_path, names, split):
    parts(tmp_path, *names)
    found = list_classes(tmp_path)
    assert set(found.split) == split
    assert set(found.labels) == {"a", "b"}
    assert any("splits" in remark for remark in found.remarks)


def test_parts_that_are_packed_once_more_are_found(tmp_path):
    parts(tmp_path / "archive" / "data", "Training", "Testing")
    parts(tmp_path / "other", "seg_train/seg_train", "seg_test/seg_test")
    assert set(list_classes(tmp_path / "archive").split) == {"train", "test"}
    assert set(list_classes(tmp_path / "other").labels) == {"a", "b"}


def test_parts_without_classes_are_refused(tmp_path):
    parts(tmp_path / "half", "train")
    lay(tmp_path / "half", "test/1.png", "test/2.png")
    lay(tmp_path / "flat", "train/1.png", "val/2.png")
    for name in ("half", "flat"):
        with pytest.raises(DataError, match="like parts of a data set"):
            list_classes(tmp_path / name)


def test_classes_stay_classes(tmp_path):
    lay(tmp_path, "steam train/1.png", "toy train/2.png", "test/3.png")
    found = list_classes(tmp_path)
    assert found.split is None
    assert found.labels == ["steam train", "test", "toy train"]
    lay(tmp_path / "nested", "cat/2020/1.png", "dog/2021/1.png", "cow/images/1.png")
    assert list_classes(tmp_path / "nested").remarks == []


def test_classes_with_the_same_sub_folders_are_said(tmp_path):
    parts(tmp_path, "first", "second", "third")
    found = list_classes(tmp_path)
    assert set(found.labels) == {"first", "second", "third"}
    assert any("the same sub-folders" in remark and "'a'" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    "names",
    [
        ("images/1.png", "images/2.png", "masks/1.png", "masks/2.png"),
        ("Images/x1.jpg", "Images/x2.jpg", "annotations/x1_mask.png", "annotations/x2_mask.png"),
        ("train/images/1.png", "train/masks/1.png", "val/images/2.png", "val/masks/2.png"),
        ("images/train/1.png", "images/val/2.png", "labels/train/1.png", "labels/val/2.png"),
    ],
)
def test_pictures_beside_their_masks_are_no_classes(tmp_path, names):
    lay(tmp_path, *names)
    with pytest.raises(DataError, match="segmentation"):
        list_classes(tmp_path)


def test_pictures_beside_their_boxes_are_no_classes(tmp_path):
    lay(tmp_path, "images/1.png", "labels/")
    (tmp_path / "labels" / "1.txt").write_text("0 0.5 0.5 1 1")
    with pytest.raises(DataError, match="detection"):
        list_classes(tmp_path)


def test_empty_classes_and_stray_pictures_are_said(tmp_path):
    lay(tmp_path, "a/1.png", "b/1.png", "c/", "d/", "stray.png", "__MACOSX/a/._1.png")
    (tmp_path / "d" / "notes.txt").write_text("x")
    found = list_classes(tmp_path)
    assert set(found.labels) == {"a", "b"}
    assert any("'c', 'd'" in remark for remark in found.remarks)
    assert any("'stray.png'" in remark for remark in found.remarks)
    assert found.ignored == 2


# ── labels ───────────────────────────────────────────────────────────────────────────────────────


def test_labels_that_differ_by_dirt_are_named():
    assert alike(["cat", "cat ", "Cat", "dog"]) == [["Cat", "cat", "cat "]]
    assert alike(["1", "01", "2"]) == [["01", "1"]]
    assert alike(["a b", "a  b", "ab"]) == [["a  b", "a b"]]
    (finding,) = label_findings(["Cat", "cat", "dog"])
    assert finding.level == "warning"
    assert "'Cat' / 'cat'" in finding.message


@pytest.mark.parametrize("mark", ["|", ";", ","])
def test_labels_that_are_several_are_said(mark):
    several = [f"a{mark}b", f"b{mark}c", f"a{mark} c"]
    assert joined(["a", *several]) == (mark, sorted(several))
    (finding,) = label_findings(["a", *several])
    assert "--task multi-label" in finding.remedy


def test_labels_with_a_comma_are_no_several():
    for labels in (
        ["Dallas, TX", "Austin, TX"],
        ["tench, Tinca", "goldfish, Carassius"],
        ["a,", "a"],
    ):
        assert joined(labels) == ("", [])


@pytest.mark.parametrize(
    "labels", [["1.5", "2", "2.5"], ["0.1", "1e3"], [str(i) for i in range(20)] + ["3"]]
)
def test_numbers_are_no_classes(labels):
    with pytest.raises(DataError, match="regression"):
        check_trainable(labels * 2 if "." in labels[0] else labels)


def test_whole_numbers_and_versions_by_name_are_classes():
    check_trainable(["1", "2", "1", "2"])
    check_trainable(["v1.5", "v2.5"] * 2)
    check_trainable(["1.5", "none"] * 2)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.eye(3, dtype=int), "one-hot"),
        (np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]]), "several labels"),
        (np.array([[True, True], [False, True], [False, False]]), "several labels"),
        (np.array([["a", "b"]] * 3), "multi-label"),
        (np.array([[1.5, -2.0]] * 3), "regression"),
        (np.zeros((3, 1), int), "ravel"),
        (np.zeros((3, 4, 4), int), "masks"),
    ],
)
def test_labels_of_more_axes_say_what_they_look_like(labels, said):
    with pytest.raises(DataError, match=said):
        ask_for(
            "classification", open_data({"x": np.zeros((3, 3), "f4"), "labels": labels}, [X]), None
        )


def test_a_list_as_a_label_is_several(tmp_path):
    rows = [{"x": [1.0, 2.0, 3.0], "label": ["a", "b"]}] * 2
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="multi-label"):
        ask_for("classification", open_data(tmp_path / "t.jsonl", [X]), None)


def test_class_names_in_a_parquet_schema_are_read(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    feature = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    about = {"info": {"features": {"label": feature, "x": {"_type": "List"}}}}
    table = pa.table({"x": [[1.0, 2.0, 3.0]] * 4, "label": [0, 1, 1, 0]})
    told = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pq.write_table(told, tmp_path / "t.parquet")
    assert open_data(tmp_path / "t.parquet", [X]).answers == ["cat", "dog", "dog", "cat"]
    pq.write_table(table, tmp_path / "t.parquet")
    assert open_data(tmp_path / "t.parquet", [X]).answers == [0, 1, 1, 0]
    pq.write_table(
        table.replace_schema_metadata({"huggingface": "[" * 5000}), tmp_path / "t.parquet"
    )
    assert open_data(tmp_path / "t.parquet", [X]).answers == [0, 1, 1, 0]


def test_what_was_understood_stands_in_the_documents(tmp_path):
    parts(tmp_path, "Train", "Test", classes=("cat", "dog", "Dog"))
    found = surgeon.finetune(
        nw.convnet(), str(tmp_path), case="small-similar", preprocess="zero-one", dry_run=True
    )
    assert found.body["labels"] == ["Dog", "cat", "dog"]
    told = " ".join(found.body["warnings"])
    assert "splits" in told
    assert "'Dog' / 'dog'" in told
