"""The stages of training, in order: the head solved on features, everything tuned, the guard."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surgeon.errors import DataError, UsageError
from surgeon.graph.apart import doubtful_nodes
from surgeon.graph.files import sha256_model
from surgeon.graph.weights import tuned_names, write_back
from surgeon.job.done import Believed, Candidate, StageDone, Trained, Work
from surgeon.job.measure import decode, open_runner, outputs_at_once, score
from surgeon.job.part import drawn
from surgeon.job.run import Run, head_weights, stage_names, torch_device
from surgeon.job.solve import open_head, solve_head
from surgeon.job.tuning import fit_stage, race_stage
from surgeon.probe import guard
from surgeon.records import SOLVE_HEAD, TRAIN_ALL, Stage
from surgeon.runtime import neighbours
from surgeon.runtime.places import choose_device
from surgeon.tasks.base import Targets

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from surgeon.job.done import SolvedHead


def train(run: Run) -> Trained:
    """Run the plan's stages in order; each starts from what the one before it gave.

    The solved head on the weights as they came, the probe, is always a candidate: what is tuned
    further is delivered only if it is better on validation.
    """
    plan = run.patient.plan
    assert plan is not None
    device = torch_device(run)  # one that is missing is refused now, not behind the frozen part
    started = time.perf_counter()
    stages = _stages(run)
    only_solved = all(stage.method == "solve" for stage in stages)
    done = StageDone("pretrained" if run.patient.tuned else plan.init)
    if not only_solved:
        done = done.worked(_examine_neighbours(run))
    if stages[0].method != "solve" and plan.head.solves and not run.drawn:
        done = _candidate(run, done)
    for number, stage in enumerate(stages):
        if stage.method == "solve":
            done = _solve_stage(run, stage, done, refit=only_solved and not run.parts.given)
            continue
        tune = race_stage if done.start == "race" else fit_stage
        done = tune(run, stage, done, started, _checkpoint(run, number))
        if done.stopped in ("nan", "interrupt", "budget"):
            break
    # Who asks for random weights by name gets them, and is told what they cost.
    asked = plan.init == "random" and not run.patient.tuned
    if asked and not done.candidate.stepped:  # what was drawn has led nowhere
        done = replace(done, candidate=Candidate(tensors={} if run.drawn else drawn(run)))
    chosen, compared, work = _choose(run, done, asked=asked)
    work = done.work + work
    notes = [
        f"stage {name!r} did not improve on what it started from; the {chosen.kind} is delivered"
        for name in done.without_gain
    ]
    notes += _places(run, device, work.providers)
    notes += _without_effect(run, device) if only_solved else []
    moving = set(tuned_names(run.patient.proto, run.patient.trainable))
    return Trained(
        delivered=chosen,
        work=work + Work(notes=tuple(notes)),
        device=str(device),
        statistics=tuple(sorted(moving - set(run.patient.trainable))),
        stopped=done.stopped,
        guard=None if compared is None else compared.as_dict(),
        race=done.race,
    )


def _candidate(run: Run, known: StageDone) -> StageDone:
    """Solve the head as a candidate only: the stages start from what the plan says."""
    work = Work()
    try:
        read = open_head(run, known)
        work = read.work
        probe, solving = solve_head(run, "probe", read)
    except DataError as error:
        note = f"there is no probe to compare with: {error.message}"
        return known.worked(work + Work(notes=(note,)))
    return replace(known.worked(work + solving), probe=probe)


def _solve_stage(run: Run, stage: Stage, known: StageDone, *, refit: bool) -> StageDone:
    """Solve the head and go on from there.

    A head that is all that is trained is fitted to the validation samples, too (`refit`), unless
    they are the data's own: they were taken from what could be trained on, and nothing is compared
    with it on them.
    """
    read = open_head(run, known)
    solved, solving = solve_head(run, stage.name, read, refit=refit)
    before, found = known.candidate, solved.candidate
    whole = before.stepped or set(run.patient.trainable) <= set(found.tensors)
    candidate = replace(
        found,
        kind="tuned" if whole else "probe",
        tensors={**before.tensors, **found.tensors},
        stepped=before.stepped,
    )
    probe = known.probe or solved
    return replace(known.worked(read.work + solving), candidate=candidate, probe=probe)


def _choose(
    run: Run, done: StageDone, *, asked: bool
) -> tuple[Candidate, guard.Comparison | None, Work]:
    """Choose the probe if what was tuned is not better than it on the validation samples.

    Args:
        run: what was trained on what.
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
    tuned = write_back(run.patient.proto, candidate.tensors, partial=True)
    runner = open_runner(run, tuned, alone=done.work.alone)
    predicted = outputs_at_once(runner, probe.rows)
    said = tuple(runner.notes)
    if predicted is None:
        return candidate, None, Work(notes=said)
    logits, rows = predicted
    compared = _compared(run, probe, logits, rows)
    if not compared.better and not asked:
        return probe.candidate, compared, Work(notes=(*said, compared.note))
    believed = Believed.of(rows, logits, run.patient.bound, by_runtime=True)
    candidate = replace(
        candidate,
        scores={"validation": score(run, [(logits, rows)])},
        believed=(*candidate.believed, believed),
    )
    warning = () if compared.better else (compared.warning,)
    return candidate, compared, Work(notes=(*said, *warning))


