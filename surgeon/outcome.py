"""What operations return: plain results that know their document form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from surgeon.records import as_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from surgeon.model import Model
    from surgeon.records import Verdict


@dataclass(frozen=True)
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

    @property
    def delivered(self) -> str | None:
        """`tuned`, `probe` or `start`: whose weights the model has."""
        delivered: str | None = self.body.get("delivered")
        return delivered

    def document(self) -> dict[str, Any]:
        """Return the body of the `finetune` document."""
        return dict(self.body)


@dataclass(frozen=True)
class Prediction:
    """The result of `predict`.

    Attributes:
        labels: the predicted label of every input, in order (None where the file has no labels).
        probabilities: [n, classes].
        classes: the labels the columns mean, or None.
        names: what every row was made from.
        failed: inputs that could not be read.
        providers: execution providers of the session.
    """

    labels: list[str | None]
    probabilities: NDArray[np.float64]
    classes: list[str] | None
    names: list[str]
    failed: list[dict[str, str]]
    providers: tuple[str, ...]
    path: str | None = None
    warnings: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the body of the `predict` document."""
        rows = []
        for name, label, row in zip(self.names, self.labels, self.probabilities, strict=True):
            index = int(row.argmax())
            rows.append(
                {
                    "input": name,
                    "label": label,
                    "index": index,
                    "probability": float(row[index]),
                    "probabilities": [float(value) for value in row],
                }
            )
        return {
            "path": self.path,
            "labels": self.classes or [],
            "providers": list(self.providers),
            "predictions": rows,
            "failed": self.failed,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Verification:
    """The result of `verify`: whether every check passed, and each of them."""

    verdict: Verdict
    path: str | None = None

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
        }
