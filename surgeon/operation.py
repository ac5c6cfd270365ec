"""The whole operation, readable top to bottom; the only file that knows the order of the steps.

::

    load → normalize → study (old head, shapes, cuts, batch) → the case decides a plan
         → cut → new head → operated model                                            `operate`
         → data → split → frozen part once per sample → solve the head → train all
         → write back → parity → proof → save                                        `finetune`
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from surgeon.errors import (
    CheckError,
    DataError,
    ModelError,
    SurgeonError,
    UnknownNameError,
    UsageError,
)
from surgeon.graph import cuts as graph_cuts
from surgeon.graph import encodings, envelope, files
from surgeon.graph.head import add_head
from surgeon.graph.quantized import INTEGERS, dequantize
from surgeon.graph.shapes import input_infos
from surgeon.graph.walk import data_inputs
from surgeon.graph.weights import same_bits, sizes, write_back
from surgeon.model import Model, load
from surgeon.outcome import Outcome, Prediction, Verification
from surgeon.records import (
    Context,
    Encoding,
    Evidence,
    Finding,
    Head,
    Parameter,
    Plan,
    Preprocess,
    Stage,
    TextEncoding,
    as_json,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.data.samples import Samples
    from surgeon.data.splits import Splits
    from surgeon.graph.cuts import Anatomy
    from surgeon.plugin.manager import Plugins

    Source = str | os.PathLike[str] | onnx.ModelProto | Model
    Report = Callable[..., None]

TRAIN_METRICS = 1000
"""Samples on which training metrics of a wholly tuned network are measured."""


# ── looking ──────────────────────────────────────────────────────────────────────────────────────


def inspect(path: Source) -> dict[str, Any]:
    """Return the body of `inspect`: what a file is."""
    from surgeon.graph.describe import describe

    model = load(path)
    preprocess = find_preprocess(model)
    return {
        "path": _path(model),
        "bytes": model.path.stat().st_size if model.path else model.proto.ByteSize(),
        "sha256": model.file_sha256,
        **describe(model.stored or model.proto, model.anatomy()),
        "preprocess": None if preprocess is None else encodings.as_document(preprocess, brief=True),
        "warnings": _warnings(model),
    }


def cuts(path: Source) -> dict[str, Any]:
    """Return the body of `cuts`: the listed cuts by ascending depth."""
    model = load(path)
    anatomy = model.anatomy()
    return {
        "path": _path(model),
        "output": anatomy.output,
        "macs": anatomy.total,
        "late": anatomy.late,
        "early": anatomy.early,
        "cuts": [as_json(cut) for cut in anatomy.cuts],
        "warnings": _warnings(model),
    }


def cases(plugins: Plugins | None = None) -> dict[str, Any]:
    """Return the body of `cases`: the four and every third party's."""
    found = _plugins(plugins).cases()
    return {
        "cases": [
            {
                "name": name,
                "summary": item.case.summary,
                "distribution": item.distribution,
                "version": item.version,
            }
            for name, item in found.items()
        ]
    }


def check(
    path: Source,
    *,
    case: str | None = None,
    cut: str | None = None,
    classes: int | None = None,
    init: str | None = None,
    plugins: Plugins | None = None,
) -> dict[str, Any]:
    """Return the body of `check`: everything that will not load, convert or train, all at once."""
    from surgeon.runtime.observe import require_runs
    from surgeon.tune.preflight import examine

    model = load(path)
    findings: list[Finding] = []
    try:
        require_runs(model.stored or model.proto, _path(model) or "the model")
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
    trainable = patient.trainable if case is not None and patient is not model else None
    findings += examine(patient.proto, trainable, patient.roles())
    return {
        "path": _path(model),
        "case": case,
        "ok": not any(finding.level == "error" for finding in findings),
        "findings": [as_json(finding) for finding in findings],
        "warnings": _warnings(patient),
    }


# ── surgery ──────────────────────────────────────────────────────────────────────────────────────


