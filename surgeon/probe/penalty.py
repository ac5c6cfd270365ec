"""The choice of the penalty, for every link: by what heads say of samples that they have not seen.

What belongs together is in one fold. What must not enter: samples
that validation holds (they are judged by the penalty, and do not choose it), and features as they
came.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from surgeon.data.splits import deal, most_folds
from surgeon.probe.convex import Problem, judge, minimise

if TYPE_CHECKING:
    from collections.abc import Callable

    from surgeon.probe.links import Link

    Floats = npt.NDArray[np.floating[Any]]
    Ints = npt.NDArray[np.integer[Any]]

#: Newton decrement ½·gᵀH⁻¹g (the loss still to be gained, per sample) at which a solve has ended.
CV_TOLERANCE, TOLERANCE = 1e-5, 1e-12
#: What the softmax of one logit costs, in multiply-adds.
SOFTMAX = 128
#: Above this many multiply-adds (samples · features · classes) it ends at the tolerance of the
#: comparison: ten times fewer steps, for a loss that differs by less than rounding of logits does.
PRECISE_WORK = 2**31
#: Or after so many multiply-adds of its steps.
STEPS_WORK = 2**40
#: The least steps of a solve: from the closed form, and of that those which are left where heads on
#: other samples have made the first.
FRESH_STEPS, MORE_STEPS = 3, 1
#: Where a part of the classes chooses, losses that differ by less, in nats, are alike, and a solve
#: ends after so many steps.
ALIKE, SEARCH_STEPS = 0.01, 20
#: Weaker penalties are tried no more once the loss fell below this share of the first and is flat.
FALLEN = 0.75
#: Multiply-adds per step that all folds together may take. Above, penalties are compared on a
#: random part of the classes, at least so many, and fewer folds judge.
SEARCH_WORK, SEARCH_CLASSES = 2**31, 64
#: Where most classes have a single sample, this many of the others are enough to compare on.
FEWEST = 20


def comparable(
    data: Samples, first: npt.NDArray[np.int64], choosing: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Return samples that can choose a penalty: where most classes have but one, of the others."""
    rows = np.flatnonzero(choosing)
    if not data.link.exclusive:
        return rows
    labels = data.target.cpu().numpy()[first]
    counts = np.bincount(labels[rows], minlength=data.outputs)
    if len(rows) >= 2 * np.count_nonzero(counts):
        return rows
    several = rows[counts[labels[rows]] > 1]
    return several if len(several) >= FEWEST and len(set(labels[several].tolist())) > 1 else rows


def deal_folds(
    data: Samples, rows: npt.NDArray[np.int64], folds: int, seed: int, groups: Ints | None
) -> npt.NDArray[np.int64] | None:
    """Return the fold of some rows; None where comparing penalties is no use.

    Args:
        data: the samples.
        rows: of them.
        folds: most of them.
        seed: of the order in which samples are dealt out.
        groups: what each row belongs to, [n]: no fold tears it apart.
    """
    strata, kin = _strata(data, rows), None if groups is None else groups[rows]
    folds = most_folds(strata, folds, kin)
    if folds < 2 or len(rows) < 2 * len(np.unique(strata)):
        return None
    return deal(strata, folds, seed, kin)


def deal_held(
    data: Samples, rows: npt.NDArray[np.int64], folds: int, seed: int, groups: Ints | None
) -> npt.NDArray[np.int64]:
    """Return the fold of rows that are judged only, as `deal_folds` does."""
    kin = None if groups is None else groups[rows]
    return deal(_strata(data, rows), max(folds, 2), seed, kin)


