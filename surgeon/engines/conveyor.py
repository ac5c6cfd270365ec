"""Samples through an engine: read in threads, copied and normalized ahead, run, brought back.

On a GPU three things go on at once: threads decode the pictures of coming batches into pinned
memory, one stream copies them as bytes and normalizes them, another computes; the host waits for
none of it before a whole batch has come back. On a CPU the same code does one after the other.
What must not enter: which engine is the fastest, and what is done with the features.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from surgeon.data.ahead import work_ahead
from surgeon.errors import DataError, ModelError
from surgeon.ops import convert
from surgeon.runtime.sessions import OutOfMemoryError
from surgeon.runtime.stream import Chunk, positions_of
from surgeon.train.batches import normalized
from surgeon.train.device import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.data.samples import Failure
    from surgeon.records import Preprocess
    from surgeon.runtime.stream import Runner

#: Most pictures that one thread decodes before it hands them over.
_PIECE: Final = 64
#: Bytes of values (not pictures, which are bytes) that may be read ahead.
_AHEAD: Final = 2**30


class Engine(Protocol):
    """A way to compute the frozen part.

    Attributes:
        name: as people read it.
        providers: what documents name.
    """

    name: str
    providers: tuple[str, ...]

    def run(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute every output from the graph's inputs, on the device and its current stream."""
        ...


@dataclass(frozen=True)
class Piece:
    """Samples in memory of the host, pinned where a GPU will fetch them.

    Attributes:
        positions: where in the asked-for indices they stand, [k].
        values: by graph input, k samples along its batch axis; pictures as bytes [k, H, W, C].
        failures: samples that could not be read.
    """

    positions: NDArray[np.int64]
    values: dict[str, Tensor]
    failures: tuple[Failure, ...]

    @property
    def count(self) -> int:
        """Number of samples that could be read."""
        return len(self.positions)


@dataclass(frozen=True)
class Placed:
    """A batch on the device as the graph takes it.

    Attributes:
        values: by graph input, `size` samples along its batch axis.
        count: samples that count; those behind repeat them, so that all batches have one shape.
        size: samples in it.
        ready: when the device has it; None = now.
    """

    values: dict[str, Tensor]
    count: int
    size: int
    ready: torch.cuda.Event | None