def operate(
    model: Source,
    case: str | None = None,
    classes: int | None = None,
    cut: str | None = None,
    *,
    start: str | None = None,
    init: str | None = None,
    seed: int = 0,
    inputs: Sequence[str] | Mapping[str, Any] = (),
    device: str = "auto",  # noqa: ARG001 - surgery needs none; kept so that all verbs agree
    threads: int | None = None,  # noqa: ARG001 - the same
    evidence: Evidence | None = None,
    plugins: Plugins | None = None,
) -> Model:
    """Cut a network and append a new head, as a case decides; the source stays as it is.

    Args:
        model: path, ModelProto or Model.
        case: name of a case plugin; may be left out with `start`, which then only drops what lies
            in front of that tensor.
        classes: outputs of the new head, ≥ 1.
        cut: exact tensor name, or `@x` with 0 ≤ x ≤ 1; None = the case's own.
        start: inner tensor at which the graph shall start; it must separate the graph.
        init: `pretrained` or `random`; None = the case's own.
        seed: seed of the head's weights, and of all weights for a random start.
        inputs: constant inputs (`NAME=VALUE`), used where the graph must be run to be understood.
        device: not needed by surgery.
        threads: not needed by surgery.
        evidence: what is known about the data.
        plugins: loaded plugins; None loads them.

    Returns:
        A new Model with `.plan` and `.trainable`.

    Raises:
        UnknownNameError: no such case, cut or tensor.
        UsageError: classes missing or below 1, or a value that cannot be cut at.
        ModelError: the graph cannot be operated on.
    """
    model = load(model)
    if case is None:
        if start is None:
            raise UsageError(
                "no case is given", where="--case", remedy="`surgeon cases` lists the cases"
            )
        return _start_only(model, start)
    _check_numbers(classes=classes)
    if classes is None:
        raise UsageError(
            "the number of classes is not given", where="--classes", remedy="give 1 or more"
        )
    classes = int(classes)  # numpy's integers do not go into a graph
    for option, text in (("--case", case), ("--cut", cut), ("--start", start)):
        if not isinstance(text, str | None):
            raise UsageError(f"{text!r} is not text", where=option, remedy="give a name")
    constants = _constants(model, inputs)
    model = model.with_constants(constants)
    anatomy = model.anatomy(constants)
    decided = _decide(model, anatomy, case, classes, cut, init, evidence, plugins)
    if not anatomy.cuts:
        _require_runs(model)  # the runtime's words on an operator say more than a missing type
    tensor = graph_cuts.resolve(anatomy, decided.cut, default=anatomy.late)
    truncated = graph_cuts.keep_only(anatomy.model, [tensor], anatomy.shapes)
    value, shapes = tensor, anatomy.shapes
    if shapes.dtype(tensor) in INTEGERS:
        truncated, value, shapes = dequantize(truncated, anatomy.model, tensor, shapes)
    proto, head, added = add_head(
        truncated, shapes, value, classes, decided.head, seed=seed,
        inputs=anatomy.model.graph.input,
    )  # fmt: skip
    if start is not None:
        proto = graph_cuts.start_at(proto, start, anatomy.shapes)
    dropped = [value.name for value in model.proto.graph.output if value.name != tensor]
    plan = replace(
        decided,
        cut=tensor,
        depth=graph_cuts.depth_of(anatomy, tensor),
        classes=classes,
        dropped_outputs=tuple(name for name in dropped if name != anatomy.output),
        dropped_inputs=(*model.bound_inputs, *_dropped_inputs(model, proto)),
    )
    patient = model.with_proto(proto)
    plan = replace(plan, trainable=_resolve_trainable(plan, patient, head, model))
    if plan.init == "random":
        patient = patient.with_proto(_from_scratch(patient, plan, head, seed))
    proto = patient.proto
    for key in (envelope.LABELS, envelope.PROOF):
        envelope.put(proto, key, None)
    document = plan.as_dict() | {"source_sha256": model.file_sha256}
    envelope.put(proto, envelope.PLAN, document)
    preprocess = find_preprocess(model)
    if preprocess is not None and start is None:
        envelope.put(proto, envelope.PREPROCESS, encodings.as_document(preprocess))
    notes = [*model.notes, *filter(None, [model.batch_note])]
    if plan.init == "random" and decided.trainable == "head":
        notes.append("--init random: only what is trained starts anew, here the new head alone")
    if plan.dropped_outputs:
        notes.append(f"other outputs were dropped: {', '.join(plan.dropped_outputs)}")
    return replace(
        patient,
        proto=proto,
        source_sha256=model.file_sha256,
        plan=plan,
        notes=tuple(notes),
        removed_nodes=len(anatomy.model.graph.node) - (len(proto.graph.node) - len(added)),
        added_nodes=len(added),
    )


def _check_numbers(**numbers: Any) -> None:
    """Refuse counts below 1 and rates that are no positive numbers; None is always allowed.

    Raises:
        UsageError: naming the first offender by its option.
    """
    for name, value in numbers.items():
        if value is None:
            continue
        whole = name not in ("lr", "budget")
        kinds = int | np.integer if whole else int | float | np.integer | np.floating
        good = isinstance(value, kinds) and not isinstance(value, bool)
        lowest = 0 if name in ("seed", "cache_limit") else 1 if whole else None
        if good and (value >= lowest if lowest is not None else 0 < value < float("inf")):
            continue
        raise UsageError(
            f"{name} is {value!r}",
            where=f"--{name.replace('_', '-')}",
            remedy="give a number above 0" if lowest is None else f"give {lowest} or more",
        )


def _check_words(**words: tuple[Any, tuple[str, ...]]) -> None:
    for name, (value, known) in words.items():
        if value not in known:
            raise UsageError(
                f"{name} is {value!r}", where=f"--{name}", remedy=f"one of {', '.join(known)}"
            )


def _dropped_inputs(model: Model, proto: onnx.ModelProto) -> list[str]:
    left = set(data_inputs(proto.graph))
    return [info.name for info in model.inputs if info.name not in left]


def _require_runs(model: Model) -> None:
    from surgeon.runtime.observe import require_runs

    require_runs(model.stored or model.proto, _path(model) or "the model")


def _decide(
    model: Model,
    anatomy: Anatomy,
    case: str,
    classes: int,
    cut: str | None,
    init: str | None,
    evidence: Evidence | None,
    plugins: Plugins | None,
) -> Plan:
    """Ask the case for its plan; what the user said by name wins."""
    chosen = _plugins(plugins).case(case)
    if init not in (None, "pretrained", "random"):
        raise UsageError(
            f"init is {init!r}", where="--init", remedy="give `pretrained` or `random`"
        )
    wanted = None if cut is None else graph_cuts.resolve(anatomy, cut)
    context = Context(
        classes=classes,
        cut=wanted,
        init=init,  # type: ignore[arg-type]
        late=anatomy.late,
        early=anatomy.early,
        cuts=anatomy.cuts,
        parameters=tuple(_parameters(model, anatomy)),
        old_head=anatomy.head,
        evidence=evidence or Evidence(classes=classes),
    )
    try:
        plan = chosen.plan(context)
    except SurgeonError:
        raise
    except Exception as error:
        raise UsageError(
            f"case {case!r} failed while it decided: {type(error).__name__}: {error}",
            where=f"case {case!r}",
            remedy="this is an error in the plugin that offers it",
        ) from error
    _check_plan(plan, case)
    return replace(
        plan, case=plan.case or case, cut=wanted or plan.cut, init=context.init or plan.init
    )


