"""`surgeon inspect MODEL`: what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.group import Verb
from surgeon.cli.options import model_argument, takes
from surgeon.cli.screen import Screen, many, shape, size
from surgeon.cli.session import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@click.command(cls=Verb)
@model_argument
@takes("inspect")
def inspect(model: Path, *, output: str | None) -> Answer:
    """Show what MODEL is: inputs, outputs, operators, parameters, size, opset, head, labels."""
    from surgeon import operation

    return Answer(operation.inspect(model, output=output), show)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """Facts first, then inputs and outputs, then operators by how often they occur."""
    head, preprocess, labels = body["head"], body["preprocess"], body["labels"]
    carried = body["surgeon"]
    screen.facts(
        {
            "file": body["path"],
            "size": size(body["bytes"]),
            "sha256": body["sha256"],
            "kind": f"{body['kind']}: {body['reason']}",
            "producer": body["producer"],
            "opsets": ", ".join(f"{d or 'ai.onnx'} {v}" for d, v in body["opsets"].items()),
            "nodes": body["nodes"],
            "initializers": body["initializers"],
            "parameters": many(body["parameters"]),
            "multiply-adds": many(body["macs"]),
            "head": None if head is None else _head(head),
            "labels": None if labels is None else _labels(labels),
            "preprocessing": None if preprocess is None else _preprocess(preprocess),
            "case": None if carried is None else carried["case"],
            "proof": None if carried is None else carried["proof"] is not None,
            "statistics": "of each class" if "surgeon.statistics" in body["metadata"] else None,
        }
    )
    screen.line()
    tensors = [("input", t) for t in body["inputs"]] + [("output", t) for t in body["outputs"]]
    screen.table(
        ("", "name", "type", "shape", "batch axis"),
        [(what, t["name"], t["dtype"], shape(t["shape"]), t["batch_axis"]) for what, t in tensors],
    )
    screen.line()
    operators = sorted(body["operators"].items(), key=lambda item: (-item[1], item[0]))
    screen.table(("operator", "nodes"), operators)
    if screen.verbose and body["metadata"]:
        screen.line()
        screen.table(("metadata", "value"), body["metadata"].items())


def _head(head: Mapping[str, Any]) -> str:
    activation = f" → {head['activation']}" if head["activation"] else ""
    return f"{head['form']}{activation}, {head['classes'] or '?'} classes, from {head['input']}"


def _labels(labels: list[str]) -> str:
    shown = ", ".join(labels[:5])
    return f"{len(labels)}: {shown}{', …' if len(labels) > 5 else ''}"


def _preprocess(preprocess: Mapping[str, Any]) -> str:
    told = {name: value for name, value in preprocess.items() if value is not None}
    if "rule" in told:
        told["rule"] = f"version {told['rule']['version']}"
    tokenizer = told.get("tokenizer")
    if tokenizer is not None:
        tokens, held = many(tokenizer["tokens"]), size(tokenizer["bytes"])
        told["tokenizer"] = f"{tokenizer['model']} of {tokens} tokens ({held})"
    return ", ".join(f"{name} {value}" for name, value in told.items())
