"""Answers of a file to inputs, written as they come: memory holds a few batches, never all inputs.

What must not enter: opening of inputs, forms of files.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.answer_file import AnswerFile
from surgeon.answering import Output, Ran, drawings_in, tell_some
from surgeon.errors import UnsupportedError
from surgeon.inputs import open_parts
from surgeon.outcome import Prediction, Written, with_top
from surgeon.targets import task_of
from surgeon.tasks.find import find_task
from surgeon.vectors import gives_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.data.flow import Part
    from surgeon.data.samples import Samples
    from surgeon.intake import Intake
    from surgeon.model import Model
    from surgeon.options import Options
    from surgeon.plugin.manager import Plugins
    from surgeon.runtime.stream import Chunk

    Report = Callable[..., None]

_NOTES = 20
"""Notes of different parts that are kept."""


class Telling:
    """What a file says of samples: which outputs are read, and how rows are made of them.

    Attributes:
        proto: the graph with the outputs that are read.
        outputs: their names, with the batch axis of each.
        kind: what the answers are, as soon as there is one.
        notes: what people should know, in order.
    """

    kind: str | None = None

    def __init__(self, proto: ModelProto, outputs: Mapping[str, int]) -> None:
        self.proto, self.outputs = proto, dict(outputs)
        self.notes: dict[str, None] = {}

    def tell(
        self, samples: Samples, rows: NDArray[np.int64], outputs: Mapping[str, NDArray[Any]]
    ) -> list[dict[str, Any]]:
        """Return what is told of each of these samples."""
        raise NotImplementedError


class Vectors(Telling):
    """Vectors of a file without a head."""

    kind = "embedding"

    def __init__(self, model: Model) -> None:
        axes = model.sketch().shapes.batch_axes
        names = [value.name for value in model.proto.graph.output]
        super().__init__(model.proto, {name: axes.get(name, 0) for name in names})

    def tell(
        self,
        samples: Samples,  # noqa: ARG002 - the vectors say all
        rows: NDArray[np.int64],
        outputs: Mapping[str, NDArray[Any]],
    ) -> list[dict[str, Any]]:
        """Return the vector of each output."""
        first = next(iter(self.outputs))
        told = []
        for at in range(len(rows)):
            vectors = {name: outputs[name][at] for name in self.outputs}
            several = {"embeddings": vectors} if len(vectors) > 1 else {}
            told.append({"embedding": vectors[first], **several})
        return told


class Answers(Telling):
    """Answers of a file with a head.

    Attributes:
        task: of the file.
        labels: that the file has.
    """

    def __init__(
        self,
        given: Intake,
        to: Options,
        plugins: Plugins | None,
    ) -> None:
        """Find the output; `to` says which task it has and where masks are written."""
        model = self._model = given.model
        task = find_task(task_of(model, to.reading), plugins, model.decoding)
        self._meant, self._plugins = to.reading.asked_task is not None, plugins
        self._read = Output.of(model, given.constants, keeps=bool(task.keeps))
        super().__init__(self._read.proto, {self._read.value: 0})
        self.notes |= dict.fromkeys(self._read.known)
        self.task, self.labels = task, model.labels
        self._drawings = drawings_in(to.delivery.masks, task)

    def tell(
        self, samples: Samples, rows: NDArray[np.int64], outputs: Mapping[str, NDArray[Any]]
    ) -> list[dict[str, Any]]:
        """Return what the task tells.

        Raises:
            UnsupportedError: the output looked like probabilities, and does not any more.
        """
        read = self._read
        raw = read.rows(self._model, outputs[read.value])
        if self.task.keeps:
            said = self.task.decode(raw, read.activation, self.labels)
            return list(
                tell_some(rows, said, self.task, self.labels, samples, self._drawings).values()
            )
        ran = Ran(raw, read.activation, read.classifier, rows, (), ())
        said = ran.say(self.task, self.labels, meant=self._meant)
        self.notes |= dict.fromkeys(said.notes)
        if self.kind is None and said.task is not None:
            self.task = find_task(said.task, self._plugins)
        if self.kind not in (None, said.kind) and self.kind != "values":
            raise UnsupportedError(
                f"the output was read as {self.kind}, and now holds {said.kind}",
                where=read.value,
                remedy="say what it holds: --task classification, or --task regression",
            )
        answers = raw if self.kind == "values" else said.answers
        self.kind = self.kind or said.kind
        labels = self.labels
        if labels is not None and answers.ndim == 2 and len(labels) != answers.shape[1]:
            labels = None
        return self.task.rows(answers, labels)


def predict_into(
    model: Model, inputs: Any, to: Options, *, progress: Report | None, plugins: Plugins | None
) -> Prediction:
    """Answer inputs part by part, into the file that `out` names.

    Args:
        model: that answers.
        inputs: paths of any medium, arrays, or anything that gives them one by one.
        to: checked options.
        progress: called as `progress(stage, done, total, **figures)`.
        plugins: loaded plugins.

    Raises:
        OutputError: the file exists or cannot be written.
        SurgeonError: as of `predict`; the rows so far are kept.
    """
    out = to.delivery.out
    assert out is not None
    file = AnswerFile(out, model.labels, force=to.delivery.force)
    given, parts = open_parts(model, inputs, to, progress=progress, plugins=plugins)
    telling: Telling = Vectors(model) if gives_vectors(model) else Answers(given, to, plugins)
    with file:
        written = write_answers(given, parts, telling, file, to)
    written.out, written.columns = str(file.path), list(file.columns)
    return Prediction(
        [], np.zeros((0, 0)), model.labels, [], written.named, written.providers, model.where,
        written.notes, kind=telling.kind or "classification", written=written,
    )  # fmt: skip


def write_answers(
    given: Intake, parts: Iterable[Part], telling: Telling, file: AnswerFile, to: Options
) -> Written:
    """Run a network over inputs and write what it says of each.

    Args:
        given: model, samples of the first part, and where to run.
        parts: all of them.
        telling: makes rows.
        file: takes them.
        to: `batch`, samples at once, and `top_k`.
    """
    from surgeon.runtime.stream import Runner

    started = time.perf_counter()
    runner = Runner(
        telling.proto, given.samples, outputs=telling.outputs, device=given.device,
        threads=given.threads, batch=to.training.batch, where=given.model.where,
    )  # fmt: skip
    written, top = Written(), to.delivery.top_k

    def put(rows: Sequence[Mapping[str, Any]]) -> None:
        file.write(rows)
        written.add(rows)
        rate = written.inputs / max(time.perf_counter() - started, 1e-9)
        given.say("samples", written.inputs, None, throughput=rate)

    for part in parts:
        if part.samples is not None:
            runner.over(part.samples)
            for chunk in runner.stream(part.rows):
                rows = _rows(part, chunk, telling)
                if top is not None:
                    rows = [with_top(row, given.model.labels, top) for row in rows]
                put(rows)
            if len(telling.notes) < _NOTES:
                telling.notes |= dict.fromkeys(part.samples.notes)
        if part.passed_over:
            put([{"input": name, "error": reason} for name, reason in part.passed_over])
    written.seconds = time.perf_counter() - started
    written.providers = runner.session.providers
    written.notes = (*telling.notes, *runner.notes)
    return written


def _rows(part: Part, chunk: Chunk, telling: Telling) -> list[dict[str, Any]]:
    """Return one row for each sample of a chunk, in their order."""
    assert part.samples is not None
    names, rows = part.samples.names, part.rows[chunk.positions]
    told = telling.tell(part.samples, rows, chunk.outputs) if len(rows) else []
    found: dict[int, dict[str, Any]] = {
        row: {"input": str(names[row]), **one} for row, one in zip(rows.tolist(), told, strict=True)
    }
    for one in chunk.failures:
        reason = part.reasons.get(one.index, one.reason)
        found[one.index] = {"input": str(one.name), "error": reason}
    return [found[row] for row in sorted(found)]
