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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from surgeon.errors import DataError
from surgeon.ops.products import multiply
from surgeon.tune.device import arithmetic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

#: Inverse penalties tried, strongest penalty first, in scikit-learn's unit: the loss is
#: C · Σ cross-entropy + ½ · ‖weight‖², on standardised features.
GRID: tuple[float, ...] = tuple(float(10.0**exponent) for exponent in np.arange(-5, 4.01, 0.5))
#: Taken where there are too few samples to compare penalties.
FALLBACK_C = 1.0
#: A feature whose spread is below this fraction of its mean carries rounding noise, not signal:
#: a float32 product with it would cancel. It gets weight 0.
CONSTANT = 1e-5
#: From this many features on, spreads below the median count as the median. Channels of one layer
#: share a scale: a channel that hardly moved in the training samples would otherwise be blown up
#: and dominate on unseen ones (measured: +7 points at 4 samples per class, +1 at 90).
FLOORED_FEATURES = 32
#: Newton decrement ½·gᵀH⁻¹g (the loss still to be gained, per sample) at which a solve has ended.
CV_TOLERANCE, TOLERANCE = 1e-5, 1e-12
#: Up to this many numbers the final solve runs in float64; above, in float32 at 1e-7.
FLOAT64_SIZE = 2**25
#: Above this many axes the rotation costs more than the iterations that it saves.
ROTATION_SIZE = 4096
#: Numbers per thread: with fewer, and on a busy machine with these already, threads wait longer for
#: each other than they compute.
NUMBERS_PER_THREAD = 2**21
_CHUNK = 4096
_MEMORY = 20


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
        out_of_fold: int64 [n], class predicted for each row by the fold that did not see it, at
            the chosen C; None where no cross-validation was possible.
        out_of_fold_log_probabilities: float32 [n, classes], or None likewise.
        folds: number of folds, 0 where no cross-validation was possible.
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
    out_of_fold: npt.NDArray[np.int64] | None
    out_of_fold_log_probabilities: npt.NDArray[np.float32] | None
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
    select: Literal["log-loss", "accuracy"] = "log-loss",
    grid: tuple[float, ...] = GRID,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> HeadSolution:
    """Fit a multinomial logistic regression with an L2 penalty chosen by cross-validation.

    Features are standardised (see `FLOORED_FEATURES`), and that is folded back into the result. The
    penalty
    is chosen by stratified, seeded k-fold cross-validation, by mean out-of-fold log-loss or by
    accuracy (ties go to the stronger penalty). Log-loss is the default because it was the better
    on unseen samples in 12 of 15 comparisons, by up to 0.8 points of accuracy. Classes rarer
    than `folds` are held out in fewer folds; with fewer than two samples per class on average
    there is nothing to compare and `FALLBACK_C` is taken. The same seed and number of threads give
    the same bits.

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
    if threads is None:
        threads = min(torch.get_num_threads(), max(1, features.size // NUMBERS_PER_THREAD))
    # TF32 has no place in what ends by the size of its gradient.
    with torch_threads(threads), arithmetic(torch.device(device), exact=True):
        basis = _Basis.of(features, torch.device(device))
        target = torch.from_numpy(labels).to(basis.points.device)
        dealt = _folds(labels[first], classes, folds, seed)
        if dealt is None:
            search, chosen = None, FALLBACK_C
        else:
            search = _search(
                basis.points,
                target,
                classes,
                weights,
                judged,
                dealt[sample],
                grid,
                select,
                progress,
            )
            chosen = search.grid[search.chosen]
        return _finish(basis, target, classes, weights, search, chosen)


def _finish(
    basis: _Basis,
    target: Tensor,
    classes: int,
    weights: Floats,
    search: _Search | None,
    chosen: float,
) -> HeadSolution:
    """Solve once more on all samples, precisely, and undo rotation and standardisation."""
    exact = basis.exact is not None
    points = basis.points if basis.exact is None else basis.exact
    problem = _Problem(points, target, classes, _on(weights, points)[None])
    start = problem.zeros() if search is None else search.start.to(points.dtype)
    solution = _minimise(problem, start, chosen, TOLERANCE if exact else 1e-7, 500)
    weight, bias = basis.fold_back(solution.theta[0].double())
    present = np.bincount(target.cpu().numpy(), minlength=classes) > 0
    bias -= bias[present].mean()
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
        out_of_fold=search.held_out.argmax(1).astype(np.int64) if search else None,
        out_of_fold_log_probabilities=search.held_out if search else None,
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


def _folds(labels: Ints, classes: int, folds: int, seed: int) -> npt.NDArray[np.int64] | None:
    """Deal the samples of each class out in turn; None where comparing penalties is no use."""
    counts = np.bincount(labels, minlength=classes)
    present = np.count_nonzero(counts)
    folds = min(folds, int(counts.max()))
    if folds < 2 or len(labels) < 2 * present:
        return None
    generator = np.random.default_rng(seed)
    order = np.concatenate(
        [generator.permutation(np.flatnonzero(labels == label)) for label in range(classes)]
    )
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


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

    def fold_back(self, theta: Tensor) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return weight [classes, d] and bias [classes] for the original features."""
        weight = theta[:, :-1] if self.axes is None else theta[:, :-1] @ self.axes.T
        weight = weight * self.scale
        bias = theta[:, -1] - weight @ self.mean
        with np.errstate(over="ignore"):
            return (
                weight.cpu().numpy().astype(np.float32),
                bias.cpu().numpy().astype(np.float32),
            )


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
        scale = np.where(varies, 1 / np.maximum(spread, floor), 0.0)
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


