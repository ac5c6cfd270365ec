"""What a training run is a function of; read by every room of training.

What must not enter: the order of the stages, and any training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from surgeon.errors import UsageError
from surgeon.runtime.places import choose_device

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from surgeon.data.samples import Samples
    from surgeon.data.splits import Splits
    from surgeon.model import Model
    from surgeon.records import Stage
    from surgeon.runtime.places import Device
    from surgeon.tasks.base import TaskCode


@dataclass(frozen=True)
class Run:
    """Everything one training run is a function of."""

    patient: Model
    samples: Samples
    codes: NDArray[np.int64]
    parts: Splits
    task: TaskCode
    device: str = "auto"
    seed: int = 0
    threads: int | None = None
    cache_limit: int | None = None
    precision: str = "float32"
    batch: int | None = None
    lr: float | None = None
    epochs: int | None = None
    budget: float | None = None
    augment: str = "auto"
    views: int = 1
    accumulate: int = 1
    compile: str = "auto"
    memory: str = "normal"
    deterministic: bool = False
    resume: bool = False
    progress: Callable[..., None] | None = None
    checkpoint: Path | None = None
    expected: float | None = None
    """accuracy of a probe at the cut, cross-validated over more samples than validate"""
    drawn: bool = False
    """whether the patient's weights are random ones already, so that no pretrained ones are left"""

    @property
    def classes(self) -> int:
        """Outputs of the head."""
        assert self.patient.plan is not None
        assert self.patient.plan.classes is not None
        return self.patient.plan.classes

    def say(self, stage: str, done: float, total: float | None = None, **figures: Any) -> None:
        """Tell the caller how far it is."""
        if self.progress is not None:
            self.progress(stage, done, total, **figures)


def head_weights(run: Run) -> tuple[str, ...]:
    """Return the names of the new head's weights.

    Raises:
        UsageError: the graph has no head that an operation appended.
    """
    plan = run.patient.plan
    if plan is None or not plan.head.weights:
        raise UsageError(
            "the graph does not end in a Gemm head",
            where="graph output",
            remedy="operate on it first: `surgeon operate` appends one",
        )
    return plan.head.weights


def head_input(run: Run) -> str:
    """Return the name of the features that the new head reads."""
    weight = head_weights(run)[0]
    nodes = run.patient.proto.graph.node
    return str(next(node for node in nodes if weight in node.input).input[0])


def stage_names(run: Run, stage: Stage) -> list[str]:
    """Return the initializers that a stage trains.

    Raises:
        UsageError: one that the plan does not train.
    """
    trainable = run.patient.trainable
    if stage.trains == "all":
        return trainable
    if stage.trains == "head":
        return list(head_weights(run))
    wanted = {stage.trains} if isinstance(stage.trains, str) else set(stage.trains)
    unknown = wanted - set(trainable)
    if unknown:
        raise UsageError(
            f"stage {stage.name!r} trains {min(unknown)!r}, which the plan does not train",
            where=f"stage {stage.name!r}",
            remedy="a stage trains `head`, `all`, or names that the plan trains",
        )
    return [name for name in trainable if name in wanted]


def runtime_device(run: Run) -> Device:
    """Return where ONNX Runtime computes."""
    return replace(choose_device(run.device), repeatable=run.deterministic)


def torch_device(run: Run) -> torch.device:
    """Return where torch computes."""
    from surgeon.train.device import choose

    return choose(run.device)


def clean(run: Run) -> None:
    """Remove the checkpoint of a run that was delivered."""
    if run.checkpoint is not None and run.checkpoint.is_dir():
        import shutil

        shutil.rmtree(run.checkpoint)
