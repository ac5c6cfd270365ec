"""Masks beside pictures: found by their names, of the same size, in the graph's geometry."""

import json

import numpy as np
import pytest
from PIL import Image

from surgeon.data import JoinedSamples, open_data
from surgeon.errors import DataError, UsageError
from surgeon.intake import check_views
from surgeon.options import Options
from surgeon.records import Preprocess, TensorInfo
from surgeon.targets import ask_for, choose

SIZE = (8, 8)
PICTURE = [TensorInfo("x", "float", ("N", 3, *SIZE), 0)]
HOW = Preprocess(size=SIZE)


def draw(path, mode="L", size=(12, 16), value=1):
    """Write a picture, or a mask whose left half is of one class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size, np.uint8)
    pixels[:, : size[1] // 2] = value
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 30, 60] + [9] * 762)
    image = image if mode in "LP" else image.convert(mode)
    image.save(path)


def folder(root, names="abcd", **mask):
    for name in names:
        draw(root / "images" / f"{name}.png", "RGB")
        draw(root / "masks" / f"{name}.png", **mask)
    return root


def opened(root, how=HOW):
    return open_data(root, PICTURE, preprocess=how)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "I;16"])
def test_masks_have_the_geometry_of_their_pictures(tmp_path, mode):
    samples = opened(folder(tmp_path, mode=mode, value=1))
    assert choose(samples) == "segmentation"
    found = ask_for("segmentation", samples, None).targets
    assert found.names == ("0", "1")
    assert found.values.shape == (4, *SIZE)
    assert (found.values == np.repeat([[1] * 4 + [0] * 4], 8, 0)).all()


def test_a_crop_cuts_masks_as_it_does_pictures(tmp_path):
    root = folder(tmp_path, "ab")
    draw(root / "images" / "a.png", "RGB", value=255)
    how = Preprocess(size=SIZE, fit="crop", resize="nearest")
    samples = opened(root, how)
    (values,) = samples.batch([0]).values()
    mask = samples.answers_along(("height", "width"))[0]
    assert ((values[0, 0] > 128) == (mask == 1)).all()


def test_names_may_say_that_they_are_masks_and_parts_are_splits(tmp_path):
    for part in ("train", "val"):
        for name in "ab":
            draw(tmp_path / part / "images" / f"{name}.jpg", "RGB")
            draw(tmp_path / part / "masks" / f"{name}_mask.png")
    draw(tmp_path / "val" / "masks" / "c.png")
    samples = opened(tmp_path)
    assert samples.split.tolist() == ["train", "train", "validation", "validation"]
    assert len(samples.answers) == 4
    assert any("no picture" in remark for remark in samples.remarks)


def test_the_hash_follows_masks_and_two_sources_are_one(tmp_path):
    one = opened(folder(tmp_path / "a"))
    other = opened(folder(tmp_path / "b", value=2))
    assert one.sha256 != other.sha256
    joined = JoinedSamples(one, other)
    found = ask_for("segmentation", joined, None).targets
    assert (found.names, found.values.shape) == (("0", "1", "2"), (8, *SIZE))


def test_a_table_may_name_masks(tmp_path):
    folder(tmp_path)
    rows = [{"path": f"images/{name}.png", "label": f"masks/{name}.png"} for name in "abcd"]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    samples = opened(tmp_path / "t.jsonl")
    assert choose(samples) == "segmentation"
    assert ask_for("segmentation", samples, None).targets.values.shape == (4, *SIZE)


def missing(root):
    (root / "masks" / "b.png").unlink()


def colours(root):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)).save(
        root / "masks" / "b.png"
    )


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (missing, ["1 of 4 pictures have no mask", "b.png"]),
        (lambda root: draw(root / "masks" / "b.gif"), ["more than one mask"]),
        (lambda root: draw(root / "masks" / "b.png", size=(5, 6)), ["6x5", "16x12", "b.png"]),
        (colours, ["colours", "b.png"]),
        (lambda root: (root / "masks" / "b.png").write_bytes(b"x"), ["b.png"]),
        (lambda root: Image.new("F", (16, 12)).save(root / "masks" / "b.tiff"), ["more than one"]),
    ],
)
def test_what_is_wrong_with_a_mask_is_named(tmp_path, spoil, words):
    spoil(folder(tmp_path))
    with pytest.raises(DataError) as caught:
        ask_for("segmentation", opened(tmp_path), None)
    for word in words:
        assert word in str(caught.value)


def test_black_and_white_is_said_to_be_a_class_and_none(tmp_path):
    with pytest.raises(DataError, match="0 and 255"):
        ask_for("segmentation", opened(folder(tmp_path, value=255)), None)


def test_pictures_with_masks_are_not_varied(tmp_path):
    asked = ask_for("segmentation", opened(folder(tmp_path)), None)
    with pytest.raises(UsageError, match="pixels"):
        check_views(Options.of({"augment": "light"}).training, opened(tmp_path), asked.task)


def test_a_jpeg_is_no_mask(tmp_path):
    for name in "ab":
        draw(tmp_path / "images" / f"{name}.png", "RGB")
        draw(tmp_path / "masks" / f"{name}.jpg")
    with pytest.raises(DataError, match="JPEG"):
        ask_for("segmentation", opened(tmp_path), None)


def test_folders_of_boxes_are_still_refused(tmp_path):
    for name in "ab":
        draw(tmp_path / "images" / f"{name}.png", "RGB")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"{name}.xml").write_text("<x/>")
    with pytest.raises(DataError, match="detection"):
        opened(tmp_path)
