"""`surgeon ops`: which operators convert to torch, in general or of one model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgeon.cli import values
from surgeon.cli.group import Verb
from surgeon.cli.session import Answer, Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgeon.cli.screen import Screen
    from surgeon.ops.registry import Coverage

STATUSES = ("native", "function", "missing")


@click.command(cls=Verb)
@click.argument("model", type=values.ModelFile(), required=False)
@click.option("--missing", is_flag=True, help="Only what is not converted.")
@click.pass_obj
def ops(session: Session, /, model: Path | None, *, missing: bool) -> Answer:
    """List operator versions and how each converts to torch; with MODEL, only those it uses.

    `native` is written for torch, `function` follows the definition the specification gives,
    `missing` is refused. Exits with 1 where MODEL uses a missing one.
    """
    from surgeon.ops import registry

    session.plugins.declare_operators(registry.load_plugin)
    rows = _used(model) if model else [_row(line, None) for line in registry.coverage()]
    counts = Counter(row["status"] for row in rows)
    body = {
        "path": None if model is None else str(model),
        "audited": registry.AUDITED,
        "counts": {status: counts[status] for status in STATUSES},
        "operators": [row for row in rows if row["status"] == "missing" or not missing],
    }
    return Answer(body, show, exit=1 if model is not None and counts["missing"] else 0)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """One row per operator version, then the counts."""
    columns = ("operator", "version", "status", "where")
    rows = [
        (
            _named(row),
            row["version"],
            row["status"],
            f"{row['file']}:{row['line']}" if row["file"] else None,
            *([row["nodes"]] if body["path"] else []),
        )
        for row in body["operators"]
    ]
    if rows:
        screen.table((*columns, "nodes") if body["path"] else columns, rows, gives_way=("where",))
    counts = body["counts"]
    screen.line(
        f"{counts['native']} native, {counts['function']} by their definition, "
        f"{counts['missing']} missing"
    )


def _named(row: Mapping[str, Any]) -> str:
    known = row["domain"] == "ai.onnx"
    return str(row["operator"]) if known else f"{row['domain']}::{row['operator']}"


def _row(line: Coverage, nodes: int | None) -> dict[str, Any]:
    return {
        "domain": line.domain or "ai.onnx",
        "operator": line.name,
        "version": line.version,
        "status": line.status,
        "file": line.file and _shown(line.file),
        "line": line.line,
        "nodes": nodes,
    }


def _shown(file: str) -> str:
    """Write a file of this package as its place in the package, any other as it is."""
    home = Path(__file__).resolve().parents[2]
    path = Path(file)
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else file


def _used(path: Path) -> list[dict[str, Any]]:
    """Return a row for every operator version in a file, with its number of nodes."""
    from surgeon.graph.files import read_model
    from surgeon.ops.registry import covering
    from surgeon.torch_graph.coverage import operators

    proto = read_model(path)
    nodes = operators(proto, proto.graph.node)
    counted = Counter(covering(node.domain, node.op_type, opset or 1) for node, opset in nodes)
    lines = sorted(counted, key=lambda line: (line.domain, line.name, line.version))
    return [_row(line, counted[line]) for line in lines]
