"""Pictures: decoded on demand, turned upright, brought to RGB and to size, normalized.

A picture becomes values in one pass: decode (JPEG at a reduced scale where it is far too large),
resize, and one table look-up per channel that writes straight into the batch. What must not enter:
augmentation (that is done on the device, in batches) and guessing of preprocessing.

Decisions: transparency is laid over white; 16-bit grey is divided by 257, so that 65535 becomes
255, and grey of fewer bits by its own largest value, where the file (TIFF) or the preprocessing
(`bits`) says so, never by the largest value found, which differs between pictures; of animations
the first frame is taken; 32-bit and floating-point pixels have no stated range and are refused.
"""

from __future__ import annotations

import contextlib
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from surgeon.data.elements import numpy_dtype
from surgeon.data.media.formats import open_picture
from surgeon.data.samples import Batch, Failure
from surgeon.data.sources import SourceSamples, UnreadableError, broken, content_of, describe_inputs
from surgeon.errors import DataError, UsageError
from surgeon.graph.preprocess import missing_preprocess
from surgeon.records import Preprocess, as_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from surgeon.data.samples import Given
    from surgeon.records import TensorInfo
    from surgeon.tasks.base import Answers

# Files with other endings are passed over and counted.
SUFFIXES = tuple(
    f".{ending}"
    for ending in (
        *("jpg", "png", "jpeg", "jpe", "jfif", "apng", "bmp", "dib", "gif", "webp", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "tga", "jp2", "j2k", "avif", "ico", "pcx"),
    )
)
IMAGE_DTYPES = frozenset({"float", "float16", "uint8"})
_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
_ORIENTATION = 0x0112  # the EXIF tag
_ON_THEIR_SIDE = (5, 6, 7, 8)  # its values of pictures whose width is stored as their height
_BITS_PER_SAMPLE = 258  # the TIFF tag
_DEPTH_SAMPLES = 16  # pictures that are opened to see whether 16 bits are used
_LOOKED_AT = 16  # pictures whose size is looked at, to say how many are read at once
_BRIGHT = 14  # bits above which a picture of 16 bits is no darker than a quarter
# A JPEG is decoded at 1/2, 1/4 or 1/8 only while it stays this much larger than needed, so that
# the resize behind it still decides how the picture looks.
_DRAFT_GAP = 2

# Decoders warn about every oddity of a file that they read all the same; what they cannot read is
# reported as a failure. Per-call filters are not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


def image_input(
    inputs: Sequence[TensorInfo], constants: Mapping[str, NDArray[Any]]
) -> TensorInfo | None:
    """Return the one graph input that takes pictures, or None where there is not exactly one.

    It has rank 4, samples along axis 0, and is float, float16 or uint8; constants do not count.
    """
    open_inputs = [info for info in inputs if info.name not in constants]
    if len(open_inputs) != 1:
        return None
    info = open_inputs[0]
    ranked = info.shape is None or len(info.shape) == 4
    return info if ranked and info.batch_axis in {0, None} and info.dtype in IMAGE_DTYPES else None


def require_image_input(
    inputs: Sequence[TensorInfo], constants: Mapping[str, NDArray[Any]]
) -> TensorInfo:
    """Return the one graph input that takes pictures.

    Raises:
        DataError: there is not exactly one.
    """
    info = image_input(inputs, constants)
    if info is None:
        raise DataError(
            "the model does not take pictures: exactly one input of rank 4 is needed",
            where=describe_inputs(inputs),
            remedy="give an .npz, or the other inputs as constants: --input NAME=VALUE",
        )
    return info


