"""What a classifier's raw output says: probabilities of classes, several labels, or plain values.

A graph that ends in an activation gets no second one; numbers of which nothing says that they are
scores of classes stay the numbers they are. What must not enter: graphs, sessions and files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from surgeon.runtime.metrics import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

ONE = 1e-3
"""How far a row of probabilities may be from a sum of one: float16 and eight-bit files round."""
EVEN = 0.05
"""How far the sums of rows may lie apart for all to be the same total in other units."""


@dataclass(frozen=True)
class Answers:
    """What the rows of an output mean.

    Attributes:
        kind: `classification` (a row is one distribution over classes), `multi-label` (each column
            is the probability of a label of its own), or `values`.
        scores: [n, columns]: probabilities, or the values.
        notes: what people should know.
    """

    kind: Literal["classification", "multi-label", "values"]
    scores: NDArray[np.float64]
    notes: tuple[str, ...] = ()


def decode(
    raw: NDArray[Any], activation: str | None, *, classifier: bool, labels: int | None = None
) -> Answers:
    """Read raw outputs [n, columns].

    Args:
        raw: what the graph gives.
        activation: what it ends in: `Softmax`, `LogSoftmax`, `Sigmoid` or None.
        classifier: whether columns without an activation are scores of classes.
        labels: names the file has, so that one Sigmoid column of two names is the second's.
    """
    values = np.asarray(raw, np.float64)
    columns = values.shape[1]
    if activation == "LogSoftmax":
        return Answers("classification", np.exp(values))
    if activation == "Softmax":
        return _distributions(values)
    if activation == "Sigmoid":
        if not _between(values):
            return _only_values(values, "a Sigmoid")
        if columns == 1 and labels == 2:
            return Answers("classification", np.hstack([1 - values, values]))
        return Answers("multi-label", values)
    if columns > 1 and _sums_to_one(values):
        return Answers("classification", values)
    if columns > 1 and classifier:
        return Answers("classification", softmax(values))
    return Answers("values", values)


def _distributions(values: NDArray[np.float64]) -> Answers:
    if _between(values):
        return Answers("classification", values)
    sums = values.sum(axis=1, keepdims=True)
    if (values >= 0).all() and sums.min() > 0 and np.ptp(sums) <= EVEN * sums.max():
        return Answers("classification", values / sums)  # per cent, or eight-bit integers
    return _only_values(values, "a Softmax")


def _only_values(values: NDArray[np.float64], what: str) -> Answers:
    note = (
        f"what follows {what} in the graph makes numbers outside 0 to 1: they are given as values"
    )
    return Answers("values", values, (note,))


def _between(values: NDArray[np.float64]) -> bool:
    # Not-a-number says nothing about what the graph ends in.
    return bool(((values >= -ONE) & (values <= 1 + ONE) | np.isnan(values)).all())


def _sums_to_one(values: NDArray[np.float64]) -> bool:
    return bool((values >= 0).all() and (np.abs(values.sum(axis=1) - 1) <= ONE).all())
