"""What results look like at a Python prompt: a few lines, nothing computed, nothing run.

What must not enter: anything that reads weights or studies a graph; a `repr` has to be instant.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST = 4
"""Items of a list that are named."""


def block(title: str, facts: Mapping[str, Any]) -> str:
    """Write a title and one fact per line; what is unknown or empty is left out."""
    known = {name: str(value) for name, value in facts.items() if value not in (None, "", [], ())}
    width = max(map(len, known), default=0)
    lines = [f"  {name:<{width}}  {_short(text)}" for name, text in known.items()]
    return "\n".join([f"<{title}", *lines]) + ">"


def listed(items: Sequence[Any]) -> str:
    """Write the first few of a list, and how many there are."""
    text = ", ".join(map(str, items[:MOST]))
    return f"{text}, … ({len(items)})" if len(items) > MOST else text


def tally(items: Sequence[Any]) -> str:
    """Write what there is how often, the commonest first."""
    return listed([f"{count} x {item}" for item, count in Counter(items).most_common()])


def values(infos: Sequence[Any]) -> str:
    """Write names, types and shapes of inputs or outputs."""
    return listed(
        [
            f"{info.name} {info.dtype}"
            + ("" if info.shape is None else f"[{', '.join(_dim(dim) for dim in info.shape)}]")
            for info in infos
        ]
    )


def scores(metrics: Mapping[str, Any] | None) -> str:
    """Write the figures of one part of the data: numbers only, in their order."""
    if not metrics:
        return ""
    figures = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{value} {name}"
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return ", ".join(figures[: MOST + 1])


def _dim(dim: Any) -> str:
    return "?" if dim is None else str(dim)


def _short(text: str, most: int = 100) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
