"""`--calibrate DATA`: one number by which scores are divided, so that probabilities are honest.

Guo et al., "On calibration of modern neural networks" (arXiv 1706.04599): the temperature at which
the answers of data that nothing was learnt from are least surprising. No class changes by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon import intake
from surgeon.answering import Running
from surgeon.errors import DataError, UsageError
from surgeon.exporting.samples import some
from surgeon.graph import envelope

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from surgeon.exporting.given import Given

KEY = "surgeon.temperature"
"""Metadata of a file whose scores are divided."""
MOST = 5000
"""Samples that it is measured on."""
LEAST = 10
BOUNDS = (0.05, 20.0)


def measured(given: Given, data: Any) -> float:
    """Return the temperature at which the answers of labelled data have the least loss.

    Raises:
        UsageError: a sample has an answer for each of its places.
        DataError: too few samples.
    """
    from scipy.optimize import minimize_scalar

    opened = intake.open_labelled(
        given.model, data, given.asked, progress=None, plugins=given.plugins
    )
    if opened.task.keeps:
        raise UsageError(
            f"answers of the task {opened.task_name!r} are one for each place of a sample",
            where="--calibrate",
            remedy="leave it out",
        )
    answered = opened.targets.answered
    running = Running(opened, None, np.sort(answered[some(len(answered), MOST)]))
    parts = list(running)
    if sum(len(rows) for rows, _ in parts) < LEAST:
        raise DataError(
            f"fewer than {LEAST} samples can be judged",
            where="--calibrate",
            remedy="give a hundred or more that the file was not trained on",
        )
    scores = np.concatenate([raw for _, raw in parts])
    values = opened.targets[np.concatenate([rows for rows, _ in parts])].values

    def loss(logarithm: float) -> float:
        return _loss(scores / np.exp(logarithm), values)

    found = minimize_scalar(loss, bounds=tuple(np.log(BOUNDS)), method="bounded")
    return float(np.float32(np.exp(found.x)))


def _loss(scores: NDArray[np.float64], values: NDArray[Any]) -> float:
    """Return the mean of minus the logarithm of what is right: of classes, or of labels [n, k]."""
    if values.ndim == 1:
        known = (values >= 0) & (values < scores.shape[1])
        chosen = scores[known, values[known]]
        return float(np.mean(np.logaddexp.reduce(scores[known], axis=1) - chosen))
    known = ~np.isnan(values)
    signed = np.where(values[known] == 1, -scores[known], scores[known])
    return float(np.mean(np.logaddexp(0, signed)))


def move_thresholds(made: onnx.ModelProto, temperature: float) -> None:
    """Let stored thresholds of labels mean the same scores as before, in place."""
    stored = envelope.get(made, envelope.DECODING)
    found = (stored or {}).get("thresholds")
    if not isinstance(found, dict):
        return
    moved = {}
    for name, value in found.items():
        at = min(max(float(value), 1e-12), 1 - 1e-12)
        moved[name] = float(1 / (1 + np.exp(-np.log(at / (1 - at)) / temperature)))
    envelope.put(made, envelope.DECODING, {**stored, "thresholds": moved})
