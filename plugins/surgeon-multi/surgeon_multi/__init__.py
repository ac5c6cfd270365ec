"""Few data, unlike the original ones: a head that reads several depths instead of one.

What transfers may lie early, late, or partly in each: the pooled values of several cuts are
concatenated and read by one Gemm, after Head2Toe (Evci et al., "Head2Toe: Utilizing Intermediate
Representations for Better Transfer Learning", 2022). Simpler than there: whole depths are chosen,
by the accuracy of a probe on each, instead of single features by group lasso. What is kept is
frozen. The head's solver standardises every feature, so that no depth drowns another by its
scale, and folds that back into the weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.plugin import hookimpl
from surgeon.records import SOLVE_HEAD, Case, Context, CutPoint, Evidence, Head, Plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NAME = "small-different-multi"
BEST = 3
"""Depths read where a probe has measured them: more were no better with a few hundred samples."""
MOST = 6
"""Depths read where none has."""


def suits(evidence: Evidence) -> float:
    """Return how well the case fits: few data that are unlike."""
    large = 0.5 if evidence.large is None else evidence.large
    similar = 0.5 if evidence.similar is None else evidence.similar
    return (1 - large) * (1 - similar)


def best(cuts: Sequence[CutPoint], accuracy: dict[float, float]) -> list[CutPoint]:
    """Return the cuts of the best probes by ascending depth; a tie goes to the earlier."""
    ranked = sorted(cuts, key=lambda cut: (-accuracy[cut.depth], cut.depth))
    return sorted(ranked[:BEST], key=lambda cut: cut.depth)


def spread(cuts: Sequence[CutPoint]) -> list[CutPoint]:
    """Return at most `MOST` of the cuts, evenly by their order, the last one among them."""
    if len(cuts) <= MOST:
        return list(cuts)
    step = (len(cuts) - 1) / (MOST - 1)
    return [cuts[round(place * step)] for place in range(MOST)]


def plan(context: Context) -> Plan:
    """Choose the depths; the deepest (or what was asked for) is the cut, the others are taps."""
    accuracy = dict(context.evidence.accuracy_by_depth)
    measured = [cut for cut in context.taps if cut.depth in accuracy]
    chosen = best(measured, accuracy) if measured else spread(context.taps)
    names = [cut.tensor for cut in chosen] or [context.late]
    return Plan(
        case=NAME,
        cut=context.cut or names[-1],
        classes=context.classes,
        init=context.init or "pretrained",
        trainable="head",
        head=Head(taps=tuple(names)),
        stages=(SOLVE_HEAD,),
        why="few data unlike the original: what transfers is taken from several depths",
    )


@hookimpl
def surgeon_cases() -> Iterable[Case]:
    """Offer the case."""
    yield Case(
        NAME,
        "few data, unlike: freeze all, one head on several depths",
        suits,
        plan,
        measures=True,
    )
