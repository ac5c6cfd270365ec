"""From samples to answers: which output of a network is read, and what its numbers say.

`predict` and `evaluate` share it. What must not enter: opening data, documents.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import (
    DataError,
    SurgeonError,
    UnknownNameError,
    UnsupportedError,
    UsageError,
)
from surgeon.graph import cuts as graph_cuts

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.data.drawn import Drawings
    from surgeon.data.samples import Samples
    from surgeon.intake import Answered, Intake
    from surgeon.model import Model
    from surgeon.tasks.base import Decoded, Scores, Targets, TaskCode
    from surgeon.vectors import Vectors


NUMBERS = frozenset({"LinearRegressor", "TreeEnsembleRegressor", "SVMRegressor", "TreeEnsemble"})
"""Classical operators whose output is no row of scores of classes."""


@dataclass(frozen=True)
class Ran:
    """What a run over samples gave.

    Attributes:
        outputs: [n, …] of the samples that could be read, [n, columns] of a file that nothing was
            planned for; None where there were none.
        activation: what the graph ends in; `Identity` where the new head of an operation is.
        classifier: whether columns without an activation are scores of classes.
        rows: the samples, ascending.
        providers: of the session.
        notes: what people should know.
    """

    outputs: NDArray[np.float64] | None
    activation: str | None
    classifier: bool
    rows: NDArray[np.int64]
    providers: tuple[str, ...]
    notes: tuple[str, ...]

    def say(self, task: TaskCode, labels: list[str] | None, *, meant: bool = False) -> Decoded:
        """Return what the outputs say; numbers that nobody knows to be scores stay what they are.

        Args:
            task: of the file.
            labels: that the file has.
            meant: whether people named the task, so that columns are what it takes them for.
        """
        from surgeon.tasks.answers import decode
        from surgeon.tasks.base import Decoded

        if self.outputs is None:
            return Decoded("classification", np.zeros((0, 0)))
        if meant or self.classifier or self.activation is not None:
            return task.decode(self.outputs, self.activation, labels)
        return decode(self.outputs, None, classifier=False)


@dataclass(frozen=True)
class Output:
    """The output of a network that is read.

    Attributes:
        proto: the graph, with `value` among its outputs.
        value: what is read: the output, or what its ArgMax or ZipMap reads.
        activation: what the graph ends in; `Identity` where the new head of an operation is.
        classifier: whether columns without an activation are scores of classes.
        known: what people should know whatever the samples are.
    """

    proto: ModelProto
    value: str
    activation: str | None
    classifier: bool
    known: tuple[str, ...]
    _name: str
    _whole: bool
    _ends_in: str | None

    @classmethod
    def of(cls, model: Model, constants: Mapping[str, NDArray[Any]], *, keeps: bool) -> Output:
        """Find it; `keeps` says whether outputs keep axes of a sample."""
        from surgeon.graph.ending import ending, reading

        name, classifier, told = answering(model, keeps=keeps)
        proto, held = model.knowing(constants).as_it_runs()
        end = ending(proto, name)
        own = model.plan is not None and classifier
        return cls(
            reading(proto, end.value), end.value, end.activation or ("Identity" if own else None),
            classifier, (*told, *filter(None, [held])), name,
            classifier and (keeps or model.plan is not None), end.activation,
        )  # fmt: skip

    def rows(self, model: Model, raw: NDArray[Any]) -> NDArray[np.float64]:
        """Return what the graph gives of a few samples as it is decoded, [n, …]."""
        if not self._whole:
            raw = _score_rows(model, raw, self._name, self._ends_in)
        return np.asarray(raw, np.float64)


class Running:
    """A network on its way over samples: outputs some at a time, as they come.

    Attributes:
        activation: what the graph ends in; `Identity` where the new head of an operation is.
        classifier: whether columns without an activation are scores of classes.
        chosen: the samples it runs over.
        known: what people should know whatever the samples are.
    """

    def __init__(
        self,
        given: Intake,
        batch: int | None = None,
        indices: NDArray[np.int64] | None = None,
        *,
        keeps: bool = False,
    ) -> None:
        """Open a session.

        Args:
            given: model, samples, and where to run.
            batch: samples at once; None = as it is fast.
            indices: samples that are wanted; None = all.
            keeps: whether outputs keep axes of a sample.
        """
        from surgeon.runtime.stream import Runner

        model = self._model = given.model
        self._output = read = Output.of(model, given.constants, keeps=keeps)
        self.activation, self.classifier, self.known = read.activation, read.classifier, read.known
        self._runner = Runner(
            read.proto, given.samples, outputs=[read.value],
            device=given.device, threads=given.threads, batch=batch, where=model.where,
        )  # fmt: skip
        self.chosen = np.arange(given.samples.n) if indices is None else indices
        self._say, self._seen = given.say, [np.zeros(0, np.int64)]

    @property
    def rows(self) -> NDArray[np.int64]:
        """The samples that were run so far, in the order in which they came."""
        return np.concatenate(self._seen)

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Give samples that could be read, and their outputs [n, …]."""
        done, started = 0, time.perf_counter()
        for chunk in self._runner.stream(self.chosen):
            if len(chunk.positions):  # not where none of them can be read
                raw = chunk.outputs[self._output.value]
                self._seen.append(self.chosen[chunk.positions])
                yield self._seen[-1], self._output.rows(self._model, raw)
            done += len(chunk.positions) + len(chunk.failures)
            rate = done / max(time.perf_counter() - started, 1e-9)
            self._say("samples", done, len(self.chosen), throughput=rate)

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers of the session."""
        return self._runner.session.providers

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know, when the run is over."""
        return (*self._runner.notes, *self.known)

    def answers(
        self, task: TaskCode, labels: list[str] | None
    ) -> Iterator[tuple[NDArray[np.int64], Decoded]]:
        """Give samples and what the outputs say of them, to a task that keeps axes of a sample."""
        for rows, raw in self:
            yield rows, task.decode(raw, self.activation, labels)


