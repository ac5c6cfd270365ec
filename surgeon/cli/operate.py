"""`surgeon operate MODEL`: the surgery alone, without training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.group import Verb
from surgeon.cli.options import model_argument, takes
from surgeon.cli.screen import head
from surgeon.cli.session import Answer, Session
from surgeon.cli.values import check_output
from surgeon.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from surgeon.cli.screen import Screen


@click.command(cls=Verb)
@model_argument
@takes("operate")
@click.pass_obj
def operate(
    session: Session,
    /,
    model: Path,
    *,
    out: Path | None,
    force: bool,
    dry_run: bool,
    **settings: Any,
) -> Answer:
    """Cut MODEL and give it a new head, ready to be trained."""
    missing = [
        name
        for name, given in (
            ("-o OUT (or --dry-run)", out or dry_run),
            ("--case", settings["case"] or settings["start"]),
            ("--classes", settings["classes"] or settings["start"] or settings["case"]),
        )
        if not given
    ]
    if missing:
        raise UsageError(
            f"missing: {', '.join(missing)}",
            where="`surgeon operate`",
            remedy="`surgeon cases` lists the cases",
        )
    if out is not None and not dry_run:
        check_output(out, force=force)
    from surgeon import operation

    operated = operation.operate(model, **settings, plugins=session.plugins)
    if out is None or dry_run:
        return Answer(operated.document(None), show)
    operated.save(out, force=force)
    return Answer(operated.document(out), show)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """The plan and what changed; with -v the names of what trains."""
    plan = body["plan"]
    screen.facts(
        {
            "written": body["out"] or "nothing: a dry run",
            "case": plan["case"],
            "cut": plan["cut"] if plan["depth"] is None else f"{plan['cut']} (@{plan['depth']})",
            "classes": plan["classes"],
            "outputs": plan["outputs"] if plan["classes"] is None else None,
            "head": head(plan["head"]),
            "weights start": plan["init"],
            "why": plan["why"] or None,
            "output": body["output"],
            "nodes": f"{body['removed_nodes']} removed, {body['added_nodes']} added",
            "trains": f"{len(body['trainable'])} initializers",
            "frozen": f"{len(body['frozen'])} initializers",
            "outputs dropped": ", ".join(plan["dropped_outputs"]) or None,
        }
    )
    for change in body["normalized"]:
        screen.line(f"normalized: {change['what']} ×{change['count']}")
    if screen.verbose:
        for name in body["trainable"]:
            screen.line(f"trains: {name}")
