"""`surgeon evaluate MODEL DATA`: metrics by ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.group import Verb
from surgeon.cli.options import model_argument, takes
from surgeon.cli.progress import progress_for
from surgeon.cli.screen import Screen, percent
from surgeon.cli.session import Answer, Session

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SHOWN_CLASSES = 20


@click.command(cls=Verb)
@model_argument
@click.argument("data")
@takes("evaluate")
@click.pass_obj
def evaluate(session: Session, /, model: Path, data: str, **settings: Any) -> Answer:
    """Measure MODEL on labelled DATA: accuracy, F1, per class, confusion."""
    from surgeon import operation

    with progress_for(session) as progress:
        body = operation.evaluate(
            model, data, **settings, progress=progress, plugins=session.plugins
        )
    return Answer(body, show)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """Metrics, then each class; the confusion matrix where it fits."""
    metrics, labels = body["metrics"], body["labels"]
    screen.facts(
        {
            "samples": body["samples"],
            "skipped": len(body["skipped"]) or None,
            "accuracy": percent(metrics["accuracy"]),
            "top 5": None if metrics["top5"] is None else percent(metrics["top5"]),
            "macro F1": metrics["macro_f1"],
            "loss": metrics["loss"],
            "providers": ", ".join(body["providers"]),
            "seconds": body["seconds"],
        }
    )
    few = len(labels) <= SHOWN_CLASSES
    if few or screen.verbose:
        screen.line()
        screen.table(
            ("label", "precision", "recall", "F1", "samples"),
            [
                (one["label"], one["precision"], one["recall"], one["f1"], one["support"])
                for one in body["per_class"]
            ],
        )
        screen.line()
        rows = zip(labels, body["confusion"] or [], strict=bool(body["confusion"]))
        screen.table(("true \\ predicted", *labels), [(label, *row) for label, row in rows])
    else:
        screen.line(f"{len(labels)} classes: -v shows each, --json has the confusion matrix")
