"""Heads: finding the one a pretrained file ends in, whatever its form, and appending a new Gemm.

The old head is found by walking back from an output; what the walk passes (Softmax, Flatten,
pooling) says how sure it is. The new head is: pool where the value has more than two axes → Flatten
→ Gemm; of several values, each is pooled and they are concatenated. Its few nodes are built with
onnx-graphsurgeon, which never sees the pretrained graph: its import and export would drop metadata
and rewrite weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from surgeon.graph.integer_head import IntegerLayer, integer_layer
from surgeon.graph.shapes import data_values
from surgeon.graph.walk import (
    ancestors,
    attribute,
    producers,
    reads,
)
from surgeon.records import OldHead

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    from onnx import ModelProto, NodeProto, TensorProto


PASSED = frozenset(
    {"Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout", "Transpose",
     "ArgMax", "TopK", "ZipMap", "QuantizeLinear", "DequantizeLinear", "Clip", "Relu"}
)  # fmt: skip
CLASSIFYING = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
"""Activations that say that what lies in front of them are scores of classes."""
ACTIVATIONS = CLASSIFYING | {"HardSigmoid", "Softplus", "Tanh"}
PICKS = frozenset({"Gather", "GatherND", "GatherElements", "Slice"})
"""Operators that pick some of what their first input holds: the last token's scores, say."""
SCALED = frozenset({"Mul", "Div"})
JOINS = frozenset({"Add", "Sum", "Mean"})
POOLED = frozenset(
    {"GlobalAveragePool", "AveragePool", "ReduceMean", "GlobalMaxPool", "QLinearGlobalAveragePool"}
)
RECTIFIERS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "HardSwish"})
WEIGHTED = {
    "Gemm": "Gemm", "QGemm": "Gemm", "FusedGemm": "Gemm",
    "MatMul": "MatMul", "FusedMatMul": "MatMul", "QLinearMatMul": "MatMul",
    "Conv": "Conv", "FusedConv": "Conv", "QLinearConv": "Conv",
    "ConvTranspose": "ConvTranspose",
}  # fmt: skip
TREES = frozenset(
    {"LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier", "TreeEnsemble",
     "LinearRegressor", "TreeEnsembleRegressor", "SVMRegressor"}
)  # fmt: skip


def find_heads(model: ModelProto) -> list[OldHead]:
    """Find the old heads: the last weighted operator in front of each graph output, if any.

    Forms: Gemm, MatMul+Add, MatMul, Conv (with or without pooling behind it), and the classifiers
    of ai.onnx.ml. A rectifier between the weighted operator and the output means features, not a
    classifier, unless a Softmax or Sigmoid follows it (SqueezeNet: Conv, Relu, pool, Softmax).
    Picking tokens behind the scores, and the mean of the scores of several heads, are seen through.
    """
    graph = model.graph
    scene = _Scene(
        graph, producers(graph), {t.name: t for t in graph.initializer}, data_values(model)
    )
    heads = [_walk_back(_Step(value.name, value.name), scene) for value in graph.output]
    return [head for head in heads if head is not None]


@dataclass(frozen=True)
class _Scene:
    """The graph a walk goes back through."""

    graph: onnx.GraphProto
    makers: Mapping[str, NodeProto]
    weights: Mapping[str, TensorProto]
    data: frozenset[str]

    def scalar(self, name: str) -> bool:
        """Say whether a value is a constant of one element."""
        if name in self.weights:
            return bool(prod(self.weights[name].dims) == 1)
        maker = self.makers.get(name)
        value = attribute(maker, "value") if maker is not None else None
        if maker is None or value is None or maker.op_type != "Constant":
            return False
        return bool(prod(value.t.dims) == 1)


@dataclass(frozen=True)
class _Step:
    """Where a walk stands, and what it has passed between there and the graph output."""

    name: str
    output: str
    activation: str | None = None
    rectified: bool = False
    bias: str | None = None
    reduced: bool = False
    joined: bool = False
    passed: tuple[str, ...] = ()


def _walk_back(step: _Step, scene: _Scene) -> OldHead | None:
    while (node := scene.makers.get(step.name)) is not None:
        kind = node.op_type
        layer = integer_layer(node, scene.makers, scene.weights)
        if layer is not None:
            if step.rectified and step.activation not in CLASSIFYING:
                return None
            return _integer_head(layer, step, scene)
        if kind in TREES:
            return OldHead(kind, node.input[0], (), None, None, step.output)
        if kind in WEIGHTED:
            if step.rectified and step.activation not in CLASSIFYING:
                return None
            head = _head(
                node, step.output, scene.weights, scene.makers, scene.data, step.activation,
                step.bias,
            )  # fmt: skip
            return head and replace(head, scores=step.name, passed=step.passed)
        further = _pass(node, step, scene)
        if further is None:
            return _average(node, step, scene)
        step = replace(further, passed=(step.name, *step.passed))
    return None


def _pass(node: NodeProto, step: _Step, scene: _Scene) -> _Step | None:
    """Return the walk on the other side of a node that leaves scores what they are, else None."""
    kind, data = node.op_type, scene.data
    if step.bias is None:
        plain = softmax_in_parts(node, scene.makers)
        if plain is not None:
            return replace(step, name=plain, activation=step.activation or "Softmax")
    carried = [name for name in node.input if name in data]
    if kind in PICKS:
        # Which token is picked may depend on the inputs; what is picked must.
        return replace(step, name=node.input[0]) if node.input[0] in data else None
    if len(carried) != 1:
        return None
    others = [name for name in node.input if name and name not in data]
    if kind in ACTIVATIONS and step.bias is None:
        step = replace(step, activation=step.activation or kind)
    elif kind in RECTIFIERS:
        step = replace(step, rectified=True)
    elif kind in POOLED:
        step = replace(step, reduced=True)
    elif kind == "Add" and step.bias is None and len(others) == 1:
        step = replace(step, bias=others[0])
    elif kind in SCALED and step.bias is None:
        if len(others) != 1 or node.input[0] != carried[0] or not scene.scalar(others[0]):
            return None
    elif kind not in PASSED:
        return None
    return replace(step, name=carried[0])


