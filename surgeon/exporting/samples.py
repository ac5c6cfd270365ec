"""Samples of data as a file takes them: some, chosen by a seed, the same whenever it is asked.

What must not enter: what is done with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon import intake
from surgeon.errors import DataError, UsageError
from surgeon.inputs import open_inputs
from surgeon.runtime.proof import fill_batch

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from surgeon.exporting.given import Feeds, Given


def some(count: int, most: int, seed: int = 0) -> NDArray[np.int64]:
    """Return at most so many of `count` places, in an order drawn by a seed."""
    return np.random.default_rng(seed).permutation(count)[:most]


def feeds_of(given: Given, data: Any, made: onnx.ModelProto, most: int) -> list[Feeds]:
    """Return inputs of the source, one sample each, by the preprocessing of the file.

    Args:
        given: the export.
        data: with answers or without.
        made: whose batch is filled where it is fixed.
        most: so many, drawn by a seed.

    Raises:
        DataError: they do not fit, or none can be read.
    """
    try:  # where there are answers, files that hold them are no samples: masks, columns
        opened: intake.Intake = intake.open_labelled(
            given.model, data, given.asked, progress=None, plugins=given.plugins
        )
    except (DataError, UsageError):  # a table may leave open which column they are
        opened = open_inputs(given.model, data, given.asked, progress=None, plugins=given.plugins)
    samples = opened.samples
    rows = some(samples.n, most)
    found: list[Feeds] = []
    for done, row in enumerate(rows, 1):
        one = samples.load(int(row))
        if isinstance(one, dict):
            found.append(fill_batch(made, one))
        given.tell("samples", done, len(rows))
    if not found:
        raise DataError("no sample can be read", where=str(data), remedy="give samples of the task")
    return found
