"""What is predicted: opened whole, or part by part as it is answered.

What must not enter: running, answers.
"""

from __future__ import annotations

import math
from collections.abc import Collection
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
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from surgeon.data.flow import Part
    from surgeon.data.samples import Given, Samples
    from surgeon.model import Model
    from surgeon.options import Options
    from surgeon.plugin.manager import Plugins

    Report = Callable[..., None]


def open_inputs(
    model: Model, inputs: Any, to: Options, *, progress: Report | None, plugins: Plugins | None
) -> Intake:
    """Open what is predicted: paths of any medium, or arrays."""
    from surgeon.data.read import open_data
    from surgeon.data.read import open_inputs as read_inputs
    from surgeon.data.samples import Given
    from surgeon.runtime.places import choose_device

    pre, constants = find_preprocess(model, to.reading), constant_inputs(model, to.reading.inputs)
    given = _given(model, opened_by_plugin(inputs, plugins, labelled=False), constants)
    if isinstance(given, dict):
        samples = open_data(given, model.inputs, constants=constants, labelled=False)
    else:
        given = list(given)
        if to.reading.lines or not all(map(_is_named, given)):
            common = Given(model.inputs, (), constants=constants, rule=pre)
            samples = _together(_parts(given, common, to, most=math.inf))
        else:
            require_preprocess(model, given, pre, constants)
            samples = read_inputs(given, model.inputs, preprocess=pre, constants=constants)
    return Intake(
        model=model, samples=samples, preprocess=pre, constants=constants,
        device=choose_device(to.place.device), threads=to.place.threads, progress=progress,
    )  # fmt: skip


def _is_named(item: Any) -> bool:
    """Say whether an input is one that somebody named: no pattern, and nothing in memory."""
    from surgeon.data.flow import STDIN, is_pattern

    return isinstance(item, str | Path | dict) and not (
        is_pattern(item) or (not isinstance(item, dict) and str(item) == STDIN)
    )


def _together(parts: Iterator[Part]) -> Samples:
    """Return the samples of inputs that all become one part.

    Raises:
        DataError: they do not.
    """
    found = list(parts)
    samples = found[0].samples if found else None
    if samples is None or len(found) > 1:
        passed = [one for part in found for one in part.passed_over]
        raise DataError(
            "inputs of several kinds" if len(found) > 1 else "none of the inputs can be read",
            where="; ".join(f"{name}: {reason}" for name, reason in passed[:3]) or None,
            remedy="give one kind, or write the answers to a file with --out"
            if len(found) > 1
            else "check them; with --lines each line is a text",
        )
    first = found[0]
    samples.passed_over = (*samples.passed_over, *first.passed_over)
    return samples


def _parts(
    items: Iterable[Any], given: Given, to: Options, *, several: bool = True, **more: Any
) -> Iterator[Part]:
    from surgeon.data.flow import Flow

    flow = Flow(given, **more)
    if to.reading.lines:
        return flow.lines(items)
    return flow.parts(items, several=several, sure=isinstance(items, Collection))


def open_parts(
    model: Model, inputs: Any, to: Options, *, progress: Report | None, plugins: Plugins | None
) -> tuple[Intake, Iterator[Part]]:
    """Open what is predicted part by part; the intake has the samples of the first.

    Raises:
        DataError: there is nothing, or nothing of it can be a sample.
    """
    from surgeon.data.samples import Given
    from surgeon.runtime.places import choose_device

    pre, constants = find_preprocess(model, to.reading), constant_inputs(model, to.reading.inputs)
    given = _given(model, opened_by_plugin(inputs, plugins, labelled=False), constants)
    items = [given] if isinstance(given, dict) else given
    common = Given(model.inputs, (), constants=constants, rule=pre)
    several = not isinstance(items, Collection) or len(items) > 1
    parts = _parts(items, common, to, several=several)
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
            remedy="give pictures, texts or sounds, folders of them, a table or an .npz; with "
            "--lines each line is a text",
        )
    intake = Intake(
        model=model, samples=part.samples, preprocess=pre, constants=constants,
        device=choose_device(to.place.device), threads=to.place.threads, progress=progress,
    )  # fmt: skip
    return intake, chain(passed, parts)


def _given(model: Model, inputs: Any, constants: Mapping[str, Any]) -> Any:
    """Return what is predicted as arrays by input, or as something that gives inputs."""
    from PIL import Image

    if isinstance(inputs, str | Path | bytes | Image.Image) or hasattr(inputs, "features"):
        return [inputs]
    if isinstance(inputs, np.ndarray):
        return {info.name: inputs for info in model.inputs if info.name not in constants}
    if isinstance(inputs, dict):
        return without(inputs, gone_inputs(model))
    if isinstance(inputs, Collection) and len(inputs) == 1:
        (only,) = inputs
        only = without(only, gone_inputs(model))
        return only if isinstance(only, dict) else [only]
    return inputs
