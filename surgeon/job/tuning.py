"""Tuning by steps: one stage from one start, or a race of two.

What must not enter: the order of the stages, and which result is delivered.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from surgeon.graph.cuts import first_use
from surgeon.job import race
from surgeon.job.adapters import asked_rate, learnt
from surgeon.job.done import Candidate, StageDone, Work
from surgeon.job.losses import judged, objective_of
from surgeon.job.part import (
    Part,
    begun,
    believed,
    drawn,
    open_part,
    scale,
    shapes_of,
    trained_tensors,
)
from surgeon.probe.solver import torch_threads
from surgeon.train.loop import fit
from surgeon.train.rates import find_rate
from surgeon.train.settings import Checkpoint, FitResult, FitSettings, Progress, Row

if TYPE_CHECKING:
    from pathlib import Path

    from surgeon.job.run import Job
    from surgeon.records import Stage


@dataclass(frozen=True)
class _Leg:
    """One start of a race: what was trained, and how far it came."""

    part: Part
    fitted: FitResult
    work: Work


def fit_stage(
    job: Job, stage: Stage, known: StageDone, started: float, checkpoint: Path | None
) -> StageDone:
    """Tune the stage's weights by gradient, from what the stages before it gave.

    A random start begins with the first such stage: its weights are drawn there.
    """
    start = known.start
    assert start != "race"
    candidate, part = _opened(job, stage, known)
    found = _rate(job, stage, start, part) if job.to.training.lr_find else Work()
    settings = _settings(job, stage, start, _seconds_left(job, started))
    if found.lr_find is not None:
        settings = replace(settings, lr=found.lr_find["chosen"])
    fitted, work = _fit(job, part, settings, checkpoint)
    if fitted.improved:
        candidate = _taken(job, part, candidate)
    return replace(
        known,
        fresh=False,
        candidate=candidate,
        work=known.work + part.work + found + work,
        without_gain=known.without_gain + (() if fitted.improved else (stage.name,)),
        stopped=fitted.stopped,
    )


def rate_for(job: Job, stage: Stage, known: StageDone) -> Work:
    """Look for the rate of a stage, from what the stages before it gave; nothing is trained."""
    _, part = _opened(job, stage, known)
    assert known.start != "race"
    return part.work + _rate(job, stage, known.start, part)


def _opened(job: Job, stage: Stage, known: StageDone) -> tuple[Candidate, Part]:
    """Open what a stage trains, drawn anew where it is the first from a random start."""
    candidate = known.candidate
    anew = known.start == "random" and known.fresh
    if anew:
        candidate = replace(candidate, tensors=drawn(job))
    part = open_part(job, stage, candidate, alone=known.work.alone, scratch=anew)
    if anew:
        scale(job, part)
    return candidate, part


def _rate(job: Job, stage: Stage, start: race.Start, part: Part) -> Work:
    """Try rates on the opened part of a stage."""
    settings, begun = _settings(job, stage, start, None), time.perf_counter()
    with torch_threads(job.to.place.threads):
        found = find_rate(
            part.module,
            part.sets.train,
            trainable=part.learning,
            objective=_objective(job, part, settings),
            settings=settings,
            progress=lambda done, total: job.given.say("learning rate", done, total),
        )
    return Work(
        lr_find={"stage": stage.name, **asdict(found)}, seconds_train=time.perf_counter() - begun
    )


def _objective(job: Job, part: Part, settings: FitSettings) -> Any:
    """Return what is minimised, made for the samples of a stage."""
    validation = part.sets.validation
    judged_by = None if validation is None else validation.targets
    made = objective_of(
        job, part.answers, judged_by=judged_by, scratch=settings.scratch,
        shapes=shapes_of(job, part),
    )  # fmt: skip
    if hasattr(made, "begin") and not settings.scratch:
        outputs, targets, more = begun(job, part)
        made.begin(outputs, targets, **more)
    return made


def race_stage(
    job: Job, stage: Stage, known: StageDone, started: float, checkpoint: Path | None
) -> StageDone:
    """Train both starts for a short while on the same batches; the better one goes on."""
    seconds, alone = _seconds_left(job, started), known.work.alone
    part = open_part(job, stage, known.candidate, alone=alone)
    if part.sets.validation is None:
        note = "no race of two starts: there are no samples to judge them by"
        opened = replace(known.worked(part.work + Work(notes=(note,))), start="pretrained")
        return fit_stage(job, stage, opened, started, checkpoint)
    first, second = _leg(job, stage, "pretrained", part, seconds, checkpoint), None
    if first.fitted.stopped != "interrupt":
        anew = Candidate(tensors=drawn(job))
        other = open_part(job, stage, anew, alone=part.work.alone, like=part, scratch=True)
        scale(job, other)
        second = _leg(job, stage, "random", other, seconds, checkpoint, first=first.fitted)
    found = race.Race(first.fitted, None if second is None else second.fitted, judged(job))
    legs = [first] if second is None else [first, second]
    winner, leg = found.winner, legs[race.STARTS.index(found.winner)]
    candidate, improved = known.candidate, winner == "random" or leg.fitted.improved
    if winner == "random":
        candidate = replace(candidate, tensors=drawn(job))
    if improved:
        candidate = _taken(job, leg.part, candidate)
    work = sum((one.work for one in legs), known.work) + Work(notes=(found.note,))
    stopped, best = None, leg.fitted.best
    if any(one.fitted.stopped == "interrupt" for one in legs):
        stopped = "interrupt"
    elif leg.fitted.stopped == "nan":
        stopped = "nan"
    whole = _settings(job, stage, winner, _seconds_left(job, started))
    rest = race.rest(whole, leg.fitted, leg.part.sets.train.n)
    if stopped is None and rest is not None:
        fitted, more = _fit(job, leg.part, rest, checkpoint, start=winner)
        stopped, best, work = fitted.stopped, fitted.best, work + more
        if fitted.improved:
            improved, candidate = True, _taken(job, leg.part, candidate)
    return replace(
        known,
        start=winner,
        fresh=False,
        candidate=candidate,
        work=work,
        without_gain=known.without_gain + (() if improved else (stage.name,)),
        stopped=stopped,
        race=found.as_dict(best),
    )


def _leg(
    job: Job,
    stage: Stage,
    start: race.Start,
    part: Part,
    seconds: float | None,
    checkpoint: Path | None,
    *,
    first: FitResult | None = None,
) -> _Leg:
    """Train one start for its part of the race; `first` is what the other one did."""
    whole = _settings(job, stage, start, None)
    settings = race.short(whole, start, part.sets.train.n, seconds, first)
    folder = None if checkpoint is None else checkpoint / start
    fitted, work = _fit(job, part, settings, folder, start=start)
    return _Leg(part, fitted, part.work + work)


def _taken(job: Job, part: Part, before: Candidate) -> Candidate:
    """Return what is delivered if a trained module's weights are."""
    return Candidate(
        kind="tuned",
        tensors={**before.tensors, **trained_tensors(job, part)},
        cross=before.cross,
        believed=believed(job, part),
        stepped=True,
        adapted={**before.adapted, **learnt(part.module, part.adapters)},
    )


