"""What a graph gives for the samples of a run: outputs by ONNX Runtime, scores, metrics.

The one room of a job in which outputs become answers. What must not enter: training.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import CheckError, DataError
from surgeon.job.run import runtime_device
from surgeon.runtime.stream import Runner
from surgeon.tasks.base import Targets, TaskCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.job.done import Believed, Trained
    from surgeon.job.run import Job
    from surgeon.tasks.base import Scores

    Outputs = Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]

Told = tuple["NDArray[np.float64]", Targets]
"""Answers as a task decodes them, and the right ones of the same samples."""
SCATTERED = 16
"""Samples on which it is seen how much ONNX Runtime's results depend on the batch."""
SPOT = 32
"""Samples on which the file is compared where ONNX Runtime has run the same graph over all."""


def decode(job: Job, outputs: NDArray[Any]) -> NDArray[np.float64]:
    """Return the answers that outputs of the new head say."""
    return job.task.decode(outputs, "Identity", job.given.targets.names or None).answers


def score(
    job: Job, outputs: Iterable[tuple[NDArray[Any], NDArray[np.int64]]]
) -> dict[str, Any] | None:
    """Return the object of the document's `metrics`; None without any samples.

    Args:
        job: what is trained on what.
        outputs: of the new head beside the samples they are of, some at a time.
    """
    return scored(job, answers(job, outputs))


def answers(job: Job, outputs: Iterable[tuple[NDArray[Any], NDArray[np.int64]]]) -> Iterator[Told]:
    """Give what outputs say beside the right answers."""
    return ((decode(job, values), job.given.targets[rows]) for values, rows in outputs)


def scored(job: Job, parts: Iterator[Told] | None) -> dict[str, Any] | None:
    """Return the object of the document's `metrics` of answers, some at a time; None of none."""
    first = None if parts is None else next(parts, None)
    if first is None or parts is None:
        return None
    return metrics_of(job.task.score(itertools.chain([first], parts)))


def metrics_of(scores: Scores) -> dict[str, Any]:
    """Return the object of the document's `metrics`."""
    return {"samples": int((~np.isnan(scores.quality)).sum()), **scores.figures}


