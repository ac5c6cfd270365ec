"""Few data, like the original ones: the pretrained features fit, so only a new head is trained.

The graph is cut late, where the old classifier begins; every pretrained weight is frozen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.plugin import hookimpl
from surgeon.records import SOLVE_HEAD, Case, Context, Evidence, Plan

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = "small-similar"


def suits(evidence: Evidence) -> float:
    """Return how well the case fits: few data that are alike."""
    large = 0.5 if evidence.large is None else evidence.large
    similar = 0.5 if evidence.similar is None else evidence.similar
    return (1 - large) * similar


def plan(context: Context) -> Plan:
    """Cut late (or where asked), new random head, train the head alone."""
    return Plan(
        case=NAME,
        cut=context.cut or context.late,
        classes=context.classes,
        init=context.init or "pretrained",
        trainable="head",
        stages=(SOLVE_HEAD,),
        why="few data like the original: the last features fit, a new head is enough",
    )


@hookimpl
def surgeon_cases() -> Iterable[Case]:
    """Offer the case."""
    what = "few data, alike: cut late, freeze all, train a new head"
    yield Case(NAME, what, suits, plan, place=1)
