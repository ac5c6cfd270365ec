"""Labels: text forms, their order, their codes. What must not enter: reading of samples."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

_INTEGER = re.compile(r"[+-]?[0-9]+")
_SHOWN = 5


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
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or value == "" or (isinstance(value, float) and np.isnan(value)):
        raise DataError("a label is missing", where=where, remedy="label it or drop the sample")
    if not isinstance(value, str | int | float):
        message = f"a label is a {type(value).__name__}, not a number or text"
        raise DataError(message, where=where, remedy="name the right column with --label-column")
    return str(value)


def check_trainable(labels: Sequence[str]) -> None:
    """Refuse labels that nothing can be trained on.

    Raises:
        DataError: no sample, only one class, or classes with a single sample (all are named).
    """
    counts = Counter(labels)
    if not counts:
        raise DataError("there is no sample to train on", remedy="give data with labelled samples")
    if len(counts) == 1:
        message = f"all {len(labels)} samples have the same label {next(iter(counts))!r}"
        raise DataError(message, remedy="give samples of at least two classes")
    lonely = [label for label in sort_labels(counts) if counts[label] == 1]
    if lonely:
        message = f"{len(lonely)} of {len(counts)} classes have a single sample: {_list(lonely)}"
        raise DataError(message, remedy="give at least two samples of each class, or drop these")


def encode_labels(
    labels: Sequence[str], known: Sequence[str], *, ignore_unknown: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Map labels to their positions in `known`, by text.

    Returns:
        codes [n] int64 (−1 where unknown) and a mask [n], True where the label is known.

    Raises:
        DataError: labels that `known` lacks, unless `ignore_unknown`; or none that is known.
    """
    position = {label: index for index, label in enumerate(known)}
    codes = np.array([position.get(label, -1) for label in labels], np.int64)
    mask = codes >= 0
    if not mask.all():
        unknown = Counter(label for label in labels if label not in position)
        named = _list(sort_labels(unknown))
        if not ignore_unknown or not mask.any():
            message = f"{sum(unknown.values())} samples have labels the file does not know: {named}"
            remedy = f"it knows {_list(list(known))}; --ignore-unknown drops the others"
            raise DataError(message, remedy=remedy)
    return codes, mask


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
