"""How good predictions are: of classes and labels, of all and of each; strata of samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return probabilities [n, classes] of logits, computed in float64."""
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    exponents = np.exp(shifted)
    result: NDArray[np.float64] = exponents / exponents.sum(axis=1, keepdims=True)
    return result


def score_told(
    predicted: NDArray[np.int64], told: NDArray[Any], codes: NDArray[np.int64]
) -> dict[str, Any]:
    """Return samples, accuracy (the quality, too), macro_f1 (over classes that occur) and loss.

    The loss is in nats per sample.

    Args:
        predicted: [n] the likeliest class.
        told: [n] the probability of each sample's own class.
        codes: [n] the right class.
    """
    scores = [f1 for *_, f1, support in by_class(codes, predicted) if support]
    accuracy = float((predicted == codes).mean())
    return {
        "samples": len(codes),
        "quality": accuracy,
        "accuracy": accuracy,
        "macro_f1": float(np.mean(scores)) if scores else None,
        "loss": float(-np.log(np.clip(told, 1e-12, None)).mean()),
    }


def by_class(
    codes: NDArray[np.int64], predicted: NDArray[np.int64]
) -> list[tuple[int, float | None, float | None, float, int]]:
    """Return (class, precision, recall, F1, support) of every class that occurs or is said."""
    classes = int(max(codes.max(initial=-1), predicted.max(initial=-1))) + 1
    all_hits, all_said, all_support = (
        np.bincount(some, minlength=classes)
        for some in (codes[codes == predicted], predicted, codes)
    )
    rows = []
    for code in np.flatnonzero(all_said + all_support).tolist():
        hits, said, support = int(all_hits[code]), int(all_said[code]), int(all_support[code])
        f1 = 2 * hits / (said + support)
        rows.append(
            (code, hits / said if said else None, hits / support if support else None, f1, support)
        )
    return rows


