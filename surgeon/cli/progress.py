"""Progress on stderr: a bar on a terminal, a plain line now and then anywhere else.

The work calls `progress(stage, done, total, **figures)`: `stage` names what is going on, `done` of
`total` (None = unknown) how far it is. Figures that are shown: `epoch`, `loss`, `accuracy`
(validation) and `throughput` (samples per second).
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from surgeon.cli.session import Session, say

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

    def __call__(self, stage: str, done: float, total: float | None = None, **figures: Any) -> None:
        """Write a line if one is due."""
        now = time.monotonic()
        finished = total is not None and done >= total
        if not finished and now - self._said.get(stage, -SECONDS_BETWEEN_LINES) < (
            SECONDS_BETWEEN_LINES
        ):
            return
        self._said[stage] = now
        reached = f"{done:g}" if total is None else f"{done:g}/{total:g}"
        say("  ".join(part for part in (f"{stage} {reached}", described(figures)) if part))


class BarProgress:
    """One bar per stage."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: float, total: float | None = None, **figures: Any) -> None:
        """Move the stage's bar."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, figures="")
        self._bars.update(
            self._tasks[stage], completed=done, total=total, figures=described(figures)
        )


def described(figures: dict[str, Any]) -> str:
    """Write the figures that are known, in a fixed order."""
    forms = {
        "epoch": "epoch {}",
        "loss": "loss {:.4f}",
        "accuracy": "accuracy {:.2%}",
        "throughput": "{:.0f} samples/s",
    }
    return "  ".join(
        form.format(figures[name]) for name, form in forms.items() if figures.get(name) is not None
    )


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        redirect_stdout=False,  # stdout is reserved for the answer
        redirect_stderr=True,  # a warning line must not tear the bar
    )
