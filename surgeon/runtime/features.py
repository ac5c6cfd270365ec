"""Features: what the frozen part of a graph computes, once per sample, kept on disk.

An entry is a safetensors file, memory-mapped when read, beside a JSON file that says what it is.
Its name is the hash of all that decides its values: frozen graph and weights, preprocessing,
content of the data, provider, versions. It is written under another name and renamed when it is
complete, so that what is found under its name is whole. What must not enter: training, labels.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

import surgeon
from surgeon.data.ahead import work_ahead
from surgeon.errors import CheckError, DataError, EnvironmentLacksError
from surgeon.graph.envelope import structure_hash
from surgeon.graph.weights import hash_tensors
from surgeon.runtime import neighbours
from surgeon.runtime.sessions import choose_device, runtime_version
from surgeon.runtime.stream import Chunk, Runner

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.data.samples import Samples
    from surgeon.runtime.sessions import Device

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

Progress = Callable[[int, int], None]


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


class Streamer(Protocol):
    """What computes features once, sample after sample: a `Runner`, or something faster."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should be told, after the last sample."""
        ...

    @property
    def providers(self) -> tuple[str, ...]:
        """What computed them."""
        ...

    def stream(self, indices: NDArray[np.int64]) -> Iterator[Chunk]:
        """Give the outputs of samples, in order."""
        ...


Faster = Callable[[Runner, "ModelProto", "NDArray[np.int64]"], Streamer]
"""Given what would run, the frozen part and the samples: what runs instead, or the same Runner."""


class _Source(Protocol):
    """What recomputes features: a `Runner`, or the samples themselves."""

    def run_at(self, indices: NDArray[np.int64]) -> Chunk: ...


def extract(
    frozen: ModelProto | None,
    outputs: Sequence[str],
    samples: Samples,
    indices: NDArray[np.int64] | None = None,
    *,
    cache_dir: Path | None = None,
    key_parts: Sequence[str] = (),
    axes: Mapping[str, int] | None = None,
    device: str | Device = "auto",
    threads: int | None = None,
    batch: int | None = None,
    limit_bytes: int | None = None,
    faster: Faster | None = None,
    doubtful: bool = True,
    progress: Progress | None = None,
    where: str | None = None,
) -> Features:
    """Run the frozen part over samples once, or find that it has been done before.

    Args:
        frozen: graph whose outputs are the frontier tensors; None where nothing is frozen (the
            tensors are graph inputs then, read from the samples whenever they are needed).
        outputs: names of the frontier tensors; graph inputs among them are handed through.
        samples: the data.
        indices: which samples; None = all.
        cache_dir: where entries lie; None = `cache_root() / "features"`.
        key_parts: more that decides the values, for the key.
        axes: batch axis of each tensor where it is not 0.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        threads: cores to use; None = every one.
        batch: samples per run; None = what suits the device.
        limit_bytes: past it floats are stored as float16; if that does not do, nothing is stored
            and the features are computed again whenever they are read. None = no limit.
        faster: chooses what computes features that are kept, in the place of the Runner that has
            checked them; what it says of itself belongs into `key_parts`.
        doubtful: whether its operators give reason to fear that samples of a batch change each
            other's values (`surgeon.graph.apart`); more is run to find out, then.
        progress: called with (samples done, samples in all).
        where: what messages call the model.

    Raises:
        CheckError: the outputs of a sample depend on its batch, which is fixed; or on chance.
        DataError: data that do not fit, or more than 5 % of the samples unreadable.
        ModelError: ONNX Runtime refuses the graph.
        EnvironmentLacksError: disk, memory or the provider is missing; nothing is left behind.
    """
    chosen = np.arange(samples.n) if indices is None else np.asarray(indices, np.int64)
    if not len(chosen):
        raise DataError("there is no sample to compute features of", remedy="give samples")
    infos = {info.name: info for info in samples.inputs}
    # What has no batch axis is the same for every sample: it is neither stored nor run.
    same = [name for name in outputs if name in infos and infos[name].batch_axis is None]
    outputs = [name for name in outputs if name not in same]
    feeds = samples.read([]).feeds if same else {}
    constants = {name: feeds[name] for name in same}
    if frozen is None:
        return _from_inputs(outputs, samples, chosen, constants)
    placed = {
        name: (infos[name].batch_axis or 0) if name in infos else (axes or {}).get(name, 0)
        for name in outputs
    }
    chosen_device = choose_device(device) if isinstance(device, str) else device
    where_run = [chosen_device.kind]
    if chosen_device.repeatable and chosen_device.kind == "cuda":
        where_run.append("repeatable")
    key = _key(frozen, outputs, samples, chosen, [*key_parts, *where_run])
    folder = cache_root() / "features" if cache_dir is None else cache_dir
    entry = _Entry(folder, key, tuple(outputs), placed, samples, constants)
    found = entry.find(chosen_device.notes)
    if found is not None:
        if progress is not None:
            progress(len(chosen), len(chosen))
        return found
    runner = Runner(
        frozen,
        samples,
        exact=True,
        outputs=outputs,
        axes=placed,
        device=chosen_device,
        threads=threads,
        batch=batch,
        where=where,
    )
    choose = None if faster is None else (lambda: faster(runner, frozen, chosen))
    return _Extraction(runner, entry, chosen, progress, choose, doubtful=doubtful).go(limit_bytes)


