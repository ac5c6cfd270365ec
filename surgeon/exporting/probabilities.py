"""`--probabilities`: what makes probabilities of a file's scores, as its task says."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from surgeon.errors import UsageError
from surgeon.exporting import temperature
from surgeon.graph import envelope, forms
from surgeon.options import Options
from surgeon.targets import task_of
from surgeon.tasks.find import find_task

if TYPE_CHECKING:
    import onnx

    from surgeon.exporting.given import Given

ACTIVATIONS = {"softmax": "Softmax", "logistic": "Sigmoid"}
"""What makes probabilities of scores, by the link of a task."""


def make(made: onnx.ModelProto, given: Given) -> onnx.ModelProto:
    """Return the graph with Softmax or Sigmoid behind it, and a temperature if asked for."""
    kind, axis = _activation(given)
    data = given.asked.delivery.calibrate
    if data is not None:
        found = temperature.measured(given, data)
        made = forms.cooled(made, found)
        given.answers.append(lambda scores: scores / np.float32(found))
        given.stated["temperature"] = found
        envelope.put(made, temperature.KEY, found)
        temperature.move_thresholds(made, found)
    given.answers.append(partial(forms.activated, kind=kind, axis=axis))
    return forms.with_activation(made, kind, axis)


def _activation(given: Given) -> tuple[str, int]:
    """Return what makes probabilities of a file's answers, and the axis of the classes.

    Raises:
        UsageError: its answers are no scores of classes, or what they are is not known.
    """
    model = given.model
    if model.plan is None:
        raise UsageError(
            "the file carries no plan, so that what its answers are is not known",
            where="--probabilities",
            remedy="export a file that `surgeon finetune` wrote",
        )
    name = task_of(model, Options().reading)
    task = find_task(name, given.plugins, model.decoding)
    found = ACTIVATIONS.get(task.link or "")
    if found is None:
        raise UsageError(
            f"answers of the task {name!r} are no probabilities",
            where="--probabilities",
            remedy="leave it out",
        )
    return found, 1 if len(task.keeps) > 1 else -1
