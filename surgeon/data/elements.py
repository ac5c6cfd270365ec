"""What a graph input takes: its element type in numpy, and the casts that lose nothing.

What must not enter: samples, preprocessing, any cast that rounds but float64 to float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surgeon.records import TensorInfo

_DTYPES = {"float": "float32", "double": "float64", "string": "object", "bool": "bool"}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy type of an ONNX element type in lower case; text is `object`.

    Raises:
        DataError: an element type that numpy cannot hold (packed 4-bit types, for example).
    """
    if name.startswith(("bfloat16", "float8")):
        import ml_dtypes

        spelling = {"float8e4m3fn": "float8_e4m3fn", "float8e5m2": "float8_e5m2"}
        scalar: type[Any] = getattr(ml_dtypes, spelling.get(name, name))
        return np.dtype(scalar)
    try:
        return np.dtype(_DTYPES.get(name, name))
    except TypeError:
        message = f"a graph input of element type {name} cannot be fed"
        raise DataError(message, remedy="take another export of the model") from None


class UnfitError(Exception):
    """What is wrong with one array; stays inside this file."""


def cast(array: NDArray[Any], info: TensorInfo) -> NDArray[Any]:
    """Do the two casts the contract allows, exactly, and refuse NaN."""
    wanted = numpy_dtype(info.dtype)
    if array.dtype.kind == "f":
        bad = np.isnan(array)
        if bad.any():
            message = f"holds NaN, first at index {first_of(bad)}"
            raise UnfitError(message)
    if info.dtype == "string" and array.dtype.kind in "US":
        return np.array([as_text(item) for item in array.ravel()], object).reshape(array.shape)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == wanted:
        return array
    if array.dtype.kind in "iu" and wanted.kind in "iu":
        bounds = np.iinfo(wanted)
        bad = (array < bounds.min) | (array > bounds.max)
        if bad.any():
            where = first_of(bad)
            message = f"holds {array[where]} at index {where}, out of range for {info.dtype}"
            raise UnfitError(message)
        return array.astype(wanted)
    if array.dtype == np.float64 and wanted == np.float32:
        with np.errstate(over="ignore"):
            single = array.astype(np.float32)
        bad = np.isinf(single) & ~np.isinf(array)
        if bad.any():
            message = f"holds a value too large for float32 at index {first_of(bad)}"
            raise UnfitError(message)
        return single
    message = f"has element type {array.dtype}, the graph takes {info.dtype}"
    raise UnfitError(message)


def all_text(array: NDArray[Any]) -> bool:
    """Say whether an array of objects holds nothing but text."""
    return all(isinstance(item, str) for item in array.ravel())


def as_text(item: Any) -> str:
    """Return an element of a text array as text."""
    return item.decode("utf-8", errors="replace") if isinstance(item, bytes) else str(item)


def first_of(bad: NDArray[np.bool_]) -> tuple[int, ...]:
    """Return the index of the first that is true."""
    return tuple(int(part) for part in np.unravel_index(int(bad.argmax()), bad.shape))


def shape_text(info: TensorInfo) -> str:
    """Return the shape that a graph input declares, for a message."""
    dims = ["?" if dim is None else str(dim) for dim in info.shape or ()]
    return f"[{', '.join(dims)}]"


def describe(info: TensorInfo) -> str:
    """Return name, element type and shape of a graph input, for a message."""
    return f"{info.name} ({info.dtype} {shape_text(info) if info.shape is not None else '[...]'})"
