"""Grades: classes in an order, where a near one is less wrong than a far one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from surgeon.errors import DataError
from surgeon.tasks.base import Scores, Targets
from surgeon.tasks.labels import is_integer, listed
from surgeon_tasks.classification import Classification

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


class Ordinal(Classification):
    """Targets are places of grades [n], answers probabilities [n, grades].

    A head is solved as one of classes; training by steps minimises distances, too.
    """

    quality: ClassVar[str] = "weighted_kappa"
    objective: ClassVar[str] = "surgeon_losses.ordered:Ordered"

    def read(self, column: Any, where: str) -> Targets:
        """Read one whole number per sample; grades that are names have no order."""
        found = super().read(column, where)
        words = [name for name in found.names if not is_integer(name)]
        if words:
            raise DataError(
                f"grades are whole numbers, and {listed(words)} are not",
                where=where,
                remedy="write grades as numbers, the lowest first; --task classification knows no "
                "order",
            )
        return found

    def score(self, parts: Iterable[tuple[NDArray[np.float64], Targets]]) -> Scores:
        """Return Cohen's kappa by squared distances, and the mean distance in grades, too.

        Kappa is 1 − the mean squared distance ÷ that of the same answers given to any sample.
        """
        parts = list(parts)
        told = super().score(parts)
        said = np.concatenate([decoded.argmax(axis=1) for decoded, _ in parts])
        right = np.concatenate([targets.values for _, targets in parts]).astype(np.float64)
        right[np.isnan(told.quality)] = np.nan
        apart = said - right
        known = ~np.isnan(apart)
        chance = said[known].var() + right[known].var() if known.any() else 0.0
        chance += (said[known].mean() - right[known].mean()) ** 2 if known.any() else 0.0
        share = 1 - apart**2 / chance if chance else np.full(len(apart), np.nan)
        kappa = float(np.nanmean(share)) if chance else None
        mae = float(np.nanmean(np.abs(apart))) if known.any() else None
        figures = {**told.figures, "quality": kappa, "weighted_kappa": kappa, "mae": mae}
        return Scores(figures, share, told.loss)
