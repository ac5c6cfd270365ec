"""A small file tuned on pictures, and 200 pictures of every kind that clients get wrong."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import networks
import numpy as np
import pytest
from PIL import Image, ImageCms
from sklearn.datasets import load_sample_images

import surgeon

sys.path.insert(0, str(Path(__file__).parent))
LABELS = ("flower", "roof")
KINDS = (
    *("plain", "alpha", "palette", "grey-alpha", "turned", "turned-png", "grey", "cmyk", "deep"),
    *("deep-rgb", "tiny", "huge", "jpeg", "webp"),
)


def crops(count, seed=0):
    """Return pieces of two photographs by turns, and what random numbers are drawn from."""
    random = np.random.default_rng(seed)
    images = load_sample_images().images
    for number in range(count):
        width, height = random.integers(60, 240, 2)
        top, left = random.integers(0, 427 - height), random.integers(0, 640 - width)
        piece = images[number % 2][top : top + height, left : left + width]
        yield Image.fromarray(np.ascontiguousarray(piece)), random


def sample(folder, number, kind, image, random):
    """Write a picture of a kind, and return where."""
    place = Path(folder) / f"{number:03d}-{kind}"
    png, jpg = f"{place}.png", f"{place}.jpg"
    width, height = image.size
    fading = np.hypot(np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]) * 200
    fading = Image.fromarray(np.clip(fading, 0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = int(random.integers(2, 9))
    grey = image.convert("L")
    if kind == "alpha":
        image.putalpha(fading)
    elif kind == "palette":
        image = image.quantize(64)
        image.info["transparency"] = int(np.asarray(image)[0, 0])
    elif kind == "grey-alpha":
        image = grey
        image.putalpha(fading)
    elif kind == "turned":
        image.save(jpg, exif=exif, quality=95)
        return jpg
    elif kind == "turned-png":
        image.save(png, exif=exif)
        return png
    elif kind == "grey":
        image = grey
    elif kind == "cmyk":
        image.convert("CMYK").save(jpg, quality=95)
        return jpg
    elif kind == "deep":
        deep = np.asarray(grey).astype(np.uint16) * 256 + random.integers(0, 256)
        image = Image.fromarray(deep.astype(np.uint16))
    elif kind == "deep-rgb":
        Path(png).write_bytes(_deep_rgb(np.asarray(image)))
        return png
    elif kind == "tiny":
        image = image.resize(tuple(random.integers(1, 9, 2).tolist()))
    elif kind == "huge":
        image = image.resize(tuple(random.integers(1000, 2000, 2).tolist()))
    elif kind == "jpeg":  # with a profile, as cameras write it
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        image.resize((3 * width, 3 * height)).save(jpg, quality=90, icc_profile=profile)
        return jpg
    elif kind == "webp":
        image.save(f"{place}.webp", lossless=True)
        return f"{place}.webp"
    image.save(png, compress_level=1)
    return png


def _deep_rgb(values):
    """Return a PNG of 16 bits a channel, which PIL does not write."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = values.shape[:2]
    rows = (values.astype(np.uint16) * 257).astype(">u2")
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def write_samples(folder, count):
    """Write pictures of all kinds, two of each in a row."""
    return [
        sample(folder, number, KINDS[number // 2 % len(KINDS)], image, random)
        for number, (image, random) in enumerate(crops(count))
    ]


@pytest.fixture(scope="session")
def tuned(tmp_path_factory):
    """Return a file tuned on pieces of two photographs, with an input of 64 x 64."""
    root = tmp_path_factory.mktemp("deployed")
    for number, (image, _) in enumerate(crops(60, seed=1)):
        folder = root / "data" / LABELS[1 - number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SURGEON_CACHE", str(root / "cache"))
        surgeon.finetune(
            networks.convnet(side=64), root / "data", root / "tuned.onnx", case="small-similar",
            device="cpu", preprocess={"preset": "imagenet", "size": [64, 64]},
        )  # fmt: skip
    return root / "tuned.onnx"


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    """Return pictures of every kind, two of each."""
    return write_samples(tmp_path_factory.mktemp("few"), 2 * len(KINDS))


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """Return 200 pictures, of every kind."""
    return write_samples(tmp_path_factory.mktemp("many"), 200)