def run_samples(
    given: Intake, batch: int | None = None, indices: NDArray[np.int64] | None = None
) -> Ran:
    """Run a network over samples."""
    running = Running(given, batch, indices)
    parts = list(running)
    order = np.concatenate([rows for rows, _ in parts]) if parts else np.zeros(0, np.int64)
    place = np.argsort(order, kind="stable")
    return Ran(
        np.concatenate([outputs for _, outputs in parts])[place] if parts else None,
        running.activation,
        running.classifier,
        order[place],
        running.providers,
        running.notes if parts else running.known,
    )


def drawings_in(folder: str | os.PathLike[str] | None, task: TaskCode) -> Drawings | None:
    """Return where masks are written; None = nowhere.

    Raises:
        UsageError: the task draws none.
        OutputError: the folder holds something.
    """
    from surgeon.data.drawn import Drawings

    if folder is None:
        return None
    if task.keeps != ("height", "width"):
        raise UsageError(
            "what the file answers is not drawn",
            where="--masks",
            remedy="leave it out, or give a file that segments pictures",
        )
    return Drawings(Path(folder))


def tell_samples(
    running: Running,
    task: TaskCode,
    labels: list[str] | None,
    samples: Samples,
    drawings: Drawings | None,
) -> dict[int, dict[str, Any]]:
    """Return what a task that keeps axes of a sample tells of each, by its place; draw masks.

    Args:
        running: over the samples.
        task: of the file.
        labels: that the file has.
        samples: that it runs over.
        drawings: where masks are written.

    Raises:
        OutputError: a mask cannot be written.
    """
    told: dict[int, dict[str, Any]] = {}
    for rows, said in running.answers(task, labels):
        told |= tell_some(rows, said, task, labels, samples, drawings)
    return dict(sorted(told.items()))


def tell_some(
    rows: NDArray[np.int64],
    said: Decoded,
    task: TaskCode,
    labels: list[str] | None,
    samples: Samples,
    drawings: Drawings | None,
) -> dict[int, dict[str, Any]]:
    """Return what a task that keeps axes of a sample tells of some, by their places; draw masks."""
    told: dict[int, dict[str, Any]] = {}
    pictures = None if drawings is None else task.masks(said.answers)
    for row, one, place in zip(
        rows.tolist(), task.rows(said.answers, labels), count(), strict=False
    ):
        pieces, placed = samples.pieces(row), samples.preprocess
        told[row] = one if pieces is None else task.beside(one, pieces)
        if placed is not None and (size := samples.size_of(row)) is not None:
            told[row] = task.within(told[row], size, placed)
        if drawings is not None and pictures is not None:
            size, name = samples.size_of(row), str(samples.names[row])
            path = drawings.write(name, pictures[place], size, samples.preprocess)
            told[row] |= {"mask": str(path)}
    return told


def judge_samples(
    given: Answered, batch: int | None, *, meant: bool
) -> tuple[Scores, dict[str, Any], Ran | Running, list[str]]:
    """Run a network over samples and judge its answers.

    Args:
        given: model, samples and their answers.
        batch: samples at once; None = as it is fast.
        meant: whether people or the data say what the columns are.

    Returns:
        Scores, what the task adds, what ran, and what people should know.

    Raises:
        DataError: no sample could be read.
        UnsupportedError: the output is of another kind than the answers.
    """
    task, targets, labels = given.task, given.targets, given.labels
    if not task.keeps:
        ran = run_samples(given, batch, targets.answered)
        said, targets = ran.say(task, labels, meant=meant), targets[ran.rows]
        notes = judged(said, task, targets, given.model) if len(ran.rows) else []
        scores = task.score([(said.answers, targets)])
        details = task.details(said.answers, targets)
        return scores, details, ran, [*ran.notes, *said.notes, *notes]
    running = Running(given, batch, targets.answered, keeps=True)
    parts = (
        (_fitting(said.answers, targets[rows], task, given.model), targets[rows])
        for rows, said in running.answers(task, labels)
    )
    first = next(parts, None)
    if first is None:
        raise DataError("no sample with an answer could be read", remedy="see `skipped`")
    scores = task.score(chain([first], parts))
    return scores, {}, running, list(running.notes)


