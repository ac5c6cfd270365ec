"""The stages of training, in order: the head solved on features, everything tuned, the guard."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from surgeon.errors import DataError, UsageError
from surgeon.graph.apart import doubtful_nodes
from surgeon.graph.files import sha256_model
from surgeon.graph.weights import tuned_names
from surgeon.job.proving import predict_part
from surgeon.job.run import (
    Believed,
    Run,
    Trained,
    head_names,
    runtime_device,
    stage_names,
    torch_device,
    with_tensors,
)
from surgeon.job.solve import solve_head
from surgeon.job.tuning import drawn, fit_stage, race_stage
from surgeon.probe import guard
from surgeon.records import SOLVE_HEAD, TRAIN_ALL, Init, Stage
from surgeon.runtime import neighbours
from surgeon.runtime.metrics import score, softmax
from surgeon.runtime.places import choose_device
from surgeon.runtime.stream import Runner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def train(run: Run) -> Trained:
    """Run the plan's stages in order; each starts from what the one before it gave.

    The solved head on the weights as they came, the probe, is always a candidate: what is tuned
    further is delivered only if it is better on validation.
    """
    plan = run.patient.plan
    assert plan is not None
    device = torch_device(run)  # one that is missing is refused now, not behind the frozen part
    result = Trained(device=str(device))
    started = time.perf_counter()
    stages = _stages(run)
    start: Init = "pretrained" if run.patient.tuned else plan.init
    fresh, vain = True, []
    if any(stage.method != "solve" for stage in stages):
        _examine_neighbours(run, result)
    if stages[0].method != "solve" and not run.drawn:
        _probe_aside(run, result)
    for number, stage in enumerate(stages):
        if stage.method == "solve":
            _solve_stage(run, stage, result)
            continue
        folder = _checkpoint(run, number)
        if start == "race":
            start, improved = race_stage(run, stage, result, started, folder)
        else:
            improved = fit_stage(run, stage, result, started, folder, start=start, fresh=fresh)
        if not improved:
            vain.append(stage.name)
        fresh = False
        if result.stopped in ("nan", "interrupt", "budget"):
            break
    # Who asks for random weights by name gets them, and is told what they cost.
    asked = plan.init == "random" and not run.patient.tuned
    if asked and not result.stepped:  # what was drawn has led nowhere
        result.tensors = {} if run.drawn else drawn(run)
        result.delivered, result.scores, result.cross = "start", {}, None
        result.believed = []
    _guard(run, result, asked=asked)
    result.notes += [
        f"stage {name!r} did not improve on what it started from; "
        f"the {result.delivered} is delivered"
        for name in vain
    ]
    moving = set(tuned_names(run.patient.proto, run.patient.trainable))
    result.statistics = sorted(moving - set(run.patient.trainable))
    result.notes += _places(run, device, result.providers)
    if all(stage.method == "solve" for stage in stages):
        result.notes += _in_vain(run, device)
    return result


def _examine_neighbours(run: Run, result: Trained) -> None:
    """Find out whether the whole network mixes the samples of a batch: each then passes alone.

    Raises:
        CheckError: it does, and takes no sample alone.
    """
    proto, shapes = run.patient.proto, run.patient.anatomy().shapes
    nodes = doubtful_nodes(proto, shapes)
    if not nodes:
        return
    runner = Runner(
        proto,
        run.samples,
        outputs=[proto.graph.output[0].name],
        device=runtime_device(run),
        threads=run.threads,
    )
    _, found = neighbours.examine(runner, run.parts.train, doubtful=True)
    if found is None:
        return
    if runner.fixed_batch:
        raise found.error()
    result.alone = True
    result.notes.append(f"{found.said}: it is trained one sample at a time, which takes longer")


def _in_vain(run: Run, device: torch.device) -> list[str]:
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
        only_head = set(run.patient.trainable) <= set(head_names(run.patient.proto))
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


def _solve_stage(run: Run, stage: Stage, result: Trained) -> None:
    """Solve the head and go on from there.

    A head that is all that is trained is fitted to the validation samples, too, unless they are the
    data's own: they were taken from what could be trained on.
    """
    # Nothing is compared with it on the validation samples where it is all that is trained.
    alone = all(one.method == "solve" for one in _stages(run))
    solved = solve_head(run, stage, result, refit=alone and not run.parts.given)
    result.probe = result.probe or solved
    result.tensors |= solved.tensors
    result.scores, result.cross = solved.scores, solved.cross
    only_head = set(run.patient.trainable) <= set(solved.tensors)
    result.delivered = "tuned" if only_head or result.stepped else "probe"
    result.believed = [solved.believed]


def _probe_aside(run: Run, result: Trained) -> None:
    """Solve the head as a candidate only: the stages start from what the plan says."""
    try:
        result.probe = solve_head(run, replace(SOLVE_HEAD, name="probe"), result)
    except DataError as error:
        result.notes.append(f"there is no probe to compare with: {error.message}")


def _guard(run: Run, result: Trained, *, asked: bool) -> None:
    """Deliver the probe if what was tuned is not better than it on the validation samples."""
    probe = result.probe
    if probe is None or ((result.stepped or asked) and not len(probe.rows)):
        return
    if result.stepped or asked:
        tuned = with_tensors(run.patient.proto, result.tensors)
        output = tuned.graph.output[0].name
        predicted = predict_part(run, tuned, probe.rows, result, output=output)
        if predicted is None:
            return
        logits, rows = predicted
        probabilities = softmax(logits)
        known = np.searchsorted(probe.rows, rows)
        compared = guard.compare(
            probe.probabilities[known],
            probabilities,
            run.codes[rows],
            expected=run.expected,
        )
        result.guard = compared.as_dict()
        if compared.better or asked:
            result.scores = {"validation": score(probabilities, run.codes[rows])}
            result.believed.append(Believed.of(rows, logits, run.patient.bound, by_runtime=True))
            if not compared.better:
                result.notes.append(compared.warning)
            return
        result.notes.append(compared.note)
    elif result.delivered != "start":
        return
    result.tensors, result.delivered = dict(probe.tensors), "probe"
    result.scores, result.cross = probe.scores, probe.cross
    result.believed = [probe.believed]
