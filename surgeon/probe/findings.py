"""What the features of the one pass say about the data: near copies, and labels likely wrong.

Both come from values that `evidence.measure` has computed anyway; nothing is run here. What must
not enter: sessions, files, and what is done about a finding.

Label errors are found by a mixture: with probability 1 − ε a label is drawn from what the probe
believes of the sample (held-out scores through a softmax), with probability ε it is one of the
other classes at random. Temperature and ε are those of greatest likelihood, and what is flagged is
what is more likely an error than not. It stands on the idea of confident learning, that held-out
predictions and given labels together tell errors from hard samples (Northcutt, Jiang, Chuang,
"Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021); their count by
thresholds per class, tried on the same scores, found a fifth fewer of the planted errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.data.examine import (
    FEW,
    connect,
    copies,
    copy_findings,
    examine_samples,
    has_classes,
    read_rest,
)
from surgeon.probe.evidence import stratified
from surgeon.records import DataFinding
from surgeon.tasks.metrics import softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from surgeon.data.examine import Group
    from surgeon.data.samples import Samples
    from surgeon.data.splits import Splits
    from surgeon.probe.evidence import Measured, Probe
    from surgeon.tasks.base import Targets, TaskCode

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

NEIGHBOURS = 20
"""Nearest samples by features that are compared by content."""
CLOSER = 100
"""How many times closer than two random samples near copies are."""
BEST_CUTS = 3
"""Probes whose held-out scores are averaged: their errors differ more than those of one."""
TEMPERATURES = tuple(float(t) for t in np.geomspace(1.0, 100.0, 30))
MOST_NOISE = 0.5
"""Share of wrong labels beyond which nothing can be told apart."""
FAR = 8.0
"""Robust standard deviations beyond which a number is doubted."""
SURE = 6.63
"""Twice the log-likelihood that ε must be worth: the 1 % point of χ² with one degree of freedom."""
COMPARED = 1000
"""Samples of validation, and of the data's own test split, that are compared with the others."""
_PAIRS = 20_000
_SHOWN = 5


# ── all of it ────────────────────────────────────────────────────────────────────────────────────


def to_compare(samples: Samples, parts: Splits, codes: Ints, seed: int) -> Ints | None:
    """Return validation samples, and those of the data's own test split, to compare with others.

    Whether a picture is in training too is no secret of theirs; nothing else is asked of them.
    A test split that the seed draws is left alone: drawn anew, it has the same copies.
    """
    told = [parts.validation]
    if samples.split is not None and parts.test is not None:
        told.append(parts.test)
    others = np.concatenate([stratified(one, codes, COMPARED, seed) for one in told if len(one)])
    return others if len(others) else None


def examine(
    samples: Samples,
    task: TaskCode,
    targets: Targets,
    parts: Splits,
    measured: Measured,
    near: Sequence[Group],
    *,
    seed: int = 0,
    open_all: bool = True,
) -> tuple[DataFinding, ...]:
    """Find everything: what needs no model, near copies, labels likely wrong.

    Args:
        samples: the labelled data.
        task: what an answer is.
        targets: the answers of all samples.
        parts: how the samples are divided.
        measured: the evidence of the pass.
        near: what `near_sets` found in it.
        seed: that divided them, where the data did not.
        open_all: whether samples outside the pass are opened, so that broken ones are known.

    Raises:
        DataError: more than 5 % of all samples are unreadable.
    """
    unread = read_rest(samples, measured.seen) if open_all else 0
    return (
        *examine_samples(samples, task, targets, parts, seed, unread=unread),
        *copy_findings(samples, near, task, targets, parts, seed, near=True),
        *doubtful_findings(measured, samples, task, targets),
    )


# ── near copies ──────────────────────────────────────────────────────────────────────────────────


def near_sets(samples: Samples, measured: Measured) -> list[Group]:
    """Return sets of samples of the pass that show the same thing and are no exact copies."""
    alike = [
        tuple(int(measured.seen[at]) for at in group)
        for group in near_copies(measured.features, measured.content)
    ]
    known = {index: place for place, group in enumerate(copies(samples)) for index in group}
    return [group for group in alike if len({known.get(i, -1 - i) for i in group}) > 1]