def _check_plan(plan: Any, case: str) -> None:
    """Refuse a plan whose fields are not of the words and types that records.Plan states."""

    def refuse(what: str) -> UsageError:
        return UsageError(
            f"case {case!r} returned {what}",
            where=f"case {case!r}",
            remedy="this is an error in the plugin that offers it; see surgeon.records.Plan",
        )

    if not isinstance(plan, Plan):
        raise refuse(f"a {type(plan).__name__}, not a Plan")
    names = plan.trainable
    if not isinstance(names, str) and not (
        isinstance(names, tuple | list) and all(isinstance(name, str) for name in names)
    ):
        raise refuse(f"trainable {names!r}, not `head`, `all`, or names")
    if not isinstance(plan.cut, str | None) or not isinstance(plan.case, str):
        raise refuse(f"cut {plan.cut!r} and case {plan.case!r}, not text")
    if plan.init not in ("pretrained", "random"):
        raise refuse(f"init {plan.init!r}, not `pretrained` or `random`")
    if not isinstance(plan.head, Head) or plan.head.kind != "gemm":
        raise refuse(f"the head {plan.head!r}, not a Head of kind `gemm`")
    if plan.head.pool not in ("mean", "max", "first", "last", "flatten"):
        raise refuse(f"the pool {plan.head.pool!r}, not mean, max, first, last or flatten")
    if not isinstance(plan.stages, tuple | list) or not all(
        isinstance(stage, Stage) for stage in plan.stages
    ):
        raise refuse(f"stages {plan.stages!r}, not a tuple of Stage")


def _parameters(model: Model, anatomy: Anatomy) -> list[Parameter]:
    """Return every parameter with the depth of its first use."""
    first = graph_cuts.first_use(anatomy)
    shapes = {t.name: tuple(t.dims) for t in anatomy.model.graph.initializer}
    return [
        Parameter(name, shapes[name], first.get(name, 1.0))
        for name, role in model.roles().items()
        if role == "parameter" and name in shapes
    ]


def _resolve_trainable(
    plan: Plan, patient: Model, head: tuple[str, str], source: Model
) -> tuple[str, ...]:
    """Turn `head`, `all` or a plugin's names into names of initializers, in graph order.

    A plugin may name parameters of one element too; those that the cut took away are left out.
    """
    if plan.trainable == "head":
        return head
    parameters = patient.parameters()
    everything = [name for name in parameters if name not in head] + list(head)
    if plan.trainable == "all":
        return tuple(everything)
    if isinstance(plan.trainable, str):
        raise UsageError(
            f"plan trains {plan.trainable!r}",
            where=f"case {plan.case!r}",
            remedy="`head`, `all`, or the names of initializers",
        )
    wanted = {*plan.trainable, *head}
    kept = [name for name, role in patient.roles().items() if role == "parameter"]
    known = {*kept, *(name for name, role in source.roles().items() if role == "parameter")}
    for name in plan.trainable:
        if name not in known:
            raise UnknownNameError("parameter", name, known, where=f"case {plan.case!r}")
    return tuple(name for name in kept if name in wanted and name not in head) + head


def _from_scratch(patient: Model, plan: Plan, head: tuple[str, str], seed: int) -> onnx.ModelProto:
    """Draw every trainable weight anew; the head has its random weights already."""
    from surgeon.graph.initialization import scheme
    from surgeon.runtime.proof import tuned_names
    from surgeon.tune.initialize import draw

    rules = scheme(patient.proto)
    tensors = {tensor.name: tensor for tensor in patient.proto.graph.initializer}
    drawn = {}
    for name in tuned_names(patient.proto, plan.trainable):
        if name not in head and rules[name].draw != "keep":
            drawn[name] = draw(rules[name], tuple(tensors[name].dims), seed=seed, name=name)
    return write_back(patient.proto, drawn, partial=True)


def _start_only(model: Model, start: str) -> Model:
    anatomy = model.anatomy()
    proto = graph_cuts.start_at(anatomy.model, start, anatomy.shapes)
    for key in (envelope.PROOF, envelope.PREPROCESS):
        envelope.put(proto, key, None)
    removed = len(anatomy.model.graph.node) - len(proto.graph.node)
    plan = Plan(case="start", cut=start, depth=graph_cuts.depth_of(anatomy, start), trainable=())
    return replace(model.with_proto(proto), plan=plan, removed_nodes=removed)


# ── the main job ─────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Clock:
    """Seconds of the phases of a run."""

    started: float
    features: float = 0.0
    train: float = 0.0
    write: float = 0.0

    @property
    def total(self) -> float:
        return time.perf_counter() - self.started


