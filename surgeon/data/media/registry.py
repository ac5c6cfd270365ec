"""Which media there are, and which of them a folder or a file holds.

A medium is an entry: what its samples are called, the endings of its files, and the class that
reads them, a `SourceSamples` that says by itself which graph inputs it feeds (`takes`) and which
rule it needs (`rule`). Ours stand here; those of plugins are added by `offer`. What must not enter:
reading of samples.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from surgeon.data.media.pictures import SUFFIXES as PICTURE_SUFFIXES
from surgeon.records import Medium

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from surgeon.data.samples import Given, Samples
    from surgeon.data.sources import SourceSamples

_HERE = "surgeon.data.media"
PICTURES = Medium(
    "pictures", "decoded, resized, normalized", f"{_HERE}.pictures:ImageSamples", PICTURE_SUFFIXES
)
SERIES = Medium(
    "series", "values of steps in time", f"{_HERE}.series:SeriesSamples", (".npy", ".csv")
)
TEXTS = Medium("texts", "tokenized and padded", f"{_HERE}.texts:TextSamples", (".txt",))
SOUNDS = Medium(
    "sounds", "brought to one rate and length", f"{_HERE}.sounds:SoundSamples", (".wav", ".wave")
)
_OWN = (PICTURES, SERIES, TEXTS, SOUNDS)
_OFFERED: dict[str, tuple[Medium, Callable[[], Any]]] = {}
_SHOWN = 2


def offer(medium: Medium, load: Callable[[], Any]) -> None:
    """Add a medium of a plugin; `load` imports its class. The same one again changes nothing."""
    _OFFERED[medium.name] = medium, load


def media() -> Iterator[Medium]:
    """Yield every medium in the order in which they are asked: those of plugins first."""
    yield from (medium for medium, _ in _OFFERED.values())
    yield from _OWN


def code_of(medium: Medium) -> type[SourceSamples]:
    """Return the class that reads a medium."""
    if medium.name in _OFFERED:
        found: type[SourceSamples] = _OFFERED[medium.name][1]()
        return found
    module, _, name = medium.code.partition(":")
    own: type[SourceSamples] = getattr(importlib.import_module(module), name)
    return own


def make(medium: Medium, given: Given, where: str | None) -> Samples:
    """Make samples of files, or bytes, of one medium.

    Raises:
        UsageError: nothing says by which rule their content becomes values.
        DataError: the graph's inputs do not take them.
    """
    code = code_of(medium)
    if code.rule and not isinstance(given.rule, code.rule):
        raise code.missing(where)
    return code(given)


def examples(medium: Medium) -> str:
    """Return a few endings of its files, for a message."""
    more = ", ..." if len(medium.suffixes) > _SHOWN else ""
    return ", ".join(medium.suffixes[:_SHOWN]) + more


def is_of(path: Path, medium: Medium) -> bool:
    """Say whether a file is of this medium, by its ending."""
    return path.suffix.lower() in medium.suffixes
