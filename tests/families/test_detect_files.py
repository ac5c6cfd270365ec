"""Boxes beside pictures: YOLO's folders and COCO's JSON say the same; what is wrong is named."""

from __future__ import annotations

import json

import detecting
import numpy as np
import pytest
from PIL import Image

from surgeon.errors import DataError
from surgeon.records import Preprocess
from surgeon_detect.files import listed

STRETCH = Preprocess(size=(64, 64), scale=1 / 255)


@pytest.fixture(scope="module")
def drawn():
    found = detecting.pictures(6)
    found[2] = (found[2][0], [])
    return found


@pytest.fixture
def yolo(tmp_path, drawn):
    return detecting.yolo_folder(tmp_path / "yolo", drawn)


def boxes(path, preprocess=STRETCH):
    found = listed(path)
    return list(found.answers.fitted(found.paths, preprocess))


def test_yolo_and_coco_say_the_same(tmp_path, drawn, yolo):
    coco = detecting.coco_folder(tmp_path / "coco", drawn)
    one, other = listed(yolo), listed(coco)
    assert one.answers.names == other.answers.names == detecting.NAMES
    assert [p.name for p in one.paths] == [p.name for p in other.paths]
    assert one.task == other.task == "detection"
    for mine, theirs, (_, right) in zip(boxes(yolo), boxes(coco), drawn, strict=True):
        assert mine[0].tolist() == [-1, 0, 0, 64, 64]  # the size of what the network is given
        np.testing.assert_allclose(mine, theirs, atol=1e-3)
        np.testing.assert_allclose(mine[1:], np.array(right).reshape(-1, 5), atol=1e-3)
    alone = listed(coco / "annotations" / "instances.json")
    assert alone.paths == other.paths
    assert listed(yolo / "data.yaml").paths == one.paths


def test_a_missing_label_file_means_no_boxes_and_is_said(yolo):
    found = listed(yolo)
    assert len(list(found.answers.fitted(found.paths, STRETCH))[2]) == 1
    assert found.remarks == ("1 of 6 pictures have no boxes",)


def test_boxes_follow_the_geometry_of_the_preprocessing(tmp_path):
    image, told = Image.new("RGB", (200, 100)), [(1, 60, 20, 140, 80)]
    root = detecting.yolo_folder(tmp_path / "wide", [(image, told), (image, [(0, 0, 0, 40, 40)])])
    stretched, _ = boxes(root)
    np.testing.assert_allclose(stretched[1], [1, 19.2, 12.8, 44.8, 51.2], atol=1e-2)
    cropped, outside = boxes(root, Preprocess(size=(64, 64), fit="crop", scale=1 / 255))
    np.testing.assert_allclose(cropped[1], [1, 6.4, 12.8, 57.6, 51.2], atol=1e-2)
    assert len(outside) == 1  # cut away with the side of the picture


def test_parts_of_the_data_are_kept(tmp_path, drawn):
    root = detecting.yolo_folder(tmp_path / "y", drawn)
    for part, numbers in (("train", range(4)), ("val", range(4, 6))):
        for kind, ending in (("images", "png"), ("labels", "txt")):
            (root / kind / part).mkdir()
            for number in numbers:
                one = root / kind / f"{number:04}.{ending}"
                if one.exists():
                    one.rename(root / kind / part / one.name)
    (root / "data.yaml").write_text(
        "# a comment\npath: /datasets/gone\ntrain: images/train\nval:\n  - images/val\n"
        "nc: 3\nnames: ['square', \"circle\", cross]\n"
    )
    found = listed(root)
    assert found.split == ["train"] * 4 + ["validation"] * 2
    (root / "data.yaml").unlink()
    again = listed(root)
    assert sorted(again.split) == sorted(found.split)
    assert again.answers.names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("0 0.9 0.5 0.4 0.2", "outside"),
        ("0 0.5 0.5 0 0.2", "without area"),
        ("7 0.5 0.5 0.2 0.2", "class 7"),
        ("-1 0.5 0.5 0.2 0.2", "class -1"),
        ("1.5 0.5 0.5 0.2 0.2", "class 1.5"),
        ("0 0.5 0.5 0.2", "not `class x y width height`"),
        ("circle 0.5 0.5 0.2 0.2", "not `class x y width height`"),
        ("0 0.5 nan 0.2 0.2", "not finite"),
    ],
)
def test_a_wrong_line_is_named_with_its_file(yolo, line, told):
    path = yolo / "labels" / "0003.txt"
    path.write_text(f"0 0.5 0.5 0.2 0.2\n\n{line}\n")
    with pytest.raises(DataError) as caught:
        listed(yolo)
    assert told in str(caught.value)
    assert f"{path}, line 3" in str(caught.value)


def test_all_wrong_lines_are_counted(yolo):
    for number in range(6):
        (yolo / "labels" / f"{number:04}.txt").write_text("9 0.5 0.5 0.2 0.2\n0 2 2 1 1\n")
    with pytest.raises(DataError, match="12 boxes"):
        listed(yolo)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("train: images\n", "names"),
        ("train: images\nnames: [a, a]\n", "twice"),
        ("train: images\nnames: {0: a, 2: b}\n", "numbered"),
        ("train: nowhere\nnames: [a]\n", "nowhere"),
        ("train: images\nnames:\n  0: a\n  oops\n", "line 4"),
        ("names: [a]\ntrain:\n", "no pictures"),
    ],
)
def test_a_wrong_description_is_refused(yolo, said, told):
    (yolo / "data.yaml").write_text(said)
    with pytest.raises(DataError, match=told):
        listed(yolo)


def test_outlines_are_read_as_their_boxes(yolo):
    (yolo / "labels" / "0000.txt").write_text("1 0.25 0.25 0.75 0.5 0.5 1.0\n")
    np.testing.assert_allclose(boxes(yolo)[0][1], [1, 16, 16, 48, 64])


def change(path, key, number, **values):
    said = json.loads(path.read_text())
    said[key][number] |= values
    path.write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("key", "values", "told"),
    [
        ("annotations", {"bbox": [50, 50, 40, 10]}, "outside"),
        ("annotations", {"bbox": [5, 5, 0, 10]}, "without area"),
        ("annotations", {"bbox": [5, 5]}, "four numbers"),
        ("images", {"file_name": "gone.png"}, "gone.png"),
        ("categories", {"name": "circle"}, "same name"),
    ],
)
def test_wrong_entries_of_coco_are_named(tmp_path, drawn, key, values, told):
    path = detecting.coco_folder(tmp_path / "coco", drawn) / "annotations" / "instances.json"
    change(path, key, 0, **values)
    with pytest.raises(DataError, match=told):
        listed(path)


def test_crowds_are_left_out_and_what_is_no_form_of_boxes_is_left_alone(tmp_path, drawn):
    coco = detecting.coco_folder(tmp_path / "coco", drawn)
    path = coco / "annotations" / "instances.json"
    before = sum(map(len, boxes(coco)))
    change(path, "annotations", 0, iscrowd=1)
    assert sum(map(len, boxes(coco))) == before - 1
    plain = tmp_path / "plain"
    (plain / "cats").mkdir(parents=True)
    assert listed(plain) is None
    (tmp_path / "other.json").write_text('{"images": 1}')
    assert listed(tmp_path / "other.json") is None
