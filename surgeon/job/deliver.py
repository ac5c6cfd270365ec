"""Back into ONNX: tuned tensors replace those of the same name, and the file carries its proof.

What must not enter: training.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from surgeon import resumption
from surgeon.graph import encodings, envelope, files, rule
from surgeon.graph.apart import take_one
from surgeon.graph.weights import changed_tensors, write_back
from surgeon.job import statistics
from surgeon.job.kept import keep
from surgeon.job.measure import calibrated, measure, stored_of
from surgeon.job.operate import draw_anew
from surgeon.job.proving import prove
from surgeon.job.run import clean
from surgeon.records import Preprocess

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from surgeon.intake import Divided
    from surgeon.job.done import Trained
    from surgeon.job.run import Job
    from surgeon.model import Model
    from surgeon.records import Init

TRAIN_METRICS = 1000
"""Samples on which training metrics of a wholly tuned network are measured."""


@dataclass(frozen=True)
class Delivered:
    """The tuned file.

    Attributes:
        model: the tuned model, its proof in it.
        proof: that proof.
        metrics: of the file, by part.
        changed: initializers that differ from those of the operated file.
        providers: that computed it.
        sha256: of the file that was written, or None.
        told: what people should know of the file itself.
        notes: of its proof and figures.
        seconds: of writing, proof and figures.
    """

    model: Model
    proof: dict[str, Any]
    metrics: dict[str, Any]
    changed: list[str]
    providers: tuple[str, ...]
    sha256: str | None = None
    told: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def deliver(job: Job, trained: Trained, advice: dict[str, Any] | None) -> Delivered:
    """Write trained tensors back, prove the file, measure it, and save it where that was asked for.

    Args:
        job: what was trained on what.
        trained: what training gave.
        advice: what the file keeps of the advice that decided, or None.

    Raises:
        CheckError: what the file gives is not what training computed.
        OutputError: it cannot be written.
    """
    writing = time.perf_counter()
    tuned = write_back(job.operated.proto, trained.delivered.tensors, partial=True)
    changed = changed_tensors(_as_operated(job), tuned)
    notes = []
    if trained.work.alone:
        tuned = take_one(tuned)
        notes.append(
            "the file takes one sample at a time: its batch is fixed at 1, as the samples of a "
            "batch would change each other's answers"
        )
    plan, stored = job.plan, trained.delivered.stored
    if stored is None:
        stored, said = stored_of(job, tuned, alone=trained.work.alone)
        notes += said
    job = calibrated(job, stored)
    stamp(tuned, job.given)
    envelope.put(tuned, envelope.DECODING, dict(stored) or None)
    told = tuple(envelope.relabel(tuned, job.given.labels))
    if trained.race is not None:  # the file says which start its weights come from
        won: Init = trained.race["winner"] if trained.delivered.kind == "tuned" else "pretrained"
        plan = replace(plan, init=won)
        envelope.put(tuned, envelope.PLAN, envelope.get(tuned, envelope.PLAN) | {"init": won})
    if advice is not None:
        envelope.put(tuned, envelope.ADVICE, advice)
    notes += statistics.settle(job, tuned, changed)
    delivery = job.to.delivery
    proven = prove(
        job, tuned, golden_samples=delivery.golden_samples, constants=job.given.constants
    )
    notes += proven.notes
    envelope.put(tuned, envelope.PROOF, proven.document)
    model = replace(job.operated.with_proto(tuned), plan=plan)
    metrics: dict[str, Any] = {}

    def judge(path: Path | None) -> None:
        found, said = measure(job, tuned, trained, limit=TRAIN_METRICS, path=path)
        metrics.update(found)
        notes.extend(said)

    sha256 = None
    if delivery.out is None:
        judge(None)
    else:
        model.save(delivery.out, force=delivery.force, check=judge)
        sha256 = files.sha256_file(delivery.out)
        told += _settle_checkpoint(job, trained)
    return Delivered(
        model, proven.document, metrics, changed, proven.providers, sha256,
        told + keep(job, trained, tuned), tuple(notes), time.perf_counter() - writing,
    )  # fmt: skip


def stamp(tuned: onnx.ModelProto, given: Divided) -> None:
    """Write into a file what its outputs and inputs are."""
    envelope.put(tuned, envelope.LABELS, given.labels)
    how = given.preprocess
    if isinstance(how, Preprocess):
        how = replace(how, draft=False)  # which is for speed in training; few clients can do it
        for key, text in rule.image_metadata(how).items():
            envelope.put_text(tuned, key, text)
    if how is not None:
        envelope.put(tuned, envelope.PREPROCESS, encodings.as_document(how))


def _as_operated(job: Job) -> onnx.ModelProto:
    """Return what `operate` writes: where it starts at random, that is drawn anew."""
    if job.plan.init == "random" and not job.goes_on:
        return draw_anew(job.operated, job.plan, job.to.training.seed)
    return job.operated.proto


def _settle_checkpoint(job: Job, trained: Trained) -> tuple[str, ...]:
    """Remove the checkpoint of a whole run; keep that of an interrupted one, and say so."""
    out, checkpoint = job.to.delivery.out, job.checkpoint
    assert out is not None
    if trained.stopped != "interrupt":
        clean(job)
        return ()
    resumption.note_delivered(out)
    goes_on = f"goes on from {checkpoint}" if resumption.has_states(checkpoint) else "begins anew"
    return (f"interrupted: the best so far is delivered; the same command with --resume {goes_on}",)
