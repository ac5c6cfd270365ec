"""What people see on stdout: rich tables on a terminal, plain aligned columns anywhere else.

Plain output never truncates or wraps, so that it can be searched and cut by other tools.
"""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Screen:
    """Where an answer is shown."""

    def __init__(self, stream: TextIO, *, verbose: int = 0) -> None:
        self.stream = stream
        self.verbose = verbose
        self.terminal = stream.isatty()

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return shutil.get_terminal_size((80, 24)).columns

    def line(self, text: str = "") -> None:
        """Write a line; a terminal gets it wrapped between words."""
        for part in self._wrapped(text, ""):
            self.stream.write(part + "\n")

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Write name and value, one pair per line; what is unknown (None) is left out."""
        known = {name: cell(value) for name, value in facts.items() if value is not None}
        width = max(map(len, known), default=0)
        for name, value in known.items():
            for part in self._wrapped(f"{name:<{width}}  {value}", " " * (width + 2)):
                self.stream.write(part + "\n")

    def _wrapped(self, text: str, indent: str) -> list[str]:
        """Return a text in lines that fit the terminal, the later ones indented."""
        if not self.terminal or len(text) <= self.width:
            return [text]
        import textwrap

        own = text[: len(text) - len(text.lstrip())]
        return textwrap.wrap(
            text, max(self.width, len(indent) + 20), subsequent_indent=own + indent,
            break_long_words=False, break_on_hyphens=False, drop_whitespace=True,
            replace_whitespace=False,
        )  # fmt: skip

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        title: str | None = None,
        gives_way: Sequence[str] = (),
    ) -> None:
        """Write a table; columns of numbers are aligned to the right.

        On a terminal too narrow for all, the columns of `gives_way` are left out in their order
        while that is so.
        """
        values = [list(row) for row in rows]
        gone = self._left_out(columns, values, gives_way)
        kept = [place for place, name in enumerate(columns) if name not in gone]
        columns = [columns[place] for place in kept]
        values = [[row[place] for place in kept] for row in values]
        numeric = [all(_is_number(row[index]) for row in values) for index in range(len(columns))]
        texts = [[cell(value) for value in row] for row in values]
        if self.terminal:
            self._rich_table(columns, texts, numeric, title)
            if gone:
                self.line(f"left out for want of columns: {', '.join(gone)} (--json has them)")
        else:
            self._plain_table(columns, texts, numeric, title)

    def entries(self, entries: Iterable[tuple[str, str]], *, within: int = 80) -> None:
        """Write names and what is said of each, wrapped to the terminal, or to `within` columns.

        The first line of an entry begins with its name, so that a search finds it.
        """
        import textwrap

        listed = list(entries)
        room = min(self.width, within) if self.terminal else within
        wide = min(max((len(name) for name, _ in listed), default=0), room // 3)
        for name, text in listed:
            lines = textwrap.wrap(
                text, room - wide - 2, break_long_words=False, break_on_hyphens=False
            ) or [""]
            first = f"{name:<{wide}}  "
            if len(name) > wide:
                self.stream.write(f"{name}\n")
                first = " " * (wide + 2)
            for line in lines:
                self.stream.write(f"{first}{line}".rstrip() + "\n")
                first = " " * (wide + 2)

    def _left_out(
        self, columns: Sequence[str], rows: list[list[Any]], gives_way: Sequence[str]
    ) -> list[str]:
        """Return the columns that a terminal has no room for."""
        if not self.terminal:
            return []
        lines = [list(columns), *([cell(value) for value in row] for row in rows)]
        widths = {name: max(len(line[i]) for line in lines) for i, name in enumerate(columns)}
        gone: list[str] = []
        for name in (name for name in gives_way if name in widths):
            if sum(widths.values()) + 2 * (len(widths) - 1) <= self.width:
                break
            del widths[name]
            gone.append(name)
        return gone

    def _plain_table(
        self,
        columns: Sequence[str],
        rows: list[list[str]],
        numeric: list[bool],
        title: str | None,
    ) -> None:
        if title:
            self.line(title)
        lines = [list(columns), *rows]
        widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
        for line in lines:
            cells = zip(line, widths, numeric, strict=True)
            aligned = (f"{text:>{w}}" if right else f"{text:<{w}}" for text, w, right in cells)
            self.line("  ".join(aligned).rstrip())

    def _rich_table(
        self,
        columns: Sequence[str],
        rows: list[list[str]],
        numeric: list[bool],
        title: str | None,
    ) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False,
            pad_edge=False, padding=(0, 1, 0, 0),
        )  # fmt: skip
        for name, right in zip(columns, numeric, strict=True):
            table.add_column(
                name,
                justify="right" if right else "left",
                overflow="fold",
                no_wrap=right or name == columns[0],
            )
        for row in rows:
            table.add_row(*map(Text, row))  # Text: a tensor's name is not markup
        Console(file=self.stream, width=self.width).print(table)


UNITS = re.compile(r"-?\d[\d.]*( (%|ms|s|B|kB|MB|GB|k|M|G))?|-")
"""A number as `percent`, `size` and `many` write it."""


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return UNITS.fullmatch(value) is not None
    return isinstance(value, int | float | None) and not isinstance(value, bool)


def cell(value: Any) -> str:
    """Write a value for a table: `-` where it is unknown, numbers short."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case _:
            return str(value)


def percent(fraction: float | None) -> str:
    """Write a fraction as per cent: 0.9312 → `93.1 %`."""
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def size(count: float | None) -> str:
    """Write bytes for people, in powers of 1000."""
    if count is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def many(count: int | None) -> str:
    """Write a count for people: 4_652_008 → `4.65 M`."""
    if count is None:
        return "-"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.2f} {unit}"
    return str(count)


def shape(dims: Sequence[Any] | None) -> str:
    """Write a shape: `batch×3×224×224`, `?` for what is unknown."""
    if dims is None:
        return "?"
    return "×".join("?" if dim is None else str(dim) for dim in dims) or "scalar"


def head(said: Mapping[str, Any]) -> str:
    """Return the head of a plan: its kind as it is asked for, with what is not the default."""
    given, taps = dict(said.get("options") or {}), said.get("taps") or ()
    if said.get("pool", "mean") != "mean":
        given["pool"] = said["pool"]
    settings = ",".join(f"{key}={value}" for key, value in given.items())
    beside = f", reads {len(taps)} cuts more" if taps else ""
    return f"{said['kind']}{':' if settings else ''}{settings}{beside}"
