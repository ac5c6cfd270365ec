"""`surgeon report FILE|RUN.json -o OUT.html`: one page that tells a run or a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.group import Verb
from surgeon.cli.options import takes
from surgeon.cli.screen import size
from surgeon.cli.session import Answer
from surgeon.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgeon.cli.screen import Screen


@click.command(cls=Verb)
@click.argument(
    "sources", nargs=-1, required=True, metavar="FILE|RUN.json...",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)  # fmt: skip
@takes("report")
def report(sources: tuple[Path, ...], *, out: Path | None, force: bool) -> Answer:
    """Tell a run, or a file, on one page of HTML that needs nothing else.

    RUN.json is what finetune, evaluate or advise printed with --json, FILE an ONNX file. One of
    each kind makes one page.
    """
    if out is None:
        raise UsageError("missing: -o OUT.html", where="`surgeon report`", remedy="name a file")
    from surgeon.reporting import report as tell

    return Answer(tell(list(sources), out, force=force), show)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """Where the page lies, and how large it is."""
    screen.facts({"written": body["out"], "size": size(body["bytes"])})