def finetune(
    model: Source,
    data: Any,
    out: str | os.PathLike[str] | None = None,
    *,
    case: str | None = None,
    cut: str | None = None,
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
    preprocess: Any = None,
    size: Any = None,
    tokenizer: Any = None,
    max_length: int | None = None,
    audio: Any = None,
    label_column: str | None = None,
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
        out: file to write; None writes nothing.
        case: see `operate`.
        cut: see `operate`.
        classes: see `operate`; the data says it.
        init: see `operate`.
        epochs: of the stages that train by steps; None = the method's own choice.
        budget: seconds of training after which the best so far is delivered.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        precision: `float32`, `bf16` or `fp16` (autocast; weights stay float32).
        seed: of splits, head, order and augmentation; the same seed gives the same bits.
        batch: samples per step. None = the method's own choice.
        lr: peak learning rate of the head; None = the method's own choice.
        validation: fraction held out, or the path of data of its own.
        augment: `auto`, `none`, `light` or `strong`; pictures only.
        preprocess: how pictures become inputs: a name, JSON, or a file.
        size: (height, width) of pictures.
        tokenizer: path of a `tokenizer.json`, for texts; it is kept in the result.
        max_length: tokens kept of each text.
        audio: `RATE,SECONDS` or (rate, seconds), for sounds.
        label_column: label column of a table.
        inputs: constant inputs, `NAME=VALUE`.
        threads: CPU threads.
        cache_limit: bytes the features may take on disk.
        golden_samples: whether real samples may be kept in the proof.
        force: overwrite `out`.
        resume: go on with the checkpoint of an interrupted run to the same `out`.
        dry_run: decide and count, train and write nothing.
        progress: called as `progress(stage, done, total, **figures)`.
        plugins: loaded plugins; None loads them.

    Raises:
        SurgeonError: of the kind that fits; nothing is left half-written.
    """
    from surgeon.data.labels import check_trainable
    from surgeon.runtime.sessions import choose_device
    from surgeon.tune import stages

    clock = _Clock(time.perf_counter())
    _check_numbers(
        classes=classes, epochs=epochs, budget=budget, seed=seed, batch=batch, lr=lr,
        threads=threads, cache_limit=cache_limit,
    )  # fmt: skip
    _check_words(
        precision=(precision, ("float32", "bf16", "fp16")),
        augment=(augment, ("auto", "none", "light", "strong")),
    )
    seed, device = int(seed), str(device)  # numpy's and torch's own kinds are as welcome
    if out is not None and not dry_run:
        files.check_output(out, force=force)
    chosen = choose_device(device)
    model = load(model)
    goes_on = case is None and model.plan is not None and bool(model.trainable)
    if case is None and not goes_on:
        raise UsageError(
            "no case is given, and the file carries no plan to go on with",
            where="--case",
            remedy="`surgeon cases` lists the cases",
        )
    # What goes in: preprocessing, samples, labels.
    pre = find_preprocess(
        model, preprocess, size, tokenizer=tokenizer, max_length=max_length, audio=audio
    )
    if isinstance(pre, Preprocess):
        model = resized(model, pre)
    constants = _constants(model, inputs)
    bound = model if goes_on else model.with_constants(constants)
    data = _without(data, set(bound.bound_inputs) | _gone(model))
    model, constants = (
        bound,
        {i.name: constants[i.name] for i in bound.inputs if i.name in constants},
    )
    samples = _open(data, model, pre, label_column, constants, validation)
    pre = samples.encoding or pre  # the data may have settled the length of texts
    check_trainable(samples.labels or [])
    # What is operated on: the file's own plan, or a new one.
    first = samples.load(0)
    model = model.sized_like(first) if isinstance(first, dict) else model
    if goes_on:
        patient = model
        labels = _labels_to_go_on(model, samples)
    else:
        labels = list(samples.classes)
        if classes is not None and classes != len(labels):
            raise UsageError(
                f"--classes is {classes}, the data has {len(labels)} labels",
                where="--classes",
                remedy="leave it out: the data says it",
            )
        patient = operate(
            model, case, len(labels), cut, init=init, seed=seed, inputs=constants,
            evidence=Evidence(samples=samples.n, classes=len(labels)), plugins=plugins,
        )  # fmt: skip
    assert patient.plan is not None
    codes = _codes(samples, labels)
    parts = _split(samples, codes, validation, seed, labels)
    body = _start_body(patient, samples, labels, parts, chosen, precision, seed, out)
    if dry_run:
        return _dry(patient, body, clock)
    checkpoint = None if out is None else Path(f"{out}.checkpoint")
    if resume and (checkpoint is None or not checkpoint.is_dir()):
        body["warnings"].append(f"--resume: there is no checkpoint {checkpoint}: it starts anew")

    # The frozen part, once per sample; the head to its optimum; then, if planned, everything.
    run = stages.Run(
        patient=patient, samples=samples, codes=codes, parts=parts, device=device, seed=seed,
        threads=threads, cache_limit=cache_limit, precision=precision, batch=batch, lr=lr,
        epochs=epochs, budget=budget, augment=augment, resume=resume, progress=progress,
        checkpoint=checkpoint,
    )  # fmt: skip
    trained = stages.train(run)
    clock.features, clock.train = trained.seconds_features, trained.seconds_train

    # Back into ONNX: tuned tensors replace those of the same name, nothing else changes.
    writing = time.perf_counter()
    tuned = write_back(patient.proto, trained.tensors, partial=True)
    changed = _changed(patient.proto, tuned)
    envelope.put(tuned, envelope.LABELS, labels)
    if pre is not None:
        envelope.put(tuned, envelope.PREPROCESS, encodings.as_document(pre))
    proof = stages.prove(run, tuned, trained, golden_samples=golden_samples, constants=constants)
    envelope.put(tuned, envelope.PROOF, proof)
    result = replace(patient.with_proto(tuned), plan=patient.plan)
    metrics = stages.measure(run, tuned, trained, limit=TRAIN_METRICS)
    if out is not None:
        result.save(out, force=force)
        body["sha256"] = files.sha256_file(out)
        if trained.stopped == "interrupt":
            body["warnings"].append("interrupted: the best so far is delivered")
            if checkpoint is not None and checkpoint.is_dir():
                body["warnings"][-1] += f"; --resume --force goes on from {checkpoint}"
        else:
            stages.clean(run)
    clock.write = time.perf_counter() - writing
    body |= {
        "providers": list(trained.providers),
        "frontier": trained.frontier,
        "samples_seen": trained.samples_seen,
        "statistics": trained.statistics,
        "changed": changed,
        "metrics": metrics,
        "history": trained.history,
        "delivered": trained.delivered,
        "stopped": trained.stopped,
        "proof": proof,
        "seconds": _seconds(clock),
    }
    body["data"] |= _counts(samples, labels, parts)
    body["warnings"] = list(
        dict.fromkeys([*body["warnings"], *_skip_notes(samples), *_size_notes(pre), *trained.notes])
    )
    return Outcome(result, metrics, trained.history, proof, body)


def _start_body(
    patient: Model,
    samples: Samples,
    labels: list[str],
    parts: Splits,
    device: Any,
    precision: str,
    seed: int,
    out: Any,
) -> dict[str, Any]:
    assert patient.plan is not None
    plan, trainable = patient.plan, patient.trainable
    count = sizes(patient.proto)
    return {
        "out": None if out is None else str(out),
        "sha256": None,
        "case": plan.case,
        "plan": {
            "case": plan.case,
            "cut": plan.cut,
            "depth": plan.depth,
            "classes": plan.classes,
            "init": plan.init,
            "head": as_json(plan.head),
            "trainable": trainable,
            "stages": [as_json(stage) for stage in plan.stages],
        },
        "labels": labels,
        "device": device.kind if device.kind == "cpu" else f"{device.kind}:{device.index}",
        "providers": [],
        "precision": precision,
        "seed": seed,
        "data": {
            **_counts(samples, labels, parts),
            "ignored": samples.ignored,
            "sha256": samples.sha256,
        },
        "frontier": None,
        "trained_parameters": sum(count[name] for name in trainable),
        "trainable": trainable,
        "statistics": [],
        "changed": [],
        "metrics": None,
        "history": [],
        "delivered": None,
        "stopped": None,
        "proof": None,
        "warnings": [*_warnings(patient), *device.notes],
    }


def _counts(samples: Samples, labels: Sequence[str], parts: Splits) -> dict[str, Any]:
    """Count what could be read: the parts add up to `samples`, and so do the classes."""
    told = np.asarray(samples.labels or [], object)
    usable = np.ones(samples.n, bool)
    usable[samples.failed] = False
    return {
        "samples": int(usable.sum()),
        "train": int(usable[parts.train].sum()),
        "validation": int(usable[parts.validation].sum()),
        "test": 0 if parts.test is None else int(usable[parts.test].sum()),
        "classes": {label: int((told[usable] == label).sum()) for label in labels},
        "skipped": _skipped(samples),
    }


def _dry(patient: Model, body: dict[str, Any], clock: _Clock) -> Outcome:
    from surgeon.graph.frontier import split as split_graph

    assert patient.plan is not None
    shapes = patient.anatomy().shapes
    front = split_graph(patient.proto, patient.trainable, shapes, keep_weightless=False)
    body["frontier"] = _frontier_body(front)
    body["seconds"] = _seconds(clock)
    return Outcome(patient, {}, [], {}, body)


def _frontier_body(front: Any) -> dict[str, Any]:
    return {
        "tensors": [
            {"name": t.name, "shape": as_json(t.shape), "dtype": t.dtype} for t in front.tensors
        ],
        "nodes_frozen": front.nodes_frozen,
        "nodes_trained": front.nodes_trained,
        "cache": None,
    }


def _seconds(clock: _Clock) -> dict[str, float]:
    return {
        "total": clock.total,
        "features": clock.features,
        "train": clock.train,
        "write": clock.write,
    }


def _changed(before: onnx.ModelProto, after: onnx.ModelProto) -> list[str]:
    from surgeon.graph.weights import to_array

    tensors = {tensor.name: tensor for tensor in after.graph.initializer}
    return [t.name for t in before.graph.initializer if not same_bits(t, to_array(tensors[t.name]))]


# ── data ─────────────────────────────────────────────────────────────────────────────────────────


def find_preprocess(
    model: Model,
    option: Any = None,
    size: Any = None,
    *,
    tokenizer: Any = None,
    max_length: int | None = None,
    audio: Any = None,
) -> Preprocess | Encoding | None:
    """Find how pictures, texts or sounds become inputs.

    In this order: option → metadata of the file → the model index → None. `max_length` overrides
    what the file or the index says of texts, as `size` does of pictures.

    Raises:
        UsageError: options that exclude each other, or whose values cannot be meant.
    """
    given = {"--preprocess": option, "--tokenizer": tokenizer, "--audio": audio}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise UsageError(
            "a model takes pictures, texts or sounds, not several of them",
            where=" and ".join(named),
            remedy="give one of them",
        )
    if tokenizer is not None:
        return encodings.parse_text(tokenizer, max_length)
    found = encodings.parse_audio(audio) if audio is not None else _found(model, option, size)
    return found if max_length is None else encodings.with_max_length(found, max_length)


def _found(model: Model, option: Any, size: Any) -> Preprocess | Encoding | None:
    from surgeon.data.images import image_input
    from surgeon.graph.preprocess import parse_size

    info = image_input(model.inputs, {})
    if option is not None:
        return encodings.parse_option(option, info, size)
    document, source = envelope.get(model.proto, envelope.PREPROCESS), "metadata"
    if document is None:
        from surgeon_models import find_by_sha256

        entry = find_by_sha256(model.file_sha256)
        document, source = (None if entry is None else entry.preprocess), "index"
        if entry is not None and entry.encoding is not None:
            return encodings.from_index(entry.encoding, model.path)
    if document is None:
        return None
    if isinstance(document, dict):
        source = document.get("source") or source
    found = encodings.parse_option(document, info, None, source=source)
    parsed = parse_size(size)
    if parsed is None or not isinstance(found, Preprocess):
        return found
    return replace(found, size=parsed)


def resized(model: Model, pre: Preprocess) -> Model:
    """Let the graph take pictures of the size that was asked for, if it runs at that size.

    Raises:
        UsageError: the graph works at its own size only.
    """
    from surgeon.data.images import image_input

    info = image_input(model.inputs, {})
    if info is None or info.shape is None or len(info.shape) != 4:
        return model
    places = (2, 3) if pre.layout == "NCHW" else (1, 2)
    declared = tuple(info.shape[place] for place in places)
    wanted = tuple(pre.size)
    fixed = [dim for dim in declared if isinstance(dim, int)]
    if not fixed or all(
        not isinstance(dim, int) or dim == want for dim, want in zip(declared, wanted, strict=True)
    ):
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.value_info[:]
    for value in proto.graph.input:
        if value.name == info.name:
            for place, want in zip(places, wanted, strict=True):
                value.type.tensor_type.shape.dim[place].dim_value = want
    for value in proto.graph.output:
        # Only the batch is known to stay; the rest follows from the picture's size.
        for dim in list(value.type.tensor_type.shape.dim)[1:]:
            dim.Clear()
    from surgeon.runtime.observe import random_feeds
    from surgeon.runtime.sessions import open_session

    other = replace(model.with_proto(proto), stored=model.stored)
    try:
        anatomy = other.anatomy()
        probe = graph_cuts.keep_only(anatomy.model, [anatomy.end], anatomy.shapes)
        shapes = {
            item.name: anatomy.shapes.one[item.name][1]
            for item in input_infos(probe)
            if item.name in anatomy.shapes.one
        }
        open_session(probe, device="cpu").run(random_feeds(probe, shapes, 0))
    except SurgeonError as error:
        raise UsageError(
            f"the graph does not run at {wanted[0]}x{wanted[1]}: {error.message}",
            where=f"input {info.name!r}, made for {declared[0]}x{declared[1]}",
            remedy=f"leave --size out, or give {declared[0]}x{declared[1]}",
        ) from error
    note = (
        f"input {info.name!r} resized from {declared[0]}x{declared[1]} to {wanted[0]}x{wanted[1]}"
    )
    return replace(other, notes=(*model.notes, note))


def _open(
    data: Any,
    model: Model,
    pre: Preprocess | Encoding | None,
    label_column: str | None,
    constants: Mapping[str, NDArray[Any]],
    validation: float | str,
) -> Samples:
    from surgeon.data.read import needs_preprocess, open_data
    from surgeon.data.samples import JoinedSamples
    from surgeon.graph.preprocess import missing_preprocess

    infos = model.inputs
    if pre is None and needs_preprocess(data, infos, constants):
        raise missing_preprocess(_path(model))
    opened: dict[str, Any] = {
        "preprocess": pre, "label_column": label_column, "constants": dict(constants),
    }  # fmt: skip
    samples = open_data(data, infos, **opened)
    if _is_number(validation):
        return samples
    return JoinedSamples(samples, open_data(validation, infos, **opened))


def _without(data: Any, names: set[str]) -> Any:
    """Leave out arrays for inputs that became constants of the graph."""
    if not names:
        return data
    if isinstance(data, dict):
        return {key: value for key, value in data.items() if key not in names}
    if isinstance(data, str | Path) and str(data).endswith(".npz") and Path(data).is_file():
        with np.load(data, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files if key not in names}
    return data


def _labels_to_go_on(model: Model, samples: Samples) -> list[str]:
    """Return the labels of a file whose plan is trained on, checked against the data's."""
    assert model.plan is not None
    labels = model.labels
    if labels is None:
        if model.plan.classes != len(samples.classes):
            raise DataError(
                f"the file's head has {model.plan.classes} outputs, the data has "
                f"{len(samples.classes)} labels",
                where=_path(model),
                remedy="operate on the original with --case, or give the data it was made for",
            )
        return list(samples.classes)
    unknown = [label for label in samples.classes if label not in labels]
    if unknown:
        raise DataError(
            f"{len(unknown)} labels of the data are not known to the file: "
            f"{', '.join(map(repr, unknown[:5]))}",
            where=_path(model),
            remedy=f"it knows {', '.join(map(repr, labels[:10]))}; with --case it gets a new head",
        )
    return labels


def _codes(samples: Samples, labels: Sequence[str]) -> NDArray[np.int64]:
    index = {label: code for code, label in enumerate(labels)}
    return np.asarray([index[label] for label in samples.labels or []], np.int64)


def _split(
    samples: Samples, codes: NDArray[np.int64], validation: float | str, seed: int,
    labels: Sequence[str],
) -> Splits:  # fmt: skip
    from surgeon.data.splits import TEST_FROM, split

    fraction = float(validation) if _is_number(validation) else 0.2
    named = not isinstance(validation, float | int) and not _is_number(validation)
    return split(
        codes, fraction=fraction, seed=seed, given=samples.split, classes=labels,
        hold_test=samples.n >= TEST_FROM if named else None,
    )  # fmt: skip


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def _skipped(samples: Samples) -> list[dict[str, str]]:
    return [{"path": path, "reason": reason} for path, reason in samples.skipped]


def _skip_notes(samples: Samples) -> list[str]:
    """Say what became of the samples, how many could not be read, and name the first few."""
    notes, skipped = list(samples.notes), samples.skipped
    if skipped:
        named = "; ".join(f"{path}: {reason}" for path, reason in skipped[:3])
        notes.append(f"{len(skipped)} samples could not be read and were skipped: {named}")
    return notes


def _size_notes(pre: Preprocess | Encoding | None) -> list[str]:
    if not isinstance(pre, TextEncoding):
        return []
    return [f"the tokenizer takes {encodings.tokenizer_bytes(pre):,} bytes of the file"]


# ── using the result ─────────────────────────────────────────────────────────────────────────────


def predict(
    path: Source,
    inputs: Any,
    *,
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
    plugins: Plugins | None = None,  # noqa: ARG001 - all verbs take them
) -> Prediction:
    """Predict by ONNX Runtime, with the labels and preprocessing the file carries.

    Args:
        path: the model.
        inputs: pictures, texts (`.txt`), sounds (`.wav`) or series, folders of them, a table, an
            `.npz`, or `{input name: array}`; or one array
            for a model of one input.
        preprocess: overrides what the file says.
        size: (height, width) of pictures; overrides what the file says.
        tokenizer: for texts; overrides what the file says.
        max_length: tokens kept of each text; overrides what the file says.
        audio: `RATE,SECONDS` of sounds; overrides what the file says.
        constants: constant inputs, `NAME=VALUE`.
        batch: samples per run.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        threads: CPU threads.
        progress: called as `progress(stage, done, total)`.
        plugins: loaded plugins.

    Raises:
        DataError: inputs that do not fit.
        UsageError: pictures, texts or sounds without a known preprocessing.
    """
    from surgeon.data.read import needs_preprocess, open_data, open_inputs
    from surgeon.graph.preprocess import missing_preprocess

    model = load(path)
    pre = find_preprocess(
        model, preprocess, size, tokenizer=tokenizer, max_length=max_length, audio=audio
    )
    fixed = _constants(model, constants)
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    elif isinstance(inputs, np.ndarray):
        inputs = {info.name: inputs for info in model.inputs if info.name not in fixed}
    elif isinstance(inputs, dict):
        inputs = _without(inputs, _gone(model))
    elif len(inputs) == 1:
        inputs = _without(inputs[0], _gone(model))
        inputs = inputs if isinstance(inputs, dict) else [inputs]
    given = list(inputs) if not isinstance(inputs, dict) else inputs
    needed = [given] if isinstance(given, dict) else given
    if pre is None and any(needs_preprocess(item, model.inputs, fixed) for item in needed):
        raise missing_preprocess(_path(model))
    if isinstance(given, dict):
        samples = open_data(given, model.inputs, constants=fixed, labelled=False)
    else:
        samples = open_inputs(given, model.inputs, preprocess=pre, constants=fixed)
    probabilities, rows, providers, notes = _run(model, samples, batch, device, threads, progress)
    labels = model.labels
    if labels is not None and len(labels) != probabilities.shape[1]:
        labels = None
    best = probabilities.argmax(axis=1) if len(rows) else []
    return Prediction(
        labels=[labels[index] if labels else None for index in best],
        probabilities=probabilities,
        classes=labels,
        names=[str(samples.names[row]) for row in rows],
        failed=[{"input": name, "reason": reason} for name, reason in samples.skipped],
        providers=providers,
        path=_path(model),
        warnings=(*samples.notes, *notes),
    )


def evaluate(
    path: Source,
    data: Any,
    *,
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
    plugins: Plugins | None = None,  # noqa: ARG001 - all verbs take them
) -> dict[str, Any]:
    """Return the body of `evaluate`: metrics and confusion by ONNX Runtime.

    Labels of the data map to the file's by their text.

    Raises:
        DataError: a label the file does not know (unless `ignore_unknown`), or no labels at all.
    """
    from surgeon.data.read import needs_preprocess, open_data
    from surgeon.graph.preprocess import missing_preprocess
    from surgeon.runtime import metrics

    started = time.perf_counter()
    model = load(path)
    pre = find_preprocess(
        model, preprocess, size, tokenizer=tokenizer, max_length=max_length, audio=audio
    )
    fixed = _constants(model, inputs)
    data = _without(data, _gone(model))
    if pre is None and needs_preprocess(data, model.inputs, fixed):
        raise missing_preprocess(_path(model))
    samples = open_data(
        data, model.inputs, preprocess=pre, label_column=label_column, constants=fixed
    )
    labels = model.labels
    if labels is None:
        raise DataError(
            "the file carries no labels, so that data cannot be mapped to its outputs",
            where=_path(model),
            remedy="evaluate a file written by `surgeon finetune`",
        )
    unknown = [label for label in samples.classes if label not in labels]
    if unknown and not ignore_unknown:
        raise DataError(
            f"{len(unknown)} labels of the data are not known to the file: "
            f"{', '.join(map(repr, unknown[:5]))}",
            where=_path(model),
            remedy="--ignore-unknown drops their samples",
        )
    told = samples.labels or []
    chosen = np.asarray([i for i, label in enumerate(told) if label in labels], np.int64)
    if not len(chosen):
        raise DataError(
            "no sample has a label the file knows",
            where=str(data)[:200],
            remedy=f"it knows {', '.join(map(repr, labels[:10]))}",
        )
    probabilities, rows, providers, notes = _run(
        model, samples, batch, device, threads, progress, chosen
    )
    index = {label: code for code, label in enumerate(labels)}
    codes = np.asarray([index[told[row]] for row in rows], np.int64)
    predicted = probabilities.argmax(axis=1)
    scored = metrics.score(probabilities, codes)
    scored["top5"] = metrics.top5(probabilities, codes)
    samples_scored = scored.pop("samples")
    return {
        "path": _path(model),
        "samples": samples_scored,
        "skipped": _skipped(samples),
        "labels": labels,
        "metrics": scored,
        "per_class": metrics.per_class(labels, codes, predicted),
        "confusion": metrics.confusion(codes, predicted, len(labels)),
        "providers": list(providers),
        "seconds": time.perf_counter() - started,
        "warnings": [*_skip_notes(samples), *notes],
    }


def _run(
    model: Model,
    samples: Samples,
    batch: int | None,
    device: str,
    threads: int | None,
    progress: Report | None,
    indices: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64], tuple[str, ...], tuple[str, ...]]:
    """Run a classifier over samples: probabilities, the rows they belong to, providers, notes."""
    from surgeon.graph.head import find_head
    from surgeon.runtime.metrics import softmax
    from surgeon.runtime.stream import Runner

    head = find_head(model.proto)
    output = head.output if head is not None else model.proto.graph.output[0].name
    runner = Runner(
        model.proto, samples, outputs=[output], device=device, threads=threads, batch=batch,
        where=_path(model),
    )  # fmt: skip
    chosen = np.arange(samples.n) if indices is None else indices
    pieces, rows, done = [], [], 0
    for chunk in runner.stream(chosen):
        pieces.append(np.asarray(chunk.outputs[output], np.float64))
        rows.append(chosen[chunk.positions])
        done += len(chunk.positions) + len(chunk.failures)
        if progress is not None:
            progress("samples", done, len(chosen))
    if not pieces:
        return np.zeros((0, 0)), np.zeros(0, np.int64), runner.session.providers, ()
    values = np.concatenate(pieces)
    values = values.reshape(len(values), -1)
    if head is None or head.activation != "Softmax":
        values = softmax(values) if values.shape[1] > 1 else values
    order = np.concatenate(rows)
    place = np.argsort(order, kind="stable")
    return values[place], order[place], runner.session.providers, tuple(runner.notes)


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
        device: where golden inputs run.
        threads: of that run.

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
    return Verification(verdict, _path(model))


