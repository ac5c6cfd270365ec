"""Advice: which case and which cut suit a data set, decided from what one pass over it measured.

The rules are few and stand in docs/advice.md with their reasons: ties go to the earlier cut; large
is what feeds the parameters that would be trained. Where nothing says how pictures become inputs,
that is measured too. What must not enter: training, and surgery.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from math import erf, log2, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import DataError, SurgeonError, UsageError
from surgeon.graph import cuts as graph_cuts
from surgeon.graph import encodings
from surgeon.graph.taps import add_taps, late_cut
from surgeon.inputs import (
    check_numbers,
    constant_inputs,
    find_preprocess,
    gone_inputs,
    label_codes,
    open_samples,
    resized,
    split_samples,
    without,
)
from surgeon.model import load
from surgeon.planning import decide, loaded_plugins
from surgeon.records import CutPoint, Encoding, Evidence, Plan, Preprocess, as_json

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

    from surgeon.data.samples import Samples
    from surgeon.model import Model
    from surgeon.plugin.manager import Plugins
    from surgeon.tune.evidence import Measured, Probe

    Source = str | os.PathLike[str] | onnx.ModelProto | Model
    Report = Callable[..., None]

FOUR = ("small-similar", "small-different", "large-similar", "large-different")
"""The cases advice chooses between."""
TIE = 0.01
"""Accuracy below which a loss may be a tie; above it, no standard error makes it one."""
PER_CLASS = 20
"""Samples of each class below which training everything is not advised."""
NOTHING_TO_GAIN = 0.005
"""Error of the probe below which more capacity has nothing to win."""
UNKNOWN_REMOVED = 0.5
"""Taken where there is no curve, or where a probe learns nothing and its curve is flat for that."""
DETECTIVE_SAMPLES = 256
REPETITIONS = 5
"""Cross-validations of each candidate preprocessing: so few samples depend on their folds."""


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
        tie: whether it is as good as the best one, by the rule of ties.
        chosen: whether the plan cuts here.
    """

    cut: CutPoint
    features: int
    accuracy: float
    error: float
    train_accuracy: float
    logme: float
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


@dataclass(frozen=True)
class Detected:
    """The preprocessing that was measured.

    Attributes:
        preprocess: the best candidate, its source `measured`.
        name: what it is called.
        sure: probability that it is better than the next in accuracy, 0.5 = a toss-up.
        ranking: every candidate, best first: name, accuracy, accuracy_error, logme, confidence.
        samples: pictures it was measured on.
        seconds: that it took.
    """

    preprocess: Preprocess
    name: str
    sure: float
    ranking: tuple[dict[str, Any], ...]
    samples: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "sure": self.sure,
            "samples": self.samples,
            "seconds": self.seconds,
            "candidates": list(self.ranking),
        }

    @property
    def note(self) -> str:
        """What people should know of it, in one line."""
        return (
            f"nothing says the preprocessing: measured on {self.samples} pictures, "
            f"{self.name} is the best of {len(self.ranking)} "
            f"({100 * self.sure:.0f} % sure against the next); --preprocess overrides it"
        )


@dataclass(frozen=True)
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
        seconds: of the pass, the probes, the preprocessing's measurement, and in all.
        warnings: what the user should be told.
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
            },
            "providers": list(self.providers),
            "seconds": dict(self.seconds),
            "warnings": list(self.warnings),
        }


# ── the verb ─────────────────────────────────────────────────────────────────────────────────────