def _compared(
    run: Run, probe: SolvedHead, logits: NDArray[Any], rows: NDArray[np.int64]
) -> guard.Comparison:
    """Compare a network with the probe by its outputs for some of the probe's samples."""
    known = np.searchsorted(probe.rows, rows)
    before, after = (
        run.task.score([(decode(run, outputs), Targets(run.codes[rows]))])
        for outputs in (probe.logits[known], logits)
    )
    return guard.compare(before, after, run.task.quality, expected=run.expected)


def _examine_neighbours(run: Run) -> Work:
    """Find out whether the whole network mixes the samples of a batch: each then passes alone.

    Raises:
        CheckError: it does, and takes no sample alone.
    """
    proto, shapes = run.patient.proto, run.patient.anatomy().shapes
    nodes = doubtful_nodes(proto, shapes)
    if not nodes:
        return Work()
    runner = open_runner(run, proto, alone=False)
    _, found = neighbours.examine(runner, run.parts.train, doubtful=True)
    if found is None:
        return Work()
    if runner.fixed_batch:
        raise found.error()
    note = f"{found.said}: it is trained one sample at a time, which takes longer"
    return Work(alone=True, notes=(note,))


def _without_effect(run: Run, device: torch.device) -> list[str]:
    """Return a note on options of training by steps, where there were none."""
    given = {
        # On a GPU the frozen part computes in it.
        f"--precision {run.precision}": run.precision != "float32" and device.type == "cpu",
        f"--memory {run.memory}": run.memory != "normal",
        "--compile on": run.compile == "on",
        f"--accumulate {run.accumulate}": run.accumulate > 1,
    }
    names = [name for name, is_given in given.items() if is_given]
    return [f"no effect of {', '.join(names)}: only the head was solved"] if names else []


def _places(run: Run, device: torch.device, providers: Sequence[str]) -> list[str]:
    """Return notes on what ran where, if torch and ONNX Runtime did not both use the GPU."""
    notes = []
    if device.type == "cpu" and choose_device(run.device).kind == "cuda":
        why = "cannot use it" if torch.version.cuda else "is built for CPUs only"
        notes.append(
            f"this machine has a CUDA device, but torch {torch.__version__} {why}: "
            "training ran on the CPU"
        )
    front = "cuda" if any("cuda" in name.lower() for name in providers) else "cpu"
    if providers and front != device.type:
        notes.append(f"the frozen part ran on {front} ({providers[0]}), training on {device}")
    return notes


def _checkpoint(run: Run, number: int) -> Path | None:
    """Return where a stage keeps its checkpoint: a folder named by what the run is a function of.

    Raises:
        UsageError: going on was asked for, and what is there belongs to other data or weights.
    """
    if run.checkpoint is None:
        return None
    weights = sha256_model(run.patient.proto)
    digest = hashlib.sha256(f"{weights} {run.samples.sha256} {run.augment}".encode())
    folder = run.checkpoint / f"stage-{number}-{digest.hexdigest()[:16]}"
    others = run.checkpoint.is_dir() and any(one.is_dir() for one in run.checkpoint.iterdir())
    if run.resume and number == _first_fit(run) and others and not folder.is_dir():
        raise UsageError(
            "the checkpoint is of another run: its data or the weights it began with differ",
            where=str(run.checkpoint),
            remedy="give the same model and data as before, or start again without --resume",
        )
    return folder


def _first_fit(run: Run) -> int:
    return next(i for i, stage in enumerate(_stages(run)) if stage.method != "solve")


def _stages(run: Run) -> tuple[Stage, ...]:
    plan = run.patient.plan
    assert plan is not None
    stages: tuple[Stage, ...] = plan.stages
    if not stages:
        only_head = set(run.patient.trainable) <= set(head_weights(run))
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
        stage_names(run, stage)
    return stages
