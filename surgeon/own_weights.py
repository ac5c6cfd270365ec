"""Weights of one's own training loop: what changed, and a file that proves it as `finetune` does.

::

    mine   = operated.with_weights(module)       what was trained, back under its ONNX names
    proved = surgeon.prove(mine, "photos/")      labels, preprocessing, parity, golden inputs

What must not enter: training, and surgery.
"""

from __future__ import annotations

import functools
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from surgeon import intake
from surgeon.documents import Clock, counts, seconds, skip_notes, start_body
from surgeon.errors import CheckError, DataError, UsageError
from surgeon.graph import envelope
from surgeon.graph.weights import head_weights, same_values, tuned_names
from surgeon.job.operate import load_operators
from surgeon.model import Model, load
from surgeon.options import Options, explained
from surgeon.outcome import Outcome
from surgeon.records import Head, Plan

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import onnx

    from surgeon.job.run import Job
    from surgeon.plugin.manager import Plugins
    from surgeon.tasks.base import Targets, TaskCode

    Source = str | os.PathLike[str] | onnx.ModelProto | Model

CASE = "own-loop"
"""What stands for the case in the plan of a model that no case was asked about."""


@explained
def prove(  # noqa: PLR0913 - a public verb has its options as keywords
    model: Source,
    data: Any,
    *,
    source: Source | None = None,
    labels: Sequence[str] | None = None,
    preprocess: Any = None,
    size: Any = None,
    tokenizer: Any = None,
    max_length: int | None = None,
    audio: Any = None,
    label_column: str | None = None,
    task: str = "auto",
    group_column: str | None = None,
    inputs: Sequence[str] | Mapping[str, Any] = (),
    validation: float | str = 0.2,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    golden_samples: bool = False,
    progress: Callable[..., None] | None = None,
    plugins: Plugins | None = None,
) -> Outcome:
    """Prove weights that were trained elsewhere: the file gets what `finetune` gives its own.

    Labels, preprocessing, the parity of torch and ONNX Runtime, golden inputs, and the sets of
    frozen and tuned tensors. What changed is found by comparing with the weights the model had
    before `Model.with_weights`, or with `source`. With a plan, only what it trains may have
    changed, and the statistics of BatchNormalization beside it. Without one (the network was not
    operated on), what changed becomes what the plan trains.

    Args:
        model: `operated.with_weights(...)`, or a file or ModelProto with the trained weights.
        data: see `finetune`: real samples for the proof, and figures of its validation part.
        source: the network before training, where `model` does not know it: the operated file, or
            the original.
        labels: names of the outputs, in their order; None = the file's own, else the data's, sorted
            (numbers by value, names by code point).
        progress: called as `progress(stage, done, total)`.
        plugins: loaded plugins; None loads them.

    Returns:
        An Outcome: `.model` (and `.save(path)`), `.metrics`, `.proof`.

    Raises:
        CheckError: something changed that may not, or torch and ONNX Runtime differ.
        DataError: the data's labels are not the model's outputs.
    """
    from surgeon.job.run import Job

    clock = Clock(time.perf_counter())
    to = Options.of(locals())
    model, changed, notes = _trained(load(model), source)

    given = intake.open(
        model,
        data,
        to,
        names=functools.partial(named, labels),
        as_planned=True,
        progress=progress,
        plugins=plugins,
    )
    job = Job(given.model, given, to, given.task)
    body = start_body(job.operated, given, to)
    load_operators(job.operated.proto, plugins)
    told = [*body["warnings"], *notes, *skip_notes(given.samples)]
    return proven(job, body | {"changed": changed or []}, told, clock)


def _trained(model: Model, source: Source | None) -> tuple[Model, list[str] | None, list[str]]:
    """Return the model with its plan and origin, what changed in it (None: not known), and notes.

    Raises:
        CheckError: something changed that may not.
    """
    changed = _changed(model, _before(model, source))
    model, notes = planned(model, changed)
    model = _from(model, source)
    _check_changed(model, changed)
    return model, changed, notes


def proven(job: Job, body: dict[str, Any], told: list[str], clock: Clock) -> Outcome:
    """Write into the file what `finetune` gives its own: what it is, its proof, its figures."""
    from surgeon.job.deliver import TRAIN_METRICS, stamp
    from surgeon.job.done import Candidate, Trained
    from surgeon.job.measure import measure
    from surgeon.job.proving import prove as make_proof

    model, given = job.operated, job.given
    tuned = _copy(model.proto)
    stamp(tuned, given)
    golden = job.to.delivery.golden_samples
    proven = make_proof(job, tuned, golden_samples=golden, constants=given.constants)
    proof = proven.document
    envelope.put(tuned, envelope.PROOF, proof)
    result = replace(model.with_proto(tuned), plan=model.plan)
    metrics, said = measure(job, tuned, Trained(Candidate("tuned")), limit=TRAIN_METRICS)
    allowed = set(tuned_names(tuned, model.trainable)) - set(model.trainable)
    body |= {
        "providers": list(proven.providers),
        "statistics": sorted(allowed),
        "metrics": metrics,
        "delivered": "tuned",
        "proof": proof,
        "seconds": seconds(clock),
        "data": body["data"] | counts(given),
        "warnings": list(dict.fromkeys([*told, *proven.notes, *said])),
    }
    return Outcome(result, metrics, [], proof, body)


