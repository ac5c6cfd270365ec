"""What the samples themselves say before anything is run: counts, copies, leaks, broken files.

Everything here is as cheap as the hash of the data that a run needs anyway, so that `finetune`
warns of it too. What must not enter: features, probes, and any decision about training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from surgeon.data.ahead import work_ahead
from surgeon.records import DataFinding
from surgeon.tasks.labels import alike, joined

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from surgeon.data.samples import Samples
    from surgeon.data.splits import Splits
    from surgeon.tasks.base import Targets, TaskCode

    Group = tuple[int, ...]

FEW = 10
"""Samples of a class below which neither a split nor five folds can judge it."""
UNEVEN = 10
"""How many times more samples the commonest class has than the rarest, before it is said."""
UNREAD = 2000
"""Files outside the pass that are opened to see whether they can be read."""
_AT_ONCE = 16
_SHOWN = 5
_BRIEF = 60


def examine_samples(
    samples: Samples,
    task: TaskCode,
    targets: Targets,
    parts: Splits,
    seed: int,
    *,
    unread: int = 0,
) -> list[DataFinding]:
    """Find what needs no model: classes, exact copies and what they do to the split, broken files.

    Args:
        samples: the labelled data.
        task: what an answer is.
        targets: the answers of all samples.
        parts: how the samples are divided.
        seed: that divided them, where the data did not.
        unread: samples that were not opened, see `read_rest`.
    """
    usable = np.ones(samples.n, bool)
    usable[samples.failed] = False
    groups = copies(samples, usable)
    return [
        *answer_findings(task, targets[usable], parts, usable),
        *unreadable_findings(samples, unread),
        *group_findings(samples, task, targets, parts),
        *copy_findings(samples, groups, task, targets, parts, seed),
    ]


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


def answer_findings(
    task: TaskCode, targets: Targets, parts: Splits, usable: NDArray[np.bool_]
) -> list[DataFinding]:
    """Say what the answers of samples that can be read show, classes or what else a task knows."""
    place = np.cumsum(usable) - 1
    held = {"train": parts.train, "validation": parts.validation, "test": parts.test}
    own = {name: place[rows[usable[rows]]] for name, rows in held.items() if rows is not None}
    found = list(task.findings(targets, own))
    if has_classes(targets):
        return [*class_findings(targets.values, targets.names), *found]
    return [*found, *label_findings(targets.names)]


def has_classes(targets: Targets) -> bool:
    """Say whether each sample has one class that has a name."""
    return bool(targets.names) and targets.values.ndim == 1 and targets.values.dtype.kind in "iu"


# ── classes ──────────────────────────────────────────────────────────────────────────────────────


def class_findings(codes: NDArray[np.int64], labels: Sequence[str]) -> list[DataFinding]:
    """Count the classes, and say where they are uneven or too small to be judged.

    One that a file knows and the data lack is neither.
    """
    if not labels:
        return []
    counts = np.bincount(codes, minlength=len(labels))
    most, least = int(counts.argmax()), int(np.where(counts, counts, counts.max() + 1).argmin())
    listed = ", ".join(f"{label} {count}" for label, count in zip(labels, counts, strict=True))
    if len(labels) > 2 * _SHOWN:
        listed = (
            f"{labels[most]} {counts[most]} the most, {labels[least]} {counts[least]} the least"
        )
    found = [
        DataFinding(
            "note", "classes", f"{len(codes):,} samples in {len(labels)} classes: {listed}"
        ),
        *label_findings(labels),
    ]
    if counts[most] >= UNEVEN * max(counts[least], 1):
        found.append(
            DataFinding(
                "warning",
                "imbalance",
                f"{labels[most]!r} has {counts[most]} samples, {labels[least]!r} {counts[least]}: "
                f"accuracy alone hides the rare classes (naming {labels[most]!r} every time is "
                f"right in {counts[most] / max(len(codes), 1):.1%})",
                "look at macro F1, and gather more of the rare classes",
            )
        )
    rare = [label for label, count in zip(labels, counts, strict=True) if 0 < count < FEW]
    if rare:
        found.append(
            DataFinding(
                "warning",
                "rare-class",
                f"{len(rare)} of {len(labels)} classes have fewer than {FEW} samples, too few to "
                f"judge them by: {_list(rare)}",
                "gather more of them, or merge them",
            )
        )
    return found


def label_findings(labels: Sequence[str]) -> list[DataFinding]:
    """Say which labels are probably the same, and which look like several in one."""
    found = []
    groups = alike(labels)
    if groups:
        named = "; ".join(" / ".join(map(repr, group)) for group in groups[:_SHOWN])
        found.append(
            DataFinding(
                "warning",
                "similar-labels",
                f"labels that differ in case or blanks only are different classes: "
                f"{named}{_more(len(groups))}",
                "write them alike, if they are the same class",
            )
        )
    mark, several = joined(labels)
    if several:
        found.append(
            DataFinding(
                "warning",
                "joined-labels",
                f"{len(several)} labels look like several labels per sample, joined by {mark!r}: "
                f"each combination is a class of its own: {_list(several)}",
                "--task multi-label learns them, written label|label"
                if mark == "|"
                else "write them label|label, and give --task multi-label",
            )
        )
    return found


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def read_rest(samples: Samples, seen: NDArray[np.int64], most: int = UNREAD) -> int:
    """Open samples that no pass has read, so that broken ones are known (`samples.skipped`).

    Args:
        samples: the data.
        seen: indices of those that were read already.
        most: samples to open, spread evenly over those that are left.

    Returns:
        How many samples are still unread.

    Raises:
        DataError: more than 5 % of all samples have turned out unreadable.
    """
    rest = np.setdiff1d(np.arange(samples.n), np.concatenate([seen, samples.failed]))
    if samples.digests() is None or not len(rest):
        return 0
    chosen = rest[np.unique(np.linspace(0, len(rest) - 1, min(most, len(rest))).astype(np.int64))]
    pieces = [chosen[at : at + _AT_ONCE] for at in range(0, len(chosen), _AT_ONCE)]
    for _ in work_ahead(samples.read, pieces, 2):
        pass
    return len(rest) - len(chosen)


def unreadable_findings(samples: Samples, unread: int = 0) -> list[DataFinding]:
    """Name every file found unreadable so far, with its reason, and what was passed over."""
    found = []
    skipped = samples.skipped
    if skipped:
        named = "; ".join(f"{name}: {reason}" for name, reason in skipped[:_SHOWN])
        found.append(
            DataFinding(
                "warning",
                "unreadable",
                f"{len(skipped)} samples cannot be read: {named}{_more(len(skipped))}",
                "repair or remove them; they are left out",
                samples=tuple(name for name, _ in skipped),
                details=tuple({"reason": reason} for _, reason in skipped),
            )
        )
    if unread:
        found.append(
            DataFinding("note", "unread", f"{unread:,} samples were not opened: training does it")
        )
    if samples.ignored:
        found.append(
            DataFinding(
                "note",
                "ignored",
                f"{samples.ignored} files are hidden or of another kind, and were passed over",
            )
        )
    return found


# ── groups ───────────────────────────────────────────────────────────────────────────────────────


def group_findings(
    samples: Samples, task: TaskCode, targets: Targets, parts: Splits
) -> list[DataFinding]:
    """Say which groups the data's own parts tear apart, and which classes lie in one group only."""
    if samples.groups is None:
        return []
    part = part_of(parts, samples.n)
    members: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(samples.groups):
        if name is not None:
            members[name].append(index)
    torn = {
        name: tuple(rows)
        for name, rows in members.items()
        if len({part[i] for i in rows} - {""}) > 1
    }
    found = []
    if torn:
        found.append(
            _grouped(
                samples,
                list(torn.values()),
                "warning",
                "torn-groups",
                f"{len(torn)} of {len(members)} groups lie in more than one of the data's own "
                f"parts: {_word(task)} there is too good: {_list(list(torn))}",
                "keep each group in one part, or leave the split out",
                details=[
                    {"group": name, "part": part[i]} for name, rows in torn.items() for i in rows
                ],
            )
        )
    places: dict[int, set[str | int]] = defaultdict(set)
    labels = targets.names
    codes = targets.values.tolist() if has_classes(targets) else []
    for index, (code, name) in enumerate(zip(codes, samples.groups, strict=False)):
        places[code].add(index if name is None else name)
    single = [labels[code] for code in sorted(places) if len(places[code]) == 1]
    if single:
        found.append(
            DataFinding(
                "warning",
                "single-group",
                f"{len(single)} of {len(labels)} classes lie in one group only, which trains: "
                f"nothing judges them: {_list(single)}",
                "gather them from other groups, too",
            )
        )
    return found


