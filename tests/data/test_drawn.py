"""Masks as files: codes, colours, and the size of the picture that each is of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from surgeon.data.drawn import Drawings
from surgeon.data.read import open_inputs
from surgeon.errors import OutputError
from surgeon.records import Preprocess, TensorInfo

PRE = Preprocess(size=(4, 4))
CODES = np.arange(16).reshape(4, 4)


def read(path):
    with Image.open(path) as file:
        return file.mode, np.asarray(file)


def test_a_mask_holds_codes_and_shows_colours(tmp_path):
    drawn = Drawings(tmp_path / "new" / "masks")
    mode, found = read(drawn.write("a/first.jpg", CODES))
    assert mode == "P"
    assert found.tolist() == CODES.tolist()
    with Image.open(tmp_path / "new" / "masks" / "first.png") as file:
        colours = np.asarray(file.convert("RGB")).reshape(-1, 3)
    assert colours[0].tolist() == [0, 0, 0]
    assert len({tuple(colour) for colour in colours.tolist()}) == 16
    assert drawn.write("b/first.png", CODES).name == "first.2.png"


def test_a_mask_is_as_large_as_its_picture(tmp_path):
    drawn = Drawings(tmp_path)
    _, found = read(drawn.write("a", CODES, (8, 12), PRE))
    assert found.tolist() == CODES.repeat(2, 0).repeat(3, 1).tolist()


@pytest.mark.parametrize("size", [(8, 14), (14, 8), (4, 5), (9, 9)])
def test_what_was_cut_off_has_no_class(tmp_path, size):
    drawn = Drawings(tmp_path)
    _, found = read(drawn.write("a", CODES, size, replace(PRE, fit="crop")))
    assert found.shape == size
    seen = np.argwhere(found != 255)
    sides = seen.max(0) - seen.min(0) + 1
    assert sides.tolist() == [min(size)] * 2
    rim = seen.min(0) - (np.array(size) - 1 - seen.max(0))
    assert (np.abs(rim) <= 1).all()


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_many_classes_take_16_bits(tmp_path, fit):
    codes = CODES + 300
    mode, found = read(Drawings(tmp_path).write("a", codes, (4, 8), replace(PRE, fit=fit)))
    assert mode.startswith("I")
    assert set(np.unique(found)) - {65535} == set(codes.ravel())


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "kept.txt").write_text("x")
    for folder in (tmp_path, tmp_path / "kept.txt"):
        with pytest.raises(OutputError, match="there already"):
            Drawings(folder)


def test_sizes_are_those_of_upright_pictures(tmp_path):
    picture = Image.new("RGB", (6, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    picture.save(tmp_path / "upright.png")
    info = TensorInfo("x", "float", ("n", 3, 4, 4), 0)
    samples = open_inputs(
        [tmp_path / "turned.jpg", tmp_path / "upright.png"], [info], preprocess=PRE
    )
    assert [samples.size_of(index) for index in (0, 1)] == [(6, 4), (4, 6)]
