"""What a fit takes and gives: its settings, what it tells meanwhile, its result.

What must not enter: training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from surgeon.errors import UsageError
from surgeon.options import words

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from surgeon.train.compile import Compile
    from surgeon.train.device import Precision

Row = dict[str, Any]
Stopped = Literal["early", "budget", "nan", "interrupt"]


@dataclass(frozen=True)
class FitSettings:
    """How to train. None = the default computed from the data (`surgeon.train.schedule`).

    Attributes:
        stage: name of the stage in the history.
        epochs: rounds through the training samples.
        budget_seconds: time for the whole fit, validation included; the cosine then ends with it.
        max_steps: optimiser steps after which to stop, whatever the epochs.
        batch: samples per optimiser step (times `accumulate`).
        accumulate: passes of `batch` samples whose gradients make one optimiser step.
        lr: peak rate of the head.
        lr_decay: factor per tenth of depth before the head; 1 = one rate for all.
        depths: 0 at the input .. 1 at the head, by name of the initializer; missing = 1.
        optimizer: `adamw`, or `sgd` (plain, for exact checks).
        constant_rate: no warm-up and no cosine.
        weight_decay: of AdamW, on parameters of two and more axes.
        warmup_steps: steps of linear warm-up.
        clip: largest gradient norm; None = no clipping.
        patience: epochs without improvement after which to stop; 0 = never.
        monitor: what decides which weights are best. `quality` breaks ties by loss.
        keep: `best` weights, or `last`.
        scratch: weights start at random: higher rate, more epochs, one rate for all depths.
        precision: of the operators; weights and validation stay as stored.
        device: auto, cpu, cuda or cuda:N.
        seed: of order, Dropout and augmentation.
        compile: whether `torch.compile` makes the passes: `on`, `off`, or `auto`, where the run is
            long enough to pay for it and it was measured to be faster. Results then differ by
            rounding, so `auto` repeats bit for bit on short runs only.
        memory: `low` keeps little of the forward pass and computes it again for the backward pass:
            the same numbers, about a third more time.
            `lowest` also keeps the moments of AdamW in 8 bits.
        deterministic: on a GPU, only algorithms that repeat bit for bit, as all on a CPU do; and no
            form of the passes is chosen by the clock.

    """

    stage: str = "all"
    epochs: int | None = None
    budget_seconds: float | None = None
    max_steps: int | None = None
    batch: int | None = None
    accumulate: int = 1
    lr: float | None = None
    lr_decay: float = 0.9
    depths: Mapping[str, float] = field(default_factory=dict)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    constant_rate: bool = False
    weight_decay: float = 0.01
    warmup_steps: int | None = None
    clip: float | None = 1.0
    patience: int | None = None
    monitor: Literal["quality", "loss"] = "quality"
    keep: Literal["best", "last"] = "best"
    scratch: bool = False
    precision: Precision = "float32"
    device: str = "auto"
    seed: int = 0
    compile: Compile = "off"
    memory: Literal["normal", "low", "lowest"] = "normal"
    deterministic: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """Where a fit keeps what a later one needs, and whether this one goes on from there."""

    folder: Path
    resume: bool = False


@dataclass(frozen=True)
class Progress:
    """Where a fit stands: after every optimiser step, and after every validation (`row` is set).

    Attributes:
        stage: name of the stage.
        epoch: from 1.
        epochs: planned.
        step: optimiser steps done.
        steps: planned.
        share: how much is done, 0..1, by steps or by the budget.
        loss: mean training loss since the last validation; on a GPU that of a few steps ago.
        lr: of the head, in the step just done.
        seconds: since the start, earlier runs of a resumed fit included.
        seconds_left: an estimate, None before the first step.
        samples_per_second: of training alone.
        row: the row of the history just written, else None.
        note: something to tell people once, else None.

    """

    stage: str
    epoch: int
    epochs: int
    step: int
    steps: int
    share: float
    loss: float | None
    lr: float
    seconds: float
    seconds_left: float | None
    samples_per_second: float | None
    row: Row | None = None
    note: str | None = None


@dataclass(frozen=True)
class FitResult:
    """What a fit did. The module itself holds the weights, in evaluation mode, on the CPU.

    Attributes:
        history: rows {stage, epoch, step, loss, validation_loss, validation_quality, lr, seconds};
            the first is the start, step 0, without a training loss.
        stopped: why before the planned end, or None.
        best: the row whose weights are kept (with keep="last", the last row).
        improved: whether that is another than the start.
        epochs, steps, samples: what was done; samples counts repetitions.
        planned_epochs: what was meant.
        batch: samples per optimiser step.
        micro_batch: samples per pass, smaller after memory ran out.
        lr: peak rate of the head.
        validation_samples: how many were judged each time.
        device, precision: as used.
        compiled: whether the passes were compiled.
        decision: what was chosen by measuring, and the figures it was chosen by; None = nothing.
        peak_memory: the most bytes in use, of the process on a CPU, of tensors on a GPU; None where
            the system does not tell.
        seconds: in this and resumed runs.
        notes: what people should know.
        resumed: epochs that a run before had finished; None = it began anew.

    """

    history: tuple[Row, ...]
    stopped: Stopped | None
    best: Row
    improved: bool
    epochs: int
    steps: int
    samples: int
    planned_epochs: int
    batch: int
    micro_batch: int
    lr: float
    validation_samples: int
    device: str
    precision: str
    seconds: float
    compiled: bool = False
    decision: dict[str, Any] | None = None
    peak_memory: int | None = None
    notes: tuple[str, ...] = ()
    resumed: int | None = None


def check(settings: FitSettings) -> None:
    """Refuse numbers that cannot be meant, all at once."""
    wrong = []
    for name in ("epochs", "batch", "accumulate", "max_steps"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            wrong.append(f"{name} = {value} is below 1")
    for name in ("lr", "budget_seconds", "clip"):
        value = getattr(settings, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            wrong.append(f"{name} = {value} is not a positive number")
    if not 0 < settings.lr_decay <= 1:
        wrong.append(f"lr_decay = {settings.lr_decay} is outside 0..1")
    if settings.patience is not None and settings.patience < 0:
        wrong.append(f"patience = {settings.patience} is below 0")
    for name in ("compile", "memory"):
        value = getattr(settings, name)
        if value not in words(name):
            wrong.append(f"{name} = {value!r} is none of {', '.join(words(name))}")
    if wrong:
        raise UsageError("; ".join(wrong), where="training settings", remedy="see finetune --help")
