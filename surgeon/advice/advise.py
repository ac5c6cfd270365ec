"""Advice: which case and which cut suit a data set, decided from what one pass over it measured.

The rules are few and stand in docs/advice.md with their reasons: ties go to the earlier cut; large
is what feeds the parameters that would be trained. Where nothing says how pictures become inputs,
that is measured too. What must not enter: training, and surgery.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from surgeon import intake
from surgeon.advice.advice import Advice, Candidate
from surgeon.advice.detective import detect_preprocess
from surgeon.advice.rules import RACE_FROM, Judged, best_case, judge, reasons, ties
from surgeon.graph import cuts as graph_cuts
from surgeon.graph.picks import picks
from surgeon.graph.taps import add_taps
from surgeon.job.decide import decide, for_task, measures, settle_head
from surgeon.job.operate import operate_for
from surgeon.model import load
from surgeon.options import Options, Surgery, explained
from surgeon.plugin.manager import loaded_plugins
from surgeon.records import Evidence, Measurement, Plan

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import onnx

    from surgeon.intake import Divided
    from surgeon.job.front import Begun
    from surgeon.model import Model
    from surgeon.plugin.manager import Plugins
    from surgeon.probe.detected import Detected
    from surgeon.probe.evidence import Measured, Probe

    Source = str | os.PathLike[str] | onnx.ModelProto | Model
    Report = Callable[..., None]


LEVELS = 10
"""Classes that answers which are none count as, where samples of each are asked for."""


@explained
def advise(  # noqa: PLR0913 - a public verb has its options as keywords
    model: Source,
    data: Any,
    *,
    output: str | None = None,
    head: str | None = None,
    init: str | None = None,
    seed: int = 0,
    validation: float | str = 0.2,
    preprocess: Any = None,
    size: Any = None,
    tokenizer: Any = None,
    max_length: int | None = None,
    audio: Any = None,
    label_column: str | None = None,
    task: str = "auto",
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
        model, data, to, detect=detect_preprocess, progress=progress, plugins=plugins
    )
    found = choose(given, to.surgery, thorough=True, plugins=plugins)
    detected = given.detected
    times = {"preprocess": 0.0 if detected is None else detected.seconds, "data": given.seconds}
    times |= found.seconds
    times["model"] += loaded
    notes = [*given.samples.notes, *found.warnings, *_notes_of(given.model, detected)]
    return replace(
        found,
        preprocess=given.preprocess,
        detected=detected,
        path=given.model.where,
        seconds={**times, "total": time.perf_counter() - started},
        warnings=tuple(dict.fromkeys(notes)),
    )


def _notes_of(model: Model, detected: Detected | None) -> list[str]:
    """Return what people should know of the head, and of what the probe reads in its place."""
    anatomy = model.anatomy()
    notes = [*([] if detected is None else [detected.note]), *anatomy.notes]
    if picks(anatomy) or (anatomy.head is not None and anatomy.head.also):
        notes.append(
            "the probe of the late cut reads the mean of all tokens, or one of the heads that are "
            "averaged; finetune reads what the old head's answer was made of, which may do better"
        )
    return notes


def consult(given: Divided, to: Options, *, plugins: Plugins | None) -> Advice | None:
    """Measure and decide, if it is asked which case suits or the case wants evidence; else None."""
    case = to.surgery.case
    if case != "auto" and not measures(case, plugins):
        return None
    asked = replace(to.surgery, case=None if case == "auto" else case)
    return replace(choose(given, asked, plugins=plugins), detected=given.detected)


def operate_by(
    given: Divided, to: Options, begun: Begun | None, *, plugins: Plugins | None
) -> tuple[Advice | None, Model]:
    """Decide, by measurement where that is asked for, and operate.

    Args:
        given: the data, and the model that is operated on.
        to: what was asked for.
        begun: where that model begins at an inner tensor; a plan that was made then counts.
        plugins: loaded plugins; None loads them.
    """
    advice, plan, known = None, None if begun is None else begun.plan, None
    to = to if begun is None else replace(to, surgery=begun.asked(to.surgery))
    if plan is None:
        advice = consult(given, to, plugins=plugins)
    if advice is not None:
        plan, known = advice.plan, advice.evidence
    operated = operate_for(given, to, plan=plan, evidence=known, plugins=plugins)
    return advice, operated if begun is None else begun.finish(operated)


def choose(
    given: Divided, to: Surgery, *, thorough: bool = False, plugins: Plugins | None = None
) -> Advice:
    """Measure samples and decide; see `advise`.

    Args:
        given: the model, its constant inputs bound, and the labelled samples.
        to: the case that plans by the evidence, cut included; without one, the one that suits best
            is advised, whatever cut is asked for.
        thorough: also measure how long one sample takes to each cut, by which nothing is decided,
            and open samples outside the pass, so that broken ones are known.
        plugins: loaded plugins; None loads them.

    Raises:
        SurgeonError: of the kind that fits.
    """
    from surgeon.probe import evidence as measuring
    from surgeon.probe.findings import examine, near_sets, to_compare
    from surgeon.runtime.features import Request

    clock = _Clock()
    model, samples, labels = given.model, given.samples, given.labels
    anatomy = model.anatomy()
    clock.stop("model")
    compared = to_compare(samples, given.parts, given.strata, given.seed)
    measured = measuring.measure(
        anatomy, samples,
        measuring.Looked.of(
            given.parts.train, given.task, given.targets, compared, given.parts.groups
        ),
        Request(device=given.device, threads=given.threads, where=model.where),
        seed=given.seed, progress=given.progress,
    )  # fmt: skip
    clock.stop()
    clock.seconds |= {**measured.seconds, "latency": 0.0}
    given.say("faults of the data", 0, 1)
    near = near_sets(samples, measured)
    parts = given.kept_together(near).parts
    findings = examine(
        samples, given.task, given.targets, parts, measured, near, seed=given.seed,
        open_all=thorough,
    )  # fmt: skip
    given.say("faults of the data", 1, 1)
    clock.stop("findings")
    several = max(len(labels), len(measured.classes) or LEVELS)
    judged = judge(measured, several, len(parts.train) + len(parts.validation))
    evidence = evidence_of(given, measured, judged)
    plan = _plan(given, to, evidence, judged, plugins)
    clock.stop()
    latencies = _latencies(given, measured) if thorough else {}
    clock.stop("latency")
    return Advice(
        plan=plan,
        evidence=evidence,
        why=reasons(plan, evidence, measured.probes, judged),
        candidates=_candidates(measured.probes, judged.best, plan, latencies),
        samples_needed=judged.needed,
        per_class=_per_class(judged.best, measured, labels),
        quality=measured.quality,
        looked_at=len(measured.rows),
        labels=tuple(labels),
        path=model.where,
        preprocess=samples.preprocess,
        providers=measured.providers,
        seconds=clock.seconds,
        warnings=measured.notes,
        findings=findings,
        near=tuple(near),
    )


class _Clock:
    """Seconds of the parts of a job, each told when it ends."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    def stop(self, part: str | None = None) -> None:
        """End a part; one without a name is not told."""
        now = time.perf_counter()
        if part is not None:
            self.seconds[part] = now - self._began
        self._began = now


