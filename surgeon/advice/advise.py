"""Advice: which case and which cut suit a data set, decided from what one pass over it measured.

The rules are few and stand in docs/advice.md with their reasons: ties go to the earlier cut; large
is what feeds the parameters that would be trained. Where nothing says how pictures become inputs,
that is measured too. What must not enter: training, and surgery.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field, replace
from math import erf, isnan, log2, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon import intake, shown
from surgeon.advice.detective import detect_preprocess
from surgeon.errors import UsageError
from surgeon.graph import cuts as graph_cuts
from surgeon.graph import encodings
from surgeon.graph.picks import picks
from surgeon.graph.taps import add_taps
from surgeon.job.decide import decide, measures
from surgeon.model import load
from surgeon.options import Options, Surgery, explained
from surgeon.plugin.manager import loaded_plugins
from surgeon.records import (
    Case,
    CutPoint,
    DataFinding,
    Encoding,
    Evidence,
    Plan,
    Preprocess,
    as_json,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

    from surgeon.intake import Divided
    from surgeon.model import Model
    from surgeon.plugin.manager import Plugins
    from surgeon.probe.detected import Detected
    from surgeon.probe.evidence import Measured, Probe

    Source = str | os.PathLike[str] | onnx.ModelProto | Model
    Report = Callable[..., None]

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


# ── what is returned ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Candidate:
    """A cut that was looked at: what a linear classifier reaches there, and what it costs.

    Attributes:
        cut: where.
        features: numbers in the pooled value.
        accuracy: cross-validated accuracy of the probe, with its standard error.
        error: that standard error.
        train_accuracy: on the samples it was fitted to.
        logme: log maximum evidence per sample and class, nats.
        latency: seconds of one sample alone on this machine, or None where that was not measured.
        size: bytes of the weights that are kept, the new head's among them.
        pareto: whether no other candidate is at least as accurate, as quick and as small, and in
            one of these better.
        tie: whether it is as good as the best one, by the rule of ties.
        chosen: whether the plan cuts here.
    """

    cut: CutPoint
    features: int
    accuracy: float
    error: float
    train_accuracy: float
    logme: float
    latency: float | None
    size: int
    pareto: bool
    tie: bool
    chosen: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form: the cut's own keys beside the measured ones."""
        measured = {
            name: value for name, value in vars(self).items() if name not in ("cut", "error")
        }
        kept = ("tensor", "depth", "parameters", "macs", "bytes")
        return {
            **{name: getattr(self.cut, name) for name in kept},
            **measured,
            "accuracy_error": self.error,
        }