def calibrate(job: Job, parts: Iterable[Told]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what the file stores of answers that were not learnt from, and what is to be said."""
    stores = type(job.task).calibrate is not TaskCode.calibrate
    told = list(parts) if stores else []
    if not told:
        return {}, ()
    targets = job.given.targets
    found = job.task.calibrate(
        np.concatenate([decoded for decoded, _ in told]),
        replace(
            targets,
            values=np.concatenate([one.values for _, one in told]),
            known=None
            if targets.known is None
            else np.concatenate([one.known for _, one in told if one.known is not None]),
            groups=None,
        ),
    )
    notes = tuple(found.pop("notes", ()))
    return found, notes


def stored_of(
    job: Job, tuned: ModelProto, *, alone: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what the file stores of its own answers to validation samples, and what to say."""
    rows = job.given.parts.validation
    if type(job.task).calibrate is TaskCode.calibrate or not len(rows):
        return {}, ()
    return calibrate(job, answers(job, outputs_of(open_runner(job, tuned, alone=alone), rows)))


def calibrated(job: Job, stored: Mapping[str, Any] | None) -> Job:
    """Return the job whose task tells answers as a file does that stores this."""
    return replace(job, task=type(job.task)(stored)) if stored else job


def as_they_come(job: Job) -> bool:
    """Say whether answers are judged some at a time, as all of them may not fit into memory."""
    return bool(job.task.keeps) and type(job.task).calibrate is TaskCode.calibrate


def open_runner(job: Job, model: ModelProto | Path, *, alone: bool) -> Runner:
    """Return what runs a graph over samples; `alone`, one at a time."""
    output = job.operated.proto.graph.output[0].name
    runner = Runner(
        model,
        job.given.samples,
        outputs=[output],
        device=runtime_device(job),
        threads=job.to.place.threads,
    )
    if alone:
        runner.run_one_by_one()
    return runner


def outputs_of(runner: Runner, indices: NDArray[np.int64]) -> Outputs:
    """Give outputs and the samples they are of, some at a time."""
    for chunk in runner.stream(indices):
        if len(chunk.positions):
            (values,) = chunk.outputs.values()
            yield np.asarray(values, np.float64), indices[chunk.positions]


def outputs_at_once(
    runner: Runner, indices: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Return all outputs and the samples they are of; None without any."""
    found = list(outputs_of(runner, indices))
    if not found:
        return None
    logits, rows = zip(*found, strict=True)
    return np.concatenate(logits), np.concatenate(rows)


def require_places(job: Job) -> None:
    """Refuse answers per position that are of other positions than what the network gives.

    Raises:
        DataError: with both shapes.
    """
    values = job.given.targets.values
    if values.ndim < 2 or values.dtype.kind not in "iu":
        return
    runner = open_runner(job, job.operated.proto, alone=False)
    given, _ = next(outputs_of(runner, job.given.parts.train[:8]), (None, None))
    if given is None:
        return
    wanted, inner = values.shape[1:], given.shape[1:]
    if wanted not in (inner[:-1], inner[1:]):
        raise DataError(
            f"the answers of a sample have the shape {list(wanted)}, what the network gives "
            f"{list(inner)}",
            where=job.given.samples.where,
            remedy="give an answer per position of the input, in its size as the network takes it",
        )


def measure(
    job: Job, tuned: ModelProto, trained: Trained, *, limit: int, path: Path | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Return validation, test and train metrics of the tuned file by ONNX Runtime, and notes.

    The file is run over the validation samples, whatever was computed before. Where only the head
    was trained, the other figures follow from the features; otherwise it is run over test samples,
    and over at most `limit` training samples.

    Args:
        job: what was trained on what.
        tuned: the graph.
        trained: what training gave.
        limit: training samples that are run.
        path: the written file; None = there is none, the graph in memory is run.

    Raises:
        CheckError: what the file gives is not what training computed.
    """
    scores = dict(trained.delivered.scores)
    found, notes = _judge_file(job, path or tuned, trained)
    stated = scores.get("validation", {})
    # What is cross-validated says more of a head that has seen these samples.
    if found is not None and stated is not None and "method" not in stated:
        scores["validation"] = found
    random = np.random.default_rng(job.to.training.seed)
    some = job.given.parts.train
    if len(some) > limit:
        some = np.sort(random.choice(some, limit, replace=False))
    parts = {"validation": job.given.parts.validation, "test": job.given.parts.test, "train": some}
    for name, indices in parts.items():
        if name in scores:
            continue
        scores[name] = None
        if indices is not None and len(indices):
            runner = open_runner(job, tuned, alone=trained.work.alone)
            scores[name] = score(job, outputs_of(runner, indices))
            notes += runner.notes
    for name in ("validation", "test"):
        if scores[name] is not None:
            scores[name] = {"method": "held-out"} | scores[name]
    if job.given.parts.cross and trained.delivered.cross is not None:
        scores["cross_validation"] = trained.delivered.cross
    return scores, notes


def _judge_file(
    job: Job, file: ModelProto | Path, trained: Trained
) -> tuple[dict[str, Any] | None, list[str]]:
    """Compare the file with what training computed; return its validation metrics if all were run.

    Raises:
        CheckError: they differ by more than rounding explains.
    """
    believed, rows = trained.delivered.believed, job.given.parts.validation
    known = next((one.rows for one in believed if one.by_runtime), None)
    if known is not None:
        some = known[np.unique(np.linspace(0, len(known) - 1, SPOT).astype(np.int64))]
        rows = np.unique(np.concatenate([some, *(one.rows[:SPOT] for one in believed)]))
    if not len(rows):
        return None, []
    runner = open_runner(job, file, alone=trained.work.alone)
    moved: list[float] = []

    def scatter(some: NDArray[np.int64]) -> float:
        moved.append(_scatter(job, file, some, alone=trained.work.alone))
        return moved[-1]

    def compared() -> Outputs:
        for logits, samples in outputs_of(runner, rows):
            for one in believed:
                _compare(one, logits, samples, scatter)
            yield logits, samples

    metrics = score(job, compared())
    said = [
        f"ONNX Runtime's kernels give logits that differ by {one:.1g} with the size of the "
        "batch; the metrics are those of larger batches"
        for one in moved
        if one > 0
    ]
    return metrics if known is None else None, [*said, *runner.notes]


def _compare(
    believed: Believed,
    logits: NDArray[np.float64],
    rows: NDArray[np.int64],
    scatter: Callable[[NDArray[np.int64]], float],
) -> None:
    """Compare what the file gives for samples with what was computed, as far as it was.

    What ONNX Runtime's own kernels differ by between batches (`scatter`, asked for only where it
    matters) is allowed: products with weights of 4 and 8 bits are such.

    Raises:
        CheckError: they differ by more than rounding explains.
    """
    _, mine, theirs = np.intersect1d(rows, believed.rows, return_indices=True)
    if not len(mine):
        return
    wanted, slack = believed.at(theirs)
    apart = np.abs(logits[mine] - wanted)
    if not (apart <= slack).all() and not (apart <= slack + 2 * scatter(rows[mine])).all():
        raise CheckError(
            f"the file gives other logits than training computed: they differ by {apart.max():.2g} "
            f"(the largest is {np.abs(wanted).max():.2g}, rounding explains {np.max(slack):.2g})",
            where="validation samples",
            remedy="nothing was written; report the model's operators",
        )


def _scatter(job: Job, file: ModelProto | Path, rows: NDArray[np.int64], *, alone: bool) -> float:
    """Return how far ONNX Runtime's logits of some samples move when each is run alone.

    Its kernels for weights of four and eight bits compute a batch in another way than one sample.
    """
    some = np.sort(rows[:SCATTERED])
    found = [
        np.concatenate([logits for logits, _ in outputs_of(opened, some)])
        for opened in (open_runner(job, file, alone=one) for one in (alone, True))
    ]
    return float(np.abs(found[0] - found[1]).max())
