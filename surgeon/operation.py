"""The whole operation, readable top to bottom; the only file that knows the order of the steps.

::

    load → normalize → study (old head, shapes, cuts, batch) → the case decides a plan
         → cut → new head → operated model                                            `operate`
         → data → split → frozen part once per sample → solve the head → train all
         → write back → parity → proof → save                                        `finetune`
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from surgeon import intake
from surgeon.advice.detective import detect_preprocess
from surgeon.answering import (
    Running,
    answering,
    asked_of,
    drawings_in,
    judge_samples,
    run_samples,
    tell_samples,
)  # fmt: skip
from surgeon.documents import (
    Clock,
    against_body,
    cases_body,
    checked_body,
    cuts_body,
    dry_body,
    evaluated_body,
    planned_body,
    trained_body,
)
from surgeon.errors import UsageError
from surgeon.graph import encodings
from surgeon.inputs import open_inputs
from surgeon.intake import check_views, constant_inputs, find_preprocess
from surgeon.job import checks, features, front
from surgeon.job import operate as surgery
from surgeon.job.chosen import chosen_of_tuned
from surgeon.job.decide import keeps_plan
from surgeon.model import Model, load
from surgeon.options import Options, explained
from surgeon.outcome import Outcome, Prediction, Verification
from surgeon.plugin.manager import loaded_plugins
from surgeon.predicting import predict_into
from surgeon.records import Case, Evidence, as_json
from surgeon.resumption import nothing_to_resume, writable
from surgeon.runtime.neighbours import require_steady
from surgeon.targets import AUTO, task_of
from surgeon.tasks.find import find_task
from surgeon.tracking import asked_of_run, data_in_words, telling
from surgeon.vectors import gives_vectors, run_vectors

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import onnx

    from surgeon.answering import Ran
    from surgeon.intake import Answered
    from surgeon.plugin.manager import Plugins
    from surgeon.tasks.base import Scores
    from surgeon.tracking import Telling

    Source = str | os.PathLike[str] | onnx.ModelProto | Model
    Report = Callable[..., None]

MOST_TIMED = 64
"""Cuts whose latency is measured, spread over depth where there are more."""


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
    return cuts_body(model, listed)


def cases(plugins: Plugins | None = None) -> dict[str, Any]:
    """Return the body of `cases`: the four and every third party's."""
    return cases_body(loaded_plugins(plugins).offers(Case))


@explained
def check(  # noqa: PLR0913 - a public verb has its options as keywords
    path: Source,
    *,
    case: str | None = None,
    cut: str | None = None,
    classes: int | None = None,
    head: str | None = None,
    init: str | None = None,
    train: str | Sequence[str] = (),
    train_from: str | None = None,
    freeze: str | Sequence[str] = (),
    task: str = "auto",
    output: str | None = None,
    plugins: Plugins | None = None,
) -> dict[str, Any]:
    """Return the body of `check`: everything that will not load, convert or train, all at once."""
    from surgeon.job.preflight import preflight

    to = Options.of(locals())
    model = load(path).with_output(output)

    def operated() -> Model:
        heads = None if front.headless(case, plugins) else classes or 2
        asked = replace(to, surgery=replace(to.surgery, classes=heads))
        return features.operate_by(model, asked, plugins=plugins)

    shown, findings = preflight(model, None if case is None else operated, plugins)
    return checked_body(model, shown, findings, case)


# ── surgery ──────────────────────────────────────────────────────────────────────────────────────


