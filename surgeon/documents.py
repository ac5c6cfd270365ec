"""The bodies of documents, as the contract names their keys: what a run was and what it found."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.graph import encodings
from surgeon.graph.frontier import split as split_graph
from surgeon.graph.weights import sizes
from surgeon.records import (
    Encoding,
    Preprocess,
    TextEncoding,
    as_json,
)
from surgeon.tasks import metrics

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    import onnx
    from numpy.typing import NDArray

    from surgeon.advice.advice import Advice
    from surgeon.data.samples import Samples
    from surgeon.graph.cuts import Anatomy
    from surgeon.intake import Answered, Divided
    from surgeon.job.deliver import Delivered
    from surgeon.job.done import Trained, Work
    from surgeon.job.run import Job
    from surgeon.model import Model
    from surgeon.options import Options
    from surgeon.plugin.manager import Found
    from surgeon.records import Case, DataFinding, Finding
    from surgeon.tasks.base import Scores

    Source = str | os.PathLike[str] | onnx.ModelProto | Model
    Report = Callable[..., None]


METRICS = (
    "loss", "quality", "accuracy", "macro_f1", "average_precision", "micro_f1", "subset_accuracy",
    "r2", "mae", "rmse", "span_f1", "miou", "pixel_accuracy", "recall_at_1", "map_at_10",
)  # fmt: skip
"""Keys of `metrics` beside `samples` and `method`, as the contract names them."""

A_MEAN = 1e-6
"""How far the mean of shares may lie from a quality that is their mean."""


@dataclass
class Clock:
    """Seconds of the phases of a run."""

    started: float
    features: float = 0.0
    train: float = 0.0
    write: float = 0.0

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started


def cuts_body(model: Model, listed: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the body of `cuts`."""
    anatomy = model.anatomy()
    return {
        "path": model.where,
        "output": anatomy.output,
        "macs": anatomy.total,
        "late": anatomy.late,
        "early": anatomy.early,
        "cuts": listed,
        "warnings": notes_of(model, anatomy),
    }


def cases_body(offers: Mapping[str, Found[Case]]) -> dict[str, Any]:
    """Return the body of `cases`."""
    return {
        "cases": [
            {
                "name": name,
                "summary": item.offer.summary,
                "distribution": item.distribution,
                "version": item.version,
            }
            for name, item in offers.items()
        ]
    }


def checked_body(
    model: Model, shown: Model, findings: list[Finding], case: str | None
) -> dict[str, Any]:
    """Return the body of `check`."""
    return {
        "path": model.where,
        "case": case,
        "ok": not any(finding.level == "error" for finding in findings),
        "findings": [as_json(finding) for finding in findings],
        "warnings": notes_of(shown),
    }


def start_body(operated: Model, given: Divided, to: Options) -> dict[str, Any]:
    """Return the body of `finetune` as far as it is known before training."""
    assert operated.plan is not None
    plan, trainable, out = operated.plan, operated.trainable, to.delivery.out
    device, samples = given.device, given.samples
    return {
        "out": None if out is None else str(out),
        "sha256": None,
        "case": plan.case,
        "plan": {
            "case": plan.case,
            "cut": plan.cut,
            "depth": plan.depth,
            "classes": plan.classes,
            "outputs": plan.outputs,
            "init": plan.init,
            "task": plan.task,
            "head": plan.as_dict()["head"],
            "loss": plan.loss,
            "adapter": plan.adapter,
            "start": plan.start,
            "why": plan.why,
            "trainable": trainable,
            "stages": [as_json(stage) for stage in plan.stages],
        },
        "labels": given.labels,
        "device": device.kind if device.kind == "cpu" else f"{device.kind}:{device.index}",
        "providers": [],
        "precision": to.place.precision,
        "seed": to.training.seed,
        "data": {
            **counts(given),
            "ignored": samples.ignored,
            "sha256": samples.sha256,
        },
        "frontier": None,
        "trained_parameters": None if plan.adapter else learning(operated),
        "trainable": trainable,
        "statistics": [],
        "changed": [],
        "extended": None,
        "metrics": None,
        "history": [],
        "delivered": None,
        "guard": None,
        "race": None,
        "stopped": None,
        "resumed": None,
        "tracked": [],
        "report": None,
        "proof": None,
        "warnings": [*notes_of(operated), *device.notes, *samples.notes],
    }


def learning(operated: Model) -> int:
    """Return how many numbers the weights have that are trained."""
    count = sizes(operated.proto)
    return sum(count[name] for name in operated.trainable)


