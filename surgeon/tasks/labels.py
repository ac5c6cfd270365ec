"""Labels: text forms, their order, their codes. What must not enter: reading of samples."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import DataError
from surgeon.graph.reading import shown
from surgeon.tasks.base import Targets

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from numpy.typing import NDArray

_INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")  # Python reads integers of no more than 4,300
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_SHOWN, _LONG = 5, 60
ONE_CLASS = "classification learns one class per sample"
REGRESSION = "numbers to predict are --task regression"


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Return the distinct labels in the order of the classes.

    Numerically if every one is an integer (equal numbers such as `1` and `01` by code point), else
    by code point.
    """
    distinct = set(labels)
    if all(_INTEGER.fullmatch(label) for label in distinct):
        return sorted(distinct, key=lambda label: (int(label), label))
    return sorted(distinct)


def label_text(value: Any, where: str) -> str:
    """Return one label as text: integers and integral floats as `3`, text as it is.

    Raises:
        DataError: a missing label (None, empty, NaN) or one that is neither a number nor text.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="backslashreplace")
    kind = type(value).__name__
    if isinstance(value, list | tuple | dict | np.ndarray):
        raise DataError(
            f"a label is {'an array' if isinstance(value, np.ndarray) else 'a ' + kind}, not one "
            "name or number",
            where=where,
            remedy="give one, or the right column with --label-column; lists of labels are --task "
            "multi-label or --task tokens, masks --task segmentation",
        )
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or value == "" or (isinstance(value, float) and np.isnan(value)):
        said = "a label is missing" + (" (NaN)" if isinstance(value, float) else "")
        raise DataError(said, where=where, remedy="label it or drop the sample")
    if not isinstance(value, str | int | float):
        message = f"a label is a {type(value).__name__}, not a number or text"
        raise DataError(message, where=where, remedy="name the right column with --label-column")
    return shown(str(value))


def one_column(column: Any, where: str) -> Any:
    """Return the answers, if they are one column.

    Raises:
        DataError: people named several.
    """
    if isinstance(column, Mapping):
        raise DataError(
            f"there are {len(column)} label columns ({listed(list(column))}), one is learnt",
            where=where,
            remedy="name one of them; several are for --task multi-label or --task regression",
        )
    return column


def plain_texts(answers: Any) -> list[str]:
    """Return a text for each sample that says its answer, whatever it is: for a hash.

    One name or number is said as `label_text` does.
    """
    if isinstance(answers, Mapping):
        columns = [plain_texts(column) for _, column in sorted(answers.items())]
        return ["\0".join(row) for row in zip(*columns, strict=True)]
    if hasattr(answers, "texts"):  # masks know their files
        return list(answers.texts)
    if isinstance(answers, np.ndarray) and answers.ndim == 1:
        answers = answers.tolist()
    return [_plain_text(value) for value in answers]


def _plain_text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        if value.ndim == 0 or value.dtype == object:
            return _plain_text(value.tolist())
        return f"{value.dtype.str}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
    try:
        return label_text(value, "")
    except DataError:
        return repr(value)


def is_integer(label: str) -> bool:
    """Tell whether a label is a whole number."""
    return _INTEGER.fullmatch(label) is not None


def group_text(value: Any, where: str) -> str:
    """Return the name of what a sample belongs to as text, as labels are.

    Raises:
        DataError: it is missing, or neither a number nor text.
    """
    try:
        return label_text(value, where)
    except DataError:
        raise DataError(
            f"{value!r} names no group",
            where=where,
            remedy="give a name or number; a sample by itself needs one of its own",
        ) from None


def code_groups(groups: Sequence[str | None] | None) -> NDArray[np.int64] | None:
    """Return a code for each name, [n], 0 ≤ code < n; None for none, and one of its own for None.

    Codes follow the first sample of each group, so that names do not matter.
    """
    if groups is None:
        return None
    first: dict[str, int] = {}
    return np.array(
        [i if name is None else first.setdefault(name, i) for i, name in enumerate(groups)],
        np.int64,
    )


def code_labels(labels: Sequence[str]) -> Targets:
    """Return labels as places among the distinct ones in their order."""
    names = tuple(sort_labels(labels))
    place = {name: code for code, name in enumerate(names)}
    codes = np.asarray([place[label] for label in labels], np.int64)
    return Targets(codes, names)


def onto(targets: Targets, names: Sequence[str], *, ignore_unknown: bool = False) -> Targets:
    """Map labels to the places of their names; −1 where there is none (`known` is then False).

    Raises:
        DataError: labels that are not among the names, unless `ignore_unknown`; or none that is.
    """
    if not names:
        raise DataError(
            "the file carries no labels, so that data cannot be mapped to its outputs",
            remedy="evaluate a file written by `surgeon finetune`",
        )
    place = {name: code for code, name in enumerate(names)}
    codes = np.asarray([place.get(name, -1) for name in targets.names], np.int64)
    codes = codes[targets.values] if len(targets) else targets.values
    known = codes >= 0
    if not known.all() and not (ignore_unknown and known.any()):
        unknown = Counter(targets.names[code] for code in targets.values[~known])
        raise DataError(
            f"{sum(unknown.values())} samples have labels the file does not know: "
            f"{listed(sort_labels(unknown))}",
            remedy=f"it knows {listed(list(names))}; --ignore-unknown drops the others",
        )
    return Targets(codes, tuple(names), None if known.all() else known, targets.groups)


def not_one_class(labels: NDArray[Any]) -> str:
    """Say what labels of more than one axis look like."""
    if labels.ndim != 2 or not labels.size:
        return f"{ONE_CLASS}; masks are --task segmentation"
    if labels.shape[1] == 1:
        return "give them as labels.ravel()"
    if labels.dtype.kind in "biuf" and np.isin(labels, (0, 1)).all():
        if (np.count_nonzero(labels, axis=1) == 1).all():
            return "they look like one-hot rows: give labels.argmax(axis=1)"
        return f"{ONE_CLASS}; several labels for each are --task multi-label"
    if labels.dtype.kind == "f":
        return f"{ONE_CLASS}; {REGRESSION}"
    return f"{ONE_CLASS}; several are --task multi-label, one per token --task tokens"


def check_trainable(labels: Sequence[str]) -> None:
    """Refuse labels that nothing can be trained on.

    Raises:
        DataError: no sample, only one class, numbers that are no classes, or classes with a single
            sample (all are named).
    """
    counts = Counter(labels)
    if not counts:
        raise DataError("there is no sample to train on", remedy="give data with labelled samples")
    refuse_fractions(counts, ONE_CLASS)
    if len(counts) == 1:
        message = f"all {len(labels)} samples have the same label {next(iter(counts))!r}"
        raise DataError(message, remedy="give samples of at least two classes")
    lonely = [label for label in sort_labels(counts) if counts[label] == 1]
    if lonely:
        message = f"{len(lonely)} of {len(counts)} classes have a single sample: {listed(lonely)}"
        remedy = "give at least two samples of each class, or drop these"
        if 2 * len(lonely) > len(counts) > 10 and all(map(_INTEGER.fullmatch, counts)):
            remedy += f"; {REGRESSION}"
        raise DataError(message, remedy=remedy)


def refuse_fractions(names: Collection[str], wanted: str) -> None:
    """Refuse names of classes that are all numbers, and not all whole ones.

    Raises:
        DataError: says what is `wanted` in their place.
    """
    broken = [name for name in names if _is_fraction(name)]
    if broken and all(_NUMBER.fullmatch(name) for name in names):
        raise DataError(
            f"the labels are {len(names)} numbers, {len(broken)} of them with a fraction "
            f"({listed(broken[:3])}), and {wanted}",
            remedy=f"give classes as names or whole numbers; {REGRESSION}",
        )


def alike(labels: Iterable[str]) -> list[list[str]]:
    """Return the sets of labels that differ in case, blanks or leading zeros only."""
    same: dict[str, list[str]] = {}
    for label in sort_labels(labels):
        plain = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
        if _INTEGER.fullmatch(plain):
            plain = str(int(plain))
        same.setdefault(plain, []).append(label)
    return [group for group in same.values() if len(group) > 1]


def joined(labels: Iterable[str]) -> tuple[str, list[str]]:
    """Return labels that look like several in one, and the mark between their parts.

    Every part of such a label occurs elsewhere, too: alone, or in another combination.
    """
    distinct = set(labels)
    for mark in "|;,":
        marked = [label for label in distinct if mark in label]
        parts = {label: [part.strip() for part in label.split(mark)] for label in marked}
        times = Counter(part for found in parts.values() for part in set(found))
        times.update(label.strip() for label in distinct if mark not in label)
        several = [
            label
            for label, found in parts.items()
            if all(found) and len(set(found)) > 1 and all(times[part] > 1 for part in found)
        ]
        if several:
            return mark, sort_labels(several)
    return "", []


def _is_fraction(label: str) -> bool:
    return _NUMBER.fullmatch(label) is not None and not float(label).is_integer()


def listed(names: Sequence[str]) -> str:
    """Name the first few, and say how many more there are."""
    cut = [name if len(name) <= _LONG else f"{name[:_LONG]}…" for name in names[:_SHOWN]]
    shown = ", ".join(map(repr, cut))
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
