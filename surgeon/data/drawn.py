"""Masks written as pictures of class numbers, of the size of the picture that each is of.

What must not enter: which class a pixel has, reading of masks.
"""

from __future__ import annotations

import colorsys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from surgeon.errors import OutputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surgeon.records import Preprocess

NONE = 255
"""What a pixel holds that the network did not see: the rim that was cut off."""
_GOLDEN = 0.618034
"""Step of hues, of a whole turn: colours of neighbouring classes lie far apart."""


class Drawings:
    """A new folder of masks."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, made when the first mask is written.

        Raises:
            OutputError: something is there already.
        """
        self.folder = Path(folder)
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise OutputError(
                "it is there already, and masks would be written over what it holds",
                where=str(folder),
                remedy="name a new or empty folder with --masks",
            )

    def write(
        self,
        name: str,
        codes: NDArray[np.int64],
        size: tuple[int, int] | None = None,
        preprocess: Preprocess | None = None,
    ) -> Path:
        """Write one mask as PNG: a palette of up to 255 classes, else grey of 16 bits.

        Args:
            name: of the sample; the file has its stem, and a number behind an equal one.
            codes: [height, width] as the network gives them, below 65,535.
            size: (height, width) of the picture it is of, upright; None = that of the codes.
            preprocess: how that became the network's input.

        Raises:
            OutputError: the file cannot be written.
        """
        wide = bool(codes.max(initial=0) >= NONE)
        mask = Image.fromarray(codes.astype(np.uint16 if wide else np.uint8))
        if size is not None:
            crop = preprocess is not None and preprocess.fit == "crop"
            mask = _as_large_as(mask, size, crop=crop, none=65535 if wide else NONE)
        if not wide:
            mask.putpalette(_palette())
        stem = Path(name).stem or "mask"
        stems = (stem if number == 1 else f"{stem}.{number}" for number in count(1))
        path = next(path for one in stems if not (path := self.folder / f"{one}.png").exists())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            mask.save(path)
        except OSError as error:
            raise OutputError(
                f"the mask cannot be written: {error}",
                where=str(path),
                remedy="name another folder with --masks",
            ) from error
        return path


def _as_large_as(mask: Image.Image, size: tuple[int, int], *, crop: bool, none: int) -> Image.Image:
    """Return a mask as large as its picture, by the nearest pixel; what was cut off is `none`."""
    height, width = size
    if not crop:
        return mask.resize((width, height), Image.Resampling.NEAREST)
    ratio = max(mask.width / width, mask.height / height)
    seen = (min(width, round(mask.width / ratio)), min(height, round(mask.height / ratio)))
    whole = Image.new(mask.mode, (width, height), none)
    place = (round((width - seen[0]) / 2), round((height - seen[1]) / 2))
    whole.paste(mask.resize(seen, Image.Resampling.NEAREST), place)
    return whole


def _palette() -> list[int]:
    """Return red, green and blue of 256 classes: class 0 black, what was not seen white."""
    hues = (_GOLDEN * code % 1.0 for code in range(254))
    rest = [int(255 * part) for hue in hues for part in colorsys.hsv_to_rgb(hue, 0.75, 0.95)]
    return [0, 0, 0, *rest, 255, 255, 255]
