"""What linear probes are to find in features: the answers of a task, as numbers per sample.

What must not enter: features, where they are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from surgeon.tasks.units import Units

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from surgeon.tasks.base import Targets, TaskCode

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


SHARES = (
    "cuts are compared by how well a linear model tells the share of each label in a sample (R²), "
    "from features that are pooled: where in it they lie is not asked"
)
"""Of answers per position."""


@dataclass(frozen=True)
class Sought:
    """What probes are to find in the values of a cut.

    Attributes:
        targets: what ridge regression is fitted to, [n, outputs]: indicators of classes or labels,
            or numbers, standardised.
        strata: what folds and parts have their shares of, [n].
        worth: the quality of held-out outputs [n, outputs] for each sample, [n]; more is better.
        shares: whether that is 0 or 1 for each, so that a share of right answers is known better.
        quality: name of the figure whose mean it is.
        note: what people should know of it, where it is not the task's own question.
    """

    targets: Floats = field(repr=False)
    strata: Ints = field(repr=False)
    worth: Callable[[Floats], Floats] = field(repr=False)
    shares: bool = True
    quality: str = "accuracy"
    note: str | None = None

    @classmethod
    def classes(cls, codes: Ints) -> Sought:
        """Return classes: the one with the highest score is right, or not."""
        return cls(
            _indicators(codes), codes,
            lambda outputs: (outputs.argmax(axis=1) == codes).astype(float),
        )  # fmt: skip

    @classmethod
    def of(cls, task: TaskCode, targets: Targets, strata: Ints) -> Sought:
        """Return what a task's probes are to find, each of the samples with an answer.

        Judged as the task judges, where a sample's outputs are its answers; else by the share of
        right classes, or R².
        """
        link, values = task.sought(targets)
        if link == "softmax":
            if values is not targets.values or task.link != link:
                return cls.classes(values)
            found, shift, scale = _indicators(values), np.zeros(1), np.ones(1)
        else:
            units = Units.of(values)
            shift, scale = units.centre, units.scale
            found = np.nan_to_num(units.standard(values))  # what is not known is as the mean
        own = link == task.link and values.shape == targets.values.shape

        def worth(outputs: Floats) -> Floats:
            if not own:
                moves = found.std(axis=0) > 0
                squares = (outputs - found)[:, moves] ** 2
                return np.asarray(1 - squares.sum(axis=1) / max(int(moves.sum()), 1))
            answers = outputs * scale + shift
            answers = np.clip(answers, 0.0, 1.0) if link == "logistic" else answers
            return np.nan_to_num(task.score([(answers, targets)]).quality)

        note = None if own else SHARES
        return cls(found, strata, worth, link == "softmax", task.quality if own else "r2", note)

    @property
    def baseline(self) -> float:
        """Quality of the one answer that is best for all samples."""
        mean = self.targets.mean(axis=0)
        return float(self.worth(np.broadcast_to(mean, self.targets.shape)).mean())

    def error(self, worth: Floats) -> float:
        """Return the standard error of the mean quality."""
        if self.shares:
            return binomial_error(float(worth.mean()), len(worth))
        return float(np.sqrt(((worth - worth.mean()) ** 2).sum() + 2.0) / len(worth))


def _indicators(codes: Ints) -> Floats:
    targets = np.zeros((len(codes), int(codes.max()) + 1))
    targets[np.arange(len(codes)), codes] = 1.0
    return targets


def binomial_error(share: float, count: int) -> float:
    """Return the standard error of a share; never 0, since 10 of 10 is no proof of certainty."""
    corrected = (share * count + 1) / (count + 2)
    return float(np.sqrt(corrected * (1 - corrected) / max(count, 1)))
