"""`surgeon diff A B`: what moved between two files, and how far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon.cli import values
from surgeon.cli.group import Verb
from surgeon.cli.session import Answer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from surgeon.cli.screen import Screen

SHOWN, WIDTH, NAME = 20, 24, 36


@click.command(cls=Verb)
@click.argument("a", type=values.ModelFile())
@click.argument("b", type=values.ModelFile())
@click.option("--exit-code", "exits", is_flag=True, help="Exit with 1 where the files differ.")
def diff(a: Path, b: Path, *, exits: bool) -> Answer:
    """Say which weights, nodes and metadata differ between A and B, and how far weights moved.

    Exits with 0 whether they differ or not, but for --exit-code.
    """
    from surgeon import comparing

    body = comparing.diff(a, b)
    return Answer(body, show, exit=1 if exits and not body["same"] else 0)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """Weights by block, or each with -v; then what else differs."""
    tensors = body["tensors"]
    changed = [one for one in tensors if one["changed"]]
    if body["same"]:
        screen.line(f"the files are the same: {len(tensors)} tensors, all nodes, all metadata")
        return
    if screen.verbose:
        _each(screen, changed)
    else:
        _by_block(screen, tensors)
    same = "the same" if body["same_structure"] else "another"
    screen.line(f"{len(changed)} of {len(tensors)} tensors differ; structure: {same}")
    for how in ("added", "removed"):
        _listed(screen, f"nodes {how}", body["nodes"][how])
    _listed(screen, "graph", [f"{one['what']}: {one['a']} -> {one['b']}" for one in body["graph"]])
    untold = [one["name"] for one in changed if one["trained"] is False]
    _listed(screen, "changed, and the plan of B does not train it", untold)
    if body["metadata"]:
        screen.line()
        rows = [(one["key"], _short(one["a"]), _short(one["b"])) for one in body["metadata"]]
        screen.table(("metadata", "a", "b"), rows)


def _by_block(screen: Screen, tensors: Sequence[Mapping[str, Any]]) -> None:
    """One row for each block in which something differs, those that moved furthest where many."""
    blocks: dict[str, list[Mapping[str, Any]]] = {}
    for one in tensors:
        blocks.setdefault(one["block"], []).append(one)
    rows = []
    for name, group in blocks.items():
        moved = [one for one in group if one["changed"]]
        if moved:
            rows.append((name, moved, len(group)))
    kept = sorted(rows, key=lambda row: -_most(row[1], "distance"))[:SHOWN]
    screen.table(
        ("block", "changed", "largest change", "relative", "moved", "only in"),
        [
            (
                _cut(name, NAME - 10),
                f"{len(moved)} of {count}",
                *(_figure(_most(moved, key)) for key in ("max_difference", "relative", "distance")),
                _only(moved),
            )
            for name, moved, count in rows
            if any(name == one[0] for one in kept)
        ],
        gives_way=("largest change",),
    )
    if len(rows) > SHOWN:
        screen.line(f"and {len(rows) - SHOWN} blocks that moved less: -v lists every tensor")


def _each(screen: Screen, changed: Iterable[Mapping[str, Any]]) -> None:
    screen.table(
        ("tensor", "shape", "largest change", "relative", "moved", "only in"),
        [
            (
                one["name"],
                "x".join(map(str, one["shape"])) or "scalar",
                *(_figure(_most([one], key)) for key in ("max_difference", "relative", "distance")),
                _only([one]),
            )
            for one in changed
        ],
        gives_way=("largest change", "shape"),
    )


def _most(group: Iterable[Mapping[str, Any]], key: str) -> float:
    return max((one[key] for one in group if one[key] is not None), default=-1.0)


def _figure(value: float) -> str:
    return "-" if value < 0 else f"{value:.2g}"


def _only(group: Iterable[Mapping[str, Any]]) -> str:
    """Say which of the files alone has tensors of a group, or has them in another form."""
    told = {one["only"].upper() for one in group if one["only"]}
    other = any(one["other"] for one in group)
    return ", ".join([*sorted(told), *(["another shape or type"] if other else [])]) or "-"


def _listed(screen: Screen, what: str, names: Sequence[str]) -> None:
    if not names:
        return
    shown = len(names) if screen.verbose else 5
    screen.line()
    screen.line(f"{what}:")
    for name in names[:shown]:
        screen.line(f"  {_cut(name, 76)}")
    if len(names) > shown:
        screen.line(f"  and {len(names) - shown} more (-v, --json)")


def _short(text: str | None) -> str:
    return "-" if text is None else _cut(text.replace("\n", " "), WIDTH)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
