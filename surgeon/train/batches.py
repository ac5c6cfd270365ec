"""Samples as the training loop wants them: by position, on the CPU, read ahead in a thread.

Pictures are decoded once and kept as bytes where they fit into memory; they are augmented and
normalized on the device.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from surgeon.train.augment import augmentation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from surgeon.data.samples import Samples
    from surgeon.records import Preprocess
    from surgeon.runtime.features import Features

MEMORY = 4 * 2**30
"""Bytes of decoded pictures that are kept in memory."""


class Pictures:
    """All pictures of a data set as bytes, decoded when first asked for.

    Attributes:
        samples: where they come from.
        readable: [n] bool, False for pictures that could not be decoded.
    """

    def __init__(self, samples: Samples, progress: Callable[..., None] | None = None) -> None:
        self.samples = samples
        pre = samples.preprocess
        assert pre is not None
        channels = 1 if pre.channels == "L" else 3
        shape = (samples.n, *pre.size, channels)
        self.readable = np.ones(samples.n, bool)
        self._kept: NDArray[np.uint8] | None = None
        if int(np.prod(shape, dtype=np.int64)) <= MEMORY:
            self._kept = self._decode(np.empty(shape, np.uint8), progress)

    def _decode(
        self, kept: NDArray[np.uint8], progress: Callable[..., None] | None
    ) -> NDArray[np.uint8]:
        from surgeon.errors import DataError

        def one(index: int) -> None:
            try:
                kept[index] = self.samples.images([index])[0]
            except DataError:
                if len(self.samples.failed) > 0.05 * self.samples.n:
                    raise
                self.readable[index] = False

        with ThreadPoolExecutor() as pool:
            for done, _ in enumerate(pool.map(one, range(self.samples.n)), 1):
                if progress is not None and (done % 256 == 0 or done == self.samples.n):
                    progress("decoding", done, self.samples.n)
        return kept

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return pictures [k, H, W, C]."""
        return self.samples.images(indices) if self._kept is None else self._kept[indices]


