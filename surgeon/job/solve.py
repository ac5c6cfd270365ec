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

from surgeon.errors import DataError, UnsupportedError
from surgeon.graph.frontier import alone
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
from surgeon.job.measure import Told, calibrate, calibrated, decode, scored
from surgeon.job.run import Job, head_input, head_weights, torch_device
from surgeon.plugin.manager import loaded_plugins
from surgeon.probe import directions, discriminant, maps
from surgeon.probe.solver import HeadSolution, solve, torch_threads
from surgeon.records import HeadKind
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
MOST_COMPARED = 2**14
"""Vectors of training samples that are judged by each other."""
MOST_ROWS, MOST_NUMBERS = 2**18, 2**27
"""Positions, and numbers of their features, that a head is solved on: those of one sample are much
alike, and more of them hardly move it."""


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
        targets: [rows] or [rows, outputs].
        sample: of each row; the samples themselves stand in front of their views.
        held: rows of validation samples, or None where none is among them.
        place: of each row that is no view: which of `samples`, and which position of it.
        samples: that were taken.
        whole: whether every position that tells an answer is a row.
        work: of making views.
        notes: what people should know.
    """

    values: NDArray[Any]
    targets: NDArray[Any]
    sample: NDArray[np.int64]
    held: NDArray[np.bool_] | None
    place: tuple[NDArray[np.int64], ...]
    samples: NDArray[np.int64]
    whole: bool = True
    work: Work = field(default_factory=Work)
    notes: tuple[str, ...] = ()


def open_head(job: Job, known: StageDone) -> HeadFeatures:
    """Compute what the head reads, once per sample, behind the weights as they are known.

    Raises:
        UnsupportedError: samples cannot be told apart in them, so that they are not kept.
    """
    current = write_back(job.operated.proto, known.candidate.tensors, partial=True)
    shapes, name = job.operated.anatomy().shapes, head_input(job)
    # Beside it a head may read the size of the input: that of the answers is known.
    front = alone(split_graph(current, head_weights(job), shapes), current, name, shapes)
    begun = time.perf_counter()
    features = features_of(job, front)
    seconds = time.perf_counter() - begun
    work = frozen_work(front, features, alone=known.work.alone, seconds=seconds)
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
    values = values if values.ndim in (3, 4) else values.reshape(len(values), -1)
    require_finite(job, features, values, read.name)
    fitted = _fitted(job, read, values, parts, refit=refit)
    solution, notes = _solved(job, fitted)
    told = _Told(job, features, values, parts, fitted, solution)
    stored, more = told.stored()
    scores, cross = told.scores(calibrated(job, stored))
    seconds = time.perf_counter() - begun - fitted.work.seconds_features
    row = _row(job, stage, solution, scores, seconds)
    _report(job, row)
    found = shaped(job, solution.weight, solution.bias)
    tensors = dict(zip(head_weights(job), found, strict=True))
    order = parts["validation"][np.argsort(features.rows[parts["validation"]])]
    candidate = Candidate("probe", tensors, scores, cross, stored=stored)
    kind = loaded_plugins(job.plugins).offer(HeadKind, job.plan.head.kind).offer
    solved = SolvedHead(
        candidate, features.rows[order], values[order], solution.weight, solution.bias,
        unit=kind.solves == "discriminant",
        size=_size(job, values),
    )  # fmt: skip
    believed = solved.believed(slack_of(job, read.front, features))
    solved = replace(solved, candidate=replace(candidate, believed=(believed,)))
    return solved, fitted.work + Work(
        history=(row,), samples_seen=len(fitted.sample), seconds_train=seconds,
        notes=(*fitted.notes, *notes, *more),
    )  # fmt: skip


def _fitted(
    job: Job, read: HeadFeatures, values: NDArray[Any], parts: Rows, *, refit: bool
) -> _Fitted:
    """Return the rows to solve on: training samples, with `refit` validation samples, and views.

    Of features [n, length, d] every position that tells an answer is a row, of maps every pixel.
    """
    rows = np.concatenate([parts["train"], *([parts["validation"]] if refit else [])])
    samples = read.features.rows[rows]
    targets = job.given.targets[samples]
    work = Work()
    if values.ndim > 2:
        return _positions(job, read, values, rows, samples, parts, refit=refit)
    known = targets.answered
    chosen, sample, answers = values[rows[known]], samples[known], targets.values[known]
    place: tuple[NDArray[np.int64], ...] = (known,)
    if job.to.training.views > 1:
        begun = time.perf_counter()
        more, of, told = view_features(job, read.front, sample)
        chosen, sample = np.concatenate([chosen, more]), np.concatenate([sample, of])
        answers = job.given.targets.values[sample]
        seconds = time.perf_counter() - begun
        work = Work(frontier={**read.work.frontier, "views": told}, seconds_features=seconds)
    held = np.isin(sample, read.features.rows[parts["validation"]]) if refit else None
    return _Fitted(chosen, answers, sample, held, place, samples, work=work)


def _positions(
    job: Job,
    read: HeadFeatures,
    values: NDArray[Any],
    rows: NDArray[np.int64],
    samples: NDArray[np.int64],
    parts: Rows,
    *,
    refit: bool,
) -> _Fitted:
    """Return positions of sequences, or pixels, as rows; of very many, some that the seed draws.

    Where there are so many, training samples have enough: validation samples judge.

    Raises:
        DataError: answers are of other positions than features.
    """
    targets = job.given.targets.values[samples]
    size = _size(job, values)
    if not size and targets.shape[1:2] != values.shape[1:2]:
        raise DataError(
            f"a sample has {targets.shape[1]} answers and features of {values.shape[1]} positions",
            where=f"tensor {head_input(job)!r}",
            remedy="give an answer per position of the input, or choose another cut",
        )
    exclusive = job.task.link == "softmax"
    told = targets >= 0 if exclusive else np.isfinite(targets).any(axis=-1)
    most = max(1, min(MOST_ROWS, MOST_NUMBERS // values.shape[1 if size else 2]))
    all_in = int(told.sum())
    notes: tuple[str, ...] = ()
    if all_in > most:
        if refit:
            return _fitted(job, read, values, parts, refit=False)
        notes = (f"the head is solved on {most:,} of {all_in:,} positions",)
    place = _drawn(told, most, job.to.training.seed)
    at, *where = place
    sample = samples[at]
    if size:
        chosen = maps.at_pixels(values, rows[at], (where[0], where[1]), size)
    else:
        chosen = np.asarray(values[rows[at], where[0]])
    held = np.isin(rows[at], parts["validation"]) if refit else None
    return _Fitted(
        chosen, targets[place], sample, held, place, samples, whole=not notes, notes=notes
    )


def _drawn(told: NDArray[np.bool_], most: int, seed: int) -> tuple[NDArray[np.int64], ...]:
    """Return where it is true: at most so often, the same share of every sample."""
    random = np.random.default_rng(seed)
    counts = told.reshape(len(told), -1).sum(axis=1)
    ends = np.concatenate([[0], np.cumsum(counts)])
    takes = np.diff(ends * min(most, ends[-1]) // max(ends[-1], 1))
    chosen = [
        np.sort(random.choice(np.flatnonzero(one), take, replace=False))
        if take < count
        else np.flatnonzero(one)
        for one, count, take in zip(told, counts, takes, strict=True)
    ]
    where = np.unravel_index(np.concatenate(chosen), told.shape[1:])
    return np.repeat(np.arange(len(told)), takes), *where


def _size(job: Job, values: NDArray[Any]) -> tuple[int, ...]:
    """Return (height, width) of the answers, which maps are brought to; () without maps."""
    return tuple(job.given.targets.values.shape[1:3]) if values.ndim == 4 else ()


def shaped(job: Job, weight: NDArray[Any], bias: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a solved weight [outputs, d] in the form that the file has it."""
    dims = {tensor.name: tuple(tensor.dims) for tensor in job.operated.proto.graph.initializer}
    return weight.reshape(dims[head_weights(job)[0]]), bias


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


