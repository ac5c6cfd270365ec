"""The race of two starts: pretrained weights against random ones, on a short budget each.

Both see the same batches in the same order; the better one on validation goes on with the rest of
the budget. A short race favours the pretrained start, as a long one would less: what it says is
which start is ahead, and by how much. What must not enter: how a start is made and trained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from surgeon.tasks.figures import written
from surgeon.train import schedule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgeon.train.settings import FitResult, FitSettings

Start = Literal["pretrained", "random"]
STARTS: tuple[Start, Start] = ("pretrained", "random")
SHARE = 0.2
"""Part of the epochs, and of the seconds, that each start gets."""
STEPS = 1000
"""Optimiser steps that each start gets at most."""


def short(
    settings: FitSettings,
    start: Start,
    samples: int,
    seconds: float | None,
    first: FitResult | None = None,
) -> FitSettings:
    """Return the settings of one start's part of the race.

    Both starts get as many epochs, of the number that a pretrained one would be trained for, and
    none of them is stopped early. Where time ended the first one, the second takes as many steps.

    Args:
        settings: of the whole training.
        start: whose.
        samples: to train on.
        seconds: that are left for everything, or None.
        first: what the other start did, if it was first.
    """
    epochs = settings.epochs or schedule.default_epochs(samples)
    share = None if seconds is None else SHARE * seconds
    steps = STEPS
    if first is not None and first.stopped == "budget" and share is not None:
        # Steps decide, not a clock that runs unevenly; twice the time is the end all the same.
        steps, share = max(first.steps, 1), 2 * share
    return replace(
        settings,
        stage=f"race: {start}",
        epochs=max(1, math.ceil(SHARE * epochs)),
        max_steps=steps,
        budget_seconds=share,
        patience=0,
    )


def rest(settings: FitSettings, leg: FitResult, samples: int) -> FitSettings | None:
    """Return the settings of what is left for the winner; None where its epochs are used up."""
    epochs = settings.epochs or schedule.default_epochs(samples, scratch=settings.scratch)
    done = leg.steps / math.ceil(samples / leg.batch)
    left = epochs - math.ceil(done)
    return replace(settings, epochs=left) if left > 0 else None


@dataclass(frozen=True)
class Race:
    """What both starts reached, judged on validation; `random` is None where it did not begin.

    `quality` is the name of the figure that decides.
    """

    pretrained: FitResult
    random: FitResult | None
    quality: str = "accuracy"

    @property
    def winner(self) -> Start:
        """The start with the better best row; a tie goes to the pretrained one."""
        if self.random is None:
            return "pretrained"
        return "random" if _rank(self.random) > _rank(self.pretrained) else "pretrained"

    @property
    def gain(self) -> float | None:
        """Validation quality of the pretrained start − that of the random one."""
        legs = [leg.best["validation_quality"] for leg in (self.pretrained, self.random) if leg]
        return None if len(legs) < 2 or None in legs else legs[0] - legs[1]

    @property
    def seconds(self) -> float:
        """What the race took."""
        return sum(leg.seconds for leg in (self.pretrained, self.random) if leg is not None)

    def as_dict(self, final: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the `race` object of the document; `final` = the best row the winner reached."""
        reached = final or {}
        return {
            "budget": {
                "share": SHARE,
                "epochs": self.pretrained.planned_epochs,
                "steps": self.pretrained.steps,
            },
            "pretrained": self._figures(self.pretrained),
            "random": None if self.random is None else self._figures(self.random),
            "winner": self.winner,
            "gain": self.gain,
            "final": {
                self.quality: reached.get("validation_quality"),
                "loss": reached.get("validation_loss"),
            },
            "seconds": self.seconds,
        }

    def _figures(self, leg: FitResult) -> dict[str, Any]:
        return {
            self.quality: leg.best["validation_quality"],
            "loss": leg.best["validation_loss"],
            "epochs": leg.epochs,
            "steps": leg.steps,
            "seconds": leg.seconds,
            "stopped": leg.stopped,
        }

    @property
    def note(self) -> str:
        """What was lost and gained, in one line."""
        if self.random is None:
            return "race: the random start did not begin; the pretrained one stands"
        steps = sorted({self.pretrained.steps, self.random.steps})
        said = [
            written(self.quality, leg.best["validation_quality"])
            for leg in (self.pretrained, self.random)
        ]
        loser = self.pretrained if self.winner == "random" else self.random
        return (
            f"race: after {' and '.join(map(str, steps))} steps the pretrained start is at "
            f"{said[0]}, the random one at {said[1]}: the {self.winner} one goes on; "
            f"the other cost {loser.seconds:.1f} s"
        )


def _rank(leg: FitResult) -> tuple[float, float]:
    """Quality first, then the loss; what is no number ranks last."""
    quality, loss = leg.best["validation_quality"], leg.best["validation_loss"]
    if quality is None or loss is None or not math.isfinite(loss):
        return -math.inf, -math.inf
    return quality, -loss
