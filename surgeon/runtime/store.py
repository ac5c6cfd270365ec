"""Features on disk: one safetensors file per entry, whole or not at all.

What must not enter: what computes them.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from surgeon.data.ahead import work_ahead
from surgeon.errors import DataError, EnvironmentLacksError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.data.samples import Samples
    from surgeon.runtime.stream import Chunk


FORMAT = 3  # raise it when the meaning of an entry changes


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


_SAFETENSORS = {
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "bool": "BOOL",
}


_NUMPY = {code: name for name, code in _SAFETENSORS.items()}


@dataclass(frozen=True)
class Features:
    """Features of samples, on disk or recomputed whenever they are read.

    Attributes:
        rows: index of the sample behind each row, [n] int64; unreadable samples are left out.
        skipped: `(path, reason)` of the samples left out.
        path: the cache entry, or None where nothing is kept.
        bytes: size of the entry, or of what would have been written.
        hit: whether the entry was there already.
        key: the hash that names the entry.
        providers: execution providers that computed (or would compute) it.
        stored: element type of each tensor as stored, by name; tensors keep their own type when
            read back.
        shapes: shape of one row of each tensor, without the sample axis (−1 = open); tensors that
            are the same for every sample are not among them.
        axes: where the sample axis stands in the graph.
        alone: whether every sample was run by itself, as those of a batch change each other.
        notes: what the user should be told.
    """

    rows: NDArray[np.int64]
    skipped: list[tuple[str, str]]
    path: Path | None
    bytes: int
    hit: bool
    key: str
    providers: tuple[str, ...]
    stored: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    axes: dict[str, int]
    notes: tuple[str, ...] = ()
    alone: bool = False
    _maps: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    _dtypes: dict[str, str] = field(default_factory=dict, repr=False)
    _constants: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    _source: _Source | None = field(default=None, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return (*self.shapes, *self._constants)

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def recomputed(self) -> bool:
        """Whether nothing is kept, and every read runs the frozen part."""
        return self._source is not None

    def array(self, name: str) -> NDArray[Any]:
        """Return a whole tensor, [n, ...] with samples along axis 0.

        Memory-mapped and read-only where it is stored as it is; in memory otherwise. A tensor that
        is the same for every sample comes as the graph takes it.

        Raises:
            DataError: a sample that could be read before cannot be read any more.
        """
        if name in self._constants:
            return self._constants[name]
        if self._source is None:
            stored = self._maps[name]
            return stored.astype(self._dtypes[name], copy=False)
        chunk = self._source.run_at(self.rows)
        if chunk.failures:
            failure = chunk.failures[0]
            raise DataError(failure.reason, where=failure.name, remedy="repair or remove it")
        return chunk.outputs[name]

    def read(
        self, positions: Sequence[int] | NDArray[np.int64]
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
        """Return some rows as the trained part takes them.

        Args:
            positions: rows, by position in `rows`.

        Returns:
            one array per tensor, samples along the graph's own batch axis; and the positions that
            are in it (all, unless a picture turned out unreadable while recomputing).

        Raises:
            DataError: more than 5 % of the samples cannot be read.
        """
        chosen = np.asarray(positions, np.int64)
        if self._source is None:
            found = {
                name: stored[chosen].astype(self._dtypes[name], copy=False)
                for name, stored in self._maps.items()
            }
        else:
            chunk = self._source.run_at(self.rows[chosen])
            found, chosen = chunk.outputs, chosen[chunk.positions]
        placed = {name: np.moveaxis(rows, 0, self.axes[name]) for name, rows in found.items()}
        return {**placed, **self._constants}, chosen

    def stream(
        self, batches: Iterable[NDArray[np.int64]], lanes: int = 1
    ) -> Iterator[tuple[dict[str, NDArray[Any]], NDArray[np.int64]]]:
        """Give `read` of each batch of positions in turn, read ahead in `lanes` threads."""
        return work_ahead(self.read, batches, lanes)


class _Source(Protocol):
    """What recomputes features: a `Runner`, or the samples themselves."""

    def run_at(self, indices: NDArray[np.int64]) -> Chunk: ...


def cache_root() -> Path:
    """Return the folder of everything cached: `SURGEON_CACHE`, or the user's cache directory."""
    given = os.environ.get("SURGEON_CACHE")
    if given:
        return Path(given).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("surgeon")


