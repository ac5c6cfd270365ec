"""Inputs on their way: paths, patterns, folders and tables become samples part by part.

Nothing is held but one part, the names in one folder, and what lies in memory anyway. What must not
enter: running, formats.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from surgeon.data import folder
from surgeon.data.media.arrays import from_arrays
from surgeon.data.media.registry import PICTURES, TEXTS, is_of, make
from surgeon.data.read import data_kind, medium_of, open_data, require_file
from surgeon.data.rows import from_table
from surgeon.data.table_parts import table_parts
from surgeon.errors import DataError
from surgeon.graph.reading import open_regular, shown, what_lies_at
from surgeon.records import Preprocess

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from surgeon.data.samples import Given, Samples, Source
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
    found, deep = _matching(Path(path.anchor), parts), parts.count("**")
    if deep:  # what lies in a folder is matched by itself
        found = (one for one in found if not one.is_dir())
    yield from found if deep < 2 else dict.fromkeys(found)


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


def named_by(items: Iterable[Any], *, sure: bool = True) -> Iterator[tuple[Any, bool]]:
    """Yield inputs with patterns and standard input put out, and whether each was named itself.

    Args:
        items: as they are given.
        sure: whether those that are neither were named by somebody.

    Raises:
        DataError: a pattern that matches nothing.
    """
    for item in items:
        if isinstance(item, str | Path) and str(item) == STDIN:
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
            yield item, sure


def texts_of(items: Iterable[Any]) -> Iterator[bytes]:
    """Yield texts: each line of a file (a `Path`) or of standard input (`-`); a `str` is one.

    Raises:
        DataError: a file cannot be read.
    """
    for item in items:
        if isinstance(item, Path):
            with contextlib.ExitStack() as stack:
                try:
                    file = sys.stdin.buffer
                    file = file if str(item) == STDIN else stack.enter_context(open_regular(item))
                    yield from (line.rstrip(b"\r\n") for line in file)
                except OSError as error:
                    told = f"the file cannot be read: {error.strerror or error}"
                    raise DataError(told, where=shown(str(item)), remedy="check the path") from None
        else:
            yield str(item).encode("utf-8", "replace")


class Flow:
    """Makes parts of inputs; `given` has what all have in common, `most` is the files of a part."""

    def __init__(self, given: Given, most: float = FILES) -> None:
        self._given, self._most = given, most
        self._medium: Medium | None = None
        self._sources: list[Source] = []
        self._names: list[str] = []
        self._values: list[NDArray[Any]] = []
        self._passed: list[tuple[str, str]] = []

    def parts(self, items: Iterable[Any], *, several: bool, sure: bool = True) -> Iterator[Part]:
        """Yield samples of inputs, in their order.

        Args:
            items: paths, patterns, `-`; pictures of Pillow, arrays of one sample, content of files
                as bytes; or arrays by input.
            several: whether there is more than one, so that rows need the name of their table.
            sure: whether somebody named each.

        Raises:
            DataError: an input named by itself that does not exist or is of another medium.
        """
        for number, (item, named) in enumerate(named_by(items, sure=sure), 1):
            if isinstance(item, Image.Image | np.ndarray | bytes):
                yield from self._held(item, f"input {number}")
                continue
            try:
                kind = data_kind(item)
            except DataError as error:
                if named:
                    raise
                self._passed.append((shown(str(item)), error.message))
                continue
            if kind in {"folder", "file"}:
                yield from self._files(Path(item), sure=named)
            else:
                yield from self._rest()
                yield from self._rows(item, kind, several=several)
        yield from self._rest()

    def lines(self, items: Iterable[Any]) -> Iterator[Part]:
        """Yield samples of texts, see `texts_of`."""
        for number, text in enumerate(texts_of(items), 1):
            yield from self._source(text, f"line {number}", TEXTS)
        yield from self._rest()

    def _held(self, item: Any, name: str) -> Iterator[Part]:
        """Take what lies in memory: a picture, the content of a file, or values of one sample."""
        given, medium = self._given, PICTURES
        pixels = isinstance(item, np.ndarray) and isinstance(given.rule, Preprocess)
        if pixels and item.dtype == np.uint8 and item.ndim in (2, 3):
            item = Image.fromarray(item)
        if isinstance(item, np.ndarray):
            if self._sources or (self._values and self._values[0].shape != item.shape):
                yield from self._rest()
            self._values.append(item)
            self._names.append(name)
            if len(self._values) >= self._most:
                yield from self._rest()
            return
        if isinstance(item, bytes):
            medium = medium_of(Path(name), given.rule, given.inputs, given.constants)
        yield from self._source(item, getattr(item, "filename", "") or name, medium)

    def _source(self, source: Source, name: str, medium: Medium) -> Iterator[Part]:
        if self._values or (self._sources and self._medium is not medium):
            yield from self._rest()
        self._medium = medium
        self._sources.append(source)
        self._names.append(name)
        if len(self._sources) + len(self._passed) >= self._most:
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
                yield from self._source(one, shown(str(one)), medium)
            else:
                self._passed.append((shown(str(one)), reason))

    def _rest(self) -> Iterator[Part]:
        """Yield what was taken so far."""
        sources, names, values = self._sources, self._names, self._values
        self._sources, self._names, self._values = [], [], []
        samples = None
        given = replace(self._given, names=names, sources=sources)
        if sources:
            assert self._medium is not None
            samples = make(self._medium, given, None)
        elif values:
            samples = self._stacked(values, given)
        passed, self._passed = tuple(self._passed), []
        if samples is not None:
            samples.failure_bound = 1.0
        if samples is not None or passed:
            yield Part(samples, np.arange(len(names)), passed_over=passed)

    def _stacked(self, values: list[NDArray[Any]], given: Given) -> Samples | None:
        """Return samples of arrays of one shape; what the graph does not take is passed over."""
        needed = [info for info in given.inputs if info.name not in given.constants]
        if len(needed) != 1:
            told = f"an array feeds one input, the model has {len(needed)}"
            self._passed += [(name, told) for name in given.names]
            return None
        try:
            stacked = np.stack(values, needed[0].batch_axis or 0)
            arrays = {f"input:{needed[0].name}": stacked}
            return from_arrays(arrays, given.inputs, given.constants, labelled=False, named=given)
        except DataError as error:
            self._passed += [(name, error.message) for name in given.names]
            return None

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
        for table, first, broken in table_parts(Path(item), called):
            samples = from_table(table, given, None, None, labelled=False)
            samples.failure_bound = 1.0
            yield Part(samples, np.arange(first, samples.n), broken)
