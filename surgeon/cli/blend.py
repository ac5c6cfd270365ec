"""`surgeon blend FIRST SECOND [MORE…] [DATA]`: a file whose weights lie between others'."""

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
@click.argument("more", nargs=-1, metavar="[MORE...] [DATA]")
@click.option(
    "--alpha",
    type=float,
    metavar="X",
    help="Share of SECOND's weights, 0 to 1. Default: what DATA says, else 0.5.",
)
@click.option(
    "--soup",
    type=values.Word(("uniform", "greedy")),
    help="The mean of all files, or of those that make it no worse on DATA. Default of three "
    "files and more: greedy with DATA.",
)
@takes("blend")
@click.pass_obj
def blend(
    session: Session, /, first: Path, second: Path, more: tuple[str, ...], **settings: Any
) -> Answer:
    """Write a file whose weights lie between those of others.

    They must be of one structure, such as a file before and after tuning. Of two the validation
    part of DATA chooses where between; three and more are averaged. Names that end in .onnx are
    files, DATA is the one that does not; all but the weights is the last file's.
    """
    if settings["out"] is None:
        raise UsageError(
            "missing: -o OUT", where="`surgeon blend`", remedy="name the file to write"
        )
    files = [values.ModelFile()(one) for one in more if one.lower().endswith(".onnx")]
    data = [one for one in more if not one.lower().endswith(".onnx")]
    if len(data) > 1 or data != list(more[len(files) :]):
        raise UsageError(
            f"the data stand last and are one: {', '.join(map(repr, data))}",
            where="`surgeon blend`",
            remedy="surgeon blend A.onnx B.onnx C.onnx DATA -o OUT",
        )
    from surgeon import blending

    with progress_for(session) as progress:
        found = blending.blend(
            first, second, *data, also=files, **settings, progress=progress,
            plugins=session.plugins,
        )  # fmt: skip
    return Answer(found.document(settings["out"]), show)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """What was tried, and what was chosen."""
    if body["soup"]:
        screen.table(
            ("file", "share", "quality", "loss"),
            [(one["path"], one["weight"], one["quality"], one["loss"]) for one in body["members"]],
        )
        kept = [one["path"] for one in body["members"] if one["weight"]]
        found = next((one["quality"] for one in body["tried"] if one["files"] == kept), None)
        screen.facts({"written": body["out"], "soup": body["soup"], "quality": found})
        return
    if body["tried"]:
        screen.table(
            ("alpha", "quality", "loss"),
            [(row["alpha"], row["quality"], row["loss"]) for row in body["tried"]],
        )
    screen.facts({"written": body["out"], "alpha": body["alpha"]})
