"""`surgeon blend FIRST SECOND [DATA]`: a file whose weights lie between those of two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon.cli import values
from surgeon.cli.group import Verb
from surgeon.cli.options import takes
from surgeon.cli.progress import progress_for
from surgeon.cli.session import Answer, Session
from surgeon.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from surgeon.cli.screen import Screen


@click.command(cls=Verb)
@click.argument("first", type=values.ModelFile())
@click.argument("second", type=values.ModelFile())
@click.argument("data", required=False)
@click.option(
    "--alpha",
    type=float,
    metavar="X",
    help="Share of SECOND's weights, 0 to 1. Default: what DATA says, else 0.5.",
)
@takes("blend")
@click.pass_obj
def blend(
    session: Session, /, first: Path, second: Path, data: str | None, **settings: Any
) -> Answer:
    """Write a file whose weights lie between those of FIRST and SECOND.

    They must be of one structure, such as a file before and after tuning. The validation part of
    DATA chooses where between; all but the weights is SECOND's.
    """
    if settings["out"] is None:
        raise UsageError(
            "missing: -o OUT", where="`surgeon blend`", remedy="name the file to write"
        )
    from surgeon import blending

    with progress_for(session) as progress:
        found = blending.blend(
            first, second, data, **settings, progress=progress, plugins=session.plugins
        )
    return Answer(found.document(settings["out"]), show)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """What was tried, and what was chosen."""
    if body["tried"]:
        screen.table(
            ("alpha", "quality", "loss"),
            [(row["alpha"], row["quality"], row["loss"]) for row in body["tried"]],
        )
    screen.facts({"written": body["out"], "alpha": body["alpha"]})
