"""Labels of words, or of spans of a text, brought to the tokens that the graph is given.

A word's label is that of its first token; its later tokens have none, as is usual since BERT
(Devlin et al. 2019, section 5.3). A span `{start, end, label}` becomes `B-label` at its first token
and `I-label` behind it, all else `O`. What must not enter: tokenizers, files.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surgeon.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    Span = tuple[int, int]

OUTSIDE = "O"
REMEDY = "give one label for each word, or spans {start, end, label} in characters of the text"


def words_of(text: str, words: Sequence[str] | None) -> list[Span]:
    """Return where words lie in a text: those it was joined of, else what blanks divide."""
    if words is None:
        return [found.span() for found in re.finditer(r"\S+", text)]
    spans, start = [], 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return spans


def label_words(labels: Sequence[Any], words: Sequence[Span], tokens: Sequence[Span]) -> list[Any]:
    """Return the label of each token, None for those that begin no word.

    Args:
        labels: of the words.
        words: where each lies in the text.
        tokens: where each token lies, blanks in front of it left out; one of no length is special.

    Raises:
        DataError: not one label for each word.
    """
    if len(labels) != len(words):
        raise DataError(f"there are {len(labels)} labels for {len(words)} words", remedy=REMEDY)
    owner = {place: word for word, span in enumerate(words) for place in range(*span)}
    told: list[Any] = [None] * len(tokens)
    seen: set[int] = set()
    for place, (start, end) in enumerate(tokens):
        own = [owner[at] for at in range(start, end) if at in owner]
        if own and own[0] not in seen:
            told[place] = labels[own[0]]
        seen.update(own)
    return told


def label_spans(
    spans: Sequence[Any],
    text: str,
    tokens: Sequence[Span],
    pieces: Sequence[bool],
) -> list[str | None]:
    """Return `B-`, `I-` or `O` of each token; None of special ones and of later pieces of a word.

    Args:
        spans: `{start, end, label}`, in characters.
        text: what they lie in.
        tokens: see `label_words`.
        pieces: whether each token is a later piece of a word.

    Raises:
        DataError: spans outside the text, without a label, or that overlap.
    """
    found = sorted(_span(one, len(text)) for one in spans)
    for (_, end, label), (start, _, other) in itertools.pairwise(found):
        if start < end:
            raise DataError(
                f"the spans {label!r} and {other!r} overlap at character {start}",
                remedy="give spans that lie apart: a token has one label",
            )
    told: list[str | None] = [None] * len(tokens)
    at, begun = 0, False
    for place, (start, end) in enumerate(tokens):
        if end <= start:
            continue
        while at < len(found) and found[at][1] <= start:
            at, begun = at + 1, False
        inside = at < len(found) and found[at][0] < end
        if inside and not begun:
            told[place], begun = f"B-{found[at][2]}", True
        elif not pieces[place]:
            told[place] = f"I-{found[at][2]}" if inside else OUTSIDE
    return told


def _span(one: Any, length: int) -> tuple[int, int, str]:
    """Return start, end and label of a span.

    Raises:
        DataError: they are not there, or cannot be meant.
    """
    if not isinstance(one, Mapping) or not {"start", "end", "label"} <= set(one):
        raise DataError(f"{one!r:.80} is no span", remedy=REMEDY)
    start, end, label = one["start"], one["end"], one["label"]
    whole = all(isinstance(place, int) and not isinstance(place, bool) for place in (start, end))
    if not whole or not 0 <= start < end <= length:
        raise DataError(
            f"a span from {start!r} to {end!r} does not lie in a text of {length} characters",
            remedy=REMEDY,
        )
    if label is None or not str(label).strip():
        raise DataError(f"the span from {start} to {end} has no label", remedy=REMEDY)
    return start, end, str(label)
