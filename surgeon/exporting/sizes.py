"""`--size HxW`: pictures of one size, no other.

What must not enter: the batch, which is a form of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from surgeon.errors import UsageError
from surgeon.graph.preprocess import parse_size
from surgeon.graph.shapes import input_infos
from surgeon.records import Preprocess

if TYPE_CHECKING:
    from surgeon.exporting.given import Given
    from surgeon.options import Options


def named(asked: Options) -> str | None:
    """Return the name of the form, where it was asked for."""
    size = parse_size(asked.reading.size)
    return None if size is None else "size={}x{}".format(*size)


def make(made: onnx.ModelProto, given: Given) -> onnx.ModelProto:
    """Return the graph whose picture input has these sides.

    Raises:
        UsageError: it takes no pictures, or those of another size alone.
    """
    rule = given.model.preprocess
    size = parse_size(given.asked.reading.size)
    if size is None:
        return made
    height, width = size
    if not isinstance(rule, Preprocess):
        raise UsageError("the file takes no pictures", where="--size", remedy="leave it out")
    if tuple(rule.size) != (height, width):
        raise UsageError(
            f"the file was trained on pictures of {rule.size[0]}x{rule.size[1]}",
            where="--size",
            remedy=f"--size {rule.size[0]}x{rule.size[1]}; tune it anew for another",
        )
    first = 1 if rule.layout == "NHWC" else 2
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    names = {info.name for info in input_infos(made) if info.shape and len(info.shape) == 4}
    for value in copy.graph.input:
        if value.name not in names:
            continue
        for axis, side in ((first, height), (first + 1, width)):
            dim = value.type.tensor_type.shape.dim[axis]
            if dim.HasField("dim_value") and dim.dim_value not in (side, 0):
                raise UsageError(
                    f"the input {value.name!r} has {dim.dim_value} there",
                    where="--size",
                    remedy="leave it out",
                )
            dim.Clear()
            dim.dim_value = side
    return copy
