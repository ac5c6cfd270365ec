"""More classes, the old ones kept: new labels stand behind those of the file.

Where the data have samples of every class, the head, or what the plan trains, is learnt from all.
Old classes without samples are known by the statistics that the file carries; then the head alone
is made anew, as their linear discriminant. What must not enter: that head's mathematics, and the
form in which a file carries statistics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from surgeon.errors import DataError, UnsupportedError, UsageError
from surgeon.graph import envelope
from surgeon.graph.widen import widened
from surgeon.job import statistics
from surgeon.job.adapters import with_adapter
from surgeon.job.decide import require_opset
from surgeon.job.losses import with_loss
from surgeon.job.operate import operate_for
from surgeon.records import SOLVE_HEAD, Plan
from surgeon.tasks.find import find_task
from surgeon.tasks.labels import listed

if TYPE_CHECKING:
    from surgeon.intake import Divided
    from surgeon.model import Model
    from surgeon.options import Options
    from surgeon.plugin.manager import Plugins
    from surgeon.probe.discriminant import Moments
    from surgeon.tasks.base import Targets, TaskCode

CASE = "extend"
"""What the plan of a classifier is called that no case planned."""


@dataclass(frozen=True)
class Extended:
    """Which classes were added to which.

    Attributes:
        old: labels of the file, in their order.
        new: those behind them.
        known: statistics of the old classes where the data lack some, else None.
    """

    old: tuple[str, ...]
    new: tuple[str, ...]
    known: Moments | None = None

    @property
    def method(self) -> Literal["data", "statistics"]:
        """What the old classes are known by."""
        return "data" if self.known is None else "statistics"


def require_extendable(model: Model, to: Options, plugins: Plugins | None) -> None:
    """Refuse what makes no sense beside `--extend`, or without it.

    Raises:
        UsageError: naming the option.
        UnsupportedError: the file is of an opset below 7.
    """
    asked = to.surgery
    if not asked.extend:
        if to.reading.old_data is not None:
            raise UsageError(
                "data of old classes are given, and none are added",
                where="--old-data",
                remedy="add --extend, or leave --old-data out",
            )
        return
    options = ("case", "cut", "classes", "init", "head", "train", "freeze", "train_from")
    given = [name for name in options if getattr(asked, name)]
    if given:
        raise UsageError(
            f"--extend keeps the head where it is, and {', '.join(given)} would change that",
            where="--extend",
            remedy="leave them out, or leave --extend out for a new head",
        )
    require_opset(model)
    if is_planned(model):
        _require_classes(find_task(model.task, plugins), model.task)


def old_labels(model: Model) -> tuple[str, ...]:
    """Return the labels of a file's classes; numbers where it has a classifier without names.

    Raises:
        UnsupportedError: it has no classifier.
        UsageError: its head has learnt nothing yet.
    """
    if is_planned(model):
        if not model.labels:
            raise UsageError(
                "the file carries no labels: its new head has learnt nothing yet",
                where=model.where,
                remedy="finetune it without --extend first",
            )
        return tuple(model.labels)
    head = model.anatomy().head
    if head is None or head.classes is None:
        raise UnsupportedError(
            "no classifier is found at the end of the graph, so that it has no old classes",
            where=model.where or "graph output",
            remedy="leave --extend out: with --case the file gets a new head",
        )
    labels = model.labels
    if labels is not None and len(labels) == head.classes:
        return tuple(dict.fromkeys(labels))  # ImageNet has two cranes: the new head has one
    return tuple(map(str, range(head.classes)))


def is_planned(model: Model) -> bool:
    """Say whether a file's head is one that an operation appended."""
    return model.plan is not None and model.plan.outputs is not None


def names(model: Model, task: TaskCode, targets: Targets) -> Targets:
    """Say answers in the labels of a file and, behind them, those that it does not know.

    Raises:
        UsageError: another task, or no new label.
        DataError: new labels of a single sample.
    """
    _require_classes(task, "this task")
    old = old_labels(model)
    new = tuple(name for name in targets.names if name not in set(old))
    if not new:
        raise UsageError(
            f"the data has no label that the file lacks: it knows {listed(old)}",
            where="--extend",
            remedy="leave --extend out: then the file is trained on",
        )
    found = task.onto(targets, (*old, *new), ignore_unknown=False)
    counts = task.counts(found)
    lonely = [name for name, count in zip(found.names, counts, strict=True) if count == 1]
    if lonely:
        raise DataError(
            f"{len(lonely)} classes have a single sample: {listed(lonely)}",
            remedy="give at least two samples of each class, or drop these",
        )
    return found


