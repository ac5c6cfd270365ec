"""The stages of training, in order: the head solved on features, everything tuned, the guard."""

from __future__ import annotations

import hashlib
import itertools
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surgeon.errors import DataError, UsageError
from surgeon.extras import installed
from surgeon.graph.apart import doubtful_nodes
from surgeon.graph.files import sha256_model
from surgeon.graph.weights import tuned_names, write_back
from surgeon.job.done import Believed, Candidate, StageDone, Trained, Work
from surgeon.job.kept import require_keepable
from surgeon.job.measure import (
    SPOT,
    answers,
    as_they_come,
    calibrate,
    calibrated,
    decode,
    metrics_of,
    open_runner,
    outputs_at_once,
    outputs_of,
    require_places,
    score,
)
from surgeon.job.part import drawn
from surgeon.job.run import Job, head_weights, stage_names, torch_device
from surgeon.job.solve import open_head, solve_head
from surgeon.job.tuning import fit_stage, race_stage, rate_for
from surgeon.probe import guard
from surgeon.records import SOLVE_HEAD, TRAIN_ALL, Stage
from surgeon.runtime import neighbours

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from surgeon.job.done import SolvedHead
    from surgeon.job.measure import Told
    from surgeon.runtime.stream import Runner


def train(job: Job) -> Trained:
    """Run the plan's stages in order; each starts from what the one before it gave.

    The solved head on the weights as they came, the probe, is always a candidate: what is tuned
    further is delivered only if it is better on validation.
    """
    plan = job.plan
    device = torch_device(job)  # one that is missing is refused now, not behind the frozen part
    started = time.perf_counter()
    require_places(job)
    beside = job.beside  # what makes it and fails is said before anything is solved
    require_keepable(job)
    stages = stages_of(job)
    only_solved = all(stage.method == "solve" for stage in stages)
    done = StageDone("pretrained" if job.operated.tuned else plan.init)
    if not only_solved:
        done = done.worked(_examine_neighbours(job))
    if stages[0].method != "solve" and _probes(job):
        done = _candidate(job, done)
        # Steps on a loss that people named, or that compares directions, go on from what is found
        # without steps: from a head that is drawn, few epochs do not come as far.
        fresh = not job.operated.tuned and stages[0].trains == "head"
        named = plan.loss is not None or job.task.link == "discriminant"
        if fresh and named and done.probe is not None:
            found = done.probe.candidate
            done = replace(done, candidate=Candidate(tensors=found.tensors))
    for number, stage in enumerate(stages):
        if stage.method == "solve":
            done = _solve_stage(job, stage, done, refit=only_solved and not job.given.parts.given)
            continue
        tune = race_stage if done.start == "race" else fit_stage
        done = tune(job, stage, done, started, _checkpoint(job, number))
        if done.stopped in ("nan", "interrupt", "budget"):
            break
    # Who asks for random weights by name gets them, and is told what they cost.
    asked = plan.init == "random" and not job.operated.tuned
    if asked and not done.candidate.stepped:  # what was drawn has led nowhere
        done = replace(done, candidate=Candidate(tensors={} if job.drawn else drawn(job)))
    chosen, compared, work = _choose(job, done, asked=asked)
    work = done.work + work
    notes = [
        f"stage {name!r} did not improve on what it started from; the {chosen.kind} is delivered"
        for name in done.without_gain
    ]
    notes += _places(job, device, work.providers)
    varied = not only_solved and beside is None
    notes += _without_effect(job, device) if only_solved else _unvaried(job) if varied else []
    moving = set(tuned_names(job.operated.proto, job.operated.trainable))
    return Trained(
        delivered=chosen,
        work=work + Work(notes=tuple(notes)),
        device=str(device),
        statistics=tuple(sorted(moving - set(job.operated.trainable))),
        stopped=done.stopped,
        guard=None if compared is None else compared.as_dict(),
        race=done.race,
    )


def _probes(job: Job) -> bool:
    """Say whether a solved head is a candidate: it trains, and the weights are as they came."""
    trains = set(head_weights(job)) <= set(job.operated.trainable)
    return trains and job.plan.head.solves and not job.drawn


def look_ahead(job: Job) -> Work:
    """Find what is found before training, without training: the rate, where it is asked for.

    What the stage by steps would begin with is solved for it.
    """
    if not job.to.training.lr_find:
        return Work()
    done = StageDone("pretrained" if job.operated.tuned else job.plan.init)
    for stage in stages_of(job):
        if stage.method != "solve":
            return rate_for(job, stage, done.worked(_examine_neighbours(job)))
        done = _solve_stage(job, stage, done, refit=False)
    return Work(notes=tuple(_without_effect(job, torch_device(job))))


