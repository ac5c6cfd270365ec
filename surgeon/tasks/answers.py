"""What a classifier's raw output says: probabilities of classes, several labels, or plain values.

A graph that ends in an activation gets no second one; numbers of which nothing says that they are
scores of classes stay the numbers they are. What must not enter: graphs, sessions and files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.tasks.base import Decoded
from surgeon.tasks.metrics import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

ONE = 1e-3
"""How far a row of probabilities may be from a sum of one: float16 and eight-bit files round."""
EVEN = 0.05
"""How far the sums of rows may lie apart for all to be the same total in other units."""


def decode(
    raw: NDArray[Any], activation: str | None, *, classifier: bool, labels: int | None = None
) -> Decoded:
    """Read raw outputs [n, columns].

    What is no distribution over classes is told by the task that tells such answers.

    Args:
        raw: what the graph gives.
        activation: what it ends in: `Softmax`, `LogSoftmax`, `Sigmoid`, `Identity` where they are
            surely scores of classes, or None where nobody knows.
        classifier: whether columns without an activation are scores of classes.
        labels: names the file has, so that one Sigmoid column of two names is the second's.
    """
    values = np.asarray(raw, np.float64)
    columns = values.shape[1]
    if activation == "Identity":
        return Decoded("classification", softmax(values))
    if activation == "LogSoftmax":
        return Decoded("classification", np.exp(values))
    if activation == "Softmax":
        return _distributions(values)
    if activation == "Sigmoid":
        if not _between(values):
            return _only_values(values, "a Sigmoid")
        if columns == 1 and labels == 2:
            return Decoded("classification", np.hstack([1 - values, values]))
        return Decoded("multi-label", values, task="multi-label")
    if columns > 1 and _sums_to_one(values):
        return Decoded("classification", values)
    if columns > 1 and classifier:
        return Decoded("classification", softmax(values))
    return Decoded("values", values, task="regression")


def _distributions(values: NDArray[np.float64]) -> Decoded:
    if _between(values):
        return Decoded("classification", values)
    sums = values.sum(axis=1, keepdims=True)
    if (values >= 0).all() and sums.min() > 0 and np.ptp(sums) <= EVEN * sums.max():
        return Decoded("classification", values / sums)  # per cent, or eight-bit integers
    return _only_values(values, "a Softmax")


def _only_values(values: NDArray[np.float64], what: str) -> Decoded:
    note = (
        f"what follows {what} in the graph makes numbers outside 0 to 1: they are given as values"
    )
    return Decoded("values", values, (note,), "regression")


def _between(values: NDArray[np.float64]) -> bool:
    # Not-a-number says nothing about what the graph ends in.
    return bool(((values >= -ONE) & (values <= 1 + ONE) | np.isnan(values)).all())


def _sums_to_one(values: NDArray[np.float64]) -> bool:
    return bool((values >= 0).all() and (np.abs(values.sum(axis=1) - 1) <= ONE).all())
