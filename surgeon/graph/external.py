"""Weights that lie in another file than the graph: referred to, mapped, copied, never loaded whole.

A tensor read from external data stays a reference in the ModelProto, so that copying a graph of
6 GB costs what its nodes cost. `location`, `offset` and `length` are the file's own; `basepath`
(the folder, absolute) and `checksum` (which state of the file was read) are set in memory and never
written. Values come as read-only views of the mapped file: they are pages of the file, not memory
of the process. Small tensors and small models are loaded, so that shapes can be inferred and a
graph stands by itself. What must not enter: the meaning of a weight, and writing into mapped files.
"""

from __future__ import annotations

import errno
import os
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from surgeon.errors import ModelError
from surgeon.graph.reading import misnamed, open_regular
from surgeon.graph.walk import all_graphs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from io import FileIO

    from numpy.typing import NDArray

INLINE_TOTAL = 2**27
"""Bytes of external data up to which a model is loaded whole and stands by itself."""

INLINE_TENSOR = 2**15
"""Bytes up to which a tensor is loaded always: it may be a shape, a scale or a condition."""

MAPS = 64
"""Data files that stay mapped at once."""

PIECE = 2**26
"""Bytes compared or written at a time."""

_PACKED = {"INT4": 2, "UINT4": 2, "FLOAT4E2M1": 2, "INT2": 4, "UINT2": 4}
"""Elements per byte of the types smaller than one."""


class Place(NamedTuple):
    """Where a tensor's bytes lie: file, its state when it was read, first byte, number of bytes."""

    path: Path
    state: str
    offset: int
    length: int


def is_external(tensor: TensorProto) -> bool:
    """Say whether a tensor's values lie in another file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def is_attached(tensor: TensorProto) -> bool:
    """Say whether an external tensor refers to a data file that `attach` has found and checked."""
    entries = _entries(tensor)
    if "basepath" not in entries or "checksum" not in entries:
        return False
    place = _place(entries)
    return (str(place.path), place.state) in _attached


def dense_size(tensor: TensorProto) -> int:
    """Return the bytes of a tensor's dense values, without touching them."""
    if tensor.data_type == TensorProto.STRING:
        return sum(8 + len(item) for item in tensor.string_data)
    count = int(prod(tensor.dims))
    kind = TensorProto.DataType.Name(tensor.data_type)
    if kind in _PACKED:
        return -(-count // _PACKED[kind])
    return int(count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


def attach(model: ModelProto, file: Path) -> None:
    """Find the external data of a model just read, in place: check, load what is small, refer.

    Everything is loaded where all of it is at most `INLINE_TOTAL` bytes; else what lies in
    attributes or subgraphs, and tensors of at most `INLINE_TENSOR` bytes.

    Args:
        model: as parsed from `file`.
        file: the `.onnx` file. Data are looked for beside the path as given, then beside the file
            that it links to (a hub's cache links both into one folder); they must really lie in one
            of these folders or below.

    Raises:
        ModelError: data are absent, too short, or outside the model's folder.
    """
    tensors = list(all_tensors(model))
    own = len(model.graph.initializer)  # they come first
    top, inner = ([t for t in part if is_external(t)] for part in (tensors[:own], tensors[own:]))
    stored = [*top, *inner]
    if not stored:
        return
    found: dict[str, tuple[Path, str, int]] = {}
    for tensor in stored:
        location = _entries(tensor).get("location", "")
        if location not in found:
            found[location] = _find(file, location, f"{file}: initializer {tensor.name!r}")
        _refer(tensor, location, *found[location], file=file)
    whole = sum(dense_size(tensor) for tensor in stored) <= INLINE_TOTAL
    for tensor in top:
        if whole or dense_size(tensor) <= INLINE_TENSOR:
            load(tensor)
    for tensor in inner:
        load(tensor)


def all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor a file may keep outside: initializers, and those of attributes.

    The initializers of the top graph come first.
    """
    for graph in all_graphs(model.graph):
        yield from graph.initializer
        for node in graph.node:
            yield from (a.t for a in node.attribute if a.type == AttributeProto.TENSOR)
    for function in model.functions:
        for node in function.node:
            yield from (a.t for a in node.attribute if a.type == AttributeProto.TENSOR)


def _find(file: Path, location: str, where: str) -> tuple[Path, str, int]:
    """Return the folder that a data file is named in, the file's state and its size."""
    folders = list(dict.fromkeys([file.absolute().parent, file.resolve().parent]))
    here = next((f for f in folders if os.path.lexists(_named(f, location, where))), folders[0])
    target = _named(here, location, where)
    try:
        real = target.resolve()
        if not any(real.is_relative_to(folder.resolve()) for folder in folders):
            raise _outside(location, where)
        with open_regular(target) as stream:
            found, head = os.fstat(stream.fileno()), stream.peek(1024)
    except FileNotFoundError:
        raise ModelError(
            f"external data file {location!r} is missing",
            where=where,
            remedy=f"put {location!r} beside the model",
        ) from None
    except (OSError, RuntimeError) as error:  # the latter: links that lead to themselves
        reason = getattr(error, "strerror", None) or error
        raise ModelError(
            f"external data {location!r} cannot be read: {reason}",
            where=where,
            remedy="check the file and its permissions",
        ) from error
    wrong = misnamed(head)
    if wrong is not None:
        raise ModelError(f"external data {location!r} is {wrong[0]}", where=where, remedy=wrong[1])
    state = _state(found)
    _attached.add((str(here / location), state))
    return here, state, found.st_size


def _named(folder: Path, location: str, where: str) -> Path:
    """Return the path a location names, which may not lead out of the folder by itself."""
    named = Path(os.path.normpath(folder / location))
    if not location or "\0" in location:
        raise ModelError(
            f"external data {location!r} names no file", where=where, remedy="export it again"
        )
    if Path(location).is_absolute() or not named.is_relative_to(folder):
        raise _outside(location, where)
    return folder / location


def _outside(location: str, where: str) -> ModelError:
    return ModelError(
        f"external data {location!r} lies outside the model's folder",
        where=where,
        remedy="put the data file beside the model; other places are refused",
    )


def _refer(
    tensor: TensorProto, location: str, folder: Path, state: str, size: int, *, file: Path
) -> None:
    """Make a tensor's reference complete: folder, state, offset and length."""
    entries = _entries(tensor)
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or size - offset)
        wanted = dense_size(tensor)
    except (ValueError, KeyError, TypeError):
        offset, length, wanted = 0, 0, -1
    if wanted < 0 or offset < 0 or length != wanted or offset + length > size:
        raise ModelError(
            f"external data {location!r} is shorter than the tensor it should hold, "
            "or of another size",
            where=f"{file}: initializer {tensor.name!r}",
            remedy="the data file is truncated or does not belong to this model",
        )
    point(tensor, location, offset, length, folder=str(folder), state=state)


def point(
    tensor: TensorProto,
    location: str,
    offset: int,
    length: int,
    *,
    folder: str | None = None,
    state: str | None = None,
) -> None:
    """Let a tensor refer to bytes of a file, in place; `folder` and `state` hold in memory only."""
    for name in ("raw_data", "external_data"):
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": length}
    for key, value in (entries | {"basepath": folder, "checksum": state}).items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))


