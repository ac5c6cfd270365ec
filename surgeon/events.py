"""What a run tells while it goes on: frozen dataclasses, made once and heard by everybody alike.

The progress bar, trackers (`--track`) and whatever reports a run hear the same events, in the order
`Started`, `Progressed` …, then `Finished` or `Failed`. Standard library only, so that a tracker
imports this module and nothing heavy. What must not enter: who listens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Started:
    """Everything is decided, and training begins.

    Attributes:
        model: where the file lies that is trained, or None (it was made in memory).
        sha256: of that file.
        data: what was given as data, in words.
        data_sha256: of its content.
        out: the file that will be written, or None.
        plan: what the case decided, as the document says it.
        options: {keyword of `finetune`: value}, all of them, those of large values in words.
        labels: names of the outputs.
        parts: samples of each part: train, validation, test.
        device: where it is trained.
        versions: of python, surgeon and what computes.
    """

    model: str | None
    sha256: str
    data: str
    data_sha256: str | None = None
    out: str | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    parts: Mapping[str, int] = field(default_factory=dict)
    device: str = "cpu"
    versions: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Progressed:
    """Where the run stands, told after every step, after every row of the history, and meanwhile.

    Attributes:
        stage: what is going on: a stage of the plan, or what is read or computed (`features`).
        done: how far it is,
        total: of this; None = unknown, 1.0 = `done` is a share.
        epoch: from 1; 0 is the start that is judged before the first step.
        step: optimiser steps done in the stage.
        loss: of training: the mean of the epoch so far.
        validation_loss: of the samples that judge, in rows.
        quality: of those, by the figure `judged`, in rows; more is better.
        judged: name of that figure: `accuracy`, `r2`, …
        lr: learning rate of the head, in the step just done.
        seconds: since the stage began.
        seconds_left: an estimate.
        throughput: samples a second, of training alone.
        row: the row of the document's `history` that was just written, else None.
    """

    stage: str
    done: float
    total: float | None = None
    epoch: int | None = None
    step: int | None = None
    loss: float | None = None
    validation_loss: float | None = None
    quality: float | None = None
    judged: str | None = None
    lr: float | None = None
    seconds: float | None = None
    seconds_left: float | None = None
    throughput: float | None = None
    row: Mapping[str, Any] | None = None

    @property
    def shown(self) -> dict[str, Any]:
        """The figures that people are shown while they wait, None where unknown."""
        told = {
            "epoch": self.epoch, "loss": self.loss, "left": self.seconds_left,
            "throughput": self.throughput,
        }  # fmt: skip
        return told | ({} if self.judged is None else {self.judged: self.quality})


@dataclass(frozen=True)
class Finished:
    """The run is done; nothing follows.

    Attributes:
        document: the body of the `finetune` document (docs/documents), all but `tracked`.
    """

    document: Mapping[str, Any]


@dataclass(frozen=True)
class Failed:
    """The run ended without a file; nothing follows.

    Attributes:
        kind: of the error, as documents name it (`data`, `environment`, …), `interrupt` for Ctrl-C,
            else the exception's class.
        message: what happened.
        error: the exception.
    """

    kind: str
    message: str
    error: BaseException = field(repr=False, compare=False)


Event = Started | Progressed | Finished | Failed
