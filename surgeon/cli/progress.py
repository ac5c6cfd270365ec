"""Progress on stderr: a bar on a terminal, a plain line now and then anywhere else.

The work calls `progress(stage, done, total, **figures)`: `stage` names what is going on, `done` of
`total` (None = unknown; 1.0 = `done` is a share) how far it is. Figures that are shown, each until
a newer one is told: `epoch`, `loss`, `accuracy` (of the validation), `throughput` (samples per
second) and `left` (seconds; a bar reckons it itself).
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from surgeon.cli.session import Session, say
from surgeon.tasks.figures import said, written

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress, TaskID

SECONDS_BETWEEN_LINES = 1.0


class Report(Protocol):
    """What the work calls to say how far it is."""

    def __call__(self, stage: str, done: float, total: float | None = None, **figures: Any) -> None:
        """Tell that `done` of `total` is reached in `stage`."""


@contextlib.contextmanager
def progress_for(session: Session) -> Iterator[Report]:
    """Choose the manner of progress for this run; nothing with `-q`."""
    if session.quiet:
        yield _silent
    elif sys.stderr.isatty():
        with _bars() as bars:
            yield BarProgress(bars)
    else:
        yield LineProgress()


def _silent(stage: str, done: float, total: float | None = None, **figures: Any) -> None:
    """Say nothing."""


class LineProgress:
    """At most one line a second and stage, and always the last one of a stage."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}
        self._finished: set[str] = set()
        self._figures: dict[str, dict[str, Any]] = {}

    def __call__(self, stage: str, done: float, total: float | None = None, **figures: Any) -> None:
        """Write a line if one is due."""
        known = newest(self._figures, stage, figures)
        now = time.monotonic()
        finished = total is not None and done >= total
        due = now - self._said.get(stage, -math.inf) >= SECONDS_BETWEEN_LINES
        if finished:
            due = stage not in self._finished
            self._finished.add(stage)
        else:
            self._finished.discard(stage)
        if due:
            self._said[stage] = now
            say("  ".join([f"{stage} {_reached(done, total)}", *described(known)]))


class BarProgress:
    """One bar per stage."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._figures: dict[str, dict[str, Any]] = {}

    def __call__(self, stage: str, done: float, total: float | None = None, **figures: Any) -> None:
        """Move the stage's bar."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, figures="")
        known = newest(self._figures, stage, figures) | {"left": None}
        text = "  ".join(described(known))
        self._bars.update(self._tasks[stage], completed=done, total=total, figures=text)


def newest(known: dict[str, dict[str, Any]], stage: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Keep the figures that were told, and return the last known of each."""
    told = {name: value for name, value in figures.items() if value is not None}
    known[stage] = known.get(stage, {}) | told
    return known[stage]


def described(figures: dict[str, Any]) -> list[str]:
    """Write the figures that are known, in a fixed order."""
    usual = ("epoch", "loss", "accuracy", "throughput", "left")
    others = {name: value for name, value in figures.items() if name not in usual}
    forms = {
        "epoch": "epoch {}",
        "loss": "loss {:.4f}",
        "accuracy": "accuracy {:.2%}",
        **{name: f"{said(name)} {written(name, value)}" for name, value in others.items()},
        "throughput": "{:.0f} samples/s",
        "left": "{:.0f} s left",
    }
    return [
        form.format(figures[name]) for name, form in forms.items() if figures.get(name) is not None
    ]


def _reached(done: float, total: float | None) -> str:
    if total is None:
        return f"{done:g}"
    return f"{done:.0%}" if total == 1 else f"{done:g}/{total:g}"


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    whole = Column(no_wrap=True)
    rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)  # gives way on a narrow terminal
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=whole),
        BarColumn(bar_width=12),
        TaskProgressColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[figures]}", markup=False, table_column=rest),
        console=Console(file=sys.stderr),
        expand=True,
        redirect_stdout=False,  # stdout is reserved for the answer
        redirect_stderr=True,  # a warning line must not tear the bar
    )
