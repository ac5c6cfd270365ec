"""Which samples train, which judge: stratified splits and folds, decided by the seed alone.

The parts of each class are given by largest remainders, so that every class keeps its share and
always has a sample to train on. What must not enter: training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

TEST_FROM = 500  # with at least so many samples a third, untouched split is made
TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Splits:
    """Indices of samples, each ascending int64.

    Attributes:
        train: what is trained on; holds every class.
        validation: what is chosen by.
        test: what nothing is decided by, or None where there are too few samples.
        cross: True where there are too few samples for a test split and the data does not bring
            its own: report by cross-validation (`folds`).
        given: whether validation is the data's own (a path, a folder, `split`), and not a part that
            was taken from what could be trained on.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64] | None
    cross: bool
    given: bool = False


def split(
    codes: NDArray[np.int64],
    *,
    fraction: float = 0.2,
    seed: int = 0,
    given: NDArray[np.str_] | Sequence[str] | None = None,
    usable: NDArray[np.bool_] | None = None,
    classes: Sequence[str] | None = None,
    hold_test: bool | None = None,
) -> Splits:
    """Divide samples into train, validation and test, stratified.

    Args:
        codes: class of each sample, [n].
        fraction: share of all samples that validates, where the data brings no validation.
        seed: decides, with `codes`, everything.
        given: the data's own `split` [n]; it wins. Train, validation and test not in it are taken
            from its training samples: validation always; test only if `hold_test`.
        usable: samples to divide, [n]; the others (unreadable ones) are in no part.
        classes: names for messages.
        hold_test: whether to take a test split; None = from 500 samples on, if `given` is None.

    Raises:
        UsageError: `fraction` is not within 0..1 (exclusive).
        DataError: a class without a sample to train on, or an empty part.
    """
    if not 0 < fraction < 1:
        message = f"the validation fraction is {fraction}"
        raise UsageError(message, where="--validation", remedy="give a number between 0 and 1")
    codes = np.asarray(codes, np.int64)
    mask = np.ones(len(codes), bool) if usable is None else np.asarray(usable, bool)
    total = int(mask.sum())
    if hold_test is None:
        hold_test = given is None and total >= TEST_FROM
    parts = np.full(len(codes), "train", "<U10") if given is None else np.asarray(given, "<U10")
    parts = np.where(mask, parts, "")
    random = np.random.default_rng(seed)
    if hold_test and not (parts == "test").any():
        _move(parts, codes, "test", round(total * TEST_FRACTION), random)
    own = bool((parts == "validation").any())
    if not own:
        _move(parts, codes, "validation", round(total * fraction), random)
    train, validation, test = (
        np.flatnonzero(parts == name) for name in ("train", "validation", "test")
    )
    _check(codes, mask, train, validation, classes)
    return Splits(
        train, validation, test if len(test) else None, given is None and not len(test), own
    )


def folds(
    codes: NDArray[np.int64], k: int = 5, seed: int = 0
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return `k` stratified pairs (train, held out) of positions into `codes`.

    `k` falls to the size of the smallest class, so that each fold trains on every class.

    Raises:
        DataError: a class with a single sample.
    """
    _, counts = np.unique(codes, return_counts=True)
    k = int(min(k, counts.min())) if len(counts) else 0
    if k < 2:
        message = "a class has a single sample: nothing is left to judge it by"
        raise DataError(message, remedy="give at least two samples of each class")
    random = np.random.default_rng(seed)
    fold = np.empty(len(codes), np.int64)
    start = 0
    for _, rows in by_class(codes):
        members = random.permutation(rows)
        # Each class starts where the last one ended, so that the folds are of equal size.
        fold[members] = (start + np.arange(len(members))) % k
        start += len(members)
    return [(np.flatnonzero(fold != part), np.flatnonzero(fold == part)) for part in range(k)]


def by_class(codes: NDArray[np.integer[Any]]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each class that occurs, ascending, and its positions in `codes`, ascending."""
    if not len(codes):
        return
    order = np.argsort(codes, kind="stable")
    present, starts = np.unique(codes[order], return_index=True)
    yield from zip(present.tolist(), np.split(order, starts[1:]), strict=True)


def _move(
    parts: NDArray[np.str_],
    codes: NDArray[np.int64],
    name: str,
    count: int,
    random: np.random.Generator,
) -> None:
    """Move `count` training samples into another part, each class by its share."""
    train = np.flatnonzero(parts == "train")
    if not len(train):
        return
    present, sizes = np.unique(codes[train], return_counts=True)
    quota = sizes * min(1.0, max(1, count) / len(train))
    # One sample of each class stays in train, whatever the quota says.
    taken = np.minimum(np.floor(quota).astype(np.int64), sizes - 1)
    rest = max(1, count) - int(taken.sum())
    for position in np.lexsort((random.random(len(present)), taken - quota)):
        if rest > 0 and taken[position] < sizes[position] - 1:
            taken[position] += 1
            rest -= 1
    for (_, rows), amount in zip(by_class(codes[train]), taken, strict=True):
        parts[random.permutation(train[rows])[:amount]] = name


def _check(
    codes: NDArray[np.int64],
    mask: NDArray[np.bool_],
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    classes: Sequence[str] | None,
) -> None:
    missing = sorted(set(codes[mask].tolist()) - set(codes[train].tolist()))
    if missing:
        named = ", ".join(repr(classes[code]) if classes else str(code) for code in missing[:5])
        message = f"{len(missing)} classes have no sample to train on: {named}"
        raise DataError(message, remedy="put samples of every class into the training split")
    if not len(validation):
        message = "no sample is left for validation"
        raise DataError(message, remedy="give more samples, or --validation PATH")
