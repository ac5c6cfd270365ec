"""What is asked of the samples: the task of a run settled, their answers read by it.

Every verb that learns from answers or judges by them reads them here. What must not enter: what an
answer is (the task knows), opening of data, splits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from surgeon.errors import DataError, UsageError
from surgeon.records import Plan
from surgeon.tasks.find import find_task
from surgeon.tasks.forms import tasks_for
from surgeon.tasks.labels import code_groups, listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgeon.data.samples import Samples
    from surgeon.model import Model
    from surgeon.options import Reading
    from surgeon.plugin.manager import Plugins
    from surgeon.tasks.base import Targets, TaskCode

AUTO = "auto"
ANSWERS = "answers"
"""What a task is told of where answers stand: it names the one at fault as `answers[3]`."""
_PLACE = re.compile(re.escape(ANSWERS) + r"(?::(.*?))?\[(\d+)(.*)\]", re.DOTALL)


@dataclass(frozen=True)
class Asked:
    """What is asked of the samples.

    Attributes:
        name: of the task.
        task: its code.
        targets: the answers of all samples, read by it.
    """

    name: str
    task: TaskCode
    targets: Targets


def ask(
    samples: Samples, model: Model, reading: Reading, *, planned: bool, plugins: Plugins | None
) -> Asked:
    """Settle the task, and read the answers of the samples by it.

    Args:
        samples: opened, with answers.
        model: as it was loaded.
        reading: names the task, or leaves it open.
        planned: whether the plan of the file, if it has one, is gone on with or judged.
        plugins: loaded plugins; None loads them.

    Raises:
        UsageError: the task that was asked for is not that of the file, or it cannot be told.
        DataError: answers that the task cannot read, with the sample.
    """
    auto = reading.task == AUTO and not (planned and model.plan is not None)
    name = choose(samples) if auto else task_of(model if planned else None, reading)
    if auto and name != Plan().task and samples.task is None:
        form, _ = tasks_for(samples.answers, words=samples.words is not None)
        note = f"the task is {name}, as the data hold {form}: --task says another"
        samples.remarks = tuple(dict.fromkeys([*samples.remarks, note]))
    return ask_for(name, samples, plugins, model.decoding if planned else None)


def task_of(model: Model | None, reading: Reading) -> str:
    """Return the name of the task: what was asked for, else the file's own.

    Args:
        model: whose plan is gone on with or judged; None = it is not.
        reading: names the task, or leaves it open.

    Raises:
        UsageError: the task that was asked for is not that of the file.
    """
    plan = None if model is None else model.plan
    if plan is not None and reading.task not in (AUTO, plan.task):
        raise UsageError(
            f"--task is {reading.task!r}, the file was made for {plan.task!r}",
            where=None if model is None else model.where,
            remedy="leave --task out, or operate on the original with --case",
        )
    return (plan or Plan()).task if reading.task == AUTO else reading.task


def choose(samples: Samples) -> str:
    """Return the task that answers are for, by their form.

    Raises:
        UsageError: they could be meant in two ways, or nothing is known of such a form.
    """
    if samples.task is not None:
        return samples.task
    form, tasks = tasks_for(samples.answers, words=samples.words is not None)
    if len(tasks) == 1:
        return tasks[0]
    raise UsageError(
        f"what the answers are is not clear: the data hold {form}",
        where=samples.where,
        remedy="say it: " + " or ".join(f"--task {name}" for name in tasks)
        if tasks
        else "name the task with --task; `surgeon plugins list` shows what there is",
    )


def ask_for(
    name: str, samples: Samples, plugins: Plugins | None, stored: Mapping[str, Any] | None = None
) -> Asked:
    """Read the answers of the samples by the task of this name; `stored` as in `find_task`."""
    task = find_task(name, plugins, stored)
    return Asked(name, task, read_answers(task, samples))


def read_answers(task: TaskCode, samples: Samples) -> Targets:
    """Read the answers of the samples, and what belongs together.

    Raises:
        DataError: answers that the task cannot read, with the sample.
    """
    try:
        answers = samples.answers_along(task.keeps)
        targets = task.read(() if answers is None else answers, ANSWERS)
    except DataError as error:
        found = _PLACE.fullmatch(error.where or "")
        where = samples.where if error.where == ANSWERS else error.where
        if found is not None:
            column, row, rest = found.groups()
            named = "" if column is None else f", column {column!r}"
            where = samples.answer_at(int(row)) + named + rest
        raise DataError(error.message, where=where, remedy=error.remedy) from None
    return replace(targets, groups=code_groups(samples.groups))


def onto_file(
    model: Model, task: TaskCode, targets: Targets, *, ignore_unknown: bool = False
) -> Targets:
    """Say answers in the outputs of a file, in their order.

    Raises:
        DataError: names that the file lacks, unless `ignore_unknown`; or none that it knows.
    """
    try:
        return task.onto(targets, model.labels or (), ignore_unknown=ignore_unknown)
    except DataError as error:
        where = error.where or model.where
        raise DataError(error.message, where=where, remedy=error.remedy) from None


def onto_plan(model: Model, task: TaskCode, targets: Targets) -> Targets:
    """Say answers in the outputs of a file whose plan is trained on.

    Raises:
        DataError: names that the file lacks, or another number of outputs.
    """
    assert model.plan is not None
    labels, count = model.labels, task.outputs(targets)
    if not labels:
        if model.plan.outputs not in (None, count) and not task.any_outputs:
            what = "labels" if targets.names else "outputs"
            raise DataError(
                f"the file's head has {model.plan.outputs} outputs, the data has {count} {what}",
                where=model.where,
                remedy="operate on the original with --case, or give the data it was made for",
            )
        return targets
    try:
        return task.onto(targets, labels, ignore_unknown=False)
    except DataError as error:
        raise DataError(
            error.message,
            where=model.where,
            remedy=f"it knows {listed(labels)}; with --case it gets a new head",
        ) from None


def require_learnt(task: TaskCode, targets: Targets, train: Targets) -> None:
    """Refuse names that no sample trains.

    Raises:
        DataError: naming them.
    """
    names = [
        name
        for name, all_in, learnt in zip(
            targets.names, task.counts(targets), task.counts(train), strict=False
        )
        if all_in and not learnt
    ]
    if names:
        raise DataError(
            f"{len(names)} classes have no sample to train on: {listed(names)}",
            remedy="put samples of every class into the training split",
        )
