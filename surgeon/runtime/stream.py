"""Runs a session over samples: reading and running overlap on all cores.

Each lane reads a block of a few runs and then runs it, so that on a CPU every core is busy with one
or the other and no core waits for another. On a GPU the lanes read and take turns at the session.
How samples fall into blocks and runs follows from the samples alone, so that the number of cores
does not change a bit of what comes out. Features, prediction and evaluation all go through here.
What must not enter: what is done with the outputs.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.data.ahead import work_ahead
from surgeon.errors import DataError, ModelError
from surgeon.graph.files import weight_bytes
from surgeon.runtime.places import choose_device, count_cores
from surgeon.runtime.sessions import OutOfMemoryError, open_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.data.samples import Batch, Failure, Samples
    from surgeon.runtime.places import Device
    from surgeon.runtime.sessions import Session

# Bytes of inputs in one run. On a CPU few samples are best (two of 3×224×224 in float32 for
# MobileNetV2, EfficientNet-Lite0): their activations stay in the cache. Where the weights do not
# fit there anyway, reading them once for more samples pays.
_CPU_BYTES = 1_200_000
_HEAVY_BYTES = 2_400_000
_HEAVY_WEIGHTS = 32_000_000
_CUDA_BYTES = 40_000_000
_LEAST_BATCH, _MOST_BATCH = 2, 256
# Pictures as they come: the next ones may be a hundred times as large as those looked at.
_RAGGED_BATCH = 4
_MAX_LANES = 16
# A lane decodes pictures for this many runs before it runs them, within this many bytes: decoding
# and the network push each other out of the core's cache, and a block is handed over once
# (MobileNetV2: 4 %). Texts are padded to the longest of what is read at once: they go run by run.
_BLOCK_RUNS = 8
_BLOCK_BYTES = 12_000_000
# No block is more than this share of what is left, so that all lanes end at about the same time.
_BLOCK_SHARE = 16


@dataclass(frozen=True)
class Chunk:
    """Outputs for some samples.

    Attributes:
        positions: where in the asked-for indices the rows stand, [k].
        outputs: name → rows along axis 0, [k, ...]; empty where no sample could be read.
        failures: samples that could not be read.
    """

    positions: NDArray[np.int64]
    outputs: dict[str, NDArray[Any]]
    failures: tuple[Failure, ...]


class Runner:
    """A session together with how samples go through it.

    Attributes:
        session: the loaded graph.
        samples: what is run.
        outputs: names of what is given.
        lanes: threads that read samples.
        batch: samples per run; falls when memory runs out.
        grows: whether a run may take more samples: neither the graph nor the caller decided.
        notes: what the user should be told.
    """

    def __init__(
        self,
        model: ModelProto | bytes | Path,
        samples: Samples,
        *,
        outputs: Sequence[str] | Mapping[str, int] | None = None,
        device: str | Device = "auto",
        threads: int | None = None,
        batch: int | None = None,
        exact: bool = False,
        where: str | None = None,
    ) -> None:
        """Load the graph.

        Args:
            model: the graph; inputs named like those of `samples`.
            samples: what will be run.
            outputs: names of graph outputs, or of inputs to hand through, with the batch axis of
                each where not all are 0; None = all outputs.
            device: `auto`, `cpu`, `cuda`, `cuda:N`.
            threads: cores to use in all; None = every one.
            batch: samples per run; None = what suits the device. A graph of fixed batch decides.
            exact: see `open_session`; for a part of a graph whose whole is another session.
            where: what messages call the model.

        Raises:
            ModelError, EnvironmentLacksError: as `open_session`.
            DataError: the graph takes an input that the samples do not feed.
        """
        cores = threads or count_cores()
        chosen = choose_device(device) if isinstance(device, str) else device
        on_cpu = chosen.kind == "cpu"
        self.lanes = min(cores, _MAX_LANES)
        # One thread a run and one run a core: no core waits for another at the end of each node.
        self.session: Session = open_session(
            model,
            device=chosen,
            threads=max(1, cores // self.lanes) if on_cpu else threads,
            spinning=False,
            exact=exact,
            where=where,
        )
        self.samples = samples
        self.outputs = tuple(self.session.outputs if outputs is None else outputs)
        self._axes = dict(outputs) if isinstance(outputs, Mapping) else {}
        self._turn = threading.Lock() if self.session.device == "cuda" else None
        self._infos = {info.name: info for info in samples.inputs}
        missing = [name for name in self.session.inputs if name not in self._infos]
        if missing:
            message = f"the data does not feed the graph inputs {', '.join(missing)}"
            raise DataError(message, remedy="name them as in the graph, or give --input NAME=VALUE")
        self._handed = [name for name in self.outputs if name not in self.session.outputs]
        self._computed = [name for name in self.outputs if name in self.session.outputs]
        self._fixed = self._fixed_batch()
        self._sample_bytes = self._input_bytes()
        self.batch = self._fixed or batch or self._choose_batch(_size(model))
        self.grows = self._fixed is None and batch is None
        self.notes = list(self.session.notes)

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the graph insists on, or None."""
        return self._fixed

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers that run the graph, best first."""
        return self.session.providers

    def axis(self, name: str) -> int:
        """Return where samples lie in an output."""
        if name in self._handed:
            return self._infos[name].batch_axis or 0
        return self._axes.get(name, 0)

    def stream(self, indices: NDArray[np.int64], start: int = 0) -> Iterator[Chunk]:
        """Run samples and give their outputs in order; reading runs ahead by a few blocks.

        Args:
            indices: samples to run.
            start: added to the positions of the chunks.

        Raises:
            DataError: samples that do not fit, or more than 5 % unreadable.
            OutOfMemoryError: a single sample does not fit into memory.
        """

        def work(block: tuple[int, int]) -> Chunk:
            first, last = block
            return self._read_and_run(indices[first:last], start + first)

        return work_ahead(work, self._blocks(len(indices)), self.lanes)

    def over(self, samples: Samples) -> None:
        """Run other samples, which feed the same inputs in the same way, from now on."""
        self.samples = samples
        self._sample_bytes = max(self._sample_bytes, self._input_bytes())

    def _blocks(self, count: int) -> Iterator[tuple[int, int]]:
        """Divide samples into blocks of whole runs, small ones last: (first, behind the last)."""
        size = self.batch
        most = _BLOCK_RUNS if self.samples.is_images and not self.samples.ragged else 1
        runs = max(1, min(most, _BLOCK_BYTES // max(self._sample_bytes * size, 1)))
        first = 0
        while first < count:
            fair = max(1, (count - first) // (_BLOCK_SHARE * size))
            last = min(count, first + size * min(runs, fair))
            yield first, last
            first = last

    def run_at(self, indices: Sequence[int] | NDArray[np.int64], position: int = 0) -> Chunk:
        """Read and run these samples now, in runs of at most `batch`."""
        chosen = np.asarray(indices, np.int64)
        parts = [
            self._read_and_run(chosen[place : place + self.batch], position + place)
            for place in range(0, len(chosen), self.batch)
        ]
        if len(parts) == 1:
            return parts[0]
        full = [part.outputs for part in parts if part.outputs]
        return Chunk(
            np.concatenate([part.positions for part in parts]),
            {n: np.concatenate([rows[n] for rows in full]) for n in self.outputs} if full else {},
            tuple(failure for part in parts for failure in part.failures),
        )

    def run(self, feeds: Mapping[str, NDArray[Any]], count: int) -> dict[str, NDArray[Any]]:
        """Run feeds that hold `count` samples; rows come back along axis 0.

        Where memory runs out the batch is halved, down to single samples.
        """
        if count == 0:
            message = "no sample is left to run"
            raise DataError(message, remedy="give samples that can be read")
        limit = self._fixed or self.batch
        if count > limit:
            return self._run_parts(feeds, count, limit)
        try:
            return self._run_once(feeds, count)
        except OutOfMemoryError:
            if self._fixed or count == 1:
                raise
            half = max(1, count // 2)
            self._shrink(half)
            return self._run_parts(feeds, count, half)

    def run_whole(self, feeds: Mapping[str, NDArray[Any]], count: int) -> dict[str, NDArray[Any]]:
        """Run feeds of `count` samples in one run, whatever `batch` is; a fixed batch is filled.

        Raises:
            OutOfMemoryError: they do not fit into memory together.
        """
        return self._run_once(feeds, count)

    def rows_of(
        self, feeds: Mapping[str, NDArray[Any]], rows: Sequence[int] | NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Return the feeds of some samples of a batch, in this order."""
        chosen = np.asarray(rows, np.int64)
        axes = {name: self._infos[name].batch_axis for name in feeds}
        return {
            name: value if (axis := axes[name]) is None else np.take(value, chosen, axis)
            for name, value in feeds.items()
        }

    def run_one_by_one(self) -> None:
        """Run every sample alone from now on: the graph mixes those of a batch."""
        self.batch, self.grows = 1, False

    def _read_and_run(self, indices: NDArray[np.int64], position: int) -> Chunk:
        batch: Batch = self.samples.read(indices)
        positions = positions_of(indices, batch.failures, position)
        if not len(batch.indices):
            return Chunk(positions, {}, batch.failures)
        run = self._run_by_size if self.samples.ragged else self.run
        return Chunk(positions, run(batch.feeds, len(batch.indices)), batch.failures)

    def _run_by_size(
        self, feeds: Mapping[str, NDArray[Any]], count: int
    ) -> dict[str, NDArray[Any]]:
        """Run feeds of which one may hold samples of different sizes, those of a size at once."""
        name = next((name for name, value in feeds.items() if value.dtype == object), None)
        if name is None:
            return self.run(feeds, count)
        shapes = [value.shape for value in feeds[name]]
        order: list[int] = []
        parts = []
        for shape in dict.fromkeys(shapes):
            rows = [row for row, own in enumerate(shapes) if own == shape]
            some = self.rows_of(feeds, rows)
            some[name] = np.stack(list(some[name]))
            parts.append(self.run(some, len(rows)))
            order += rows
        back = np.argsort(order)
        return {one: np.concatenate([part[one] for part in parts])[back] for one in self.outputs}

    def _run_parts(
        self, feeds: Mapping[str, NDArray[Any]], count: int, size: int
    ) -> dict[str, NDArray[Any]]:
        parts = []
        for place in range(0, count, size):
            stop = min(count, place + size)
            some = {name: self._slice(name, value, place, stop) for name, value in feeds.items()}
            parts.append(self.run(some, stop - place))
        return {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}

    def _run_once(self, feeds: Mapping[str, NDArray[Any]], count: int) -> dict[str, NDArray[Any]]:
        padded = feeds
        if self._fixed and count < self._fixed:
            padded = {name: self._pad(name, value) for name, value in feeds.items()}
        if self._turn is None:
            results = self.session.run(padded, self._computed)
        else:
            with self._turn:
                results = self.session.run(padded, self._computed)
        rows = {}
        for name, value in zip(self._computed, results, strict=True):
            rows[name] = self._rows(name, value, self.axis(name), count)
        # Outputs wait in memory by the block, too, and their size is known only now.
        made = sum(value.nbytes for value in rows.values()) // count
        self._sample_bytes = max(self._sample_bytes, made)
        for name in self._handed:
            rows[name] = self._rows(name, feeds[name], self.axis(name), count)
        return rows

    def _rows(self, name: str, value: NDArray[Any], axis: int, count: int) -> NDArray[Any]:
        expected = count if name in self._handed else self._fixed or count
        if value.ndim <= axis or value.shape[axis] != expected:
            raise ModelError(
                f"output {name!r} has shape {list(value.shape)} for {expected} samples",
                remedy="its batch axis is not where it should be: choose another cut",
            )
        return np.moveaxis(value, axis, 0)[:count]

    def _slice(self, name: str, value: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
        axis = self._infos[name].batch_axis
        if axis is None:
            return value
        return value[(slice(None),) * axis + (slice(start, stop),)]

    def _pad(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        """Repeat the last sample up to the fixed batch; its rows are thrown away afterwards."""
        axis = self._infos[name].batch_axis
        if axis is None or self._fixed is None:
            return value
        lacking = self._fixed - value.shape[axis]
        last = value[(slice(None),) * axis + (slice(-1, None),)]
        return np.concatenate([value, np.repeat(last, lacking, axis)], axis)

    def _fixed_batch(self) -> int | None:
        sizes = set()
        for name, (_, shape) in self.session.inputs.items():
            axis = self._infos[name].batch_axis
            if axis is not None and axis < len(shape):
                sizes.add(shape[axis])
        fixed = [size for size in sizes if isinstance(size, int) and size > 0]
        return fixed[0] if fixed else None

    def _input_bytes(self) -> int:
        """Return the bytes of one sample's inputs."""
        feeds = self.samples.read([]).feeds
        each = 0
        for name in self.session.inputs:
            axis, value = self._infos[name].batch_axis, feeds[name]
            if axis is not None:
                dims = [dim for place, dim in enumerate(value.shape) if place != axis]
                each += value.itemsize * int(np.prod(dims, dtype=np.int64))
        return each

    def _choose_batch(self, weights: int) -> int:
        """Return as many samples as fill a run well, by the size of their inputs."""
        budget = _HEAVY_BYTES if weights > _HEAVY_WEIGHTS else _CPU_BYTES
        if self.session.device == "cuda":
            budget = _CUDA_BYTES
        most = _RAGGED_BATCH if self.samples.ragged else _MOST_BATCH
        return min(max(budget // max(self._sample_bytes, 1), _LEAST_BATCH), most)

    def _shrink(self, size: int) -> None:
        if size < self.batch:
            self.batch = size
            self.notes.append(f"memory ran out: the batch was halved to {size}")


def positions_of(
    indices: NDArray[np.int64], failures: Sequence[Failure], position: int
) -> NDArray[np.int64]:
    """Return where the samples that could be read stand, the first of `indices` at `position`."""
    positions = position + np.arange(len(indices), dtype=np.int64)
    if not failures:
        return positions
    lost = {failure.index for failure in failures}
    return positions[[int(index) not in lost for index in indices]]


def _size(model: ModelProto | bytes | Path) -> int:
    if isinstance(model, bytes):
        return len(model)
    return model.stat().st_size if isinstance(model, Path) else weight_bytes(model)