# ── in torch and back ────────────────────────────────────────────────────────────────────────────


def to_torch(source: Source) -> Any:
    """Convert a whole network to a torch module in evaluation mode, on the CPU, dtypes as stored.

    It takes positional tensors in graph-input order (a list for a sequence, None for an absent
    optional) and returns a tensor, or a tuple in output order. Parameters keep their ONNX names.

    Raises:
        UnsupportedError: an operator, version or form that is not converted; with its node.
    """
    from surgeon.tune.module import to_module

    model = load(source)
    return to_module(model.proto, roles=model.roles())


def write_tensors(source: Source, tensors: Any) -> onnx.ModelProto:
    """Put tensors back into a network: a new ModelProto, nothing else changed.

    Args:
        source: the network the module was made from.
        tensors: `surgeon.tensors(module)`, `module.state_dict()`, or the module itself.

    Raises:
        UnknownNameError: a name that is no float initializer.
        ModelError: float initializers are missing.
    """
    from surgeon.tune.arrays import as_arrays

    model = load(source)
    arrays = as_arrays(tensors)
    result = write_back(model.proto, arrays)
    if model.stored is not None and not _changed(model.proto, result):
        unchanged = onnx.ModelProto()
        unchanged.CopyFrom(model.stored)
        return unchanged
    return result


