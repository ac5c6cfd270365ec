"""Spans of labels `B-TYPE`, `I-TYPE`, `O` and what schemes add to them (`E`, `S`; `L`, `U`).

A span is as conlleval and seqeval take it: it begins at B or S, behind an end, or where the type
changes, so that an I without a B begins one, too. It is right if begin, end and type are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_LABEL = re.compile(r"O|[BIESLU]-.+")


class Scheme(NamedTuple):
    """What labels say of spans.

    Attributes:
        marks: [k] B, I, E, S or O of each label.
        kinds: [k] position of its type among `types`, −1 for O.
        types: of spans.
    """

    marks: NDArray[np.str_]
    kinds: NDArray[np.int64]
    types: tuple[str, ...]


class Spans(NamedTuple):
    """Spans by ascending place: where each begins and ends (the last place), and its type."""

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    kind: NDArray[np.int64]


def scheme_of(names: Sequence[str]) -> Scheme | None:
    """Return the scheme that labels follow; None where they are no marks of spans."""
    if not names or not all(map(_LABEL.fullmatch, names)) or set(names) == {"O"}:
        return None
    types = tuple(sorted({name[2:] for name in names if name != "O"}))
    marks = [name[0].translate(str.maketrans("LU", "ES")) for name in names]
    kinds = [types.index(name[2:]) if name != "O" else -1 for name in names]
    return Scheme(np.array(marks), np.array(kinds, np.int64), types)


def find_spans(codes: NDArray[Any], sample: NDArray[Any], scheme: Scheme) -> Spans:
    """Return the spans of labels that follow each other.

    Args:
        codes: [m] labels.
        sample: [m] which sample each is of; no span goes from one to the next.
        scheme: of the labels.
    """
    mark, kind = scheme.marks[codes], scheme.kinds[codes]
    inside = mark != "O"
    fresh = np.ones(len(codes), np.bool_)
    fresh[1:] = (
        (sample[1:] != sample[:-1])
        | (kind[1:] != kind[:-1])
        | np.isin(mark[1:], ("B", "S"))
        | np.isin(mark[:-1], ("E", "S"))
    )
    first = np.flatnonzero(inside & fresh)
    ends = np.flatnonzero(inside & np.append(fresh[1:] | ~inside[1:], np.True_))
    return Spans(first, ends, kind[first])


def matches(wanted: Spans, said: Spans) -> NDArray[np.bool_]:
    """Return which of the wanted spans are said, with the same ends and type."""
    keys = [set(zip(*map(np.ndarray.tolist, one), strict=True)) for one in (wanted, said)]
    rows = zip(*map(np.ndarray.tolist, wanted), strict=True)
    return np.array([row in keys[1] for row in rows], np.bool_)
