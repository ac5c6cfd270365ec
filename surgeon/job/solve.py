"""The head solved to its optimum on the features of the frozen part: the probe.

What must not enter: training by steps, and whether the probe is delivered.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surgeon.errors import UnsupportedError
from surgeon.graph.frontier import split as split_graph
from surgeon.graph.weights import write_back
from surgeon.job.done import Candidate, SolvedHead, StageDone, Work
from surgeon.job.frozen import (
    features_of,
    frozen_work,
    require_finite,
    rows_of,
    slack_of,
    view_features,
)
from surgeon.job.measure import score
from surgeon.job.run import Job, head_input, head_weights, torch_device
from surgeon.probe import discriminant
from surgeon.probe.solver import HeadSolution, solve
from surgeon.tasks.metrics import score_told
from surgeon.train.device import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from surgeon.graph.frontier import Frontier
    from surgeon.probe.discriminant import Moments
    from surgeon.runtime.features import Features

    Rows = Mapping[str, NDArray[np.int64]]

_AT_ONCE = 2**22
"""Logits computed at once."""


@dataclass(frozen=True)
class HeadFeatures:
    """What the new head reads of the samples, and the work of computing it."""

    name: str
    front: Frontier
    features: Features
    work: Work


@dataclass(frozen=True)
class _Fitted:
    """Rows that a head is solved on.

    Attributes:
        values: [rows, d].
        sample: of each row; the samples themselves stand in front of their views.
        held: rows of validation samples, or None where none is among them.
        work: of making views.
    """

    values: NDArray[Any]
    sample: NDArray[np.int64]
    held: NDArray[np.bool_] | None
    work: Work = field(default_factory=Work)


def open_head(job: Job, known: StageDone) -> HeadFeatures:
    """Compute what the head reads, once per sample, behind the weights as they are known.

    Raises:
        UnsupportedError: samples cannot be told apart in them, so that they are not kept.
    """
    current = write_back(job.operated.proto, known.candidate.tensors, partial=True)
    front = split_graph(current, head_weights(job), job.operated.anatomy().shapes)
    begun = time.perf_counter()
    features = features_of(job, front)
    seconds = time.perf_counter() - begun
    work = frozen_work(front, features, alone=known.work.alone, seconds=seconds)
    name = head_input(job)
    if [tensor.name for tensor in front.tensors] != [name]:
        raise UnsupportedError(
            "the features of the new head cannot be divided into samples",
            where=f"tensor {name!r}",
            remedy="choose another cut (`surgeon cuts` lists them)",
        )
    return HeadFeatures(name, front, features, work)


def solve_head(
    job: Job, stage: str, read: HeadFeatures, *, refit: bool = False
) -> tuple[SolvedHead, Work]:
    """Solve the head on its features to its optimum.

    With `refit` it is fitted to training and validation samples together, at the penalty that the
    training samples choose; of validation samples each is then judged by a head that has not seen
    it.

    Returns:
        The head, and the work without that of computing the features.
    """
    begun = time.perf_counter()
    features = read.features
    parts = rows_of(job, features)
    values = features.array(read.name)
    values = values.reshape(len(values), -1)
    require_finite(job, features, values, read.name)
    fitted = _fitted(job, read, values, parts, refit=refit)
    solution, notes = _solved(job, fitted)
    scores, cross = _scores(job, features, values, parts, solution, refit=refit)
    seconds = time.perf_counter() - begun - fitted.work.seconds_features
    row = _row(job, stage, solution, scores, seconds)
    tensors = dict(zip(head_weights(job), (solution.weight, solution.bias), strict=True))
    order = parts["validation"][np.argsort(features.rows[parts["validation"]])]
    candidate = Candidate("probe", tensors, scores, cross)
    solved = SolvedHead(
        candidate, features.rows[order], values[order], solution.weight, solution.bias
    )
    believed = solved.believed(slack_of(job, read.front, features))
    solved = replace(solved, candidate=replace(candidate, believed=(believed,)))
    return solved, fitted.work + Work(
        history=(row,), samples_seen=len(fitted.sample), seconds_train=seconds, notes=notes
    )


def _fitted(
    job: Job, read: HeadFeatures, values: NDArray[Any], parts: Rows, *, refit: bool
) -> _Fitted:
    """Return the rows to solve on: training samples, with `refit` validation samples, and views."""
    rows = np.concatenate([parts["train"], *([parts["validation"]] if refit else [])])
    chosen, sample = values[rows], read.features.rows[rows]
    work = Work()
    if job.to.training.views > 1:
        begun = time.perf_counter()
        more, of, told = view_features(job, read.front, sample)
        chosen, sample = np.concatenate([chosen, more]), np.concatenate([sample, of])
        seconds = time.perf_counter() - begun
        work = Work(frontier={**read.work.frontier, "views": told}, seconds_features=seconds)
    held = np.isin(sample, read.features.rows[parts["validation"]]) if refit else None
    return _Fitted(chosen, sample, held, work)


def _row(
    job: Job, stage: str, solution: HeadSolution, scores: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """Return the row of the history."""
    validation = scores["validation"] or {}
    return {
        "stage": stage,
        "epoch": 1,
        "step": solution.iterations,
        "loss": scores["train"]["loss"],
        "validation_loss": validation.get("loss"),
        f"validation_{job.task.quality}": validation.get(job.task.quality),
        "lr": None,
        "seconds": seconds,
        "regularisation": solution.regularisation,
        "converged": solution.converged,
    }


def _scores(
    job: Job,
    features: Features,
    values: NDArray[Any],
    parts: Rows,
    solution: HeadSolution,
    *,
    refit: bool,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return metrics by part, and the cross-validated ones of the training samples."""
    samples = {part: features.rows[rows] for part, rows in parts.items()}
    codes = {part: job.given.targets.values[rows] for part, rows in samples.items()}
    scores = {
        part: score(job, _outputs(values[parts[part]], samples[part], solution))
        for part in ("validation", "test", "train")
    }
    # Of what was fitted to, the samples themselves stand in front of their views.
    trained, judged = len(parts["train"]), len(parts["validation"])
    cross = _outside(solution, slice(0, trained), codes["train"])
    cross = cross and cross | {"folds": solution.folds}
    if refit and judged:
        seen = slice(trained, trained + judged)
        scores["validation"] = _outside(solution, seen, codes["validation"])
    return scores, cross


