"""Numbers to predict, as data tell them. What must not enter: what is learnt from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 1e18
"""Numbers whose square is no number in float32 cannot be learnt."""


def read_numbers(column: Any, where: str) -> NDArray[np.float64]:
    """Return numbers [n] or [n, k].

    Raises:
        DataError: what is none, or lists of different lengths; names the first such sample.
    """
    try:
        values = _floats(column)
    except (TypeError, ValueError, OverflowError):
        raise _no_number(column, where) from None
    bad = ~(np.abs(values) <= LARGEST)
    if bad.any():
        rows = np.unique(np.nonzero(bad)[0])
        raise DataError(
            f"{len(rows)} of {len(values)} samples have no number, or one beyond ±{LARGEST:g}: "
            f"{str(column[rows[0]])[:60]}",
            where=f"{where}[{rows[0]}]",
            remedy="give every sample a number, or drop those without one",
        )
    return values


def _no_number(column: Any, where: str) -> DataError:
    """Return the error that names the first sample whose answer is no number."""
    first = None
    for row, value in enumerate(column):
        try:
            size = _floats(value).shape
            first = size if first is None else first
            problem = (
                None if size == first else f"holds {list(size)} numbers, the first {list(first)}"
            )
        except (TypeError, ValueError, OverflowError):
            problem = "is no number" if str(value) not in ("", "None") else "is missing"
        if problem is not None:
            return DataError(
                f"the answer {str(value)[:60]!r} {problem}",
                where=f"{where}[{row}]",
                remedy="give numbers, the right column with --label-column, or another --task",
            )
    return DataError("the answers are no numbers", where=where, remedy="give numbers")


def _floats(given: Any) -> NDArray[np.float64]:
    values = np.asarray(given)
    if values.dtype.kind not in "biufUSO":
        raise TypeError  # dates and complex numbers, among others
    return values.astype(np.float64)
