"""A head of more outputs: new ones stand behind the old, whose weights stay.

What must not enter: which outputs, and what is learnt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, numpy_helper

from surgeon.errors import UnsupportedError
from surgeon.graph.weights import initializers, to_array

if TYPE_CHECKING:
    from collections.abc import Sequence


def widened(model: ModelProto, weights: Sequence[str], outputs: int, seed: int) -> ModelProto:
    """Return a copy whose head gives more outputs; nodes, names and all else stay.

    The rows of new outputs are drawn as a new head's are; their biases are zero.

    Args:
        model: it ends in the head.
        weights: of the head; weight [outputs, …] and bias [outputs] of its last layer come last.
        outputs: that it shall have.
        seed: of the new rows.

    Raises:
        UnsupportedError: weights of another form.
    """
    result = ModelProto()
    result.CopyFrom(model)
    known, names = initializers(result), list(weights[-2:])
    shapes = [tuple(known[name].dims) for name in names if name in known]
    if len(shapes) != 2 or len(shapes[1]) != 1 or shapes[0][:1] != shapes[1]:
        raise UnsupportedError(
            f"outputs cannot be added to a head whose last weights are {[list(s) for s in shapes]}",
            where=", ".join(names),
            remedy="a head that ends in weight [outputs, …] and bias [outputs] is needed",
        )
    more = outputs - shapes[1][0]
    bound = 1.0 / np.sqrt(max(int(np.prod(shapes[0][1:])), 1))
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = (random.uniform(-bound, bound, (more, *shapes[0][1:])), np.zeros(more))
    for name, rows in zip(names, drawn, strict=True):
        old = to_array(known[name])
        joined = np.concatenate([old, rows.astype(old.dtype)])
        known[name].CopyFrom(numpy_helper.from_array(joined, name))
    for value in (*result.graph.output, *result.graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if value.name == result.graph.output[0].name and dims:
            dims[-1].dim_value = outputs
    return result