def _average(node: NodeProto, step: _Step, scene: _Scene) -> OldHead | None:
    """Return the heads whose scores a node adds or averages (DeiT: those of two tokens) as one.

    They stand side by side: where one computes what another reads, the sum is a residual
    connection, and what it makes are features.
    """
    stacked = node.op_type == "Concat" and step.reduced
    branches = list(dict.fromkeys(name for name in node.input if name in scene.data))
    if step.joined or step.bias is not None or step.rectified or len(branches) < 2:
        return None
    if node.op_type not in JOINS and not stacked:
        return None
    heads = []
    for name in branches:
        head = _walk_back(replace(step, name=name, joined=True), scene)
        if head is None or not head.weights or not head.form.startswith(("Gemm", "MatMul")):
            return None
        heads.append(head)
    if len({head.classes for head in heads}) != 1:
        return None
    for head in heads:
        behind = {name for made in ancestors(scene.graph, [head.input]) for name in reads(made)}
        if any(behind.intersection(other.weights) for other in heads):
            return None
    first = heads[0]
    weights = dict.fromkeys(name for head in heads for name in head.weights)
    also = dict.fromkeys(head.input for head in heads if head.input != first.input)
    return replace(first, weights=tuple(weights), also=tuple(also))


def _behind_moves(name: str, makers: Mapping[str, NodeProto]) -> NodeProto | None:
    """Return the maker of a value, past what only moves, repeats or bounds it."""
    node = makers.get(name)
    moves = {"Identity", "Unsqueeze", "Squeeze", "Reshape", "Expand", "Max"}
    while node is not None and node.op_type in moves:
        made = [item for item in node.input if item in makers]
        node = makers[made[0]] if made else None
    return node


def softmax_in_parts(node: NodeProto, makers: Mapping[str, NodeProto]) -> str | None:
    """Return x where a node ends exp(x − max x) ÷ Σ exp(x − max x), as some exporters spell it."""
    if node.op_type != "Div":
        return None
    top, total = makers.get(node.input[0]), _behind_moves(node.input[1], makers)
    if top is None or total is None or top.op_type != "Exp" or total.op_type != "ReduceSum":
        return None
    if total.input[0] != node.input[0]:
        return None
    shifted = makers.get(top.input[0])
    if shifted is None or shifted.op_type != "Sub":
        return str(top.input[0])
    peak = _behind_moves(shifted.input[1], makers)
    return str(shifted.input[0]) if peak is not None and peak.op_type == "ReduceMax" else None


def _integer_head(layer: IntegerLayer, step: _Step, scene: _Scene) -> OldHead:
    added = None if step.bias is None else _origin(step.bias, scene.weights, scene.makers)
    names = (*layer.weights, *([added] if added else []))
    form = f"{layer.form}+Add" if step.bias and layer.form == "MatMul" else layer.form
    return OldHead(form, layer.input, names, layer.classes, step.activation, step.output)


def _head(
    node: NodeProto,
    output: str,
    weights: Mapping[str, TensorProto],
    makers: Mapping[str, NodeProto],
    data: frozenset[str],
    activation: str | None,
    bias: str | None,
) -> OldHead | None:
    carried = [name for name in node.input if name in data]
    if len(carried) != 1:
        return None  # a product of two activations is attention, not a classifier
    found = []
    for name in [*node.input, *([bias] if bias else [])]:
        if name and name not in data:
            origin = _origin(name, weights, makers)
            if origin is not None and origin not in found:
                found.append(origin)
    kernel = next((weights[name] for name in found if len(weights[name].dims) > 1), None)
    form = WEIGHTED[node.op_type]
    vectors = [weights[name].dims[0] for name in found if len(weights[name].dims) == 1]
    classes = None if kernel is None else _classes(node, kernel, carried[0])
    # A bias is as long as there are classes, also where the kernel is reshaped on its way.
    classes = vectors[0] if vectors and vectors[0] > 1 else classes
    if form == "MatMul" and bias is not None:
        form = "MatMul+Add"
    return OldHead(form, carried[0], tuple(found), classes, activation, output)


def _origin(
    name: str, weights: Mapping[str, TensorProto], makers: Mapping[str, NodeProto]
) -> str | None:
    """Follow a weight back through DequantizeLinear, Cast, Transpose, Mul to its initializer."""
    for _ in range(8):
        if name in weights:
            return name
        node = makers.get(name)
        if node is None or not node.input:
            return None
        name = node.input[0]
    return None


def _classes(node: NodeProto, kernel: TensorProto, data: str) -> int | None:
    if WEIGHTED[node.op_type] == "Conv":
        return int(kernel.dims[0])
    if WEIGHTED[node.op_type] == "ConvTranspose":
        group = attribute(node, "group")
        return int(kernel.dims[1]) * (group.i if group is not None else 1)
    if WEIGHTED[node.op_type] == "Gemm":
        turned = attribute(node, "transB")
        return int(kernel.dims[0] if turned is not None and turned.i else kernel.dims[1])
    return int(kernel.dims[-1] if node.input[0] == data else kernel.dims[-2])
