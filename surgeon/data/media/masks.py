"""Masks beside pictures: the class of every pixel, brought to the geometry of what the graph takes.

A grey or palette value is the class; nothing is interpolated between values. What must not enter:
what a value means (the task knows), and which mask belongs to which picture.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from surgeon.data.media.pictures import fit
from surgeon.data.sources import UnreadableError, content_of
from surgeon.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from surgeon.data.samples import Source
    from surgeon.records import Preprocess

_ORIENTATION = 0x0112  # the EXIF tag
_AT_ONCE = 64
_TURNED = (5, 6, 7, 8)  # orientations that swap the sides


class Masks(Sequence[Any]):
    """Masks of samples, read when they are asked for: integers [H, W].

    Attributes:
        pixels: that these are answers of pixels, for `surgeon.tasks.forms`.
    """

    pixels = True

    def __init__(
        self,
        sources: Sequence[Source],
        names: Sequence[str],
        pictures: Sequence[Source] = (),
        preprocess: Preprocess | None = None,
    ) -> None:
        """Take where masks lie.

        Args:
            sources: of the masks.
            names: of the masks, for messages.
            pictures: that the masks are of, where sizes are compared.
            preprocess: the geometry that they are brought to; None = as they are.
        """
        self._sources, self._names = sources, names
        self._pictures, self._preprocess = pictures, preprocess

    def fitted(self, pictures: Sequence[Source], preprocess: Preprocess) -> Masks:
        """Return the same in the geometry of pictures that are preprocessed."""
        return Masks(self._sources, self._names, pictures, preprocess)

    def __len__(self) -> int:
        """Return n."""
        return len(self._sources)

    def __getitem__(self, at: Any) -> Any:
        """Return one mask, or those of a slice."""
        if not isinstance(at, slice):
            return self._read(range(len(self))[int(at)])
        pictures = self._pictures[at] if self._pictures else ()
        return Masks(self._sources[at], self._names[at], pictures, self._preprocess)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield every mask; some are decoded ahead."""
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(self), _AT_ONCE):
                yield from pool.map(self._read, range(start, min(len(self), start + _AT_ONCE)))

    def __add__(self, other: Masks) -> Any:
        """Return both, one behind the other."""
        if self._preprocess is not None and other._preprocess is not None:
            return [*self, *other]
        return Masks([*self._sources, *other._sources], [*self._names, *other._names])

    @cached_property
    def texts(self) -> list[str]:
        """What says each mask, for a hash: that of its file."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(_digest, self._sources, chunksize=_AT_ONCE))

    def _read(self, at: int) -> NDArray[Any]:
        """Return a mask.

        Raises:
            DataError: it cannot be read, holds colours, or is of another size than its picture.
        """
        try:
            image = _upright(content_of(self._sources[at]))
            values = _values(image)
        except UnreadableError as error:
            raise DataError(
                f"the mask cannot be used: {error}",
                where=self._names[at],
                remedy="save masks as grey or palette PNG, where a pixel's value is its class",
            ) from None
        if self._preprocess is None:
            return values
        size = _size(self._pictures[at])
        if size is not None and size != image.size:
            raise DataError(
                f"the mask is {image.width}x{image.height} pixels, its picture {size[0]}x{size[1]}",
                where=self._names[at],
                remedy="give each mask the size of its picture",
            )
        plain = Image.fromarray(values if values.dtype == np.uint8 else values.astype(np.int32))
        fitted = np.asarray(fit(plain, self._preprocess, Image.Resampling.NEAREST))
        return fitted.astype(values.dtype)


def _values(image: Image.Image) -> NDArray[Any]:
    """Return the value of each pixel, [H, W] integers; of colours that are grey, the grey."""
    if image.mode in {"RGB", "RGBA"}:
        red, green, blue = (np.asarray(image)[..., channel] for channel in range(3))
        if (red != green).any() or (red != blue).any():
            message = "it holds colours, not a class for each pixel"
            raise UnreadableError(message)
        return red
    if image.mode == "1":
        return np.asarray(image, np.uint8)
    if image.mode in {"L", "P"}:
        return np.asarray(image)
    if image.mode == "LA":
        return np.asarray(image)[..., 0]
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.int32)
    message = f"its pixels are of mode {image.mode}"
    raise UnreadableError(message)


def _upright(content: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(content)) as file:
            file.load()
            turned = file.getexif().get(_ORIENTATION, 1) != 1
            lossy = file.format == "JPEG"
            image = ImageOps.exif_transpose(file) if turned else file.copy()
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise anything on broken files
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            text = "not a picture, or broken at its start"
        raise UnreadableError(text) from None
    if lossy:
        message = "a JPEG does not keep values as they were"
        raise UnreadableError(message)
    return image


def _size(source: Source) -> tuple[int, int] | None:
    """Return width and height of a picture as it is shown; None where it cannot be read."""
    try:
        with Image.open(io.BytesIO(content_of(source))) as file:
            turned = file.getexif().get(_ORIENTATION, 1) in _TURNED
            return file.size[::-1] if turned else file.size
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - it is told of when it is read as a sample
        return None


def _digest(source: Source) -> str:
    try:
        return hashlib.sha256(content_of(source)).hexdigest()
    except UnreadableError as error:
        return f"unreadable: {error}"