def _settings(job: Job, stage: Stage, start: race.Start, seconds: float | None) -> FitSettings:
    """Return how a stage is trained from one start; `seconds` are left for it."""
    scratch = start == "random"
    return FitSettings(
        stage=stage.name,
        epochs=job.to.training.epochs or stage.epochs,
        budget_seconds=seconds,
        batch=job.to.training.batch,
        lr=asked_rate(job, stage),
        lr_decay=stage.lr_decay,
        depths=first_use(job.operated.anatomy()),
        scratch=scratch,
        precision=job.to.place.precision,  # type: ignore[arg-type]
        device=job.to.place.device,
        seed=job.to.training.seed,
        accumulate=job.to.training.accumulate,
        compile=job.to.training.compile,  # type: ignore[arg-type]
        memory=job.to.training.memory,  # type: ignore[arg-type]
        deterministic=job.to.place.deterministic,
    )


def _seconds_left(job: Job, started: float) -> float | None:
    """Return what is left of the budget: what the frozen part took counts.

    A tenth is kept, so that something is always trained.
    """
    if job.to.training.budget is None:
        return None
    return max(
        job.to.training.budget - (time.perf_counter() - started), 0.1 * job.to.training.budget
    )


def _fit(
    job: Job,
    part: Part,
    settings: FitSettings,
    checkpoint: Path | None,
    *,
    start: race.Start | None = None,
) -> tuple[FitResult, Work]:
    """Train, and say what was done; rows of a race say which start they belong to."""
    begun = time.perf_counter()
    with torch_threads(job.to.place.threads):
        fitted = fit(
            part.module,
            part.sets.train,
            part.sets.validation,
            trainable=part.learning,
            objective=_objective(job, part, settings),
            settings=settings,
            progress=lambda progress: _report(job, progress, start),
            checkpoint=None
            if checkpoint is None
            else Checkpoint(checkpoint, job.to.delivery.resume),
        )
    seconds, stage = time.perf_counter() - begun, settings.stage
    notes, resumed = list(fitted.notes), None
    if fitted.resumed is not None:
        resumed = {"stage": stage, "epoch": fitted.resumed}
        notes.append(
            f"resumed: stage {stage!r} went on after {fitted.resumed} of "
            f"{fitted.planned_epochs} epochs"
        )
    if fitted.stopped == "nan":
        notes.append(
            f"the loss became NaN in stage {stage!r}: training stopped there, the best "
            "weights so far are delivered; a lower --lr may help"
        )
    decision = None if fitted.decision is None else {"stage": stage, **fitted.decision}
    return fitted, Work(
        history=tuple(_told(job, row, start) for row in fitted.history),
        decisions=() if decision is None else (decision,),
        resumed=resumed,
        compiled=fitted.compiled,
        peak_memory=fitted.peak_memory,
        samples_seen=fitted.samples,
        seconds_train=seconds,
        notes=tuple(notes),
    )


def _told(job: Job, row: Row, start: race.Start | None) -> dict[str, Any]:
    """Return a row of the document: there the quality has its name."""
    names = {"validation_quality": f"validation_{judged(job)}"}
    told = {names.get(key, key): value for key, value in row.items()}
    return told | ({"start": start} if start else {})


def _report(job: Job, progress: Progress, start: race.Start | None) -> None:
    row = progress.row or {}
    job.given.say(
        progress.stage,
        progress.share,
        1.0,
        epoch=progress.epoch,
        step=progress.step,
        loss=row.get("loss", progress.loss),
        validation_loss=row.get("validation_loss"),
        quality=row.get("validation_quality"),
        judged=judged(job),
        lr=progress.lr,
        seconds=progress.seconds,
        seconds_left=progress.seconds_left,
        throughput=progress.samples_per_second,
        row=_told(job, row, start) if row else None,
    )
