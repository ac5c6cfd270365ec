from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from surgeon.data import open_data
from surgeon.graph.preprocess import parse_preprocess
from surgeon.records import TensorInfo


def build(text):
    return parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')


@pytest.fixture(name="build")
def build_fixture():
    return build


@pytest.fixture
def pooled():
    """A frozen graph on pictures: two features per sample, of which one is weighted."""
    return build(
        "g (float[N,3,8,8] x) => (float[N,3] f, float[3,N] t) "
        "<float[3] w = {1.0, 2.0, 0.5}> "
        "{ m = ReduceMean <axes=[2,3], keepdims=0> (x) f = Mul(m, w) t = Transpose(f) }"
    )


@pytest.fixture
def picture_input():
    return TensorInfo("x", "float", ("N", 3, 8, 8), 0)


@pytest.fixture
def numbers():
    """Samples of plain numbers for an input x [N, 4]."""
    x = np.random.default_rng(0).random((37, 4), np.float32)
    info = TensorInfo("x", "float", ("N", 4), 0)
    return open_data({"x": x, "labels": np.arange(37) % 3}, [info]), x


@pytest.fixture
def photos(tmp_path, picture_input):
    """Forty small pictures, one of them broken."""
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (tmp_path / "photos" / "a" / "06.png").write_bytes(b"no picture")
    preprocess = parse_preprocess("raw", picture_input)
    return open_data(tmp_path / "photos", [picture_input], preprocess=preprocess)