def cache_root() -> Path:
    """Return the folder of everything cached: `SURGEON_CACHE`, or the user's cache directory."""
    from surgeon_models.store import root

    return root()


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


class _Extraction:
    """One run over the data that writes one entry."""

    def __init__(
        self,
        runner: Runner,
        entry: _Entry,
        indices: NDArray[np.int64],
        progress: Progress | None,
        choose: Callable[[], Streamer] | None,
        *,
        doubtful: bool,
    ) -> None:
        self.doubtful = doubtful
        self.alone: str | None = None
        self.runner = runner
        self.streamer: Streamer = runner
        self.choose = choose
        self.entry = entry
        self.samples = entry.samples
        self.indices = indices
        self.progress = progress
        self.dtypes: dict[str, np.dtype[Any]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def go(self, limit: int | None) -> Features:
        probed = self._examine()
        self.dtypes = {name: rows.dtype for name, rows in probed.items()}
        self.shapes = {name: rows.shape[1:] for name, rows in probed.items()}
        unknown = [name for name, dtype in self.dtypes.items() if dtype.name not in _SAFETENSORS]
        stored = dict(self.dtypes)
        if limit is not None and self._size(stored) > limit:
            half = np.dtype(np.float16)
            stored = {n: half if d.kind == "f" else d for n, d in stored.items()}
        if unknown or (limit is not None and self._size(stored) > limit):
            return self._recompute(self._size(self.dtypes), limit)
        try:
            return self._write(stored)
        except _OverflowError:
            return self._recompute(self._size(self.dtypes), limit)

    def _size(self, dtypes: Mapping[str, np.dtype[Any]]) -> int:
        each = sum(
            int(np.prod(self.shapes[name], dtype=np.int64)) * dtype.itemsize
            for name, dtype in dtypes.items()
        )
        return each * len(self.indices)

    def _examine(self) -> dict[str, NDArray[Any]]:
        """Find out whether samples may share a batch; return the rows of one of them."""
        rows, found = neighbours.examine(self.runner, self.indices, doubtful=self.doubtful)
        if found is not None:
            if self.runner.fixed_batch:
                raise found.error()
            self.runner.run_one_by_one()
            self.choose = None  # the others compute in batches
            self.alone = f"{found.said}: features are computed one sample at a time"
        return rows

    def _recompute(self, size: int, limit: int | None) -> Features:
        notes = [
            *self.runner.notes,
            *([self.alone] if self.alone else []),
            f"features would take {size} bytes (limit {limit}): they are computed again when read",
        ]
        return Features(
            rows=self.indices,
            skipped=[],
            path=None,
            bytes=size,
            hit=False,
            key=self.entry.key,
            providers=self.runner.providers,
            stored={},
            shapes=self.shapes,
            axes=self.entry.axes,
            notes=tuple(notes),
            alone=self.alone is not None,
            _constants=self.entry.constants,
            _source=self.runner,
        )

    def _write(self, stored: dict[str, np.dtype[Any]]) -> Features:
        total = len(self.indices)
        layout = _Layout.plan(total, self.shapes, stored)
        failed: list[tuple[int, str, str]] = []
        kept = np.zeros(total, bool)
        part: Path | None = None
        try:
            folder = self.entry.folder
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(".part", self.entry.key[:16] + "-", folder)
            part = Path(name)
            with os.fdopen(handle, "r+b") as file:
                _reserve(file.fileno(), layout.bytes)
                os.pwrite(file.fileno(), layout.header, 0)
                done = 0
                if self.choose is not None:
                    self.streamer = self.choose()
                for chunk in self.streamer.stream(self.indices):
                    for tensor, rows in chunk.outputs.items():
                        self._put(file.fileno(), layout, tensor, chunk.positions, rows)
                    kept[chunk.positions] = True
                    failed += [(f.index, f.name, f.reason) for f in chunk.failures]
                    done += len(chunk.positions) + len(chunk.failures)
                    if self.progress is not None:
                        self.progress(done, total)
                if failed:
                    layout = _compact(file.fileno(), layout, kept)
            failed.sort()
            about = self._about(kept, failed, stored, layout)
            _write_about(self.entry.path.with_suffix(".json"), about)
            part.replace(self.entry.path)
            part = None
        except OSError as error:
            raise _write_error(error, self.entry.folder, layout.bytes) from None
        finally:
            if part is not None:
                part.unlink(missing_ok=True)
        return self.entry.open(about, self.streamer.notes, hit=False)

    def _put(
        self,
        file: int,
        layout: _Layout,
        tensor: str,
        positions: NDArray[np.int64],
        rows: NDArray[Any],
    ) -> None:
        dtype = layout.dtypes[tensor]
        if rows.shape[1:] != layout.shapes[tensor]:
            raise CheckError(
                f"the shape of {tensor!r} differs between samples: "
                f"{list(rows.shape[1:])} and {list(layout.shapes[tensor])}",
                remedy="give samples of one shape, or raise nothing to the cache: --cache-limit 0",
            )
        values = rows
        if rows.dtype != dtype:
            with np.errstate(over="ignore"):
                values = rows.astype(dtype)
            if np.isinf(values).any() and not np.isinf(rows).any():
                raise _OverflowError
        # Rows of one chunk stand together unless one of them could not be read.
        runs = np.split(np.arange(len(positions)), np.flatnonzero(np.diff(positions) != 1) + 1)
        for run in runs:
            block = np.ascontiguousarray(values[run[0] : run[-1] + 1])
            offset = layout.offsets[tensor] + int(positions[run[0]]) * layout.row_bytes(tensor)
            _write_all(file, block.reshape(-1).view(np.uint8).data, offset)

    def _about(
        self,
        kept: NDArray[np.bool_],
        failed: list[tuple[int, str, str]],
        stored: Mapping[str, np.dtype[Any]],
        layout: _Layout,
    ) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "key": self.entry.key,
            "surgeon": surgeon.__version__,
            "bytes": layout.bytes,
            "rows": int(kept.sum()),
            "samples": len(kept),
            "providers": list(self.streamer.providers),
            "alone": self.alone,
            "tensors": {
                name: {
                    "dtype": dtype.name,
                    "stored": stored[name].name,
                    "shape": list(self.shapes[name]),
                }
                for name, dtype in self.dtypes.items()
            },
            "unreadable": [[int(index), reason] for index, _, reason in failed],
            "indices": _ranges(self.indices[kept]),
            "notes": [note for note in self.streamer.notes if "memory" in note],
        }


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