def _before(model: Model, source: Source | None) -> onnx.ModelProto | None:
    """Return the graph before training, or None: nobody knows it."""
    return model.before if source is None else load(source).proto


def _from(model: Model, source: Source | None) -> Model:
    """Return the model with the origin that `source` tells, where it is the original itself."""
    if source is None:
        return model
    origin = load(source).source_sha256
    document = envelope.get(model.proto, envelope.PLAN) | {"source_sha256": origin}
    proto = _copy(model.proto)
    envelope.put(proto, envelope.PLAN, document)
    return replace(model.with_proto(proto), source_sha256=origin)


def _changed(model: Model, before: onnx.ModelProto | None) -> list[str] | None:
    """Return the initializers that differ from those before training; None: not known.

    One that the network before did not have (the head, against the original) has changed.
    """
    if before is None:
        return None
    known = {tensor.name: tensor for tensor in before.graph.initializer}
    weights = {*model.roles(), *model.quantized()}  # integers that an operation adapted are none
    return [
        tensor.name
        for tensor in model.proto.graph.initializer
        if tensor.name in weights
        and (tensor.name not in known or not same_values(known[tensor.name], tensor))
    ]


def planned(model: Model, changed: list[str] | None) -> tuple[Model, list[str]]:
    """Return the model with a plan: its own, or one that trains what changed; and notes."""
    notes = []
    if changed is None:
        notes.append(
            "what changed is not known: the proof takes what the plan does not train for frozen; "
            "Model.with_weights knows it, and so does source="
        )
    if model.plan is not None and model.trainable:
        return model, notes
    learns = model.learnable() if changed is None else changed
    trains = [name for name in learns if name in set(model.learnable())]
    plan = model.plan or Plan(head=Head(weights=head_weights(model.proto)))
    plan = replace(
        plan,
        case=CASE,
        trainable=tuple(trains),
        why="weights of one's own training loop",
    )
    document = plan.as_dict() | {"source_sha256": model.source_sha256}
    proto = _copy(model.proto)
    envelope.put(proto, envelope.PLAN, document)
    return replace(model.with_proto(proto), plan=plan), notes


def _check_changed(model: Model, changed: list[str] | None) -> None:
    """Refuse what changed and is neither trained by the plan nor a statistic beside it.

    Raises:
        CheckError: naming all of them.
    """
    allowed = set(tuned_names(model.proto, model.trainable))
    role = model.roles()
    foreign = [
        name for name in changed or () if name not in allowed and not name.startswith("surgeon.")
    ]
    if not foreign:
        return
    statistics = [name for name in foreign if role.get(name) == "statistics"]
    remedy = "train only `model.trainable`, or operate by a case that trains more"
    if statistics:
        remedy += (
            "; statistics stay where module.eval() is kept, or where the scale and bias beside "
            "them have requires_grad=False"
        )
    raise CheckError(
        f"{len(foreign)} tensors changed that the plan does not train",
        where=", ".join(foreign[:8]) + (", …" if len(foreign) > 8 else ""),
        remedy=remedy,
    )


def named(given: Sequence[str] | None, model: Model, task: TaskCode, targets: Targets) -> Targets:
    """Say the answers in the outputs of a model, their names checked against data and graph.

    Raises:
        DataError: labels of the data are not among them, or their number is not the outputs'.
    """
    names = [str(name) for name in given] if given is not None else model.labels
    names = list(targets.names) if names is None else names
    unknown = [label for label in targets.names if label not in names]
    if unknown:
        raise DataError(
            f"{len(unknown)} labels of the data are not the model's: "
            f"{', '.join(map(repr, unknown[:5]))}",
            where=model.where,
            remedy=f"it knows {', '.join(map(repr, names[:10]))}; labels= names its outputs",
        )
    outputs = _outputs(model)
    if names and outputs not in (None, len(names)):
        raise DataError(
            f"the model has {outputs} outputs, there are {len(names)} labels",
            where=model.where,
            remedy="labels= names all its outputs, in their order",
        )
    if len(set(names)) != len(names):
        raise UsageError("a label is named twice", where="labels", remedy="name each output once")
    return task.onto(targets, names, ignore_unknown=False) if names else targets


def _outputs(model: Model) -> int | None:
    """Return how many values the model gives for a sample, or None where that is open."""
    from surgeon.graph.shapes import output_infos

    if model.plan is not None and model.plan.outputs is not None:
        return model.plan.outputs
    shape = output_infos(model.proto)[0].shape
    last = shape[-1] if shape else None
    return last if isinstance(last, int) else None


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = type(proto)()
    copy.CopyFrom(proto)
    return copy
