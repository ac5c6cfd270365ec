"""Several labels per sample, as data tell them. What must not enter: what is learnt from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import DataError
from surgeon.tasks.labels import label_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def labels_of(value: Any, where: str) -> list[str] | None:
    """Return the labels of one sample; None where they are not known."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str):
        value = [part.strip() for part in value.split("|") if part.strip()]
    if not isinstance(value, list | tuple | set | frozenset):
        value = [value]
    return [label_text(one, where) for one in value]


def rows_of(found: Sequence[list[str] | None]) -> NDArray[np.float64] | None:
    """Return rows of 0 and 1 where lists hold these and no names of labels, else None."""
    told = [one for one in found if one is not None]
    sizes, words = {len(one) for one in told}, {name for one in told for name in one}
    twice = any(len(set(one)) < len(one) for one in told)  # no sample has a label twice
    if len(sizes) != 1 or not twice or not words <= {"0", "1", "True", "False"}:
        return None
    absent = ["nan"] * sizes.pop()
    worth = {"0": 0.0, "1": 1.0, "False": 0.0, "True": 1.0, "nan": np.nan}
    return np.array([[worth[name] for name in one or absent] for one in found])


def cells(given: Any, where: str) -> NDArray[np.float64]:
    """Return cells of 0, 1 and NaN."""
    if isinstance(given, np.ndarray) and given.dtype.kind in "buif":
        values = given.astype(np.float64)
    else:
        words = {"": np.nan, "none": np.nan, "nan": np.nan, "false": 0.0, "true": 1.0}
        words |= {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}
        rows = [one if isinstance(one, list | tuple | np.ndarray) else [one] for one in given]
        told = [[words.get(str(one).strip().lower(), 2.0) for one in row] for row in rows]
        values = np.array(told if isinstance(given, np.ndarray) else [row[0] for row in told])
    bad = ~(np.isnan(values) | (values == 0) | (values == 1))
    if bad.any():
        row = int(np.nonzero(bad)[0][0])
        raise DataError(
            f"{int(bad.sum())} cells are neither 0 nor 1: {str(given[row])[:60]!r}",
            where=f"{where}[{row}]",
            remedy="a label is there (1) or not (0); numbers to predict are --task regression",
        )
    return values
