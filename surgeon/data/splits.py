"""Which samples train, which judge: splits and folds, stratified and grouped, decided by the seed.

The parts of each class are given by largest remainders, so that every class keeps its share and
always has a sample to train on. Samples of one group (a patient, a recording, copies of one
picture) are always on one side: groups of several are placed first, the larger before the smaller,
each where it does least harm to the shares of the classes it holds; samples that are alone then
fill up what is missing. What must not enter: training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.data.examine import copies, together
from surgeon.errors import DataError, UsageError
from surgeon.tasks.labels import code_groups

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from surgeon.data.examine import Group
    from surgeon.data.samples import Samples

    Codes = NDArray[np.integer[Any]]
    Ints = NDArray[np.int64]

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
        groups: code of what each sample of the data belongs to, [n]: folds do not tear it apart,
            either; None = each sample by itself.
    """

    train: Ints
    validation: Ints
    test: Ints | None
    cross: bool
    given: bool = False
    groups: Ints | None = None

    def groups_of(self, rows: Ints) -> Ints | None:
        """Return the groups of some samples, by index; None where there are none."""
        return None if self.groups is None else self.groups[rows]


def split(
    codes: Ints,
    *,
    fraction: float = 0.2,
    seed: int = 0,
    given: NDArray[np.str_] | Sequence[str] | None = None,
    usable: NDArray[np.bool_] | None = None,
    hold_test: bool | None = None,
    groups: Ints | None = None,
    every: bool = True,
) -> Splits:
    """Divide samples into train, validation and test, stratified; no group is torn apart.

    Args:
        codes: class of each sample, [n].
        fraction: share of all samples that validates, where the data brings no validation.
        seed: decides, with `codes` and `groups`, everything.
        given: the data's own `split` [n]; it wins, over groups too. Train, validation and test not
            in it are taken from its training samples: validation always; test only if `hold_test`.
        usable: samples to divide, [n]; the others (unreadable ones) are in no part.
        hold_test: whether to take a test split; None = from 500 samples on, if `given` is None.
        groups: code of what each sample belongs to, [n]; None = each sample by itself. Groups are
            taken whole, so that parts are only about as large as was asked for.
        every: whether each class must have a sample that trains.

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
        _move(parts, codes, groups, "test", round(total * TEST_FRACTION), random)
    own = bool((parts == "validation").any())
    if not own:
        _move(parts, codes, groups, "validation", round(total * fraction), random)
    train, validation, test = (
        np.flatnonzero(parts == name) for name in ("train", "validation", "test")
    )
    if every:
        missing = sorted(set(codes[mask].tolist()) - set(codes[train].tolist()))
        if missing:
            raise DataError(
                f"{len(missing)} classes have no sample to train on: {missing[:5]}",
                remedy="put samples of every class into the training split",
            )
    if not len(train):
        raise DataError(
            "no sample is left to train on", remedy="put samples into the training split"
        )
    if not len(validation):
        message, remedy = "no sample is left for validation", "give more samples"
        if groups is not None:
            count = len(np.unique(groups[mask]))
            message += f": the samples lie in {count} groups, which are taken whole"
            remedy = "give smaller groups, or samples of more of them"
        raise DataError(message, remedy=f"{remedy}, or --validation PATH")
    cross = given is None and not len(test)
    return Splits(train, validation, test if len(test) else None, cross, own, groups)


def split_samples(
    samples: Samples,
    codes: Ints,
    *,
    fraction: float = 0.2,
    seed: int = 0,
    hold_test: bool | None = None,
) -> Splits:
    """Divide samples by what they say of themselves: own split, groups, exact copies.

    The data's groups are never torn apart. Exact copies are kept together, too, unless that leaves
    less than half of what was to judge, or a class unjudged (a finding then names them). That every
    class has a sample that trains is for the caller to see to, who knows whether they are classes.

    Raises:
        DataError: see `split`.
    """
    asked: dict[str, Any] = {
        "fraction": fraction, "seed": seed, "given": samples.split, "every": False,
        "hold_test": hold_test,
    }  # fmt: skip
    own = code_groups(samples.groups)
    sets = copies(samples)
    plain = split(codes, **asked, groups=own)
    if not sets:
        return plain
    try:
        parts = split(codes, **asked, groups=together(sets, own, samples.n))
    except DataError:
        return plain
    pairs = [(parts.validation, plain.validation)]
    if parts.test is not None and plain.test is not None:
        pairs.append((parts.test, plain.test))
    enough = all(
        2 * len(found) >= len(wanted) and set(codes[found].tolist()) >= set(codes[wanted].tolist())
        for found, wanted in pairs
    )
    return parts if enough else plain


def keep_together(parts: Splits, sets: Sequence[Group], n: int) -> Splits:
    """Return the parts of n samples after sets of like ones were found among them.

    Samples that validate by fraction, and are like one that trains, train: what was looked at to
    decide anything stays training. Not where less than half of validation would be left, nor where
    it is the data's own. No fold tears a set apart.
    """
    if not sets:
        return parts
    kept = replace(parts, groups=together(sets, parts.groups, n))
    if parts.given or kept.groups is None:
        return kept
    alike = np.isin(kept.groups[parts.validation], kept.groups[parts.train])
    if not alike.any() or 2 * alike.sum() > len(alike):
        return kept
    train = np.sort(np.concatenate([parts.train, parts.validation[alike]]))
    return replace(kept, train=train, validation=parts.validation[~alike])


# ── folds ────────────────────────────────────────────────────────────────────────────────────────


def folds(
    codes: Codes, k: int = 5, seed: int = 0, groups: Codes | None = None
) -> list[tuple[Ints, Ints]]:
    """Return `k` stratified pairs (train, held out) of positions into `codes`.

    `k` falls to the size of the smallest class, so that each fold trains on every class.

    Raises:
        DataError: a class with a single sample, or in a single group.
    """
    apart = _apart(codes, groups)
    k = int(min(k, apart.min())) if len(apart) else 0
    if k < 2:
        raise _nothing_left("a class has a single sample", groups)
    fold = deal(codes, k, seed, groups)
    return [(np.flatnonzero(fold != part), np.flatnonzero(fold == part)) for part in range(k)]


def most_folds(codes: Codes, most: int, groups: Codes | None = None) -> int:
    """Return into how many folds samples can be dealt: up to `most`, as the commonest class says.

    A class of fewer samples, or groups, is held out in fewer folds.
    """
    return int(min(most, _apart(codes, groups).max(initial=0)))


def stratified_folds(codes: Codes, seed: int, most: int = 5, groups: Codes | None = None) -> Ints:
    """Return the fold of each sample [n]; a class rarer than `most` is held out in fewer folds.

    Raises:
        DataError: no class has two samples, or lies in two groups.
    """
    number = most_folds(codes, most, groups)
    if number < 2:
        raise _nothing_left("no class has two samples", groups)
    return deal(codes, number, seed, groups)


def deal(codes: Codes, k: int, seed: int, groups: Codes | None = None) -> Ints:
    """Return the fold of each sample, [n]: those of each class are dealt out in turn.

    Each class starts where the last one ended, so that the folds are of equal size: there are no
    more of them than samples, and no empty one. Groups are placed whole, as evenly as they allow.
    """
    random = np.random.default_rng(seed)
    if groups is None or not len(codes):
        order = [random.permutation(rows) for _, rows in by_class(codes)]
        fold = np.empty(len(codes), np.int64)
        fold[np.concatenate(order or [fold[:0]])] = np.arange(len(codes)) % k
        return fold
    kin = _Kin.of(codes, groups)
    shares = np.full(k, 1 / k)
    fold = kin.placed(shares, random)
    for code, rows in by_class(np.where(kin.alone, kin.codes, -1)):
        if code < 0:
            continue
        held = np.bincount(fold[(kin.codes == code) & (fold >= 0)], minlength=k)
        missing = np.maximum(kin.totals[code] / k - held, 0)
        wanted = missing * len(rows) / max(missing.sum(), 1e-9)
        taken = np.floor(wanted).astype(np.int64)
        filled = np.bincount(fold[fold >= 0], minlength=k) + taken
        first = np.lexsort((filled, np.round(taken - wanted, 9)))
        for place in np.resize(first, len(rows) - int(taken.sum())):
            taken[place] += 1
        fold[random.permutation(rows)] = np.repeat(np.arange(k), taken)
    return np.asarray(np.unique(fold, return_inverse=True)[1], np.int64)


def by_class(codes: Codes) -> Iterator[tuple[int, Ints]]:
    """Yield each class that occurs, ascending, and its positions in `codes`, ascending."""
    if not len(codes):
        return
    order = np.argsort(codes, kind="stable")
    present, starts = np.unique(codes[order], return_index=True)
    yield from zip(present.tolist(), np.split(order, starts[1:]), strict=True)


def _apart(codes: Codes, groups: Codes | None) -> Ints:
    """Return of each class that occurs how many samples, or groups, can be told apart."""
    if groups is None or not len(codes):
        return np.asarray(np.unique(codes, return_counts=True)[1], np.int64)
    found, group = np.unique(groups, return_inverse=True)
    cells = np.unique(np.asarray(codes, np.int64) * len(found) + group)
    return np.asarray(np.unique(cells // len(found), return_counts=True)[1], np.int64)


def _nothing_left(told: str, groups: Codes | None) -> DataError:
    if groups is not None:
        told += ", or lies in a single group" if told.startswith("a class") else " of two groups"
    remedy = "give at least two samples of each class"
    return DataError(
        f"{told}: nothing is left to judge by",
        remedy=remedy if groups is None else f"{remedy}, in different groups",
    )


# ── groups ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Kin:
    """Samples and what they belong to.

    Attributes:
        codes: class of each sample, [n], 0 ≤ code < number of classes that occur.
        group: code of each sample's group, [n], likewise.
        sizes: samples of each group.
        totals: samples of each class.
    """

    codes: Ints
    group: Ints
    sizes: Ints
    totals: Ints

    @classmethod
    def of(cls, codes: Codes, groups: Codes) -> _Kin:
        _, codes, totals = np.unique(codes, return_inverse=True, return_counts=True)
        _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        return cls(codes, group, sizes, totals)

    @cached_property
    def alone(self) -> NDArray[np.bool_]:
        """Which samples are a group of their own, [n]."""
        return np.asarray(self.sizes[self.group] == 1)

    def placed(
        self, shares: NDArray[np.float64], random: np.random.Generator, *, first: bool = False
    ) -> Ints:
        """Return the part of each sample [n] that is in a group of several; -1 of those alone.

        Each group goes where Σ (samples of a class in the part)² / share grows least, classes
        weighed alike and all samples as one more: that is least where all parts have the same mix.

        Args:
            shares: of the parts, in 0..1; they add up to 1.
            random: decides the order of groups of like size.
            first: whether a class must be in the first part before it may be in another.
        """
        number = len(self.totals)
        cells, amounts = np.unique(self.group * number + self.codes, return_counts=True)
        starts = np.searchsorted(cells, np.arange(len(self.sizes) + 1) * number)
        held = np.zeros((len(shares), number))
        filled = np.zeros(len(shares))
        here = np.bincount(self.codes[self.alone], minlength=number) > 0
        place = np.full(len(self.sizes), -1)
        halvings = -np.floor(np.log2(self.sizes))
        for one in np.lexsort((random.random(len(self.sizes)), halvings)):
            size = self.sizes[one]
            if size == 1:
                break
            own = slice(starts[one], starts[one + 1])
            kinds, counts = cells[own] % number, amounts[own]
            cost = ((2 * held[:, kinds] + counts) * counts / self.totals[kinds] ** 2.0).sum(axis=1)
            cost = (cost + (2 * filled + size) * size / len(self.codes) ** 2) / shares
            chosen = int(np.lexsort((filled / shares, np.round(cost, 12)))[0])
            if first and not here[kinds].all():
                chosen = 0
            here[kinds] |= chosen == 0
            place[one] = chosen
            held[chosen, kinds] += counts
            filled[chosen] += size
        return np.asarray(place[self.group], np.int64)


def _move(
    parts: NDArray[np.str_],
    codes: Ints,
    groups: Ints | None,
    name: str,
    count: int,
    random: np.random.Generator,
) -> None:
    """Move `count` training samples into another part, each class by its share, groups whole."""
    train = np.flatnonzero(parts == "train")
    if not len(train):
        return
    kin = _Kin.of(codes[train], np.arange(len(train)) if groups is None else groups[train])
    share = min(1.0, max(1, count) / len(train))
    place = np.full(len(train), -1)
    if groups is not None and not kin.alone.all():
        place = kin.placed(np.array([max(1 - share, 1e-9), share]), random, first=True)
        parts[train[place == 1]] = name
    number = len(kin.totals)
    moved, stays, sizes = (
        np.bincount(kin.codes[chosen], minlength=number)
        for chosen in (place == 1, place == 0, kin.alone)
    )
    quota = np.clip(kin.totals * share - moved, 0, sizes)
    # One sample of each class stays in train, whatever the quota says.
    most = np.maximum(sizes - (stays == 0), 0)
    taken = np.minimum(np.floor(quota).astype(np.int64), most)
    rest = max(1, count) - int(moved.sum() + taken.sum())
    for position in np.lexsort((random.random(number), taken - quota)):
        if rest > 0 and taken[position] < most[position]:
            taken[position] += 1
            rest -= 1
    for code, rows in by_class(np.where(kin.alone, kin.codes, -1)):
        if code >= 0:
            parts[train[random.permutation(rows)[: taken[code]]]] = name
    if groups is not None and not (parts == name).any():
        _move_one(parts, train, kin, name)


def _move_one(parts: NDArray[np.str_], train: Ints, kin: _Kin, name: str) -> None:
    """Move the smallest group that leaves every class something to train on, if there is any."""
    for one in np.argsort(kin.sizes, kind="stable"):
        own = kin.group == one
        left = np.bincount(kin.codes[~own], minlength=len(kin.totals))
        if left[kin.codes[own]].all():
            parts[train[own]] = name
            return