def load(tensor: TensorProto) -> None:
    """Bring a tensor's values from its data file into the message, in place."""
    tensor.raw_data = view(tensor).tobytes()
    forget(tensor)


def forget(tensor: TensorProto) -> None:
    """Take a tensor's reference away, in place; its values are its own from now on."""
    tensor.data_location = TensorProto.DEFAULT
    tensor.ClearField("external_data")


def loaded(model: ModelProto, but: Collection[str] = ()) -> ModelProto:
    """Return the model with all its values in it: itself, or a copy where some lie outside.

    Those of the initializers named by `but` stay where they are.
    """
    if not any(is_external(t) for t in model.graph.initializer if t.name not in but):
        return model
    result = ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if is_external(tensor) and tensor.name not in but:
            load(tensor)
    return result


def same_place(one: TensorProto, other: TensorProto) -> bool:
    """Say whether two tensors refer to the same bytes of the same state of a file."""
    return is_external(one) and is_external(other) and place_of(one) == place_of(other)


def place_of(tensor: TensorProto) -> Place:
    """Return where the bytes of an attached tensor lie.

    Raises:
        ModelError: the tensor's data were never found: the graph was not read by `surgeon.load`.
    """
    entries = _entries(tensor)
    if not {"location", "basepath", "checksum", "offset", "length"} <= entries.keys():
        raise ModelError(
            "a tensor's external data were not found",
            where=repr(tensor.name),
            remedy="give the path of the file, or load it with surgeon.load",
        )
    return _place(entries)


def view(tensor: TensorProto) -> NDArray[np.uint8]:
    """Return the bytes of an attached tensor: a read-only view of the mapped file.

    Raises:
        ModelError: the file changed since it was read.
    """
    place = place_of(tensor)
    _refuse_written(place)
    return _mapped(str(place.path), place.state)[place.offset : place.offset + place.length]


