"""The new head as what it is on frozen features: a convex problem, solved to its optimum.

A linear classifier on fixed features has one best set of weights for a given penalty, so no
learning rate, schedule or epoch count belongs here. The room holds the solver (a batched L-BFGS
over all folds at once), the choice of the penalty by cross-validation, and nothing that knows a
graph, a file or where features come from.

Three exact tricks make it quick. The penalty is the same after a rotation, so the features are
turned onto their principal axes, where the Hessian is nearly diagonal and a diagonal
preconditioner brings L-BFGS home in a dozen steps instead of hundreds; with fewer samples than
features the rotation also drops the axes on which no sample lies. All folds share one matrix and
are solved in one product. Each penalty starts from its stronger neighbour's solution.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from surgeon.data.splits import deal, most_folds
from surgeon.errors import DataError
from surgeon.probe.convex import Problem, judge, minimise
from surgeon.train.device import arithmetic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

#: Inverse penalties tried, strongest penalty first, in scikit-learn's unit: the loss is
#: C · Σ cross-entropy + ½ · ‖weight‖², on standardised features.
GRID: tuple[float, ...] = tuple(float(10.0**exponent) for exponent in np.arange(-5, 4.01, 0.5))
#: Taken where there are too few samples to compare penalties.
FALLBACK_C = 1.0
#: Where most classes have a single sample, this many of the others are enough to compare on.
FEWEST = 20
#: A feature whose spread is below this fraction of its mean carries rounding noise, not signal:
#: a float32 product with it would cancel. It gets weight 0.
CONSTANT = 1e-5
#: From this many features on, spreads below the median count as the median. Channels of one layer
#: share a scale: a channel that hardly moved in the training samples would otherwise be blown up
#: and dominate on unseen ones (measured: +7 points at 4 samples per class, +1 at 90).
FLOORED_FEATURES = 32
#: Newton decrement ½·gᵀH⁻¹g (the loss still to be gained, per sample) at which a solve has ended.
CV_TOLERANCE, TOLERANCE = 1e-5, 1e-12
#: A feature counts as if noise of this share of its mean lay on it, as float32 and other kernels
#: put some on it: it matters from means of thousands of spreads on, and weights of such features,
#: with which a product loses the digits of the logits, are taken only where they pay.
NOISE = 2.0**-14
#: Up to this many numbers the final solve runs in float64; above, in float32 at 1e-7.
FLOAT64_SIZE = 2**25
#: What the softmax of one logit costs, in multiply-adds.
SOFTMAX = 128
#: Above this many multiply-adds (samples · features · classes) it ends earlier, see `UNCERTAIN`.
PRECISE_WORK = 2**29
#: Such a solve ends where what is left to gain is this share of what the comparison of penalties is
#: uncertain by, at most `COARSE` nats: more would fit the samples, and not what they are drawn from
#: (Bottou & Bousquet, "The tradeoffs of large scale learning", 2008).
UNCERTAIN, COARSE = 0.1, 1e-3
#: Or after so many multiply-adds of its steps.
STEPS_WORK = 2**40
#: The least steps of a solve: from the closed form, and from a solution on other samples.
FRESH_STEPS, MORE_STEPS = 3, 1
#: Where a part of the classes chooses, losses that differ by less, in nats, are alike, and a solve
#: ends after so many steps.
ALIKE, SEARCH_STEPS = 0.01, 20
#: Weaker penalties are tried no more once the loss fell below this share of the first and is flat.
FALLEN = 0.75
#: Multiply-adds per step that all folds together may take. Above, penalties are compared on a
#: random part of the classes, at least so many, and fewer folds judge.
SEARCH_WORK, SEARCH_CLASSES = 2**31, 64
#: Above this many axes the rotation costs more than the iterations that it saves.
ROTATION_SIZE = 4096
#: Numbers per thread: with fewer, and on a busy machine with these already, threads wait longer for
#: each other than they compute.
NUMBERS_PER_THREAD = 2**21
_CHUNK = 4096


@dataclass(frozen=True)
class HeadSolution:
    """The solved head, in the space of the original features, with the evidence of its choice.

    Attributes:
        weight: float32 [classes, d]; logits = features @ weight.T + bias.
        bias: float32 [classes], mean 0 over the classes present (softmax ignores a common shift).
        regularisation: the C that was chosen (see `GRID` for its unit).
        grid: every C that was tried, ascending; the path ends early once it clearly gets worse.
        cv_accuracy: per grid point, over the out-of-fold samples (weighted by `class_weights`).
        cv_accuracy_error: its standard error.
        cv_log_loss: per grid point, nats per sample.
        cv_log_loss_error: its standard error.
        out_of_fold: int64 [n], class predicted for each row at the chosen C by a head that has not
            seen its sample; -1 for all rows that chose the penalty where penalties could not be
            compared, or were compared on a part of the classes.
        out_of_fold_loss: float64 [n], its loss in nats; NaN likewise.
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
    cv_accuracy: tuple[float, ...]
    cv_accuracy_error: tuple[float, ...]
    cv_log_loss: tuple[float, ...]
    cv_log_loss_error: tuple[float, ...]
    out_of_fold: npt.NDArray[np.int64]
    out_of_fold_loss: npt.NDArray[np.float64]
    folds: int
    iterations: int
    gradient_norm: float
    converged: bool