class ImageSamples(SourceSamples):
    """Pictures, from files or from bytes, for the one graph input that takes pictures."""

    is_images = True
    rule = Preprocess

    @classmethod
    def takes(cls, inputs: Sequence[TensorInfo], constants: Mapping[str, Any]) -> bool:
        """Say whether there is exactly one input for pictures."""
        return image_input(inputs, constants) is not None

    @classmethod
    def missing(cls, where: str | None) -> UsageError:
        """Return the error where nothing says how pictures become values."""
        return missing_preprocess(where)

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        info = require_image_input(self.inputs, self._constants)
        preprocess = given.rule
        assert isinstance(preprocess, Preprocess)
        self.preprocess = preprocess
        self._info = info
        self.ragged = preprocess.embedded
        if not self.ragged:
            self._check_shape()
            self._table = _value_table(preprocess, info)

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Decode pictures straight into one batch; those of a ragged one stay apart."""
        if self.ragged:
            return self._read_apart(indices)
        values = np.empty((len(indices), *self._sample_shape), self._table.dtype)
        kept: list[int] = []
        failures: list[Failure] = []
        for index in (int(i) for i in indices):
            try:
                pixels = self._decode(index)
            except UnreadableError as error:
                failures.append(Failure(index, self.names[index], str(error)))
                continue
            self._fill(values[len(kept)], pixels)
            kept.append(index)
        self._note(failures)
        feeds = self._complete({self._info.name: values[: len(kept)]}, len(kept))
        return Batch(np.array(kept, np.int64), feeds, tuple(failures))

    def _read_apart(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Decode pictures and turn them upright: all else is done in the graph."""
        kept: list[int] = []
        found: list[NDArray[np.uint8]] = []
        failures: list[Failure] = []
        for index in (int(i) for i in indices):
            try:
                found.append(self._decode(index))
                kept.append(index)
            except UnreadableError as error:
                failures.append(Failure(index, self.names[index], str(error)))
        self._note(failures)
        values = np.empty(len(found), object)
        values[:] = found
        if len({one.shape for one in found}) == 1:
            values = np.stack(found)
        if not found:
            values = np.zeros((0, *self._largest_size(), 3), np.uint8)
        feeds = self._complete({self._info.name: values}, len(kept))
        return Batch(np.array(kept, np.int64), feeds, tuple(failures))

    def _largest_size(self) -> tuple[int, int]:
        """Return height and width of the largest of a few pictures."""
        sizes = [(1, 1)]
        for place in np.linspace(0, self.n - 1, min(self.n, _LOOKED_AT)).astype(int).tolist():
            with contextlib.suppress(Exception):  # it is told of when it is read as a sample
                sizes.append(self.size_of(place) or (1, 1))
        return max(sizes, key=lambda size: size[0] * size[1])

    def answers_along(self, kept: Sequence[str]) -> Answers | None:
        """Return masks, or what else has a place, in the geometry of what the graph is given."""
        fitted = getattr(self.answers, "fitted", None)
        if not kept or fitted is None:
            return self.answers
        placed: Answers = fitted(self._sources, self.preprocess)
        return placed

    def images(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return pictures [n, H, W, C] resized, before normalisation, in RGB (or L) order."""
        assert self.preprocess is not None
        if self.ragged:
            return super().images(indices)
        channels = 1 if self.preprocess.channels == "L" else 3
        pixels = np.empty((len(indices), *self.preprocess.size, channels), np.uint8)
        for row, index in enumerate(indices):
            try:
                pixels[row] = self._decode(int(index))
            except UnreadableError as error:
                self._note([Failure(int(index), self.names[int(index)], str(error))])
                where = self.names[int(index)]
                raise DataError(str(error), where=where, remedy="repair or remove it") from None
        return pixels

    def size_of(self, index: int) -> tuple[int, int] | None:
        """Return (height, width) of a picture, upright."""
        with self._opened(index) as file:
            turned = file.getexif().get(_ORIENTATION, 1) in _ON_THEIR_SIDE
            return file.size if turned else (file.height, file.width)

    def _opened(self, index: int) -> AbstractContextManager[Image.Image]:
        return open_picture(self._sources[index], str(self.names[index]))

    def normalize(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Turn pictures [n, H, W, C] into the values of the graph's input, in its layout."""
        values = np.empty((len(images), *self._sample_shape), self._table.dtype)
        for row, pixels in enumerate(images):
            self._fill(values[row], pixels)
        return values

    def _fill(self, values: NDArray[Any], pixels: NDArray[np.uint8]) -> None:
        assert self.preprocess is not None
        _fill(values, pixels, self._table, self.preprocess)

    def _decode(self, index: int) -> NDArray[np.uint8]:
        assert self.preprocess is not None
        try:
            with self._opened(index) as file:
                pixels = _pixels(file, self.preprocess)
        except (KeyboardInterrupt, MemoryError, UnreadableError):
            raise
        except Exception as error:  # noqa: BLE001 - decoders raise anything on broken files
            text = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, UnidentifiedImageError):
                text = "not a picture, or broken at its start"
            raise broken(content_of(self._sources[index]), text) from None
        return pixels

    def _own_notes(self) -> list[str]:
        return [] if self._dark is None else [self._dark]

    @cached_property
    def _dark(self) -> str | None:
        """What to say where pictures of 16 bits seem to have fewer, and come out nearly black."""
        assert self.preprocess is not None
        if self.preprocess.bits is not None or not self.n:
            return None
        places = np.linspace(0, self.n - 1, min(self.n, _DEPTH_SAMPLES)).astype(int)
        found = [self._largest(index) for index in places.tolist()]
        deep = [pair for pair in found if pair is not None]
        most = max((value for value, _ in deep), default=65535)
        if most.bit_length() > _BRIGHT:
            return None
        bits = max(most.bit_length(), 9)
        remedy = f'add "bits": {bits} to --preprocess'
        if not all(grey for _, grey in deep):
            remedy = "scale them to 16 or 8 bits"
        return (
            f"no value of {len(deep)} pictures of 16 bits is above {most}: they come out nearly "
            f"black; if they have {bits} bits, {remedy}"
        )

    def _largest(self, index: int) -> tuple[int, bool] | None:
        """Return the largest value of a picture of 16 bits, and whether it is grey; else None."""
        try:
            with self._opened(index) as file:
                grey, read_as = file.mode.startswith("I"), str(getattr(file, "tile", ""))
                if _declared(file) is not None or not (grey or ";16" in read_as):
                    return None
                most = int(np.asarray(file).max())
                return (most, True) if grey else (256 * most + 255, False)  # the upper byte is kept
        except Exception:  # noqa: BLE001 - it is told of when it is read as a sample
            return None

    def _rule(self) -> dict[str, Any]:
        return {**as_json(self.preprocess), "source": None}

    @cached_property
    def _sample_shape(self) -> tuple[int, int, int]:
        assert self.preprocess is not None
        (height, width), channels = self.preprocess.size, len(self._table)
        if self.preprocess.layout == "NCHW":
            return channels, height, width
        return height, width, channels

    def _check_shape(self) -> None:
        assert self.preprocess is not None
        if self._info.shape is None:
            return
        channels = 1 if self.preprocess.channels == "L" else 3
        given = (channels, *self.preprocess.size)
        if self.preprocess.layout == "NHWC":
            given = (*self.preprocess.size, channels)
        expected = self._info.shape[1:]
        pairs = zip(given, expected, strict=True)
        if any(isinstance(dim, int) and dim != size for size, dim in pairs):
            raise UsageError(
                f"preprocessing gives pictures of shape {list(given)}, "
                f"the graph takes {list(expected)}",
                where=f"graph input {self._info.name!r}",
                remedy="correct --size, or layout and channels in --preprocess",
            )


