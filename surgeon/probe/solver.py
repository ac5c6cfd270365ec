"""The new head as what it is on frozen features: a convex problem, solved to its optimum.

A linear head on fixed features has one best set of weights for a given penalty, so no learning
rate, schedule or epoch count belongs here: classes (softmax), labels (logistic) and numbers
(squared) are one problem with another link. The room holds the solver (a batched L-BFGS over all
folds at once), the choice of the penalty by cross-validation, and nothing that knows a graph, a
file or where features come from.

Three exact tricks make it quick. The penalty is the same after a rotation, so the features are
turned onto their principal axes, where the Hessian is nearly diagonal and a diagonal
preconditioner brings L-BFGS home in a dozen steps instead of hundreds; with fewer samples than
features the rotation also drops the axes on which no sample lies. All folds share one matrix and
are solved in one product. Each penalty starts from its stronger neighbour's solution.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from surgeon.errors import DataError
from surgeon.probe import penalty
from surgeon.probe.basis import Basis
from surgeon.probe.convex import minimise
from surgeon.probe.links import LINKS
from surgeon.tasks.units import Units
from surgeon.train.device import arithmetic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from surgeon.tasks.base import Link as LinkName

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

#: Inverse penalties tried, strongest penalty first, in scikit-learn's unit: the loss is
#: C · Σ loss + ½ · ‖weight‖², on standardised features; loss is cross-entropy, or half the squared
#: error of standardised targets (then C is 1 ÷ the alpha of ridge regression).
GRID: tuple[float, ...] = tuple(float(10.0**exponent) for exponent in np.arange(-5, 4.01, 0.5))
#: Taken where there are too few samples to compare penalties.
FALLBACK_C = 1.0
#: Numbers per thread: with fewer, and on a busy machine with these already, threads wait longer for
#: each other than they compute.
NUMBERS_PER_THREAD = 2**21


@dataclass(frozen=True)
class HeadSolution:
    """The solved head, in the space of the original features, with the evidence of its choice.

    Attributes:
        weight: float32 [outputs, d]; logits = features @ weight.T + bias.
        bias: float32 [outputs]; of softmax, which ignores a common shift, with the mean 0 over the
            classes present.
        regularisation: the C that was chosen (see `GRID` for its unit).
        grid: every C that was tried, ascending; the path ends early once it clearly gets worse.
        cv_quality: per grid point, over the out-of-fold samples (weighted by `class_weights`):
            share of right classes, or labels, or R².
        cv_quality_error: its standard error.
        cv_loss: per grid point and sample, in nats, or half the squared error of standardised
            targets.
        cv_loss_error: its standard error.
        out_of_fold: what a head that has not seen its sample says of each row at the chosen C:
            softmax: int64 [n], its class; logistic: float64 [n, outputs], probabilities; squared:
            values. -1 or NaN for all rows that chose the penalty where penalties could not be
            compared, or were compared on a part of the classes.
        out_of_fold_loss: float64 [n], its loss; NaN likewise.
        folds: number of folds that compared penalties, 0 where that was not possible.
        iterations: L-BFGS steps of the final solve.
        gradient_norm: largest absolute entry of the final gradient of the mean loss, on the
            standardised, rotated features.
        converged: the final solve ended below its tolerance.
    """

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    regularisation: float
    grid: tuple[float, ...]
    cv_quality: tuple[float, ...]
    cv_quality_error: tuple[float, ...]
    cv_loss: tuple[float, ...]
    cv_loss_error: tuple[float, ...]
    out_of_fold: npt.NDArray[Any]
    out_of_fold_loss: npt.NDArray[np.float64]
    folds: int
    iterations: int
    gradient_norm: float
    converged: bool


def solve(  # noqa: PLR0913 - settings of a solver are keywords, each with its default
    features: Floats,
    targets: Ints | Floats,
    outputs: int,
    *,
    link: LinkName = "softmax",
    seed: int = 0,
    device: str | torch.device = "cpu",
    folds: int = 5,
    class_weights: Floats | Literal["balanced"] | None = None,
    views_of: Ints | None = None,
    groups: Ints | None = None,
    held: npt.NDArray[np.bool_] | None = None,
    select: Literal["loss", "quality"] = "loss",
    grid: tuple[float, ...] = GRID,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> HeadSolution:
    """Fit a generalised linear model with an L2 penalty chosen by cross-validation.

    Its link is `softmax` (multinomial logistic regression), `logistic` (one logistic regression a
    label) or `squared` (ridge regression, solved in one step).

    Features are standardised (see `FLOORED_FEATURES`), and that is folded back into the result. The
    penalty is chosen by stratified, seeded k-fold cross-validation, by mean out-of-fold loss or by
    quality (ties go to the stronger penalty). Loss is the default because it was the better on
    unseen samples in 12 of 15 comparisons, by up to 0.8 points of accuracy. Classes rarer
    than `folds` are held out in fewer folds; with fewer than two samples per class on average
    the classes of several samples choose, and where they are too few, `FALLBACK_C` is taken. The
    same seed and number of threads give the same bits.

    A step costs 4 · samples · features · outputs operations, times the number of folds while
    penalties are compared (about 15 penalties of 5 to 15 steps each, on at most `SEARCH_WORK`),
    and 10 to 100 steps end it, fewer where they are dear (`STEPS_WORK`). Memory is 12 to 42 times
    that of the weights.

    Args:
        features: [n, d] floats, in memory or memory-mapped.
        targets: softmax: [n] ints, 0 ≤ class < outputs, classes without a sample are allowed;
            logistic: [n, outputs] of 0, 1, and NaN where it is not known; squared: [n, outputs] of
            numbers, and NaN likewise.
        outputs: of the head.
        link: how outputs meet targets.
        seed: of the folds.
        device: where to compute.
        folds: most folds to use, ≥ 2; 0 = no cross-validation.
        class_weights: weight of each sample by its class [classes], or "balanced" (every class
            weighs the same), or None (every sample weighs the same).
        views_of: [n] ints, the sample that each row is a view of; None = every row is a sample.
            Rows of one sample share its weight and a fold, and the first of them alone, the sample
            as it is, decides between penalties.
        groups: [n] ints, what each row belongs to: no fold tears it apart; None = nothing.
        held: [n] bools, rows that must not choose the penalty; None = every row does. The result
            is fitted to them all the same, and each is judged by a head fitted to all samples but
            those of its fold. A view is held if its sample is.
        select: what decides between penalties.
        grid: inverse penalties to try.
        threads: torch threads during the solve; None = as set, fewer for few numbers.
        progress: called with (penalties done, penalties in the grid).

    Returns:
        The solution.

    Raises:
        DataError: shapes that do not fit, NaN or infinity, targets out of range or all alike.
    """
    read = _read(features, np.asarray(targets), outputs, link, held)
    weights = _sample_weights(read.values, outputs, class_weights)
    rows = _Rows.of(weights, views_of, groups, held)
    if threads is None:
        threads = min(torch.get_num_threads(), max(1, features.size // NUMBERS_PER_THREAD))
    # TF32 has no place in what ends by the size of its gradient.
    with torch_threads(threads), arithmetic(torch.device(device), exact=True):
        basis = Basis.of(features, torch.device(device))
        target = torch.from_numpy(read.values).to(basis.points.device)
        data = penalty.Samples(basis.points, target, outputs, rows.weights, LINKS[link])
        chosen = _choose(data, rows, folds, seed, grid, select, progress)
        return _finish(basis, data, read, chosen)


@dataclass(frozen=True)
class _Chosen:
    """The penalty, what it was chosen by, what unseen samples say, where the last solve starts."""

    regularisation: float
    search: penalty.Search | None
    outside: penalty.Outside
    start: Tensor | None


def _choose(
    data: penalty.Samples,
    rows: _Rows,
    folds: int,
    seed: int,
    grid: tuple[float, ...],
    select: Literal["loss", "quality"],
    progress: Callable[[int, int], None] | None,
) -> _Chosen:
    """Choose the penalty by the samples that may, and judge those that may not."""
    first, sample, held, groups = rows.first, rows.sample, rows.held, rows.groups
    choosing = penalty.comparable(data, first, ~held)
    dealt = penalty.deal_folds(data, first[choosing], folds, seed, groups)
    if dealt is None:
        search, chosen, start = None, FALLBACK_C, None
        outside = penalty.Outside.none(data, len(sample))
    else:
        fold = np.full(len(first), -1)
        fold[choosing] = dealt
        search = penalty.search(data, rows.judged, fold[sample], grid, select, seed, progress)
        chosen, outside, start = search.grid[search.chosen], search.outside, search.start
    if held.any():
        fold = np.full(len(first), -1)
        fold[held] = penalty.deal_held(data, first[held], folds, seed, groups)
        start = penalty.judge_held(data, fold[sample], chosen, start, outside)
    return _Chosen(chosen, search, outside, start)


def _finish(basis: Basis, data: penalty.Samples, read: _Read, chosen: _Chosen) -> HeadSolution:
    """Solve once more on all samples, precisely, and undo rotation and standardisation."""
    exact = None if data.dear else basis.exact
    search, start = chosen.search, chosen.start
    problem = data.problem(data.weights[None], basis.points if exact is None else exact)
    if data.dear:
        fresh = start is None
        least = penalty.FRESH_STEPS if fresh else penalty.MORE_STEPS
        tolerance, steps = penalty.CV_TOLERANCE, penalty.most_steps(data, 1 if fresh else 2, least)
        if start is None:
            start = problem.closed_form(chosen.regularisation)
    else:
        tolerance, steps = 1e-7 if exact is None else penalty.TOLERANCE, 500
        start = problem.zeros() if start is None else start.to(problem.points.dtype)
    solution = minimise(problem, start, chosen.regularisation, tolerance, min(500, steps))
    theta, present = solution.theta[0].double(), None
    if data.link.exclusive:
        present = np.bincount(read.values, minlength=data.outputs) > 0
    theta = theta * torch.from_numpy(read.spread).to(theta)[:, None]
    theta[:, -1] += torch.from_numpy(read.centre).to(theta)
    weight, bias = basis.fold_back(theta, present)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise DataError(
            "the solved head does not fit into float32: the features' scale is too small",
            where="features",
            remedy="rescale the features, or cut at another value",
        )
    return HeadSolution(
        weight=weight,
        bias=bias,
        regularisation=chosen.regularisation,
        grid=search.grid if search else (chosen.regularisation,),
        cv_quality=search.quality if search else (),
        cv_quality_error=search.quality_error if search else (),
        cv_loss=search.loss if search else (),
        cv_loss_error=search.loss_error if search else (),
        out_of_fold=read.told(chosen.outside.predicted),
        out_of_fold_loss=chosen.outside.loss,
        folds=search.folds if search else 0,
        iterations=solution.iterations,
        gradient_norm=solution.gradient_norm,
        converged=solution.converged,
    )


# -------------------------------------------------------------------------------------- the data


@dataclass(frozen=True)
class _Read:
    """Targets as the solver takes them; what is solved becomes `spread` · outputs + `centre`."""

    values: npt.NDArray[Any]
    spread: npt.NDArray[np.float64]  # [outputs]
    centre: npt.NDArray[np.float64]  # [outputs]

    def told(self, answers: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return answers to `values` as answers to the targets as they came."""
        if answers.ndim == 1:
            return answers
        return np.asarray(answers * self.spread + self.centre)


