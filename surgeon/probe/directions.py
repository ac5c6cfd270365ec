"""Vectors without steps: directions in which samples of one class are alike, and classes differ.

Fisher's linear discriminant with a shrunk covariance within classes. How much it is shrunk is
chosen by what directions say of samples, where there are enough of them of classes, that they have
not seen. What must not enter: a graph, a file, and what makes vectors good (a task says that).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surgeon.data.splits import deal
from surgeon.errors import DataError
from surgeon.probe.basis import Basis
from surgeon.probe.discriminant import Moments
from surgeon.probe.solver import HeadSolution

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Ints = NDArray[np.int64]
    Worth = Callable[[Floats, Ints], float | None]

SHRINKAGES = (0.9, 0.7, 0.5, 0.3, 0.1)
"""Shares of the scaled identity in the covariance within classes, strongest first."""
FILLED = (1.0, 0.3, 0.1)
"""Lengths of directions that tell no classes apart, where there are more outputs than others."""
FOLDS = 5
FALLBACK = (0.9, 1.0)
"""Where there are too few samples to compare."""
MOST_AXES = 2048
"""Of the features' principal axes, from so many samples: beyond, eigenvectors take minutes."""
MOST_JUDGED = 4096
"""Samples of a fold that are compared with each other."""
_CHUNK = 4096


