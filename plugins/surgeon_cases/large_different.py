"""Many data, unlike the original ones: enough to learn a network anew, from scratch if need be.

The last layer is replaced and everything is trained. The start is the pretrained weights, which
often still help; `--init random` starts the whole network from random ones. With `--init race`, and
where `--case auto` leaves the choice to the case (5,000 samples and more), both are tried for
a short while and the better one goes on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from surgeon.plugin import hookimpl
from surgeon.records import SOLVE_HEAD, TRAIN_ALL, Case, Context, Evidence, Plan

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = "large-different"


def suits(evidence: Evidence) -> float:
    """Return how well the case fits: many data that are unlike."""
    large = 0.5 if evidence.large is None else evidence.large
    similar = 0.5 if evidence.similar is None else evidence.similar
    return large * (1 - similar)


def plan(context: Context) -> Plan:
    """Cut late (or where asked), new head, train everything, all layers at nearly one rate."""
    measured = bool(context.evidence.accuracy_by_depth)
    init = context.init or ("race" if measured else "pretrained")
    all_alike = replace(TRAIN_ALL, lr_decay=1.0 if init == "random" else 0.97)
    return Plan(
        case=NAME,
        cut=context.cut or context.late,
        classes=context.classes,
        init=init,
        trainable="all",
        stages=(all_alike,) if init == "random" else (SOLVE_HEAD, all_alike),
        why="many data unlike the original: retrain everything, the early layers too",
    )


@hookimpl
def surgeon_cases() -> Iterable[Case]:
    """Offer the case."""
    yield Case(NAME, "many data, unlike: retrain everything, or from scratch", suits, plan, place=4)