def _report(job: Job, row: dict[str, Any]) -> None:
    """Tell the row, as the stages by steps do; an epoch or a loss in training there is none."""
    names = ("step", "validation_loss", "seconds")
    told = {name: row[name] for name in names}
    quality = job.task.quality
    job.given.say(
        row["stage"], 1, 1, judged=quality, quality=row[f"validation_{quality}"], row=row, **told
    )


@dataclass(frozen=True)
class _Told:
    """What a solved head says of the samples of every part."""

    job: Job
    features: Features
    values: NDArray[Any]
    parts: Rows
    fitted: _Fitted
    solution: HeadSolution

    @property
    def inner(self) -> tuple[int, ...]:
        """Axes of the places that a sample has an answer for."""
        return _size(self.job, self.values) or self.values.shape[1:-1]

    def stored(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return what the file stores of answers to validation samples, and what is to be said.

        A head that was fitted to them, too, is asked by those that have not seen them.
        """
        rows = self.parts["validation"]
        if not len(rows):
            return {}, ()
        parts = self._outside(rows) if self.fitted.held is not None else self._inside(rows)
        return ({}, ()) if parts is None else calibrate(self.job, parts)

    def scores(self, job: Job) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return metrics by part, and the cross-validated ones of the training samples.

        Of very many vectors, each compared with all others, some training samples are judged.
        """
        parts, train = dict(self.parts), self.parts["train"]
        if job.task.link == "discriminant" and len(train) > MOST_COMPARED:
            random = np.random.default_rng(job.to.training.seed)
            parts["train"] = np.sort(random.choice(train, MOST_COMPARED, replace=False))
        scores = {
            part: scored(job, self._inside(parts[part])) for part in ("validation", "test", "train")
        }
        cross = scored(job, self._outside(self.parts["train"]))
        cross = cross and cross | {"method": "cross-validated", "folds": self.solution.folds}
        if self.fitted.held is not None and len(self.parts["validation"]):
            found = scored(job, self._outside(self.parts["validation"]))
            scores["validation"] = found and found | {"method": "cross-validated"}
        return scores, cross

    def _inside(self, rows: NDArray[np.int64]) -> Iterator[Told]:
        """Give answers of the head itself, some at a time."""
        samples = self.features.rows[rows]
        weight, bias, size = self.solution.weight, self.solution.bias, _size(self.job, self.values)
        at_once = max(1, _AT_ONCE // (len(bias) * max(1, int(np.prod(self.inner)))))
        for first in range(0, len(rows), at_once):
            some = slice(first, first + at_once)
            outputs = maps.outputs_of(self.values[rows[some]], weight, bias, size)
            yield decode(self.job, outputs), self.job.given.targets[samples[some]]

    def _outside(self, rows: NDArray[np.int64]) -> Iterator[Told] | None:
        """Give answers of heads that have not seen the samples; None where there were none.

        Of classes only the likeliest and the right one are known: the rest is 0.
        """
        fitted, solution = self.fitted, self.solution
        at, own = fitted.place[0], len(fitted.place[0])
        mine = np.isin(fitted.samples[at], self.features.rows[rows])
        said, lost = solution.out_of_fold[:own][mine], solution.out_of_fold_loss[:own][mine]
        missing = said < 0 if solution.out_of_fold.ndim == 1 else np.isnan(said)
        if not fitted.whole or not len(said) or missing.any():
            return None
        places = tuple(axis[mine] for axis in fitted.place)
        return self._parts(places, said, lost)

    def _parts(
        self, places: tuple[NDArray[np.int64], ...], said: NDArray[Any], lost: NDArray[Any]
    ) -> Iterator[Told]:
        job, fitted = self.job, self.fitted
        outputs, inner = len(self.solution.bias), self.inner
        at_once = max(1, _AT_ONCE // (outputs * max(1, int(np.prod(inner)))))
        every = np.unique(places[0])
        for first in range(0, len(every), at_once):
            some = every[first : first + at_once]
            chosen = np.flatnonzero(np.isin(places[0], some))
            answers = np.zeros((len(some), *inner, outputs))
            where = (
                np.searchsorted(some, places[0][chosen]), *(one[chosen] for one in places[1:])
            )  # fmt: skip
            targets = job.given.targets[fitted.samples[some]]
            if said.ndim == 1:
                told, right = np.exp(-lost[chosen]), targets.values[where]
                answers[(*where, said[chosen])] = np.nextafter(np.maximum(told, 1 - told), 2)
                answers[(*where, right)] = told
            else:
                answers[where] = said[chosen]
            yield np.moveaxis(answers, -1, 1) if len(inner) == 2 else answers, targets


def _groups(job: Job, fitted: _Fitted) -> NDArray[np.int64] | None:
    """Return what each row belongs to: its group, or its sample where it is a position of it."""
    groups = job.given.parts.groups_of(fitted.sample)
    return fitted.sample if groups is None and len(fitted.place) > 1 else groups


def _solved(job: Job, fitted: _Fitted) -> tuple[HeadSolution, tuple[str, ...]]:
    """Solve the head on rows of features; on the CPU where they do not fit into a GPU's memory.

    Where old classes are known by statistics it is the linear discriminant.
    """
    if job.extended is not None and job.extended.known is not None:
        return _beside(job, fitted, job.extended.known), ()
    if job.task.link == "discriminant":
        return _directions(job, fitted), ()
    solved = functools.partial(
        solve,
        fitted.values,
        fitted.targets,
        job.outputs,
        link=job.task.link or "softmax",
        views_of=fitted.sample if job.to.training.views > 1 else None,
        groups=_groups(job, fitted),
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


def _directions(job: Job, fitted: _Fitted) -> HeadSolution:
    """Return the directions that tell the classes of the rows apart, as the task judges vectors."""

    def worth(vectors: NDArray[Any], rows: NDArray[np.int64]) -> float | None:
        told = decode(job, vectors), job.given.targets[fitted.sample[rows]]
        return job.task.score([told]).figures["quality"]

    with torch_threads(job.to.place.threads):
        return directions.solve(
            fitted.values, fitted.targets, job.outputs, worth=worth,
            views_of=fitted.sample if job.to.training.views > 1 else None,
            groups=_groups(job, fitted), held=fitted.held, seed=job.to.training.seed,
        )  # fmt: skip


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
