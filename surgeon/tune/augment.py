"""Augmentation of picture batches on the device, by kornia, repeatable by seed.

It works on pixels, before the preprocessing of the model, so that its strengths mean the same for
every model. What must not enter: preprocessing, reading, labels (nothing here changes a label).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, Literal

import torch
from torch import Tensor

from surgeon.errors import UnknownNameError

Strength = Literal["none", "light", "strong"]
#: Takes pixels [n, C, H, W] and a seed; returns float32 pixels of the same shape and range.
Augmentation = Callable[[Tensor, int], Tensor]

STRENGTHS: Final = ("none", "light", "strong")


def augmentation(
    strength: str, *, flip: bool = False, peak: float = 255.0, layout: str = "NCHW"
) -> Augmentation | None:
    """Return the augmentation of a strength, or None for `none`.

    - `light`: rotation ±10°, shift up to 10 % of the size, scale 0.9 to 1.1, brightness ±10 % of
      the range, contrast ×0.9 to ×1.1. The border's pixels fill what comes in.
    - `strong`: a random crop of 60 to 100 % of the area (sides 3:4 to 4:3), then rotation ±15°,
      brightness and contrast 30 %, and in a quarter of the pictures 2 to 20 % erased.

    Pictures are never mirrored unless `flip` is set: a mirrored letter is another letter.

    Args:
        strength: `none`, `light` or `strong`.
        flip: also mirror half of the pictures left to right.
        peak: value of a white pixel.
        layout: NCHW or NHWC, of what comes in and goes out.

    Raises:
        UnknownNameError: another strength.

    """
    if strength not in STRENGTHS:
        raise UnknownNameError("augmentation", strength, STRENGTHS, where="--augment")
    if strength == "none" and not flip:
        return None

    def augment(pixels: Tensor, seed: int) -> Tensor:
        batch = pixels.permute(0, 3, 1, 2) if layout == "NHWC" else pixels
        operations = _operations(strength, flip, int(batch.shape[2]), int(batch.shape[3]))
        values = batch.to(torch.float32) / peak
        devices = [values.device] if values.device.type == "cuda" else []
        # kornia draws from torch's global generator: seeded here, and put back as it was.
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(seed)
            for operation in operations:
                values = operation(values)
        values = values * peak
        return values.permute(0, 2, 3, 1) if layout == "NHWC" else values

    return augment


@functools.lru_cache(maxsize=8)
def _operations(strength: str, flip: bool, height: int, width: int) -> tuple[Any, ...]:
    import kornia.augmentation as kornia  # slow to import, and not needed without augmentation

    operations: list[Any] = []
    if strength == "light":
        operations += [
            kornia.RandomAffine(
                degrees=10.0, translate=(0.1, 0.1), scale=(0.9, 1.1), padding_mode="border"
            ),
            kornia.RandomBrightness((0.9, 1.1)),
            kornia.RandomContrast((0.9, 1.1)),
        ]
    elif strength == "strong":
        operations += [
            kornia.RandomResizedCrop((height, width), scale=(0.6, 1.0), ratio=(3 / 4, 4 / 3)),
            kornia.RandomAffine(degrees=15.0, padding_mode="border"),
            kornia.RandomBrightness((0.7, 1.3)),
            kornia.RandomContrast((0.7, 1.3)),
            kornia.RandomErasing(p=0.25, scale=(0.02, 0.2), ratio=(0.3, 3.3)),
        ]
    if flip:
        operations.append(kornia.RandomHorizontalFlip(p=0.5))
    return tuple(operations)
