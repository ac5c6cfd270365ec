"""Augmentation: repeatable, bounded, and never a mirror unless asked for."""

from __future__ import annotations

import pytest
import torch

from surgeon.errors import UnknownNameError
from surgeon.tune.augment import augmentation


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
