"""`surgeon cases`: the four and every third party's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.group import Verb
from surgeon.cli.session import Answer, Session
from surgeon.plugin.manager import DISTRIBUTION

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
    """An entry per case; whose it is, where it did not come with surgeon."""
    screen.entries((case["name"], case["summary"] + whose(case)) for case in body["cases"])


def whose(offer: Mapping[str, Any]) -> str:
    """Return the distribution of an offer in brackets, empty for our own."""
    if offer["distribution"] == DISTRIBUTION:
        return ""
    return f" ({offer['distribution']} {offer['version'] or ''}".rstrip() + ")"
