"""What tasks have in common whose answers are one class per place: tokens of a text, pixels.

What must not enter: what the places are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from surgeon.errors import DataError
from surgeon.tasks.base import Targets, TaskCode
from surgeon.tasks.labels import listed, sort_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from surgeon.tasks.base import Ints

NONE = -100
"""Code of a place whose class is not told."""


def told(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return [n] whether a sample has any place whose class is told."""
    return np.asarray((values >= 0).any(axis=tuple(range(1, values.ndim))), np.bool_)


def with_known(values: NDArray[Any], names: Sequence[str], groups: Any = None) -> Targets:
    """Return targets; samples without any class told are not known."""
    known = told(values)
    return Targets(values, tuple(names), None if known.all() else known, groups)


def check_places(targets: Targets, what: str) -> None:
    """Refuse what nothing can be learnt from: no sample, no class that is told, one class only.

    Raises:
        DataError: says which.
    """
    if not len(targets):
        raise DataError("there is no sample to train on", remedy="give data with labelled samples")
    codes = np.unique(targets.values[targets.values >= 0])
    if not len(codes):
        raise DataError(f"no {what} of any sample has a label", remedy=f"label some {what}s")
    if len(codes) == 1:
        raise DataError(
            f"every {what} has the same label {targets.names[codes[0]]!r}",
            remedy=f"give {what}s of at least two labels",
        )


def occurring(targets: Targets) -> NDArray[np.bool_]:
    """Return [n, names] whether a class occurs in a sample."""
    there = np.zeros((len(targets), len(targets.names)), np.bool_)
    place = np.nonzero(targets.values >= 0)
    there[place[0], targets.values[place]] = True
    return there


def rarest(targets: Targets) -> NDArray[np.int64]:
    """Return the class of each sample that the fewest have; one more code for those without any."""
    there = occurring(targets)
    order = np.argsort(there.sum(axis=0), kind="stable")
    codes = np.where(there.any(axis=1), there[:, order].argmax(axis=1), len(order))
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)


def onto_places(targets: Targets, names: Sequence[str], what: str, *, ignore: bool) -> Targets:
    """Map classes to the places of their names among those of a file.

    Args:
        targets: of the data.
        names: of the file.
        what: the places are called.
        ignore: whether a class that the file lacks is as good as none.

    Raises:
        DataError: classes that the file lacks, unless `ignore`; or none that it knows.
    """
    place = {name: code for code, name in enumerate(names)}
    table = np.array([*(place.get(name, NONE) for name in targets.names), NONE], np.int64)
    values = table[np.where(targets.values < 0, len(targets.names), targets.values)]
    counts = np.bincount(targets.values[targets.values >= 0], minlength=len(targets.names))
    if not counts.any():
        raise DataError(f"no {what} of any sample has a label", remedy=f"label some {what}s")
    lacking = [targets.names[code] for code in np.flatnonzero((table[:-1] < 0) & (counts > 0))]
    if lacking and not (ignore and (values >= 0).any()):
        number = int(counts[table[:-1] < 0].sum())
        raise DataError(
            f"{number:,} {what}s have labels the file does not know: "
            f"{listed(sort_labels(lacking))}",
            remedy=f"it knows {listed(list(names))}; --ignore-unknown passes over the others",
        )
    return with_known(values.astype(targets.values.dtype), names, targets.groups)


def distributions(raw: NDArray[Any], activation: str | None, axis: int) -> NDArray[np.float64]:
    """Return probabilities over the classes that lie on an axis; an activation is not repeated."""
    values = np.asarray(raw, np.float64)
    if activation in ("Softmax", "Sigmoid"):
        return values
    if activation == "LogSoftmax":
        return np.exp(values)
    exponents = np.exp(values - values.max(axis=axis, keepdims=True))
    result: NDArray[np.float64] = exponents / exponents.sum(axis=axis, keepdims=True)
    return result


def ratio_of_sums(
    hits: NDArray[Any], sizes: NDArray[Any], judged: NDArray[np.bool_]
) -> tuple[float | None, NDArray[np.float64]]:
    """Return the mean over columns of Σ hits ÷ Σ sizes, and each sample's share in it.

    Shares average to the figure, and spread as it does to first order (linearisation of a ratio
    estimator; Cochran, "Sampling Techniques", 1977, chapter 6), so that figures of whole sets, as
    F1 and intersection over union are, can be compared sample by sample.

    Args:
        hits: [n, columns] counts of each sample.
        sizes: [n, columns] what they are of; a column without any is left out.
        judged: [n] samples that count; the share of the others is NaN.
    """
    shares = np.full(len(hits), np.nan)
    hits, sizes = hits[judged].astype(np.float64), sizes[judged].astype(np.float64)
    used = sizes.sum(axis=0) > 0
    if not used.any():
        return None, shares
    hits, sizes = hits[:, used], sizes[:, used]
    each = hits.sum(axis=0) / sizes.sum(axis=0)
    shares[judged] = each.mean() + ((hits - each * sizes) / sizes.mean(axis=0)).mean(axis=1)
    return float(each.mean()), shares


class Placed(TaskCode):
    """A task of one class per place of a sample.

    Attributes:
        place: what people call one of them.
    """

    place: ClassVar[str]

    def onto(self, targets: Targets, names: Sequence[str], *, ignore_unknown: bool) -> Targets:
        """Map classes to the places of their names; −100 where the file has none."""
        return onto_places(targets, names, self.place, ignore=ignore_unknown)

    def check(self, targets: Targets) -> None:
        """Refuse places that all have the same class, or none."""
        check_places(targets, self.place)

    def outputs(self, targets: Targets) -> int:
        """Return the number of classes."""
        return len(targets.names)

    def counts(self, targets: Targets) -> Ints:
        """Return how many samples each class occurs in."""
        found: Ints = occurring(targets).sum(axis=0)
        return found

    def strata(self, targets: Targets) -> Ints | None:
        """Return the rarest class of each sample, so that training has some of every one."""
        return rarest(targets)
