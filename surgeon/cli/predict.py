"""`surgeon predict MODEL INPUTS...`: labels and probabilities by ONNX Runtime."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.group import Verb
from surgeon.cli.options import model_argument, takes
from surgeon.cli.progress import progress_for
from surgeon.cli.screen import Screen, percent
from surgeon.cli.session import Answer, Session
from surgeon.errors import DataError, UsageError
from surgeon.graph.reading import what_lies_at

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


PATTERN = re.compile(r"[*?[]")
"""What makes a name a pattern, where nothing is called so."""

NUMBERS = 8
"""Numbers of a row that the table shows."""

WIDEST = 60
"""Characters of a cell that a task of its own fills."""


SHOWN = 50
"""Inputs without a prediction that are named on the terminal."""


@click.command(cls=Verb)
@model_argument
@click.argument(
    "files", metavar="INPUTS...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@takes("predict")
@click.pass_obj
def predict(
    session: Session,
    /,
    model: Path,
    files: tuple[Path, ...],
    *,
    inputs: Mapping[str, Any],
    **settings: Any,
) -> Answer:
    """Predict what each of INPUTS is: images, .txt, .wav, folders of them, a table or .npz.

    A pattern in quotes ('photos/**/*.jpg') is put out here; - reads paths from standard input, one
    a line, or texts with --lines. A file that gives several labels or plain numbers is read as
    what it gives.
    """
    missing = [
        str(path)[:200]
        for path in files
        if what_lies_at(path) is None and not PATTERN.search(str(path)) and str(path) != "-"
    ]
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(files)} inputs do not exist",
            where=", ".join(missing[:10]),
            remedy="check the paths",
        )
    from surgeon import operation

    with progress_for(session) as progress:
        body = operation.predict(
            model, files, constants=inputs, **settings, progress=progress, plugins=session.plugins
        ).document()
    failed, counts = body["failed"], body.get("counts") or {}
    for one in failed[:SHOWN]:
        session.warn(f"{one['input']}: {one['reason']}")
    more = counts.get("failed", len(failed)) - SHOWN
    if more > 0:
        named = "column `error` of the file" if counts else "`failed` of --json"
        session.warn(f"{more} more inputs failed: {named} names all")
    if failed and not counts.get("answered", len(body["predictions"])):
        session.warn(f"none of {counts.get('inputs', len(failed))} inputs could be read")
        return Answer(body, show, DataError.exit)
    return Answer(body, show)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """One row per input; of a file that was written, how many it has."""
    rows = body["predictions"]
    first = rows[0] if rows else {}
    if body.get("counts") is not None:
        counts, seconds = body["counts"], body["seconds"]
        said = f"{body['out']}: {counts['answered']:,} answers"
        said += f", {counts['failed']:,} inputs failed" if counts["failed"] else ""
        screen.line(f"{said} ({counts['inputs'] / max(seconds, 1e-9):,.0f} a second)")
        return
    if first.get("top") is not None:
        cells = [(one["input"], *(map(_likely, one["top"]))) for one in rows]
        places = [f"{place}." for place in range(2, len(first["top"]) + 1)]
        screen.table(("input", "likeliest", *places), cells)
        return
    if first.get("values") is not None:
        told = [(one["input"], _numbers(one["values"]), _ranges(one)) for one in rows]
        ranges = first.get("interval") is not None
        heads = ("input", "values", *(["of ten, nine lie in"] if ranges else []))
        screen.table(heads, [row[: len(heads)] for row in told])
    elif first.get("embedding") is not None:
        vectors = [one.get("embeddings") or {"embedding": one["embedding"]} for one in rows]
        screen.table(
            ("input", *vectors[0]),
            [
                (one["input"], *map(_numbers, found.values()))
                for one, found in zip(rows, vectors, strict=True)
            ],
        )
    elif first.get("labels") is not None:
        screen.table(
            ("input", "labels", "probabilities"),
            [
                (one["input"], ", ".join(one["labels"]), _numbers(one["probabilities"]))
                for one in rows
            ],
        )
    elif first.get("index") is not None or not rows:
        screen.table(
            ("input", "label", "probability"),
            [
                (
                    one["input"],
                    one["index"] if one["label"] is None else one["label"],
                    percent(one["probability"]),
                )
                for one in rows
            ],
        )
    else:
        heads = tuple(key for key in first if any(one.get(key) is not None for one in rows))
        screen.table(heads, [tuple(_shown(one.get(head)) for head in heads) for one in rows])


def _shown(value: Any) -> str:
    """Return what a task of its own tells, in a cell."""
    if isinstance(value, list) and all(isinstance(one, int | float) for one in value):
        return _numbers(value)
    if isinstance(value, list) and all(isinstance(one, dict) and "label" in one for one in value):
        told = ((one.get("text"), one["label"]) for one in value)
        value = " ".join(f"{text}/{label}" if text else str(label) for text, label in told)
    text = str(value)
    return text if len(text) <= WIDEST else f"{text[:WIDEST]}…"


def _likely(one: Mapping[str, Any]) -> str:
    label = one["index"] if one["label"] is None else one["label"]
    return f"{label} {percent(one['probability'])}"


def _ranges(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{low:.4g} to {high:.4g}" for low, high in row.get("interval") or ())


def _numbers(values: Sequence[Any]) -> str:
    if values and isinstance(values[0], list):
        return f"{len(values)} × ({_numbers(values[0])})"
    shown = ", ".join(f"{value:.4g}" for value in values[:NUMBERS])
    return f"{shown}, … ({len(values)})" if len(values) > NUMBERS else shown
