"""What a file itself says of the pictures it takes: its metadata, and what it does to them first.

A graph that begins with Sub, Div or Mul by constants normalizes by itself; the metadata that the
ONNX specification names for pictures say the order and range of pixels. What must not enter:
measuring, and any guess that neither of the two supports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper, numpy_helper

from surgeon.graph.envelope import metadata
from surgeon.graph.walk import consumers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

NAMED_RANGES = {
    "nominalrange_0_255": "raw",
    "normalized_0_1": "zero-one",
    "normalized_1_1": "minus-one-one",
}
NAMED_ORDERS = {"rgb8": "RGB", "bgr8": "BGR", "gray8": "L", "rgba8": "RGB", "bgra8": "BGR"}
"""Values of the specification's Image.NominalPixelRange and Image.BitmapPixelFormat."""
LIMITS = {"raw": (0.0, 255.0), "zero-one": (0.0, 1.0), "minus-one-one": (-1.0, 1.0)}
"""Least and greatest value of a pixel, by what the range is called."""
NARROW, WIDE, CENTRED = 0.5, 300.0, 0.75
"""Widths between which the values behind a normalization lie, and how far from 0 their middle is at
most, in widths: x / 255 gives a width of 1, the subtraction of a mean alone one of 255."""
_PASSES = frozenset(
    {"Cast", "Identity", "Transpose", "Pad", "Resize", "Upsample", "Dropout", "Unsqueeze"}
)


@dataclass(frozen=True)
class Intake:
    """What a file says of its picture input.

    Attributes:
        range: raw, zero-one or minus-one-one where its metadata say it.
        order: RGB, BGR or L where they say it.
        operators: what the graph does to pictures before its first weight, arithmetic only.
        ranges: those of `LIMITS` for which that arithmetic gives values of usual size; all of
            them where there is none.
    """

    range: str | None
    order: str | None
    operators: tuple[str, ...]
    ranges: tuple[str, ...]

    @property
    def note(self) -> str | None:
        """What people should know of it, in a few words."""
        said = []
        if self.range or self.order:
            said.append(
                f"the file's metadata say {' '.join(filter(None, (self.range, self.order)))}"
            )
        if self.operators:
            said.append(f"the graph begins with {', '.join(self.operators)}")
        return "; ".join(said) or None


def read_intake(model: ModelProto, name: str) -> Intake:
    """Read what a file says of the graph input `name`, which takes pictures."""
    stated = {key.lower(): text.strip().lower() for key, text in metadata(model).items()}
    operators, factor, offset = _arithmetic(model, name)
    ranges = tuple(
        called for called, (low, high) in LIMITS.items() if _usual(factor, offset, low, high)
    )
    return Intake(
        range=NAMED_RANGES.get(stated.get("image.nominalpixelrange", "")),
        order=NAMED_ORDERS.get(stated.get("image.bitmappixelformat", "")),
        operators=operators,
        ranges=ranges if operators and ranges else tuple(LIMITS),
    )


def _usual(factor: NDArray[Any], offset: NDArray[Any], low: float, high: float) -> bool:
    """Whether values from `low` to `high` come out of factor · x + offset with a usual size."""
    first, last = factor * low + offset, factor * high + offset
    width = float(np.abs(last - first).mean())
    middle = float(np.abs((first + last) / 2).mean())
    return NARROW <= width <= WIDE and middle <= CENTRED * width


def _arithmetic(model: ModelProto, name: str) -> tuple[tuple[str, ...], NDArray[Any], NDArray[Any]]:
    """Follow the input to its first weight: arithmetic on the way, and factor and offset of it."""
    users = consumers(model.graph)
    known = _constants(model)
    operators: list[str] = []
    factor, offset = np.ones(1), np.zeros(1)
    value = name
    while True:
        readers = [node for node in users.get(value, []) if node.op_type not in {"Shape", "Size"}]
        if len(readers) != 1 or not readers[0].output:
            break
        node = readers[0]
        if node.op_type not in _PASSES:
            step = _step(node, value, known)
            if step is None:
                break
            times, plus = step
            try:
                factor, offset = times * factor, times * offset + plus
            except ValueError:  # shapes of one number per channel and of something else
                break
            operators.append(node.op_type)
        value = node.output[0]
    return tuple(operators), factor, offset


def _step(
    node: NodeProto, value: str, known: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return factor and offset of one arithmetic node, or None where it is something else."""
    if node.op_type not in {"Add", "Sub", "Mul", "Div"} or len(node.input) != 2:
        return None
    first = node.input[0] == value
    other = known.get(node.input[1 if first else 0])
    if other is None or other.size not in {1, 3}:
        return None
    number = other.astype(np.float64).reshape(-1)
    one, nothing = np.ones(1), np.zeros(1)
    match node.op_type:
        case "Add":
            return one, number
        case "Sub":
            return (one, -number) if first else (-one, number)
        case "Mul":
            return number, nothing
        case _:
            return (1 / number, nothing) if first and number.all() else None


def _constants(model: ModelProto) -> dict[str, NDArray[Any]]:
    """Return the small constants by name: initializers, and Constant nodes."""
    found = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if int(np.prod(tensor.dims, dtype=np.int64)) in {1, 3} and not tensor.external_data
    }
    for node in model.graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1:
            content = helper.get_attribute_value(node.attribute[0])
            try:
                array = (
                    numpy_helper.to_array(content)
                    if node.attribute[0].name == "value"
                    else np.asarray(content)
                )
            except TypeError:
                continue  # sparse
            if array.size in {1, 3} and array.dtype.kind in "fiu":
                found[node.output[0]] = array
    return found


__all__ = ["LIMITS", "Intake", "read_intake"]
