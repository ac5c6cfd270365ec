"""Many data, like the original ones: everything may learn, from a start that is nearly right.

The last layer is replaced; the head is solved first on frozen features, then all weights are tuned
(LP-FT, Kumar et al. 2022, arXiv 2202.10054: a random head would distort the features).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.plugin import hookimpl
from surgeon.records import SOLVE_HEAD, TRAIN_ALL, Case, Context, Evidence, Plan

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = "large-similar"


def suits(evidence: Evidence) -> float:
    """Return how well the case fits: many data that are alike."""
    large = 0.5 if evidence.large is None else evidence.large
    similar = 0.5 if evidence.similar is None else evidence.similar
    return large * similar


def plan(context: Context) -> Plan:
    """Cut late (or where asked), new head, start from the pretrained weights, train everything."""
    return Plan(
        case=NAME,
        cut=context.cut or context.late,
        classes=context.classes,
        init=context.init or "pretrained",
        trainable="all",
        stages=(TRAIN_ALL,) if context.init == "random" else (SOLVE_HEAD, TRAIN_ALL),
        why="many data like the original: replace the last layer and retrain everything",
    )


@hookimpl
def surgeon_cases() -> Iterable[Case]:
    """Offer the case."""
    what = "many data, alike: replace the last layer, retrain everything"
    yield Case(NAME, what, suits, plan, place=3)
