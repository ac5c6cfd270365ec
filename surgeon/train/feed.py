"""Batches on their way to a step: read, moved to the device and prepared ahead of time.

On a CPU a thread reads ahead, and a batch is varied and prepared when the step takes it. On a GPU
the thread also copies from pinned memory on a stream of its own, and varies and prepares there: the
step finds its batch on the device and waits for nothing but the order of two streams. What must not
enter: the loss, the weights, which samples make a batch.
"""

from __future__ import annotations

import functools
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping

Indices = npt.NDArray[np.int64]

#: Batches that are read while one is trained on.
_AHEAD: Final = 2


class Batches(Protocol):
    """Samples as the fit wants them. `load` is called from one background thread.

    Three more attributes are looked up and may be missing or None:

    - `augment(inputs: tuple, seed: int) -> tuple`: on the device, in training only; what it draws
      it draws from torch's generator of the CPU;
    - `prepare(inputs: tuple) -> tuple`: on the device, always, after `augment` (uint8 pixels to
      what the graph takes, say);
    - `beside`: {name: [n, …]} what else the loss is given of every sample.

    On a GPU both are called from the background thread, too.
    """

    @property
    def n(self) -> int:
        """Number of samples."""
        ...

    @property
    def targets(self) -> npt.NDArray[Any]:
        """What is right of every sample, [n, …]."""
        ...

    def load(self, indices: Indices) -> tuple[Tensor | None, ...]:
        """Return the inputs of these samples on the CPU, by position."""
        ...


@dataclass(frozen=True)
class Wanted:
    """Which samples to bring, and the seed to vary them by; None = as they are."""

    indices: Indices
    seed: int | None = None


@dataclass(frozen=True)
class Brought:
    """A batch on the device: inputs by position, targets [k, …], what is beside them by name."""

    inputs: tuple[Any, ...]
    target: Tensor
    beside: Mapping[str, Tensor] = field(default_factory=dict)


def feed(
    batches: Batches,
    wanted: Iterable[Wanted],
    device: torch.device,
    target: npt.DTypeLike,
    *,
    ahead: bool | None = None,
) -> Generator[Brought, None, None]:
    """Bring batches in order; closing the generator ends its thread.

    Args:
        batches: where they come from.
        wanted: what to bring.
        device: where to.
        target: type of the targets there.
        ahead: whether the thread also moves and prepares; None = on a GPU.

    """
    lane = _Lane(batches, device, target)
    early = device.type == "cuda" if ahead is None else ahead
    work = lane.bring if early else lane.load
    pending: list[Future[Any]] = []
    upcoming = iter(wanted)
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="surgeon-load")
    try:
        for one in upcoming:
            pending.append(pool.submit(work, one))
            if len(pending) > _AHEAD:
                break
        while pending:
            found = pending.pop(0).result()
            for one in upcoming:
                pending.append(pool.submit(work, one))
                break
            yield lane.hand_over(found) if early else lane.prepare(*found)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def bring(batches: Batches, wanted: Wanted, device: torch.device, target: npt.DTypeLike) -> Brought:
    """Bring one batch now."""
    lane = _Lane(batches, device, target)
    return lane.hand_over(lane.bring(wanted))


class _Lane:
    """The way of a batch from the samples to the device."""

    def __init__(self, batches: Batches, device: torch.device, target: npt.DTypeLike) -> None:
        self.batches = batches
        self.device = device
        self.target = target
        self.targets = np.asarray(batches.targets)
        self.beside: Mapping[str, npt.NDArray[Any]] = getattr(batches, "beside", None) or {}
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.stream = _stream(device)

    def load(self, wanted: Wanted) -> tuple[Wanted, tuple[Tensor | None, ...]]:
        return wanted, self.batches.load(wanted.indices)

    def prepare(self, wanted: Wanted, loaded: tuple[Tensor | None, ...]) -> Brought:
        """Move, vary and prepare a batch, on the current stream."""
        inputs = tuple(self._moved(v) if isinstance(v, Tensor) else v for v in loaded)
        if wanted.seed is not None:
            inputs = _apply(self.batches, "augment", inputs, wanted.seed)
        inputs = _apply(self.batches, "prepare", inputs)
        target = torch.from_numpy(self.targets[wanted.indices].astype(self.target))
        beside = {
            name: self._moved(torch.from_numpy(rows[wanted.indices]))
            for name, rows in self.beside.items()
        }
        return Brought(inputs, self._moved(target), beside)

    def bring(self, wanted: Wanted) -> tuple[Brought, torch.cuda.Event | None]:
        """Load and prepare a batch; the event tells when the device has done so."""
        _, loaded = self.load(wanted)
        if self.stream is None:
            return self.prepare(wanted, loaded), None
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with _on(self.stream):
            brought = self.prepare(wanted, loaded)
            ready.record(self.stream)
        return brought, ready

    def hand_over(self, found: tuple[Brought, torch.cuda.Event | None]) -> Brought:
        """Let the current stream go on when the batch is there; the host does not wait."""
        brought, ready = found
        if ready is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(ready)
            for value in (*brought.inputs, brought.target, *brought.beside.values()):
                if isinstance(value, Tensor) and value.is_cuda:
                    value.record_stream(current)  # its memory is not given away before that
        return brought

    def _moved(self, value: Tensor) -> Tensor:
        if self.stream is None:
            return value
        return value.pin_memory().to(self.device, non_blocking=True)


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Return the one stream of a device: torch keeps freed memory for the stream that had it."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _on(stream: torch.cuda.Stream) -> AbstractContextManager[Any]:
    """Return the context of a stream, on its device, without gradients."""
    context = ExitStack()
    context.enter_context(torch.cuda.device(stream.device))
    context.enter_context(torch.cuda.stream(stream))
    context.enter_context(torch.no_grad())
    return context


def _apply(batches: Batches, name: str, inputs: tuple[Any, ...], *more: Any) -> tuple[Any, ...]:
    function = getattr(batches, name, None)
    return inputs if function is None else tuple(function(inputs, *more))
