"""Maps of features at the pixels of an answer, interpolated as a head's Resize does.

That is linear between places whose centres lie at halves (`half_pixel`), the rim repeated; so it
commutes with whatever is linear over channels. What must not enter: how a head is solved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

_AT_ONCE = 2**22
"""Numbers interpolated at once."""


def between(side: int, wanted: int) -> tuple[Ints, Ints, NDArray[np.float64]]:
    """Return for each of `wanted` places the two of `side` around it, and the second's share."""
    place = (np.arange(wanted) + 0.5) * (side / wanted) - 0.5
    place = place.clip(0, side - 1)
    low = np.floor(place).astype(np.int64)
    return low, np.minimum(low + 1, side - 1), place - low


def at_pixels(
    values: NDArray[Any], rows: Ints, pixels: tuple[Ints, Ints], size: Sequence[int]
) -> NDArray[Any]:
    """Return [m, channels]: features [n, channels, h, w], brought to a size, at some pixels.

    Args:
        values: the maps.
        rows: [m] which of them.
        pixels: [m] where in a picture of that size, from above and from the left.
        size: (height, width).
    """
    made = np.empty((len(rows), values.shape[1]), np.result_type(values.dtype, np.float32))
    sides = [between(*one) for one in zip(values.shape[2:], size, strict=True)]
    step = max(1, _AT_ONCE // values.shape[1])
    for first in range(0, len(rows), step):
        some = slice(first, first + step)
        (top, bottom, down), (left, right, along) = (
            [part[where[some]] for part in side] for side, where in zip(sides, pixels, strict=True)
        )
        made[some] = sum(
            (share * part)[:, None] * values[rows[some], :, y, x]
            for y, share in ((top, 1 - down), (bottom, down))
            for x, part in ((left, 1 - along), (right, along))
        )
    return made


def resized(values: NDArray[Any], size: Sequence[int]) -> NDArray[Any]:
    """Return maps [n, channels, h, w] brought to a size."""
    down, along = (
        _shares(*one).astype(values.dtype) for one in zip(values.shape[2:], size, strict=True)
    )
    made: NDArray[Any] = down @ (values @ along.T)
    return made


def _shares(side: int, wanted: int) -> NDArray[np.float64]:
    """Return [wanted, side]: how much each place has of each."""
    low, high, share = between(side, wanted)
    found = np.zeros((wanted, side))
    np.add.at(found, (np.arange(wanted), low), 1 - share)
    np.add.at(found, (np.arange(wanted), high), share)
    return found


def outputs_of(
    values: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any], size: Sequence[int] = ()
) -> NDArray[Any]:
    """Return what a linear head gives: [n, …, outputs], of maps [n, outputs, *size]."""
    if values.ndim < 4:
        made: NDArray[Any] = values @ weight.T + bias
        return made
    scores = np.moveaxis(np.tensordot(weight, values, (1, 1)), 0, 1)
    return resized(scores + bias[:, None, None], size)
