"""Series: one `.npy` or `.csv` file per sample, for a float input of rank 3.

The graph takes [batch, channels, length] or [batch, length, channels]; its fixed sizes decide which
way round a file goes. What must not enter: scaling, resampling or padding of series: values are
what the graph takes.

Decisions: the rows of a `.csv` are steps in time, its columns channels, and a first line without
numbers names them; a `.npy` that fits the graph both ways stays as it is.
"""

from __future__ import annotations

import io
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.data.elements import numpy_dtype
from surgeon.data.sources import UnreadableError, ValueSamples, broken, describe_inputs
from surgeon.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.data.samples import Given
    from surgeon.records import Dim, TensorInfo

_FLOATS = frozenset({"float", "float16", "double"})


def series_input(
    inputs: Sequence[TensorInfo], constants: Mapping[str, NDArray[Any]]
) -> TensorInfo | None:
    """Return the one graph input that takes series, or None where there is not exactly one.

    It is float and of rank 3; constants do not count.
    """
    open_inputs = [info for info in inputs if info.name not in constants]
    if len(open_inputs) != 1:
        return None
    info = open_inputs[0]
    ranked = info.shape is not None and len(info.shape) == 3
    return info if ranked and info.dtype in _FLOATS else None


class SeriesSamples(ValueSamples):
    """Series of one shape, a file each, for the one graph input that takes series."""

    @classmethod
    def takes(cls, inputs: Sequence[TensorInfo], constants: Mapping[str, Any]) -> bool:
        """Say whether there is exactly one input for series."""
        return series_input(inputs, constants) is not None

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        info = series_input(self.inputs, self._constants)
        if info is None or info.shape is None:
            raise DataError(
                "the model does not take series: exactly one float input of rank 3 is needed",
                where=describe_inputs(self.inputs),
                remedy="give an .npz, or the other inputs as constants: --input NAME=VALUE",
            )
        self._info = info
        axis = info.batch_axis or 0
        self._dims: tuple[Dim, ...] = (*info.shape[:axis], *info.shape[axis + 1 :])

    def _value(self, index: int) -> NDArray[Any]:
        value = self._oriented(index)
        wanted, named = self._sample_shape
        if value.shape != wanted:
            raise DataError(
                f"the series are not of one length: this one is {list(value.shape)}, "
                f"{named} is {list(wanted)}",
                where=self.names[index],
                remedy="cut or pad them to one length, or give an .npz with a mask",
            )
        return value

    def _nothing(self) -> NDArray[Any]:
        try:
            shape = self._sample_shape[0]
        except DataError:
            if self.failure_bound < 1:
                raise
            # None can be read, which is said of each.
            shape = tuple(dim if isinstance(dim, int) else 1 for dim in self._dims)
        return np.zeros((0, *shape), numpy_dtype(self._info.dtype))

    def _rule(self) -> dict[str, Any]:
        return {"series": list(self._dims)}

    @cached_property
    def _sample_shape(self) -> tuple[tuple[int, ...], str]:
        """The shape of the first series that can be read, and its name."""
        for index in range(self.n):
            try:
                return self._oriented(index).shape, self.names[index]
            except UnreadableError:
                continue
        raise DataError(
            f"none of {self.n} series can be read",
            where=self.names[0] if self.n else None,
            remedy="give .npy arrays [channels, length], or .csv files with a column per channel",
        )

    def _oriented(self, index: int) -> NDArray[Any]:
        """Read one series and turn it as the graph takes it."""
        is_table = Path(self.names[index]).suffix.lower() == ".csv"
        content = self._content(index)
        value = _read_csv(content) if is_table else _read_npy(content)
        value = value[:, None] if value.ndim == 1 and is_table else np.atleast_2d(value)
        if value.ndim != 2 or not value.size:
            message = f"its shape is {list(value.shape)}, not [channels, length]"
            raise UnreadableError(message)
        if not np.isfinite(value).all():
            message = "it holds NaN or infinity"
            raise UnreadableError(message)
        straight, turned = _fits(value.shape, self._dims), _fits(value.shape[::-1], self._dims)
        if not straight and not turned:
            message = f"its shape is {list(value.shape)}, the graph takes {list(self._dims)}"
            raise UnreadableError(message)
        if straight and turned and is_table:
            turned = self._channels_first()
        elif straight:
            turned = False
        return np.asarray(value.T if turned else value, numpy_dtype(self._info.dtype))

    def _channels_first(self) -> bool:
        """Say whether the graph's first inner axis is the channels: the fixed one is."""
        first, second = (isinstance(dim, int) for dim in self._dims)
        if first == second:
            raise DataError(
                "which axis of the graph is time is not clear",
                where=describe_inputs([self._info]),
                remedy="save the series as .npy, in the graph's own order",
            )
        return first


def _fits(shape: tuple[int, ...], dims: Sequence[Dim]) -> bool:
    pairs = zip(shape, dims, strict=True)
    return all(not isinstance(dim, int) or dim == size for size, dim in pairs)


def _read_npy(content: bytes) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise broken(content, f"not a readable .npy: {error}") from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iuf":
        message = "it does not hold one array of numbers"
        raise UnreadableError(message)
    return found


def _read_csv(content: bytes) -> NDArray[np.float64]:
    try:
        lines = [line for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        message = "not UTF-8"
        raise UnreadableError(message) from None
    mark = ";" if lines and ";" in lines[0] and "," not in lines[0] else ","
    if lines and not any(_is_number(cell) for cell in lines[0].split(mark)):
        lines = lines[1:]
    if not lines:
        message = "it holds no numbers"
        raise UnreadableError(message)
    try:
        return np.array([[float(cell) for cell in line.split(mark)] for line in lines])
    except ValueError as error:
        raise broken(content, f"not a table of numbers: {str(error).splitlines()[0]}") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