def _require_classes(task: TaskCode, name: str) -> None:
    if not task.extends:
        raise UsageError(
            f"--extend adds classes, and answers of {name} are none",
            where="--extend",
            remedy="leave --extend out: with --case the file gets a new head",
        )


def extend(given: Divided, to: Options, plugins: Plugins | None) -> tuple[Model, Extended]:
    """Give a file outputs for new classes, and decide what the old ones are known by.

    Returns:
        What is trained, by its plan, and which classes were added.

    Raises:
        DataError: nothing says what old classes look like.
        UnsupportedError: a head that cannot be widened, or that statistics cannot give.
    """
    old = old_labels(given.model)
    extended = Extended(old, tuple(given.labels[len(old) :]))
    counts = given.task.counts(given.targets[given.parts.train])
    missing = [name for name, count in zip(old, counts, strict=False) if not count]
    untaught = [
        name for name, count in zip(extended.new, counts[len(old) :], strict=True) if not count
    ]
    if untaught:
        raise DataError(
            f"{len(untaught)} new classes have no sample to train on: {listed(untaught)}",
            remedy="put samples of every new class into the training split",
        )
    notes, seen = given.model.notes, int(counts[: len(old)].sum())
    if missing:
        known = statistics.carried(given.model)
        if known is None:
            raise _unknown(given, missing)
        if to.training.views > 1:
            raise UsageError(
                "views of samples would count as samples beside the statistics of old classes",
                where="--views",
                remedy="leave --views out",
            )
        for name in ("loss", "adapter"):
            if getattr(to.surgery, name) is not None:
                raise UsageError(
                    "old classes are known by statistics here, so that nothing is trained by steps",
                    where=f"--{name}",
                    remedy="leave it out, or give data of the old classes with --old-data",
                )
        extended = replace(extended, known=known.widened(given.outputs))
    elif 2 * seen < (counted := statistics.counted(given.model)):
        rule = "which count where the data have none of a class"
        few = f"old classes are learnt from {seen} samples"
        notes += (f"{few}; the file carries statistics of {counted:,}, {rule}",)
    if not is_planned(given.model):
        planned = replace(to, surgery=replace(to.surgery, case=CASE))
        plan = Plan(case=CASE, why="more classes, the old ones kept", extended=extended.new)
        return operate_for(given, planned, plan=plan, evidence=None, plugins=plugins), extended
    more = _widened(replace(given.model, notes=notes), extended, given.seed)
    more = with_loss(more, to.surgery.loss, plugins)
    return with_adapter(more, to.surgery.adapter, plugins), extended


def _unknown(given: Divided, missing: list[str]) -> DataError:
    return DataError(
        f"nothing says what {len(missing)} of the file's classes look like: no sample of "
        f"{listed(missing)}, and the file carries no statistics",
        where=given.model.where,
        remedy="give their data with --old-data; only a file that was tuned on them with "
        "--keep-statistics does without",
    )


def _widened(model: Model, extended: Extended, seed: int) -> Model:
    """Return a tuned file with rows for the new classes in its head, and their plan."""
    plan, outputs = model.plan, len(extended.old) + len(extended.new)
    assert plan is not None
    proto = widened(model.proto, plan.head.weights, outputs, seed)
    plan = replace(plan, classes=outputs, outputs=outputs, extended=(*plan.extended, *extended.new))
    notes, source = model.notes, model.source_sha256
    if extended.known is not None:
        if not plan.head.solves:
            raise UnsupportedError(
                f"old classes that are known by statistics need a linear head, this is "
                f"{plan.head.kind!r}",
                where="--extend",
                remedy="give samples of all old classes with --old-data",
            )
        if set(plan.trainable) != set(plan.head.weights):
            notes += ("only the head is made anew: of old classes there are no samples",)
            source = model.file_sha256  # what was trained before is as this very file has it
        plan = replace(plan, trainable=plan.head.weights, stages=(SOLVE_HEAD,))
        at_hand = "figures are of the samples at hand, not of theirs"
        notes += (f"{len(extended.old)} old classes are known by statistics: {at_hand}",)
    envelope.put(proto, envelope.PLAN, plan.as_dict() | {"source_sha256": source})
    return replace(model.with_proto(proto), plan=plan, notes=notes, source_sha256=source)