def _candidate(job: Job, known: StageDone) -> StageDone:
    """Solve the head as a candidate only: the stages start from what the plan says."""
    work = Work()
    try:
        read = open_head(job, known)
        work = read.work
        probe, solving = solve_head(job, "probe", read)
    except DataError as error:
        note = f"there is no probe to compare with: {error.message}"
        return known.worked(work + Work(notes=(note,)))
    return replace(known.worked(work + solving), probe=probe)


def _solve_stage(job: Job, stage: Stage, known: StageDone, *, refit: bool) -> StageDone:
    """Solve the head and go on from there.

    A head that is all that is trained is fitted to the validation samples, too (`refit`), unless
    they are the data's own: they were taken from what could be trained on, and nothing is compared
    with it on them.
    """
    read = open_head(job, known)
    solved, solving = solve_head(job, stage.name, read, refit=refit)
    before, found = known.candidate, solved.candidate
    whole = before.stepped or set(job.operated.trainable) <= set(found.tensors)
    candidate = replace(
        found,
        kind="tuned" if whole else "probe",
        tensors={**before.tensors, **found.tensors},
        stepped=before.stepped,
        adapted=before.adapted,
    )
    probe = known.probe or solved
    return replace(known.worked(read.work + solving), candidate=candidate, probe=probe)


def _choose(
    job: Job, done: StageDone, *, asked: bool
) -> tuple[Candidate, guard.Comparison | None, Work]:
    """Choose the probe if what was tuned is not better than it on the validation samples.

    Args:
        job: what was trained on what.
        done: the stages.
        asked: whether these weights were asked for by name, and are delivered all the same.

    Returns:
        What is delivered, how both compare if they were, and the work of comparing.
    """
    candidate, probe = done.candidate, done.probe
    if probe is None:
        return candidate, None, Work()
    if not candidate.stepped and not asked:
        return (probe.candidate if candidate.kind == "start" else candidate), None, Work()
    if not len(probe.rows):
        return candidate, None, Work()
    tuned = write_back(job.operated.proto, candidate.tensors, partial=True)
    runner = open_runner(job, tuned, alone=done.work.alone)
    again = _Again(job, runner, probe)
    compared, metrics = again.compared()
    said = tuple(runner.notes)
    if compared is None:
        return candidate, None, Work(notes=said)
    if not compared.better and not asked:
        return probe.candidate, compared, Work(notes=(*said, compared.note))
    logits, rows = (np.concatenate(each) for each in zip(*again.kept, strict=True))
    believed = Believed.of(rows, logits, job.operated.bound, by_runtime=True)
    stored, more = calibrate(job, answers(job, [(logits, rows)]))
    if not as_they_come(job):
        metrics = score(calibrated(job, stored), [(logits, rows)])
    candidate = replace(
        candidate,
        scores={"validation": metrics},
        believed=(*candidate.believed, believed),
        stored=stored,
    )
    warning = () if compared.better else (compared.warning,)
    return candidate, compared, Work(notes=(*said, *more, *warning))


@dataclass
class _Again:
    """What a network gives for the probe's samples: all of it, or the first few are kept."""

    job: Job
    runner: Runner
    probe: SolvedHead
    kept: list[tuple[NDArray[Any], NDArray[np.int64]]] = field(default_factory=list)
    seen: list[NDArray[np.int64]] = field(default_factory=list)

    def compared(self) -> tuple[guard.Comparison | None, dict[str, Any] | None]:
        """Compare it with the probe; None where no sample could be read. And its metrics."""
        job, told = self.job, self._told()
        first = next(told, None)
        if first is None:
            return None, None
        after = job.task.score(itertools.chain([first], told))
        before = job.task.score(
            (
                decode(job, self.probe.logits(np.searchsorted(self.probe.rows, rows))),
                job.given.targets[rows],
            )
            for rows in self.seen
        )
        compared = guard.compare(before, after, job.task.quality, expected=job.expected)
        return compared, metrics_of(after)

    def _told(self) -> Iterator[Told]:
        some = as_they_come(self.job)
        parts = outputs_of(self.runner, self.probe.rows)
        if not some:
            found = outputs_at_once(self.runner, self.probe.rows)
            parts = iter(() if found is None else (found,))
        for logits, rows in parts:
            self.seen.append(rows)
            if not some or sum(map(len, self.seen[:-1])) < SPOT:
                self.kept.append((logits, rows))
            yield decode(self.job, logits), self.job.given.targets[rows]


