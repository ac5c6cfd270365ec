"""Quantised weights: integer initializers that stand for real numbers, by a fixed scale.

Two forms: the data input of a DequantizeLinear, and what exporters write by hand, Cast to a float,
perhaps minus a zero point, times a scale. What must not enter: quantised features (`quantized`),
training (`surgeon.torch_graph.straight_through`). A weight of a quantised operator (QLinearConv,
MatMulInteger, MatMulNBits) is none: no gradient passes such an operator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from surgeon.graph.walk import FLOATS, attribute, consumers, producers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    Read = Callable[[TensorProto], NDArray[Any]]

INTEGERS: Final = frozenset(
    {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4, TensorProto.INT2,
     TensorProto.UINT2, TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32}
)  # fmt: skip
"""Integer types that quantised weights are stored in."""

FLOAT8: Final = frozenset(
    {TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2,
     TensorProto.FLOAT8E5M2FNUZ}
)  # fmt: skip
"""Eight-bit floats, which a DequantizeLinear scales like integers."""

_STANDARD: Final = ("", "ai.onnx")
_DEQUANTIZE: Final = (*_STANDARD, "com.microsoft")
_MOVERS: Final = frozenset({"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"})
_BY_HAND: Final = INTEGERS - {TensorProto.INT32}  # int32 times a float: mostly positions


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """What the numbers of an initializer stand for: (stored − zero) · scale.

    Attributes:
        name: of the initializer.
        data_type: its ONNX element type.
        scale: float32, broadcasts to the initializer's shape.
        zero: float64, broadcasts too; whole numbers.
        applied: where float initializers scale or shift it by hand: (initializer, value made).
    """

    name: str
    data_type: int
    scale: NDArray[Any]
    zero: NDArray[Any]
    applied: frozenset[tuple[str, str]] = frozenset()


def find(model: ModelProto, read: Read = numpy_helper.to_array) -> dict[str, QuantizedWeight]:
    """Return {name: quantised weight} of a normalized model, in graph order.

    Every use of the initializer must be of one of the two forms, through movers at most (Reshape,
    Transpose; Gather where one scale serves all), with the same scale and zero point.

    Args:
        model: the model.
        read: how the values of a tensor are read.
    """
    stored = [t for t in model.graph.initializer if t.data_type in INTEGERS | FLOAT8]
    if not stored:
        return {}
    finder = _Finder(model, read)
    found = (finder.weight(tensor) for tensor in stored)
    return {weight.name: weight for weight in found if weight is not None}


def written_by_hand(model: ModelProto, weights: Iterable[QuantizedWeight]) -> set[str]:
    """Return the float initializers that are scales or zero points in Cast → (Sub) → Mul alone."""
    applied: dict[str, set[str]] = {}
    for weight in weights:
        for name, made in weight.applied:
            applied.setdefault(name, set()).add(made)
    if not applied:
        return set()
    users = consumers(model.graph)
    return {
        name for name, made in applied.items() if {node.output[0] for node in users[name]} == made
    }


class _NoWeightError(Exception):
    """A use that is of no known form."""


@dataclass(frozen=True, eq=False)
class _View:
    """How a value shows the elements of an initializer: `order` has their places; None = as stored.

    `mixed`: some elements are left out or repeated, so that only one scale for all makes sense.
    """

    shape: tuple[int, ...]
    order: NDArray[np.int64] | None = None
    mixed: bool = False

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """Bring what broadcasts to this view to the order in which the initializer is stored."""
        if not values.ndim or self.order is None:
            return values
        found = np.empty(self.order.size, values.dtype)
        found[self.order.reshape(-1)] = np.broadcast_to(values, self.shape).reshape(-1)
        return found


@dataclass(frozen=True, eq=False)
class _Use:
    """Scale and zero point that one use states, in the order in which they are applied."""

    view: _View
    scale: NDArray[Any]
    zero: NDArray[Any]
    applied: frozenset[tuple[str, str]] = frozenset()

    def broadcast(self, dims: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return both so that they broadcast to the initializer's shape."""
        finite = bool((np.abs(self.scale) <= np.finfo(np.float32).max).all())
        if not finite or not np.array_equal(self.zero, np.rint(self.zero)):
            raise _NoWeightError
        placed = []
        for values in (self.scale.astype(np.float32), self.zero):
            ordered = self.view.stored(values)
            placed.append(ordered.reshape(dims) if ordered is not values else values)
            if np.broadcast_shapes(placed[-1].shape, dims) != dims:
                raise _NoWeightError
        return placed[0], placed[1]


