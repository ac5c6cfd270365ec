"""The rules by which a case and a cut are advised; docs/advice.md has their reasons.

What must not enter: measuring.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, isnan, log2, sqrt
from typing import TYPE_CHECKING

import numpy as np

from surgeon.errors import UsageError
from surgeon.plugin.calls import warn
from surgeon.plugin.manager import loaded_plugins
from surgeon.records import (
    Case,
    Evidence,
    Plan,
)
from surgeon.tasks.figures import known

if TYPE_CHECKING:
    from collections.abc import Sequence

    from surgeon.plugin.manager import Plugins
    from surgeon.probe.evidence import Measured, Probe

TIE = 0.01
"""Accuracy below which a loss may be a tie; above it, no standard error makes it one."""
PER_CLASS = 6
"""Samples of each class below which training everything is not advised; 8 is the fewest that the
experiment of docs/advice.md had."""
RACE_FROM = 5000
"""Samples to learn from below which no start from random weights is tried: a race shows little then
and takes epochs from the start that wins. Where a random start was the better one in the experiment
of docs/advice.md, a race did not find it."""
NOTHING_TO_GAIN = 0.005
"""Error of the probe below which more capacity has nothing to win."""
UNKNOWN_REMOVED = 0.5
"""Taken where there is no curve, or where a probe learns nothing and its curve is flat for that."""


@dataclass(frozen=True)
class Judged:
    """What the rules make of the probes.

    Attributes:
        best: the probe of the highest accuracy.
        early: the earliest that ties with it.
        similar: see `compare`.
        parameters: that would be trained if everything in front of `early` were.
        removed: see `removed_by_doubling`.
        needed: see `samples_needed`.
        learnt_from: samples of the data that training may learn from.
        quality: name of the figure that probes are judged by.
        kind: of linear model that they are.
    """

    best: Probe
    early: Probe
    similar: float | None
    parameters: int
    removed: float
    needed: int | None
    learnt_from: int
    quality: str = "accuracy"
    kind: str = "classifier"

    @property
    def large(self) -> float:
        """How surely the data feed the parameters: 0.5 where there are as many as needed."""
        return 0.0 if self.needed is None else self.learnt_from / (self.learnt_from + self.needed)


def judge(measured: Measured, classes: int, learnt_from: int) -> Judged:
    """Return what follows from a pass over data of so many classes and samples to learn from."""
    best, at, similar = compare(measured.probes)
    early = measured.probes[at]
    removed = removed_by_doubling(measured.curve)
    if not _learns(best, measured.baseline):
        removed = UNKNOWN_REMOVED
    needed = samples_needed(early.cut.parameters, classes, removed, 1 - best.quality)
    return Judged(
        best, early, similar, early.cut.parameters, removed, needed, learnt_from,
        measured.quality, "classifier" if len(measured.classes) else "model",
    )  # fmt: skip


def compare(probes: Sequence[Probe]) -> tuple[Probe, int, float | None]:
    """Return the best probe, the place of the earliest that ties with it, and the similarity.

    The similarity is the probability that the late cut is really better than every earlier one:
    above 0.5 exactly where none of them ties with it. None with a single cut to look at.
    """
    best = max(probes, key=lambda item: item.quality)
    earliest = next(place for place, item in enumerate(probes) if ties(item, best))
    if len(probes) == 1:
        return best, earliest, None
    *early, late = probes
    return best, earliest, min(_surely_better(late, item) for item in early)


def ties(item: Probe, best: Probe) -> bool:
    """Say whether a probe is as good as the best one."""
    from surgeon.probe.evidence import paired

    loss, error = paired(best, item)
    return item is best or loss <= min(error, TIE)


def _surely_better(late: Probe, item: Probe) -> float:
    from surgeon.probe.evidence import paired

    gain, error = paired(late, item)
    return _normal((gain - min(error, TIE)) / error)


def _normal(value: float) -> float:
    return 0.5 * (1.0 + erf(value / sqrt(2.0)))


def removed_by_doubling(curve: Sequence[tuple[int, float, float]]) -> float:
    """Return the share of the probe's error that twice the data would remove, 0 to 0.75.

    From a power law, error = a · n^−b, by least squares over the learning curve in logarithms, each
    point weighted by how well its error is known.
    """
    points = [(log2(n), max(1 - share, error / 2), error) for n, share, error in curve if n > 0]
    if len(points) < 2:
        return UNKNOWN_REMOVED
    x = np.array([point[0] for point in points])
    y = np.array([log2(point[1]) for point in points])
    weight = np.array([(point[1] / point[2]) ** 2 for point in points])
    centre = (weight * x).sum() / weight.sum()
    spread = (weight * (x - centre) ** 2).sum()
    if spread <= 0:
        return UNKNOWN_REMOVED
    slope = (weight * (x - centre) * y).sum() / spread
    return float(1 - 2.0 ** -min(max(-slope, 0.0), 2.0))


def samples_needed(parameters: int, classes: int, removed: float, error: float) -> int | None:
    """Return the number of samples from which training everything is advised, or None: never.

    √parameters · 2^(4·removed − 7), and at least `PER_CLASS` for each class: the less a probe
    still learns from more data, the sooner it is capacity that it lacks.

    Args:
        parameters: that would be trained.
        classes: of the data.
        removed: see `removed_by_doubling`.
        error: of the best probe.
    """
    if error <= NOTHING_TO_GAIN:
        return None
    return int(max(PER_CLASS * classes, sqrt(parameters) * 2.0 ** (4 * removed - 7)))


def best_case(evidence: Evidence, plugins: Plugins | None) -> str:
    """Return the case that says it suits best, a third party's or ours; a tie goes to ours."""
    suits: dict[str, float] = {}
    for name, found in loaded_plugins(plugins).offers(Case).items():
        try:
            suits[name] = float(found.offer.suits(evidence))
        except Exception as error:  # noqa: BLE001 - whatever a plugin does wrong, we go on
            warn(
                f"the case {name!r} of distribution {found.distribution} {found.version} cannot "
                f"say whether it suits: {type(error).__name__}: {error}"
            )
    if not suits:
        raise UsageError(
            "no case is loaded",
            where="SURGEON_DISABLE_PLUGINS",
            remedy="advice chooses between them; let surgeon's own plugins load",
        )
    return max(suits, key=lambda name: -1.0 if isnan(suits[name]) else suits[name])