def evidence_of(given: Divided, measured: Measured, judged: Judged) -> Evidence:
    """Return what a case is told of a pass over the data."""
    return Evidence(
        samples=given.samples.n,
        classes=given.outputs,
        measurements=tuple(
            Measurement(p.cut.tensor, p.cut.depth, p.quality, p.error, p.logme)
            for p in measured.probes
        ),
        similar=judged.similar,
        large=judged.large,
        learning_curve=measured.curve,
        leep=measured.leep,
    )


def _plan(
    given: Divided, to: Surgery, evidence: Evidence, judged: Judged, plugins: Plugins | None
) -> Plan:
    """Ask the case that is advised, or the one that was asked for, for its plan."""
    anatomy, advised, count = given.model.anatomy(), to.case is None, given.outputs
    # Where the probes say, whatever is trained: on data unlike the original the layers behind it
    # are a worse start than none.
    cut = to.cut or (judged.early.cut.tensor if advised else None)
    start = to.init or ("pretrained" if advised and judged.learnt_from < RACE_FROM else None)
    case = best_case(evidence, plugins) if to.case is None else to.case
    asked = Surgery(case=case, classes=count, cut=cut, init=start, head=to.head)
    plan = for_task(decide(given.model, anatomy, asked, evidence, plugins), given.task_name)
    tensor = graph_cuts.resolve(anatomy, plan.cut, default=anatomy.late)
    depth = graph_cuts.depth_of(anatomy, tensor)
    plan, _ = settle_head(plan, to.head, given.task, loaded_plugins(plugins))
    named = count if given.task.names_classes else None
    return replace(plan, cut=tensor, depth=depth, classes=named, outputs=count)


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
            item.cut.bytes + 4 * (plan.outputs or 0) * (item.features + 1),
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
            tie=ties(item, best),
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


def _per_class(best: Probe, measured: Measured, labels: Sequence[str]) -> dict[str, float]:
    codes = measured.codes
    return {
        labels[place]: float(best.correct[codes == code].mean())
        for code, place in enumerate(measured.classes if labels else ())
        if (codes == code).any()
    }
