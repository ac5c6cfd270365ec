"""Inputs on their way: paths, patterns, folders and tables become samples part by part.

Nothing is held but one part, the names in one folder, and what lies in memory anyway. What must not
enter: running, formats.
"""

from __future__ import annotations

import fnmatch
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.data import folder
from surgeon.data.media.registry import is_of, make
from surgeon.data.read import data_kind, medium_of, open_data, require_file
from surgeon.data.rows import from_table
from surgeon.data.samples import Given, Samples
from surgeon.data.table_parts import table_parts
from surgeon.errors import DataError
from surgeon.graph.reading import shown, what_lies_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from surgeon.data.samples import Source
    from surgeon.records import Medium

FILES = 2048
"""Files of a part, at most."""
STDIN = "-"
_PATTERN = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Part:
    """Some inputs.

    Attributes:
        samples: that they became; None where none did.
        rows: which of the samples are asked for, ascending.
        reasons: of rows that cannot be read, known before they are.
        passed_over: (name, reason) of inputs that became no samples.
    """

    samples: Samples | None
    rows: NDArray[np.int64]
    reasons: Mapping[int, str] = field(default_factory=dict)
    passed_over: tuple[tuple[str, str], ...] = ()


def matching(pattern: str) -> Iterator[Path]:
    """Yield what a pattern of the shell names; `**` is folders of any depth, none hidden.

    Names are sorted, those of one folder at a time.
    """
    path = Path(pattern)
    parts = path.parts[1:] if path.anchor else path.parts
    yield from _matching(Path(path.anchor), parts)


def _matching(base: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    if not parts:
        yield base
        return
    first, rest = parts[0], parts[1:]
    if first == "**":
        yield from _matching(base, rest or ("*",))
        for name in _names(base):
            if (base / name).is_dir() and not (base / name).is_symlink():
                yield from _matching(base / name, parts)
    elif _PATTERN.search(first):
        for name in _names(base, hidden=first.startswith(".")):
            if fnmatch.fnmatch(name, first) and (not rest or (base / name).is_dir()):
                yield from _matching(base / name, rest)
    elif what_lies_at(base / first) is not None:
        yield from _matching(base / first, rest)


def _names(base: Path, *, hidden: bool = False) -> list[str]:
    try:
        return sorted(one.name for one in base.iterdir() if hidden or not one.name.startswith("."))
    except OSError:
        return []


def is_pattern(item: object) -> bool:
    """Say whether an input is a pattern, and no name of what is there."""
    return (
        isinstance(item, str | Path)
        and _PATTERN.search(str(item)) is not None
        and what_lies_at(item) is None
    )


def standard_input() -> Iterator[str]:
    """Yield the lines of standard input, or what stands between its NULs (`find -print0`)."""
    held, end = b"", None
    while chunk := os.read(sys.stdin.fileno(), 1 << 16):
        end = end or (b"\0" if b"\0" in chunk else b"\n")
        *whole, held = (held + chunk).split(end)
        yield from (os.fsdecode(line).rstrip("\r") for line in whole if line)
    if held:
        yield os.fsdecode(held).rstrip("\r")


def named_by(items: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Yield inputs with patterns and standard input put out, and whether each was named itself.

    Raises:
        DataError: a pattern that matches nothing.
    """
    for item in items:
        if str(item) == STDIN:
            yield from ((Path(line), False) for line in standard_input())
        elif is_pattern(item):
            path = None
            for path in matching(str(item)):
                yield path, False
            if path is None:
                raise DataError(
                    "nothing matches this pattern",
                    where=shown(str(item)),
                    remedy="** stands for folders of any depth, * for any name in one of them",
                )
        else:
            yield item, True


class Flow:
    """Makes parts of inputs; `given` has what all have in common."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._medium: Medium | None = None
        self._sources: list[Source] = []
        self._passed: list[tuple[str, str]] = []

    def parts(self, items: Iterable[Any], *, several: bool) -> Iterator[Part]:
        """Yield samples of inputs, in their order.

        Args:
            items: paths, patterns, `-`, or arrays by input.
            several: whether there is more than one, so that rows need the name of their table.

        Raises:
            DataError: an input named by itself that does not exist or is of another medium.
        """
        for item, sure in named_by(items):
            try:
                kind = data_kind(item)
            except DataError as error:
                if sure:
                    raise
                self._passed.append((shown(str(item)), error.message))
                continue
            if kind in {"folder", "file"}:
                yield from self._files(Path(item), sure=sure)
            else:
                yield from self._rest()
                yield from self._rows(item, kind, several=several)
        yield from self._rest()

    def _files(self, path: Path, *, sure: bool) -> Iterator[Part]:
        if self._medium is None:
            given = self._given
            self._medium = medium_of(path, given.rule, given.inputs, given.constants)
        medium = self._medium
        if path.is_dir():
            found = folder.walk(path, medium)
        else:
            if sure:
                require_file(path, medium, alone=False)
            reason = None if is_of(path, medium) else f"it is none of the {medium.name}"
            found = iter([(path, reason)])
        for one, reason in found:
            if reason is None:
                self._sources.append(one)
            else:
                self._passed.append((shown(str(one)), reason))
            if len(self._sources) + len(self._passed) >= FILES:
                yield from self._rest()

    def _rest(self) -> Iterator[Part]:
        sources, passed = self._sources, tuple(self._passed)
        self._sources, self._passed = [], []
        samples = None
        if sources:
            assert self._medium is not None
            given = self._given
            names = [shown(str(one)) for one in sources]
            samples = make(
                self._medium,
                Given(
                    given.inputs, names, sources=sources, constants=given.constants, rule=given.rule
                ),
                None,
            )
            samples.failure_bound = 1.0
        if sources or passed:
            yield Part(samples, np.arange(len(sources)), passed_over=passed)

    def _rows(self, item: Any, kind: str, *, several: bool) -> Iterator[Part]:
        given = self._given
        if kind != "table":
            samples = open_data(
                item, given.inputs, preprocess=given.rule, constants=given.constants,
                labelled=False,
            )  # fmt: skip
            yield Part(samples, np.arange(samples.n))
            return
        called = f"{shown(str(item))}, row" if several else "row"
        for table, broken in table_parts(Path(item), called):
            samples = from_table(table, given, None, None, labelled=False)
            samples.failure_bound = 1.0
            yield Part(samples, np.arange(1, samples.n), broken)