def solve(
    features: Floats,
    labels: Ints,
    classes: int,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    folds: int = 5,
    class_weights: Floats | Literal["balanced"] | None = None,
    views_of: Ints | None = None,
    groups: Ints | None = None,
    held: npt.NDArray[np.bool_] | None = None,
    select: Literal["log-loss", "accuracy"] = "log-loss",
    grid: tuple[float, ...] = GRID,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> HeadSolution:
    """Fit a multinomial logistic regression with an L2 penalty chosen by cross-validation.

    Features are standardised (see `FLOORED_FEATURES`), and that is folded back into the result. The
    penalty is chosen by stratified, seeded k-fold cross-validation, by mean out-of-fold log-loss or
    by accuracy (ties go to the stronger penalty). Log-loss is the default because it was the better
    on unseen samples in 12 of 15 comparisons, by up to 0.8 points of accuracy. Classes rarer
    than `folds` are held out in fewer folds; with fewer than two samples per class on average
    the classes of several samples choose, and where they are too few, `FALLBACK_C` is taken. The
    same seed and number of threads give the same bits.

    A step costs 4 · samples · features · classes operations, times the number of folds while
    penalties are compared (about 15 penalties of 5 to 15 steps each, on at most `SEARCH_WORK`),
    and 10 to 100 steps end it, fewer where they are dear (`STEPS_WORK`). Memory is 12 to 42 times
    that of the weights.

    Args:
        features: [n, d] floats, in memory or memory-mapped.
        labels: [n] ints, 0 ≤ label < classes. Classes without a sample are allowed.
        classes: number of outputs.
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
        DataError: shapes that do not fit, NaN or infinity, labels out of range, one class only.

    """
    _check(features, labels, classes)
    labels = np.asarray(labels, dtype=np.int64)
    weights = _sample_weights(labels, classes, class_weights)
    first, sample, views = _samples(len(labels), views_of)
    judged = np.zeros(len(labels))
    judged[first] = weights[first]
    weights /= views[sample]
    apart = np.zeros(len(labels), bool) if held is None else np.asarray(held, bool)
    if threads is None:
        threads = min(torch.get_num_threads(), max(1, features.size // NUMBERS_PER_THREAD))
    # TF32 has no place in what ends by the size of its gradient.
    with torch_threads(threads), arithmetic(torch.device(device), exact=True):
        basis = _Basis.of(features, torch.device(device))
        target = torch.from_numpy(labels).to(basis.points.device)
        data = _Data(basis.points, target, classes, weights)
        fold = np.full(len(first), -1)
        choosing = _comparable(labels[first], ~apart[first], classes)
        kin = None if groups is None else groups[first]
        dealt = _folds(labels[first[choosing]], classes, folds, seed, _some(kin, choosing))
        if dealt is not None:
            fold[choosing] = dealt
        search = (
            None
            if dealt is None
            else _search(data, judged, fold[sample], grid, select, seed, progress)
        )
        chosen = FALLBACK_C if search is None else search.grid[search.chosen]
        outside = _Outside.none(len(labels)) if search is None else search.outside
        start = None if search is None else search.start
        if apart.any():
            fold = np.full(len(first), -1)
            own = apart[first]
            fold[own] = deal(labels[first[own]], folds, seed, _some(kin, own))
            start = _judge_held(data, fold[sample], chosen, start, outside, search)
        return _finish(basis, data, search, chosen, start, outside)


def _finish(
    basis: _Basis,
    data: _Data,
    search: _Search | None,
    chosen: float,
    start: Tensor | None,
    outside: _Outside,
) -> HeadSolution:
    """Solve once more on all samples, precisely, and undo rotation and standardisation."""
    exact = basis.exact if data.work <= PRECISE_WORK else None
    problem = data.problem(data.weights[None], basis.points if exact is None else exact)
    if data.work <= PRECISE_WORK:
        tolerance, steps = 1e-7 if exact is None else TOLERANCE, 500
        start = problem.zeros() if start is None else start.to(problem.points.dtype)
    else:
        tolerance = _certain(search)
        least, part = (FRESH_STEPS, 1) if start is None else (MORE_STEPS, 2)
        steps = min(500, max(least, STEPS_WORK // (part * data.work)))
        start = problem.closed_form(chosen) if start is None else start
    solution = minimise(problem, start, chosen, tolerance, steps)
    present = np.bincount(data.target.cpu().numpy(), minlength=data.classes) > 0
    weight, bias = basis.fold_back(solution.theta[0].double(), present)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise DataError(
            "the solved head does not fit into float32: the features' scale is too small",
            where="features",
            remedy="rescale the features, or cut at another value",
        )
    return HeadSolution(
        weight=weight,
        bias=bias,
        regularisation=chosen,
        grid=search.grid if search else (chosen,),
        cv_accuracy=search.accuracy if search else (),
        cv_accuracy_error=search.accuracy_error if search else (),
        cv_log_loss=search.log_loss if search else (),
        cv_log_loss_error=search.log_loss_error if search else (),
        out_of_fold=outside.predicted,
        out_of_fold_loss=outside.loss,
        folds=search.folds if search else 0,
        iterations=solution.iterations,
        gradient_norm=solution.gradient_norm,
        converged=solution.converged,
    )


# -------------------------------------------------------------------------------------- the data


def _check(features: Floats, labels: Ints, classes: int) -> None:
    if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels):
        raise DataError(
            f"features of shape {features.shape} and labels of shape {labels.shape} do not fit",
            where="features",
            remedy="give features [n, d] and labels [n]",
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels are {labels.dtype}, not integers", where="labels")
    if len(labels) == 0 or features.shape[1] == 0:
        raise DataError("there are no samples or no features", where="features")
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


def _sample_weights(
    labels: Ints,
    classes: int,
    class_weights: Floats | Literal["balanced"] | None,
) -> Floats:
    if class_weights is None:
        return np.ones(len(labels))
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
    return per_class[labels].astype(np.float64)


def _samples(
    rows: int, views_of: Ints | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first row of each sample, the sample of each row, and the rows of each sample.

    Raises:
        DataError: not one sample named per row.

    """
    if views_of is None:
        alone = np.arange(rows)
        return alone, alone, np.ones(rows, np.int64)
    if np.shape(views_of) != (rows,):
        raise DataError(f"samples of shape {np.shape(views_of)} for {rows} rows", where="views_of")
    _, first, sample, views = np.unique(
        views_of, return_index=True, return_inverse=True, return_counts=True
    )
    return first, sample, views


def _comparable(
    labels: Ints, choosing: npt.NDArray[np.bool_], classes: int
) -> npt.NDArray[np.int64]:
    """Return samples that can choose a penalty: where most classes have but one, of the others."""
    rows = np.flatnonzero(choosing)
    counts = np.bincount(labels[rows], minlength=classes)
    if len(rows) >= 2 * np.count_nonzero(counts):
        return rows
    several = rows[counts[labels[rows]] > 1]
    return several if len(several) >= FEWEST and len(set(labels[several].tolist())) > 1 else rows


def _folds(
    labels: Ints, classes: int, folds: int, seed: int, groups: Ints | None = None
) -> npt.NDArray[np.int64] | None:
    """Deal the samples of each class out in turn; None where comparing penalties is no use."""
    present = np.count_nonzero(np.bincount(labels, minlength=classes))
    folds = most_folds(labels, folds, groups)
    if folds < 2 or len(labels) < 2 * present:
        return None
    return deal(labels, folds, seed, groups)


def _some(groups: Ints | None, rows: npt.NDArray[Any]) -> Ints | None:
    return None if groups is None else groups[rows]


@dataclass(frozen=True)
class _Basis:
    """Standardised features on their principal axes: points = (x − mean) · scale @ axes."""

    points: Tensor  # float32 [n, r]
    exact: Tensor | None  # the same in float64; None where that would be too large
    mean: Tensor  # float64 [d]
    scale: Tensor  # float64 [d]
    axes: Tensor | None  # float64 [d, r], orthonormal columns; None = not rotated

    @classmethod
    def of(cls, features: Floats, device: torch.device) -> _Basis:
        mean, scale = _moments(features)
        n, d = features.shape
        double = n * d <= FLOAT64_SIZE
        dtype = torch.float64 if double else torch.float32
        points = torch.empty((n, d), dtype=dtype, device=device)
        for rows, block in _blocks(features):
            points[rows] = torch.from_numpy((block - mean) * scale).to(device, dtype)
        axes: Tensor | None = None
        if min(n, d) <= ROTATION_SIZE:
            axes = _principal_axes(points)
            points = points @ axes.to(dtype)
        return cls(
            points.float(),
            points if double else None,
            torch.from_numpy(mean).to(device),
            torch.from_numpy(scale).to(device),
            axes,
        )

    def fold_back(
        self, theta: Tensor, present: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return weight [classes, d] and bias [classes] for the original features.

        The bias makes up for what rounding to float32 took from the weights at the features' mean.
        """
        weight = theta[:, :-1] if self.axes is None else theta[:, :-1] @ self.axes.T
        weight = weight * self.scale
        with np.errstate(over="ignore"):
            rounded = weight.cpu().numpy().astype(np.float32)
            bias = (theta[:, -1] - torch.from_numpy(rounded).to(theta) @ self.mean).cpu().numpy()
            bias -= bias[present].mean()
            return rounded, bias.astype(np.float32)


def _blocks(features: Floats) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    for first in range(0, len(features), _CHUNK):
        rows = slice(first, first + _CHUNK)
        yield rows, np.asarray(features[rows], dtype=np.float64)


def _moments(
    features: Floats,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and scale [d] in two passes over blocks; scale 0 for constant features."""
    n, d = features.shape
    total = np.zeros(d)
    for rows, block in _blocks(features):
        if not np.isfinite(block).all():
            row, column = np.argwhere(~np.isfinite(block))[0]
            raise DataError(
                f"features hold NaN or infinity, first in sample {rows.start + row}, "
                f"feature {column}",
                where="features",
                remedy="check the preprocessing; a float16 model may overflow on these samples",
            )
        total += block.sum(0) / n
    with np.errstate(over="ignore", divide="ignore"):
        spread = np.zeros(d)
        for _, block in _blocks(features):
            spread += ((block - total) ** 2).sum(0) / n
        spread = np.sqrt(spread)
        varies = spread > CONSTANT * np.abs(total)
        floor = np.median(spread[varies]) if varies.any() and d >= FLOORED_FEATURES else 0.0
        scale = np.where(varies, 1 / np.hypot(np.maximum(spread, floor), NOISE * total), 0.0)
    if not np.isfinite(scale).all() or not np.isfinite(spread).all():
        raise DataError(
            "features are too large or too small for float64",
            where="features",
            remedy="rescale the features, or cut at another value",
        )
    return total, scale


def _principal_axes(standard: Tensor) -> Tensor:
    """Return an orthonormal basis [d, r] of the row space in which the covariance is diagonal."""
    n, d = standard.shape
    exact = standard.double()
    squares: Tensor
    left: Tensor
    if d <= n:
        _, left = _eigh(exact.T @ exact)
        return left.flip(1)
    squares, left = _eigh(exact @ exact.T)
    # Directions below this hold nothing but rounding: the samples do not reach into them.
    kept = squares > squares[-1] * 1e-12
    if not bool(kept.any()):
        return torch.eye(d, 1, dtype=torch.float64, device=standard.device)
    axes = exact.T @ (left[:, kept] / squares[kept].sqrt())
    return axes.flip(1)


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors; by the CPU where a GPU's solver does not converge."""
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        if not matrix.is_cuda:
            raise
        values, vectors = torch.linalg.eigh(matrix.cpu())
    return values.to(matrix.device), vectors.to(matrix.device)


# ---------------------------------------------------------------------- the choice of penalty


@dataclass(frozen=True)
class _Data:
    """What every problem of a solve is made of: points, their classes, and what they weigh."""

    points: Tensor  # [n, r]
    target: Tensor  # [n]
    classes: int
    weights: Floats  # [n]

    @property
    def work(self) -> int:
        """Multiply-adds that the logits of all points by one head cost."""
        return len(self.points) * (self.points.shape[1] + SOFTMAX) * self.classes

    def problem(self, weights: Floats, points: Tensor | None = None) -> Problem:
        points = self.points if points is None else points
        return Problem(points, self.target, self.classes, _on(weights, points))

    def part(self, rows: npt.NDArray[np.int64], kept: Ints | None) -> _Data:
        """Return some rows; with `kept`, rows of these classes alone, numbered anew."""
        where = torch.from_numpy(rows).to(self.points.device)
        target, classes = self.target[where], self.classes
        if kept is not None:
            number = torch.full((classes,), -1, dtype=torch.int64, device=target.device)
            number[torch.from_numpy(kept).to(target.device)] = torch.arange(
                len(kept), device=target.device
            )
            target, classes = number[target], len(kept)
        return _Data(self.points[where], target, classes, self.weights[rows])


@dataclass(frozen=True)
class _Outside:
    """What heads say of rows that they have not seen: class [n] and loss [n]; -1, NaN = nothing."""

    predicted: npt.NDArray[np.int64]
    loss: npt.NDArray[np.float64]

    @classmethod
    def none(cls, rows: int) -> _Outside:
        return cls(np.full(rows, -1, np.int64), np.full(rows, np.nan))

    def judge(self, data: _Data, theta: Tensor, fold: Ints) -> None:
        """Fill in the rows of every fold, by the head that did not see them."""
        for number, one in enumerate(theta):
            rows = np.flatnonzero(fold == number)
            where = torch.from_numpy(rows).to(data.points.device)
            predicted, loss = judge(data.points[where], data.target[where], one)
            self.predicted[rows] = predicted.cpu().numpy()
            self.loss[rows] = loss.cpu().numpy()


@dataclass(frozen=True)
class _Search:
    grid: tuple[float, ...]
    accuracy: tuple[float, ...]
    accuracy_error: tuple[float, ...]
    log_loss: tuple[float, ...]
    log_loss_error: tuple[float, ...]
    chosen: int
    outside: _Outside
    start: Tensor | None
    folds: int


def _search(
    data: _Data,
    judged: Floats,
    fold: npt.NDArray[np.int64],
    grid: tuple[float, ...],
    select: Literal["log-loss", "accuracy"],
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> _Search:
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
    target = data.target.cpu().numpy()
    theta = problem.zeros()
    scores: list[tuple[float, float, float, float]] = []
    best: tuple[float, int, _Outside, Tensor] | None = None
    for position, c in enumerate(grid):
        steps = 100 if kept is None else SEARCH_STEPS
        theta = minimise(problem, theta, c, CV_TOLERANCE, steps).theta
        outside = _Outside.none(len(fold))
        outside.judge(data, theta, fold)
        accuracy, accuracy_error = _mean((outside.predicted == target).astype(float), judged)
        # A class that a fold never saw has no probability there: bounded, so that it cannot decide.
        loss, loss_error = _mean(np.minimum(outside.loss, 20.0), judged)
        scores.append((accuracy, accuracy_error, loss, loss_error))
        key = loss if select == "log-loss" else -accuracy
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
    accuracies, accuracy_errors, losses, loss_errors = zip(*scores, strict=True)
    chosen = best[1]
    if kept is not None and select == "log-loss":
        # A part of the classes says less: of penalties that are alike the strongest, which is also
        # the one that costs the fewest steps (one-standard-error rule, Breiman et al., 1984).
        chosen = _strongest_alike(scores, chosen)
    found = _Outside.none(n)
    if kept is None:
        found.predicted[rows], found.loss[rows] = best[2].predicted, best[2].loss
    return _Search(
        grid=tuple(grid[: len(scores)]),
        accuracy=accuracies,
        accuracy_error=accuracy_errors,
        log_loss=losses,
        log_loss_error=loss_errors,
        chosen=chosen,
        outside=found,
        start=best[3] if kept is None else None,
        folds=folds,
    )


def _strongest_alike(scores: list[tuple[float, float, float, float]], best: int) -> int:
    """Return the strongest penalty whose log-loss is that of the best one, or nearly."""
    _, _, lowest, error = scores[best]
    enough = lowest + max(error, ALIKE)
    return next(place for place, (_, _, loss, _) in enumerate(scores) if loss <= enough)


def _certain(search: _Search | None) -> float:
    """Return the loss, in nats, below which the samples cannot tell two heads apart."""
    error = 0.0 if search is None else search.log_loss_error[search.chosen]
    return min(COARSE, max(CV_TOLERANCE, UNCERTAIN * error))


def _compared(
    data: _Data, fold: npt.NDArray[np.int64], seed: int
) -> tuple[npt.NDArray[np.int64], Ints | None]:
    """Return the rows that penalties are compared on, and their classes; None = all classes.

    Work grows with the square of the classes where each has so many samples.
    """
    rows = np.flatnonzero(fold >= 0)
    target = data.target.cpu().numpy()
    present = np.unique(target[rows])
    part = replace(data, points=data.points[: len(rows)], classes=len(present))
    work = part.work * (int(fold.max()) + 1)
    most = max(SEARCH_CLASSES, int(len(present) * (SEARCH_WORK / work) ** 0.5))
    if most >= len(present):
        return rows, None if 2 * len(present) > data.classes else present
    kept = np.sort(np.random.default_rng(seed).choice(present, most, replace=False))
    return rows[np.isin(target[rows], kept)], kept


def _judge_held(
    data: _Data,
    fold: npt.NDArray[np.int64],
    c: float,
    start: Tensor | None,
    outside: _Outside,
    search: _Search | None,
) -> Tensor:
    """Judge rows that did not choose the penalty: each by a head fitted to all but its fold.

    Fewer heads judge where each is dear. Returns the mean of their weights, [1, classes, r + 1].
    """
    heads = max(1, min(int(fold.max()) + 1, SEARCH_WORK // data.work))
    fold = np.where(fold < 0, -1, fold % heads)
    problem = data.problem(np.stack([data.weights * (fold != number) for number in range(heads)]))
    if start is not None:
        theta = start.expand_as(problem.zeros()).contiguous()
    else:
        theta = problem.zeros() if data.work <= PRECISE_WORK else problem.closed_form(c)
    tolerance, steps = CV_TOLERANCE, 100
    if data.work > PRECISE_WORK:
        tolerance = _certain(search)
        steps = min(steps, max(FRESH_STEPS, STEPS_WORK // (heads * data.work)))
    theta = minimise(problem, theta, c, tolerance, steps).theta
    outside.judge(data, theta, fold)
    return theta.mean(0, keepdim=True)


def _mean(values: Floats, weights: Floats) -> tuple[float, float]:
    """Return the weighted mean and its standard error."""
    share = weights / weights.sum()
    mean = float((share * values).sum())
    return mean, float(np.sqrt((share**2 * (values - mean) ** 2).sum()))


def _on(values: Floats, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64)).to(like.device)


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Compute on so many torch threads for a while; None = as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
