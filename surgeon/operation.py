"""The whole operation, readable top to bottom; the only file that knows the order of the steps.

::

    load → normalize → study (old head, shapes, cuts, batch) → the case decides a plan
         → cut → new head → operated model                                            `operate`
         → data → split → frozen part once per sample → solve the head → train all
         → write back → parity → proof → save                                        `finetune`
"""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from surgeon import resumption
from surgeon.advice.detective import detect_preprocess
from surgeon.answering import answering, judged, run_samples
from surgeon.data.examine import examine_samples
from surgeon.data.splits import keep_together
from surgeon.documents import (
    Clock,
    budget_note,
    counts,
    frontier_body,
    notes_of,
    seconds,
    size_notes,
    skip_notes,
    skipped,
    start_body,
)
from surgeon.errors import (
    DataError,
    ModelError,
    SurgeonError,
    UsageError,
)
from surgeon.graph import encodings, envelope, files
from surgeon.graph.apart import take_one
from surgeon.graph.weights import same_values, write_back
from surgeon.intake import (
    check_views,
    constant_inputs,
    find_preprocess,
    gone_inputs,
    label_codes,
    labels_to_go_on,
    offer_media,
    open_samples,
    opened_by_plugin,
    resized,
    split_samples,
    without,
)
from surgeon.job import operate as surgery
from surgeon.job.decide import measures, require_opset
from surgeon.job.operate import draw_anew, load_operators
from surgeon.model import Model, load
from surgeon.options import Options, explained
from surgeon.outcome import Outcome, Prediction, Verification
from surgeon.plugin.manager import loaded_plugins
from surgeon.records import (
    Case,
    Evidence,
    Finding,
    Preprocess,
    as_json,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from surgeon.plugin.manager import Plugins

    Source = str | os.PathLike[str] | onnx.ModelProto | Model
    Report = Callable[..., None]

MOST_TIMED = 64
"""Cuts whose latency is measured, spread over depth where there are more."""

TRAIN_METRICS = 1000
"""Samples on which training metrics of a wholly tuned network are measured."""


# ── looking ──────────────────────────────────────────────────────────────────────────────────────


@explained
def inspect(path: Source, *, output: str | None = None) -> dict[str, Any]:
    """Return the body of `inspect`: what a file is. A fixed batch is told, not made free.

    Args:
        path: the model.
    """
    from surgeon.graph.describe import describe
    from surgeon.graph.shapes import fixed_batch

    model = load(path).with_output(output)
    preprocess = find_preprocess(model)
    batch = fixed_batch(model.inputs)
    sketch = model.sketch()
    note = sketch.batch_note if batch is None else f"the batch is fixed at {batch}"
    return {
        "path": model.where,
        "bytes": model.path.stat().st_size if model.path else model.proto.ByteSize(),
        "sha256": model.file_sha256,
        **describe(model.stored or model.proto, sketch),
        "preprocess": None if preprocess is None else encodings.as_document(preprocess, brief=True),
        "warnings": [*model.notes, *filter(None, [note]), *sketch.notes],
    }


@explained
def cuts(
    path: Source,
    *,
    timed: bool = False,
    output: str | None = None,
    inputs: Sequence[str] | Mapping[str, Any] = (),
    device: str = "auto",
    threads: int | None = None,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Return the body of `cuts`: the listed cuts by ascending depth.

    Args:
        path: the model.
        timed: measure how long the graph up to each cut takes for one sample (`seconds`: median
            of the runs of a graph of its own; None beyond `MOST_TIMED` cuts).
        progress: called as `progress(stage, done, total)`.
    """
    model = load(path).with_output(output)
    constants = constant_inputs(model, inputs)
    model = model.with_constants(constants)
    anatomy = model.anatomy()
    listed = [as_json(cut) for cut in anatomy.cuts]
    if timed:
        from surgeon.runtime.latency import time_cuts

        seconds_by_cut = time_cuts(
            anatomy, constants=constants, known=model.sizes, device=device, threads=threads,
            most=MOST_TIMED, progress=progress,
        )  # fmt: skip
        for entry in listed:
            entry["seconds"] = seconds_by_cut.get(entry["tensor"])
    return {
        "path": model.where,
        "output": anatomy.output,
        "macs": anatomy.total,
        "late": anatomy.late,
        "early": anatomy.early,
        "cuts": listed,
        "warnings": notes_of(model, anatomy),
    }


def cases(plugins: Plugins | None = None) -> dict[str, Any]:
    """Return the body of `cases`: the four and every third party's."""
    found = loaded_plugins(plugins).offers(Case)
    return {
        "cases": [
            {
                "name": name,
                "summary": item.offer.summary,
                "distribution": item.distribution,
                "version": item.version,
            }
            for name, item in found.items()
        ]
    }


@explained
def check(
    path: Source,
    *,
    case: str | None = None,
    cut: str | None = None,
    classes: int | None = None,
    init: str | None = None,
    output: str | None = None,
    plugins: Plugins | None = None,
) -> dict[str, Any]:
    """Return the body of `check`: everything that will not load, convert or train, all at once."""
    from surgeon.runtime.neighbours import require_steady
    from surgeon.runtime.observe import require_runs
    from surgeon.runtime.proof import seeded_input
    from surgeon.torch_graph.preflight import examine

    model = load(path).with_output(output)
    findings: list[Finding] = []
    try:
        require_runs(model.stored or model.proto, model.where or "the model")
    except ModelError as error:
        findings.append(Finding("error", "runtime", error.message, error.remedy))
    patient = model
    if case is not None:
        try:
            patient = operate(
                model, case=case, classes=classes or 2, cut=cut, init=init, plugins=plugins
            )
        except UsageError:
            raise
        except SurgeonError as error:
            findings.append(Finding("error", error.kind, error.message, error.remedy))
    missing = model.anatomy().missing
    if missing is not None:
        findings.append(
            Finding(
                "warning",
                "no-head",
                missing,
                "a new head is put at the cut; `surgeon cuts MODEL` lists the cuts",
            )
        )
    try:
        require_steady(
            patient.proto,
            patient.inputs,
            lambda: [seeded_input(patient.proto, seed, sizes=patient.sizes) for seed in (0, 1)],
        )
    except ModelError as error:
        findings.append(Finding("error", "unsteady", error.message, error.remedy, node=error.where))
    load_operators(patient.proto, plugins)
    trainable = patient.trainable if case is not None and patient is not model else None
    findings += examine(patient.proto, trainable, patient.roles())
    return {
        "path": model.where,
        "case": case,
        "ok": not any(finding.level == "error" for finding in findings),
        "findings": [as_json(finding) for finding in findings],
        "warnings": notes_of(patient),
    }


# ── surgery ──────────────────────────────────────────────────────────────────────────────────────


@explained
def operate(
    model: Source,
    case: str | None = None,
    classes: int | None = None,
    cut: str | None = None,
    *,
    output: str | None = None,
    start: str | None = None,
    init: str | None = None,
    seed: int = 0,
    inputs: Sequence[str] | Mapping[str, Any] = (),
    device: str = "auto",
    threads: int | None = None,
    evidence: Evidence | None = None,
    drawn: bool = True,
    plugins: Plugins | None = None,
) -> Model:
    """Cut a network and append a new head, as a case decides; the source stays as it is.

    With `start` alone, without a case, it only drops what lies in front of that tensor, which must
    separate the graph. `device` and `threads` are taken as by all verbs; surgery needs none.

    Args:
        model: path, ModelProto or Model.
        evidence: what is known about the data.
        drawn: False leaves the pretrained weights where the start is random, for training to draw:
            it compares with what the pretrained ones give.
        plugins: loaded plugins; None loads them.

    Returns:
        A new Model with `.plan` and `.trainable`.

    Raises:
        UnknownNameError: no such case, cut, output or tensor.
        UsageError: classes missing or below 1, or a value that cannot be cut at.
        ModelError: the graph cannot be operated on.
    """

    to = Options.of(locals())
    model = load(model).with_output(output)
    if case is None:
        if start is None:
            raise UsageError(
                "no case is given", where="--case", remedy="`surgeon cases` lists the cases"
            )
        return surgery.start_only(model, start)
    if classes is None:
        raise UsageError(
            "the number of classes is not given", where="--classes", remedy="give 1 or more"
        )
    model = model.with_constants(constant_inputs(model, inputs))
    return surgery.operate(
        model, to.surgery, seed=to.training.seed, evidence=evidence, drawn=drawn, plugins=plugins
    )


# ── the main job ─────────────────────────────────────────────────────────────────────────────────


@explained
def finetune(
    model: Source,
    data: Any,
    out: str | os.PathLike[str] | None = None,
    *,
    case: str | None = None,
    cut: str | None = None,
    output: str | None = None,
    classes: int | None = None,
    init: str | None = None,
    epochs: int | None = None,
    budget: float | None = None,
    device: str = "auto",
    precision: str = "float32",
    seed: int = 0,
    batch: int | None = None,
    lr: float | None = None,
    validation: float | str = 0.2,
    augment: str = "auto",
    views: int = 1,
    accumulate: int = 1,
    compile: str = "auto",
    memory: str = "normal",
    deterministic: bool = False,
    preprocess: Any = None,
    size: Any = None,
    tokenizer: Any = None,
    max_length: int | None = None,
    audio: Any = None,
    label_column: str | None = None,
    group_column: str | None = None,
    inputs: Sequence[str] | Mapping[str, Any] = (),
    threads: int | None = None,
    cache_limit: int | None = None,
    golden_samples: bool = True,
    force: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    progress: Report | None = None,
    plugins: Plugins | None = None,
) -> Outcome:
    """Tune a network on a data set and prove the result; neither model nor data is changed.

    Args:
        model: path, ModelProto or Model. One that carries a plan is trained by it unless `case` is
            given.
        data: folder, table, data set, `.npz`, or `{name: array}` (see docs/data.md).
        progress: called as `progress(stage, done, total, **figures)`.
        plugins: loaded plugins; None loads them.

    Raises:
        SurgeonError: of the kind that fits; nothing is left half-written.
    """
    from surgeon.job import measure, proving, stages
    from surgeon.job.run import Run, clean
    from surgeon.runtime.neighbours import require_steady
    from surgeon.runtime.places import choose_device
    from surgeon.tasks.find import find_task
    from surgeon.tasks.labels import check_trainable

    clock = Clock(time.perf_counter())
    to = Options.of(locals())
    seed, device, classes = to.training.seed, to.place.device, to.surgery.classes
    views, accumulate = to.training.views, to.training.accumulate
    if out is not None and not dry_run:
        force = force or (resume and resumption.is_delivered(out))
        files.check_output(out, force=force)
    chosen = choose_device(device)
    model = load(model).with_output(output)
    goes_on = case is None and model.plan is not None and bool(model.trainable)
    if case is None and not goes_on:
        raise UsageError(
            "no case is given, and the file carries no plan to go on with",
            where="--case",
            remedy="`--case auto` chooses by measurement, `surgeon cases` lists the cases",
        )
    require_opset(model)
    # What goes in: preprocessing, samples, labels.
    data = opened_by_plugin(data, plugins)
    pre = find_preprocess(
        model, preprocess, size, tokenizer=tokenizer, max_length=max_length, audio=audio
    )
    constants = constant_inputs(model, inputs)
    model = model.knowing(constants)
    detected = None
    if case == "auto" and pre is None:
        from surgeon.advice import advise as advice

        detected = detect_preprocess(
            model, data, size=size, label_column=label_column, group_column=group_column,
            constants=constants, validation=validation, seed=seed, device=chosen, threads=threads,
            progress=progress,
        )  # fmt: skip
        pre = None if detected is None else detected.preprocess
    if isinstance(pre, Preprocess):
        model = resized(model, pre)
    bound = model if goes_on else model.with_constants(constants)
    data = without(data, set(bound.bound_inputs) | gone_inputs(model))
    model, constants = (
        bound,
        {i.name: constants[i.name] for i in bound.inputs if i.name in constants},
    )
    samples = open_samples(data, model, pre, label_column, constants, validation, group_column)
    pre = samples.encoding or pre  # the data may have settled the length of texts
    check_trainable(samples.labels or [])
    check_views(views, augment, samples)
    # What is operated on: the file's own plan, or a new one.
    advised = None
    first = samples.load(0)
    model = model.sized_like(first) if isinstance(first, dict) else model
    if goes_on:
        patient = model
        labels = labels_to_go_on(model, samples)
    else:
        labels = list(samples.classes)
        if classes is not None and classes != len(labels):
            raise UsageError(
                f"--classes is {classes}, the data has {len(labels)} labels",
                where="--classes",
                remedy="leave it out: the data says it",
            )
        if case == "auto" or measures(case, plugins):
            from surgeon.advice import advise as advice

            advised = advice.choose(
                model, samples, case=None if case == "auto" else case, cut=cut, init=init,
                seed=seed, validation=validation, device=chosen, threads=threads,
                progress=progress, plugins=plugins,
            )  # fmt: skip
            advised = replace(advised, detected=detected)
            if case == "auto":
                case, cut = advised.plan.case, advised.plan.cut
                init = advised.plan.init
        patient = operate(
            model, case, len(labels), cut, init=init, seed=seed, inputs=constants,
            evidence=advised.evidence
            if advised is not None
            else Evidence(samples=samples.n, classes=len(labels)),
            drawn=False, plugins=plugins,
        )  # fmt: skip
    assert patient.plan is not None
    codes = label_codes(samples, labels)
    parts = split_samples(samples, codes, validation, seed, labels)
    if advised is not None:
        parts = keep_together(parts, advised.near, samples.n)
    body = start_body(patient, samples, labels, parts, chosen, precision, seed, out)
    found = advised.findings if advised else examine_samples(samples, codes, labels, parts, seed)
    body["warnings"] += [
        finding.message
        for finding in found
        if finding.level == "warning" and finding.kind != "unreadable"  # named below, once read
    ]
    if advised is not None:
        body["advice"] = advised.brief()
        body["warnings"] += [*advised.warnings, *([detected.note] if detected else [])]
    require_steady(
        patient.proto,
        patient.inputs,
        lambda: [
            one for one in map(samples.load, range(min(samples.n, 3))) if isinstance(one, dict)
        ],
    )
    if dry_run:
        return _dry(patient, body, clock)
    checkpoint = None if out is None else resumption.folder_of(out)
    if resume and not resumption.has_states(checkpoint):
        body["warnings"].append(
            f"--resume: there is nothing to go on from in {checkpoint}: it starts anew"
        )

    # The frozen part, once per sample; the head to its optimum; then, if planned, everything.
    run = Run(
        patient=patient, samples=samples, codes=codes, parts=parts,
        task=find_task(patient.task, plugins), device=device, seed=seed,
        threads=threads, cache_limit=cache_limit, precision=precision, batch=batch, lr=lr,
        epochs=epochs, budget=budget, augment=augment, views=views,
        accumulate=accumulate, compile=compile, memory=memory,
        deterministic=deterministic, resume=resume, progress=progress, checkpoint=checkpoint,
        expected=None if advised is None else advised.expected,
        drawn=goes_on and patient.plan.init == "random" and not patient.tuned,
    )  # fmt: skip
    load_operators(patient.proto, plugins)
    trained = stages.train(run)
    work, notes = trained.work, list(trained.work.notes)
    clock.features, clock.train = work.seconds_features, work.seconds_train

    # Back into ONNX: tuned tensors replace those of the same name, nothing else changes.
    writing = time.perf_counter()
    tuned = write_back(patient.proto, trained.delivered.tensors, partial=True)
    operated = patient.proto
    if patient.plan.init == "random" and not goes_on:  # what `operate` writes is drawn anew
        operated = draw_anew(patient, patient.plan, seed)
    changed = _changed(operated, tuned)
    if work.alone:
        tuned = take_one(tuned)
        notes.append(
            "the file takes one sample at a time: its batch is fixed at 1, as the samples of a "
            "batch would change each other's answers"
        )
    envelope.put(tuned, envelope.LABELS, labels)
    body["warnings"] += envelope.relabel(tuned, labels)
    plan = patient.plan
    assert plan is not None
    if trained.race is not None:  # the file says which start its weights come from
        won = trained.race["winner"] if trained.delivered.kind == "tuned" else "pretrained"
        plan = replace(plan, init=won)
        body["plan"]["init"] = plan.init
        envelope.put(tuned, envelope.PLAN, envelope.get(tuned, envelope.PLAN) | {"init": plan.init})
    if pre is not None:
        envelope.put(tuned, envelope.PREPROCESS, encodings.as_document(pre))
    if advised is not None:
        envelope.put(tuned, envelope.ADVICE, advised.brief())
    proven = proving.prove(run, tuned, golden_samples=golden_samples, constants=constants)
    proof = proven.document
    notes += proven.notes
    envelope.put(tuned, envelope.PROOF, proof)
    result = replace(patient.with_proto(tuned), plan=plan)
    metrics: dict[str, Any] = {}

    def judge(path: Path | None) -> None:
        found, said = measure.measure(run, tuned, trained, limit=TRAIN_METRICS, path=path)
        metrics.update(found)
        notes.extend(said)

    if out is None:
        judge(None)
    else:
        result.save(out, force=force, check=judge)
        body["sha256"] = files.sha256_file(out)
        if trained.stopped == "interrupt":
            resumption.note_delivered(out)
            kept = resumption.has_states(checkpoint)
            body["warnings"].append(
                "interrupted: the best so far is delivered; the same command with --resume "
                + (f"goes on from {checkpoint}" if kept else "begins anew")
            )
        else:
            clean(run)
    clock.write = time.perf_counter() - writing
    body |= {
        "device": trained.device,
        "providers": list(work.providers or proven.providers),
        "frontier": dict(work.frontier),
        "samples_seen": work.samples_seen,
        "compiled": work.compiled,
        "decisions": list(work.decisions),
        "peak_memory": work.peak_memory,
        "statistics": list(trained.statistics),
        "changed": changed,
        "metrics": metrics,
        "history": list(work.history),
        "delivered": trained.delivered.kind,
        "guard": trained.guard,
        "race": trained.race,
        "stopped": trained.stopped,
        "resumed": work.resumed,
        "proof": proof,
        "seconds": seconds(clock),
    }
    body["data"] |= counts(samples, labels, parts)
    body["warnings"] = list(
        dict.fromkeys(
            [
                *body["warnings"],
                *skip_notes(samples),
                *size_notes(pre),
                *notes,
                *budget_note(budget, clock),
            ]
        )
    )
    return Outcome(result, metrics, list(work.history), proof, body)


def _dry(patient: Model, body: dict[str, Any], clock: Clock) -> Outcome:
    from surgeon.graph.frontier import split as split_graph

    assert patient.plan is not None
    shapes = patient.anatomy().shapes
    front = split_graph(patient.proto, patient.trainable, shapes, keep_weightless=False)
    body["frontier"] = frontier_body(front)
    body["seconds"] = seconds(clock)
    return Outcome(patient, {}, [], {}, body)


def _changed(before: onnx.ModelProto, after: onnx.ModelProto) -> list[str]:
    tensors = {tensor.name: tensor for tensor in after.graph.initializer}
    return [t.name for t in before.graph.initializer if not same_values(t, tensors[t.name])]


# ── using the result ─────────────────────────────────────────────────────────────────────────────


@explained
def predict(
    path: Source,
    inputs: Any,
    *,
    output: str | None = None,
    preprocess: Any = None,
    size: Any = None,
    tokenizer: Any = None,
    max_length: int | None = None,
    audio: Any = None,
    constants: Sequence[str] | Mapping[str, Any] = (),
    batch: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Report | None = None,
    plugins: Plugins | None = None,
) -> Prediction:
    """Predict by ONNX Runtime, with the labels and preprocessing the file carries.

    Args:
        path: the model.
        inputs: pictures, texts (`.txt`), sounds (`.wav`) or series, folders of them, a table, an
            `.npz`, or `{input name: array}`; or one array for a model of one input.
        constants: constant inputs, `NAME=VALUE`.
        progress: called as `progress(stage, done, total)`.
        plugins: loaded plugins.

    Raises:
        DataError: inputs that do not fit.
        UnsupportedError: the network ends in no row of numbers per sample (a detector).
        UsageError: pictures, texts or sounds without a known preprocessing.
    """
    from surgeon.data.read import needs_preprocess, open_data, open_inputs
    from surgeon.graph.preprocess import missing_preprocess
    from surgeon.tasks.find import find_task

    model = load(path).with_output(output)
    answering(model)
    offer_media(plugins)
    pre = find_preprocess(
        model, preprocess, size, tokenizer=tokenizer, max_length=max_length, audio=audio
    )
    fixed = constant_inputs(model, constants)
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    elif isinstance(inputs, np.ndarray):
        inputs = {info.name: inputs for info in model.inputs if info.name not in fixed}
    elif isinstance(inputs, dict):
        inputs = without(inputs, gone_inputs(model))
    elif len(inputs) == 1:
        inputs = without(inputs[0], gone_inputs(model))
        inputs = inputs if isinstance(inputs, dict) else [inputs]
    given = list(inputs) if not isinstance(inputs, dict) else inputs
    needed = [given] if isinstance(given, dict) else given
    if pre is None and any(needs_preprocess(item, model.inputs, fixed) for item in needed):
        raise missing_preprocess(model.where)
    if isinstance(given, dict):
        samples = open_data(given, model.inputs, constants=fixed, labelled=False)
    else:
        samples = open_inputs(given, model.inputs, preprocess=pre, constants=fixed)
    ran = run_samples(model, samples, batch, device, threads, progress, constants=fixed)
    task, labels = find_task(model.task, plugins), model.labels
    said = ran.say(task, labels)
    if labels is not None and len(ran.rows) and len(labels) != said.answers.shape[1]:
        labels = None
    return Prediction.of(
        said,
        task,
        labels,
        names=[str(samples.names[row]) for row in ran.rows],
        failed=[
            {"input": name, "reason": reason}
            for name, reason in (*samples.skipped, *samples.passed_over)
        ],
        providers=ran.providers,
        path=model.where,
        warnings=(*samples.notes, *ran.notes, *said.notes),
    )


@explained
def evaluate(
    path: Source,
    data: Any,
    *,
    output: str | None = None,
    preprocess: Any = None,
    size: Any = None,
    tokenizer: Any = None,
    max_length: int | None = None,
    audio: Any = None,
    label_column: str | None = None,
    inputs: Sequence[str] | Mapping[str, Any] = (),
    batch: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    ignore_unknown: bool = False,
    progress: Report | None = None,
    plugins: Plugins | None = None,
) -> dict[str, Any]:
    """Return the body of `evaluate`: metrics and confusion by ONNX Runtime.

    Labels of the data map to the file's by their text.

    Raises:
        DataError: a label the file does not know (unless `ignore_unknown`), or no labels at all.
        UnsupportedError: the file gives no probabilities of classes.
    """
    from surgeon.data.read import needs_preprocess, open_data
    from surgeon.graph.preprocess import missing_preprocess
    from surgeon.tasks.find import find_task

    started = time.perf_counter()
    model = load(path).with_output(output)
    answering(model)
    pre = find_preprocess(
        model, preprocess, size, tokenizer=tokenizer, max_length=max_length, audio=audio
    )
    fixed = constant_inputs(model, inputs)
    data = without(opened_by_plugin(data, plugins), gone_inputs(model))
    if pre is None and needs_preprocess(data, model.inputs, fixed):
        raise missing_preprocess(model.where)
    samples = open_data(
        data, model.inputs, preprocess=pre, label_column=label_column, constants=fixed
    )
    labels = model.labels
    if labels is None:
        raise DataError(
            "the file carries no labels, so that data cannot be mapped to its outputs",
            where=model.where,
            remedy="evaluate a file written by `surgeon finetune`",
        )
    task = find_task(model.task, plugins)
    targets = task.read(samples.labels or [], str(data)[:200])
    targets = task.onto(targets, labels, ignore_unknown=ignore_unknown)
    chosen = np.arange(len(targets)) if targets.known is None else np.flatnonzero(targets.known)
    ran = run_samples(model, samples, batch, device, threads, progress, chosen, fixed)
    said, targets = ran.say(task, labels), targets[ran.rows]
    notes = [*ran.notes, *said.notes]
    if len(ran.rows):
        notes += judged(said, labels, model)
    details = task.details(said.answers, targets)
    scores = task.score([(said.answers, targets)])
    return {
        "path": model.where,
        "samples": len(targets),
        "skipped": skipped(samples),
        "labels": labels,
        "metrics": {**scores.figures, **details.get("metrics", {})},
        "per_class": details.get("per_class"),
        "confusion": details.get("confusion"),
        "providers": list(ran.providers),
        "seconds": time.perf_counter() - started,
        "warnings": [*skip_notes(samples), *notes, *details.get("warnings", [])],
    }


@explained
def verify(
    path: Source,
    source: Source | None = None,
    device: str = "auto",
    *,
    threads: int | None = None,
) -> Verification:
    """Re-run the proof a file carries, on this machine and provider.

    Args:
        path: the tuned file.
        source: the original it was made from; its tensors are compared with the frozen ones.

    Raises:
        ModelError: the file carries no proof.
    """
    from surgeon.runtime.proof import verify_proof

    model = load(path)
    original = None if source is None else load(source)
    verdict = verify_proof(
        model.stored or model.proto,
        source=None if original is None else original.proto,
        source_sha256=None if original is None else original.file_sha256,
        device=device,
        threads=threads,
    )
    return Verification(verdict, model.where)


# ── in torch and back ────────────────────────────────────────────────────────────────────────────


def to_torch(source: Source, *, quantized: bool = False) -> Any:
    """Convert a whole network to a torch module in evaluation mode, on the CPU, dtypes as stored.

    It takes positional tensors in graph-input order (a list for a sequence, None for an absent
    optional) and returns a tensor, or a tuple in output order. Parameters keep their ONNX names.

    Args:
        source: path, ModelProto or Model.
        quantized: whether quantised weights become parameters too, under the names of their
            integers: float32, what those stand for. A run rounds them to integers, gradients pass
            straight through; `surgeon.tensors` gives the integers.

    Raises:
        UnsupportedError: an operator, version or form that is not converted; with its node.
    """
    from surgeon.torch_graph.module import to_module

    with _uncollected():
        model = load(source, hashed=False)
        load_operators(model.proto, None)
        names = model.quantized() if quantized else ()
        return to_module(model.proto, roles=model.roles(), quantized=names)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the collector of cycles away from work that makes many objects and no garbage.

    It would walk over all that torch has in memory, again and again: half a large graph's time.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def write_tensors(source: Source, tensors: Any) -> onnx.ModelProto:
    """Put tensors back into a network: a new ModelProto, nothing else changed.

    Args:
        source: the network the module was made from.
        tensors: `surgeon.tensors(module)`, `module.state_dict()`, or the module itself.

    A quantised weight is given as integers, or in floats as what they stand for (a `state_dict`).

    Raises:
        UnknownNameError: a name that is no float initializer and no quantised weight.
        UsageError: integers that the stored type cannot hold.
        ModelError: float initializers are missing.
    """
    from surgeon.torch_graph.arrays import as_initializers

    model = load(source, hashed=False)
    result = write_back(model.proto, as_initializers(model.proto, model.quantized(), tensors))
    if model.stored is not None and not _changed(model.proto, result):
        unchanged = onnx.ModelProto()
        unchanged.CopyFrom(model.stored)
        return unchanged
    return result


__all__ = [
    "cases",
    "check",
    "cuts",
    "evaluate",
    "finetune",
    "inspect",
    "operate",
    "predict",
    "to_torch",
    "verify",
    "write_tensors",
]
