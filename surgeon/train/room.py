"""How many samples one pass takes: as many as memory holds; the optimiser's batch stays.

The one place where running out of memory is answered. What must not enter: what a pass computes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import torch

from surgeon.errors import EnvironmentLacksError
from surgeon.train.device import is_out_of_memory, memory_share, start_peak
from surgeon.train.resume import Part

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from surgeon.train.feed import Indices
    from surgeon.train.parameters import Parameters
    from surgeon.train.schedule import Schedule

    Once = Callable[[Callable[..., Any]], None]

#: Share of a GPU's memory that a pass may take: the rest is for what batches of other sizes and
#: the allocator's gaps need.
_FULL: Final = 0.9


class Room(Part):
    """The size of the passes.

    Attributes:
        size: samples per pass.
    """

    keeps = ("size",)

    def __init__(
        self,
        schedule: Schedule,
        parameters: Parameters,
        device: torch.device,
        note: Callable[[str], None],
    ) -> None:
        """Take how it begins, whose gradients to forget, and whom to tell."""
        self.size = schedule.passes
        self._batch = schedule.batch
        self._parameters = parameters
        self._device = device
        self._note = note
        self._fits = False  # whether a pass is known to fit

    def chunks(self, indices: Indices) -> list[Indices]:
        """Cut samples into passes."""
        return [indices[at : at + self.size] for at in range(0, len(indices), self.size)]

    def try_out(
        self, part: Indices, rehearsing: Callable[[Indices], AbstractContextManager[Once]]
    ) -> None:
        """Halve the passes until one takes no more than its share of a GPU's memory.

        On a CPU there is nothing to try: a system that runs out of memory ends processes.

        Args:
            part: samples of a batch.
            rehearsing: opens a pass over samples that leaves no trace.
        """
        if self._fits or memory_share(self._device) is None:
            return
        while self.size > 1:
            error = None
            start_peak(self._device)
            try:
                with rehearsing(part[: self.size]) as once:
                    once(
                        self._parameters.module
                    )  # cuDNN tries its algorithms, with memory of its own
                    start_peak(self._device)
                    once(self._parameters.module)
                if (memory_share(self._device) or 0.0) <= _FULL:
                    break
            except Exception as caught:
                if not is_out_of_memory(caught):
                    raise
                error = caught
            self._halve(error)
        self._fits = True

    def found(self, error: BaseException) -> bool:
        """Make room where an error says that memory ran out; False where it says something else."""
        if not is_out_of_memory(error):
            return False
        self._halve(error)
        return True

    def _halve(self, error: BaseException | None) -> None:
        if self.size <= 1:
            raise EnvironmentLacksError(
                f"out of memory with one sample at a time on {self._device}",
                where="training",
                remedy="train less of the network, use a smaller --size, or another device",
            ) from error
        self._parameters.clear()
        self.size = math.ceil(self.size / 2)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        reason = "out of memory" if error else "memory nearly full"
        self._note(
            f"{reason}: passes of {self.size} samples from now on, "
            f"still {self._batch} per optimiser step"
        )