def array(tensor: TensorProto) -> NDArray[Any]:
    """Return the values of an attached tensor: a read-only view of the mapped file.

    Types smaller than a byte are unpacked, which copies them.

    Raises:
        ModelError: the file changed since it was read.
    """
    if TensorProto.DataType.Name(tensor.data_type) in _PACKED:
        whole = TensorProto(data_type=tensor.data_type, dims=tensor.dims)
        whole.raw_data = view(tensor).tobytes()
        return numpy_helper.to_array(whole)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    values: NDArray[Any] = view(tensor).view(dtype.newbyteorder("<"))
    return values.reshape(tuple(tensor.dims))


_attached: set[tuple[str, str]] = set()
"""Every (file, state) that `attach` found in a model's own folder; other files are not read."""


def _entries(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _place(entries: dict[str, str]) -> Place:
    path = Path(entries["basepath"]) / entries["location"]
    return Place(path, entries["checksum"], int(entries["offset"]), int(entries["length"]))


def _state(found: os.stat_result) -> str:
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def _refuse_written(place: Place) -> None:
    """Refuse a file that was written into; one that was replaced or removed is mapped still."""
    try:
        found = _state(place.path.stat())
    except OSError:
        return
    if found != place.state and found.split(":")[:2] == place.state.split(":")[:2]:
        raise _changed(str(place.path))


def _changed(path: str) -> ModelError:
    return ModelError(
        "the model's external data changed since it was read",
        where=path,
        remedy="load the model again",
    )


@lru_cache(maxsize=MAPS)
def _mapped(path: str, state: str) -> NDArray[np.uint8]:
    """Return a data file as read-only bytes; they stay what they were if the file is replaced."""
    try:
        with Path(path).open("rb") as stream:
            found = os.fstat(stream.fileno())
            same = _state(found) == state
            if same and not found.st_size:
                return np.zeros(0, np.uint8)
            if same:
                return np.memmap(stream, np.uint8, "r").view(np.ndarray)
    except OSError as error:
        raise ModelError(
            f"the model's external data cannot be read any more: {error.strerror}",
            where=path,
            remedy="leave the data file in place while its model is in use",
        ) from error
    raise _changed(path)


# ── writing ──────────────────────────────────────────────────────────────────────────────────────


def light_copy(
    model: ModelProto, outside: Callable[[TensorProto], bool]
) -> tuple[ModelProto, list[tuple[TensorProto, TensorProto]]]:
    """Copy a model without the values of the initializers that `outside` says.

    Returns:
        The copy, and of those initializers (the one in the copy, which has name, type and dims
        only, the original).
    """
    light = ModelProto()
    pairs: list[tuple[TensorProto, TensorProto]] = []
    _copy_fields(model, light, "graph")
    _copy_fields(model.graph, light.graph, "initializer")
    for tensor in model.graph.initializer:
        entry = light.graph.initializer.add()
        if not outside(tensor):
            entry.CopyFrom(tensor)
            continue
        entry.name, entry.data_type = tensor.name, tensor.data_type
        entry.dims.extend(tensor.dims)
        entry.metadata_props.extend(tensor.metadata_props)
        if tensor.doc_string:
            entry.doc_string = tensor.doc_string
        pairs.append((entry, tensor))
    return light, pairs


def _copy_fields(source: Any, target: Any, but: str) -> None:
    """Copy every field of a message that is set, except one."""
    for entry, value in source.ListFields():
        if entry.name == but:
            continue
        if isinstance(value, int | float | str | bytes):
            setattr(target, entry.name, value)
        else:
            getattr(target, entry.name).extend(value)


def copy_bytes(tensor: TensorProto, stream: FileIO, offset: int) -> None:
    """Write the bytes of a tensor (external, or raw) into an unbuffered file at an offset.

    Bytes of a file are copied by the operating system, which may share them, without passing
    through this process.
    """
    if not is_external(tensor):
        _write(memoryview(tensor.raw_data), stream, offset)
        return
    place = place_of(tensor)
    done = 0
    if hasattr(os, "copy_file_range"):
        try:
            done = _copy_range(place, stream, offset)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise  # other ways of writing meet it too; what else there is, they may not
    if done < place.length:
        _write(view(tensor)[done:].data, stream, offset + done)


def _copy_range(place: Place, stream: FileIO, offset: int) -> int:
    """Copy as much as the operating system does by itself; return how many bytes."""
    done = 0
    with place.path.open("rb") as source:
        if _state(os.fstat(source.fileno())) != place.state:
            return 0
        while done < place.length:
            count = os.copy_file_range(
                source.fileno(),
                stream.fileno(),
                place.length - done,
                place.offset + done,
                offset + done,
            )
            if not count:
                break
            done += count
    return done


def _write(values: memoryview, stream: FileIO, offset: int) -> None:
    stream.seek(offset)
    done = 0
    while done < len(values):
        done += stream.write(values[done : done + PIECE]) or 0
