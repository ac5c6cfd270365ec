"""`surgeon apply MODEL ADAPTER`: an adapter that was kept apart, put back into its file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon.cli import values
from surgeon.cli.group import Verb
from surgeon.cli.options import model_argument, takes
from surgeon.cli.session import Answer, Session
from surgeon.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from surgeon.cli.screen import Screen


@click.command(cls=Verb)
@model_argument
@click.argument("adapter", type=values.ModelFile())
@takes("apply")
@click.pass_obj
def apply(session: Session, /, model: Path, adapter: Path, **settings: Any) -> Answer:
    """Write the file that finetune delivered, from MODEL and what --adapter-out kept.

    MODEL is the very file that the adapter was learnt on. Several adapters may be kept for one.
    """
    if settings["out"] is None:
        raise UsageError(
            "missing: -o OUT", where="`surgeon apply`", remedy="name the file to write"
        )
    from surgeon.job import kept

    tuned = kept.apply(model, adapter, **settings, plugins=session.plugins)
    return Answer(
        {
            "out": str(settings["out"]),
            "adapter": None if tuned.plan is None else tuned.plan.adapter,
            "labels": tuned.labels,
            "warnings": list(tuned.notes),
        },
        show,
    )


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """Where it lies, and what was put back."""
    screen.facts({"written": body["out"], "adapter": body["adapter"]})