def advise(
    model: Source,
    data: Any,
    *,
    init: str | None = None,
    seed: int = 0,
    validation: float | str = 0.2,
    preprocess: Any = None,
    size: Any = None,
    tokenizer: Any = None,
    max_length: int | None = None,
    audio: Any = None,
    label_column: str | None = None,
    inputs: Sequence[str] | Mapping[str, Any] = (),
    device: str = "auto",
    threads: int | None = None,
    progress: Report | None = None,
    plugins: Plugins | None = None,
) -> Advice:
    """Advise a case and a cut for a data set, from one pass over at most 2,000 of its samples.

    Neither the model nor the data is changed, and nothing is trained. A test split that `finetune`
    would hold out with the same seed is not looked at.

    Args:
        model: path, ModelProto or Model; one that was operated on is looked at as it is.
        data: see `finetune`.
        init: see `operate`.
        seed: of the sample, the splits and the probes.
        validation: see `finetune`.
        preprocess: see `finetune`; where nothing says it, it is measured.
        size: see `finetune`.
        tokenizer: see `finetune`.
        max_length: see `finetune`.
        audio: see `finetune`.
        label_column: see `finetune`.
        inputs: constant inputs, `NAME=VALUE`.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        threads: CPU threads.
        progress: called as `progress(stage, done, total)`.
        plugins: loaded plugins; None loads them.

    Raises:
        SurgeonError: of the kind that fits.
    """
    from surgeon.data.labels import check_trainable

    check_numbers(seed=seed, threads=threads)
    started = time.perf_counter()
    model = load(model)
    pre = find_preprocess(
        model, preprocess, size, tokenizer=tokenizer, max_length=max_length, audio=audio
    )
    constants = constant_inputs(model, inputs)
    detected = None
    if pre is None:
        detected = detect_preprocess(
            model, data, size=size, label_column=label_column, constants=constants, seed=seed,
            device=device, threads=threads, progress=progress,
        )  # fmt: skip
        pre = None if detected is None else detected.preprocess
    if isinstance(pre, Preprocess):
        model = resized(model, pre)
    bound = model.with_constants(constants)
    data = without(data, set(bound.bound_inputs) | gone_inputs(model))
    constants = {i.name: constants[i.name] for i in bound.inputs if i.name in constants}
    samples = open_samples(data, bound, pre, label_column, constants, validation)
    check_trainable(samples.labels or [])
    first = samples.load(0)
    model = bound.sized_like(first) if isinstance(first, dict) else bound
    found = choose(
        model, samples, init=init, seed=int(seed), validation=validation, device=device,
        threads=threads, constants=constants, progress=progress, plugins=plugins,
    )  # fmt: skip
    times = {"preprocess": 0.0 if detected is None else detected.seconds, **found.seconds}
    notes = (*found.warnings, *([] if detected is None else [detected.note]))
    return replace(
        found,
        preprocess=samples.encoding or pre,
        detected=detected,
        path=model.where,
        seconds={**times, "total": time.perf_counter() - started},
        warnings=notes,
    )


def choose(
    model: Model,
    samples: Samples,
    *,
    cut: str | None = None,
    init: str | None = None,
    seed: int = 0,
    validation: float | str = 0.2,
    device: Any = "auto",
    threads: int | None = None,
    constants: Mapping[str, NDArray[Any]] | None = None,
    progress: Report | None = None,
    plugins: Plugins | None = None,
) -> Advice:
    """Measure open samples and decide; see `advise`.

    Args:
        model: the model, its constant inputs bound.
        samples: the labelled data.
        cut: what the user asked for; the case is advised all the same.
        init: see `operate`.
        seed: of the sample, the splits and the probes.
        validation: see `finetune`.
        device: where the pass runs.
        threads: CPU threads.
        constants: constant inputs that are left.
        progress: called as `progress(stage, done, total)`.
        plugins: loaded plugins; None loads them.

    Raises:
        SurgeonError: of the kind that fits.
    """
    from surgeon.tune import evidence as measuring

    anatomy = model.anatomy(constants)
    labels = list(samples.classes)
    codes = label_codes(samples, labels)
    parts = split_samples(samples, codes, validation, seed, labels)
    measured = measuring.measure(
        anatomy,
        samples,
        np.concatenate([parts.train, parts.validation]),
        codes,
        seed=seed,
        device=device,
        threads=threads,
        progress=None if progress is None else lambda done, all_: progress("advice", done, all_),
        where=model.where,
    )
    best, at, similar = _compare(measured.probes)
    parameters = late_cut(anatomy).parameters
    removed = removed_by_doubling(measured.curve)
    if not _learns(best, measured.codes):
        removed = UNKNOWN_REMOVED
    needed = samples_needed(parameters, len(labels), removed, 1 - best.accuracy)
    evidence = Evidence(
        samples=samples.n,
        classes=len(labels),
        accuracy_by_depth=tuple((p.cut.depth, p.accuracy) for p in measured.probes),
        similar=similar,
        large=0.0 if needed is None else samples.n / (samples.n + needed),
        error_by_depth=tuple((p.cut.depth, p.error) for p in measured.probes),
        logme_by_depth=tuple((p.cut.depth, p.logme) for p in measured.probes),
        learning_curve=measured.curve,
        leep=measured.leep,
    )
    case = _best_case(evidence, plugins)
    early = measured.probes[at].cut.tensor
    # A late cut is the case's own choice; only an early one is ours to name.
    ours = early if case == "small-different" or anatomy.late not in _tensors(measured) else None
    plan = decide(model, anatomy, case, len(labels), cut or ours, init, evidence, plugins)
    tensor = graph_cuts.resolve(anatomy, plan.cut, default=anatomy.late)
    plan = replace(
        plan, cut=tensor, depth=graph_cuts.depth_of(anatomy, tensor), classes=len(labels)
    )
    return Advice(
        plan=plan,
        evidence=evidence,
        why=_why(plan, evidence, measured, best, needed, removed, parameters),
        candidates=tuple(_candidate(item, best, tensor) for item in measured.probes),
        samples_needed=needed,
        per_class=_per_class(best, measured.codes, labels),
        looked_at=len(measured.rows),
        labels=tuple(labels),
        path=model.where,
        preprocess=samples.preprocess,
        providers=measured.providers,
        seconds={"pass": measured.seconds["pass"], "probes": measured.seconds["probes"]},
        warnings=measured.notes,
    )