def as_values(image: Image.Image, preprocess: Preprocess, info: TensorInfo) -> NDArray[Any]:
    """Return what an upright picture becomes for a graph's input, without the batch."""
    mode = "L" if preprocess.channels == "L" else "RGB"
    pixels = np.asarray(fit(_to_mode(image, mode), preprocess, _FILTERS[preprocess.resize]))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    first = preprocess.layout == "NCHW"
    table = _value_table(preprocess, info)
    shape = (pixels.shape[-1], *preprocess.size) if first else pixels.shape
    values = np.empty(shape, table.dtype)
    _fill(values, pixels, table, preprocess)
    return values


def _fill(
    values: NDArray[Any], pixels: NDArray[np.uint8], tables: NDArray[Any], preprocess: Preprocess
) -> None:
    """Write the values of pixels [H, W, C], each by the table of its channel."""
    planes = pixels[..., ::-1] if preprocess.channels == "BGR" else pixels
    for channel, table in enumerate(tables):
        target = values[channel] if preprocess.layout == "NCHW" else values[..., channel]
        # "clip" spares the check of bounds; a byte is never out of 256.
        np.take(table, planes[..., channel], out=target, mode="clip")


def _value_table(preprocess: Preprocess, info: TensorInfo) -> NDArray[Any]:
    """Return the values of every pixel value, [channels, 256], in the input's element type."""
    channels = 1 if preprocess.channels == "L" else 3
    mean = np.broadcast_to(np.array(preprocess.mean, np.float64), channels)[:, None]
    std = np.broadcast_to(np.array(preprocess.std, np.float64), channels)[:, None]
    exact = (np.arange(256) * preprocess.scale - mean) / std
    dtype = numpy_dtype(info.dtype)
    if dtype != np.uint8:
        return exact.astype(dtype)
    # An integer input takes whole numbers: a table such as 0..1 would lose everything.
    if np.abs(exact - exact.round()).max() > 1e-6 or exact.min() < 0 or exact.max() > 255.5:
        raise UsageError(
            "the preprocessing gives values that a uint8 input cannot hold",
            where=f"graph input {info.name!r}",
            remedy="give --preprocess raw: the graph normalizes by itself",
        )
    return exact.round().astype(np.uint8)