@dataclass(frozen=True, repr=False)
class Advice:
    """Which case and cut suit the data, and why.

    Attributes:
        plan: what the advised case decided, its cut a tensor name.
        evidence: what was measured.
        why: three lines: size, similarity, plan.
        candidates: the cuts looked at, by ascending depth.
        samples_needed: data from which training everything is advised, or None: nothing to gain.
        per_class: share of each label's samples that the best probe got right.
        preprocess: how inputs are made, or None for values taken as they are.
        detected: how that was measured, where nothing said it.
        looked_at: samples in the pass.
        labels: the labels of the data, in order.
        seconds: of understanding the model, opening the data, measuring the preprocessing, the
            pass, the probes, latency and findings, and in all.
        warnings: what the user should be told.
        findings: what was found in the data.
        near: sets of samples, by index, that show the same thing: no split tears them apart.
    """

    plan: Plan
    evidence: Evidence
    why: tuple[str, str, str]
    candidates: tuple[Candidate, ...]
    samples_needed: int | None
    per_class: dict[str, float]
    looked_at: int
    labels: tuple[str, ...]
    preprocess: Preprocess | Encoding | None = None
    detected: Detected | None = None
    path: str | None = None
    providers: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    findings: tuple[DataFinding, ...] = ()
    near: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        """Return the case, why, and what was measured, in a few lines."""
        at = [f"@{item.cut.depth:.2f} {100 * item.accuracy:.1f} %" for item in self.candidates]
        return shown.block(
            f"surgeon.Advice {self.plan.case}",
            {
                "cut": f"{self.plan.cut} (@{self.plan.depth or 0:.4g})",
                **dict(zip(("size", "likeness", "so"), self.why, strict=True)),
                "candidates": ", ".join(at),
                "seconds": f"{self.seconds.get('total', 0):.1f}",
                "warnings": shown.listed(self.warnings),
            },
        )

    @property
    def saves(self) -> dict[str, Any] | None:
        """What giving `--preprocess` saves next time, where it had to be measured; else None."""
        if self.detected is None or not self.detected.samples:
            return None
        said = encodings.as_document(self.detected.preprocess, brief=True)
        said.pop("source", None)
        return {
            "option": f"--preprocess '{json.dumps(said)}'",
            "seconds": self.seconds.get("preprocess", 0.0),
        }

    @property
    def expected(self) -> float | None:
        """Cross-validated accuracy of the probe where the plan cuts, or None: not looked at."""
        chosen = (item.accuracy for item in self.candidates if item.chosen)
        return next(chosen, None)

    def brief(self) -> dict[str, Any]:
        """Return what a tuned file keeps of it, and the `advice` of the `finetune` document."""
        return {
            "case": self.plan.case,
            "cut": self.plan.cut,
            "depth": self.plan.depth,
            "why": list(self.why),
            "evidence": as_json(self.evidence),
            "samples_needed": self.samples_needed,
            "candidates": [item.as_dict() for item in self.candidates],
            "preprocess": None if self.detected is None else self.detected.as_dict(),
        }

    def document(self) -> dict[str, Any]:
        """Return the body of the `advise` document."""
        how = self.preprocess
        return {
            **self.brief(),
            "path": self.path,
            "plan": self.plan.as_dict(),
            "labels": list(self.labels),
            "data": {"samples": self.evidence.samples, "looked_at": self.looked_at},
            "per_class": [
                {"label": label, "accuracy": share} for label, share in self.per_class.items()
            ],
            "preprocess": {
                "used": None if how is None else encodings.as_document(how, brief=True),
                "measured": None if self.detected is None else self.detected.as_dict(),
                "saves": self.saves,
            },
            "findings": [as_json(finding) for finding in self.findings],
            "providers": list(self.providers),
            "seconds": dict(self.seconds),
            "warnings": list(self.warnings),
        }


# ── the verb ─────────────────────────────────────────────────────────────────────────────────────


@explained
def advise(
    model: Source,
    data: Any,
    *,
    output: str | None = None,
    init: str | None = None,
    seed: int = 0,
    validation: float | str = 0.2,
    preprocess: Any = None,
    size: Any = None,
    tokenizer: Any = None,
    max_length: int | None = None,
    audio: Any = None,
    label_column: str | None = None,
    group_column: str | None = None,
    inputs: Sequence[str] | Mapping[str, Any] = (),
    device: str = "auto",
    threads: int | None = None,
    progress: Report | None = None,
    plugins: Plugins | None = None,
) -> Advice:
    """Advise a case and a cut for a data set, from one pass over at most 2,000 of its samples.

    Neither the model nor the data is changed, and nothing is trained. Only the samples that
    `finetune` would learn from with the same seed and validation are looked at.

    Args:
        model: path, ModelProto or Model; one that was operated on is looked at as it is.
        data: see `finetune`.
        progress: called as `progress(stage, done, total)`.
        plugins: loaded plugins; None loads them.

    Raises:
        SurgeonError: of the kind that fits.
    """
    to = Options.of(locals())
    started = time.perf_counter()
    model = load(model).with_output(output)
    loaded = time.perf_counter() - started
    given = intake.open(
        model, data, to, labels=intake.labels_to_learn, detect=detect_preprocess,
        progress=progress, plugins=plugins,
    )  # fmt: skip
    found = choose(given, to.surgery, latency=True, open_all=True, plugins=plugins)
    detected = given.detected
    times = {"preprocess": 0.0 if detected is None else detected.seconds, "data": given.seconds}
    times |= found.seconds
    times["model"] += loaded
    notes = [*given.samples.notes, *found.warnings, *([] if detected is None else [detected.note])]
    anatomy = given.model.anatomy()
    notes += anatomy.notes
    if picks(anatomy) or (anatomy.head is not None and anatomy.head.also):
        notes.append(
            "the probe of the late cut reads the mean of all tokens, or one of the heads that are "
            "averaged; finetune reads what the old head's answer was made of, which may do better"
        )
    return replace(
        found,
        preprocess=given.preprocess,
        detected=detected,
        path=given.model.where,
        seconds={**times, "total": time.perf_counter() - started},
        warnings=tuple(dict.fromkeys(notes)),
    )


