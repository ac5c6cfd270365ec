"""`surgeon demo`: all four cases side by side; the work is in `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgeon.cli import values
from surgeon.cli.group import Verb
from surgeon.cli.progress import progress_for
from surgeon.cli.screen import Screen, many, percent, size
from surgeon.cli.session import Answer, Session

if TYPE_CHECKING:
    from collections.abc import Mapping


@click.command(cls=Verb)
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path, file_okay=False),
    default="demo-out",
    show_default=True,
    metavar="FOLDER",
    help="Where the tuned files go.",
)
@click.option(
    "--budget",
    type=values.Positive(),
    metavar="SECONDS",
    help="Training time of each of the large cases.",
)
@click.pass_obj
def demo(session: Session, /, out: Path, budget: float | None) -> Answer:
    """Tune EfficientNet-Lite0 (ImageNet) on handwritten digits, by all four cases.

    A few minutes on two cores; the large cases train on a budget of seconds and claim
    nothing beyond it.
    """
    from surgeon_models import demo as show_case

    out.mkdir(parents=True, exist_ok=True)
    with progress_for(session) as progress:
        return Answer(show_case.run(out, progress=progress, budget=budget), show)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """The table of the four cases, then whatever else the demo wants said."""
    screen.table(
        (
            "case",
            "cut",
            "trained",
            "images",
            "seconds",
            "accuracy",
            "file",
            "latency",
        ),
        [
            (
                row["case"],
                _short(row["cut"]),
                many(row["trained_parameters"]),
                row["images_seen"],
                f"{row['seconds']:.1f}",
                percent(row["accuracy"]),
                size(row["bytes"]),
                None if row["latency"] is None else f"{1000 * row['latency']:.1f} ms",
            )
            for row in body["rows"]
            if not row.get("like")
        ],
    )
    for text in body.get("notes", ()):
        screen.line(text)


def _short(cut: str) -> str:
    """Write a depth with two decimals: what fits beside all the rest."""
    return f"@{float(cut[1:]):.2f}" if cut.startswith("@") else cut
