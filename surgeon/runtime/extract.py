"""Computes features: the frozen part over samples once, straight into a cache entry.

What must not enter: training, labels.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import CheckError, DataError
from surgeon.graph.envelope import structure_hash
from surgeon.graph.weights import hash_tensors
from surgeon.runtime import neighbours
from surgeon.runtime.cache import FORMAT, CacheEntry, cache_root, ranges, write_about
from surgeon.runtime.features import Features, Progress, Request, Streamer
from surgeon.runtime.places import choose_device, runtime_version
from surgeon.runtime.store import SAFETENSORS, Layout, compact, reserve, write_all, write_error
from surgeon.runtime.stream import Chunk, Runner
from surgeon.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.data.samples import Samples


def extract(
    frozen: ModelProto | None,
    outputs: Sequence[str],
    samples: Samples,
    indices: NDArray[np.int64] | None = None,
    request: Request | None = None,
    progress: Progress | None = None,
) -> Features:
    """Run the frozen part over samples once, or find that it has been done before.

    Args:
        frozen: graph whose outputs are the frontier tensors; None where nothing is frozen (the
            tensors are graph inputs then, read from the samples whenever they are needed).
        outputs: names of the frontier tensors; graph inputs among them are handed through.
        samples: the data.
        indices: which samples; None = all.
        request: where and how; None = as it comes.
        progress: called with (samples done, samples in all).

    Raises:
        CheckError: the outputs of a sample depend on its batch, which is fixed; or on chance.
        DataError: data that do not fit, or more than 5 % of the samples unreadable.
        ModelError: ONNX Runtime refuses the graph.
        EnvironmentLacksError: disk, memory or the provider is missing; nothing is left behind.
    """
    asked = request or Request()
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
        name: (infos[name].batch_axis or 0) if name in infos else asked.axes.get(name, 0)
        for name in outputs
    }
    given = asked.device
    device = choose_device(given) if isinstance(given, str) else given
    where_run = [device.kind]
    if device.repeatable and device.kind == "cuda":
        where_run.append("repeatable")
    key = _key(frozen, outputs, samples, chosen, [*asked.key_parts, *where_run])
    folder = cache_root() / "features" if asked.cache_dir is None else asked.cache_dir
    entry = CacheEntry(folder, key, tuple(outputs), placed, samples, constants)
    found = entry.find(device.notes)
    if found is not None:
        if progress is not None:
            progress(len(chosen), len(chosen))
        return found
    runner = Runner(
        frozen,
        samples,
        exact=True,
        outputs=placed,
        device=device,
        threads=asked.threads,
        batch=asked.batch,
        where=asked.where,
    )
    faster = asked.faster
    choose = None if faster is None else (lambda: faster(runner, frozen, chosen))
    extraction = _Extraction(runner, entry, chosen, progress, choose, doubtful=asked.doubtful)
    return extraction.go(asked.limit_bytes)


class _Extraction:
    """One run over the data that writes one entry."""

    def __init__(
        self,
        runner: Runner,
        entry: CacheEntry,
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
        unknown = [name for name, dtype in self.dtypes.items() if dtype.name not in SAFETENSORS]
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
        layout = Layout.plan(total, self.shapes, stored)
        failed: list[tuple[int, str, str]] = []
        kept = np.zeros(total, bool)
        part: Path | None = None
        try:
            folder = self.entry.folder
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(".part", self.entry.key[:16] + "-", folder)
            part = Path(name)
            with os.fdopen(handle, "r+b") as file:
                reserve(file.fileno(), layout.bytes)
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
                    layout = compact(file.fileno(), layout, kept)
            failed.sort()
            about = self._about(kept, failed, stored, layout)
            write_about(self.entry.path.with_suffix(".json"), about)
            part.replace(self.entry.path)
            part = None
        except OSError as error:
            raise write_error(error, self.entry.folder, layout.bytes) from None
        finally:
            if part is not None:
                part.unlink(missing_ok=True)
        return self.entry.open(about, self.streamer.notes, hit=False)

    def _put(
        self,
        file: int,
        layout: Layout,
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
            write_all(file, block.reshape(-1).view(np.uint8).data, offset)

    def _about(
        self,
        kept: NDArray[np.bool_],
        failed: list[tuple[int, str, str]],
        stored: Mapping[str, np.dtype[Any]],
        layout: Layout,
    ) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "key": self.entry.key,
            "surgeon": __version__,
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
            "indices": ranges(self.indices[kept]),
            "notes": [note for note in self.streamer.notes if "memory" in note],
        }


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
        "surgeon": __version__,
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
