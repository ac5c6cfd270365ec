"""What computes the frozen part on a GPU: ONNX Runtime or torch, whichever is faster there.

Both take a batch that lies on the device and leave theirs there. Which one it is, and how many
samples it takes at once, is measured on the first samples, where the work left is worth it, and
said in a note. ONNX Runtime on the same samples is the reference: an engine that does not agree
with it is left out. What must not enter: reading of samples, the cache, training.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch

from surgeon.data.ahead import work_ahead
from surgeon.engines.conveyor import Arrivals, Conveyor, gist, ran_out
from surgeon.engines.engine import OnnxEngine, TorchEngine, wait
from surgeon.errors import DataError
from surgeon.graph.precision import is_half
from surgeon.runtime.observe import relative_error
from surgeon.runtime.places import Device, choose_device
from surgeon.train.device import choose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.engines.conveyor import Engine, Piece, Placed
    from surgeon.runtime.features import Streamer
    from surgeon.runtime.stream import Runner
    from surgeon.train.compile import Compile


#: Seconds of work from which on measuring pays: it takes one to three itself.
WORTH_MEASURING: Final = 2.0


#: Seconds of work from which on compiling pays, by kind of device: a forward pass compiles in ten
#: to forty seconds on a GPU and then takes half to four fifths of the time.
WORTH_COMPILING: Final = {"cpu": 1800.0, "cuda": 60.0}


#: Seconds of work from which on many ways of computing each product are tried, which takes minutes.
WORTH_TUNING: Final = 1800.0


#: Largest relative error of an engine's features from those of ONNX Runtime in float32.
BOUNDS: Final = {"float32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}


#: The same where the file itself has float16 weights.
HALF_BOUND: Final = 1e-2


_COMPARED: Final = 8  # samples whose features are compared


_TRIED: Final = 256  # samples that timings are made on


_ROUNDS: Final = 3  # timings of each engine, in alternation; the median counts


_TIMED: Final = 0.05  # seconds that one timing takes at least


_GROWTH: Final = 1.1  # a batch of twice the size is taken if it gives this much more


# Share of the work's time, and seconds, that the search for a batch size may take.
_TRIAL_SHARE: Final = 0.1


_TRIAL_MOST: Final = 10.0


_FULL: Final = 0.9  # share of a GPU's memory that a batch size may lead to


# What fills a GPU: samples, and their bytes as they travel. Engines of torch start with it.
_START: Final = 256


_START_BYTES: Final = 2**26


# Batches from which on cuDNN's search for the fastest algorithms (0.5 to 1.5 s) is worth it.
_WORTH_LOOKING: Final = 20


_MOST: Final = 2048


_MOST_BYTES: Final = 512 * 2**20  # of one batch as it travels


_LEAST_BATCHES: Final = 8  # batches that all samples make at least: reading and computing overlap


@dataclass(frozen=True)
class Engines:
    """Chooses what computes the frozen part: the `faster` of `surgeon.runtime.extract`.

    Attributes:
        device: where torch computes.
        place: the same for ONNX Runtime, on the same stream.
        precision: of torch; ONNX Runtime computes in that of the file.
        compile: `on`, `off`, or `auto`: where it is worth it.
        computing: the stream of both; None on a CPU.
    """

    device: torch.device
    place: Device
    precision: str = "float32"
    compile: Compile = "auto"
    computing: torch.cuda.Stream | None = None

    @property
    def key_parts(self) -> list[str]:
        """What decides the features, beside what decides those of a Runner."""
        return ["engines", *([self.precision] if self.precision != "float32" else [])]

    def __call__(self, runner: Runner, frozen: ModelProto, indices: NDArray[np.int64]) -> Streamer:
        """Return what is fastest for these samples; the Runner itself where nothing else will do.

        Raises:
            DataError: more than 5 % of all samples have turned out unreadable.
        """
        if any(info.dtype == "string" for info in runner.samples.inputs):
            return runner
        try:
            return _Choice(self, runner, frozen, indices).made()
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001 - no reason to end a run that can go on
            runner.notes.append(f"features: ONNX Runtime as it is; no other engine: {gist(error)}")
            return runner


def engine_for(
    device: str = "auto",
    *,
    precision: str = "float32",
    compile: Compile = "auto",
    deterministic: bool = False,
) -> Engines | None:
    """Return what chooses the engine of the frozen part; None where that is ONNX Runtime anyway.

    It is on a CPU, and where results must repeat bit for bit: a choice by the clock does not.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        precision: `float32`, `bf16`, `fp16`.
        compile: whether torch may compile: `on`, `off`, `auto`.
        deterministic: ONNX Runtime always.

    Raises:
        UsageError, EnvironmentLacksError: a device that does not exist here.
    """
    chosen = choose(device)
    place = choose_device(device)
    if chosen.type != "cuda" or deterministic:
        return None
    # A stream of its own, not the default one, whose address is 0: ONNX Runtime takes that for
    # none.
    computing: torch.cuda.Stream = torch.cuda.Stream(chosen)  # type: ignore[no-untyped-call]
    place = replace(place, stream=computing.cuda_stream)
    return Engines(chosen, place, precision, compile, computing)


@dataclass
class Candidate:
    """An engine with the batch size that suits it, and samples per second, timing by timing."""

    conveyor: Conveyor
    rates: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Samples per second."""
        return statistics.median(self.rates)

    @property
    def name(self) -> str:
        """Name of the engine."""
        return self.conveyor.engine.name


