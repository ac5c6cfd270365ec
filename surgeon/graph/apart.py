"""Whether samples stay apart on their way through a graph, as far as its operators tell.

A node of which it is known where samples lie, and that works on each of them, is proven to keep
them apart; one that is unknown, has a body, or reduces along the batch is doubtful. Doubt refuses
nothing: it says how much is worth running to find out (`surgeon.runtime.neighbours`). What must not
enter: sessions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.graph.shapes import input_infos
from surgeon.graph.walk import attribute, reads, subgraphs
from surgeon.graph.weights import to_array

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto, NodeProto, TensorProto

    from surgeon.graph.shapes import Shapes

EACH = frozenset(
    {"Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BiasGelu", "Cast",
     "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "DequantizeLinear", "Div", "Dropout", "Elu",
     "Equal", "Erf", "Exp", "Expand", "FastGelu", "Floor", "Gelu", "Greater", "GreaterOrEqual",
     "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual",
     "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow",
     "QLinearAdd", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QuantizeLinear",
     "QuickGelu", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
     "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu",
     "Where", "Xor"}
)  # fmt: skip
"""Operators on each element, of values that are broadcast against each other."""
FIRST = frozenset(
    {"Attention", "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DeformConv",
     "DepthToSpace", "EmbedLayerNormalization", "Flatten", "FusedConv", "FusedGemm", "Gemm",
     "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GridSample", "GroupNorm",
     "GroupNormalization", "InstanceNormalization", "LRN", "LpPool", "MaxPool",
     "MultiHeadAttention", "QAttention", "QGemm", "QLinearAveragePool", "QLinearConv",
     "QLinearGlobalAveragePool",
     "Reshape", "Resize", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
     "SpaceToDepth", "Tile", "Upsample"}
)  # fmt: skip
"""Operators that take samples along axis 0, each as a whole, and give them there."""
ALONG = {
    "ArgMax": 0, "ArgMin": 0, "Concat": 0, "GatherElements": 0, "Hardmax": -1,
    "LayerNormalization": -1, "LogSoftmax": -1, "LpNormalization": -1, "QLinearConcat": 0,
    "QLinearSoftmax": -1, "RMSNormalization": -1, "SimplifiedLayerNormalization": -1, "Softmax": -1,
    "Split": 0, "TopK": -1,
}  # fmt: skip
"""{operator that works along one axis, or along all from it on: the axis where it says none}"""


def doubtful_nodes(model: ModelProto, shapes: Shapes) -> list[NodeProto]:
    """Return the nodes that may let one sample of a batch change what another one gives."""
    constants = {t.name: t for t in model.graph.initializer}
    constants |= {
        node.output[0]: value.t
        for node in model.graph.node
        if node.op_type == "Constant" and (value := attribute(node, "value")) is not None
    }
    judge = _Judge(shapes, constants)
    return [node for node in model.graph.node if not judge.keeps_apart(node)]


def take_one(model: ModelProto) -> ModelProto:
    """Return a copy whose batch is fixed at 1, in the inputs, the outputs and what lies between."""
    result = type(model)()
    result.CopyFrom(model)
    graph = result.graph
    symbols = set()
    axes = {info.name: info.batch_axis for info in input_infos(model)}
    fixed = [value for value in graph.input if axes.get(value.name) is not None]
    dims = [value.type.tensor_type.shape.dim[axes[value.name] or 0] for value in fixed]
    dims += [dim for value in graph.output for dim in value.type.tensor_type.shape.dim[:1]]
    for dim in dims:
        symbols |= {dim.dim_param} - {""}
        dim.dim_value = 1
    for value in [*graph.input, *graph.output, *graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_value = 1
    return result


class _Judge:
    """Rules of operators; samples lie along one axis of exactly the batch's size, or nowhere."""

    def __init__(self, shapes: Shapes, constants: Mapping[str, TensorProto]) -> None:
        self.shapes, self.constants = shapes, constants

    def keeps_apart(self, node: NodeProto) -> bool:
        taken = [name for name in reads(node) if name in self.shapes.data]
        made = [name for name in node.output if name and name in self.shapes.data]
        if not taken or not made:
            return True  # weights and shapes alone
        values = [*taken, *made]
        if all(self._same_for_all(name) for name in values):
            return True
        if any(True for _ in subgraphs(node)):
            return False
        batched = [name for name in values if name in self.shapes.batch_axes]
        known = all(self._axis(name) is not None for name in batched)
        if not known or any(name not in self.shapes.batch_axes for name in made):
            return False
        return self._by_operator(node, taken, made)

    def _by_operator(self, node: NodeProto, taken: list[str], made: list[str]) -> bool:
        kind = node.op_type
        axes = {name: self._axis(name) for name in [*taken, *made]}
        first = all(axis in (0, None) for axis in axes.values())
        if kind in EACH:
            return len({self._from_right(n) for n in axes if axes[n] is not None}) == 1
        if kind in FIRST:
            turned = attribute(node, "transA")
            return first and axes.get(node.input[0]) == 0 and not (turned is not None and turned.i)
        if kind in ALONG:
            said = attribute(node, "axis")
            axis = ALONG[kind] if said is None else said.i
            return first and axis % self._rank(taken[0]) > 0
        if kind.startswith("Reduce"):
            chosen = self._ints(node, "axes", 1)
            return first and bool(chosen) and all(a % self._rank(taken[0]) for a in chosen or ())
        return self._moves(node, axes, first=first)

    def _moves(self, node: NodeProto, axes: Mapping[str, int | None], *, first: bool) -> bool:
        kind, data = node.op_type, node.input[0] if node.input else ""
        if kind in ("Transpose", "Squeeze", "Unsqueeze"):
            return True
        if kind in ("Slice", "Pad"):
            chosen = self._ints(node, "axes", 3)
            if kind == "Pad":
                pads = self._ints(node, "pads", 1)
                half = 0 if pads is None else len(pads) // 2
                chosen = chosen or list(range(half))
                chosen = [a for p, a in enumerate(chosen) if pads and (pads[p] or pads[p + half])]
                return first and pads is not None and all(a % self._rank(data) for a in chosen)
            return first and bool(chosen) and all(a % self._rank(data) for a in chosen or ())
        if kind == "Gather":
            said = attribute(node, "axis")
            axis = 0 if said is None else said.i
            if data not in self.shapes.data:  # a table
                return axis == 0 and axes[node.input[1]] == axes[node.output[0]]
            inner = node.input[1] not in self.shapes.data
            return inner and first and axis % self._rank(data) > 0
        if kind in ("MatMul", "QLinearMatMul", "FusedMatMul"):
            return self._product(node, axes) and not node.domain.startswith("com.")
        if kind in ("LSTM", "GRU", "RNN"):
            said = attribute(node, "layout")
            return axes.get(data) == (0 if said is not None and said.i else 1)
        return False

    def _product(self, node: NodeProto, axes: Mapping[str, int | None]) -> bool:
        left, right = node.input[0], node.input[3 if node.op_type == "QLinearMatMul" else 1]
        if axes.get(right) is None:
            axis = axes.get(left)
            return axis is not None and axis < self._rank(left) - 1
        apart = self._from_right(right) > 2
        return apart and (
            axes.get(left) is None or self._from_right(left) == self._from_right(right)
        )

    def _same_for_all(self, name: str) -> bool:
        return name in self.shapes.one and name not in self.shapes.batch_axes

    def _axis(self, name: str) -> int | None:
        """Return the axis that holds exactly the samples of the batch, or None."""
        axis = self.shapes.batch_axes.get(name)
        if axis is None or name not in self.shapes.one:
            return None
        return axis if self.shapes.one[name][1][axis] == self.shapes.batches[0] else None

    def _rank(self, name: str) -> int:
        return max(len(self.shapes.one[name][1]), 1) if name in self.shapes.one else 1

    def _from_right(self, name: str) -> int:
        return self._rank(name) - (self.shapes.batch_axes[name])

    def _ints(self, node: NodeProto, name: str, slot: int) -> list[int] | None:
        """Return constants that are an attribute, or an input of later versions."""
        said = attribute(node, name)
        if said is not None:
            return list(said.ints)
        tensor = self.constants.get(node.input[slot]) if slot < len(node.input) else None
        return None if tensor is None else to_array(tensor).reshape(-1).tolist()
