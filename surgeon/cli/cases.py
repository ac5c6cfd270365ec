"""`surgeon cases`: the four and every third party's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.group import Verb
from surgeon.cli.session import Answer, Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgeon.cli.screen import Screen


@click.command(cls=Verb)
@click.pass_obj
def cases(session: Session) -> Answer:
    """List the cases of transfer learning, and which distribution each comes from."""
    from surgeon import operation

    return Answer(operation.cases(session.plugins), show)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """One row per case."""
    screen.table(
        ("case", "what it does", "from"),
        [
            (case["name"], case["summary"], f"{case['distribution']} {case['version'] or ''}")
            for case in body["cases"]
        ],
    )