# ── copies ───────────────────────────────────────────────────────────────────────────────────────


def copies(samples: Samples, usable: NDArray[np.bool_] | None = None) -> list[Group]:
    """Return the sets of samples with the same content, byte for byte; each ascending.

    `usable` [n] leaves samples out. Empty where the data cannot tell (see `Samples.digests`).
    """
    digests = samples.digests()
    if digests is None:
        return []
    same: dict[bytes, list[int]] = defaultdict(list)
    for index, digest in enumerate(digests):
        if digest is not None and (usable is None or usable[index]):
            same[digest].append(index)
    return [tuple(group) for group in same.values() if len(group) > 1]


def together(sets: Sequence[Group], codes: NDArray[np.int64] | None, n: int) -> NDArray[np.int64]:
    """Return the group of each of n samples, [n], so that every set lies in one.

    Groups (`codes` [n], 0 ≤ code < n; None = each sample by itself) that share a set become one.
    """
    codes = np.arange(n) if codes is None else codes
    root = np.arange(n)
    pairs = ((int(codes[group[0]]), int(codes[other])) for group in sets for other in group[1:])
    for one in connect(pairs):
        root[list(one)] = one[0]
    return root[codes]


def connect(pairs: Iterable[tuple[int, int]]) -> list[Group]:
    """Return the sets that pairs connect, each ascending: who is a copy of whom is symmetrical."""
    root: dict[int, int] = {}

    def find(item: int) -> int:
        while root.setdefault(item, item) != item:
            root[item] = root[root[item]]
            item = root[item]
        return item

    for one, other in pairs:
        first, second = sorted((find(one), find(other)))
        root[second] = first
    sets: dict[int, list[int]] = defaultdict(list)
    for item in sorted(root):
        sets[find(item)].append(item)
    return [tuple(group) for group in sets.values() if len(group) > 1]