def _learns(best: Probe, baseline: float) -> bool:
    """Say whether a probe is clearly better than giving the likeliest answer every time."""
    return best.quality > baseline + 2 * best.error


def reasons(
    plan: Plan, evidence: Evidence, probes: Sequence[Probe], judged: Judged
) -> tuple[str, str, str]:
    """Say in three lines what was found and what follows."""
    large = (evidence.large or 0.0) > 0.5
    if judged.needed is None:
        wanted = f"a linear {judged.kind} leaves nothing to gain"
    else:
        wanted = (
            f"training {judged.parameters:,} parameters wants about {judged.needed:,} (twice the "
            f"data would remove {100 * judged.removed:.0f} % of a linear {judged.kind}'s error)"
        )
    first = (
        f"{'large' if large else 'small'}: {judged.learnt_from:,} samples to learn from; {wanted}"
    )
    late = probes[-1]

    def figure(item: Probe) -> str:
        return f"{known(judged.quality, item.quality, item.error)} at @{item.cut.depth:.2f}"

    if evidence.similar is None:
        second = "similar: there is a single cut to look at, and nothing to compare it with"
    elif evidence.similar > 0.5:
        rival = max(probes[:-1], key=lambda item: item.quality)
        second = f"similar: the last features are the best: {figure(late)}, {figure(rival)}"
    elif ties(late, judged.best):
        rival = next(item for item in probes if ties(item, judged.best))
        second = f"different: earlier features are as good: {figure(rival)}, {figure(late)}"
    else:
        second = f"different: earlier features are better: {figure(judged.best)}, {figure(late)}"
    kept = next((p.cut for p in probes if p.cut.tensor == plan.cut), None)
    work = "" if kept is None else f", {kept.macs / max(late.cut.macs, 1):.0%} of the multiply-adds"
    trains = "everything" if plan.trainable == "all" else "a new head"
    third = f"so {plan.case}: cut at {plan.cut} (@{plan.depth:.2f}{work}), train {trains}"
    return first, second, third