class _OverflowError(Exception):
    """A value too large for float16; stays inside this file."""


def _from_inputs(
    outputs: Sequence[str],
    samples: Samples,
    chosen: NDArray[np.int64],
    constants: dict[str, NDArray[Any]],
) -> Features:
    """Return features that are the graph's inputs themselves."""
    infos = {info.name: info for info in samples.inputs}
    missing = [name for name in outputs if name not in infos]
    if missing:
        message = f"the data does not feed the graph inputs {', '.join(missing)}"
        raise DataError(message, remedy="name them as in the graph, or give --input NAME=VALUE")
    axes = {name: infos[name].batch_axis or 0 for name in outputs}
    shapes = {
        name: tuple(
            dim if isinstance(dim, int) else -1
            for place, dim in enumerate(infos[name].shape or ())
            if place != axes[name]
        )
        for name in outputs
    }
    return Features(
        rows=chosen,
        skipped=[],
        path=None,
        bytes=0,
        hit=False,
        key="",
        providers=(),
        stored={},
        shapes=shapes,
        axes=axes,
        _constants=constants,
        _source=_Inputs(samples, axes),
    )


@dataclass(frozen=True)
class _Inputs:
    """Hands the samples' own values on, where nothing is frozen."""

    samples: Samples
    axes: dict[str, int]

    def run_at(self, indices: NDArray[np.int64]) -> Chunk:
        batch = self.samples.read(indices)
        lost = {failure.index for failure in batch.failures}
        kept = np.array([int(index) not in lost for index in indices], bool)
        rows = {name: np.moveaxis(batch.feeds[name], axis, 0) for name, axis in self.axes.items()}
        return Chunk(np.flatnonzero(kept), rows, batch.failures)


def _key(
    frozen: ModelProto,
    outputs: Sequence[str],
    samples: Samples,
    indices: NDArray[np.int64],
    parts: Sequence[str],
) -> str:
    functions = [item.SerializeToString(deterministic=True).hex() for item in frozen.functions]
    document = {
        "format": FORMAT,
        "surgeon": surgeon.__version__,
        "runtime": runtime_version(),
        "structure": structure_hash(frozen),
        "functions": functions,
        "weights": hash_tensors(frozen.graph.initializer),
        "outputs": list(outputs),
        "data": samples.content_sha256(indices),
        "rows": len(indices),
        "places": hashlib.sha256(np.asarray(indices, "<i8").tobytes()).hexdigest(),
        "parts": list(parts),
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


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