def _pixels(file: Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Decode, turn upright, convert and resize: [H, W, C] uint8."""
    height, width = preprocess.size
    longest = _DRAFT_GAP * max(height, width)
    drafts = preprocess.draft and preprocess.resize != "nearest" and not preprocess.embedded
    if file.format == "JPEG" and drafts:
        # The scale must suit the shorter side, and a turned picture swaps its sides.
        shorter = min(file.size)
        if shorter > longest:
            file.draft(None, (longest, longest))
    image: Image.Image = file
    if file.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(file)
    top = 2 ** (_declared(file) or preprocess.bits or 16) - 1
    if preprocess.embedded:
        return np.array(_to_mode(image, "RGB", top))
    image = _to_mode(image, "L" if preprocess.channels == "L" else "RGB", top)
    pixels = np.asarray(fit(image, preprocess, _FILTERS[preprocess.resize]))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def fit(image: Image.Image, preprocess: Preprocess, filter_: Image.Resampling) -> Image.Image:
    """Bring a picture, or a mask, to the size of a preprocessing."""
    height, width = preprocess.size
    if preprocess.fit == "crop":
        return _crop(image, (width, height), filter_)
    return _resized(image, (width, height), filter_)


def _resized(image: Image.Image, size: tuple[int, int], filter_: Image.Resampling) -> Image.Image:
    """Resize along the width, then along the height.

    In one call Pillow takes them in the order that is faster, which differs between its versions;
    it rounds to bytes in between, so that the order decides some pixels.
    """
    for passed in ((size[0], image.height), size):
        if image.size != passed:
            image = image.resize(passed, filter_)
    return image


def _crop(image: Image.Image, size: tuple[int, int], filter_: Image.Resampling) -> Image.Image:
    """Resize so that the picture just covers `size`, then cut out its centre."""
    width, height = size
    ratio = max(width / image.width, height / image.height)
    covering = (
        max(width, int(image.width * ratio + 1e-6)),
        max(height, int(image.height * ratio + 1e-6)),
    )
    image = _resized(image, covering, filter_)
    left, top = round((covering[0] - width) / 2), round((covering[1] - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _to_mode(image: Image.Image, mode: str, top: int = 65535) -> Image.Image:
    """Convert any picture to RGB or L: transparency over white, grey up to `top` to 8 bits."""
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        image = _to_8_bit(image, top)
    elif image.mode == "F":
        message = "floating-point pixels have no stated range"
        raise UnreadableError(message)
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == mode else image.convert(mode)


def _declared(file: Image.Image) -> int | None:
    """Return the bits of grey values where a file says fewer than the 16 they are stored in."""
    tags = getattr(file, "tag_v2", None)
    bits = None if tags is None else tags.get(_BITS_PER_SAMPLE)
    return int(bits[0]) if bits and len(bits) == 1 and 8 < bits[0] < 16 else None


def _to_8_bit(image: Image.Image, top: int) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        message = "32-bit pixels have no stated range"
        raise UnreadableError(message)
    # For 65535 this is (value + 128) // 257.
    return Image.fromarray(np.minimum((values * 255 + top // 2) // top, 255).astype(np.uint8))
