"""Where lines, points and boxes of a drawing lie: plain geometry, which templates write as SVG.

What must not enter: what the numbers mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 16, 26
DENSE = 40
"""Points of a line from which they are not drawn one by one."""


@dataclass(frozen=True)
class Series:
    """A line to be drawn.

    Attributes:
        name: of the legend.
        points: x, y.
        errors: how far each may be off, or nothing.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    errors: tuple[float, ...] = ()


@dataclass(frozen=True)
class Line:
    """A line as it lies: its path, its points, and bars of what each may be off."""

    name: str
    path: str
    dots: tuple[tuple[float, float], ...]
    bars: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Chart:
    """A drawing: lines on two axes.

    Attributes:
        key: its identity on the page.
        title: what it shows.
        alt: what it shows, for those who do not see it.
        across: what the horizontal axis is.
        lines: drawn.
        columns: ticks of the horizontal axis: place, text.
        rows: ticks of the vertical one.
        marks: vertical lines: place, text, whether the text stands left of it.
    """

    key: str
    title: str
    alt: str
    across: str
    lines: tuple[Line, ...]
    columns: tuple[tuple[float, str], ...]
    rows: tuple[tuple[float, str], ...]
    marks: tuple[tuple[float, str, bool], ...] = ()
    width: int = field(default=WIDTH)
    height: int = field(default=HEIGHT)
    left: int = field(default=LEFT)
    right: int = field(default=WIDTH - RIGHT)
    top: int = field(default=TOP)
    bottom: int = field(default=HEIGHT - BOTTOM)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Return round numbers between two, about as many as asked for."""
    span = high - low
    if not span > 0:
        return [low]
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def chart(
    key: str, title: str, series: Iterable[Series], *, across: str, share: bool = False,
    whole: bool = False, marks: Sequence[tuple[float, str]] = (),
    between: tuple[float, float] | None = None,
) -> Chart | None:  # fmt: skip
    """Lay a chart out; None where there is nothing to draw.

    Args:
        key: its identity on the page.
        title: what it shows.
        series: the lines.
        across: what the horizontal axis is.
        share: whether values are shares, written as per cent.
        whole: whether the horizontal axis counts.
        marks: vertical lines, with their texts.
        between: the ends of the horizontal axis; None = those of the points.
    """
    drawn = [one for one in series if one.points]
    if not drawn:
        return None
    xs = [x for one in drawn for x, _ in one.points]
    x_ends = between or (min(xs), max(xs))
    y_ends = _ends(drawn, share=share)
    place = _Place(x_ends, y_ends)
    columns = [x for x in ticks(*x_ends) if not whole or float(x).is_integer()]
    rows = ticks(*y_ends)
    return Chart(
        key, title, _alt(title, drawn, share=share), across,
        tuple(_line(one, place) for one in drawn),
        tuple((place.x(x), f"{x:g}") for x in columns),
        tuple((place.y(y), written(y, share=share)) for y in rows),
        tuple((place.x(x), text, place.x(x) > WIDTH / 2) for x, text in marks),
    )  # fmt: skip


@dataclass(frozen=True)
class _Place:
    """Where numbers lie between the ends of two axes."""

    across: tuple[float, float]
    up: tuple[float, float]

    def x(self, value: float) -> float:
        return round(LEFT + _part(value, self.across) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - _part(value, self.up) * (HEIGHT - TOP - BOTTOM), 1)


def _part(value: float, ends: tuple[float, float]) -> float:
    low, high = ends
    return 0.5 if high <= low else min(max((value - low) / (high - low), 0.0), 1.0)


def _ends(drawn: Sequence[Series], *, share: bool) -> tuple[float, float]:
    """Return the ends of the vertical axis: a little room, and no share beyond 0 and 1."""
    values = [
        y + sign * error for one in drawn
        for (_, y), error in zip(one.points, one.errors or [0.0] * len(one.points), strict=True)
        for sign in (-1, 1)
    ]  # fmt: skip
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or abs(high) * 0.1 or 0.5
    below = low - room if low < 0 or share else max(low - room, 0.0)
    return (max(below, 0.0), min(high + room, 1.0)) if share and low >= 0 else (below, high + room)


def _line(one: Series, place: _Place) -> Line:
    laid = [(place.x(x), place.y(y)) for x, y in one.points]
    path = "M" + " L".join(f"{x:g} {y:g}" for x, y in laid)
    bars = tuple(
        (place.x(x), place.y(y - error), place.y(y + error))
        for (x, y), error in zip(one.points, one.errors, strict=False)
    )
    return Line(one.name, path, tuple(laid) if len(laid) <= DENSE else (), bars)


def written(value: float, *, share: bool) -> str:
    """Write a number of an axis."""
    return f"{100 * value:.3g} %" if share else f"{value:.3g}"


def _alt(title: str, drawn: Sequence[Series], *, share: bool) -> str:
    """Say in words where each line begins and ends."""
    said = "; ".join(
        f"{one.name} from {written(one.points[0][1], share=share)} "
        f"to {written(one.points[-1][1], share=share)}, {len(one.points)} points"
        for one in drawn
    )
    return f"{title}: {said}"


@dataclass(frozen=True)
class Box:
    """A part of the network in a drawing, in thousandths of its width."""

    x: float
    width: float
    kind: str
    title: str


NETWORK, GAP, HEAD = 870.0, 14.0, 116.0
"""Widths of the network, of the gap behind it, and of a head."""
LEAST = 4.0


def cut_at(depth: float | None) -> float:
    """Return where a depth lies."""
    return NETWORK * (1.0 if depth is None else min(max(depth, 0.0), 1.0))


def boxes(parts: Sequence[tuple[float, str, str]], depth: float | None) -> list[Box]:
    """Lay parts of a network side by side, each from its depth to the next one's.

    Args:
        parts: depth from which each goes, its kind, its title; by depth.
        depth: of the cut, where the last ends.
    """
    end = max(cut_at(depth), LEAST * len(parts), 1.0)
    starts = [0.0, *(cut_at(one[0]) for one in parts[1:])] if parts else []
    for place in range(1, len(starts)):  # each can be seen
        least, most = starts[place - 1] + LEAST, end - LEAST * (len(starts) - place)
        starts[place] = min(max(starts[place], least), most)
    ends = [*starts[1:], end]
    return [
        Box(round(x, 1), round(to - x, 1), kind, title)
        for x, to, (_, kind, title) in zip(starts, ends, parts, strict=True)
    ]