@dataclass(frozen=True)
class Entry:
    """A cache entry, for `surgeon cache list`: path, size in bytes, and what its JSON file says."""

    path: Path
    bytes: int
    about: dict[str, Any]


def list_entries(folder: Path | None = None) -> list[Entry]:
    """Return the complete entries, oldest first; `folder` None = the user's cache."""
    folder = cache_root() / "features" if folder is None else folder
    entries = []
    for path in folder.glob("*.safetensors") if folder.is_dir() else ():
        about = _read_about(path.with_suffix(".json"))
        if about is not None:
            entries.append((path.stat().st_mtime, Entry(path, path.stat().st_size, about)))
    return [entry for _, entry in sorted(entries, key=lambda pair: (pair[0], pair[1].path))]


def clear(folder: Path | None = None) -> tuple[int, int]:
    """Remove every entry and everything half-written; returns files and bytes removed."""
    folder = cache_root() / "features" if folder is None else folder
    files = size = 0
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix in {".safetensors", ".json", ".part"} and path.is_file():
            size += path.stat().st_size
            path.unlink()
            files += 1
    return files, size


@dataclass(frozen=True)
class _Layout:
    """Where everything lies in a safetensors file: header first, then tensor after tensor."""

    rows: int
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype[Any]]
    header: bytes
    offsets: dict[str, int]
    bytes: int

    @classmethod
    def plan(
        cls,
        rows: int,
        shapes: Mapping[str, tuple[int, ...]],
        dtypes: Mapping[str, np.dtype[Any]],
    ) -> _Layout:
        # Descending element size keeps every tensor aligned, as the format asks for.
        order = sorted(shapes, key=lambda name: (-dtypes[name].itemsize, name))
        described: dict[str, Any] = {}
        offsets: dict[str, int] = {}
        place = 0
        for name in order:
            size = rows * int(np.prod(shapes[name], dtype=np.int64)) * dtypes[name].itemsize
            described[name] = {
                "dtype": _SAFETENSORS[dtypes[name].name],
                "shape": [rows, *shapes[name]],
                "data_offsets": [place, place + size],
            }
            offsets[name] = place
            place += size
        text = json.dumps(described).encode()
        text += b" " * (-(len(text) + 8) % 64)
        header = len(text).to_bytes(8, "little") + text
        return cls(
            rows,
            dict(shapes),
            dict(dtypes),
            header,
            {name: len(header) + offset for name, offset in offsets.items()},
            len(header) + place,
        )

    def row_bytes(self, name: str) -> int:
        """Bytes of one row of a tensor."""
        return int(np.prod(self.shapes[name], dtype=np.int64)) * self.dtypes[name].itemsize


