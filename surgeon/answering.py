"""From samples to answers: which output of a network is read, and what its numbers say.

`predict` and `evaluate` share it. What must not enter: opening data, documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import SurgeonError, UnknownNameError, UnsupportedError
from surgeon.graph import cuts as graph_cuts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surgeon.intake import Intake
    from surgeon.model import Model
    from surgeon.tasks.base import Decoded, Targets, TaskCode


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


def run_samples(
    given: Intake, batch: int | None = None, indices: NDArray[np.int64] | None = None
) -> Ran:
    """Run a network over samples."""
    from surgeon.graph.ending import ending, reading
    from surgeon.runtime.stream import Runner

    model, samples = given.model, given.samples
    output, classifier, told = answering(model)
    own = model.plan is not None and classifier
    proto, held = model.knowing(given.constants).as_it_runs()
    told = (*told, *filter(None, [held]))
    end = ending(proto, output)
    runner = Runner(
        reading(proto, end.value), samples, outputs=[end.value], device=given.device,
        threads=given.threads, batch=batch, where=model.where,
    )  # fmt: skip
    chosen = np.arange(samples.n) if indices is None else indices
    pieces, rows, done = [], [], 0
    for chunk in runner.stream(chosen):
        if len(chunk.positions):  # not where none of them can be read
            raw = chunk.outputs[end.value]
            scores = raw if own else _score_rows(model, raw, output, end.activation)
            pieces.append(np.asarray(scores, np.float64))
            rows.append(chosen[chunk.positions])
        done += len(chunk.positions) + len(chunk.failures)
        given.say("samples", done, len(chosen))
    order = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    place = np.argsort(order, kind="stable")
    return Ran(
        np.concatenate(pieces)[place] if pieces else None,
        end.activation or ("Identity" if own else None),
        classifier,
        order[place],
        runner.session.providers,
        (*runner.notes, *told) if pieces else told,
    )


def answering(model: Model) -> tuple[str, bool, tuple[str, ...]]:
    """Return the output that is read, whether it holds a classifier's scores, and what to say.

    Raises:
        UnknownNameError: there is no output of the name that was asked for.
        UnsupportedError: the output is no row of numbers per sample.
    """
    outputs = [value.name for value in model.proto.graph.output]
    if model.plan is not None and model.plan.outputs and model.output in (None, *outputs[:1]):
        return outputs[0], True, ()
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
