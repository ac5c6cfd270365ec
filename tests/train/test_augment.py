"""Augmentation: repeatable, bounded, and never a mirror unless asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from surgeon.data import open_data
from surgeon.errors import UnknownNameError
from surgeon.records import Preprocess, TensorInfo
from surgeon.train.augment import Views, augmentation


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (6, 3, 24, 32), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_repeatable_by_seed(strength, pixels):
    augment = augmentation(strength)
    torch.manual_seed(1)
    first = augment(pixels, 5)
    following = torch.rand(2)
    torch.manual_seed(2)
    assert torch.equal(augment(pixels, 5), first)
    assert not torch.equal(augment(pixels, 6), first)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), following)  # the global generator is as it was
    assert first.shape == pixels.shape
    assert first.dtype == torch.float32
    assert first.min() >= 0
    assert first.max() <= 255
    assert (first - pixels).abs().mean() > 1


def test_light_is_light(pixels):
    # A bright square in the middle stays in the middle, and bright.
    square = torch.zeros(32, 1, 40, 40)
    square[:, :, 14:26, 14:26] = 255
    result = augmentation("light")(square, 0)
    rows = torch.arange(40.0)
    weight = result.sum((1, 3))
    centre = (weight * rows).sum(1) / weight.sum(1)
    assert (centre - 19.5).abs().max() < 5
    assert result.flatten(1).max(1).values.min() > 150


def test_mirrors_only_on_request():
    ramp = torch.arange(32.0).expand(64, 1, 32, 32) * 8
    rising = lambda x: x[:, 0, 16, 24] > x[:, 0, 16, 8]  # noqa: E731 - used twice
    assert rising(augmentation("light")(ramp, 0)).all()
    flipped = rising(augmentation("none", flip=True)(ramp, 0))
    assert flipped.any()
    assert not flipped.all()


def test_layout_and_peak():
    values = torch.rand(4, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    expected = augmentation("light", peak=1.0)(values, 3)
    got = augmentation("light", peak=1.0, layout="NHWC")(values.permute(0, 2, 3, 1), 3)
    torch.testing.assert_close(got.permute(0, 3, 1, 2), expected)
    assert expected.max() <= 1


def test_none_and_unknown():
    assert augmentation("none") is None
    with pytest.raises(UnknownNameError, match="ligth"):
        augmentation("ligth")


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for place in range(6):
        folder = tmp_path / "ab"[place % 2]
        folder.mkdir(exist_ok=True)
        pixels = random.integers(0, 255, (24, 20, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.png")
    info = TensorInfo("x", "float", ("N", 3, 16, 16), 0)
    rule = Preprocess(size=(16, 16), mean=(127.0,), std=(60.0,))
    return open_data(str(tmp_path), [info], preprocess=rule)


def test_a_view_depends_on_its_picture_its_number_and_the_seed_alone(photos):
    views = Views(photos, 2, "light", seed=3)
    assert views.n == 12
    every = views.batch(range(12))["x"]
    assert every.dtype == np.float32
    for order in ([11, 0, 5], [5]):
        np.testing.assert_array_equal(views.batch(order)["x"], every[order])
    plain = photos.batch(range(6))["x"]
    for rows in (every[:6], every[6:]):
        assert np.abs(rows - plain).mean(axis=(1, 2, 3)).min() > 0.005
    assert np.abs(every[:6] - every[6:]).mean() > 0.05
    other = Views(photos, 2, "light", seed=4)
    assert not np.array_equal(other.batch([0])["x"], every[:1])
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda index: views.batch([index])["x"][0], range(12)))
    np.testing.assert_array_equal(np.stack(together), every)


def test_the_hash_of_views_follows_what_decides_them(photos):
    hashes = {
        Views(photos, 2, "light", seed=0).content_sha256(),
        Views(photos, 2, "strong", seed=0).content_sha256(),
        Views(photos, 2, "light", seed=1).content_sha256(),
        Views(photos, 1, "light", seed=0).content_sha256(),
        photos.content_sha256(),
    }
    assert len(hashes) == 5
    first = Views(photos, 2, "light", seed=0).content_sha256(np.arange(6))
    assert first == Views(photos, 1, "light", seed=0).content_sha256()