def _examine_neighbours(job: Job) -> Work:
    """Find out whether the whole network mixes the samples of a batch: each then passes alone.

    Raises:
        CheckError: it does, and takes no sample alone.
    """
    proto, shapes = job.operated.proto, job.operated.anatomy().shapes
    nodes = doubtful_nodes(proto, shapes)
    if not nodes:
        return Work()
    runner = open_runner(job, proto, alone=False)
    _, found = neighbours.examine(runner, job.given.parts.train, doubtful=True)
    if found is None:
        return Work()
    if runner.fixed_batch:
        raise found.error()
    note = f"{found.said}: it is trained one sample at a time, which takes longer"
    return Work(alone=True, notes=(note,))


def _without_effect(job: Job, device: torch.device) -> list[str]:
    """Return a note on options of training by steps, where there were none."""
    given = {
        # On a GPU the frozen part computes in it.
        f"--precision {job.to.place.precision}": job.to.place.precision != "float32"
        and device.type == "cpu",
        f"--memory {job.to.training.memory}": job.to.training.memory != "normal",
        "--compile on": job.to.training.compile == "on",
        "--lr-find": job.to.training.lr_find,
        f"--accumulate {job.to.training.accumulate}": job.to.training.accumulate > 1,
    }
    names = [name for name, is_given in given.items() if is_given]
    return [f"no effect of {', '.join(names)}: only the head was solved"] if names else []


def _unvaried(job: Job) -> list[str]:
    """Return a note where pictures are trained on as they are, as what varies them is missing."""
    if job.to.training.augment != "auto" or not job.given.samples.is_images or installed("kornia"):
        return []
    return ["pictures are not varied in training: that needs pip install 'onnx-surgeon[augment]'"]


def _places(job: Job, device: torch.device, providers: Sequence[str]) -> list[str]:
    """Return notes on what ran where, if torch and ONNX Runtime did not both use the GPU."""
    notes = []
    if device.type == "cpu" and job.given.device.kind == "cuda":
        why = "cannot use it" if torch.version.cuda else "is built for CPUs only"
        notes.append(
            f"this machine has a CUDA device, but torch {torch.__version__} {why}: "
            "training ran on the CPU"
        )
    front = "cuda" if any("cuda" in name.lower() for name in providers) else "cpu"
    if providers and front != device.type:
        notes.append(f"the frozen part ran on {front} ({providers[0]}), training on {device}")
    return notes


def _checkpoint(job: Job, number: int) -> Path | None:
    """Return where a stage keeps its checkpoint: a folder named by what the run is a function of.

    Raises:
        UsageError: going on was asked for, and what is there belongs to other data or weights.
    """
    if job.checkpoint is None:
        return None
    weights = sha256_model(job.operated.proto)
    beside = "" if job.beside is None else f" {job.beside.digest}"
    digest = hashlib.sha256(
        f"{weights} {job.given.samples.sha256} {job.to.training.augment}{beside}".encode()
    )
    folder = job.checkpoint / f"stage-{number}-{digest.hexdigest()[:16]}"
    others = job.checkpoint.is_dir() and any(one.is_dir() for one in job.checkpoint.iterdir())
    if job.to.delivery.resume and number == _first_fit(job) and others and not folder.is_dir():
        raise UsageError(
            "the checkpoint is of another run: its data or the weights it began with differ",
            where=str(job.checkpoint),
            remedy="give the same model and data as before, or start again without --resume",
        )
    return folder


def _first_fit(job: Job) -> int:
    return next(i for i, stage in enumerate(stages_of(job)) if stage.method != "solve")


def stages_of(job: Job) -> tuple[Stage, ...]:
    """Return the stages in order, those of the plan if they can be meant.

    Raises:
        UsageError: they cannot.
    """
    plan = job.plan
    stages: tuple[Stage, ...] = plan.stages
    if not stages:
        only_head = set(job.operated.trainable) <= set(head_weights(job))
        stages = (SOLVE_HEAD,) if only_head else (SOLVE_HEAD, TRAIN_ALL)
    for stage in stages:
        if stage.method not in ("solve", "adamw"):
            raise UsageError(
                f"stage {stage.name!r} has the method {stage.method!r}",
                where=f"case {plan.case!r}",
                remedy="`solve` or `adamw`",
            )
        if stage.method == "solve" and stage.trains != "head":
            raise UsageError(
                f"stage {stage.name!r} solves for {stage.trains!r}",
                where=f"case {plan.case!r}",
                remedy="only the head is a convex problem; train the rest by `adamw`",
            )
        stage_names(job, stage)
    racing = plan.init == "race" and not job.operated.tuned
    if job.to.training.lr_find and (racing or job.to.training.lr is not None):
        raise UsageError(
            "a rate is looked for, and "
            + ("two starts race, each with its own" if racing else "--lr gives one"),
            where="--lr-find",
            remedy="--init pretrained or --init random" if racing else "give one of them",
        )
    return stages