def near_copies(
    features: NDArray[np.floating], content: NDArray[np.floating] | None = None
) -> list[Group]:
    """Return sets of rows that show the same thing, each ascending.

    Candidates are the nearest neighbours by the cosine of centred features; what decides is the
    distance (1 − correlation) of the content, a coarse form of the input that hardly changes when
    a picture is encoded again, or of the features where there is none. The bound adapts to the
    data: `CLOSER` times closer than the median of two random rows. Values of so few dimensions that
    one such pair is expected among unrelated rows tell nothing, and nothing is returned.

    Args:
        features: pooled values of a late cut, [n, d].
        content: coarse inputs, [n, c], or None.
    """
    units = _unit(features - features.mean(axis=0, dtype=np.float64))
    judged = units if content is None else _unit(content - content.mean(axis=1, keepdims=True))
    n = len(units)
    if n < 3:
        return []
    if _dimension(judged) < 2 * log(n**2 / 2) / log(CLOSER):
        return []  # so few dimensions bring pairs that close together by chance
    bound = _random_distance(judged) / CLOSER
    near = min(NEIGHBOURS, n - 1)
    pairs: list[tuple[int, int]] = []
    for start in range(0, n, 512):  # blocks, so that memory stays bounded
        rows = np.arange(start, min(n, start + 512))
        alike = units[rows] @ units.T
        alike[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argpartition(-alike, near - 1, axis=1)[:, :near]
        distance = 1.0 - np.einsum("rd,rkd->rk", judged[rows], judged[nearest])
        for row, place in np.argwhere(distance <= bound):
            pairs.append((int(rows[row]), int(nearest[row, place])))
    return connect(pairs)


def _unit(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return rows of length 1; a row of nothing stays 0, and is near nothing."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    scaled = np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 1e-12)
    return np.asarray(scaled, np.float32)


def _dimension(units: NDArray[np.float32]) -> float:
    """Return how many dimensions the rows fill: (Σλ)² / Σλ² of their covariance's eigenvalues."""
    centred = units - units.mean(axis=0)
    gram = centred @ centred.T if len(units) < units.shape[1] else centred.T @ centred
    return float(np.trace(gram)) ** 2 / max(float((gram**2).sum()), 1e-30)


def _random_distance(units: NDArray[np.float32]) -> float:
    """Return the median distance of two random rows, seeded."""
    random = np.random.default_rng(0)
    one, other = random.integers(0, len(units), (2, _PAIRS))
    apart = one != other
    return float(np.median(1.0 - (units[one[apart]] * units[other[apart]]).sum(axis=1)))


# ── labels ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Doubts:
    """How likely each label is wrong.

    Attributes:
        wrong: probability for each sample, [n].
        suggested: the class the probe believes in, [n].
        rate: share of labels that are wrong, as estimated.
    """

    wrong: Floats
    suggested: Ints
    rate: float


def doubt_labels(scores: Floats, codes: Ints) -> Doubts:
    """Estimate how likely each label is wrong, from scores of folds that did not see it.

    Args:
        scores: held-out scores, [n, classes].
        codes: given class of each sample, [n].
    """
    n, classes = scores.shape
    given = np.arange(n), codes
    believed = scores.copy()
    believed[given] = -np.inf
    best: tuple[float, Floats, float] | None = None
    plain = -np.inf
    for temperature in TEMPERATURES:
        right = np.clip(softmax(scores * temperature)[given], 1e-12, 1.0)
        plain = max(plain, float(np.log(right).sum()))
        rate, wrong = _noise_of(right, classes)
        likelihood = float(
            np.log((1 - rate) * right + rate * (1 - right) / max(classes - 1, 1)).sum()
        )
        if best is None or likelihood > best[0]:
            best = likelihood, wrong, rate
    assert best is not None
    likelihood, wrong, rate = best
    if 2 * (likelihood - plain) < SURE:
        wrong, rate = np.zeros(n), 0.0  # the data are as likely without a single wrong label
    return Doubts(wrong, believed.argmax(axis=1), rate)


def _noise_of(right: Floats, classes: int) -> tuple[float, Floats]:
    """Return ε of greatest likelihood and each sample's probability of a wrong label (by EM)."""
    rate, wrong = 0.03, np.zeros(len(right))
    for _ in range(100):
        by_chance = rate * (1 - right) / max(classes - 1, 1)
        wrong = by_chance / (by_chance + (1 - rate) * right)
        before, rate = rate, float(np.clip(wrong.mean(), 1e-9, MOST_NOISE))
        if abs(rate - before) < 1e-6:
            break
    return rate, wrong


def scores_of(probes: Sequence[Probe]) -> Floats | None:
    """Return the held-out scores of the best probes, averaged, [n, classes]; None without any."""
    known = [item for item in probes if item.scores.size]
    best = sorted(known, key=lambda item: item.quality, reverse=True)[:BEST_CUTS]
    if not best:
        return None
    return np.asarray(np.mean([item.scores for item in best], axis=0), np.float64)


def doubtful_findings(
    measured: Measured, samples: Samples, task: TaskCode, targets: Targets
) -> list[DataFinding]:
    """Name samples whose answer is likely wrong, where a task's answers can be doubted."""
    if has_classes(targets) and len(measured.classes):
        return label_findings(measured, samples, targets.names)
    own = targets[measured.rows]
    scores = scores_of(measured.probes)
    if scores is None or task.keeps or scores.shape != own.values.shape:
        told = "answers at each position" if task.keeps else "these answers"
        note = f"wrong answers are not looked for: probes of whole samples cannot judge {told}"
        return [DataFinding("note", "not-examined", note)]
    if task.link == "logistic":
        return _several_findings(scores, own, measured.rows, samples)
    return _number_findings(scores, own, measured.rows, samples)


def _several_findings(
    scores: Floats, targets: Targets, rows: Ints, samples: Samples
) -> list[DataFinding]:
    """Doubt each label of each sample by itself: it is there, or it is not."""
    found: list[tuple[float, int, str, bool]] = []
    for place, name in enumerate(targets.names):
        known = np.flatnonzero(np.isfinite(targets.values[:, place]))
        there = targets.values[known, place].astype(np.int64)
        if min(there.sum(), len(there) - there.sum()) < FEW:
            continue
        share, spread = there.mean(), there.std()
        believed = scores[known, place] * spread + share
        doubts = doubt_labels(np.stack([1 - believed, believed], axis=1), there)
        found += [
            (float(doubts.wrong[at]), int(rows[known[at]]), name, bool(there[at]))
            for at in np.flatnonzero(doubts.wrong > 0.5)
        ]
    found.sort(key=lambda one: -one[0])
    told = [
        (
            str(samples.names[row]),
            {
                "label": name if there else f"not {name}",
                "suggested": f"not {name}" if there else name,
                "probability": wrong,
            },
        )
        for wrong, row, name, there in found
    ]
    return _doubted(told, f"{len(told)} labels are likely wrong")


def _number_findings(
    scores: Floats, targets: Targets, rows: Ints, samples: Samples
) -> list[DataFinding]:
    """Doubt numbers that lie far from what probes that have not seen them expect."""
    values = targets.values
    spread = np.where(values.std(axis=0) > 0, values.std(axis=0), 1.0)
    apart = (values - values.mean(axis=0)) / spread - scores
    apart -= np.median(apart, axis=0)
    scale = np.maximum(1.4826 * np.median(np.abs(apart), axis=0), 1e-9)
    far = np.abs(apart / scale)
    worst = far.max(axis=1)
    told = []
    for at in np.argsort(-worst, kind="stable"):
        if worst[at] < FAR:
            break
        place = int(far[at].argmax())
        expected = scores[at, place] * spread[place] + values[:, place].mean()
        about: dict[str, Any] = {
            "label": f"{values[at, place]:g}", "suggested": f"{expected:.4g}", "probability": None,
        }  # fmt: skip
        told.append((str(samples.names[int(rows[at])]), about))
    return _doubted(told, f"{len(told)} numbers are far from what their samples suggest")


def label_findings(
    measured: Measured, samples: Samples, labels: Sequence[str]
) -> list[DataFinding]:
    """Name the samples whose label is more likely wrong than right, the surest first."""
    scores = scores_of(measured.probes)
    if scores is None:
        return []
    doubts = doubt_labels(scores, measured.codes)
    flagged = np.flatnonzero(doubts.wrong > 0.5)
    if not len(flagged):
        return []
    flagged = flagged[np.argsort(-doubts.wrong[flagged], kind="stable")]
    rows = [
        (
            str(samples.names[int(measured.rows[at])]),
            {
                "label": labels[measured.classes[measured.codes[at]]],
                "suggested": labels[measured.classes[doubts.suggested[at]]],
                "probability": float(doubts.wrong[at]),
            },
        )
        for at in flagged
    ]
    return _doubted(rows, f"{len(rows)} labels are likely wrong, of about {doubts.rate:.1%} in all")


def _doubted(rows: Sequence[tuple[str, dict[str, Any]]], told: str) -> list[DataFinding]:
    """Return the finding of samples whose answers are doubted, the surest first."""
    if not rows:
        return []
    named = "; ".join(
        f"{name}: {about['label']}, rather {about['suggested']}" for name, about in rows[:_SHOWN]
    )
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return [
        DataFinding(
            "warning",
            "label",
            f"{told}: {named}{more}",
            "look at these samples and correct their labels",
            samples=tuple(name for name, _ in rows),
            details=tuple(about for _, about in rows),
        )
    ]


__all__ = ["Doubts", "doubt_labels", "examine", "near_copies", "near_sets", "to_compare"]
