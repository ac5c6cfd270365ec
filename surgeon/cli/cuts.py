"""`surgeon cuts MODEL`: where the graph may be cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.group import Verb
from surgeon.cli.options import model_argument, takes
from surgeon.cli.progress import progress_for
from surgeon.cli.screen import Screen, many, shape, size
from surgeon.cli.session import Answer, Session

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@click.command(cls=Verb)
@model_argument
@click.option("--time", "timed", is_flag=True, help="Measure one sample's time up to each cut.")
@takes("cuts")
@click.pass_obj
def cuts(session: Session, /, model: Path, **settings: Any) -> Answer:
    """List the cut points of MODEL by depth, with what each keeps of the network."""
    from surgeon import operation

    with progress_for(session) as progress:
        return Answer(operation.cuts(model, **settings, progress=progress), show)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """One row per cut point; the late and the early one are marked."""
    marks = {body["early"]: "early", body["late"]: "late"}
    timed = any("seconds" in cut for cut in body["cuts"])
    columns = ("depth", "tensor", "shape", "parameters", "multiply-adds", "size")
    screen.table(
        (*columns, *(["time"] if timed else []), ""),
        [
            (
                f"@{cut['depth']:.4f}",
                cut["tensor"],
                shape(cut["shape"]),
                many(cut["parameters"]),
                many(cut["macs"]),
                size(cut["bytes"]),
                *([_milliseconds(cut["seconds"])] if timed else []),
                marks.get(cut["tensor"], ""),
            )
            for cut in body["cuts"]
        ],
        gives_way=("size", "parameters", "multiply-adds"),
    )
    screen.line(f"{len(body['cuts'])} cuts; whole model to {body['output']}: {many(body['macs'])}")
    if timed:
        screen.line("time: one sample in ONNX Runtime, median, of the graph that ends at the cut")


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.2f} ms"