def planned_body(job: Job, found: Iterable[DataFinding], advice: Advice | None) -> dict[str, Any]:
    """Return the body of `finetune` with what is said of data and advice."""
    from surgeon.job.blocks import blocks

    body = start_body(job.operated, job.given, job.to)
    body["blocks"], body["lr_find"] = blocks(job), None
    body["warnings"] += [
        finding.message
        for finding in found
        if finding.level == "warning" and finding.kind != "unreadable"  # named below, once read
    ]
    if job.extended is not None:
        body["extended"] = {
            "old": list(job.extended.old), "new": list(job.extended.new),
            "method": job.extended.method,
        }  # fmt: skip
    if advice is not None:
        detected = job.given.detected
        body["advice"] = advice.brief()
        body["warnings"] += [*advice.warnings, *([detected.note] if detected else [])]
    return body


def dry_body(body: dict[str, Any], job: Job, work: Work, clock: Clock) -> dict[str, Any]:
    """Return the body of `finetune` of a run that trains nothing, after what was looked for."""
    operated = job.operated
    front = split_graph(
        operated.proto, operated.trainable, operated.anatomy().shapes, keep_weightless=False
    )
    told = rate_body(job, work) | {"warnings": [*body["warnings"], *work.notes]}
    return body | told | {"frontier": frontier_body(front), "seconds": seconds(clock)}


def rate_body(job: Job, work: Work) -> dict[str, Any]:
    """Return what the body says of a rate that was looked for; empty where none was."""
    from surgeon.job.blocks import blocks

    if work.lr_find is None:
        return {}
    return {"lr_find": work.lr_find, "blocks": blocks(job, work.lr_find["chosen"])}


def trained_body(
    body: dict[str, Any], job: Job, trained: Trained, delivered: Delivered, clock: Clock
) -> dict[str, Any]:
    """Return the whole body of `finetune`."""
    work, given = trained.work, job.given
    clock.features, clock.train = work.seconds_features, work.seconds_train
    clock.write = delivered.seconds
    plan = delivered.model.plan
    assert plan is not None
    told = [
        *body["warnings"], *delivered.told, *skip_notes(given.samples),
        *size_notes(given.preprocess), *work.notes, *delivered.notes,
        *budget_note(job.to.training.budget, clock),
    ]  # fmt: skip
    return (
        body
        | rate_body(job, work)
        | {
            "sha256": delivered.sha256,
            "plan": body["plan"] | {"init": plan.init},
            "data": body["data"] | counts(given),
            "device": trained.device,
            "providers": list(work.providers or delivered.providers),
            "frontier": dict(work.frontier),
            "samples_seen": work.samples_seen,
            "trained_parameters": work.learned or learning(job.operated),
            "compiled": work.compiled,
            "decisions": list(work.decisions),
            "peak_memory": work.peak_memory,
            "statistics": list(trained.statistics),
            "changed": delivered.changed,
            "metrics": {part: told_metrics(one) for part, one in delivered.metrics.items()},
            "history": [{"validation_accuracy": None} | row for row in work.history],
            "delivered": trained.delivered.kind,
            "guard": trained.guard,
            "race": trained.race,
            "stopped": trained.stopped,
            "resumed": work.resumed,
            "proof": delivered.proof,
            "seconds": seconds(clock),
            "warnings": list(dict.fromkeys(told)),
        }
    )


def evaluated_body(
    given: Answered, scores: Scores, details: Mapping[str, Any], rows: NDArray[np.int64]
) -> dict[str, Any]:
    """Return the body of `evaluate` as far as it follows from answers; `more` are last notes.

    Args:
        given: the file, and the data.
        scores: of its answers.
        details: what the task adds.
        rows: which samples the scores are of.
    """
    details = {**details, **scores.details}
    beside = {
        "interval": _interval(scores, _grouped(given, rows)),
        **dict.fromkeys(("top5", "calibration_error", "brier")),
        **details.get("metrics", {}),
    }
    return {
        "path": given.model.where,
        "samples": len(scores.quality),
        "skipped": skipped(given.samples),
        "labels": given.labels,
        "metrics": told_metrics({**scores.figures, **beside}),
        "top_k": details.get("top_k"),
        "per_class": details.get("per_class"),
        "confusion": details.get("confusion"),
        "warnings": skip_notes(given.samples),
        "more": details.get("warnings", []),
    }