class _Finder:
    def __init__(self, model: ModelProto, read: Read) -> None:
        self._read = read
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = producers(model.graph)
        self._users = consumers(model.graph)
        self._outputs = {value.name for value in model.graph.output}

    def weight(self, tensor: TensorProto) -> QuantizedWeight | None:
        dims = tuple(tensor.dims)
        try:
            uses = self._uses(tensor.name, _View(dims), tensor)
            stated = [use.broadcast(dims) for use in uses]
        except (_NoWeightError, ValueError, IndexError):
            return None
        if not stated or not math.prod(dims):
            return None
        scale, zero = stated[0]
        for pair in stated[1:]:
            for mine, its in zip((scale, zero), pair, strict=True):
                if not np.array_equal(np.broadcast_to(mine, dims), np.broadcast_to(its, dims)):
                    return None
        applied = frozenset[tuple[str, str]]().union(*(use.applied for use in uses))
        return QuantizedWeight(tensor.name, tensor.data_type, scale, zero, applied)

    def _uses(self, name: str, view: _View, tensor: TensorProto) -> list[_Use]:
        """Return what every use of a value says its scale is."""
        if name in self._outputs:
            raise _NoWeightError
        found = []
        for node in self._users.get(name, ()):
            if [slot for slot, item in enumerate(node.input) if item == name] != [0]:
                raise _NoWeightError
            if node.op_type == "DequantizeLinear" and node.domain in _DEQUANTIZE:
                found.append(self._dequantized(node, view))
            elif node.domain not in _STANDARD:
                raise _NoWeightError
            elif node.op_type == "Cast" and tensor.data_type in _BY_HAND:
                found += self._by_hand(node, view, tensor)
            else:
                found += self._uses(node.output[0], self._moved(node, view), tensor)
        return found

    def _moved(self, node: NodeProto, view: _View) -> _View:
        """Return the view behind an operator that moves elements."""
        if node.op_type == "Gather":
            return _View((), mixed=True)
        if node.op_type not in _MOVERS:
            raise _NoWeightError
        if view.mixed:
            return view
        order = view.order
        if order is None:
            order = np.arange(math.prod(view.shape)).reshape(view.shape)
        if node.op_type == "Transpose":
            permutation = attribute(node, "perm")
            order = order.transpose(None if permutation is None else list(permutation.ints))
        elif node.op_type == "Reshape":
            order = self._reshaped(node, order)
        elif node.op_type == "Flatten":
            axis = attribute(node, "axis")
            place = 1 if axis is None else axis.i
            order = order.reshape(math.prod(order.shape[:place]), -1)
        elif node.op_type != "Identity":
            order = self._squeezed(node, order)
        return _View(order.shape, order)

    def _reshaped(self, node: NodeProto, order: NDArray[np.int64]) -> NDArray[np.int64]:
        known = attribute(node, "shape")
        wanted = list(known.ints) if known is not None else self._ints(node, 1)
        zero = attribute(node, "allowzero")
        if not (zero is not None and zero.i):
            wanted = [order.shape[i] if dim == 0 else dim for i, dim in enumerate(wanted)]
        return order.reshape(wanted)

    def _squeezed(self, node: NodeProto, order: NDArray[np.int64]) -> NDArray[np.int64]:
        known = attribute(node, "axes")
        if known is not None:
            axes = list(known.ints)
        else:
            axes = self._ints(node, 1) if len(node.input) > 1 else []
        if node.op_type == "Unsqueeze":
            return np.expand_dims(order, tuple(axes))
        return order.squeeze(tuple(axes) if axes else None)

    def _ints(self, node: NodeProto, slot: int) -> list[int]:
        values = self._constant(node.input[slot])
        return [int(value) for value in values.reshape(-1)]

    # ── the two forms ────────────────────────────────────────────────────────────────────────────

    def _dequantized(self, node: NodeProto, view: _View) -> _Use:
        axis, block = attribute(node, "axis"), attribute(node, "block_size")
        place, size = 1 if axis is None else axis.i, 0 if block is None else block.i
        parts = []
        for name in [*node.input[1:3], ""][:2]:
            if name:
                parts.append(_spread(self._constant(name).astype(np.float64), view, place, size))
            else:
                parts.append(np.zeros((), np.float64))
        return _Use(view, parts[0], parts[1])

    def _by_hand(self, cast: NodeProto, view: _View, tensor: TensorProto) -> list[_Use]:
        """Return the scales of Cast → (Sub) → Mul; a table of zeros and ones is a mask."""
        to = attribute(cast, "to")
        if to is None or to.i not in FLOATS:
            raise _NoWeightError
        values = self._read(tensor)
        if not ((values != 0) & (values != 1)).any():
            raise _NoWeightError
        found = []
        for node in self._readers(cast.output[0]):
            zero, shift = np.zeros((), np.float64), None
            value, products = cast.output[0], [node]
            if node.op_type == "Sub" and node.input[0] == value:
                zero, shift = self._operand(node.input[1], view), node.input[1]
                value, products = node.output[0], self._readers(node.output[0])
            for product in products:
                others = [item for item in product.input if item != value]
                if product.op_type != "Mul" or len(others) != 1:
                    raise _NoWeightError
                scale = self._operand(others[0], view)
                applied = {(others[0], product.output[0])}
                if shift is not None:
                    applied.add((shift, node.output[0]))
                floats = frozenset(pair for pair in applied if self._is_float(pair[0]))
                found.append(_Use(view, scale, zero, floats))
        return found

    def _is_float(self, name: str) -> bool:
        return name in self._tensors and self._tensors[name].data_type in FLOATS

    def _readers(self, name: str) -> list[NodeProto]:
        if name in self._outputs or not self._users.get(name):
            raise _NoWeightError
        return self._users[name]

    def _operand(self, name: str, view: _View) -> NDArray[Any]:
        """Return the constant that a whole weight is multiplied by, or reduced by."""
        values = self._constant(name).astype(np.float64)
        if values.size == 1:
            return values.reshape(())
        if view.mixed or np.broadcast_shapes(values.shape, view.shape) != view.shape:
            raise _NoWeightError
        return values

    def _constant(self, name: str) -> NDArray[Any]:
        """Return a value that is written in the file: initializer, Constant, or a Cast of one."""
        if name in self._tensors:
            return self._read(self._tensors[name])
        maker = self._makers.get(name)
        if maker is not None and maker.op_type == "Cast":
            return self._constant(maker.input[0])
        if maker is None or maker.op_type != "Constant":
            raise _NoWeightError
        for item in maker.attribute:
            if item.name == "value":
                return self._read(item.t)
            if item.name in {"value_float", "value_int"}:
                return np.asarray(item.f if item.name == "value_float" else item.i)
            if item.name in {"value_floats", "value_ints"}:
                return np.asarray(item.floats if item.name == "value_floats" else item.ints)
        raise _NoWeightError


def _spread(values: NDArray[Any], view: _View, axis: int, block: int) -> NDArray[Any]:
    """Return a scale or zero point of a DequantizeLinear so that it broadcasts to what it reads."""
    if values.size == 1:
        return values.reshape(())
    if view.mixed:
        raise _NoWeightError
    shape = view.shape
    axis %= max(len(shape), 1)
    if not block and values.ndim == 1:
        return values.reshape([-1 if place == axis else 1 for place in range(len(shape))])
    if not block and values.shape[axis] == shape[axis]:
        return values
    block = block or -(-shape[axis] // values.shape[axis])
    return values.repeat(block, axis).take(range(shape[axis]), axis)
