"""What is predicted: opened whole, or part by part as it is answered.

What must not enter: running, answers.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import DataError
from surgeon.intake import (
    Intake,
    constant_inputs,
    find_preprocess,
    gone_inputs,
    opened_by_plugin,
    require_preprocess,
    without,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from surgeon.data.flow import Part
    from surgeon.model import Model
    from surgeon.options import Options
    from surgeon.plugin.manager import Plugins

    Report = Callable[..., None]


def open_inputs(
    model: Model, inputs: Any, to: Options, *, progress: Report | None, plugins: Plugins | None
) -> Intake:
    """Open what is predicted: paths of any medium, or arrays."""
    from surgeon.data.flow import named_by
    from surgeon.data.read import open_data
    from surgeon.data.read import open_inputs as read_inputs
    from surgeon.runtime.places import choose_device

    pre, constants = find_preprocess(model, to.reading), constant_inputs(model, to.reading.inputs)
    given = _given(model, opened_by_plugin(inputs, plugins, labelled=False), constants)
    if isinstance(given, list):
        given = [item for item, _ in named_by(given)]
    require_preprocess(model, [given] if isinstance(given, dict) else given, pre, constants)
    if isinstance(given, dict):
        samples = open_data(given, model.inputs, constants=constants, labelled=False)
    else:
        samples = read_inputs(given, model.inputs, preprocess=pre, constants=constants)
    return Intake(
        model=model, samples=samples, preprocess=pre, constants=constants,
        device=choose_device(to.place.device), threads=to.place.threads, progress=progress,
    )  # fmt: skip


def open_parts(
    model: Model, inputs: Any, to: Options, *, progress: Report | None, plugins: Plugins | None
) -> tuple[Intake, Iterator[Part]]:
    """Open what is predicted part by part; the intake has the samples of the first.

    Raises:
        DataError: there is nothing, or nothing of it can be a sample.
    """
    from surgeon.data.flow import Flow
    from surgeon.data.samples import Given
    from surgeon.runtime.places import choose_device

    pre, constants = find_preprocess(model, to.reading), constant_inputs(model, to.reading.inputs)
    given = _given(model, opened_by_plugin(inputs, plugins, labelled=False), constants)
    items = [given] if isinstance(given, dict) else given
    flow = Flow(Given(model.inputs, (), constants=constants, rule=pre))
    parts = flow.parts(items, several=len(items) > 1)
    passed: list[Part] = []
    for part in parts:
        passed.append(part)
        if part.samples is not None:
            break
    else:
        reasons = [one for part in passed for one in part.passed_over]
        raise DataError(
            f"none of {len(reasons)} inputs can be read"
            if reasons
            else "there is nothing to predict",
            where="; ".join(f"{name}: {reason}" for name, reason in reasons[:3]) or None,
            remedy="give pictures, texts or sounds, folders of them, a table or an .npz",
        )
    intake = Intake(
        model=model, samples=part.samples, preprocess=pre, constants=constants,
        device=choose_device(to.place.device), threads=to.place.threads, progress=progress,
    )  # fmt: skip
    return intake, chain(passed, parts)


def _given(model: Model, inputs: Any, constants: Mapping[str, Any]) -> Any:
    """Return what is predicted as arrays by input, or as a list of paths."""
    if isinstance(inputs, str | Path):
        return [inputs]
    if isinstance(inputs, np.ndarray):
        return {info.name: inputs for info in model.inputs if info.name not in constants}
    if isinstance(inputs, dict):
        return without(inputs, gone_inputs(model))
    if len(inputs) == 1:
        only = without(inputs[0], gone_inputs(model))
        return only if isinstance(only, dict) else [only]
    return list(inputs)
