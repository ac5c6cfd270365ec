"""Heads: finding the one a pretrained file ends in, whatever its form, and appending a new Gemm.

The old head is found by walking back from an output; what the walk passes (Softmax, Flatten,
pooling) says how sure it is. The new head is: pool where the value has more than two axes → Flatten
→ Gemm; of several values, each is pooled and they are concatenated. Its few nodes are built with
onnx-graphsurgeon, which never sees the pretrained graph: its import and export would drop metadata
and rewrite weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from surgeon.errors import ModelError, UnsupportedError
from surgeon.graph.gate import LARGEST
from surgeon.graph.integer_head import IntegerLayer, integer_layer
from surgeon.graph.normalize import rename
from surgeon.graph.shapes import data_values, make_value
from surgeon.graph.walk import (
    Links,
    all_graphs,
    all_names,
    ancestors,
    attribute,
    producers,
    reads,
)
from surgeon.records import OldHead

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from surgeon.graph.shapes import Shapes
    from surgeon.records import Head

T = TypeVar("T")

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


CHANNELS_FIRST = frozenset(
    {"Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "GroupNormalization",
     "LRN", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "PRelu",
     "DepthToSpace", "SpaceToDepth", "FusedConv", "QLinearConv", "QLinearAveragePool",
     "QLinearGlobalAveragePool", "GridSample", "MaxUnpool", "RoiAlign", "MaxRoiPool", "DeformConv"}
)  # fmt: skip
CHANNELS_LAST = frozenset(
    {"MatMul", "Gemm", "LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization",
     "SkipLayerNormalization", "EmbedLayerNormalization", "Attention", "LSTM", "GRU", "RNN",
     "FusedMatMul", "BiasGelu", "FastGelu", "NhwcMaxPool", "QLinearMatMul", "MatMulInteger",
     "SkipSimplifiedLayerNormalization"}
)  # fmt: skip


def channel_axis(model: ModelProto, shapes: Shapes, tensor: str, links: Links | None = None) -> int:
    """Return the axis of a value along which its channels (features) lie.

    Traced back to the operator that fixes it (Conv: axis 1; MatMul, LayerNormalization, LSTM: the
    last), through Transpose; else forward to the readers; else axis 1 of pictures, the last of
    others.
    """
    rank = len(shapes.one[tensor][1])
    if rank <= 2:
        return rank - 1
    links = links or Links(model.graph)
    axis = _backward(tensor, links.makers, shapes, 64)
    if axis is None:
        axis = _forward(tensor, links.users, shapes, 16)
    if axis is None:
        axis = 1 if rank >= 4 else rank - 1
    if axis == shapes.batch_axes.get(tensor):
        axis = rank - 1
    return axis


def _backward(
    name: str, makers: Mapping[str, NodeProto], shapes: Shapes, budget: int
) -> int | None:
    while budget > 0:
        budget -= 1
        node = makers.get(name)
        if node is None or name not in shapes.one:
            return None
        rank = len(shapes.one[name][1])
        if node.op_type in CHANNELS_FIRST:
            return 1
        if node.op_type in CHANNELS_LAST:
            return rank - 1
        if node.op_type == "Gather" and node.input[0] not in shapes.data:
            return rank - 1  # an embedding
        same = [
            n
            for n in node.input
            if n in shapes.data and n in shapes.one and len(shapes.one[n][1]) == rank
        ]
        if node.op_type == "Transpose" and same:
            perm = attribute(node, "perm")
            order = list(perm.ints) if perm is not None else list(range(rank))[::-1]
            inner = _backward(same[0], makers, shapes, budget)
            return None if inner is None else order.index(inner)
        if node.op_type == "Reshape" and node.input[0] in shapes.one:
            inner = _backward(node.input[0], makers, shapes, budget)
            before, after = shapes.one[node.input[0]][1], shapes.one[name][1]
            if inner == len(before) - 1 and before[-1] == after[-1]:
                return rank - 1
            return 1 if inner == 1 and before[:2] == after[:2] else None
        if node.op_type in ("Flatten", "Shape", "Squeeze", "Unsqueeze") or not same:
            return None
        name = same[0]
    return None


def _forward(
    name: str, users: Mapping[str, list[NodeProto]], shapes: Shapes, budget: int
) -> int | None:
    if budget <= 0 or name not in shapes.one:
        return None
    rank = len(shapes.one[name][1])
    for node in users.get(name, ()):
        if node.input and node.input[0] == name:
            if node.op_type in CHANNELS_FIRST:
                return 1
            if node.op_type in CHANNELS_LAST:
                return rank - 1
        if node.op_type == "Transpose":
            perm = attribute(node, "perm")
            order = list(perm.ints) if perm is not None else list(range(rank))[::-1]
            after = _forward(node.output[0], users, shapes, budget - 1)
            if after is not None:
                return order[after]
        elif node.op_type not in ("Reshape", "Flatten", "Shape"):
            made = shapes.one.get(node.output[0])
            same = made is not None and len(made[1]) == rank
            found = _forward(node.output[0], users, shapes, budget - 1) if same else None
            if found is not None:
                return found
    return None


OUTPUT = "logits"


def add_head(
    model: ModelProto,
    shapes: Shapes,
    tensor: str,
    classes: int,
    head: Head,
    *,
    taps: Sequence[str] = (),
    seed: int = 0,
    inputs: Sequence[onnx.ValueInfoProto] = (),
) -> tuple[ModelProto, tuple[str, str], list[str]]:
    """Append a new Gemm head to a graph that ends at `tensor`; the only output becomes `logits`.

    With taps the Gemm reads the features of several values, concatenated in that order, those of
    `tensor` last (after Head2Toe: Evci et al., "Head2Toe: Utilizing Intermediate Representations
    for Better Transfer Learning", 2022).

    float16 and bfloat16 values are cast to float32 first: the sums of the pool and of the Gemm need
    it. The weight is drawn from the uniform distribution on ±1/sqrt(features) by numpy's
    PCG64(seed) (LeCun et al., "Efficient BackProp", 1998); the bias is zero.

    Args:
        model: the truncated model.
        shapes: shapes of the graph it was cut from.
        tensor: value the head reads, [batch, ..., channels, ...].
        classes: outputs of the Gemm.
        head: how to pool.
        taps: values in front of `tensor` that the head reads too; `head.taps` is not looked at.
        seed: seed of the weight.
        inputs: inputs of the graph it was cut from; a mask [batch, length] among them weighs the
            mean over a value [batch, length, features].

    Returns:
        The operated model, the names of (weight, bias), and the names of the nodes added.

    Raises:
        ModelError: the number of features is not a fixed number.
        UnsupportedError: a pool is not known.
    """
    result = ModelProto()
    result.CopyFrom(model)
    opset = next((i.version for i in model.opset_import if i.domain in ("", "ai.onnx")), 0)
    if not opset:
        # A classical model imports ai.onnx.ml alone; the Gemm's domain is added at the version that
        # belongs to the file's IR version.
        opset = _opset_of_ir(max(model.ir_version, 4))
        result.opset_import.add(domain="", version=opset)
    if OUTPUT in all_names(result.graph):
        (*taps, tensor), shapes = _free_output_name(result, [*taps, tensor], shapes)
    builder = _HeadNodes(all_names(result.graph), opset)
    double = shapes.dtype(tensor) == TensorProto.DOUBLE
    features, parts = 0, []
    for name in [*taps, tensor]:
        builder.begin(name, shapes.dtype(name))
        mask = None
        if head.pool == "mean" and len(shapes.one[name][1]) == 3 and opset >= 8:
            mask = _find_mask(inputs, shapes, name)
            if mask is not None:
                _add_input(result.graph, mask, [value.name for value in inputs])
        features += _pool(builder, result, shapes, name, head, mask)
        if _wide(shapes.dtype(name)) != _wide(shapes.dtype(tensor)):
            builder.add("Cast", {"to": _wide(shapes.dtype(tensor))})
        parts.append(builder.last)
    if taps:
        builder.last = builder.apply("Concat", {"axis": 1}, *parts)
    dtype = np.float64 if double else np.float32
    if features * classes > LARGEST:
        raise ModelError(
            f"a head of {classes} classes on {features:,} features fits into no memory",
            where=repr(tensor),
            remedy="cut where the network has fewer features: `surgeon cuts MODEL` lists where",
        )
    bound = 1.0 / np.sqrt(features)
    random = np.random.Generator(np.random.PCG64(seed))
    weight = random.uniform(-bound, bound, (classes, features)).astype(dtype)
    names = (builder.free("surgeon.head.weight"), builder.free("surgeon.head.bias"))
    attributes: dict[str, Any] = {"transB": 1} | ({"broadcast": 1} if opset < 7 else {})
    builder.add("Gemm", attributes, {names[0]: weight, names[1]: np.zeros(classes, dtype)})
    nodes, tensors = builder.export()
    graph = result.graph
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    result.ir_version = max(result.ir_version, 4)
    del graph.output[:]
    element = TensorProto.DOUBLE if double else TensorProto.FLOAT
    batch = shapes.symbolic[tensor][shapes.batch_axes[tensor]]
    graph.output.append(make_value(OUTPUT, element, (batch, classes)))
    return result, names, [node.name for node in nodes]


def _opset_of_ir(ir_version: int) -> int:
    """Return the newest standard opset that an IR version was released with."""
    return max(
        opset
        for (domain, opset), ir in onnx.helper.OP_SET_ID_VERSION_MAP.items()
        if domain == "ai.onnx" and ir <= ir_version
    )


def _free_output_name(
    model: ModelProto, tensors: Sequence[str], shapes: Shapes
) -> tuple[list[str], Shapes]:
    """Rename an inner value that is called like our output."""
    taken = all_names(model.graph)
    name = next(f"{OUTPUT}.{n}" for n in count(2) if f"{OUTPUT}.{n}" not in taken)
    rename(model.graph, {OUTPUT: name})
    for graph in all_graphs(model.graph):
        for values in (graph.input, graph.initializer, graph.value_info, graph.output):
            for value in values:
                if value.name == OUTPUT:
                    value.name = name
        for node in graph.node:
            for index, made in enumerate(node.output):
                if made == OUTPUT:
                    node.output[index] = name

    def renamed(table: Mapping[str, T]) -> dict[str, T]:
        return {name if key == OUTPUT else key: value for key, value in table.items()}

    shapes = replace(
        shapes,
        one=renamed(shapes.one),
        batch_axes=renamed(shapes.batch_axes),
        symbolic=renamed(shapes.symbolic),
        data=frozenset(name if key == OUTPUT else key for key in shapes.data),
    )
    return [name if tensor == OUTPUT else tensor for tensor in tensors], shapes


def _wide(kind: int) -> int:
    """Return the element type the head computes in."""
    return int(TensorProto.DOUBLE if kind == TensorProto.DOUBLE else TensorProto.FLOAT)


def _pool(
    builder: _HeadNodes,
    model: ModelProto,
    shapes: Shapes,
    tensor: str,
    head: Head,
    mask: onnx.ValueInfoProto | None,
) -> int:
    """Add the nodes that make [batch, features] of a value; return the number of features."""
    dims = shapes.symbolic[tensor]
    batch = shapes.batch_axes[tensor]
    channels = channel_axis(model, shapes, tensor)
    rank = len(dims)
    if shapes.dtype(tensor) in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        builder.add("Cast", {"to": TensorProto.FLOAT})
    if batch != 0:
        order = [batch, *(axis for axis in range(rank) if axis != batch)]
        builder.add("Transpose", {"perm": order})
        dims = tuple(dims[axis] for axis in order)
        channels = order.index(channels)
    others = [axis for axis in range(1, rank) if axis != channels]
    if rank == 1:
        # A Squeeze without axes leaves a scalar at a batch of one: Reshape takes both.
        target = builder.free("surgeon.head.shape")
        builder.add("Reshape", {}, {target: np.asarray([-1, 1], np.int64)})
        return 1
    if head.pool == "flatten" and others:
        builder.add("Flatten", {"axis": 1})
        sizes = dims[1:]
    elif mask is not None and others == [1] and rank == 3:
        _mean_over_mask(builder, mask, _wide(shapes.dtype(tensor)))
        sizes = (dims[channels],)
    elif others:
        _collapse(builder, head, rank, channels, others)
        sizes = (dims[channels],)
    else:
        sizes = dims[1:]
    features = 1
    for size in sizes:
        if not isinstance(size, int):
            raise ModelError(
                f"value {tensor!r} has no fixed number of features: {list(dims)}",
                where="--cut",
                remedy="cut elsewhere, or give the input a fixed size",
            )
        features *= size
    return features


def _collapse(builder: _HeadNodes, head: Head, rank: int, channels: int, others: list[int]) -> None:
    # Pooling kernels take up to three sides, and no float64.
    pictures = rank in (4, 5) and channels == 1 and builder.kind != TensorProto.DOUBLE
    if head.pool in ("mean", "max"):
        if pictures:
            builder.add("GlobalAveragePool" if head.pool == "mean" else "GlobalMaxPool", {})
        else:
            kind = "ReduceMean" if head.pool == "mean" else "ReduceMax"
            builder.last = builder.over(kind, builder.last, others, 18, keepdims=1)
    elif head.pool in ("first", "last"):
        for axis in others:
            index = builder.free("surgeon.head.index")
            at = np.asarray([0 if head.pool == "first" else -1], np.int64)
            builder.add("Gather", {"axis": axis}, {index: at})
    else:
        raise UnsupportedError(
            f"pool {head.pool!r} is not known",
            where="plan.head.pool",
            remedy="mean, max, first, last or flatten",
        )
    builder.add("Flatten", {"axis": 1})


class _HeadNodes:
    """The head under construction: chains of graphsurgeon nodes, exported at the end."""

    last: Any
    kind: int

    def __init__(self, taken: set[str], opset: int) -> None:
        import onnx_graphsurgeon  # looking at a model needs no builder

        self._gs: Any = onnx_graphsurgeon
        self.opset = opset
        self._taken = set(taken)
        self._nodes: list[Any] = []
        self._inputs: dict[str, Any] = {}

    def begin(self, tensor: str, kind: int) -> None:
        """Begin a chain at a value of the graph, of this element type."""
        self.last, self.kind = self.input(tensor, kind), kind

    def input(self, name: str, kind: int) -> Any:
        """Return a value of the graph that the head reads, the same one each time."""
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
        return self._inputs.setdefault(name, self._gs.Variable(name, dtype=dtype))

    def free(self, name: str) -> str:
        """Return the name, or the first of `name.2`, `name.3`, … that is not taken."""
        found = name
        for number in count(2):
            if found not in self._taken:
                break
            found = f"{name}.{number}"
        self._taken.add(found)
        return found

    def apply(self, operator: str, attributes: dict[str, Any], *inputs: Any) -> Any:
        """Append one node; return the value it makes."""
        name = self.free(f"surgeon.head.{operator.lower()}")
        value = self._gs.Variable(OUTPUT if operator == "Gemm" else self.free(f"{name}.out"))
        self._nodes.append(self._gs.Node(operator, name, attributes, list(inputs), [value]))
        return value

    def add(
        self, operator: str, attributes: dict[str, Any], constants: Mapping[str, Any] | None = None
    ) -> None:
        """Append one node that reads the chain's last value and the named constants."""
        values = [self._gs.Constant(key, item) for key, item in (constants or {}).items()]
        self.last = self.apply(operator, attributes, self.last, *values)

    def over(
        self, operator: str, value: Any, axes: list[int], since: int, **attributes: int
    ) -> Any:
        """Append an operator over axes, which are an attribute before opset `since`."""
        if self.opset < since:
            return self.apply(operator, {"axes": axes, **attributes}, value)
        listed = self._gs.Constant(self.free("surgeon.head.axes"), np.asarray(axes, np.int64))
        return self.apply(operator, dict(attributes), value, listed)

    def constant(self, name: str, values: Any) -> Any:
        """Return a constant of the head."""
        return self._gs.Constant(self.free(name), values)

    def export(self) -> tuple[list[NodeProto], list[TensorProto]]:
        """Return the chain as ONNX nodes and initializers."""
        graph = self._gs.Graph(self._nodes, outputs=[self.last], opset=self.opset)
        exported = self._gs.export_onnx(graph, do_type_check=False).graph
        return list(exported.node), list(exported.initializer)


def _find_mask(
    inputs: Sequence[onnx.ValueInfoProto], shapes: Shapes, tensor: str
) -> onnx.ValueInfoProto | None:
    """Return the mask input [batch, length] of a value [batch, length, features], or None."""
    dims = shapes.one[tensor][1]
    for value in inputs:
        entry = shapes.one.get(value.name)
        if "mask" in value.name.lower() and entry is not None and entry[1] == dims[:2]:
            return value
    return None


def _mean_over_mask(builder: _HeadNodes, mask: onnx.ValueInfoProto, kind: int) -> None:
    """Add the mean over the steps that the mask holds: Σ value · mask ÷ max(Σ mask, 1)."""
    values = builder.last
    given = builder.input(mask.name, mask.type.tensor_type.elem_type)
    weight = builder.apply("Cast", {"to": kind}, given)
    total = builder.over("ReduceSum", weight, [1], 13, keepdims=1)
    one = np.ones(1, np.float64 if kind == TensorProto.DOUBLE else np.float32)
    total = builder.apply("Max", {}, total, builder.constant("surgeon.head.one", one))
    weight = builder.over("Unsqueeze", weight, [2], 13)
    held = builder.apply("Mul", {}, values, weight)
    held = builder.over("ReduceSum", held, [1], 13, keepdims=0)
    builder.last = builder.apply("Div", {}, held, total)


def _add_input(graph: onnx.GraphProto, mask: onnx.ValueInfoProto, order: Sequence[str]) -> None:
    """Put an input back in its place in graph-input order, if the cut removed it."""
    if any(value.name == mask.name for value in graph.input):
        return
    place = sum(order.index(value.name) < order.index(mask.name) for value in graph.input)
    graph.input.insert(place, mask)