@dataclass(frozen=True)
class Axes:
    """What directions are made of: the covariance within classes on its own axes, and the means.

    Attributes:
        values: variances, ascending, [r].
        axes: orthonormal columns, [r, r].
        apart: means of classes less the mean of all, by the square root of their share, [c, r].
        mean: of all samples, [r].
        level: variance of the identity that the covariance is shrunk towards.
    """

    values: NDArray[np.float64]
    axes: NDArray[np.float64]
    apart: NDArray[np.float64]
    mean: NDArray[np.float64]
    level: float

    @classmethod
    def of(cls, points: Floats, codes: Ints, width: int) -> Axes:
        """Return those of samples: points [n, r] of `width` features that vary, classes [n]."""
        moments = Moments.of(points, *_numbered(codes))
        share = moments.counts / moments.counts.sum()
        mean = share @ moments.means
        apart = np.sqrt(share)[:, None] * (moments.means - mean)
        if len(apart) > apart.shape[1]:
            apart = np.linalg.qr(apart, mode="r")
        values, axes = np.linalg.eigh(moments.scatter / moments.counts.sum())
        values = np.maximum(values, 0.0)
        within, between = float(values.sum()), float((apart**2).sum())
        # Classes of one sample, or of copies, say nothing of how samples of one class differ.
        level = within if within > 1e-9 * between else between
        return cls(values, axes, apart, mean, level / max(width, 1))

    def directions(self, outputs: int, shrinkage: float, filled: float) -> NDArray[np.float64]:
        """Return weight [outputs, r]: those that tell classes apart best stand in front.

        Each has the (shrunk) variance 1 within classes. Behind the last that tells classes apart
        come the widest axes within classes, made orthogonal, of length `filled`; then zeros.
        """
        shrunk = (1 - shrinkage) * self.values + shrinkage * self.level
        white = self.axes / np.sqrt(shrunk)
        _, strength, found = np.linalg.svd(self.apart @ white, full_matrices=False)
        found = found[: min(outputs, int((strength > 1e-6 * strength[0]).sum()))]
        if (own := len(found)) < outputs:
            widest = np.eye(len(shrunk))[::-1][:outputs]
            whole = np.linalg.qr(np.concatenate([found, widest]).T)[0].T
            found = np.concatenate([found, filled * whole[own:outputs]])
        weight = found @ white.T
        return np.pad(weight, ((0, outputs - len(weight)), (0, 0)))

    def say(self, points: Floats, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the vectors [n, outputs] of points."""
        return np.asarray((points - self.mean) @ weight.T, np.float64)


def solve(
    features: Floats,
    codes: Ints,
    outputs: int,
    *,
    worth: Worth,
    views_of: Ints | None = None,
    groups: Ints | None = None,
    held: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> HeadSolution:
    """Find the directions of samples; the bias brings their mean to zero.

    With four classes or more, folds keep classes whole, so that vectors are judged by classes that
    the directions have not seen; with fewer, or where a group has samples of several classes, they
    keep groups whole. Samples of a fold are compared with each other.

    Args:
        features: [n, d].
        codes: class of each, [n].
        outputs: of the head.
        worth: says how good vectors [k, outputs] of rows [k] are; more is better, None = nobody
            knows.
        views_of: [n] sample that each row is a view of; the first row is the sample as it is.
        groups: [n] what each row belongs to: no fold tears it apart, unless it keeps classes whole.
        held: [n] rows that choose nothing and are judged by directions that have not seen them. The
            result is of all.
        seed: of the folds.

    Raises:
        DataError: features that are all alike or not finite, or a single class.
    """
    if features.ndim != 2 or len(features) != len(codes) or not features.size:
        raise DataError(
            f"features of shape {features.shape} and {len(codes)} classes do not fit",
            where="features",
            remedy="give features [n, d] and a class of each",
        )
    if len(np.unique(codes)) < 2:
        raise DataError(
            f"all {len(codes)} training samples are of the same class",
            where="labels",
            remedy="train on samples of at least two classes",
        )
    basis, points = _points(features, seed)
    width = int((basis.scale > 0).sum())
    if not width:
        raise DataError(
            f"features are the same for all {len(features)} samples",
            where="features",
            remedy="check the preprocessing, or cut at another value",
        )
    seen = np.ones(len(codes), np.bool_) if held is None else ~held
    sample = np.arange(len(codes)) if views_of is None else views_of
    kin = sample if groups is None and views_of is not None else groups
    first = np.zeros(len(codes), np.bool_)
    first[np.unique(sample, return_index=True)[1]] = True
    data = _Samples(points, codes, width, seen, first, outputs)
    (shrinkage, filled), qualities, folds = _chosen(data, kin, worth, seed)
    axes = Axes.of(points, codes, width)
    weight, bias = _in_features(basis, axes, axes.directions(outputs, shrinkage, filled))
    outside = np.full((len(codes), outputs), np.nan)
    if held is not None and len(np.unique(codes[seen])) > 1:
        own = Axes.of(points[seen], codes[seen], width)
        outside[held] = own.say(points[held], own.directions(outputs, shrinkage, filled))
    return HeadSolution(
        weight=weight, bias=bias, regularisation=shrinkage, grid=SHRINKAGES,
        cv_quality=qualities, cv_quality_error=(), cv_loss=(), cv_loss_error=(),
        out_of_fold=outside, out_of_fold_loss=np.full(len(codes), np.nan), folds=folds,
        iterations=1, gradient_norm=0.0, converged=True,
    )  # fmt: skip


@dataclass(frozen=True)
class _Samples:
    """What directions are made of and chosen by; `first` rows are samples as they are, no views."""

    points: Floats
    codes: Ints
    width: int
    seen: NDArray[np.bool_]
    first: NDArray[np.bool_]
    outputs: int


def _points(features: Floats, seed: int) -> tuple[Basis, NDArray[np.floating[Any]]]:
    """Return features standardised, on their principal axes: some, where there are very many."""
    n, d = features.shape
    cpu = torch.device("cpu")
    if min(n, d) <= MOST_AXES:
        basis = Basis.of(features, cpu)
        return basis, (basis.points if basis.exact is None else basis.exact).numpy()
    some = np.sort(np.random.default_rng(seed).choice(n, MOST_AXES, replace=False))
    basis = Basis.of(features[some], cpu)
    assert basis.axes is not None
    mean, scale = basis.mean.numpy(), basis.scale.numpy()
    turned = (scale[:, None] * basis.axes.numpy()).astype(np.float32)
    points = np.empty((n, turned.shape[1]), np.float32)
    for begin in range(0, n, _CHUNK):
        rows = slice(begin, begin + _CHUNK)
        points[rows] = (features[rows] - mean).astype(np.float32) @ turned
    if not np.isfinite(points).all():
        raise DataError(
            "features hold NaN or infinity",
            where="features",
            remedy="check the preprocessing; a float16 model may overflow on these samples",
        )
    return basis, points


def _chosen(
    data: _Samples, groups: Ints | None, worth: Worth, seed: int
) -> tuple[tuple[float, float], tuple[float, ...], int]:
    """Choose how much is shrunk, and how long other directions are, by folds of `seen` rows.

    Returns:
        Both, the quality of each shrinkage at that length, and how many folds compared them.
    """
    rows = np.flatnonzero(data.seen)
    fold = np.full(len(data.codes), -1)
    fold[rows] = _folds(data.codes[rows], None if groups is None else groups[rows], seed)
    fills = data.outputs >= len(np.unique(data.codes[rows]))
    settings = list(itertools.product(FILLED if fills else FILLED[:1], SHRINKAGES))
    totals, judged, folds = np.zeros(len(settings)), 0, 0
    for one in range(int(fold.max()) + 1):
        rest = np.flatnonzero(data.seen & (fold != one))
        some = _judged(data, np.flatnonzero((fold == one) & data.first), seed)
        if len(np.unique(data.codes[rest])) < 2 or len(some) < 2:
            continue
        axes = Axes.of(data.points[rest], data.codes[rest], data.width)
        told = [
            worth(axes.say(data.points[some], axes.directions(data.outputs, s, filled)), some)
            for filled, s in settings
        ]
        known = [one for one in told if one is not None]
        if len(known) == len(told):
            totals += len(some) * np.array(known)
            judged, folds = judged + len(some), folds + 1
    if not folds:
        return FALLBACK, (), 0
    filled, shrinkage = settings[int(totals.argmax())]
    at = [place for place, one in enumerate(settings) if one[0] == filled]
    return (shrinkage, filled), tuple((totals[at] / judged).tolist()), folds


def _folds(codes: Ints, groups: Ints | None, seed: int) -> Ints:
    """Return the fold of each sample: classes whole, if there are enough and groups allow it.

    A fold has two classes, or else, of a class of usual size, two samples.
    """
    places, classes = _numbered(codes)
    pairs = 0 if groups is None else np.unique(np.stack([groups, codes]), axis=1).shape[1]
    if classes >= 4 and (groups is None or pairs == len(np.unique(groups))):
        return deal(np.zeros(len(codes), np.int64), min(FOLDS, classes // 2), seed, places)
    usual = int(np.median(np.bincount(places)))
    return deal(codes, min(FOLDS, max(2, usual // 2)), seed, groups)


def _judged(data: _Samples, rows: Ints, seed: int) -> Ints:
    """Return rows that are compared with each other: whole classes, up to `MOST_JUDGED`."""
    if len(rows) <= MOST_JUDGED:
        return rows
    places, classes = _numbered(data.codes[rows])
    order = np.random.default_rng(seed).permutation(classes)[places]
    return np.sort(rows[np.argsort(order, kind="stable")[:MOST_JUDGED]])


def _in_features(
    basis: Basis, axes: Axes, weight: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weight and bias for features, as long as drawn weights are: steps may follow.

    Only directions of vectors count, so that one factor for all changes nothing.

    Raises:
        DataError: they do not fit into float32.
    """
    there = weight if basis.axes is None else weight @ basis.axes.numpy().T
    rows = np.linalg.norm(there * basis.scale.numpy(), axis=1)
    factor = max(1 / (np.sqrt(3) * rows[rows > 0].mean()), 1 / np.sqrt(len(weight)))
    theta = factor * np.column_stack([weight, -weight @ axes.mean])
    found = basis.fold_back(torch.from_numpy(theta), None)
    if not all(np.isfinite(one).all() for one in found):
        raise DataError(
            "the directions do not fit into float32: the features' scale is too small",
            where="features",
            remedy="rescale the features, or cut at another value",
        )
    return found


def _numbered(codes: Ints) -> tuple[Ints, int]:
    """Return codes from 0 on without gaps, and how many there are."""
    present, places = np.unique(codes, return_inverse=True)
    return places.astype(np.int64), len(present)
