"""Values as the graph takes them: `.npz` files, arrays in memory, constants of `--input`.

Every array is checked once against the graph's inputs: name, element type, rank, fixed dimensions,
number of samples, NaN. What must not enter: preprocessing, and any cast beyond the two the contract
allows (exact integer to integer, float64 to float32).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from surgeon.data.elements import (
    UnfitError,
    all_text,
    as_text,
    cast,
    describe,
    first_of,
    shape_text,
)
from surgeon.data.samples import Batch, Failure, Given, Samples
from surgeon.errors import DataError, EnvironmentLacksError
from surgeon.graph.reading import misnamed, open_regular, shown
from surgeon.tasks.labels import group_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from surgeon.records import TensorInfo

SPLITS = ("train", "validation", "test")
_RESERVED = ("labels", "split", "groups")


class RowNames(Sequence[str]):
    """`row 0`, `row 1`, …, which are made when they are asked for: there may be millions."""

    def __init__(self, count: int) -> None:
        self._rows = range(count)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        rows = self._rows[index]
        return f"row {rows}" if isinstance(rows, int) else [f"row {row}" for row in rows]


class ArraySamples(Samples):
    """Arrays in memory, samples along each input's batch axis; no preprocessing.

    Inputs whose array has no batch axis are the same for every sample.
    """

    def __init__(
        self,
        given: Given,
        arrays: Mapping[str, NDArray[Any]],
        *,
        shared: Iterable[str] = (),
        broken: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__(given)
        self._broken = dict(broken or {})
        self._arrays = dict(arrays)
        self._shared = frozenset(shared)

    def content_sha256(self, indices: NDArray[np.int64] | None = None) -> str:
        """Hash of the arrays' names, types, shapes and values, and of the indices."""
        total = hashlib.sha256(self._hash)
        chosen = np.arange(self.n) if indices is None else np.asarray(indices)
        total.update(chosen.astype("<i8").tobytes())
        return total.hexdigest()

    def digests(self) -> Sequence[bytes]:
        """Return a hash of the values of each sample, all inputs together."""
        return self._digests

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Take samples out of the arrays."""
        chosen = np.asarray(indices, np.int64)
        failures = [
            Failure(index, self.names[index], self._broken[index])
            for index in chosen.tolist()
            if index in self._broken
        ]
        if failures:
            self._note(failures)
            chosen = chosen[[index not in self._broken for index in chosen.tolist()]]
        feeds = {}
        for info in self.inputs:
            array = self._arrays[info.name]
            if info.name not in self._shared:
                feeds[info.name] = np.take(array, chosen, info.batch_axis or 0)
            elif info.batch_axis is None:
                feeds[info.name] = array
            else:
                unbatched = np.expand_dims(array, info.batch_axis)
                feeds[info.name] = np.repeat(unbatched, len(chosen), info.batch_axis)
        return Batch(chosen, feeds, tuple(failures))

    @cached_property
    def _digests(self) -> list[bytes]:
        own = [
            np.moveaxis(self._arrays[info.name], info.batch_axis or 0, 0)
            for info in self.inputs
            if info.name not in self._shared
        ]
        return [
            hashlib.sha256(b"\0".join(_bytes(a[row]) for a in own)).digest()
            for row in range(self.n)
        ]

    @cached_property
    def _hash(self) -> bytes:
        total = hashlib.sha256()
        for name in sorted(self._arrays):
            array = self._arrays[name]
            total.update(f"{name}\0{array.dtype.str}{array.shape}\0".encode())
            if array.dtype == object:
                total.update("\0".join(str(item) for item in array.ravel()).encode())
            else:
                total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return total.digest()


def open_npz(
    path: Path,
    inputs: Sequence[TensorInfo],
    constants: Mapping[str, NDArray[Any]] | None = None,
    *,
    labelled: bool = True,
) -> ArraySamples:
    """Read an `.npz` in the contract's convention; nothing in it is ever unpickled.

    Raises:
        DataError: not an `.npz`, object arrays, or anything `from_arrays` refuses.
        EnvironmentLacksError: not enough memory for the arrays.
    """
    return from_arrays(
        read_npz(path), inputs, constants, where=shown(str(path)), labelled=labelled
    )  # fmt: skip


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an `.npz`.

    Raises:
        DataError: not an `.npz`, or object arrays.
        EnvironmentLacksError: not enough memory for the arrays.
    """
    where, remedy = shown(str(path)), "save it with numpy.savez"
    try:
        # Opened here, because numpy leaves a broken file open.
        with open_regular(path) as stream:
            wrong = misnamed(stream.peek(1024))
            file = None if wrong else np.load(stream, allow_pickle=False)
            if isinstance(file, np.lib.npyio.NpzFile):
                return {name: _member(file, name, where) for name in file.files}
    except DataError:
        raise
    except MemoryError:
        raise EnvironmentLacksError(
            "the arrays do not fit into memory", where=where, remedy="give fewer samples"
        ) from None
    except Exception as error:  # noqa: BLE001 - zip and npy readers raise anything on broken files
        message = f"the file is not a readable .npz: {error}"
        raise DataError(message, where=where, remedy=remedy) from None
    told, remedy = wrong or ("a single array, not an .npz", remedy)
    raise DataError(f"the file is {told}", where=where, remedy=remedy)