class PictureBatches:
    """Pictures for the one image input of a graph; other inputs are constants."""

    def __init__(
        self,
        pictures: Pictures,
        indices: NDArray[np.int64],
        targets: NDArray[Any],
        inputs: Sequence[str],
        strength: str,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.pictures = pictures
        self.indices = indices
        self.targets = targets[indices]
        pre = pictures.samples.preprocess
        assert pre is not None
        self._pre: Preprocess = pre
        self._dtype = dtype
        names = {info.name: info for info in pictures.samples.inputs}
        self._place = next(
            place for place, name in enumerate(inputs) if len(names[name].shape or (0,) * 4) == 4
        )
        self._others = [name for place, name in enumerate(inputs) if place != self._place]
        self._augment = augmentation(strength, layout="NHWC")
        self.beside: dict[str, NDArray[Any]] = {}

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.indices)

    def load(self, indices: NDArray[np.int64]) -> tuple[Tensor | None, ...]:
        """Return the pictures as bytes [k, H, W, C] at the image input's place."""
        rows = self.indices[indices]
        pixels = torch.from_numpy(np.ascontiguousarray(self.pictures.read(rows)))
        if not self._others:
            return (pixels,)
        feeds = self.pictures.samples.batch(rows[:1])
        rest: list[Tensor | None] = [torch.from_numpy(feeds[name]) for name in self._others]
        rest.insert(self._place, pixels)
        return tuple(rest)

    def augment(self, inputs: tuple[Any, ...], seed: int) -> tuple[Any, ...]:
        """Vary the pictures on their device."""
        if self._augment is None:
            return inputs
        return self._with_picture(inputs, self._augment(inputs[self._place], seed))

    def prepare(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Turn pixels into what the graph takes."""
        values = normalized(inputs[self._place], self._pre, self._dtype)
        return self._with_picture(inputs, values)

    def _with_picture(self, inputs: tuple[Any, ...], picture: Tensor) -> tuple[Any, ...]:
        return (*inputs[: self._place], picture, *inputs[self._place + 1 :])


def normalized(pixels: Tensor, pre: Preprocess, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn pixels into what a graph takes, where they lie.

    Args:
        pixels: [n, H, W, C], 0..255 in RGB (or L) order.
        pre: (pixel · scale − mean) / std in float32, order of channels, layout.
        dtype: of the graph's input; whole numbers are rounded to.

    Returns:
        [n, C, H, W] or [n, H, W, C], channels last in memory in both.
    """
    values = pixels.to(torch.float32)
    if pre.channels == "BGR":
        values = values.flip(-1)
    if values.is_cuda and dtype.is_floating_point:  # one kernel for three
        shift, factor = (-np.array(pre.mean) / pre.std), pre.scale / np.array(pre.std)
        rows = [_row(tuple(row.tolist()), pixels.device) for row in (shift, factor)]
        values = torch.addcmul(rows[0], values, rows[1])
    else:
        mean, std = _row(tuple(pre.mean), pixels.device), _row(tuple(pre.std), pixels.device)
        values = (values * pre.scale - mean) / std
    if pre.layout == "NCHW":
        values = values.permute(0, 3, 1, 2)
    return values.to(dtype) if dtype.is_floating_point else values.round().to(dtype)


@functools.lru_cache(maxsize=16)
def _row(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return numbers on a device, copied there once: a copy from pageable memory stops the host."""
    with torch.inference_mode(mode=False):
        return torch.tensor(values, dtype=torch.float32, device=device)


class ValueBatches:
    """Values as the graph takes them, or features at the frontier."""

    def __init__(
        self,
        read: Callable[[NDArray[np.int64]], dict[str, NDArray[Any]]],
        targets: NDArray[Any],
        inputs: Sequence[str],
        *,
        widen: bool = False,
    ) -> None:
        self._read = read
        self._inputs = inputs
        self._widen = widen
        self.targets = targets
        self.beside: dict[str, NDArray[Any]] = {}

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.targets)

    def load(self, indices: NDArray[np.int64]) -> tuple[Tensor | None, ...]:
        """Return the inputs of these samples by position."""
        feeds = self._read(indices)
        tensors = [torch.from_numpy(np.array(feeds[name])) for name in self._inputs]
        half = (torch.float16, torch.bfloat16)
        return tuple(t.float() if self._widen and t.dtype in half else t for t in tensors)


def of_samples(samples: Samples, indices: NDArray[np.int64]) -> Callable[..., Any]:
    """Return the reader of graph inputs by position among `indices`."""
    return lambda positions: samples.batch(indices[positions])


def of_features(features: Features, rows: NDArray[np.int64]) -> Callable[..., Any]:
    """Return the reader of frontier tensors by position among `rows` (positions in `features`)."""
    return lambda positions: features.read(rows[positions])[0]


def keep_batch(module: Any, size: int, axes: Sequence[int | None]) -> None:
    """Let a module whose graph insists on a batch size take any batch, in pieces of that size.

    The last piece is filled up by repeating its last sample; the repeats' outputs are discarded, so
    they carry no gradient.

    Args:
        module: converted; changed in place.
        size: the batch the graph insists on.
        axes: batch axis of every input, None where it has none.
    """
    whole = module.forward

    def forward(*inputs: Any) -> Any:
        count = next(
            value.shape[axis]
            for value, axis in zip(inputs, axes, strict=True)
            if axis is not None and value is not None
        )
        pieces = [
            whole(
                *(
                    value
                    if axis is None or value is None
                    else value.index_select(axis, _rows(start, size, count, value.device))
                    for value, axis in zip(inputs, axes, strict=True)
                )
            )
            for start in range(0, count, size)
        ]
        if isinstance(pieces[0], tuple):
            return tuple(torch.cat(parts)[:count] for parts in zip(*pieces, strict=True))
        return torch.cat(pieces)[:count]

    module.__dict__["forward"] = forward


def _rows(start: int, size: int, count: int, device: torch.device) -> Tensor:
    """Return the places of a piece, the last one repeated; made on the device itself."""
    return torch.arange(start, start + size, device=device).clamp(max=count - 1)
