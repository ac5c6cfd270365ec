"""What training by steps minimises: the task's own objective, or the loss that people named.

Whatever is minimised, weights are judged as the task judges. What must not enter: the loop.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from surgeon.graph import envelope
from surgeon.records import SOLVE_HEAD, TRAIN_ALL, Plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.job.run import Job
    from surgeon.model import Model
    from surgeon.plugin.manager import Plugins


def settle_loss(plan: Plan, asked: str | None, plugins: Plugins | None) -> Plan:
    """Return the plan with the loss that was asked for; a head is then trained by steps, too.

    Raises:
        UnknownNameError: there is no such loss.
        UsageError: it is for other tasks, or a setting that it does not take.
    """
    text = plan.loss if asked is None else asked
    if text is None:
        return plan
    from surgeon.train.losses import check_loss

    check_loss(text, plan.task, plugins)
    stages = plan.stages or (SOLVE_HEAD, *(() if plan.trainable == "head" else (TRAIN_ALL,)))
    stages = tuple(replace(stage, method="adamw") for stage in stages)
    return replace(plan, loss=text, stages=stages)


def with_loss(operated: Model, asked: str | None, plugins: Plugins | None) -> Model:
    """Return a file that goes on with its plan, minimising another loss."""
    plan = operated.plan
    if asked is None or plan is None:
        return operated
    only_head = set(operated.trainable) <= set(plan.head.weights)
    settled = settle_loss(replace(plan, trainable="head" if only_head else "all"), asked, plugins)
    plan = replace(settled, trainable=plan.trainable)
    proto = type(operated.proto)()
    proto.CopyFrom(operated.proto)
    document = plan.as_dict() | {"source_sha256": operated.source_sha256}
    envelope.put(proto, envelope.PLAN, document)
    return replace(operated, proto=proto, plan=plan)


def asked_of(job: Job) -> tuple[str, ...]:
    """Return the names of what the loss of a run asks for behind outputs and targets."""
    if job.plan.loss is None:
        return ()
    from surgeon.train.losses import asked, check_loss

    return asked(check_loss(job.plan.loss, job.plan.task, job.plugins)[0])


def own_objective(job: Job) -> Any:
    """Return the class of the task's own objective."""
    module, _, name = job.task.objective.partition(":")
    return getattr(importlib.import_module(module), name)


def judged(job: Job) -> str:
    """Return the name of the figure by which the best epoch is chosen."""
    name: str = getattr(own_objective(job), "judges", job.task.quality)
    return name


def objective_of(
    job: Job,
    targets: NDArray[Any],
    *,
    judged_by: NDArray[Any] | None,
    scratch: bool,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Any:
    """Make what a fit minimises and is judged by.

    Args:
        job: what is trained on what.
        targets: [n, …] of the training samples, in plain units.
        judged_by: [m, …] of those that judge, as training has them; None without any.
        scratch: whether weights start at random.
        shapes: of one sample's values that the loss asks for, by name.
    """
    own = own_objective(job).of(targets, job.outputs, scratch=scratch)
    if judged_by is not None and hasattr(own, "judged_by"):
        own.judged_by(judged_by)
    if job.plan.loss is None:
        return own
    from surgeon.train.losses import with_loss as instead

    return instead(
        own, job.plan.loss, job.plan.task, targets, job.outputs,
        names=tuple(job.given.targets.names), shapes=dict(shapes or {}), scratch=scratch,
        plugins=job.plugins,
    )  # fmt: skip
