"""How good the weights are, by samples that are not trained on, and which were the best.

What must not enter: gradients, what a task's figures mean.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surgeon.errors import DataError
from surgeon.train.clock import now
from surgeon.train.device import arithmetic
from surgeon.train.feed import Wanted, feed
from surgeon.train.readings import Readings
from surgeon.train.resume import Part
from surgeon.train.step import outputs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from surgeon.train.feed import Batches, Indices
    from surgeon.train.objective import Objective
    from surgeon.train.parameters import Parameters
    from surgeon.train.room import Room
    from surgeon.train.settings import FitSettings, Row


class Judge(Part):
    """Judges weights, each time by the same samples.

    Attributes:
        count: how many they are.
    """

    keeps = ("count",)

    def __init__(
        self,
        parameters: Parameters,
        validation: Batches | None,
        objective: Objective,
        room: Room,
        settings: FitSettings,
        device: torch.device,
        note: Callable[[str], None],
    ) -> None:
        """Take what to judge by; None = nothing, then the training loss decides."""
        self._module, self._validation = parameters.module, validation
        self._objective, self._room = objective, room
        self._device, self._note = device, note
        self.count = 0 if validation is None else validation.n
        order = np.random.default_rng(settings.seed).permutation(self.count)
        self._order: Indices = order.astype(np.int64)

    def judge(self, limit: float) -> tuple[float | None, float | None]:
        """Return mean loss and quality, in evaluation mode and without reduced precision.

        Args:
            limit: seconds after which judging ends; the samples judged by then are the ones judged
                from now on.
        """
        if self._validation is None:
            return None, None
        self._module.eval()
        with arithmetic(self._device, exact=True):
            done, sums = self._sums(self._validation, limit)
        self._module.train()
        if done < self.count:
            self.count = done
            self._note(f"validating on {done} of {self._validation.n} samples to keep the budget")
        loss, quality, judged = sums
        if not judged:
            raise DataError(
                "no validation sample can be judged: none has an answer that is known",
                remedy="give more samples, or --validation PATH",
            )
        return loss / judged, quality / judged

    def _sums(self, validation: Batches, limit: float) -> tuple[int, list[float]]:
        """Return how many samples were judged, and the sums over them."""
        started = now()
        while True:
            chunks = self._room.chunks(self._order[: self.count])
            wanted = [Wanted(chunk) for chunk in chunks]
            loads = feed(validation, wanted, self._device, self._objective.target)
            readings, rows = Readings(self._device), []
            done = 0
            try:
                for chunk, brought in zip(chunks, loads, strict=True):
                    with torch.no_grad():
                        outputs = outputs_of(self._module(*brought.inputs))
                        readings.put(*self._objective.judge(outputs, brought.target))
                    rows += readings.take(wait=limit < math.inf)
                    done += len(chunk)
                    if now() - started > limit:
                        break
                rows += readings.take(wait=True)
            except Exception as error:
                if not self._room.found(error):
                    raise
            else:
                return done, [sum(column) for column in zip(*rows, strict=True)]
            finally:
                loads.close()


class History(Part):
    """What was judged, and the weights that did best.

    Attributes:
        rows: one per judgement, the start first.
        best: which of them.
        stale: epochs in a row without improvement.
        kept: what training may move, of the best row.
    """

    keeps = ("rows", "best", "stale")

    def __init__(self, settings: FitSettings) -> None:
        self.rows: list[Row] = []
        self.best = 0
        self.stale = 0
        self.kept: dict[str, Tensor] = {}
        self._monitor, self._keep = settings.monitor, settings.keep

    def add(self, row: Row, tensors: Mapping[str, Tensor], *, whole: bool) -> None:
        """Write a row, and keep the weights if they are the best so far.

        Args:
            row: of the history.
            tensors: what training may move.
            whole: whether an epoch ends with it.
        """
        progressed = self._gained(row)
        self.rows.append(row)
        if len(self.rows) == 1 or self._better(row, self.rows[self.best]):
            self.best = len(self.rows) - 1
            self.kept = {name: tensor.clone() for name, tensor in tensors.items()}
            progressed = True
        if progressed:
            self.stale = 0
        elif whole:
            self.stale += 1

    def _gained(self, row: Row) -> bool:
        """Tell whether the validation loss is the lowest yet: quality may lag behind it."""
        losses = [one["validation_loss"] for one in self.rows]
        loss = row["validation_loss"]
        return loss is not None and all(loss < one for one in losses if one is not None)

    def _better(self, row: Row, best: Row) -> bool:
        if self._keep == "last":
            return True
        if row["validation_loss"] is None:
            # Without validation samples the training loss decides; the start has none to compare.
            return row["loss"] is not None and (best["loss"] is None or row["loss"] < best["loss"])
        if not math.isfinite(row["validation_loss"]):
            return False
        if not math.isfinite(best["validation_loss"]):
            return True
        if self._monitor == "loss":
            return bool(row["validation_loss"] < best["validation_loss"])
        return bool(
            (row["validation_quality"], -row["validation_loss"])
            > (best["validation_quality"], -best["validation_loss"])
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the best weights."""
        return self.kept

    def go_on(self, state: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write on."""
        super().go_on(state, tensors)
        self.kept = dict(tensors)
