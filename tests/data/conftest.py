from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from surgeon.records import Preprocess, TensorInfo


def draw(path, seed=0, size=(12, 10), mode="RGB"):
    """Write a picture of smooth, seeded content; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), np.uint8)
    image = Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)
    image.convert(mode).save(path)
    return path


@pytest.fixture(name="draw")
def draw_fixture():
    return draw


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "pictures"
    for label in ("10", "2"):
        for number in range(6):
            draw(root / label / f"{number}.png", seed=int(label) * 10 + number)
    return root


@pytest.fixture
def image_input():
    return TensorInfo("x", "float", ("N", 3, 8, 8), 0)


@pytest.fixture
def raw():
    return Preprocess(size=(8, 8))
