"""`surgeon evaluate MODEL DATA`: metrics by ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.group import Verb
from surgeon.cli.options import model_argument, takes
from surgeon.cli.progress import progress_for
from surgeon.cli.session import Answer, Session
from surgeon.tasks.figures import said, written

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from surgeon.cli.screen import Screen

SHOWN_CLASSES = 20


@click.command(cls=Verb)
@model_argument
@click.argument("data")
@takes("evaluate")
@click.pass_obj
def evaluate(session: Session, /, model: Path, data: str, **settings: Any) -> Answer:
    """Measure MODEL on labelled DATA: accuracy, F1, R², whatever its answers are judged by."""
    from surgeon import operation

    with progress_for(session) as progress:
        body = operation.evaluate(
            model, data, **settings, progress=progress, plugins=session.plugins
        )
    return Answer(body, show)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """Metrics, then each class where there are some; the confusion matrix where it fits."""
    metrics, labels = body["metrics"], body["labels"]
    told = {
        said(key): written(key, value)
        for key, value in metrics.items()
        if value is not None and key not in ("quality", "loss", "interval")
    }
    screen.facts(
        {
            "samples": body["samples"],
            "skipped": len(body["skipped"]) or None,
            **told,
            "95 % interval": _interval(metrics),
            "loss": metrics["loss"],
            "providers": ", ".join(body["providers"]),
            "seconds": body["seconds"],
        }
    )
    against = body["against"]
    if against is not None:
        screen.line(_compared(against))
    per_class = body["per_class"]
    if not per_class:
        return
    if len(labels) > SHOWN_CLASSES and not screen.verbose:
        screen.line(f"{len(labels)} classes: -v shows each, --json has all figures")
        return
    screen.line()
    keys = [key for key in per_class[0] if key != "support"]
    heads = [{"f1": "F1"}.get(key, key.replace("_", " ")) for key in keys]
    screen.table(
        (*heads, "samples"),
        [(*(one[key] for key in keys), one.get("support")) for one in per_class],
    )
    if body["confusion"]:
        screen.line()
        rows = zip(labels, body["confusion"], strict=True)
        screen.table(("true \\ predicted", *labels), [(label, *row) for label, row in rows])


def _interval(metrics: Mapping[str, Any]) -> str | None:
    """Say between what the figure lies by which the task chooses."""
    between = metrics.get("interval")
    if between is None:
        return None
    name = next(
        (key for key, value in metrics.items() if key != "quality" and value == metrics["quality"]),
        "quality",
    )
    return f"{said(name)} {written(name, between[0])} to {written(name, between[1])}"


def _compared(against: Mapping[str, Any]) -> str:
    """Say how a file compares with another."""
    other, better = against["metrics"]["quality"], against["difference"]
    if better is None or against["p_value"] is None:
        return f"{against['path']}: quality {_number(other)}; too few samples to compare"
    return (
        f"{against['path']}: quality {_number(other)}; this file is better by {better:+.4g} "
        f"± {against['standard_error']:.2g} (p = {against['p_value']:.2g})"
    )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
