"""What operations return: plain results that know their document form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon import shown
from surgeon.errors import UsageError
from surgeon.records import as_json

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from surgeon.model import Model
    from surgeon.runtime.verifying import Verdict
    from surgeon.tasks.base import Decoded, TaskCode


ROW = ("label", "index", "probability", "probabilities")
"""What every row of `predict` says, null where a task tells something else."""
SPLITS = ("validation", "test", "train")
NAMED = 1000
"""Inputs without an answer that are named beside a file of answers, which names all of them."""


@dataclass(frozen=True, repr=False)
class Outcome:
    """The result of `finetune`.

    Attributes:
        model: the tuned model.
        metrics: validation, test (or None) and train metrics.
        history: one entry per epoch or solve.
        proof: the proof the file carries.
        body: the whole `finetune` document.
    """

    model: Model
    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    proof: dict[str, Any]
    body: dict[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        """Return what came out, in a few lines."""
        body, parity = self.body, (self.proof or {}).get("parity") or {}
        plan, worst = body.get("plan") or {}, parity.get("max_relative")
        parts = {name: shown.scores((self.metrics or {}).get(name)) for name in SPLITS}
        return shown.block(
            f"surgeon.Outcome {body.get('case') or ''}".rstrip(),
            {
                "delivered": self.delivered or "nothing was trained",
                "cut": plan.get("cut"),
                "labels": shown.listed(body.get("labels") or []),
                **parts,
                "parity": None if worst is None else f"{worst:.1e} (bound {parity['bound']:.0e})",
                "stopped": body.get("stopped"),
                "seconds": f"{(body.get('seconds') or {}).get('total') or 0:.1f}",
                "written": body.get("out"),
                "warnings": shown.listed(body.get("warnings") or []),
            },
        )

    @property
    def delivered(self) -> str | None:
        """`tuned`, `probe` or `start`: whose weights the model has."""
        delivered: str | None = self.body.get("delivered")
        return delivered

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the tuned file; see `Model.save`."""
        return self.model.save(path, force=force)

    def document(self) -> dict[str, Any]:
        """Return the body of the `finetune` document."""
        return dict(self.body)


