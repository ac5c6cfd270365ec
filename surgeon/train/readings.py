"""Numbers that a device computes in every step, read without waiting for it.

A number that is read at once stops the host until the device has caught up, and then the device
until the host has launched more. Here each step's numbers are copied to pinned memory behind it and
picked up some steps later. On a CPU they are there at once. What must not enter: what they mean.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import torch
from torch import Tensor

#: Steps that may be launched before the first of them has ended. Enough to keep a device busy, few
#: enough that clocks, budgets and Ctrl-C mean what is going on.
_BEHIND: Final = 4


class Readings:
    """Rows of numbers in the order of the steps that made them."""

    def __init__(self, device: torch.device) -> None:
        self._ready: deque[tuple[float, ...]] = deque()
        self._pending: deque[tuple[torch.cuda.Event, Tensor]] = deque()
        self._free: list[Tensor] = []
        self._on_gpu = device.type == "cuda"

    def put(self, *values: Tensor) -> None:
        """Note the numbers of a step: tensors of one element each, on the device."""
        if not self._on_gpu:
            self._ready.append(tuple(float(value) for value in values))
            return
        row = torch.stack([value.detach().reshape(()).double() for value in values])
        host = self._free.pop() if self._free else torch.empty_like(row, device="cpu").pin_memory()
        host.copy_(row, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._pending.append((event, host))

    def take(self, *, wait: bool = False) -> list[tuple[float, ...]]:
        """Return the rows that are there, oldest first, each once.

        Args:
            wait: for all that were put.

        """
        while self._pending:
            event, host = self._pending[0]
            if wait or len(self._pending) > _BEHIND:
                event.synchronize()
            elif not event.query():  # type: ignore[no-untyped-call]
                break
            self._ready.append(tuple(host.tolist()))
            self._free.append(host)
            self._pending.popleft()
        rows = list(self._ready)
        self._ready.clear()
        return rows