def from_arrays(
    arrays: Mapping[str, Any],
    inputs: Sequence[TensorInfo],
    constants: Mapping[str, NDArray[Any]] | None = None,
    *,
    where: str = "data",
    labelled: bool = True,
    named: Given | None = None,
) -> ArraySamples:
    """Make samples of arrays named like the graph's inputs, `labels`, `split` and `groups`.

    `input:<name>` names a graph input; it is needed for one called like the last three. Without
    `labelled`, labels are not looked at, and samples with NaN are unreadable by themselves. `named`
    says names, labels, split and groups where the arrays do not.

    Raises:
        DataError: unknown or missing names, wrong element types, ranks, dimensions or lengths,
            object arrays, NaN (the array and the first bad index are named); all at once.
    """
    constants = constants or {}
    by_input, extra = _assign(arrays, inputs, constants)
    problems = [f"no graph input is called {name!r}" for name in extra]
    values: dict[str, NDArray[Any]] = dict(constants)
    shared = set(constants)
    lengths: dict[str, int] = {}
    broken: dict[int, str] = {}
    for info in inputs:
        if info.name in constants:
            continue
        if info.name not in by_input:
            problems.append(f"the array for graph input {describe(info)} is missing")
            continue
        try:
            given = (
                by_input[info.name] if labelled else _without_nan(by_input[info.name], info, broken)
            )
            array = _checked(given, info)
        except UnfitError as problem:
            problems.append(f"array {info.name!r} {problem}")
            continue
        values[info.name] = array
        if _is_batched(array, info):
            lengths[info.name] = array.shape[info.batch_axis or 0]
        else:
            shared.add(info.name)
    columns = {
        name: column
        for name in _RESERVED[1:]
        if (column := _column(arrays, name, problems)) is not None
    }
    lengths |= {name: len(column) for name, column in columns.items()}
    answers = _answers(arrays["labels"], problems) if labelled and "labels" in arrays else None
    if answers is not None:
        lengths["labels"] = len(answers)
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {count}" for name, count in lengths.items())
        problems.append(f"the numbers of samples differ: {told}")
    problems += _split_problems(columns.get("split", np.zeros(0)))
    if problems:
        raise DataError(
            "; ".join(problems),
            where=where,
            remedy="arrays are named like the graph's inputs ("
            + ", ".join(describe(info) for info in inputs)
            + "), with labels [n] and optionally split [n] and groups [n]; see surgeon inspect",
        )
    n = next(iter(lengths.values()), 1)
    if n == 0:
        raise DataError("there are no samples in it", where=where, remedy="give at least one")
    if named is None:
        named = Given(
            inputs=inputs,
            names=RowNames(n),
            answers=answers,
            split=_told(columns, "split", lambda item, _: as_text(item), where),
            groups=_told(columns, "groups", group_text, where),
            where=f"{where}, labels",
            answer_at=lambda index: f"{where}, labels[{index}]",
        )
    return ArraySamples(named, values, shared=shared, broken=broken)


def _bytes(values: Any) -> bytes:
    array = np.asarray(values)
    if array.dtype == object:
        return "\0".join(str(item) for item in array.ravel()).encode()
    return array.tobytes()


