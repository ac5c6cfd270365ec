"""Figures that tell how good answers are: their names, and how they are written for people."""

from __future__ import annotations

SHARES = frozenset(
    (
        "accuracy", "macro_f1", "average_precision", "micro_f1", "subset_accuracy", "span_f1",
        "miou", "pixel_accuracy", "recall_at_1", "map_at_10", "label_accuracy", "top5",
        "calibration_error",
    )
)  # fmt: skip
"""Those of the contract that lie between 0 and 1 and are read as per cent."""

_SAID = {
    "r2": "R²", "mae": "MAE", "rmse": "RMSE", "miou": "mIoU", "map_at_10": "mAP at 10",
    "macro_f1": "macro F1", "micro_f1": "micro F1", "span_f1": "span F1", "top5": "top 5",
}  # fmt: skip


def written(name: str, value: float | None) -> str:
    """Write a figure: a share as per cent, `93.1 %`; another number with four digits."""
    if value is None:
        return f"an unknown {said(name)}"
    return f"{100 * value:.1f} %" if name in SHARES else f"{value:.4g}"


def gained(name: str, value: float, error: float) -> str:
    """Write a difference with its standard error: `+1.2 ± 0.4 points` of a share."""
    if name in SHARES:
        return f"{100 * value:+.1f} ± {100 * error:.1f} points"
    return f"{value:+.3g} ± {error:.2g}"


def known(name: str, value: float, error: float) -> str:
    """Write a figure with its standard error: `93.1 ± 0.4 %`."""
    if name in SHARES:
        return f"{100 * value:.1f} ± {100 * error:.1f} %"
    return f"{value:.3g} ± {error:.2g}"


def error_of(name: str, error: float) -> str:
    """Write a standard error beside a figure."""
    return f"± {100 * error:.1f}" if name in SHARES else f"± {error:.2g}"


def said(name: str) -> str:
    """Return the name of a figure as people read it."""
    return _SAID.get(name, name.replace("_", " "))