def _strata(data: Samples, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return what every fold has its share of: classes; of other answers all are as one."""
    if not data.link.exclusive:
        return np.zeros(len(rows), np.int64)
    return np.asarray(data.target.cpu().numpy()[rows], np.int64)


@dataclass(frozen=True)
class Samples:
    """What every problem of a solve is made of: points, their targets, and what they weigh."""

    points: Tensor  # [n, r]
    target: Tensor  # [n] classes, or [n, outputs]
    outputs: int
    weights: Floats  # [n]
    link: Link

    @property
    def work(self) -> int:
        """Multiply-adds that the logits of all points by one head cost."""
        return len(self.points) * (self.points.shape[1] + SOFTMAX) * self.outputs

    @property
    def dear(self) -> bool:
        """Whether a solve to the last digit costs more than it is worth; of classes only."""
        return self.link.exclusive and self.work > PRECISE_WORK

    def problem(self, weights: Floats, points: Tensor | None = None) -> Problem:
        """Return the fits by weights [B, n] as one function."""
        points = self.points if points is None else points
        return Problem(points, self.target, self.outputs, _on(weights, points), self.link)

    def part(self, rows: npt.NDArray[np.int64], kept: Ints | None) -> Samples:
        """Return some rows; with `kept`, rows of these classes alone, numbered anew."""
        where = torch.from_numpy(rows).to(self.points.device)
        target, outputs = self.target[where], self.outputs
        if kept is not None:
            number = torch.full((outputs,), -1, dtype=torch.int64, device=target.device)
            number[torch.from_numpy(kept).to(target.device)] = torch.arange(
                len(kept), device=target.device
            )
            target, outputs = number[target], len(kept)
        return Samples(self.points[where], target, outputs, self.weights[rows], self.link)


@dataclass(frozen=True)
class Outside:
    """What heads say of rows that they have not seen; -1 and NaN where there is none."""

    predicted: npt.NDArray[Any]  # [n], or [n, outputs]
    quality: npt.NDArray[np.float64]  # [n]
    loss: npt.NDArray[np.float64]  # [n]

    @classmethod
    def none(cls, data: Samples, rows: int) -> Outside:
        """Return nothing said."""
        predicted = np.full(rows, -1, np.int64)
        if not data.link.exclusive:
            predicted = np.full((rows, data.outputs), np.nan)
        return cls(predicted, np.full(rows, np.nan), np.full(rows, np.nan))

    def judge(self, data: Samples, theta: Tensor, fold: Ints) -> None:
        """Fill in the rows of every fold, by the head that did not see them."""
        for number, one in enumerate(theta):
            rows = np.flatnonzero(fold == number)
            where = torch.from_numpy(rows).to(data.points.device)
            told = judge(data.points[where], data.target[where], one, data.link)
            predicted, quality, loss = told
            self.predicted[rows] = predicted.cpu().numpy()
            self.quality[rows] = quality.cpu().numpy()
            self.loss[rows] = loss.cpu().numpy()


@dataclass(frozen=True)
class Search:
    """What the comparison of penalties found; quality, loss and their errors are per penalty."""

    grid: tuple[float, ...]
    quality: tuple[float, ...]
    quality_error: tuple[float, ...]
    loss: tuple[float, ...]
    loss_error: tuple[float, ...]
    chosen: int
    outside: Outside
    start: Tensor | None
    folds: int


def search(
    data: Samples,
    judged: Floats,
    fold: npt.NDArray[np.int64],
    grid: tuple[float, ...],
    select: Literal["loss", "quality"],
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> Search:
    """Solve every fold along the path of penalties and compare what they say of unseen samples.

    Args:
        data: the rows, with their weights in the loss.
        judged: their weights in the comparison, [n].
        fold: of each row, [n]; -1 = it takes no part.
        grid: penalties.
        select: what decides.
        seed: of the classes, where there are too many to compare all.
        progress: called with (penalties done, penalties in the grid).
    """
    n = len(fold)
    rows, kept = _compared(data, fold, seed)
    if len(rows) < n:
        data, judged, fold = data.part(rows, kept), judged[rows], fold[rows]
    folds = int(fold.max()) + 1
    seen = np.stack([data.weights * (fold != number) for number in range(folds)])
    problem = data.problem(seen)
    theta = problem.zeros()
    scores: list[tuple[float, float, float, float]] = []
    best: tuple[float, int, Outside, Tensor] | None = None
    for position, c in enumerate(grid):
        steps = 100 if kept is None else SEARCH_STEPS
        theta = minimise(problem, theta, c, CV_TOLERANCE, steps).theta
        outside = Outside.none(data, len(fold))
        outside.judge(data, theta, fold)
        quality, quality_error = _mean(outside.quality, judged)
        loss, loss_error = _mean(np.minimum(outside.loss, data.link.bound), judged)
        scores.append((quality, quality_error, loss, loss_error))
        key = loss if select == "loss" else -quality
        if best is None or key < best[0]:
            best = (key, position, outside, theta.mean(0, keepdim=True))
        if progress is not None:
            progress(position + 1, len(grid))
        lowest = min(row[2] for row in scores)
        if loss > 1.1 * lowest + 2 * loss_error and position >= best[1] + 2:
            break
        # Where it falls no more, weaker penalties cost more steps for the same.
        flat = kept is not None and position >= _strongest_alike(scores, best[1]) + 2
        if flat and lowest < FALLEN * scores[0][2]:
            break
    assert best is not None
    if progress is not None:
        progress(len(grid), len(grid))
    qualities, quality_errors, losses, loss_errors = zip(*scores, strict=True)
    chosen = best[1]
    if kept is not None and select == "loss":
        # A part of the classes says less: of penalties that are alike the strongest, which is also
        # the one that costs the fewest steps (one-standard-error rule, Breiman et al., 1984).
        chosen = _strongest_alike(scores, chosen)
    found = Outside.none(data, n)
    if kept is None:
        found.predicted[rows], found.loss[rows] = best[2].predicted, best[2].loss
    return Search(
        grid=tuple(grid[: len(scores)]),
        quality=qualities,
        quality_error=quality_errors,
        loss=losses,
        loss_error=loss_errors,
        chosen=chosen,
        outside=found,
        start=best[3] if kept is None else None,
        folds=folds,
    )


def _strongest_alike(scores: list[tuple[float, float, float, float]], best: int) -> int:
    """Return the strongest penalty whose loss is that of the best one, or nearly."""
    _, _, lowest, error = scores[best]
    enough = lowest + max(error, ALIKE)
    return next(place for place, (_, _, loss, _) in enumerate(scores) if loss <= enough)


def most_steps(data: Samples, heads: int, least: int) -> int:
    """Return the most steps of a solve that is dear, of so many heads at once."""
    return max(least, STEPS_WORK // (heads * data.work))


def _compared(
    data: Samples, fold: npt.NDArray[np.int64], seed: int
) -> tuple[npt.NDArray[np.int64], Ints | None]:
    """Return the rows that penalties are compared on, and their classes; None = all classes.

    Work grows with the square of the classes where each has so many samples.
    """
    rows = np.flatnonzero(fold >= 0)
    if not data.link.exclusive:
        return rows, None
    target = data.target.cpu().numpy()
    present = np.unique(target[rows])
    part = replace(data, points=data.points[: len(rows)], outputs=len(present))
    work = part.work * (int(fold.max()) + 1)
    most = max(SEARCH_CLASSES, int(len(present) * (SEARCH_WORK / work) ** 0.5))
    if most >= len(present):
        return rows, None if 2 * len(present) > data.outputs else present
    kept = np.sort(np.random.default_rng(seed).choice(present, most, replace=False))
    return rows[np.isin(target[rows], kept)], kept


def judge_held(
    data: Samples,
    fold: npt.NDArray[np.int64],
    c: float,
    start: Tensor | None,
    outside: Outside,
) -> Tensor:
    """Judge rows that did not choose the penalty: each by a head fitted to all but its fold.

    Fewer heads judge where each is dear. Returns the mean of their weights, [1, outputs, r + 1].
    """
    heads = max(1, min(int(fold.max()) + 1, SEARCH_WORK // data.work))
    fold = np.where(fold < 0, -1, fold % heads)
    problem = data.problem(np.stack([data.weights * (fold != number) for number in range(heads)]))
    if start is not None:
        theta = start.expand_as(problem.zeros()).contiguous()
    else:
        theta = problem.closed_form(c) if data.dear else problem.zeros()
    steps = 100
    if data.dear:
        steps = min(steps, most_steps(data, heads, FRESH_STEPS - MORE_STEPS))
    theta = minimise(problem, theta, c, CV_TOLERANCE, steps).theta
    outside.judge(data, theta, fold)
    return theta.mean(0, keepdim=True)


def _mean(values: Floats, weights: Floats) -> tuple[float, float]:
    """Return the weighted mean and its standard error."""
    share = weights / weights.sum()
    mean = float((share * values).sum())
    return mean, float(np.sqrt((share**2 * (values - mean) ** 2).sum()))


def _on(values: Floats, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64)).to(like.device)