def consult(given: Divided, to: Options, *, plugins: Plugins | None) -> Advice | None:
    """Measure and decide, if it is asked which case suits or the case wants evidence; else None."""
    case = to.surgery.case
    if case != "auto" and not measures(case, plugins):
        return None
    asked = replace(to.surgery, case=None if case == "auto" else case)
    return replace(choose(given, asked, plugins=plugins), detected=given.detected)


def choose(
    given: Divided,
    to: Surgery,
    *,
    latency: bool = False,
    open_all: bool = False,
    plugins: Plugins | None = None,
) -> Advice:
    """Measure samples and decide; see `advise`.

    Args:
        given: the model, its constant inputs bound, and the labelled samples.
        to: the case that plans by the evidence, cut included; without one, the one that suits best
            is advised, whatever cut is asked for.
        latency: whether to measure how long one sample takes to each cut; nothing is decided by it.
        open_all: whether samples outside the pass are opened too, so that broken ones are known.
        plugins: loaded plugins; None loads them.

    Raises:
        SurgeonError: of the kind that fits.
    """
    from surgeon.data.splits import keep_together
    from surgeon.probe import evidence as measuring
    from surgeon.probe.findings import examine, near_sets, to_compare

    understanding = time.perf_counter()
    model, samples, parts = given.model, given.samples, given.parts
    labels, codes, seed = given.labels, given.codes, given.seed
    anatomy = model.anatomy()
    understood = time.perf_counter() - understanding
    measured = measuring.measure(
        anatomy,
        samples,
        parts.train,
        codes,
        seed=seed,
        device=given.device,
        threads=given.threads,
        progress=given.progress,
        where=model.where,
        compared=to_compare(samples, parts, codes, seed),
        groups=parts.groups,
    )
    examining = time.perf_counter()
    given.say("faults of the data", 0, 1)
    near = near_sets(samples, measured)
    parts = keep_together(parts, near, samples.n)
    findings = examine(samples, codes, labels, parts, measured, near, seed=seed, open_all=open_all)
    given.say("faults of the data", 1, 1)
    examined = time.perf_counter() - examining
    best, at, similar = _compare(measured.probes)
    parameters = measured.probes[at].cut.parameters
    removed = removed_by_doubling(measured.curve)
    if not _learns(best, measured.codes):
        removed = UNKNOWN_REMOVED
    needed = samples_needed(parameters, len(labels), removed, 1 - best.quality)
    learnt_from = len(parts.train) + len(parts.validation)
    large = 0.0 if needed is None else learnt_from / (learnt_from + needed)
    evidence = _evidence(given, measured, similar, large)
    plan = _plan(given, to, evidence, measured.probes[at].cut.tensor, plugins)
    started = time.perf_counter()
    latencies = _latencies(given, measured) if latency else {}
    timed = time.perf_counter() - started
    return Advice(
        plan=plan,
        evidence=evidence,
        why=_why(plan, learnt_from, evidence, measured, best, needed, removed, parameters),
        candidates=_candidates(measured.probes, best, plan, latencies),
        samples_needed=needed,
        per_class=_per_class(best, measured.codes, [labels[at] for at in measured.classes]),
        looked_at=len(measured.rows),
        labels=tuple(labels),
        path=model.where,
        preprocess=samples.preprocess,
        providers=measured.providers,
        seconds={
            "model": understood,
            **measured.seconds,
            "latency": timed,
            "findings": examined,
        },
        warnings=measured.notes,
        findings=findings,
        near=tuple(near),
    )