@dataclass(frozen=True)
class _Entry:
    """Where an entry lies and how to open it."""

    folder: Path
    key: str
    outputs: tuple[str, ...]
    axes: dict[str, int]
    samples: Samples
    constants: dict[str, NDArray[Any]]

    @property
    def path(self) -> Path:
        return self.folder / f"{self.key}.safetensors"

    def find(self, notes: Sequence[str]) -> Features | None:
        """Return the entry if it is there and whole, else None."""
        about = _read_about(self.path.with_suffix(".json"))
        if about is None or about.get("key") != self.key or about.get("format") != FORMAT:
            return None
        try:
            if self.path.stat().st_size != about["bytes"]:
                return None
            return self.open(about, notes, hit=True)
        except (OSError, ValueError, KeyError, TypeError):
            return None  # broken in whatever way: it is computed again

    def open(self, about: Mapping[str, Any], notes: Sequence[str], *, hit: bool) -> Features:
        """Map the entry into memory."""
        tensors = about["tensors"]
        with self.path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > about["bytes"]:
                message = "broken header"
                raise ValueError(message)
            header = json.loads(file.read(length))
        maps: dict[str, NDArray[Any]] = {}
        for name in self.outputs:
            described = header[name]
            shape = tuple(described["shape"])
            if shape != (about["rows"], *tensors[name]["shape"]):
                message = "header and description differ"
                raise ValueError(message)
            dtype = np.dtype(_NUMPY[described["dtype"]])
            offset = 8 + length + described["data_offsets"][0]
            if 0 in shape:
                maps[name] = np.empty(shape, dtype)
            else:
                maps[name] = np.memmap(self.path, dtype, "r", offset, shape)
        unreadable = [(int(index), str(reason)) for index, reason in about["unreadable"]]
        self.samples.remember(unreadable)
        return Features(
            rows=_expand(about["indices"]),
            skipped=[(self.samples.names[index], reason) for index, reason in unreadable],
            path=self.path,
            bytes=about["bytes"],
            hit=hit,
            key=self.key,
            providers=tuple(about["providers"]),
            stored={name: tensors[name]["stored"] for name in self.outputs},
            shapes={name: tuple(tensors[name]["shape"]) for name in self.outputs},
            axes=self.axes,
            notes=(*notes, *([about["alone"]] if about["alone"] else [])),
            alone=about["alone"] is not None,
            _maps=maps,
            _constants=self.constants,
            _dtypes={name: tensors[name]["dtype"] for name in self.outputs},
        )


def _compact(file: int, layout: _Layout, kept: NDArray[np.bool_]) -> _Layout:
    """Close the gaps that unreadable samples left, and write the header of what remains."""
    smaller = _Layout.plan(int(kept.sum()), layout.shapes, layout.dtypes)
    if len(smaller.header) > len(layout.header):
        message = "a header that grew"
        raise ValueError(message)
    # Rows only move towards the start, and tensors are laid out in the same order, so that going
    # forward never overwrites what is still to be moved.
    for name in sorted(layout.offsets, key=layout.offsets.__getitem__):
        size = layout.row_bytes(name)
        for new, old in enumerate(np.flatnonzero(kept)):
            source, target = layout.offsets[name] + int(old) * size, smaller.offsets[name]
            _write_all(file, memoryview(os.pread(file, size, source)), target + new * size)
    os.pwrite(file, smaller.header, 0)
    os.ftruncate(file, smaller.bytes)
    return smaller


def _reserve(file: int, size: int) -> None:
    """Take the room on disk now, so that a full disk shows before any work is done."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
                raise
            os.ftruncate(file, size)
    else:
        os.ftruncate(file, size)


def _write_all(file: int, data: memoryview, offset: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], offset + written)


def _write_about(path: Path, about: Mapping[str, Any]) -> None:
    handle, name = tempfile.mkstemp(".part", path.stem[:16] + "-", path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(about, file)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _read_about(path: Path) -> dict[str, Any] | None:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) else None


def _write_error(error: OSError, folder: Path, size: int) -> EnvironmentLacksError:
    if error.errno in _NO_ROOM:
        return EnvironmentLacksError(
            f"the disk has no room for {size} bytes of features",
            where=str(folder),
            remedy="free space (surgeon cache clear), set SURGEON_CACHE to another disk, "
            "or lower --cache-limit",
        )
    return EnvironmentLacksError(
        f"the cache cannot be written: {error.strerror or error}",
        where=str(folder),
        remedy="set SURGEON_CACHE to a folder that can be written",
    )


def _ranges(indices: NDArray[np.int64]) -> list[list[int]]:
    """Write ascending runs of indices as [first, last] pairs, in order."""
    if not len(indices):
        return []
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    return [[int(run[0]), int(run[-1])] for run in runs]


def _expand(ranges: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    parts = [np.arange(first, last + 1, dtype=np.int64) for first, last in ranges]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