# ── the rules ────────────────────────────────────────────────────────────────────────────────────


def _compare(probes: Sequence[Probe]) -> tuple[Probe, int, float | None]:
    """Return the best probe, the place of the earliest that ties with it, and the similarity.

    The similarity is the probability that the late cut is really better than every earlier one:
    above 0.5 exactly where none of them ties with it. None with a single cut to look at.
    """
    best = max(probes, key=lambda item: item.accuracy)
    earliest = next(place for place, item in enumerate(probes) if _ties(item, best))
    if len(probes) == 1:
        return best, earliest, None
    *early, late = probes
    return best, earliest, min(_surely_better(late, item) for item in early)


def _ties(item: Probe, best: Probe) -> bool:
    from surgeon.tune.evidence import paired

    loss, error = paired(best, item)
    return item is best or loss <= min(error, TIE)


def _surely_better(late: Probe, item: Probe) -> float:
    from surgeon.tune.evidence import paired

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

    √parameters · 2^(4·removed − 1), and at least `PER_CLASS` for each class: the less a probe
    still learns from more data, the sooner it is capacity that it lacks.

    Args:
        parameters: that would be trained.
        classes: of the data.
        removed: see `removed_by_doubling`.
        error: of the best probe.
    """
    if error <= NOTHING_TO_GAIN:
        return None
    return int(max(PER_CLASS * classes, sqrt(parameters) * 2.0 ** (4 * removed - 1)))


def _best_case(evidence: Evidence, plugins: Plugins | None) -> str:
    """Return the one of the four that says it suits best."""
    offered = loaded_plugins(plugins).cases()
    suits = {name: offered[name].case.suits(evidence) for name in FOUR if name in offered}
    if not suits:
        raise UsageError(
            "none of the four cases is loaded",
            where="SURGEON_DISABLE_PLUGINS",
            remedy="advice chooses between them; let surgeon's own plugin load",
        )
    return max(suits, key=lambda name: suits[name])


def _learns(best: Probe, codes: NDArray[np.int64]) -> bool:
    """Say whether a probe is clearly better than naming the commonest class every time."""
    commonest = float(np.bincount(codes).max()) / len(codes)
    return best.accuracy > commonest + 2 * best.error


def _tensors(measured: Measured) -> set[str]:
    return {item.cut.tensor for item in measured.probes}


def _candidate(item: Probe, best: Probe, chosen: str) -> Candidate:
    return Candidate(
        cut=item.cut,
        features=item.features,
        accuracy=item.accuracy,
        error=item.error,
        train_accuracy=item.train_accuracy,
        logme=item.logme,
        tie=_ties(item, best),
        chosen=item.cut.tensor == chosen,
    )


def _per_class(best: Probe, codes: NDArray[np.int64], labels: Sequence[str]) -> dict[str, float]:
    return {
        label: float(best.correct[codes == code].mean())
        for code, label in enumerate(labels)
        if (codes == code).any()
    }


def _why(
    plan: Plan,
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
    first = f"{'large' if large else 'small'}: {evidence.samples:,} samples; {wanted}"
    late = measured.probes[-1]
    if evidence.similar is None:
        second = "similar: there is a single cut to look at, and nothing to compare it with"
    elif evidence.similar > 0.5:
        rival = max(measured.probes[:-1], key=lambda item: item.accuracy)
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
    return f"{100 * item.accuracy:.1f} ± {100 * item.error:.1f} % at @{item.cut.depth:.2f}"


# ── the preprocessing detective ──────────────────────────────────────────────────────────────────


def detect_preprocess(
    model: Model,
    data: Any,
    *,
    size: Any = None,
    label_column: str | None = None,
    constants: Mapping[str, NDArray[Any]] | None = None,
    seed: int = 0,
    device: Any = "auto",
    threads: int | None = None,
    progress: Report | None = None,
) -> Detected | None:
    """Measure how pictures become inputs, on at most 256 of them; None where data are no pictures.

    Candidates are ranked by the accuracy of a probe on the late cut; equal ones by how sure the
    old head is of its own classes, then by LogME. Confidence alone is no judge: on drawings with
    plain backgrounds it preferred a wrong order of channels.

    Raises:
        UsageError: the size of the pictures, or their labels, are not known.
        DataError: data that do not fit.
    """
    from surgeon.data.images import image_input
    from surgeon.data.labels import check_trainable
    from surgeon.data.read import needs_preprocess, open_data
    from surgeon.runtime.features import extract
    from surgeon.runtime.metrics import softmax
    from surgeon.tune import evidence as measuring

    fixed = dict(constants or {})
    if not needs_preprocess(data, model.inputs, fixed):
        return None
    started = time.perf_counter()
    info = image_input(model.inputs, fixed)
    candidates = preprocess_candidates(info, size)
    # Resizing, where --size asks for it, is the same for all.
    sized = resized(model, next(iter(candidates.values())))
    anatomy = sized.anatomy(fixed)
    late = late_cut(anatomy)
    taps = add_taps(anatomy, [late])
    results: list[tuple[str, Preprocess, Probe, float | None]] = []
    chosen = codes = None
    for done, (name, how) in enumerate(candidates.items()):
        samples = open_data(
            data, sized.inputs, preprocess=how, label_column=label_column, constants=fixed
        )
        if codes is None or chosen is None:
            check_trainable(samples.labels or [])
            codes = label_codes(samples, samples.classes)
            parts = split_samples(samples, codes, 0.2, seed, samples.classes)
            chosen = measuring.stratified(
                np.concatenate([parts.train, parts.validation]), codes, DETECTIVE_SAMPLES, seed
            )
        names = [*taps.outputs, *([taps.head] if taps.head else [])]
        found = extract(
            taps.model, names, samples, chosen, device=device, threads=threads, where=model.where
        )
        labels = codes[found.rows]
        values = found.array(taps.outputs[0])
        probed = measuring.probe(
            measuring.project(values, seed),
            labels,
            late,
            values.shape[-1],
            seed=seed,
            repetitions=REPETITIONS,
        )
        confidence = None
        if taps.head is not None and anatomy.head is not None:
            scores = np.asarray(found.array(taps.head), np.float64).reshape(len(labels), -1)
            shares = scores if anatomy.head.activation == "Softmax" else softmax(scores)
            confidence = float(shares.max(axis=1).mean()) if shares.shape[1] > 1 else None
        results.append((name, how, probed, confidence))
        if progress is not None:
            progress("preprocessing", done + 1, len(candidates))
    if not results:
        raise DataError("there is no preprocessing to try", where=model.where)
    return _rank(results, len(results[0][2].correct), time.perf_counter() - started)


def _rank(
    results: list[tuple[str, Preprocess, Probe, float | None]], samples: int, seconds: float
) -> Detected:
    from surgeon.tune.evidence import paired

    def order(item: tuple[str, Preprocess, Probe, float | None]) -> tuple[float, float, float]:
        _, _, probed, confidence = item
        return probed.accuracy, confidence or 0.0, probed.logme

    ranked = sorted(results, key=order, reverse=True)
    name, how, first, _ = ranked[0]
    sure = 1.0
    if len(ranked) > 1:
        gain, error = paired(first, ranked[1][2])
        sure = _normal(gain / error)
    rows = tuple(
        {
            "name": name,
            "accuracy": probed.accuracy,
            "accuracy_error": probed.error,
            "logme": probed.logme,
            "confidence": confidence,
        }
        for name, _, probed, confidence in ranked
    )
    return Detected(replace(how, source="measured"), name, sure, rows, samples, seconds)


def preprocess_candidates(info: Any, size: Any = None) -> dict[str, Preprocess]:
    """Return the candidates by name: ranges of values × orders of channels × layouts left open.

    Args:
        info: the graph input that takes pictures.
        size: what stands behind `--size`, or None.

    Raises:
        UsageError: neither the graph nor `size` says how large pictures are.
    """
    from surgeon.graph.preprocess import PRESETS, infer_layout, parse_preprocess

    ranges = {
        name: {"scale": PRESETS[name]["scale"], "mean": PRESETS[name]["mean"],
               "std": PRESETS[name]["std"]}
        for name in ("imagenet", "zero-one", "minus-one-one", "raw", "efficientnet-lite", "caffe")
    }  # fmt: skip
    if info is not None and info.dtype == "uint8":
        ranges = {"raw": ranges["raw"]}
    known = infer_layout(info)
    found: dict[str, Preprocess] = {}
    for layout in [known] if known else ["NCHW", "NHWC"]:
        for name, values in ranges.items():
            for channels in ("RGB", "BGR", "L"):
                try:
                    how = parse_preprocess(
                        {**values, "channels": channels, "layout": layout}, info, size, "measured"
                    )
                except SurgeonError as error:
                    if "channels" in error.message or channels == "L":
                        continue  # the graph takes another number of them
                    raise
                # The presets state numbers in their own order: RGB, caffe's in BGR.
                own = "BGR" if name == "caffe" else "RGB"
                if channels != own:
                    how = replace(how, mean=how.mean[::-1], std=how.std[::-1])
                title = name if known else f"{name} {layout}"
                found[f"{title} {channels}"] = how
    return found