def _plan(
    given: Divided, to: Surgery, evidence: Evidence, early: str, plugins: Plugins | None
) -> Plan:
    """Ask the case that is advised, or the one that was asked for, for its plan."""
    anatomy, advised, count = given.model.anatomy(), to.case is None, len(given.labels)
    learnt_from = len(given.parts.train) + len(given.parts.validation)
    # Where the probes say, whatever is trained: on data unlike the original the layers behind it
    # are a worse start than none.
    ours = early if advised else None
    start = to.init or ("pretrained" if advised and learnt_from < RACE_FROM else None)
    case = _best_case(evidence, plugins) if to.case is None else to.case
    asked = Surgery(case=case, classes=count, cut=to.cut or ours, init=start)
    plan = decide(given.model, anatomy, asked, evidence, plugins)
    tensor = graph_cuts.resolve(anatomy, plan.cut, default=anatomy.late)
    return replace(plan, cut=tensor, depth=graph_cuts.depth_of(anatomy, tensor), classes=count)


def _evidence(given: Divided, measured: Measured, similar: float | None, large: float) -> Evidence:
    """Return what was measured as a case reads it."""
    return Evidence(
        samples=given.samples.n,
        classes=len(given.labels),
        accuracy_by_depth=tuple((p.cut.depth, p.quality) for p in measured.probes),
        similar=similar,
        large=large,
        error_by_depth=tuple((p.cut.depth, p.error) for p in measured.probes),
        logme_by_depth=tuple((p.cut.depth, p.logme) for p in measured.probes),
        learning_curve=measured.curve,
        leep=measured.leep,
    )


# ── the rules ────────────────────────────────────────────────────────────────────────────────────


def _compare(probes: Sequence[Probe]) -> tuple[Probe, int, float | None]:
    """Return the best probe, the place of the earliest that ties with it, and the similarity.

    The similarity is the probability that the late cut is really better than every earlier one:
    above 0.5 exactly where none of them ties with it. None with a single cut to look at.
    """
    best = max(probes, key=lambda item: item.quality)
    earliest = next(place for place, item in enumerate(probes) if _ties(item, best))
    if len(probes) == 1:
        return best, earliest, None
    *early, late = probes
    return best, earliest, min(_surely_better(late, item) for item in early)


def _ties(item: Probe, best: Probe) -> bool:
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


def _best_case(evidence: Evidence, plugins: Plugins | None) -> str:
    """Return the case that says it suits best, a third party's or ours; a tie goes to ours."""
    suits: dict[str, float] = {}
    for name, found in loaded_plugins(plugins).offers(Case).items():
        try:
            suits[name] = float(found.offer.suits(evidence))
        except Exception as error:  # noqa: BLE001 - whatever a plugin does wrong, we go on
            logging.getLogger("surgeon.advice").warning(
                "the case %r of distribution %s cannot say whether it suits: %s: %s",
                name,
                found.distribution,
                type(error).__name__,
                error,
            )
    if not suits:
        raise UsageError(
            "no case is loaded",
            where="SURGEON_DISABLE_PLUGINS",
            remedy="advice chooses between them; let surgeon's own plugins load",
        )
    return max(suits, key=lambda name: -1.0 if isnan(suits[name]) else suits[name])