@explained
def operate(  # noqa: PLR0913 - a public verb has its options as keywords
    model: Source,
    case: str | None = None,
    classes: int | None = None,
    cut: str | Sequence[str] | None = None,
    *,
    pool: str | None = None,
    output: str | None = None,
    start: str | None = None,
    head: str | None = None,
    adapter: str | None = None,
    init: str | None = None,
    train: str | Sequence[str] = (),
    train_from: str | None = None,
    freeze: str | Sequence[str] = (),
    task: str = "auto",
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

    cut, also = features.several_cuts(cut)
    to = Options.of(locals())
    model = load(model).with_output(output)
    if case is None:
        return surgery.start_only(model, start)
    model = model.with_constants(constant_inputs(model, inputs))
    return features.operate_by(
        model, to, also=also, evidence=evidence, drawn=drawn, plugins=plugins
    )


# ── the main job ─────────────────────────────────────────────────────────────────────────────────


@explained
def finetune(  # noqa: PLR0913 - a public verb has its options as keywords
    model: Source,
    data: Any,
    out: str | os.PathLike[str] | None = None,
    *,
    case: str | None = None,
    cut: str | None = None,
    output: str | None = None,
    classes: int | None = None,
    start: str | None = None,
    head: str | None = None,
    init: str | None = None,
    train: str | Sequence[str] = (),
    train_from: str | None = None,
    freeze: str | Sequence[str] = (),
    epochs: int | None = None,
    budget: float | None = None,
    device: str = "auto",
    precision: str = "float32",
    seed: int = 0,
    batch: int | None = None,
    lr: float | None = None,
    lr_find: bool = False,
    loss: str | None = None,
    adapter: str | None = None,
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
    task: str = "auto",
    group_column: str | None = None,
    extend: bool = False,
    old_data: Any = None,
    keep_statistics: bool = False,
    inputs: Sequence[str] | Mapping[str, Any] = (),
    threads: int | None = None,
    cache_limit: int | None = None,
    golden_samples: bool = False,
    track: str | Sequence[str] = (),
    report: str | os.PathLike[str] | None = None,
    adapter_out: str | os.PathLike[str] | None = None,
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
    clock = Clock(time.perf_counter())
    to = Options.of(locals())
    to = replace(to, delivery=writable(to.delivery))
    with telling(to, progress, plugins) as told:
        outcome = _finetuned(load(model).with_output(output), data, to, clock, told, plugins)
        told.finished(outcome.body)
        from surgeon.reporting.with_run import reported

        return reported(outcome, to.delivery)


def _finetuned(
    model: Model, data: Any, to: Options, clock: Clock, progress: Telling, plugins: Plugins | None
) -> Outcome:
    """Tune a network by checked options: the order of the steps."""
    from surgeon.advice.advise import operate_by
    from surgeon.job import extend as more
    from surgeon.job import stages, statistics
    from surgeon.job.adapters import with_adapter
    from surgeon.job.deliver import deliver
    from surgeon.job.losses import with_loss
    from surgeon.job.rewriting import rewritten
    from surgeon.job.run import Job

    case, extend = to.surgery.case, to.surgery.extend
    more.require_extendable(model, to, plugins)
    goes_on = more.is_planned(model) if extend else keeps_plan(model, case)
    begun, given = front.opened(
        model, data, to, as_planned=goes_on, progress=progress, plugins=plugins,
        names=more.names if extend else None, detect=detect_preprocess if case == "auto" else None,
    )  # fmt: skip
    check_views(to.training, given.samples, given.task)
    advice, operated, extended = None, given.model, None
    if extend:
        operated, extended = more.extend(given, to, plugins)
    elif goes_on:
        operated = chosen_of_tuned(with_loss(operated, to.surgery.loss, plugins), to.surgery)
        operated = with_adapter(operated, to.surgery.adapter, plugins)
    else:
        advice, operated = operate_by(given, to, begun, plugins=plugins)
        given = given.kept_together(() if advice is None else advice.near)
    given = given.under(operated.task, to, plugins)
    operated = rewritten(operated, to.surgery.adapter, given, plugins)
    expected = advice.expected if advice and advice.quality == given.task.quality else None
    job = Job(operated, given, to, given.task, expected, goes_on, extended, plugins)
    statistics.require(job)
    found = given.examined() if advice is None else advice.findings
    body = planned_body(job, found, advice) | {"asked": asked_of_run(model.where, data, to)}
    require_steady(operated.proto, operated.inputs, given.first)
    checks.require(operated, body, plugins)
    if to.delivery.dry_run:
        return Outcome(operated, {}, [], {}, dry_body(body, job, stages.look_ahead(job), clock))
    body["warnings"] += nothing_to_resume(job.checkpoint, to.delivery)
    progress.started(model.where, operated.source_sha256, body, data_in_words(data))
    trained = stages.train(job)
    tuned = deliver(job, trained, None if advice is None else advice.brief())
    body = trained_body(body, job, trained, tuned, clock)
    return checks.examined(
        Outcome(tuned.model, tuned.metrics, body["history"], tuned.proof, body), plugins
    )


# ── using the result ─────────────────────────────────────────────────────────────────────────────


@explained
def predict(  # noqa: PLR0913 - a public verb has its options as keywords
    path: Source,
    inputs: Any,
    *,
    cut: str | Sequence[str] | None = None,
    pool: str | None = None,
    output: str | None = None,
    preprocess: Any = None,
    size: Any = None,
    tokenizer: Any = None,
    max_length: int | None = None,
    audio: Any = None,
    task: str = "auto",
    lines: bool = False,
    out: str | os.PathLike[str] | None = None,
    top_k: int | None = None,
    masks: str | os.PathLike[str] | None = None,
    force: bool = False,
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
        inputs: pictures, texts (`.txt`), sounds (`.wav`) or series, folders of them, patterns such
            as `photos/**/*.jpg`, `-` for paths on standard input, a table, an `.npz`, or
            `{input name: array}`; one array of samples for a model of one input; or pictures of
            Pillow, arrays of one sample each, content of files as bytes, in a list or anything
            that gives them one by one. With `lines`, a text each.
        constants: constant inputs, `NAME=VALUE`.
        progress: called as `progress(stage, done, total)`.
        plugins: loaded plugins.

    Raises:
        DataError: inputs that do not fit.
        UnsupportedError: the network ends in no row of numbers per sample (a detector).
        UsageError: pictures, texts or sounds without a known preprocessing.
    """
    first, _ = features.several_cuts(cut)
    to = Options.of(locals() | {"inputs": constants, "cut": first})
    model = load(path).with_output(output)
    if cut is not None or pool is not None:
        model = operate(model, "features", cut=cut, pool=pool, inputs=constants, plugins=plugins)
    if to.delivery.out is not None:
        return predict_into(model, inputs, to, progress=progress, plugins=plugins)
    if gives_vectors(model):
        given = open_inputs(model, inputs, to, progress=progress, plugins=plugins)
        vectors = run_vectors(given, batch)
        return Prediction.of_vectors(vectors.outputs, **asked_of(given, vectors, vectors.rows))
    teller = find_task(task_of(model, to.reading), plugins, model.decoding)
    labels = model.labels
    answering(model, keeps=bool(teller.keeps))
    drawings = drawings_in(masks, teller)
    given = open_inputs(model, inputs, to, progress=progress, plugins=plugins)
    if teller.keeps:
        running = Running(given, batch, keeps=True)
        told = tell_samples(running, teller, labels, given.samples, drawings)
        return Prediction.kept(told, teller, labels, **asked_of(given, running, list(told)))
    ran = run_samples(given, batch)
    said = ran.say(teller, labels, meant=task != AUTO)
    if said.task is not None:
        teller = find_task(said.task, plugins)
    if labels is not None and said.answers.ndim == 2 and len(labels) != said.answers.shape[1]:
        labels = None
    known = asked_of(given, ran, ran.rows, *said.notes)
    return Prediction.of(said, teller, labels, top=to.delivery.top_k, **known)


@explained
def evaluate(  # noqa: PLR0913 - a public verb has its options as keywords
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
    task: str = "auto",
    inputs: Sequence[str] | Mapping[str, Any] = (),
    batch: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    ignore_unknown: bool = False,
    against: str | os.PathLike[str] | None = None,
    progress: Report | None = None,
    plugins: Plugins | None = None,
) -> dict[str, Any]:
    """Return the body of `evaluate`: metrics, and figures of each class, by ONNX Runtime.

    Labels of the data map to the file's by their text; columns of a file without names are in the
    order of the data's.

    Raises:
        DataError: a label the file does not know (unless `ignore_unknown`), or no labels at all.
        UnsupportedError: what the file gives cannot be compared with the answers of the data.
    """
    started = time.perf_counter()
    to = Options.of(locals())
    judge = partial(_judged, data=data, to=to, progress=progress, plugins=plugins)
    given, scores, details, ran, notes = judge(load(path).with_output(output))
    body = evaluated_body(given, scores, details, ran.rows)
    body["warnings"] += [*notes, *body.pop("more")]
    body["against"] = None
    if against is not None:
        other, theirs, further, also, more = judge(load(against))
        if other.task_name != given.task_name:
            raise UsageError(
                f"the files are for {given.task_name} and for {other.task_name}",
                where="--against",
                remedy="compare files of one task",
            )
        told = evaluated_body(other, theirs, further, also.rows)
        body["against"] = against_body(told, given, (scores, ran.rows), (theirs, also.rows))
        body["warnings"] += [f"{other.model.where}: {note}" for note in more]
    return body | {"providers": list(ran.providers), "seconds": time.perf_counter() - started}


def _judged(
    model: Model, *, data: Any, to: Options, progress: Report | None, plugins: Plugins | None
) -> tuple[Answered, Scores, dict[str, Any], Ran | Running, list[str]]:
    """Open data for a model, run it over them and judge its answers."""
    task = to.reading.task
    answering(model, keeps=task != AUTO and bool(find_task(task, plugins).keeps))
    given = intake.open_labelled(model, data, to, progress=progress, plugins=plugins)
    meant = task != AUTO or given.task_name != model.task
    return given, *judge_samples(given, to.training.batch, meant=meant)


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
    from surgeon.runtime.verifying import verify_proof

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


__all__ = [
    "cases",
    "check",
    "cuts",
    "evaluate",
    "finetune",
    "inspect",
    "operate",
    "predict",
    "verify",
]
