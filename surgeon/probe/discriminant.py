"""A linear head without samples: from mean and count of each class, and one shared covariance.

Linear discriminant analysis, calibrated. What is known of two sets of classes adds up, so that
classes whose samples are gone stand beside new ones. What must not enter: files, graphs, torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.data.splits import deal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Ints = NDArray[np.int64]

SHRINKAGE = 0.5
"""Share of the diagonal in the covariance; `benchmarks/extend.py` finds 0.3 to 0.7 about alike."""
TEMPERATURES = tuple(float(2.0**step) for step in np.arange(-7, 0.1, 0.25))
"""Factors of the scores that are tried: with few samples a covariance promises too much."""
FOLDS = 5
_CHUNK = 4096


@dataclass(frozen=True)
class Moments:
    """What is known of the features of some classes.

    Attributes:
        counts: samples of each class, [classes].
        means: of each class, [classes, features]; zeros where it has no sample.
        scatter: Σ (x − mean of its class)(x − mean of its class)ᵀ over all samples, [features,
            features]; over their number it is the covariance within classes.
    """

    counts: NDArray[np.float64]
    means: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @classmethod
    def of(cls, features: Floats, codes: Ints, classes: int) -> Moments:
        """Return those of samples: features [n, d], class of each [n]."""
        counts = np.bincount(codes, minlength=classes).astype(np.float64)
        width = features.shape[1]
        means, scatter = np.zeros((classes, width)), np.zeros((width, width))
        for rows in _chunks(len(codes)):
            np.add.at(means, codes[rows], features[rows].astype(np.float64))
        means /= np.maximum(counts, 1)[:, None]
        for rows in _chunks(len(codes)):
            apart = features[rows] - means[codes[rows]]
            scatter += apart.T @ apart
        return cls(counts, means, scatter)

    def __add__(self, other: Moments) -> Moments:
        """Return those of the samples of both; a class may have some in each."""
        counts = self.counts + other.counts
        share = (other.counts / np.maximum(counts, 1))[:, None]
        apart = other.means - self.means
        between = (self.counts * share[:, 0])[:, None] * apart
        means = self.means + share * apart
        return Moments(counts, means, self.scatter + other.scatter + between.T @ apart)

    def widened(self, classes: int) -> Moments:
        """Return the same among more classes, which stand behind and have no sample yet."""
        more = classes - len(self.counts)
        return Moments(
            np.pad(self.counts, (0, more)), np.pad(self.means, ((0, more), (0, 0))), self.scatter
        )

    @property
    def spread(self) -> NDArray[np.float64]:
        """Standard deviation of each feature within classes, none below the median of all.

        A feature that hardly moved in few samples would otherwise outweigh the others in new ones.
        """
        found = np.sqrt(np.maximum(np.diag(self.scatter) / self.counts.sum(), 0.0))
        least = max(float(np.median(found)), float(np.finfo(np.float32).tiny))
        return np.asarray(np.maximum(found, least), np.float64)

    def head(self, shrinkage: float = SHRINKAGE) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return weight [classes, features] and bias [classes] of the linear discriminant.

        The covariance is shrunk towards its diagonal, (1 − shrinkage) · covariance + shrinkage ·
        `spread`²; classes weigh by their counts. On features of unit `spread` that is what
        scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr")` makes of the samples themselves.
        """
        total = self.counts.sum()
        covariance = self.scatter * ((1 - shrinkage) / total)
        covariance[np.diag_indices(len(covariance))] += shrinkage * self.spread**2
        weight = np.linalg.solve(covariance, self.means.T).T
        prior = np.log(np.maximum(self.counts, 1e-9) / total)
        return weight, prior - 0.5 * (weight * self.means).sum(axis=1)


@dataclass(frozen=True)
class Discriminant:
    """A head made of moments, and what heads that have not seen them say of the new samples.

    Attributes:
        weight: float32 [classes, features].
        bias: float32 [classes].
        temperature: factor of its scores.
        outside: float64 [n, classes], scores of each new sample by a head made without it.
        moments: of all classes.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    temperature: float
    outside: NDArray[np.float64]
    moments: Moments


def fit(
    known: Moments, features: Floats, codes: Ints, *, seed: int = 0, groups: Ints | None = None
) -> Discriminant:
    """Make a head for classes that are known by moments, and others by samples.

    Scores are scaled so that new samples, judged by heads made without them, have the least loss.

    Args:
        known: of all classes, those of which there are samples only with zeros.
        features: of the samples, [n, d].
        codes: class of each, [n].
        seed: of the folds.
        groups: what each sample belongs to, [n]: no fold tears it apart.
    """
    classes = len(known.counts)
    fold = deal(codes, FOLDS, seed, groups)
    parts = [Moments.of(features[fold == one], codes[fold == one], classes) for one in range(FOLDS)]
    outside = np.zeros((len(codes), classes))
    for one in range(FOLDS):
        rest = sum((part for other, part in enumerate(parts) if other != one), known)
        weight, bias = rest.head()
        outside[fold == one] = features[fold == one] @ weight.T + bias
    everything = sum(parts, known)
    factor = temperature(outside, codes)
    weight, bias = (factor * values for values in everything.head())
    return Discriminant(  # what all classes have in common says nothing, and costs digits
        (weight - weight.mean(axis=0)).astype(np.float32), (bias - bias.mean()).astype(np.float32),
        factor, factor * outside, everything,
    )  # fmt: skip


def temperature(scores: NDArray[np.float64], codes: Ints) -> float:
    """Return the factor of scores with the least loss (temperature scaling, arXiv 1706.04599)."""
    above = scores - scores.max(axis=1, keepdims=True)
    told = above[np.arange(len(codes)), codes]
    losses = [
        float((np.log(np.exp(factor * above).sum(axis=1)) - factor * told).mean())
        for factor in TEMPERATURES
    ]
    return TEMPERATURES[int(np.argmin(losses))]


def _chunks(count: int) -> Sequence[slice]:
    return [slice(first, first + _CHUNK) for first in range(0, count, _CHUNK)]
