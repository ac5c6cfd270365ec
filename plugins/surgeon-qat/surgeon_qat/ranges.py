"""The ranges of values, measured over training samples: what 256 steps shall span.

What must not enter: the graph beyond names of its values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from surgeon.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Feeds = Callable[[int, Sequence[str]], Iterator[dict[str, NDArray[Any]]]]
    Counts = NDArray[np.int64]

BINS = 2048
"""Of a histogram over the whole range of a value."""
STEPS = 255
"""Between the least and the greatest number that 8 bits tell apart."""
TRIED = 50
"""Ranges that are tried for the least error, evenly down to a fifth of the whole."""


class Method(NamedTuple):
    """How a range is found: all there is, the middle per cents, or what leaves the least error."""

    name: Literal["minmax", "percentile", "mse"]
    percentile: float


class Range(NamedTuple):
    """Least and greatest number that steps shall reach."""

    low: float
    high: float


def measure(
    feeds: Feeds, names: Sequence[str], samples: int, method: Method
) -> tuple[dict[str, Range], int]:
    """Return the range of each value, and over how many samples it was found.

    Infinite ones stay infinite: nothing quantises such a value.

    Args:
        feeds: see `surgeon.records.Adapter`.
        names: of the values.
        samples: how many to look at, at most.
        method: how.

    Raises:
        DataError: a value is not a number for a sample, or there are no samples.
    """
    found: dict[str, Range] = {}
    seen = 0
    for one in feeds(samples, names):
        seen += 1
        for name in names:
            if one[name].size:
                mine = _range(one[name], name)
                known = found.get(name, mine)
                found[name] = Range(min(mine.low, known.low), max(mine.high, known.high))
    if not seen:
        raise DataError(
            "there is no training sample to measure ranges on",
            where="--adapter qat",
            remedy="give samples that can be read",
        )
    if method.name == "minmax":
        return found, seen
    wide = {name: one for name, one in found.items() if np.isfinite(one).all()}
    for name, counts in _histograms(feeds, samples, wide).items():
        narrowed = _least_error if method.name == "mse" else _middle
        found[name] = narrowed(wide[name], counts, method.percentile)
    return found, seen


def _range(values: NDArray[Any], name: str) -> Range:
    """Return the range of some values; infinite ones stand for masks, NaN for nothing."""
    found = Range(float(values.min()), float(values.max()))
    if np.isnan(found).any():
        raise DataError(
            f"the value {name!r} is NaN for a training sample, so that it has no range",
            where="--adapter qat",
            remedy="repair the sample or its preprocessing; `surgeon predict` shows which it is",
        )
    return found


def _histograms(feeds: Feeds, samples: int, ranges: Mapping[str, Range]) -> dict[str, Counts]:
    """Return how many numbers fall into each bin of a value's whole range."""
    found = {name: np.zeros(BINS, np.int64) for name in ranges}
    for one in feeds(samples, list(ranges)):
        for name, span in ranges.items():
            found[name] += np.histogram(one[name], BINS, span)[0]
    return found


def _middle(whole: Range, counts: Counts, percentile: float) -> Range:
    """Leave out as much at either end as lies beyond a percentile."""
    beyond = (100 - percentile) / 200
    share, edges = np.cumsum(counts) / counts.sum(), np.linspace(*whole, BINS + 1)
    low, high = (
        int(np.searchsorted(share, end, side))  # type: ignore[call-overload]
        for end, side in ((beyond, "right"), (1 - beyond, "left"))
    )
    return Range(float(edges[low]), float(edges[min(high + 1, BINS)]))


def _least_error(whole: Range, counts: Counts, _: float) -> Range:
    """Clip where rounding and clipping together leave the least squared error."""
    edges = np.linspace(*whole, BINS + 1)
    middle = (edges[:-1] + edges[1:]) / 2
    errors = {}
    for share in np.linspace(1, 0.2, TRIED):
        low, high = share * min(whole.low, 0), share * max(whole.high, 0)
        step = (high - low) / STEPS or 1.0
        near = np.round(middle.clip(low, high) / step) * step
        errors[low, high] = float((counts * (middle - near) ** 2).sum())
    return Range(*min(errors, key=lambda one: errors[one]))