def _learns(best: Probe, codes: NDArray[np.int64]) -> bool:
    """Say whether a probe is clearly better than naming the commonest class every time."""
    commonest = float(np.bincount(codes).max()) / len(codes)
    return best.quality > commonest + 2 * best.error


def _candidates(
    probes: Sequence[Probe],
    best: Probe,
    plan: Plan,
    latencies: Mapping[str, float],
) -> tuple[Candidate, ...]:
    """Return what was measured of every cut."""
    costs = [
        (
            -item.quality,
            latencies.get(item.cut.tensor, 0.0),
            item.cut.bytes + 4 * (plan.classes or 0) * (item.features + 1),
        )
        for item in probes
    ]
    return tuple(
        Candidate(
            cut=item.cut,
            features=item.features,
            accuracy=item.quality,
            error=item.error,
            train_accuracy=item.train_quality,
            logme=item.logme,
            latency=latencies.get(item.cut.tensor),
            size=own[2],
            pareto=not any(
                other != own and all(a <= b for a, b in zip(other, own, strict=True))
                for other in costs
            ),
            tie=_ties(item, best),
            chosen=item.cut.tensor == plan.cut,
        )
        for item, own in zip(probes, costs, strict=True)
    )


def _latencies(given: Divided, measured: Measured) -> dict[str, float]:
    """Return seconds of one sample alone to the pooled value of each cut, by tensor."""
    from surgeon.runtime.latency import measure_latency

    anatomy, feeds = given.model.anatomy(), given.samples.read(measured.rows[:1]).feeds
    found: dict[str, float] = {}
    for item in measured.probes:
        found[item.cut.tensor] = measure_latency(
            add_taps(anatomy, [item.cut], head=False).model, feeds, device=given.device,
            threads=given.threads, where=given.model.where,
        )  # fmt: skip
        given.say("latency of each cut", len(found), len(measured.probes))
    return found


def _per_class(best: Probe, codes: NDArray[np.int64], labels: Sequence[str]) -> dict[str, float]:
    return {
        label: float(best.correct[codes == code].mean())
        for code, label in enumerate(labels)
        if (codes == code).any()
    }


def _why(
    plan: Plan,
    learnt_from: int,
    evidence: Evidence,
    measured: Measured,
    best: Probe,
    needed: int | None,
    removed: float,
    parameters: int,
) -> tuple[str, str, str]:
    """Say in three lines what was found and what follows."""
    large = (evidence.large or 0.0) > 0.5
    if needed is None:
        wanted = "a linear classifier leaves nothing to gain"
    else:
        wanted = (
            f"training {parameters:,} parameters wants about {needed:,} "
            f"(twice the data would remove {100 * removed:.0f} % of a linear classifier's error)"
        )
    first = f"{'large' if large else 'small'}: {learnt_from:,} samples to learn from; {wanted}"
    late = measured.probes[-1]
    if evidence.similar is None:
        second = "similar: there is a single cut to look at, and nothing to compare it with"
    elif evidence.similar > 0.5:
        rival = max(measured.probes[:-1], key=lambda item: item.quality)
        second = f"similar: the last features are the best: {_figure(late)}, {_figure(rival)}"
    elif _ties(late, best):
        rival = next(item for item in measured.probes if _ties(item, best))
        second = f"different: earlier features are as good: {_figure(rival)}, {_figure(late)}"
    else:
        second = f"different: earlier features are better: {_figure(best)}, {_figure(late)}"
    kept = next((p.cut for p in measured.probes if p.cut.tensor == plan.cut), None)
    work = "" if kept is None else f", {kept.macs / max(late.cut.macs, 1):.0%} of the multiply-adds"
    trains = "everything" if plan.trainable == "all" else "a new head"
    third = f"so {plan.case}: cut at {plan.cut} (@{plan.depth:.2f}{work}), train {trains}"
    return first, second, third


def _figure(item: Probe) -> str:
    return f"{100 * item.quality:.1f} ± {100 * item.error:.1f} % at @{item.cut.depth:.2f}"