class Arrivals:
    """The way of samples to the device.

    Attributes:
        device: where to.
        computing: the stream that takes the batches; None on a CPU.
        lanes: threads that may read.
        sample_bytes: bytes of one sample as it travels.
    """

    def __init__(
        self, runner: Runner, device: torch.device, computing: torch.cuda.Stream | None
    ) -> None:
        """Prepare it.

        Args:
            runner: what would run; says which inputs are wanted, and hands out the samples.
            device: where to.
            computing: the stream that will take the batches; None on a CPU.

        Raises:
            UnsupportedError: an input of a type that torch does not have (text).
        """
        self.device = device
        self.computing = computing
        self.lanes = runner.lanes
        self._samples = runner.samples
        self._copying: torch.cuda.Stream | None = None
        if computing is not None:
            self._copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        handed = [name for name in runner.outputs if name not in runner.session.outputs]
        wanted = dict.fromkeys([*runner.session.inputs, *handed])
        infos = [info for info in self._samples.inputs if info.name in wanted]
        self._axes = {i.name: i.batch_axis for i in infos if i.batch_axis is not None}
        self._dtypes = {i.name: _dtype(i.dtype) for i in infos}
        nothing = self._samples.read([]).feeds
        self._same = {
            info.name: convert.from_numpy(nothing[info.name]).to(device)
            for info in infos
            if info.batch_axis is None
        }
        self._picture = self._find_picture()
        self.sample_bytes = sum(
            (nothing[name].itemsize if self._picture is None else 1)
            * math.prod(size for place, size in enumerate(nothing[name].shape) if place != axis)
            for name, axis in self._axes.items()
        )

    @property
    def one_shape(self) -> bool:
        """Whether batches differ in nothing but their values: texts and sounds differ in length."""
        inputs = [info for info in self._samples.inputs if info.name in self._axes]
        fixed = all(
            isinstance(dim, int)
            for info in inputs
            for place, dim in enumerate(info.shape or (None,))
            if place != info.batch_axis
        )
        return fixed or self._samples.encoding is None

    def read(self, indices: NDArray[np.int64], position: int = 0) -> Piece:
        """Read samples into memory of the host; called in threads.

        Raises:
            DataError: more than 5 % of all samples have turned out unreadable.
        """
        values: dict[str, Any]
        if self._picture is None:
            batch = self._samples.read(indices)
            failures = batch.failures
            values = {name: batch.feeds[name] for name in self._axes}
        else:
            pixels, failures = self._pixels(indices)
            values = {self._picture: pixels}
        positions = positions_of(indices, failures, position)
        return Piece(positions, {n: self._held(v) for n, v in values.items()}, failures)

    def place(self, pieces: Sequence[Piece], start: int, stop: int, size: int) -> Placed:
        """Bring samples `start` to `stop` of some pieces to the device, as a batch of `size`.

        What lacks is filled by repeating them from the first on.
        """
        values = dict(self._same)
        with on(self._copying):
            for name, axis in self._axes.items():
                parts = [
                    piece.values[name].narrow(axis, low, high - low)
                    for piece, low, high in _within(pieces, start, stop)
                ]
                moved = [part.to(self.device, non_blocking=True) for part in parts]
                value = moved[0] if len(moved) == 1 else torch.cat(moved, axis)
                if stop - start < size:
                    rows = torch.arange(size, device=self.device) % (stop - start)
                    value = value.index_select(axis, rows)
                if name == self._picture:
                    value = normalized(value, self._rule, self._dtypes[name])
                values[name] = value
            ready = None if self._copying is None else self._copying.record_event()
        return Placed(values, stop - start, size, ready)

    def take(self, placed: Placed) -> None:
        """Let the computing stream go on once a batch is there; the host does not wait."""
        if self.computing is None or placed.ready is None:
            return
        self.computing.wait_event(placed.ready)
        for name in self._axes:  # their memory is not given away before it has been read
            placed.values[name].record_stream(self.computing)

    def piece_size(self, batch: int) -> int:
        """Return how many samples a thread reads at once: texts are padded by the whole batch."""
        if self._picture is None:
            return batch
        return max(1, min(_PIECE, -(-batch // self.lanes)))

    def threads(self, batch: int) -> int:
        """Return how many threads read."""
        if self._picture is not None:
            return self.lanes
        return int(max(1, min(self.lanes, _AHEAD // max(2 * batch * self.sample_bytes, 1))))

    @property
    def _rule(self) -> Preprocess:
        assert self._samples.preprocess is not None
        return self._samples.preprocess

    def _find_picture(self) -> str | None:
        """Return the input that takes pictures, if they may travel as bytes."""
        if not self._samples.is_images or self._samples.preprocess is None:
            return None
        found = [info for info in self._samples.inputs if info.name in self._axes]
        suits = len(found) == 1 and found[0].batch_axis == 0
        suits = suits and (found[0].shape is None or len(found[0].shape) == 4)
        return found[0].name if suits else None

    def _pixels(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], tuple[Failure, ...]]:
        try:
            return self._samples.images(indices), ()
        except DataError:
            pass  # one of them cannot be read: each by itself
        rows: list[NDArray[np.uint8]] = []
        failures: list[Failure] = []
        for index in indices:
            failed = self._samples.read([index]).failures  # raises where these are too many
            failures += failed
            if not failed:
                rows.append(self._samples.images([index]))
        if rows:
            return np.concatenate(rows), tuple(failures)
        channels = 1 if self._rule.channels == "L" else 3
        return np.empty((0, *self._rule.size, channels), np.uint8), tuple(failures)

    def _held(self, values: NDArray[Any]) -> Tensor:
        if self.computing is not None and values.size and _lies_ready(values):
            return torch.from_numpy(values).pin_memory()  # that is a copy: no other is needed
        tensor: Tensor = convert.from_numpy(values)
        return tensor if self.computing is None or not tensor.numel() else tensor.pin_memory()


@dataclass
class _Load:
    """A batch between reading and running: its samples begin at position `first`."""

    first: int
    pieces: list[Piece]
    placed: Placed | None

    @property
    def count(self) -> int:
        return sum(piece.count for piece in self.pieces)


@dataclass(frozen=True)
class _Leaving:
    """A batch's features on their way to the host."""

    positions: NDArray[np.int64]
    rows: dict[str, Tensor]
    failures: tuple[Failure, ...]
    there: torch.cuda.Event | None

    def chunk(self) -> Chunk:
        if self.there is not None:
            self.there.synchronize()
        return Chunk(self.positions, {n: t.numpy() for n, t in self.rows.items()}, self.failures)


class Conveyor:
    """Streams as a `Runner` does, through an engine.

    Attributes:
        engine: what computes.
        batch: samples per run; falls when memory runs out.
        notes: what the user should be told; the Runner's own list.
    """

    def __init__(
        self,
        runner: Runner,
        engine: Engine,
        arrivals: Arrivals,
        *,
        batch: int,
        dtypes: dict[str, np.dtype[Any]],
    ) -> None:
        """Put an engine in the place of a Runner.

        Args:
            runner: goes on where the engine fails.
            engine: what computes.
            arrivals: the way of the samples to it.
            batch: samples per run.
            dtypes: element type of every output.
        """
        self.runner = runner
        self.engine = engine
        self.arrivals = arrivals
        self.batch = batch
        self.notes = runner.notes
        self._dtypes = {name: _torch_dtype(dtype) for name, dtype in dtypes.items()}
        self._used: tuple[str, ...] = engine.providers

    @property
    def providers(self) -> tuple[str, ...]:
        """What computed the features."""
        return self._used

    def stream(self, indices: NDArray[np.int64]) -> Iterator[Chunk]:
        """Run samples and give their outputs in order.

        Where the engine fails, a note says so and the Runner goes on.

        Raises:
            DataError: samples that do not fit, or more than 5 % unreadable.
        """
        waiting: _Load | None = None
        load: _Load | None = None
        leaving: deque[_Leaving] = deque()
        for load in self._loads(indices):  # the next batch is copied while one is computed
            if waiting is not None:
                failed = self._launch(waiting, leaving)
                if failed is not None:
                    break
                if len(leaving) > 1:
                    yield leaving.popleft().chunk()
            waiting = load
        else:
            failed = None if waiting is None else self._launch(waiting, leaving)
        while leaving:
            yield leaving.popleft().chunk()
        if failed is not None and waiting is not None:
            first = waiting.first
            waiting = load = None  # what they hold of the device is for what goes on
            self._give_up(failed)
            yield from self.runner.stream(indices[first:], first)

    def rows(self, placed: Placed) -> dict[str, Tensor]:
        """Run a batch; its rows along axis 0, on the device, in the outputs' own types.

        Raises:
            ModelError: an output has not one row per sample.
        """
        with on(self.arrivals.computing):
            self.arrivals.take(placed)
            made = self.engine.run(placed.values)
            return {name: self._of(name, made, placed) for name in self.runner.outputs}

    def bring(self, rows: dict[str, Tensor]) -> tuple[dict[str, Tensor], torch.cuda.Event | None]:
        """Begin to copy rows to the host; the event tells when they are there."""
        if self.arrivals.computing is None:
            return {name: value.contiguous() for name, value in rows.items()}, None
        with on(self.arrivals.computing):
            host = {}
            for name, value in rows.items():
                host[name] = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
                host[name].copy_(value, non_blocking=True)
            return host, self.arrivals.computing.record_event()

    def _loads(self, indices: NDArray[np.int64]) -> Iterator[_Load]:
        """Read batches in threads, and place each as soon as it is complete."""
        size = self.batch
        piece = self.arrivals.piece_size(size)
        steps = [
            (first, min(first + piece, start + size, len(indices)), start)
            for start in range(0, len(indices), size)
            for first in range(start, min(start + size, len(indices)), piece)
        ]
        pieces: list[Piece] = []

        def read(step: tuple[int, int, int]) -> tuple[Piece, tuple[int, int, int]]:
            return self.arrivals.read(indices[step[0] : step[1]], step[0]), step

        for found, (_, last, start) in work_ahead(read, steps, self.arrivals.threads(size)):
            pieces.append(found)
            if last in {start + size, len(indices)}:
                load = _Load(start, pieces, None)
                load.placed = self._placed_early(load)
                yield load
                pieces = []

    def _placed_early(self, load: _Load) -> Placed | None:
        if not 0 < load.count <= self.batch:
            return None
        try:
            return self.arrivals.place(load.pieces, 0, load.count, self.batch)
        except Exception as error:
            if not ran_out(error):
                raise
            return None  # tried again, in smaller parts, when it is its turn

    def _launch(self, load: _Load, leaving: deque[_Leaving]) -> str | None:
        """Run a batch; what comes of it is appended. Returns why that failed, or None.

        Words, not the error: its frames would hold the memory of the run.
        """
        failures = tuple(failure for piece in load.pieces for failure in piece.failures)
        positions = np.concatenate([piece.positions for piece in load.pieces])
        if not load.count:
            leaving.append(_Leaving(positions, {}, failures, None))
            return None
        try:
            rows, there = self.bring(self._all_rows(load))
        except Exception as error:  # noqa: BLE001 - whatever an engine raises, the Runner goes on
            return gist(error)
        leaving.append(_Leaving(positions, rows, failures, there))
        return None

    def _all_rows(self, load: _Load) -> dict[str, Tensor]:
        """Run a batch, in halves of halves where memory runs out."""
        placed, load.placed = load.placed, None
        parts: list[dict[str, Tensor]] = []
        done = 0
        while done < load.count:
            if placed is not None and placed.size != self.batch:
                placed = None  # memory ran out after it was placed
            stop = min(load.count, done + self.batch)
            if self._tried(load, placed, done, stop, parts):
                done = stop
            else:
                self._shrink()
            placed = None
        if len(parts) == 1:
            return parts[0]
        with on(self.arrivals.computing):
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _tried(
        self,
        load: _Load,
        placed: Placed | None,
        start: int,
        stop: int,
        parts: list[dict[str, Tensor]],
    ) -> bool:
        """Run samples of a batch; False where memory ran out and a smaller batch may do."""
        try:
            placed = placed or self.arrivals.place(load.pieces, start, stop, self.batch)
            parts.append(self.rows(placed))
        except Exception as error:
            if not ran_out(error) or self.batch == 1 or self.runner.fixed_batch:
                raise
            return False
        return True

    def _shrink(self) -> None:
        self.batch = max(1, self.batch // 2)
        self.notes.append(f"memory ran out: the batch was halved to {self.batch}")
        if self.arrivals.device.type == "cuda":
            torch.cuda.empty_cache()

    def _give_up(self, why: str) -> None:
        self._used = tuple(dict.fromkeys([*self._used, *self.runner.providers]))
        self.notes.append(f"{self.engine.name} failed, ONNX Runtime goes on: {why}")
        if self.arrivals.device.type == "cuda":
            torch.cuda.empty_cache()

    def _of(self, name: str, made: dict[str, Tensor], placed: Placed) -> Tensor:
        value = made[name] if name in made else placed.values[name]
        axis = self.runner.axis(name)
        if value.dim() <= axis or value.shape[axis] != placed.size:
            raise ModelError(
                f"output {name!r} has shape {list(value.shape)} for {placed.size} samples",
                remedy="its batch axis is not where it should be: choose another cut",
            )
        return value.movedim(axis, 0)[: placed.count].to(self._dtypes[name]).contiguous()


@contextmanager
def on(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """Compute on a stream of a GPU, without gradients. Never held across a `yield`."""
    with torch.inference_mode():
        if stream is None:
            yield
            return
        with torch.cuda.device(stream.device), torch.cuda.stream(stream):
            yield


def ran_out(error: BaseException) -> bool:
    """Tell whether an error of torch or ONNX Runtime says that memory ran out."""
    return isinstance(error, OutOfMemoryError) or is_out_of_memory(error)


def gist(error: BaseException) -> str:
    """Return the first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _within(pieces: Sequence[Piece], start: int, stop: int) -> Iterator[tuple[Piece, int, int]]:
    """Give the pieces that hold samples `start` to `stop`, and which of their own these are."""
    offset = 0
    for piece in pieces:
        low, high = max(start - offset, 0), min(stop - offset, piece.count)
        if low < high:
            yield piece, low, high
        offset += piece.count


def _lies_ready(values: NDArray[Any]) -> bool:
    """Tell whether torch takes an array as it lies: its own types, dense, and no constant."""
    plain = values.dtype.isbuiltin == 1 and values.dtype.kind in "fiub"
    return bool(plain and values.flags.c_contiguous and values.flags.writeable)


def _dtype(name: str) -> torch.dtype:
    return convert.torch_dtype(TensorProto.DataType.Value(name.upper()))


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype
