"""Units of numbers that are learnt: standardised in training, plain in every file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

ROUNDING = 1e-12
"""Spread, relative to the mean, below which a number never moves but by rounding."""


@dataclass(frozen=True)
class Units:
    """Mean and spread of every output, [outputs]; a number that never moves has the spread 0."""

    centre: Floats
    spread: Floats

    @classmethod
    def of(cls, values: NDArray[Any]) -> Units:
        """Take them from numbers [n, outputs] as far as they are known (NaN is not)."""
        values = np.asarray(values, np.float64)
        known = np.isfinite(values)
        count = np.maximum(known.sum(axis=0), 1)
        centre = np.where(known, values, 0.0).sum(axis=0) / count
        spread = np.sqrt((np.where(known, values - centre, 0.0) ** 2).sum(axis=0) / count)
        return cls(centre, np.where(spread > ROUNDING * np.abs(centre), spread, 0.0))

    @property
    def scale(self) -> Floats:
        """What a standardised number is multiplied by: the spread, or 1 where there is none."""
        return np.where(self.spread > 0, self.spread, 1.0)

    def standard(self, values: NDArray[Any]) -> Floats:
        """Return plain numbers [n, outputs] as standardised ones."""
        return np.asarray((values - self.centre) / self.scale, np.float64)

    def plain(self, values: NDArray[Any]) -> Floats:
        """Return standardised numbers [n, outputs] as plain ones."""
        return np.asarray(values * self.scale + self.centre, np.float64)

    def layer(
        self, weight: NDArray[Any], bias: NDArray[Any], *, plain: bool
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the last linear layer so that it gives plain, or standardised, numbers.

        Args:
            weight: [outputs, …] of a layer that gives the others.
            bias: [outputs].
            plain: which of them are wanted.
        """
        scale = self.scale.reshape(-1, *[1] * (weight.ndim - 1))
        if plain:
            found = weight * scale, bias * self.scale + self.centre
        else:
            found = weight / scale, (bias - self.centre) / self.scale
        return found[0].astype(weight.dtype), found[1].astype(bias.dtype)