def _read(
    features: Floats,
    targets: npt.NDArray[Any],
    outputs: int,
    link: LinkName,
    held: npt.NDArray[np.bool_] | None,
) -> _Read:
    """Check what is given, and standardise numbers (by the samples that may choose)."""
    shape = targets.shape[:1] if link == "softmax" else (len(targets), outputs)
    if features.ndim != 2 or targets.shape != shape or len(features) != len(targets):
        raise DataError(
            f"features of shape {features.shape} and labels of shape {targets.shape} do not fit",
            where="features",
            remedy=f"give features [n, d] and labels [n{', outputs' * (len(shape) - 1)}]",
        )
    if link == "softmax" and not np.issubdtype(targets.dtype, np.integer):
        raise DataError(f"labels are {targets.dtype}, not integers", where="labels")
    if len(targets) == 0 or features.shape[1] == 0:
        raise DataError("there are no samples or no features", where="features")
    plain = np.ones(outputs), np.zeros(outputs)
    if link == "softmax":
        _check_codes(targets, outputs)
        return _Read(targets.astype(np.int64), *plain)
    values = targets.astype(np.float64)
    if link == "logistic":
        _check_labels(values)
        return _Read(values, *plain)
    if np.isinf(values).any():
        raise DataError("targets hold infinity", where="labels")
    seen = values if held is None or np.all(held) else values[~np.asarray(held, bool)]
    units = Units.of(seen)
    if not units.spread.any():
        raise DataError(
            f"every one of the {len(seen)} samples has the same target: nothing to learn",
            where="labels",
            remedy="give samples whose answers vary, or more of them",
        )
    return _Read(units.standard(values), units.scale, units.centre)