def _member(file: Any, name: str, where: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = file[name]
    except ValueError as error:
        if "allow_pickle" not in str(error) and "Object arrays" not in str(error):
            raise
        message = f"array {name!r} holds Python objects, which are never loaded"
        remedy = "save numbers or text: array.astype(str) for text"
        raise DataError(message, where=where, remedy=remedy) from None
    return array


def _assign(
    arrays: Mapping[str, Any], inputs: Sequence[TensorInfo], constants: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Say which array feeds which input, and which arrays feed none."""
    names = {info.name for info in inputs} - set(constants)
    by_input, extra = {}, []
    for name, array in arrays.items():
        plain = name.removeprefix("input:")
        if name in _RESERVED:
            continue
        if name in names:
            by_input[name] = array
        elif plain in names:
            by_input[plain] = array
        else:
            extra.append(name)
    return by_input, extra


def _checked(value: Any, info: TensorInfo) -> NDArray[Any]:
    """Return the array in the input's element type, its rank and fixed dimensions checked."""
    array = np.asarray(value)
    if array.dtype == object and not (info.dtype == "string" and all_text(array)):
        message = "holds Python objects"
        raise UnfitError(message)
    array = cast(array, info)
    if info.shape is None:
        return array
    full = info.shape
    axis = info.batch_axis
    batched = array.ndim == len(full)
    without = full if axis is None else (*full[:axis], *full[axis + 1 :])
    if not batched and array.ndim != len(without):
        message = f"has shape {list(array.shape)}, the graph takes {shape_text(info)}"
        raise UnfitError(message)
    for position, (size, dim) in enumerate(
        zip(array.shape, full if batched else without, strict=True)
    ):
        fixed = isinstance(dim, int) and not (batched and position == axis)
        if fixed and size != dim:
            message = f"has shape {list(array.shape)}, the graph takes {shape_text(info)}"
            raise UnfitError(message)
    return array


def _without_nan(value: Any, info: TensorInfo, broken: dict[int, str]) -> NDArray[Any]:
    """Take NaN out of an array's samples, which are named as broken; the rest stays as it is."""
    array = np.asarray(value)
    if array.dtype.kind != "f" or not _is_batched(array, info) or not np.isnan(array).any():
        return array
    axis = info.batch_axis or 0
    bad = np.isnan(np.moveaxis(array, axis, 0)).reshape(array.shape[axis], -1).any(axis=1)
    reason = f"its values of {info.name!r} are not all numbers"
    broken |= {int(row): reason for row in np.flatnonzero(bad)}
    whole: NDArray[Any] = np.where(np.isnan(array), array.dtype.type(0), array)
    return whole


def _is_batched(array: NDArray[Any], info: TensorInfo) -> bool:
    if info.shape is None:
        return array.ndim > 0
    return info.batch_axis is not None and array.ndim == len(info.shape)


def _column(arrays: Mapping[str, Any], name: str, problems: list[str]) -> NDArray[Any] | None:
    if name not in arrays:
        return None
    column = np.asarray(arrays[name])
    if column.dtype == object and all_text(column):
        column = column.astype(str)
    if column.ndim != 1:
        problems.append(f"{name} has shape {list(column.shape)}, not [n]")
        return None
    if column.dtype.kind not in "iubfUS":
        problems.append(f"{name} holds {column.dtype}, not numbers or text")
        return None
    if column.dtype.kind == "f" and np.isnan(column).any():
        problems.append(f"array {name!r} holds NaN, first at index {first_of(np.isnan(column))}")
        return None
    return column


def _answers(labels: Any, problems: list[str]) -> NDArray[Any] | Sequence[Any] | None:
    """Return labels as an array, or as a list where those of samples differ in length."""
    try:
        array = np.asarray(labels)
    except ValueError:  # lists of several lengths
        return list(labels)
    if array.dtype == object and array.ndim == 1:
        return list(array)
    if array.ndim == 0 or array.dtype.kind not in "iubfUS":
        what = "are a single value" if array.ndim == 0 else f"hold {array.dtype}"
        problems.append(f"labels {what}, not numbers or text of each sample")
        return None
    return array


def _told(
    columns: Mapping[str, NDArray[Any]], name: str, told: Callable[[Any, str], str], where: str
) -> list[str] | None:
    """Return a column as text, or None where there is none."""
    if name not in columns:
        return None
    return [told(item, f"{where}, {name}[{i}]") for i, item in enumerate(columns[name].tolist())]


def _split_problems(split: NDArray[Any]) -> list[str]:
    for index, item in enumerate(split.tolist()):
        if as_text(item) not in SPLITS:
            return [f"split[{index}] is {as_text(item)!r}, not one of {', '.join(SPLITS)}"]
    return []
