"""One of several classes per sample: labels read, probabilities judged and told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from surgeon.errors import DataError
from surgeon.records import Head
from surgeon.tasks import answers, metrics
from surgeon.tasks.base import Decoded, Scores, Targets, TaskCode
from surgeon.tasks.labels import (
    check_trainable,
    code_labels,
    label_text,
    not_one_class,
    one_column,
    onto,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.tasks.base import Ints, Link


MOST_CONFUSED = 2000
"""Classes up to which a confusion matrix is made: its size grows with their square."""


class Classification(TaskCode):
    """Targets are class codes [n], answers probabilities [n, classes]."""

    quality: ClassVar[str] = "accuracy"
    link: ClassVar[Link | None] = "softmax"
    objective: ClassVar[str] = "surgeon.train.objective:CrossEntropy"
    extends: ClassVar[bool] = True

    def head(self, options: Mapping[str, Any]) -> Head:  # noqa: ARG002 - a linear head has none
        """Return the linear head."""
        return Head()

    def read(self, column: Any, where: str) -> Targets:
        """Read one name or whole number per sample; see `sort_labels` for their order."""
        column = one_column(column, where)
        if isinstance(column, np.ndarray):
            if column.ndim != 1:
                raise DataError(
                    f"the labels have shape {list(column.shape)}, not [n]",
                    where=where,
                    remedy=not_one_class(column),
                )
            column = column.tolist()
        labels = [label_text(value, f"{where}[{row}]") for row, value in enumerate(column)]
        return code_labels(labels)

    def onto(self, targets: Targets, names: Sequence[str], *, ignore_unknown: bool) -> Targets:
        """Map labels to the positions of their names; −1 where the file has none."""
        return onto(targets, names, ignore_unknown=ignore_unknown)

    def check(self, targets: Targets) -> None:
        """Refuse a single class, classes of one sample, and numbers that are no classes."""
        check_trainable([targets.names[code] for code in targets.values])

    def outputs(self, targets: Targets) -> int:
        """Return the number of classes."""
        return len(targets.names)

    def counts(self, targets: Targets) -> Ints:
        """Return how many samples each class has."""
        return np.bincount(targets.values[_known(targets)], minlength=len(targets.names))

    def strata(self, targets: Targets) -> Ints | None:
        """Return the classes."""
        codes: Ints = targets.values
        return codes

    def decode(
        self, raw: NDArray[Any], activation: str | None, names: Sequence[str] | None = None
    ) -> Decoded:
        """Return probabilities [n, classes], or what else the graph makes of scores."""
        labels = None if names is None else len(names)
        return answers.decode(raw, activation, classifier=True, labels=labels)

    def score(self, parts: Iterable[tuple[NDArray[np.float64], Targets]]) -> Scores:
        """Return accuracy, macro F1 over classes that occur, and loss in nats per sample."""
        found = []
        for decoded, targets in parts:
            right, lost = (np.full(len(targets), np.nan) for _ in range(2))
            known = _known(targets)
            codes = targets.values[known]
            predicted, told = decoded[known].argmax(axis=1), decoded[known, codes]
            right[known] = predicted == codes
            lost[known] = -np.log(np.clip(told, 1e-12, None))
            found.append((right, lost, predicted, told, codes))
        right, lost, *answers = (np.concatenate(values) for values in zip(*found, strict=True))
        figures = metrics.score_told(*answers)
        figures.pop("samples")
        return Scores(figures, right, lost)

    def rows(
        self, decoded: NDArray[np.float64], names: Sequence[str] | None
    ) -> list[dict[str, Any]]:
        """Return the likeliest class of each sample and the probabilities of all."""
        return [
            {
                "label": None if names is None else names[index],
                "index": index,
                "probability": float(row[index]),
                "probabilities": row.tolist(),
            }
            for row, index in zip(decoded, decoded.argmax(axis=1).tolist(), strict=True)
        ]

    def details(self, decoded: NDArray[np.float64], targets: Targets) -> dict[str, Any]:
        """Return figures of each class, and which are taken for which."""
        known = _known(targets)
        codes, told = targets.values[known], decoded[known]
        predicted = told.argmax(axis=1)
        table, notes = None, [f"{len(targets.names):,} classes: no confusion matrix"]
        if len(targets.names) <= MOST_CONFUSED:
            table, notes = confusion(codes, predicted, len(targets.names)), []
        return {
            "metrics": {
                "top5": top5(told, codes),
                "calibration_error": metrics.calibration_error(
                    told.max(axis=1, initial=0.0), predicted == codes
                ),
                "brier": metrics.brier(told, codes),
            },
            "top_k": metrics.top_k(told, codes),
            "per_class": per_class(targets.names, codes, predicted),
            "confusion": table,
            "warnings": notes,
        }


def _known(targets: Targets) -> NDArray[Any]:
    """Return the positions of the samples whose class is known."""
    return np.arange(len(targets)) if targets.known is None else np.flatnonzero(targets.known)


def confusion(
    codes: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> list[list[int]]:
    """Return the confusion matrix: row true, column predicted."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (codes, predicted), 1)
    table: list[list[int]] = matrix.tolist()
    return table


def top5(probabilities: NDArray[Any], codes: NDArray[np.int64]) -> float | None:
    """Return top-5 accuracy, or None with five classes or fewer."""
    if probabilities.shape[1] <= 5:
        return None
    best = np.argpartition(-probabilities, 4, axis=1)[:, :5]
    return float((best == codes[:, None]).any(axis=1).mean())


def per_class(
    labels: Sequence[str], codes: NDArray[np.int64], predicted: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """Return precision, recall, f1 and support of every label; None where they are undefined."""
    found = {
        code: (precision, recall, f1, support)
        for code, precision, recall, f1, support in metrics.by_class(codes, predicted)
    }
    rows = []
    for code, label in enumerate(labels):
        precision, recall, f1, support = found.get(code, (None, None, None, 0))
        rows.append(
            {"label": label, "precision": precision, "recall": recall, "f1": f1, "support": support}
        )
    return rows
