"""`surgeon cuts MODEL`: where the graph may be cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.group import Verb
from surgeon.cli.options import model_argument
from surgeon.cli.screen import Screen, many, shape, size
from surgeon.cli.session import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@click.command(cls=Verb)
@model_argument
def cuts(model: Path) -> Answer:
    """List the cut points of MODEL by depth, with what each keeps of the network."""
    from surgeon import operation

    return Answer(operation.cuts(model), show)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """One row per cut point; the late and the early one are marked."""
    marks = {body["early"]: "early", body["late"]: "late"}
    screen.table(
        ("depth", "tensor", "shape", "parameters", "multiply-adds", "size", ""),
        [
            (
                f"@{cut['depth']:.4f}",
                cut["tensor"],
                shape(cut["shape"]),
                many(cut["parameters"]),
                many(cut["macs"]),
                size(cut["bytes"]),
                marks.get(cut["tensor"], ""),
            )
            for cut in body["cuts"]
        ],
    )
    screen.line(f"{len(body['cuts'])} cuts; whole model to {body['output']}: {many(body['macs'])}")
