"""Augmentation of pictures by kornia, repeatable by seed: of batches on the device, or as views.

It works on pixels, before the preprocessing of the model, so that its strengths mean the same for
every model. `Views` are samples as any other, so that a frozen part computes their features once
and keeps them. What must not enter: preprocessing, labels (nothing here changes a label).
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from surgeon.data.samples import Batch, Given, Samples
from surgeon.errors import UnknownNameError
from surgeon.extras import need

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

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
        # kornia draws from torch's generator of the CPU, wherever the pictures lie: seeded here,
        # and put back as it was. That of a GPU is Dropout's, in another thread.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)
            for operation in operations:
                values = operation(values)
        values = values * peak
        return values.permute(0, 2, 3, 1) if layout == "NHWC" else values

    return augment


@functools.lru_cache(maxsize=8)
def _operations(strength: str, flip: bool, height: int, width: int) -> tuple[Any, ...]:
    # Slow to import, and not needed without augmentation.
    kornia = need("kornia.augmentation", "augmenting pictures")
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


class Views(Samples):
    """Augmented views of pictures, as samples: view v of picture i is sample v · n + i, 0 ≤ v.

    A view is a function of its picture, its number and the seed alone, whatever is read beside it.
    The picture as it is is not among them.
    """

    is_images = True

    def __init__(self, samples: Samples, views: int, strength: str, *, seed: int) -> None:
        """Vary every picture `views` times.

        Args:
            samples: pictures, all of those that are asked for readable.
            views: how many of each, ≥ 1.
            strength: `light` or `strong`.
            seed: of all variation.

        Raises:
            UnknownNameError: another strength.
        """
        augment = augmentation(strength, layout="NHWC")
        assert augment is not None
        super().__init__(Given(inputs=samples.inputs, names=list(samples.names) * views))
        self.preprocess = samples.preprocess
        self.pictures = samples
        self._augment = augment
        self._rule = [strength, seed, version("kornia"), version("torch")]
        self._seed = seed
        # The augmentation seeds torch's global generator for a while.
        self._drawing = threading.Lock()
        self._place = next(i.name for i in samples.inputs if len(i.shape or (0,) * 4) == 4)

    def content_sha256(self, indices: NDArray[np.int64] | None = None) -> str:
        """Hash of the pictures' bytes, of how they are varied, and of which views are meant."""
        chosen = np.arange(self.n) if indices is None else np.asarray(indices, np.int64)
        total = hashlib.sha256(json.dumps(self._rule).encode())
        total.update(self.pictures.content_sha256(chosen % self.pictures.n).encode())
        total.update(chosen.astype("<i8").tobytes() + str(self.pictures.n).encode())
        return total.hexdigest()

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Decode, vary and normalize.

        Raises:
            DataError: a picture cannot be read.
        """
        chosen = np.asarray(indices, np.int64)
        values = self.normalize(self.images(chosen))
        if len(self.inputs) == 1:
            return Batch(chosen, {self._place: values})
        feeds = self.pictures.batch(chosen % self.pictures.n)
        return Batch(chosen, {**feeds, self._place: values})

    def images(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return views [n, H, W, C], before normalisation."""
        chosen = np.asarray(indices, np.int64)
        pixels = self.pictures.images(chosen % self.pictures.n)
        for row, index in enumerate(chosen):
            entropy = np.random.SeedSequence([self._seed, int(index)])
            seed = int(entropy.generate_state(1)[0])
            with self._drawing:
                varied = self._augment(torch.from_numpy(pixels[row : row + 1]), seed)
            pixels[row] = varied[0].round().clamp(0, 255).to(torch.uint8).numpy()
        return pixels

    def normalize(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Turn views into the values of the graph's input."""
        return self.pictures.normalize(images)