# ── small things ─────────────────────────────────────────────────────────────────────────────────


def _path(model: Model) -> str | None:
    return None if model.path is None else str(model.path)


def _warnings(model: Model) -> list[str]:
    notes = list(model.notes)
    note = model.batch_note
    if note is not None and note not in notes:
        notes.append(note)
    return notes


def _plugins(plugins: Plugins | None) -> Plugins:
    if plugins is not None:
        return plugins
    from surgeon.plugin.manager import load_plugins

    return load_plugins()


def _constants(model: Model, inputs: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Read constant inputs; what the operation itself dropped is ignored."""
    gone = _gone(model)
    if isinstance(inputs, dict):
        inputs = {name: value for name, value in inputs.items() if name not in gone}
    else:
        inputs = [text for text in inputs if text.partition("=")[0] not in gone]
    if not inputs:
        return {}
    from surgeon.data.arrays import parse_constants

    return parse_constants(inputs, model.inputs)


def _gone(model: Model) -> set[str]:
    """Return inputs that data made for the source may have and the operated file does not take."""
    return set() if model.plan is None else set(model.plan.dropped_inputs)


__all__ = [
    "CheckError",
    "cases",
    "check",
    "cuts",
    "data_inputs",
    "evaluate",
    "finetune",
    "inspect",
    "operate",
    "predict",
    "to_torch",
    "verify",
    "write_tensors",
]
