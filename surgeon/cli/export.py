"""`surgeon export FILE -o OUT`: the file in another form, proven against its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.group import Verb
from surgeon.cli.options import model_argument, takes
from surgeon.cli.progress import progress_for
from surgeon.cli.screen import size
from surgeon.cli.session import Answer, Session
from surgeon.errors import UsageError
from surgeon.tasks.figures import said, written

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from surgeon.cli.screen import Screen

SHOWN = 5


@click.command(cls=Verb)
@model_argument
@takes("export")
@click.pass_obj
def export(session: Session, /, model: Path, *, out: Path | None, **settings: Any) -> Answer:
    """Write MODEL in another form: labels, plan and preprocessing stay, the proof is made anew.

    Both are run on a few inputs first: a file that would answer otherwise is not written.
    """
    if out is None:
        raise UsageError(
            "missing: -o OUT", where="`surgeon export`", remedy="name the file to write"
        )
    from surgeon import exporting

    with progress_for(session) as progress:
        body = exporting.export(model, out, **settings, progress=progress, plugins=session.plugins)
    return Answer(body, show)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """What was written, and how far its answers lie from the source's."""
    compared, quantised = body["comparison"], body["quantised"]
    alike = compared and compared["agreement"]
    screen.facts(
        {
            "written": ", ".join(body["files"]),
            "bytes": size(body["bytes"]),
            "forms": ", ".join(body["forms"]),
            "opset": body["opset"],
            "outputs": ", ".join(one["name"] for one in body["outputs"]),
            "temperature": body["temperature"],
            "compared on": f"{compared['samples']} inputs" if compared else None,
            "largest difference": f"{compared['max_difference']:.2g}" if compared else None,
            "same answer": None if alike is None else f"{100 * alike:.1f} %",
        }
    )
    if quantised is not None:
        floats = quantised["floats"]
        screen.line(
            f"{quantised['layers']} layers in 8 bits; answers are off by "
            f"{100 * quantised['error']:.1f} % of their spread"
        )
        if floats:
            screen.line(f"{len(floats)} layers that lose most stay as they are:")
            for name in floats if screen.verbose else floats[:SHOWN]:
                screen.line(f"  {name}")
            if len(floats) > SHOWN and not screen.verbose:
                screen.line(f"  and {len(floats) - SHOWN} more (-v)")
    if compared and compared["checked"]:
        quality = [compared[f"quality_{when}"] for when in ("before", "after")]
        screen.line()
        screen.table(
            ("", "before", "after"),
            [
                (said(compared["measure"]), *(written(compared["measure"], q) for q in quality)),
                ("one sample", *(f"{1000 * compared[f'seconds_{when}']:.1f} ms"
                                 for when in ("before", "after"))),
                ("size", size(compared["bytes_before"]), size(body["bytes"])),
            ],
        )  # fmt: skip