def average_precision(scores: NDArray[Any], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share of every sample in the average precision of one label, [n]; the sum is it.

    The precision among all samples of at least its score, over the number of positives; 0 for
    negatives. Equal scores are one step, so that their order does not matter. NaN without any
    positive.

    Args:
        scores: [n] more is likelier.
        right: [n] whether the label is there.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.searchsorted(-scores[order], -scores[order], side="right")  # of equal scores
    precision = np.cumsum(right[order])[last - 1] / last
    shares = np.zeros(len(scores))
    shares[order] = np.where(right[order], precision, 0.0)
    positives = int(right.sum())
    return shares / positives if positives else np.full(len(scores), np.nan)


def best_threshold(
    scores: NDArray[np.float64], right: NDArray[np.bool_], fallback: float, few: int
) -> float:
    """Return the threshold of best F1, midway between two scores; of equal ones that nearest 0.5.

    `fallback` where fewer than `few` samples have the label, or lack it.
    """
    positives = int(right.sum())
    if min(positives, len(right) - positives) < few:
        return fallback
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(right[order])
    score = 2 * hits / (np.arange(1, len(ranked) + 1) + positives)
    below = np.append(ranked[1:], 0.0)
    cuts = np.flatnonzero((ranked > below) & (score >= score[ranked > below].max(initial=0.0)))
    middle = (ranked[cuts] + below[cuts]) / 2
    return float(middle[np.abs(middle - 0.5).argmin()]) if len(cuts) else fallback


def f1(said: NDArray[np.bool_], right: NDArray[np.bool_]) -> float | None:
    """Return F1 of one label, or of all together; None where it neither occurs nor is said."""
    total = int(said.sum()) + int(right.sum())
    return 2 * int((said & right).sum()) / total if total else None


DRAWS = 9_999
"""Random signs that a difference is compared with."""
MANY = 20_000
"""Samples from which on means are as good as normal."""
RESAMPLED = 2_000
"""Draws of the bootstrap."""
BINS = 15
"""Bins of the calibration error."""
TOP = (1, 2, 3, 5, 10)
"""Numbers of likeliest classes among which the right one is looked for."""


def paired(
    mine: NDArray[np.float64], theirs: NDArray[np.float64], groups: NDArray[np.int64] | None = None
) -> tuple[float | None, float | None, float | None]:
    """Return the mean difference of two qualities of the same samples, its standard error, and p.

    The p-value is two-sided: the share of random signs of the differences that give a mean at least
    as far from zero (Fisher's randomisation test); a normal one of very many. Samples of one group
    count as one observation. None where fewer than two can be compared.

    Args:
        mine: [n] qualities; NaN is left out.
        theirs: [n] of the same samples.
        groups: [n] what belongs together; None = each sample by itself.
    """
    apart = mine - theirs
    known = ~np.isnan(apart)
    n = int(known.sum())
    if groups is None:
        sums = apart[known]
    else:
        place = np.unique(groups[known], return_inverse=True)[1]
        sums = np.bincount(place, apart[known], minlength=0)
    if len(sums) < 2:
        return (float(sums.sum() / n) if n else None), None, None
    difference = float(sums.sum() / n)
    error = float(np.sqrt(len(sums)) * sums.std(ddof=1) / n)
    sums = sums[sums != 0]
    if not len(sums):
        return 0.0, 0.0, 1.0
    if len(sums) > MANY:
        return difference, error, math.erfc(abs(difference) / error / math.sqrt(2))
    random, reached, done = np.random.default_rng(0), 0, 0
    limit = abs(sums.sum()) * (1 - 1e-9)
    while done < DRAWS:
        some = min(DRAWS - done, max(1, 2**22 // len(sums)))
        signs = random.integers(0, 2, (some, len(sums)), np.int8) * 2 - 1
        reached += int((np.abs(signs @ sums) >= limit).sum())
        done += some
    return difference, error, (1 + reached) / (1 + DRAWS)


def interval(
    shares: NDArray[np.float64], groups: NDArray[np.int64] | None = None
) -> list[float] | None:
    """Return [low, high] between which a mean lies with 95 %, by the bootstrap; None of under two.

    The percentiles of the means of samples drawn with replacement (Efron, 1979), groups as a whole;
    of very many a normal one. By a seed, so that the same shares give the same.

    Args:
        shares: [n] of each sample in the mean; NaN is left out.
        groups: [n] what belongs together; None = each sample by itself.
    """
    known = ~np.isnan(shares)
    place = np.arange(int(known.sum()))
    if groups is not None:
        place = np.unique(groups[known], return_inverse=True)[1]
    sums, sizes = np.bincount(place, shares[known]), np.bincount(place)
    n = len(sums)
    if n < 2:
        return None
    mean = float(sums.sum() / sizes.sum())
    if n > MANY:
        error = float(np.sqrt(n) * (sums - mean * sizes).std(ddof=1) / sizes.sum())
        return [mean - 1.96 * error, mean + 1.96 * error]
    random, some = np.random.default_rng(0), max(1, 2**22 // n)
    means = []
    for start in range(0, RESAMPLED, some):
        rows = random.integers(0, n, (min(some, RESAMPLED - start), n))
        means.append(sums[rows].sum(axis=1) / sizes[rows].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975)).tolist()
    return [low, high]


def calibration_error(told: NDArray[Any], right: NDArray[Any]) -> float | None:
    """Return how far probabilities lie from how often they are right, in the mean.

    The expected calibration error of Guo et al. (arXiv 1706.04599): 15 bins of equal width, of each
    the distance of the mean probability and the share that is right, weighted by its samples. None
    of no samples, and of what is no probability.

    Args:
        told: [n] probabilities.
        right: [n] whether what they were told of is so.
    """
    told = np.asarray(told, np.float64)
    if not len(told) or not ((told >= 0) & (told <= 1 + 1e-9)).all():
        return None
    bins = np.minimum((told * BINS).astype(np.int64), BINS - 1)
    apart = np.bincount(bins, told - right)
    return float(np.abs(apart).sum() / len(told))


def brier(told: NDArray[Any], codes: NDArray[np.int64]) -> float | None:
    """Return the mean squared distance of probabilities [n, classes] from the right class, 0 to 2.

    Brier, "Verification of forecasts expressed in terms of probability" (1950). None of none.
    """
    if not len(codes):
        return None
    own = told[np.arange(len(codes)), codes]
    return float((np.einsum("ij,ij->i", told, told) - 2 * own + 1).mean())


def top_k(told: NDArray[Any], codes: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Return how often the right class is among the k likeliest: {k, accuracy}, k below all."""
    own = told[np.arange(len(codes)), codes][:, None]
    place = (told > own).sum(axis=1)  # of equal ones the right one is counted first
    return [
        {"k": k, "accuracy": float((place < k).mean())}
        for k in TOP
        if k < told.shape[1] and len(codes)
    ]