def _outputs(
    features: NDArray[Any], samples: NDArray[np.int64], solution: HeadSolution
) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
    """Give the solved head's outputs beside the samples they are of, some at a time."""
    at_once = max(1, _AT_ONCE // len(solution.bias))
    for first in range(0, len(samples), at_once):
        rows = slice(first, first + at_once)
        yield features[rows] @ solution.weight.T + solution.bias, samples[rows]


def _outside(
    solution: HeadSolution, rows: slice, codes: NDArray[np.int64]
) -> dict[str, Any] | None:
    """Return the metrics of heads that have not seen the samples; None where there were none."""
    predicted = solution.out_of_fold[rows]
    if not len(predicted) or (predicted < 0).any():
        return None
    told = np.exp(-solution.out_of_fold_loss[rows])
    return score_told(predicted, told, codes) | {"method": "cross-validated"}


def _solved(job: Job, fitted: _Fitted) -> tuple[HeadSolution, tuple[str, ...]]:
    """Solve the head on rows of features; on the CPU where they do not fit into a GPU's memory.

    Where old classes are known by statistics it is the linear discriminant.
    """
    if job.extended is not None and job.extended.known is not None:
        return _beside(job, fitted, job.extended.known), ()
    solved = functools.partial(
        solve,
        fitted.values,
        job.given.targets.values[fitted.sample],
        job.outputs,
        views_of=fitted.sample if job.to.training.views > 1 else None,
        groups=job.given.parts.groups_of(fitted.sample),
        held=fitted.held,
        seed=job.to.training.seed,
        threads=job.to.place.threads,
        progress=lambda done, total: job.given.say("solving the head", done, total),
    )
    device = torch_device(job)
    try:
        return solved(device=device), ()
    except Exception as error:
        if device.type == "cpu" or not is_out_of_memory(error):
            raise
    # Here, and not above: the error's frames hold what was in that memory.
    torch.cuda.empty_cache()
    note = "the head did not fit into the GPU's memory: solved on the CPU"
    return solved(device="cpu"), (note,)


def _beside(job: Job, fitted: _Fitted, known: Moments) -> HeadSolution:
    """Return the discriminant of classes that are known by moments and those of the rows."""
    codes = job.given.targets.values[fitted.sample]
    groups = job.given.parts.groups_of(fitted.sample)
    found = discriminant.fit(known, fitted.values, codes, seed=job.to.training.seed, groups=groups)
    above = found.outside - found.outside.max(axis=1, keepdims=True)
    told = above[np.arange(len(codes)), codes] - np.log(np.exp(above).sum(axis=1))
    return HeadSolution(
        weight=found.weight, bias=found.bias, regularisation=discriminant.SHRINKAGE, grid=(),
        cv_quality=(), cv_quality_error=(), cv_loss=(), cv_loss_error=(),
        out_of_fold=found.outside.argmax(axis=1), out_of_fold_loss=-told,
        folds=discriminant.FOLDS, iterations=1, gradient_norm=0.0, converged=True,
    )  # fmt: skip