@dataclass
class Written:
    """What was written.

    Attributes:
        out: the file.
        columns: of a table, in order.
        inputs: that were given.
        failed: of these, how many have no answer.
        named: the first of them, with the reasons.
        seconds: it took.
        providers: execution providers of the session.
        notes: what people should know.
    """

    out: str | None = None
    columns: list[str] = field(default_factory=list)
    inputs: int = 0
    failed: int = 0
    named: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    providers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Count rows."""
        self.inputs += len(rows)
        for row in rows:
            if row.get("error") is not None:
                self.failed += 1
                if len(self.named) < NAMED:
                    self.named.append({"input": row["input"], "reason": row["error"]})

    def document(self) -> dict[str, Any]:
        """Return what the `predict` document says of it."""
        answered = self.inputs - self.failed
        return {
            "out": self.out,
            "columns": self.columns,
            "counts": {"inputs": self.inputs, "answered": answered, "failed": self.failed},
            "seconds": self.seconds,
        }


@dataclass(frozen=True, repr=False)
class Prediction:
    """The result of `predict`.

    Attributes:
        labels: of every input, in order: the predicted label (None where the file has no labels);
            of several independent labels the list of those above their thresholds; None for values.
        probabilities: [n, classes]; [n, 0] where the file gives values.
        classes: the labels the columns mean, or None.
        names: what every row was made from.
        failed: inputs that could not be read.
        providers: execution providers of the session.
        kind: `classification`, `multi-label` (a probability for each label), `values`, or what a
            task calls its own.
        values: [n, columns] where the file gives plain numbers or vectors, else None.
        task: tells each row.
        told: of every input what the document says, where the task keeps axes of it;
            `probabilities` are then [n, 0].
        embeddings: where the file gives vectors, those of each output: an array [n, …], or a list
            of arrays where samples differ in shape; else None.
        top: how many of the likeliest classes each row tells besides.
        written: what was written to a file, in place of all that is told of each input.
    """

    labels: list[Any]
    probabilities: NDArray[np.float64]
    classes: list[str] | None
    names: list[str]
    failed: list[dict[str, str]]
    providers: tuple[str, ...]
    path: str | None = None
    warnings: tuple[str, ...] = ()
    kind: str = "classification"
    values: NDArray[np.float64] | None = None
    task: TaskCode | None = None
    told: list[dict[str, Any]] | None = None
    embeddings: Mapping[str, Any] | None = None
    top: int | None = None
    written: Written | None = None

    @classmethod
    def of_vectors(cls, outputs: Mapping[str, Any], **told: Any) -> Prediction:
        """Return the vectors that a file gives; `values` are those of its first output."""
        first = next(iter(outputs.values()))
        values = first if isinstance(first, np.ndarray) else None
        count = len(told["names"])
        return cls(
            [None] * count, np.zeros((count, 0)), None, kind="embedding", values=values,
            embeddings=outputs, **told,
        )  # fmt: skip

    @classmethod
    def of(
        cls, said: Decoded, task: TaskCode, classes: list[str] | None, **told: Any
    ) -> Prediction:
        """Return what outputs say, told as the task tells it."""
        values, scores = None, said.answers
        labels: list[Any] = [None] * len(scores)
        if not task.names_classes:
            scores, values = np.zeros((len(scores), 0)), scores
        else:
            rows = (task.rows(row[None], classes)[0] for row in scores)
            labels = [row.get("labels", row.get("label")) for row in rows]
        return cls(labels, scores, classes, kind=said.kind, values=values, task=task, **told)

    @classmethod
    def kept(
        cls,
        told: Mapping[int, dict[str, Any]],
        task: TaskCode,
        classes: list[str] | None,
        **known: Any,
    ) -> Prediction:
        """Return what a task that keeps axes of a sample told of each."""
        rows = list(told.values())
        labels = [row.get("label") for row in rows]
        kind, nothing = "-".join(task.keeps), np.zeros((len(rows), 0))
        return cls(labels, nothing, classes, kind=kind, task=task, told=rows, **known)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What is told of every input, as the document says it."""
        if self.embeddings is not None:
            return [self._vectors(place) for place in range(len(self.names))]
        rows, told = self.told, self.probabilities if self.values is None else self.values
        if self.task is None or not len(self.names):
            return []
        if rows is None:
            rows = self.task.rows(told, self.classes)
        named = [
            {"input": name, **dict.fromkeys(ROW), **row}
            for name, row in zip(self.names, rows, strict=True)
        ]
        if self.top is None:
            return named
        return [row | {"top": likeliest(row, self.classes, self.top)} for row in named]

    def __repr__(self) -> str:
        """Return how many of what, in a few lines."""
        first: list[Any] = self.labels[:2]
        if self.values is not None and self.values.ndim == 2:
            first = [[float(f"{value:.4g}") for value in row[:4]] for row in self.values[:2]]
        return shown.block(
            f"surgeon.Prediction of {self.written.inputs if self.written else len(self.names)}",
            {
                "labels": shown.tally(self._told()),
                "first": None
                if self.embeddings
                else shown.listed(list(zip(self.names, first, strict=False))),
                "classes": shown.listed(self.classes or []),
                "vectors": shown.listed(
                    [
                        f"{name} {[len(all_), *all_[0].shape] if len(all_) else [0]}"
                        for name, all_ in (self.embeddings or {}).items()
                    ]
                ),
                "written": self.written and self.written.out,
                "failed": (self.written.failed if self.written else len(self.failed)) or None,
                "warnings": shown.listed(self.warnings),
            },
        )

    def document(self) -> dict[str, Any]:
        """Return the body of the `predict` document."""
        return {
            "path": self.path,
            "labels": self.classes or [],
            "providers": list(self.providers),
            "predictions": self.rows,
            "failed": self.failed,
            "warnings": list(self.warnings),
            **({} if self.written is None else self.written.document()),
        }

    def _told(self) -> list[str]:
        """Return every label given, those of one input one by one."""
        rows = [label if isinstance(label, list) else [label] for label in self.labels]
        return [label for row in rows for label in row if label is not None]

    def _vectors(self, place: int) -> dict[str, Any]:
        found = {name: values[place].tolist() for name, values in (self.embeddings or {}).items()}
        first = next(iter(found.values()))
        row = {"input": self.names[place], **dict.fromkeys(ROW), "embedding": first}
        return row | ({"embeddings": found} if len(found) > 1 else {})


def likeliest(
    row: Mapping[str, Any], names: Sequence[str] | None, count: int
) -> list[dict[str, Any]]:
    """Return the likeliest classes of a row, the likeliest first.

    Raises:
        UsageError: the file gives no probabilities of classes.
    """
    scores = row.get("probabilities")
    if scores is None:
        raise UsageError(
            "the file gives no probabilities of classes",
            where="--top-k",
            remedy="leave it out",
        )
    best = np.argsort(-np.asarray(scores), kind="stable")[:count].tolist()
    named = names if names is not None and len(names) == len(scores) else None
    return [
        {"label": named and named[at], "index": at, "probability": float(scores[at])} for at in best
    ]


def with_top(row: dict[str, Any], names: Sequence[str] | None, count: int) -> dict[str, Any]:
    """Return a row for a file, with the likeliest classes in place of all; failures stay."""
    if row.get("error") is not None:
        return row
    top = likeliest(row, names, count)
    return {key: value for key, value in row.items() if key != "probabilities"} | {"top": top}


@dataclass(frozen=True, repr=False)
class Verification:
    """The result of `verify`: whether every check passed, and each of them."""

    verdict: Verdict
    path: str | None = None

    def __repr__(self) -> str:
        """Return which checks passed and which did not, in a few lines."""
        passed = [check.name for check in self.checks if check.passed]
        return shown.block(
            f"surgeon.Verification {'passed' if self.passed else 'FAILED'}",
            {
                "file": self.path,
                "passed": ", ".join(passed),
                **{f"failed: {one.name}": one.detail for one in self.checks if not one.passed},
            },
        )

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return self.verdict.passed

    @property
    def checks(self) -> tuple[Any, ...]:
        """The checks, in order."""
        return self.verdict.checks

    def document(self) -> dict[str, Any]:
        """Return the body of the `verify` document."""
        return {
            "path": self.path,
            "passed": self.verdict.passed,
            "providers": list(self.verdict.providers),
            "checks": [as_json(check) for check in self.verdict.checks],
            "exported": self.verdict.exported,
        }
