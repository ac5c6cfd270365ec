"""Which task answers are for, by their form alone: what `--task auto` means.

A form that could be meant in two ways is not guessed at: people say which. Tasks of plugins are
asked for by name. What must not enter: reading of answers, files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NONE = -100
"""Integer of a position of which nothing is told."""
_NUMBER = re.compile(r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\s*")

MISSING = frozenset({"", "nan", "na", "n/a", "none", "null", "?", "-"})
"""Texts that stand for a number that is not known."""
CLASSES, LABELS, NUMBERS = ("classification",), ("multi-label",), ("regression",)
POSITIONS, PIXELS = ("tokens",), ("segmentation",)


def tasks_for(answers: Any, *, words: bool = False) -> tuple[str, tuple[str, ...]]:
    """Say what answers look like, and the tasks they could be for: one, several or none.

    Args:
        answers: see `surgeon.tasks.base.Answers`.
        words: whether samples are lists of words, so that a list of labels is one for each.
    """
    if isinstance(answers, Mapping):
        return _columns(answers)
    if getattr(answers, "pixels", False):
        return "masks", PIXELS
    if isinstance(answers, np.ndarray) and answers.ndim > 1:
        return _array(answers)
    rows = answers.tolist() if isinstance(answers, np.ndarray) else answers
    told = [row for row in rows if row is not None]
    lists = [row for row in told if isinstance(row, list | tuple | set | frozenset | np.ndarray)]
    if lists:
        return _lists([list(row) for row in lists], words=words)
    if any(isinstance(row, Mapping) for row in told):
        return "objects", ()
    return _single(told)


def _single(told: list[Any]) -> tuple[str, tuple[str, ...]]:
    """Look at one text or number per sample."""
    whole = True
    for value in told:
        if isinstance(value, bool | np.bool_):
            continue
        if isinstance(value, int | np.integer):
            continue
        if isinstance(value, float | np.floating):
            whole = whole and (not np.isfinite(value) or float(value).is_integer())
        elif isinstance(value, str) and _NUMBER.fullmatch(value):
            whole = whole and float(value).is_integer()
        elif not isinstance(value, str) or value.strip().casefold() not in MISSING:
            return "one name per sample", CLASSES
    if whole:
        return "one whole number per sample", CLASSES
    return "numbers with a fraction", NUMBERS


def _array(labels: NDArray[Any]) -> tuple[str, tuple[str, ...]]:
    """Look at an array of more than one axis."""
    shape = f"labels {list(labels.shape)} of {labels.dtype}"
    whole = labels.dtype.kind in "iu"
    if labels.ndim == 3:
        return shape, PIXELS if whole else ()
    if labels.ndim > 3 or not labels.size:
        return shape, ()
    if labels.shape[1] == 1:
        return _single(labels[:, 0].tolist())
    if labels.dtype.kind == "b":
        return shape, LABELS
    if labels.dtype.kind == "f":
        known = labels[np.isfinite(labels)]
        if (known != np.round(known)).any():
            return "numbers with a fraction", NUMBERS
        two = bool(np.isin(known, (0, 1)).all())
        return f"{shape}, whole numbers", (*(LABELS if two else ()), *NUMBERS)
    if not whole:
        return f"{shape}, texts", (*LABELS, *POSITIONS)
    if (labels == NONE).any():
        return f"{shape}, some {NONE}", POSITIONS
    if np.isin(labels, (0, 1)).all():
        return f"{shape}, all 0 or 1", (*LABELS, *POSITIONS, *NUMBERS)
    return shape, (*POSITIONS, *NUMBERS)


def _lists(rows: list[list[Any]], *, words: bool) -> tuple[str, tuple[str, ...]]:
    """Look at a list per sample."""
    cells = [cell for row in rows for cell in row]
    if any(isinstance(cell, Mapping) for cell in cells):
        return "spans in texts", POSITIONS
    if any(isinstance(cell, list | tuple | set | np.ndarray) for cell in cells):
        return "lists of lists", ()
    if words:
        return "a list of labels for a list of words", POSITIONS
    numbers = [cell for cell in cells if isinstance(cell, float | np.floating)]
    if any(np.isfinite(cell) and not float(cell).is_integer() for cell in numbers):
        return "lists of numbers with a fraction", NUMBERS
    even = len({len(row) for row in rows}) == 1
    whole = [cell for cell in cells if isinstance(cell, int | float | np.number)]
    if cells and len(whole) == len(cells) and even:
        return _array(np.array(rows)) if len(rows[0]) else ("empty lists", ())
    if any(cell is None for cell in cells) or any(len(set(row)) < len(row) for row in rows):
        return "lists that name a label twice", POSITIONS
    return "a list of labels per sample", LABELS


def _columns(columns: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Look at several columns of labels."""
    found = [_cells(column) for column in columns.values()]
    if all(kind == "two" for kind in found):
        return "columns of 0 and 1", LABELS
    if "other" not in found and "fraction" in found:
        return "columns of numbers", NUMBERS
    return "several label columns", () if "other" in found else (*NUMBERS,)


def _cells(column: Any) -> str:
    """Say what cells are: 0 or 1 (`two`), `whole` numbers, with a `fraction`, `other`."""
    what = "two"
    for value in column:
        text = str(value).strip().casefold()
        if text in {"0", "1", "0.0", "1.0", "true", "false"} | MISSING:
            continue
        if not _NUMBER.fullmatch(text):
            return "other"
        what = "fraction" if not float(text).is_integer() or what == "fraction" else "whole"
    return what
