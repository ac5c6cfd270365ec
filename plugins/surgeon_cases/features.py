"""Features out, and features in.

`features`: no new head, what the network computes at the cut is what the file gives: for search,
plots, other models. `features-in`: data are stored activations; what leads to them is dropped, the
layers behind are trained. Together they cut a network in two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.plugin import hookimpl
from surgeon.records import SOLVE_HEAD, TRAIN_ALL, Case, Context, Evidence, Head, Plan

if TYPE_CHECKING:
    from collections.abc import Iterable

OUT, IN = "features", "features-in"


def suits(evidence: Evidence) -> float:  # noqa: ARG001 - the signature of a case
    """Return 0: nothing is learnt, so that no data suit it; people ask for it by name."""
    return 0.0


def plan(context: Context) -> Plan:
    """Cut late (or where asked), append no head, train nothing."""
    return Plan(
        case=OUT,
        cut=context.cut or context.late,
        trainable=(),
        head=Head("none"),
        why="no new head: what the network computes at the cut is the output",
        task="embedding",
    )


def plan_in(context: Context) -> Plan:
    """Begin at the early cut (or where asked), cut late, new head, train all that is left."""
    return Plan(
        case=IN,
        cut=context.cut or context.late,
        start=context.start or context.early,
        init=context.init or "pretrained",
        trainable="all",
        stages=(TRAIN_ALL,) if context.init == "random" else (SOLVE_HEAD, TRAIN_ALL),
        why="data are stored activations: what leads to them is dropped, the rest is trained",
    )


@hookimpl
def surgeon_cases() -> Iterable[Case]:
    """Offer the cases."""
    what = "no head, no training: give the features at the cut"
    yield Case(OUT, what, suits, plan, place=5, headless=True)
    what = "train on stored activations: what leads to them is dropped"
    yield Case(IN, what, suits, plan_in, place=6, starts=True)
