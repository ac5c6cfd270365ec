"""Weights that an adapter may stand for: matrices and kernels, with the axis of what they make.

What must not enter: which of them are trained, adapters themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from surgeon.graph.walk import attribute, consumers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import ModelProto, NodeProto

PASSED: Final = frozenset({"Identity", "Cast", "DequantizeLinear", "Sub", "Mul"})
"""Operators through which a stored weight keeps its axes: quantised ones are scaled by them."""


@dataclass(frozen=True)
class Adaptable:
    """A weight of at least two axes that Gemm, MatMul, Conv or Gather read.

    Attributes:
        name: of the initializer.
        axis: along which what it makes lies: outputs, channels, the numbers of an embedding.
        operator: that reads it: Gemm, MatMul, Conv or Gather.
        nodes: names of those that read it, or of what they make where they have none.
        depthwise: whether it is of a convolution whose channels have a kernel each.
    """

    name: str
    axis: int
    operator: str
    nodes: tuple[str, ...]
    depthwise: bool = False


def adaptable(model: ModelProto, names: Iterable[str], scaled: Iterable[str]) -> list[Adaptable]:
    """Return those of some initializers that an adapter may stand for, in their order.

    Args:
        model: normalized.
        names: of initializers.
        scaled: those that are stored as integers: operators that scale them lie in between.
    """
    users, scaled = consumers(model.graph), set(scaled)
    dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    found = (
        _weight(name, dims[name], users, scaled=name in scaled)
        for name in names
        if len(dims.get(name, ())) >= 2
    )
    return [one for one in found if one is not None]


def _weight(
    name: str, dims: tuple[int, ...], users: dict[str, list[NodeProto]], *, scaled: bool
) -> Adaptable | None:
    """Follow a weight to all that reads it; None where something else does."""
    waiting, uses, nodes, depthwise = [(name, tuple(range(len(dims))))], [], [], False
    while waiting:
        value, order = waiting.pop()
        for node in users.get(value, ()):
            if node.op_type in PASSED and (scaled or len(node.input) == 1):
                waiting.append((node.output[0], order))
            elif node.op_type == "Transpose":
                perm = attribute(node, "perm")
                turned = order[::-1] if perm is None else tuple(order[place] for place in perm.ints)
                waiting.append((node.output[0], turned))
            else:
                axis = _axis(node, value, order)
                if axis is None:
                    return None
                uses.append((axis, node.op_type))
                nodes.append(node.name or node.output[0])
                group = attribute(node, "group")
                depthwise = depthwise or (group is not None and group.i > 1 == dims[order[1]])
    return Adaptable(name, *uses[0], tuple(nodes), depthwise) if uses else None


def _axis(node: NodeProto, value: str, order: tuple[int, ...]) -> int | None:
    """Return the axis of a stored weight that an operator turns into what it makes, or None."""

    def stated(name: str) -> int:
        found = attribute(node, name)
        return 0 if found is None else found.i

    slots = [place for place, one in enumerate(node.input) if one == value]
    match node.op_type, slots:
        case "Conv", [1]:
            return order[0]
        case "Gemm", [1]:
            return order[0 if stated("transB") else 1]
        case "Gemm", [0]:
            return order[1 if stated("transA") else 0]
        case "MatMul", [1]:
            return order[-1]
        case "MatMul", [0]:
            return order[-2]
        case "Gather", [0]:
            return order[-1 if stated("axis") % len(order) == 0 else 0]
    return None
