"""Constant values of graph inputs: `--input NAME=VALUE`. What must not enter: samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.data.elements import UnfitError, cast, numpy_dtype, shape_text
from surgeon.errors import UnknownNameError, UsageError
from surgeon.graph.reading import parse_json

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from numpy.typing import NDArray

    from surgeon.records import TensorInfo


def parse_constants(
    options: Sequence[str] | Mapping[str, Any], inputs: Sequence[TensorInfo]
) -> dict[str, NDArray[Any]]:
    """Read `--input NAME=VALUE`: VALUE is JSON (number, true, list), or plain text for text inputs.

    Returns:
        For each name the value in the input's element type, of the input's shape without its batch
        axis; a single number fills the whole shape.

    Raises:
        UsageError: not NAME=VALUE, no such input, or a value the input cannot take.
    """
    known = {info.name: info for info in inputs}
    if isinstance(options, Mapping):
        pairs = list(options.items())
    else:
        pairs = [_pair(option, known) for option in options]
    constants: dict[str, NDArray[Any]] = {}
    for name, value in pairs:
        if name not in known:
            raise UnknownNameError("graph input", name, known, where="--input")
        constants[name] = _constant(value, known[name])
    return constants


def _constant(value: Any, info: TensorInfo) -> NDArray[Any]:
    where = f"--input {info.name}"
    wanted = numpy_dtype(info.dtype)
    try:
        array = np.asarray(value, object if info.dtype == "string" else None)
    except ValueError:
        message = f"the value of {info.name} is not a regular list of numbers"
        raise UsageError(message, where=where, remedy="give lists of equal lengths") from None
    number = array.dtype.kind in "iuf" and wanted.kind != "b"
    if info.dtype != "string" and not number and array.dtype.kind != wanted.kind:
        message = f"{value!r} is not of element type {info.dtype}"
        raise UsageError(message, where=where, remedy="give JSON: a number, true, or a list")
    try:
        if wanted.kind in "iu":
            with np.errstate(invalid="ignore"):
                exact = array.astype(np.int64) if array.dtype.kind == "f" else array
            if not np.array_equal(exact, array):
                message = "is not a whole number"
                raise UnfitError(message)  # noqa: TRY301 - one message for all that does not fit
            array = cast(exact, info)
        else:
            array = array.astype(wanted)
    except (UnfitError, ValueError, OverflowError) as problem:
        message = f"the value {problem}"
        raise UsageError(message, where=where, remedy=f"give values of {info.dtype}") from None
    return _fit_constant(array, info, where)


def _fit_constant(array: NDArray[Any], info: TensorInfo, where: str) -> NDArray[Any]:
    if info.shape is None:
        return array
    axis = info.batch_axis
    if axis is not None and array.ndim == len(info.shape) and array.shape[axis] == 1:
        array = array.squeeze(axis)
    shape = info.shape if axis is None else (*info.shape[:axis], *info.shape[axis + 1 :])
    if array.ndim == 0:
        # A number fills the whole shape; a dimension left open is one long.
        return np.full([dim if isinstance(dim, int) else 1 for dim in shape], array, array.dtype)
    fits = array.ndim == len(shape) and all(
        not isinstance(dim, int) or dim == size
        for size, dim in zip(array.shape, shape, strict=True)
    )
    if not fits:
        message = f"the value has shape {list(array.shape)}, the graph takes {shape_text(info)}"
        raise UsageError(message, where=where, remedy="give one sample's value, or one number")
    return array


def _pair(option: str, known: Container[str]) -> tuple[str, Any]:
    """Divide NAME=VALUE; names and text may hold `=`, so a known name decides."""
    places = [place for place, letter in enumerate(option) if letter == "="]
    place = next((place for place in places if option[:place] in known), *places[:1] or [0])
    name, text = option[:place], option[place + 1 :]
    if not name:
        message = f"{option!r} is not NAME=VALUE"
        raise UsageError(message, where="--input", remedy="for example --input training=false")
    try:
        return name, parse_json(text)
    except ValueError:
        return name, text
