"""Few data, unlike the original ones: only the early, lower-level features transfer.

The graph is cut early and the later layers are dropped; what is kept is frozen, a new head learns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.plugin import hookimpl
from surgeon.records import SOLVE_HEAD, Case, Context, Evidence, Plan

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = "small-different"


def suits(evidence: Evidence) -> float:
    """Return how well the case fits: few data that are unlike."""
    large = 0.5 if evidence.large is None else evidence.large
    similar = 0.5 if evidence.similar is None else evidence.similar
    return (1 - large) * (1 - similar)


def plan(context: Context) -> Plan:
    """Cut early (or where asked), new random head, train the head alone."""
    return Plan(
        case=NAME,
        cut=context.cut or context.early,
        classes=context.classes,
        init=context.init or "pretrained",
        trainable="head",
        stages=(SOLVE_HEAD,),
        why="few data unlike the original: lower-level features transfer, the later layers go",
    )


@hookimpl
def surgeon_cases() -> Iterable[Case]:
    """Offer the case."""
    what = "few data, unlike: cut early, freeze all, train a new head"
    yield Case(NAME, what, suits, plan, place=2)
