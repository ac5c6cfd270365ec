"""How good predictions are: accuracy, F1, loss, the confusion matrix, from logits and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


MOST_CONFUSED = 2000
"""Classes up to which a confusion matrix is made: its size grows with their square."""


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return probabilities [n, classes] of logits, computed in float64."""
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    exponents = np.exp(shifted)
    result: NDArray[np.float64] = exponents / exponents.sum(axis=1, keepdims=True)
    return result


def confusion(
    codes: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> list[list[int]]:
    """Return the confusion matrix: row true, column predicted."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (codes, predicted), 1)
    table: list[list[int]] = matrix.tolist()
    return table


def score(probabilities: NDArray[Any], codes: NDArray[np.int64]) -> dict[str, Any]:
    """Return samples, accuracy, macro_f1 (over classes that occur) and loss (nats per sample)."""
    told = probabilities[np.arange(len(codes)), codes]
    return score_told(probabilities.argmax(axis=1), told, codes)


def score_told(
    predicted: NDArray[np.int64], told: NDArray[Any], codes: NDArray[np.int64]
) -> dict[str, Any]:
    """Return what `score` does, of predictions and the probability of each sample's own class."""
    scores = [f1 for *_, f1, support in _classes(codes, predicted) if support]
    return {
        "samples": len(codes),
        "accuracy": float((predicted == codes).mean()),
        "macro_f1": float(np.mean(scores)) if scores else None,
        "loss": float(-np.log(np.clip(told, 1e-12, None)).mean()),
    }


def top5(probabilities: NDArray[Any], codes: NDArray[np.int64]) -> float | None:
    """Return top-5 accuracy, or None with five classes or fewer."""
    if probabilities.shape[1] <= 5:
        return None
    best = np.argpartition(-probabilities, 4, axis=1)[:, :5]
    return float((best == codes[:, None]).any(axis=1).mean())


def per_class(
    labels: Sequence[str], codes: NDArray[np.int64], predicted: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """Return precision, recall, f1 and support of every label; None where they are undefined."""
    found = {
        code: (precision, recall, f1, support)
        for code, precision, recall, f1, support in _classes(codes, predicted)
    }
    rows = []
    for code, label in enumerate(labels):
        precision, recall, f1, support = found.get(code, (None, None, None, 0))
        rows.append(
            {"label": label, "precision": precision, "recall": recall, "f1": f1, "support": support}
        )
    return rows


def _classes(
    codes: NDArray[np.int64], predicted: NDArray[np.int64]
) -> list[tuple[int, float | None, float | None, float, int]]:
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
