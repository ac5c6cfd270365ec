"""Samples for any model and any task: random inputs, and answers that the task can read.

What must not enter: names of tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper

from surgeon.errors import DataError, SurgeonError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from surgeon.model import Model
    from surgeon.records import TensorInfo
    from surgeon.tasks.base import TaskCode

COUNT = 48
"""Samples of a small network."""
LENGTH, SIDE = 6, 64
"""What an open axis of a text or series becomes, and one of a picture."""


def inputs_for(model: Model, count: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Return random values of every graph input, `count` samples along its batch axis.

    Token ids stay within the table that they pick from; a mask covers at least the first place.
    """
    random, found = np.random.default_rng(seed), {}
    values: NDArray[Any]
    for info in model.inputs:
        shape = _shape(info, count)
        dtype = helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(info.dtype.upper()))
        if np.issubdtype(dtype, np.integer) or dtype == np.bool_:
            values = random.integers(0, _kinds(model, info.name), shape)
            if "mask" in info.name and values.ndim > 1:
                values[:, 0] = 1
        else:
            values = random.standard_normal(shape)
        found[info.name] = values.astype(dtype)
    return found


def _shape(info: TensorInfo, count: int) -> tuple[int, ...]:
    dims = list(info.shape or ())
    wide = SIDE if len(dims) == 4 else LENGTH
    return tuple(
        count if axis == info.batch_axis else dim if isinstance(dim, int) and dim > 0 else wide
        for axis, dim in enumerate(dims)
    )


def _kinds(model: Model, name: str) -> int:
    """Return from how many rows an input picks; two where it picks from no table."""
    stored = {tensor.name: tensor.dims for tensor in model.proto.graph.initializer}
    sizes = [
        stored[node.input[0]][0]
        for node in model.proto.graph.node
        if node.op_type == "Gather" and node.input[1] == name and node.input[0] in stored
    ]
    return min(sizes, default=2)


def answers_for(task: TaskCode, places: tuple[int, ...], count: int, seed: int = 1) -> Any:
    """Return answers of `count` samples, in the first usual form that the task reads.

    Args:
        task: reads them.
        places: of a sample that each have an answer, such as its height and width.
        count: of samples.
        seed: they are drawn with.

    Raises:
        DataError: it reads none of them.
    """
    refused = []
    for column in _columns(places, count, np.random.default_rng(seed)):
        try:
            task.check(task.read(column, "answers"))
        except SurgeonError as error:
            refused.append(error.message)
        else:
            return column
    raise DataError(
        f"the task reads none of the usual answers: {'; '.join(dict.fromkeys(refused))}",
        remedy="give some: surgeon.testing.check(…, answers=…)",
    )


def _columns(places: tuple[int, ...], count: int, random: np.random.Generator) -> Iterator[Any]:
    """Yield answers: names, whole numbers, labels, numbers; or one for each place of a sample."""
    codes = np.arange(count) % 3
    random.shuffle(codes)
    if places:
        yield random.integers(0, 3, (count, *places))
        yield random.standard_normal((count, *places)).astype(np.float32)
        return
    yield np.array(["one", "two", "three"])[codes]
    yield codes
    yield random.integers(0, 2, (count, 3)).astype(bool)
    yield random.standard_normal(count).astype(np.float32)
    yield random.standard_normal((count, 2)).astype(np.float32)