def _check_codes(labels: Ints, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"labels reach from {low} to {high}, outside 0..{classes - 1}", where="labels"
        )
    if low == high:
        raise DataError(
            f"every one of the {len(labels)} samples has label {low}: nothing to tell apart",
            where="labels",
            remedy="give samples of at least two classes",
        )


def _check_labels(values: npt.NDArray[np.float64]) -> None:
    known = values[~np.isnan(values)]
    odd = known[(known != 0) & (known != 1)]
    if len(odd):
        raise DataError(f"a label is {odd[0]:g}, not 0, 1 or NaN (not known)", where="labels")
    if not ((values == 0).any(axis=0) & (values == 1).any(axis=0)).any():
        raise DataError(
            "no label is there in one sample and not in another: nothing to tell apart",
            where="labels",
        )


def _sample_weights(
    labels: npt.NDArray[Any],
    classes: int,
    class_weights: Floats | Literal["balanced"] | None,
) -> Floats:
    if class_weights is None:
        return np.ones(len(labels))
    if labels.ndim != 1:
        raise DataError("weights of classes are for classes alone", where="class_weights")
    counts = np.bincount(labels, minlength=classes)
    if isinstance(class_weights, str):
        per_class = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    else:
        per_class = np.asarray(class_weights, dtype=np.float64)
        if per_class.shape != (classes,) or not (per_class >= 0).all():
            raise DataError(
                f"class weights of shape {per_class.shape} for {classes} classes, or below 0",
                where="class_weights",
            )
        if not (per_class[counts > 0] > 0).any():
            raise DataError("every class present has weight 0", where="class_weights")
    return np.asarray(per_class[labels], np.float64)


