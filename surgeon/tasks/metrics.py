"""How good predictions of classes are: accuracy, F1 and loss, of all and of each."""

from __future__ import annotations

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