def _fitting(
    answers: NDArray[np.float64], targets: Targets, task: TaskCode, model: Model
) -> NDArray[np.float64]:
    """Return answers per place if their places and classes are those of the targets.

    Targets that are no codes of places are none that answers lie beside.

    Raises:
        UnsupportedError: they are not.
    """
    if targets.values.dtype.kind not in "iu":
        return answers
    classes = 1 if task.keeps == ("height", "width") else -1
    places = [
        size for axis, size in enumerate(answers.shape[1:], 1) if axis != classes % answers.ndim
    ]
    wanted = list(targets.values.shape[1:])
    if (
        answers.ndim != 2 + len(task.keeps)
        or places != wanted
        or (targets.names and answers.shape[classes] < len(targets.names))
    ):
        raise UnsupportedError(
            f"the output has shape {list(answers.shape)}: it cannot be compared with answers "
            f"{wanted} of {len(targets.names)} classes",
            where=model.where,
            remedy="give answers for the places that the output has, or another --output",
        )
    return answers


def asked_of(
    given: Intake, ran: Ran | Running | Vectors, rows: Iterable[int], *notes: str
) -> dict[str, Any]:
    """Return what a prediction says beside answers: names, failures, providers, notes."""
    samples = given.samples
    return {
        "names": [str(samples.names[row]) for row in rows],
        "failed": [
            {"input": name, "reason": reason}
            for name, reason in (*samples.skipped, *samples.passed_over)
        ],
        "providers": ran.providers,
        "path": given.model.where,
        "warnings": (*samples.notes, *ran.notes, *notes),
    }


def answering(model: Model, *, keeps: bool = False) -> tuple[str, bool, tuple[str, ...]]:
    """Return the output that is read, whether it holds a classifier's scores, and what to say.

    Args:
        model: as it was loaded.
        keeps: whether the task is known to keep axes of a sample: any output will do.

    Raises:
        UnknownNameError: there is no output of the name that was asked for.
        UnsupportedError: the output is no row of numbers per sample.
    """
    outputs = [value.name for value in model.proto.graph.output]
    if model.plan is not None and model.plan.outputs and model.output in (None, *outputs[:1]):
        return outputs[0], True, ()
    if keeps:
        return model.output or outputs[0], True, ()
    try:
        anatomy = model.sketch()
    except UnknownNameError:
        raise
    except SurgeonError:  # what cannot be understood may still run
        return model.output or outputs[0], False, ()
    head, output = anatomy.head, anatomy.output
    if not graph_cuts.per_sample(output, anatomy.shapes):
        raise _no_classifier(model, output)
    several = tuple(filter(None, [anatomy.several]))
    scores = head is not None and head.activation is None and head.form not in NUMBERS
    return output, scores, several


def _score_rows(
    model: Model, raw: NDArray[Any], output: str, activation: str | None
) -> NDArray[np.float64]:
    """Return the outputs of a few samples as [n, columns]."""
    if sum(size != 1 for size in raw.shape[1:]) > 1:
        raise _no_classifier(model, output)
    if raw.dtype.kind not in "fiub" or (raw.dtype.kind != "f" and activation is None):
        raise UnsupportedError(
            f"output {output!r} holds {raw.dtype} and no scores",
            where=output,
            remedy="--output names an output of scores, or export the file with one",
        )
    return np.asarray(raw, np.float64).reshape(len(raw), -1)


def _no_classifier(model: Model, output: str) -> UnsupportedError:
    return UnsupportedError(
        graph_cuts.no_classifier(model.proto, [output]),
        where=model.where or output,
        remedy="--output names an output of one row per sample; `surgeon finetune` gives the "
        "network a classification head",
    )


def judged(said: Decoded, task: TaskCode, targets: Targets, model: Model) -> list[str]:
    """Make sure that answers can be compared with those of the data; return what to say of it.

    Raises:
        UnsupportedError: they are of another kind, or not one per output.
    """
    if said.answers.ndim != 2:
        return []
    columns, numbers = said.answers.shape[1], targets.values.ndim == 2 and not task.names_classes
    wanted = targets.values.shape[1] if numbers else len(targets.names) or columns
    if columns != wanted or (said.task is not None and said.kind == "values"):
        what = "plain values" if said.kind == "values" else "probabilities"
        of = (
            f"the data have {wanted} numbers a sample"
            if numbers
            else (f"there are {wanted} names of classes or labels")
        )
        raise UnsupportedError(
            f"the output holds {what} in {columns} columns, and {of}: they cannot be compared",
            where=model.where,
            remedy="give the data of this file, or its --task; `surgeon predict` gives the numbers",
        )
    if said.task is not None and said.kind == "multi-label":
        return ["each label has a probability of its own (Sigmoid): the largest is the answer"]
    return []