@dataclass(frozen=True)
class _Rows:
    """Rows, each a view of a sample."""

    first: npt.NDArray[np.int64]  # [samples], the row of each that is the sample as it is
    sample: npt.NDArray[np.int64]  # [rows], the sample of each
    held: npt.NDArray[np.bool_]  # [samples], which must not choose
    weights: Floats  # [rows], which share those of their sample
    judged: Floats  # [rows], the weight of each that decides, else 0
    groups: Ints | None

    @classmethod
    def of(
        cls,
        weights: Floats,
        views_of: Ints | None,
        groups: Ints | None,
        held: npt.NDArray[np.bool_] | None,
    ) -> _Rows:
        """Return them with the weight of a sample shared among its views.

        Raises:
            DataError: not one sample named per row.
        """
        rows = len(weights)
        first = sample = np.arange(rows)
        views = np.ones(rows, np.int64)
        if views_of is not None:
            if np.shape(views_of) != (rows,):
                raise DataError(
                    f"samples of shape {np.shape(views_of)} for {rows} rows", where="views_of"
                )
            _, first, sample, views = np.unique(
                views_of, return_index=True, return_inverse=True, return_counts=True
            )
        judged = np.zeros(rows)
        judged[first] = weights[first]
        apart = np.zeros(rows, bool) if held is None else np.asarray(held, bool)
        return cls(first, sample, apart[first], weights / views[sample], judged, groups)


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Compute on so many torch threads for a while; None = as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
