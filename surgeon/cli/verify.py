"""`surgeon verify MODEL`: run the proof a file carries again, on this machine and provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon.cli import values
from surgeon.cli.group import Verb
from surgeon.cli.options import model_argument, takes
from surgeon.cli.session import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from surgeon.cli.screen import Screen


@click.command(cls=Verb)
@model_argument
@click.option(
    "--source",
    type=values.ModelFile(),
    metavar="ORIGINAL",
    help="Compare the frozen weights with the file it was made from.",
)
@takes("verify")
def verify(model: Path, *, source: Path | None, device: str, threads: int | None) -> Answer:
    """Check MODEL against its own proof: hashes, and outputs on the samples it carries.

    An integrity check, not a signature. Exits with 1 where a check fails.
    """
    from surgeon import operation

    body = operation.verify(model, source=source, device=device, threads=threads).document()
    return Answer(body, show, exit=0 if body["passed"] else 1)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """One row per check, then the verdict."""
    screen.table(
        ("check", "passed", "measured", "bound", "detail"),
        [
            (
                one["name"],
                one["passed"],
                _short(one["measured"]),
                _short(one["bound"]),
                one["detail"],
            )
            for one in body["checks"]
        ],
        gives_way=("bound", "measured") if body["passed"] else (),
    )
    exported = body["exported"]
    if exported is not None:
        forms = ", ".join(map(str, exported["forms"] or ()))
        screen.line(f"exported ({forms}) in {exported['precision']}")
        screen.line(f"from the file of sha256 {_short(exported['from_sha256'])}…")
    verdict = "passed" if body["passed"] else "FAILED"
    screen.line(f"{verdict} on {', '.join(body['providers'] or ('no provider',))}")


def _short(value: Any) -> Any:
    """Sixteen characters of a hash tell two apart; the document has all of it."""
    return value[:16] if isinstance(value, str) else value