class _Choice:
    """One choice, for one frozen part and its samples."""

    def __init__(
        self, engines: Engines, runner: Runner, frozen: ModelProto, indices: NDArray[np.int64]
    ) -> None:
        self.engines = engines
        self.runner = runner
        self.frozen = frozen
        self.indices = indices
        self.arrivals = Arrivals(runner, engines.device, engines.computing)
        self.reference: dict[str, NDArray[Any]] = {}
        self.compared: list[Piece] = []
        self.pieces: list[Piece] = []

    def made(self) -> Streamer:
        """Compare, measure, choose."""
        if not self._refer():
            return self.runner  # not one of the first samples can be read
        # Without TF32 ONNX Runtime has no tensor cores for float32: no rival to half the bits.
        reduced = self.engines.precision != "float32" and not is_half(self.frozen)
        torches = [self._torch() if reduced else None]
        onnx = self._onnx() if torches[0] is None else None
        first = torches[0] or onnx
        left = self._work(first)
        if left < WORTH_MEASURING:
            if first is None:
                return self.runner
            if first is not onnx:
                self._say(f"{first.name}, {first.conveyor.batch} a run")
            return first.conveyor
        if not reduced:
            torches = [self._torch()]
            left = left if torches[0] is None else min(left, self._work(torches[0]))
        elif self.engines.precision == "bf16" and torches[0] is not None:
            # Not in fp16: what passes its range may do so in samples that were not compared.
            torches.append(self._torch(whole=True))
        trial = min(_TRIAL_SHARE * left, _TRIAL_MOST)
        candidates = [one for one in (onnx, *torches) if one is not None]
        candidates = [one for one in candidates if self._sized(one, trial)]
        if not candidates:
            return self.runner
        self._alternate(candidates)
        self._try_compiled(candidates)
        best = max(candidates, key=lambda one: one.rate)
        others = [f"{one.name}: {one.rate:,.0f}" for one in candidates if one is not best]
        self._say(
            f"{best.name}, {best.rate:,.0f} samples/s, {best.conveyor.batch} a run"
            + (f" ({'; '.join(others)})" if others else "")
        )
        _release(self.engines.device)
        return best.conveyor

    def _refer(self) -> bool:
        """Compute the first features by the Runner as it is."""
        batch = self.runner.samples.read(self.indices[:_COMPARED])
        if not len(batch.indices):
            return False
        self.reference = self.runner.run(batch.feeds, len(batch.indices))
        self.compared = [self.arrivals.read(batch.indices)]
        return True

    def _onnx(self) -> Candidate | None:
        session = self.runner.session
        if session.device != self.engines.device.type:
            return None  # ONNX Runtime has no GPU here, which the session's own note says
        outputs = [name for name in self.runner.outputs if name in session.outputs]
        batch = self._rounded(self.runner.batch)
        return self._tested(OnnxEngine(session, outputs), BOUNDS["float32"], batch)

    def _torch(self, *, whole: bool = False) -> Candidate | None:
        batch = self._first_batch()
        looking = self.arrivals.one_shape and len(self.indices) > _WORTH_LOOKING * batch
        try:
            engine = TorchEngine(
                self.frozen, self.engines.device, precision=self.engines.precision,
                one_shape=looking, whole=whole,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - whatever it is, ONNX Runtime remains
            self._say(f"torch does not convert the frozen part: {gist(error)}")
            return None
        return self._tested(engine, BOUNDS[self.engines.precision], batch)

    def _first_batch(self) -> int:
        """Return the batch that torch starts with: a Runner on the CPU has a few samples only."""
        runner = self.runner
        batch = runner.batch
        if runner.grows and self.engines.device.type == "cuda":
            fills = min(_START, _START_BYTES // max(self.arrivals.sample_bytes, 1))
            batch = max(batch, fills)
        return self._rounded(batch)

    def _rounded(self, batch: int) -> int:
        batch = self.runner.fixed_batch or min(batch, len(self.indices))
        # Powers of two fill a GPU's tiles.
        return 1 << (batch.bit_length() - 1) if self.runner.grows else batch

    def _tested(self, engine: Engine, bound: float, batch: int) -> Candidate | None:
        """Return a candidate if its features of the first samples are those of the reference."""
        dtypes = {name: rows.dtype for name, rows in self.reference.items()}
        conveyor = Conveyor(self.runner, engine, self.arrivals, batch=batch, dtypes=dtypes)
        failed = error = None
        while error is None and failed is None:
            try:
                error = self._error(conveyor)
            except Exception as caught:  # noqa: BLE001 - whatever it is, the others remain
                if ran_out(caught) and conveyor.batch > 1 and not self.runner.fixed_batch:
                    conveyor.batch //= 2
                else:
                    failed = gist(caught)
        if error is None:
            self._say(f"{engine.name} does not run the frozen part: {failed}")
            return None
        bound = max(bound, HALF_BOUND) if is_half(self.frozen) else bound
        if not error <= bound:
            self._say(
                f"{engine.name} differs from ONNX Runtime by {error:.1e} relative (bound "
                f"{bound:.0e}) and is left out"
            )
            return None
        return Candidate(conveyor)

    def _error(self, conveyor: Conveyor) -> float:
        """Return the largest relative error of the first samples' features."""
        count = self.compared[0].count
        size = conveyor.batch
        worst = 0.0
        for start in range(0, count, size):
            stop = min(count, start + size)
            placed = self.arrivals.place(self.compared, start, stop, size)
            rows, there = conveyor.bring(conveyor.rows(placed))
            if there is not None:
                there.synchronize()
            for name, expected in self.reference.items():
                error = _difference(rows[name].numpy(), expected[start:stop])
                worst = error if math.isnan(error) else max(worst, error)
        return worst

    def _work(self, one: Candidate | None) -> float:
        """Return the seconds that an engine would compute as it is; None = the Runner."""
        try:
            if one is not None:
                each = 1 / self._rate(one.conveyor, one.conveyor.batch, self.compared)
            else:
                batch = self.runner.samples.read(self.indices[:_COMPARED])
                began = time.perf_counter()
                self.runner.run(batch.feeds, len(batch.indices))
                each = (time.perf_counter() - began) / len(batch.indices)
        except Exception as error:
            if not ran_out(error):
                raise
            return math.inf
        return each * len(self.indices)

    def _sized(self, candidate: Candidate, seconds: float) -> bool:
        """Find the batch size of an engine; False where not one sample fits into memory."""
        conveyor = candidate.conveyor
        began = time.perf_counter()
        size, best, shrunk, full = conveyor.batch, 0.0, False, False
        while True:
            error = None
            try:
                rate = self._rate(conveyor, size, self._samples(size))
                # Now: what torch keeps for batches of this size is given back below.
                full = _used(self.engines.device) > _FULL
            except Exception as caught:  # noqa: BLE001 - told apart below, without its frames
                error = caught.with_traceback(None)
            _release(self.engines.device)
            if error is not None:
                if best:
                    return True
                if not ran_out(error) or size == 1 or self.runner.fixed_batch:
                    self._say(
                        f"{conveyor.engine.name} does not run batches of {size}: {gist(error)}"
                    )
                    return False
                size, shrunk = max(1, size // 2), True
                continue
            if best and (full or rate < _GROWTH * best):
                return True
            conveyor.batch, best = size, rate
            size *= 2
            grown = time.perf_counter() - began
            if full or shrunk or not self.runner.grows or size > self._most() or grown > seconds:
                return True

    def _most(self) -> int:
        """Return the largest batch that is tried."""
        made = sum(rows.nbytes // len(rows) for rows in self.reference.values())
        each = max(self.arrivals.sample_bytes, made, 1)
        count = len(self.indices)
        return int(min(_MOST, _MOST_BYTES // each, count, max(count // _LEAST_BATCHES, _START)))

    def _alternate(self, candidates: Sequence[Candidate]) -> None:
        """Time engines in turn, so that what slows the machine down slows them all."""
        for one in candidates:
            one.rates.clear()
        for _ in range(_ROUNDS):
            for one in candidates:
                self._time(one)

    def _time(self, one: Candidate) -> None:
        """Take one more timing of an engine; beside the others there may be less memory for it."""
        while True:
            size = one.conveyor.batch
            try:
                one.rates.append(self._rate(one.conveyor, size, self._samples(size), rounds=1))
            except Exception as error:
                if not ran_out(error) or size == 1 or self.runner.fixed_batch:
                    raise
            else:
                return
            one.conveyor.batch = size // 2
            one.rates.clear()
            _release(self.engines.device)

    def _try_compiled(self, candidates: list[Candidate]) -> None:
        """Compile what torch runs, where that is worth it."""
        torches = [one for one in candidates if isinstance(one.conveyor.engine, TorchEngine)]
        if self.engines.compile == "off" or not torches:
            return
        if not self.arrivals.one_shape:
            return  # each length would be compiled anew
        plain = max(torches, key=lambda one: one.rate).conveyor
        worth = WORTH_COMPILING.get(self.engines.device.type, math.inf)
        bound = BOUNDS[self.engines.precision]
        for tuned in (False, True):
            left = len(self.indices) / max(one.rate for one in candidates)
            if left < (max(worth, WORTH_TUNING) if tuned else worth):
                return
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the compiler, about itself
                engine = cast("TorchEngine", plain.engine).compiled(tuned=tuned)
                tested = self._tested(engine, bound, plain.batch)
            if tested is None:
                return
            candidates.append(tested)
            self._alternate(candidates)

    def _rate(
        self, conveyor: Conveyor, size: int, pieces: Sequence[Piece], rounds: int = _ROUNDS
    ) -> float:
        """Return samples per second in batches of `size`, after a run that only warms up."""
        stop = min(size, sum(piece.count for piece in pieces))
        placed = self.arrivals.place(pieces, 0, stop, size)
        seconds_of(conveyor, placed, 1)
        took = seconds_of(conveyor, placed, 1)
        repeats = 1 if took > _TIMED else min(20, math.ceil(_TIMED / max(took, 1e-6)))
        timings = [seconds_of(conveyor, placed, repeats) for _ in range(rounds)]
        return size / statistics.median(timings)

    def _samples(self, size: int) -> list[Piece]:
        """Return some samples on the host, read once."""
        if not self.pieces:
            # What is padded to its longest is read at once.
            some = self.indices[: _TRIED if self.arrivals.one_shape else min(size, _TRIED)]
            step = self.arrivals.piece_size(len(some))
            parts = [some[first : first + step] for first in range(0, len(some), step)]
            found = list(work_ahead(self.arrivals.read, parts, self.arrivals.lanes))
            self.pieces = [piece for piece in found if piece.count] or self.compared
        return self.pieces

    def _say(self, text: str) -> None:
        self.runner.notes.append(f"features: {text}")


def seconds_of(conveyor: Conveyor, placed: Placed, repeats: int) -> float:
    """Return the seconds of a run, way back to the host included; the mean of some in a row."""
    device = conveyor.arrivals.device
    wait(device)
    began = time.perf_counter()
    for _ in range(repeats):
        conveyor.bring(conveyor.rows(placed))
    wait(device)
    return (time.perf_counter() - began) / repeats


def _release(device: torch.device) -> None:
    """Give back what torch keeps for batches of other sizes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _used(device: torch.device) -> float:
    """Return the share of a GPU's memory that is taken, by whomever; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    free, total = torch.cuda.mem_get_info(device)
    return 1.0 - free / max(total, 1)


def _difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the relative error of floats; of anything else 0 if equal, infinity if not."""
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(found, expected) else math.inf
    return relative_error(found, expected)
