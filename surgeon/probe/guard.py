"""The guard: a tuned network is delivered only if it is better than the probe on validation.

The probe (the head solved in closed form on the weights as they came) costs next to nothing and
changes the head alone, so a network that is tuned further has to earn its place. Both are judged on
the same samples, so their difference is known better than either quality. What must not enter: how
predictions are made, and what makes one good (a task says that).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgeon.tasks.base import Scores


@dataclass(frozen=True)
class Comparison:
    """A tuned network against the probe on the same validation samples.

    Attributes:
        samples: judged.
        quality: name of the figure that decides; more is better.
        probe, tuned: {quality, loss} of each, by its name.
        gain: quality of the tuned one − that of the probe.
        error: standard error of the gain, paired.
        expected: quality of a probe in cross-validation over more samples, or None.
    """

    samples: int
    quality: str
    probe: Mapping[str, float]
    tuned: Mapping[str, float]
    gain: float
    error: float
    expected: float | None = None

    @property
    def better(self) -> bool:
        """Whether the tuned one is better: by quality, at equal quality by a loss 1 % lower.

        A gain below its standard error must also stand up to what cross-validation over more
        samples expects of a probe, where that is known: one picture of sixteen is six points.
        """
        ahead = self.gain > 0 or (self.gain == 0 and self.tuned["loss"] < 0.99 * self.probe["loss"])
        likely = self.gain > self.error or self.tuned[self.quality] >= (self.expected or 0.0)
        return ahead and likely

    def as_dict(self) -> dict[str, Any]:
        """Return the `guard` object of the document."""
        return {
            "samples": self.samples,
            "probe": dict(self.probe),
            "tuned": dict(self.tuned),
            "gain": self.gain,
            "error": self.error,
            "expected": self.expected,
        }

    @property
    def note(self) -> str:
        """What people should know where the tuned one is not delivered."""
        verdict = "not better"
        if self.gain > 0:
            verdict = f"below the {100 * (self.expected or 0):.1f} % of cross-validation"
        return f"the probe is delivered: the tuned network is {verdict} {self._figures}"

    @property
    def warning(self) -> str:
        """What people should know where the tuned one is delivered although it is not better."""
        return f"the probe on the pretrained weights would be better {self._figures}"

    @property
    def _figures(self) -> str:
        tuned, probe = (100 * one[self.quality] for one in (self.tuned, self.probe))
        gain, error = 100 * self.gain, 100 * self.error
        return (
            f"on {self.samples} validation samples "
            f"(tuned {tuned:.1f} %, probe {probe:.1f} %, {gain:+.1f} ± {error:.1f} points)"
        )


def compare(
    probe: Scores, tuned: Scores, quality: str, *, expected: float | None = None
) -> Comparison:
    """Compare two networks by how good their answers to the same samples are.

    Args:
        probe: n ≥ 1 samples.
        tuned: the same of the tuned network; an answer whose loss is no number is worth nothing.
        quality: name of the figure that decides.
        expected: quality of a probe in cross-validation over more samples.
    """
    worth = [np.where(np.isfinite(one.loss), one.quality, 0.0) for one in (probe, tuned)]
    difference = worth[1] - worth[0]
    # One disagreement either way is added, so that a few samples in agreement prove nothing.
    spread = ((difference - difference.mean()) ** 2).sum() + 2.0
    figures = [
        {quality: float(each.mean()), "loss": float(one.loss.mean())}
        for each, one in zip(worth, (probe, tuned), strict=True)
    ]
    return Comparison(
        samples=len(difference),
        quality=quality,
        probe=figures[0],
        tuned=figures[1],
        gain=float(difference.mean()),
        error=float(np.sqrt(spread) / len(difference)),
        expected=expected,
    )
