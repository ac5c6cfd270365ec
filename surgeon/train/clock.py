"""The seconds of a fit, and what a budget leaves of them.

The one reader of the clock: what a budget decides, it decides here. What must not enter: what the
time is spent on.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final

from surgeon.train.resume import Part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

#: Share of a budget that one validation may take; larger sets are judged by a fixed random part.
_VALIDATION_SHARE: Final = 0.1


def now() -> float:
    """Return a reading of the clock, in seconds."""
    return time.perf_counter()


class Clock(Part):
    """The clock of one fit; it starts when it is made.

    Attributes:
        training: seconds in steps, of this run.
        trained: samples in them.
    """

    keeps = ("_validation", "_first", "_last")

    def __init__(self, budget: float | None) -> None:
        """Take the seconds for everything, None = as long as it takes."""
        self.budget = budget
        self.training = 0.0
        self.trained = 0
        self._earlier = 0.0  # of runs that this one goes on with
        self._began = now()
        self._step = 0.0  # the last one
        self._validation = 0.0  # the last one
        self._first: float | None = None  # when the start was judged
        self._last = 0.0  # when was judged last

    def seconds(self) -> float:
        """Return the seconds so far, those of earlier runs included."""
        return self._earlier + now() - self._began

    def stepped(self, seconds: float, samples: int) -> None:
        """Note what a step took."""
        self._step = seconds
        self.training += seconds
        self.trained += samples

    def validated(self, seconds: float) -> float:
        """Note what a judgement took; return when it ended."""
        self._validation, self._last = seconds, self.seconds()
        if self._first is None:
            self._first = self._last
        return self._last

    def for_validation(self) -> float:
        """Return the seconds for a judgement: the first finds how many samples fit."""
        if self.budget is None or self._first is not None:
            return math.inf
        return _VALIDATION_SHARE * self.budget

    def left(self) -> float:
        """Return the seconds until training ends, so that a step and a judgement still fit."""
        return self._end() - self.seconds()

    def spent(self) -> bool:
        """Tell whether it is time to end."""
        return self.seconds() >= self._end()

    def validation_is_due(self) -> bool:
        """Tell whether an epoch is too long to wait for its end."""
        if self.budget is None:
            return False
        return self.seconds() - self._last > max(self.budget / 6, 10 * self._validation)

    def share(self, done: float) -> float:
        """Return how much is done: of the steps, or of the budget where that is more."""
        if self.budget is not None:
            first = self._first or 0.0
            done = max(done, (self.seconds() - first) / max(self._end() - first, 1e-3))
        return min(done, 1.0)

    def _end(self) -> float:
        if self.budget is None:
            return math.inf
        return max(self.budget - 1.1 * self._validation - self._step, 1e-3)

    def state(self) -> dict[str, Any]:
        """Return what a run that goes on must know."""
        return {**super().state(), "seconds": self.seconds()}

    def go_on(self, state: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Count on from an earlier run."""
        super().go_on(state, tensors)
        self._earlier = state["seconds"]
