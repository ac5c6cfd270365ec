"""What a training run is a function of; read by every room of training.

What must not enter: the order of the stages, and any training.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from surgeon.errors import UsageError
from surgeon.graph import weights
from surgeon.resumption import folder_of

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from surgeon.intake import Divided
    from surgeon.job.beside import Values
    from surgeon.job.extend import Extended
    from surgeon.model import Model
    from surgeon.options import Options
    from surgeon.plugin.manager import Plugins
    from surgeon.records import Plan, Stage
    from surgeon.runtime.places import Device
    from surgeon.tasks.base import TaskCode


@dataclass(frozen=True)
class Job:
    """Everything one training is a function of.

    Attributes:
        operated: what is trained, by its plan.
        given: on what, and where.
        to: how.
        task: what an answer is.
        expected: quality of a probe at the cut, cross-validated over more samples than validate.
        goes_on: whether the plan is one that the file came with.
        extended: which classes were added to which; None = the head is for those of the data.
        plugins: loaded plugins; None loads them where one is asked for.
    """

    operated: Model
    given: Divided
    to: Options
    task: TaskCode
    expected: float | None = None
    goes_on: bool = False
    extended: Extended | None = None
    plugins: Plugins | None = field(default=None, repr=False)

    @property
    def plan(self) -> Plan:
        """What the case decided."""
        assert self.operated.plan is not None
        return self.operated.plan

    @property
    def outputs(self) -> int:
        """Numbers that the head gives per sample or position."""
        assert self.plan.outputs is not None
        return self.plan.outputs

    @property
    def drawn(self) -> bool:
        """Whether the weights are random ones already, so that no pretrained ones are left."""
        return self.goes_on and self.plan.init == "random" and not self.operated.tuned

    @cached_property
    def beside(self) -> Values | None:
        """What the loss is given of every training sample, made when first asked for."""
        from surgeon.job.beside import values_beside

        return values_beside(self)

    @property
    def checkpoint(self) -> Path | None:
        """Where states of training are kept; None = nowhere."""
        out = self.to.delivery.out
        return None if out is None else folder_of(out)


def head_weights(job: Job) -> tuple[str, ...]:
    """Return the names of the new head's weights.

    Raises:
        UsageError: the graph has no head that an operation appended.
    """
    plan = job.operated.plan
    if plan is None or not plan.head.weights:
        raise UsageError(
            "the graph does not end in a Gemm head",
            where="graph output",
            remedy="operate on it first: `surgeon operate` appends one",
        )
    return plan.head.weights


def head_input(job: Job) -> str:
    """Return the name of the features that the new head reads."""
    found = weights.head_input(job.operated.proto, head_weights(job)[0])
    assert found is not None  # a head that reads nothing is none
    return found


def stage_names(job: Job, stage: Stage) -> list[str]:
    """Return the initializers that a stage trains.

    Raises:
        UsageError: one that the plan does not train.
    """
    trainable = job.operated.trainable
    if stage.trains == "all":
        return trainable
    if stage.trains == "head":
        return list(head_weights(job))
    wanted = {stage.trains} if isinstance(stage.trains, str) else set(stage.trains)
    unknown = wanted - set(trainable)
    if unknown:
        raise UsageError(
            f"stage {stage.name!r} trains {min(unknown)!r}, which the plan does not train",
            where=f"stage {stage.name!r}",
            remedy="a stage trains `head`, `all`, or names that the plan trains",
        )
    return [name for name in trainable if name in wanted]


def runtime_device(job: Job) -> Device:
    """Return where ONNX Runtime computes."""
    return replace(job.given.device, repeatable=job.to.place.deterministic)


def torch_device(job: Job) -> torch.device:
    """Return where torch computes."""
    from surgeon.train.device import choose

    return choose(job.to.place.device)


def clean(job: Job) -> None:
    """Remove the checkpoint of a run that was delivered."""
    if job.checkpoint is not None and job.checkpoint.is_dir():
        import shutil

        shutil.rmtree(job.checkpoint)