def part_of(parts: Splits, n: int) -> list[str]:
    """Return the part each of n samples is in: train, validation, test, or nothing."""
    names = [""] * n
    for name, indices in (
        ("train", parts.train),
        ("validation", parts.validation),
        ("test", parts.test),
    ):
        for index in () if indices is None else indices:
            names[int(index)] = name
    return names


def copy_findings(
    samples: Samples,
    groups: Sequence[Group],
    task: TaskCode,
    targets: Targets,
    parts: Splits,
    seed: int,
    *,
    near: bool = False,
) -> list[DataFinding]:
    """Say what sets of copies mean: that they are there, that they leak, that labels disagree.

    Args:
        samples: the data.
        groups: sets of copies, by index.
        task: what an answer is.
        targets: the answers of all samples.
        parts: how the samples are divided.
        seed: that divided them, where the data did not.
        near: whether the copies are near ones, not exact.
    """
    if not groups:
        return []
    word = "near copies" if near else "exact copies"
    spare = sum(len(group) - 1 for group in groups)
    found = [
        _grouped(
            samples,
            groups,
            "warning",
            "near-duplicates" if near else "duplicates",
            f"{spare} samples are {word} of others, in {_sets(groups)}",
            "keep one of each set, or keep each set in one part",
        )
    ]
    part = part_of(parts, samples.n)
    torn = [group for group in groups if len({part[i] for i in group} - {""}) > 1]
    if torn:
        between = sorted({" / ".join(_in_order({part[i] for i in group} - {""})) for group in torn})
        own = samples.split is not None
        whose = "the data's own parts" if own else f"the parts drawn with seed {seed}"
        found.append(
            _grouped(
                samples,
                torn,
                "warning",
                "leak",
                f"{_sets(torn)} of {word} lie in more than one of {whose} "
                f"({', '.join(between)}): {_word(task)} there is too good",
                "remove the copies from validation and test" if own else "keep one of each set",
                details=[{"part": part[i]} for group in torn for i in group],
            )
        )
    values = targets.values
    torn = [group for group in groups if len({values[i].tobytes() for i in group}) > 1]
    if torn and not (near and _moves(task, targets)):
        found.append(
            _grouped(
                samples,
                torn,
                "warning",
                "conflict",
                f"{_sets(torn)} of {word} have different "
                + ("labels" if targets.names else "answers"),
                "at least one label in each set is wrong: correct it",
                details=[{"label": _told(samples, targets, i)} for group in torn for i in group],
            )
        )
    return found


def _moves(task: TaskCode, targets: Targets) -> bool:
    """Say whether what is nearly the same may well have another answer: a number, a mask."""
    return bool(task.keeps) or (task.output != "logits" and not has_classes(targets))


def _word(task: TaskCode) -> str:
    return task.quality.replace("_", " ")


def _told(samples: Samples, targets: Targets, index: int) -> str:
    """Return the answer of a sample, in a few characters."""
    if has_classes(targets):
        return targets.names[int(targets.values[index])]
    answers = samples.answers
    if isinstance(answers, Mapping):
        return ", ".join(f"{name} {column[index]}" for name, column in answers.items())[:_BRIEF]
    return "" if answers is None else str(answers[index])[:_BRIEF]


def _grouped(
    samples: Samples,
    groups: Sequence[Group],
    level: str,
    kind: str,
    message: str,
    remedy: str,
    details: Sequence[dict[str, str]] = (),
) -> DataFinding:
    sets = tuple(tuple(str(samples.names[i]) for i in group) for group in groups)
    return DataFinding(
        "warning" if level == "warning" else "note",
        kind,
        message,
        remedy,
        samples=tuple(name for group in sets for name in group),
        groups=sets,
        details=tuple(details),
    )


def _sets(groups: Sequence[Group]) -> str:
    return f"{len(groups)} set" if len(groups) == 1 else f"{len(groups)} sets"


def _in_order(names: set[str]) -> list[str]:
    return [name for name in ("train", "validation", "test") if name in names]


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + _more(len(names))


def _more(count: int) -> str:
    return f" and {count - _SHOWN} more" if count > _SHOWN else ""
