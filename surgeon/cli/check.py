"""`surgeon check MODEL`: the pre-flight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.group import Verb
from surgeon.cli.options import model_argument, takes
from surgeon.cli.session import Answer, Session

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from surgeon.cli.screen import Screen


@click.command(cls=Verb)
@model_argument
@takes("check")
@click.pass_obj
def check(session: Session, /, model: Path, **settings: Any) -> Answer:
    """Name everything in MODEL that will not convert or train, all at once.

    Exits with 1 where there is an error among the findings.
    """
    from surgeon import operation

    body = operation.check(model, **settings, plugins=session.plugins)
    return Answer(body, show, exit=0 if body["ok"] else 1)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """One paragraph per finding, then the verdict."""
    for finding in body["findings"]:
        screen.line(f"{finding['level']}: {finding['message']}")
        if finding["node"] or finding["operator"]:
            screen.line(f"  where: {_place(finding)}")
        if finding["remedy"]:
            screen.line(f"  to do: {finding['remedy']}")
    errors = sum(finding["level"] == "error" for finding in body["findings"])
    case = f" for {body['case']}" if body["case"] else ""
    if body["ok"]:
        others = len(body["findings"]) - errors
        screen.line(f"ok{case}" + (f", {others} warnings" if others else ""))
    else:
        screen.line(f"not ok{case}: {errors} errors")


def _place(finding: Mapping[str, Any]) -> str:
    domain = f"{finding['domain']}::" if finding["domain"] else ""
    version = f" version {finding['version']}" if finding["version"] is not None else ""
    operator = f"{domain}{finding['operator']}{version}" if finding["operator"] else ""
    node = f"node {finding['node']!r}" if finding["node"] else ""
    return ", ".join(part for part in (node, operator) if part)