def against_body(
    other: Mapping[str, Any],
    given: Answered,
    mine: tuple[Scores, NDArray[np.int64]],
    theirs: tuple[Scores, NDArray[np.int64]],
) -> dict[str, Any]:
    """Return the `against` object: how much better a file is than another, on the same samples.

    Args:
        other: body of the file that it is compared with, on the data.
        given: the file, on the same data.
        mine: its scores, and which samples they are of.
        theirs: those of the other.
    """
    _, here, there = np.intersect1d(mine[1], theirs[1], return_indices=True)
    groups = _grouped(given, mine[1][here])
    one, two = mine[0].quality[here], theirs[0].quality[there]
    compared = metrics.paired(one, two, groups)
    return {
        "path": other["path"],
        "metrics": other["metrics"],
        "samples": int((~np.isnan(one - two)).sum()),
        **dict(zip(("difference", "standard_error", "p_value"), compared, strict=True)),
        "interval": metrics.interval(one - two, groups),
    }


def _interval(scores: Scores, groups: NDArray[np.int64] | None) -> list[float] | None:
    """Return what the quality lies between; None where it is no mean over samples."""
    figure, shares = scores.figures.get("quality"), scores.quality
    known = shares[~np.isnan(shares)]
    if figure is None or not len(known) or abs(float(known.mean()) - figure) > A_MEAN:
        return None
    found = metrics.interval(shares, groups)
    if found is None or figure > 1:
        return found
    return [min(bound, 1.0) for bound in found]  # shares of what is no mean may add up to more


def _grouped(given: Answered, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return the codes of what may not be torn apart, of some samples; None where nothing is."""
    groups = given.targets.groups
    return None if groups is None else groups[rows]


def told_metrics(figures: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return an object of `metrics` with every key that readers may ask for, null where it is not.

    Figures that a third party's task adds stand behind them.
    """
    if figures is None:
        return None
    return dict.fromkeys(METRICS) | dict(figures)


def counts(given: Divided) -> dict[str, Any]:
    """Count what could be read: the parts add up to `samples`, and so do the classes."""
    samples, parts = given.samples, given.parts
    usable = np.ones(samples.n, bool)
    usable[samples.failed] = False
    of_class = given.task.counts(given.targets[usable])
    return {
        "samples": int(usable.sum()),
        "train": int(usable[parts.train].sum()),
        "validation": int(usable[parts.validation].sum()),
        "test": 0 if parts.test is None else int(usable[parts.test].sum()),
        "classes": dict(zip(given.labels, of_class.tolist(), strict=True))
        if len(of_class)
        else None,
        "groups": samples.group_count,
        "skipped": skipped(samples),
    }


def frontier_body(front: Any) -> dict[str, Any]:
    """Return the `frontier` object of a split that was not run."""
    return {
        "tensors": [
            {"name": t.name, "shape": as_json(t.shape), "dtype": t.dtype} for t in front.tensors
        ],
        "nodes_frozen": front.nodes_frozen,
        "nodes_trained": front.nodes_trained,
        "one_by_one": False,
        "cache": None,
    }


def seconds(clock: Clock) -> dict[str, float]:
    """Return the `seconds` object."""
    return {
        "total": clock.total,
        "features": clock.features,
        "train": clock.train,
        "write": clock.write,
    }


def budget_note(budget: float | None, clock: Clock) -> list[str]:
    """Say where the time went of a run that took more than a tenth longer than its budget."""
    total = clock.total
    if budget is None or total <= 1.1 * budget:
        return []
    rest = max(total - clock.features - clock.train - clock.write, 0.0)
    parts = (
        f"{clock.features:.1f} s the frozen part, {clock.train:.1f} s training, "
        f"{clock.write:.1f} s writing and proof, {rest:.1f} s reading and comparing"
    )
    why = "the budget ends training, and a tenth of it is always trained"
    return [f"--budget {budget:g}: the run took {total:.1f} s ({parts}); {why}"]


def skipped(samples: Samples) -> list[dict[str, str]]:
    """Return the samples that could not be read."""
    return [{"path": path, "reason": reason} for path, reason in samples.skipped]


def skip_notes(samples: Samples) -> list[str]:
    """Say what became of the samples, how many could not be read, and name the first few."""
    notes, skipped = list(samples.notes), samples.skipped
    if skipped:
        named = "; ".join(f"{path}: {reason}" for path, reason in skipped[:3])
        notes.append(f"{len(skipped)} samples could not be read and were skipped: {named}")
    return notes


def size_notes(pre: Preprocess | Encoding | None) -> list[str]:
    """Return what people should know of the length that texts were given."""
    if not isinstance(pre, TextEncoding):
        return []
    return [f"the tokenizer takes {encodings.tokenizer_bytes(pre):,} bytes of the file"]


def notes_of(model: Model, anatomy: Anatomy | None = None) -> list[str]:
    """Return what people should know of a model: its notes, its batch, which head it has."""
    anatomy = anatomy or model.anatomy()
    return list(dict.fromkeys([*model.notes, *filter(None, [anatomy.batch_note]), *anatomy.notes]))
