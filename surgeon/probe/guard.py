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

from surgeon.tasks.figures import gained, written

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

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
        expected = -np.inf if self.expected is None else self.expected
        return ahead and (self.gain > self.error or self.tuned[self.quality] >= expected)

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
            verdict = f"below the {written(self.quality, self.expected)} of cross-validation"
        return f"the probe is delivered: the tuned network is {verdict} {self._figures}"

    @property
    def warning(self) -> str:
        """What people should know where the tuned one is delivered although it is not better."""
        return f"the probe on the pretrained weights would be better {self._figures}"

    @property
    def _figures(self) -> str:
        tuned, probe = (
            written(self.quality, one[self.quality]) for one in (self.tuned, self.probe)
        )
        gain = gained(self.quality, self.gain, self.error)
        return f"on {self.samples} validation samples (tuned {tuned}, probe {probe}, {gain})"


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
    known = ~np.isnan(probe.quality)
    worth = [_worth(one, known) for one in (probe, tuned)]
    difference = worth[1] - worth[0]
    # One disagreement either way is added, so that a few samples in agreement prove nothing.
    spread = ((difference - difference.mean()) ** 2).sum() + 2.0
    figures = [
        {quality: _figure(one, each, known), "loss": float(one.loss[known].mean())}
        for each, one in zip(worth, (probe, tuned), strict=True)
    ]
    return Comparison(
        samples=len(difference),
        quality=quality,
        probe=figures[0],
        tuned=figures[1],
        gain=figures[1][quality] - figures[0][quality],
        error=float(np.sqrt(spread) / len(difference)),
        expected=expected,
    )


def _worth(scores: Scores, known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the quality of each sample whose answer is known; no number is worth nothing."""
    quality, loss = scores.quality[known], scores.loss[known]
    finite = np.isfinite(loss) & np.isfinite(quality)
    nothing = min(0.0, float(quality[finite].min(initial=0.0)))
    return np.where(finite, quality, nothing)


def _figure(scores: Scores, worth: NDArray[np.float64], known: NDArray[np.bool_]) -> float:
    """Return the quality of all: the task's own figure, where every answer has a loss.

    It need not be the mean of those of the samples (mean average precision is none).
    """
    told = scores.figures.get("quality")
    if told is None or not np.isfinite([told, *scores.loss[known]]).all():
        return float(worth.mean())
    return float(told)