# ---------------------------------------------------------------------------------- the solver


class _Problem:
    """B weighted multinomial logistic regressions on the same points, as one function.

    `theta` is [B, classes, r + 1]; its last column is the bias, which is not penalised, except for
    classes that a problem has no sample of (their bias has no minimum otherwise).
    """

    def __init__(self, points: Tensor, target: Tensor, classes: int, weights: Tensor) -> None:
        self.points = points
        self.target = target
        self.classes = classes
        self.total = weights.double().sum(1)  # [B]
        self.share = (weights / self.total[:, None]).to(points.dtype)  # [B, n], sums to 1
        hits = torch.zeros(len(weights), classes, dtype=torch.float64, device=points.device)
        hits.index_add_(1, target, weights.double())
        self.absent = (hits == 0).to(points.dtype) * 1e-3
        self.squares = self.share @ points.square()  # [B, r]

    def zeros(self) -> Tensor:
        shape = (len(self.share), self.classes, self.points.shape[1] + 1)
        return torch.zeros(shape, dtype=self.points.dtype, device=self.points.device)

    def log_probabilities(self, theta: Tensor) -> Tensor:
        """Return [n, B, classes]."""
        problems, classes, width = theta.shape
        weight = theta[:, :, :-1].reshape(problems * classes, width - 1)
        logits = multiply(self.points, weight.T, theta[:, :, -1].reshape(-1))
        return logits.view(-1, problems, classes).log_softmax(-1)

    def value(self, theta: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return losses [B] in float64, gradients like `theta`, and probabilities [n, B, k]."""
        logp = self.log_probabilities(theta)
        rows = self.target[:, None, None].expand(-1, logp.shape[1], 1)
        picked = logp.gather(2, rows)[:, :, 0]
        bias, weight = theta[:, :, -1], theta[:, :, :-1]
        loss = -(picked.T.double() * self.share.double()).sum(1)
        loss += 0.5 * penalty.double() * weight.double().square().sum((1, 2))
        loss += 0.5 * (self.absent * bias.square()).double().sum(1)
        probabilities = logp.exp_()
        residual = probabilities.scatter_add(
            2, rows, rows.new_full((), -1).to(logp).expand_as(rows)
        )
        residual *= self.share.T[:, :, None]
        flat = residual.view(len(self.target), -1)
        gradient = torch.empty_like(theta)
        gradient[:, :, :-1] = multiply(flat.T, self.points).view_as(weight)
        gradient[:, :, :-1] += penalty[:, None, None] * weight
        gradient[:, :, -1] = flat.sum(0).view_as(bias) + self.absent * bias
        return loss, gradient, probabilities

    def curvature(self, probabilities: Tensor, penalty: Tensor) -> Tensor:
        """Return the diagonal of the Hessian, with p(1 − p) averaged apart from the features."""
        spread = (probabilities * (1 - probabilities)) * self.share.T[:, :, None]
        mean = spread.sum(0).clamp_min(1e-4)  # [B, classes]
        diagonal = torch.empty_like(self.zeros())
        diagonal[:, :, :-1] = mean[:, :, None] * self.squares[:, None, :] + penalty[:, None, None]
        diagonal[:, :, -1] = mean + self.absent
        return diagonal


@dataclass(frozen=True)
class _Minimum:
    theta: Tensor
    iterations: int
    gradient_norm: float
    converged: bool


def _minimise(problem: _Problem, start: Tensor, c: float, tolerance: float, limit: int) -> _Minimum:
    """Minimise all problems at once by preconditioned L-BFGS (Nocedal & Wright, ch. 7).

    Every problem has its own history, step and end. The function is convex, so a backtracking line
    search suffices: pairs with s·y ≤ 0 (rounding) are left out of the history.
    """
    penalty = (1 / (c * problem.total)).to(start)
    theta = start.clone()
    loss, gradient, probabilities = problem.value(theta, penalty)
    inverse = 1 / problem.curvature(probabilities, penalty)
    history: list[tuple[Tensor, Tensor, Tensor]] = []  # s, y, 1/(s·y), newest last
    noise = 8 * torch.finfo(start.dtype).eps
    done = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
    left = torch.full_like(loss, torch.inf)
    iteration = 0
    for iteration in range(limit + 1):
        direction = -_two_loop(gradient, inverse, history)
        slope = _dot(direction, gradient)
        # −½·slope estimates the loss still to be gained (the Newton decrement).
        left = torch.where(done, left, -0.5 * slope)
        done |= left <= tolerance
        if bool(done.all()) or iteration == limit:
            break
        step = torch.where(done, 0.0, 1.0).to(slope)
        for _ in range(30):
            trial = theta + step.to(theta)[:, None, None] * direction
            trial_loss, trial_gradient, _ = problem.value(trial, penalty)
            room = noise * loss.abs()
            bad = ~(trial_loss <= loss + 1e-4 * step * slope + room) & ~done
            if not bool(bad.any()):
                break
            step = torch.where(bad, step * 0.4, step)
        else:
            done |= bad  # no descent left at this precision
            trial = torch.where(bad[:, None, None], theta, trial)
            trial_loss, trial_gradient, _ = problem.value(trial, penalty)
        s, y = trial - theta, trial_gradient - gradient
        product = _dot(s, y)
        usable = product > noise * _dot(y, y * inverse).sqrt() * _dot(s, s / inverse).sqrt()
        rho = torch.where(usable, 1 / torch.where(usable, product, 1.0), 0.0).to(theta)
        history = [*history[-(_MEMORY - 1) :], (s, y, rho)]
        theta, loss, gradient = trial, trial_loss, trial_gradient
    return _Minimum(theta, iteration, float(gradient.abs().max()), bool((left <= tolerance).all()))


def _two_loop(
    gradient: Tensor, inverse: Tensor, history: list[tuple[Tensor, Tensor, Tensor]]
) -> Tensor:
    """Apply the inverse Hessian as L-BFGS knows it, problem by problem."""
    q = gradient
    steps = []
    for s, y, rho in reversed(history):
        alpha = rho * _dot(s, q).to(rho)
        q = q - alpha[:, None, None] * y
        steps.append(alpha)
    if history:
        _, y, rho = history[-1]
        # Scale of the newest pair, measured in the preconditioner's metric.
        curvature = _dot(y, y * inverse).to(rho) * rho
        gamma = torch.where(curvature > 0, 1 / curvature.clamp_min(1e-30), 1.0)
        r = q * inverse * gamma[:, None, None]
    else:
        r = q * inverse
    for (s, y, rho), alpha in zip(history, reversed(steps), strict=True):
        beta = rho * _dot(y, r).to(rho)
        r = r + (alpha - beta)[:, None, None] * s
    return r


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each problem in float64, [B]."""
    return (
        (a * b).double().sum((1, 2))
        if a.dtype == torch.float64
        else (a * b).sum((1, 2), dtype=torch.float64)
    )


# ---------------------------------------------------------------------- the choice of penalty


@dataclass(frozen=True)
class _Search:
    grid: tuple[float, ...]
    accuracy: tuple[float, ...]
    accuracy_error: tuple[float, ...]
    log_loss: tuple[float, ...]
    log_loss_error: tuple[float, ...]
    chosen: int
    held_out: npt.NDArray[np.float32]
    start: Tensor
    folds: int


def _search(
    points: Tensor,
    target: Tensor,
    classes: int,
    weights: Floats,
    judged: Floats,
    fold: npt.NDArray[np.int64],
    grid: tuple[float, ...],
    select: Literal["log-loss", "accuracy"],
    progress: Callable[[int, int], None] | None,
) -> _Search:
    """Solve every fold along the path of penalties and compare what they say of unseen samples.

    `weights` are those of the rows in the loss, `judged` those in the comparison.
    """
    folds = int(fold.max()) + 1
    seen = np.stack([weights * (fold != number) for number in range(folds)])
    problem = _Problem(points, target, classes, _on(seen, points))
    rows = torch.arange(len(target), device=points.device)
    own = torch.from_numpy(fold).to(points.device)
    theta = problem.zeros()
    scores: list[tuple[float, float, float, float]] = []
    best: tuple[float, int, Tensor, Tensor] | None = None
    for position, c in enumerate(grid):
        theta = _minimise(problem, theta, c, CV_TOLERANCE, 100).theta
        held_out = problem.log_probabilities(theta)[rows, own]
        picked = held_out[rows, target].double().cpu().numpy()
        right = (held_out.argmax(1) == target).double().cpu().numpy()
        accuracy, accuracy_error = _mean(right, judged)
        # A class that a fold never saw has no probability there: bounded, so that it cannot decide.
        loss, loss_error = _mean(np.minimum(-picked, 20.0), judged)
        scores.append((accuracy, accuracy_error, loss, loss_error))
        key = loss if select == "log-loss" else -accuracy
        if best is None or key < best[0]:
            best = (key, position, held_out, theta.mean(0, keepdim=True))
        if progress is not None:
            progress(position + 1, len(grid))
        lowest = min(row[2] for row in scores)
        if loss > 1.1 * lowest + 2 * loss_error and position >= best[1] + 2:
            break
    assert best is not None
    if progress is not None:
        progress(len(grid), len(grid))
    accuracies, accuracy_errors, losses, loss_errors = zip(*scores, strict=True)
    return _Search(
        grid=tuple(grid[: len(scores)]),
        accuracy=accuracies,
        accuracy_error=accuracy_errors,
        log_loss=losses,
        log_loss_error=loss_errors,
        chosen=best[1],
        held_out=best[2].cpu().numpy().astype(np.float32),
        start=best[3],
        folds=folds,
    )


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
