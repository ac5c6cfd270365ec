"""Building the new head with onnx-graphsurgeon: values are pooled, a kind of head is let build.

The only file of ours that knows the library. What must not enter: finding the old head, and what
a kind of head is made of.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from surgeon.errors import ModelError, UnsupportedError
from surgeon.graph.channels import channel_axis
from surgeon.graph.gate import LARGEST
from surgeon.graph.normalize import rename
from surgeon.graph.shapes import make_value
from surgeon.graph.walk import (
    all_graphs,
    all_names,
)
from surgeon.records import Head

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from surgeon.graph.shapes import Shapes
    from surgeon.records import Built

T = TypeVar("T")


OUTPUT = "logits"


def add_head(
    model: ModelProto,
    shapes: Shapes,
    values: Sequence[str],
    classes: int,
    head: Head,
    build: Callable[..., Built],
    *,
    seed: int = 0,
    inputs: Sequence[onnx.ValueInfoProto] = (),
) -> tuple[ModelProto, tuple[str, ...], list[str]]:
    """Append a new head to a graph that ends at a value; the only output becomes `logits`.

    Of several values the head reads the features of all, concatenated in that order (after
    Head2Toe: Evci et al., "Head2Toe: Utilizing Intermediate Representations for Better Transfer
    Learning", 2022).

    float16 and bfloat16 values are cast to float32 first: the sums of the pool and of the head need
    it. First weights are drawn by numpy's PCG64(seed).

    Args:
        model: the truncated model.
        shapes: shapes of the graph it was cut from.
        values: what the head reads, each [batch, ..., channels, ...], the end of the graph last.
        classes: outputs of the head.
        head: how to pool, and the settings of its kind; its taps are not looked at.
        build: the code of the head's kind, see `HeadKind`.
        seed: seed of the weights.
        inputs: inputs of the graph it was cut from; a mask [batch, length] among them weighs the
            mean over a value [batch, length, features].

    Returns:
        The operated model, the names of the head's weights, and the names of the nodes added.

    Raises:
        ModelError: the number of features is not a fixed number.
        UnsupportedError: a pool is not known.
    """
    pooled = _pooled(model, shapes, values, head, inputs)
    builder, end, shapes = pooled.builder, pooled.end, pooled.shapes
    if pooled.features * classes > LARGEST:
        raise ModelError(
            f"a head of {classes} classes on {pooled.features:,} features fits into no memory",
            where=repr(end),
            remedy="cut where the network has fewer features: `surgeon cuts MODEL` lists where",
        )
    double = shapes.dtype(end) == TensorProto.DOUBLE
    random = np.random.Generator(np.random.PCG64(seed))
    builder.last.dtype = np.dtype(np.float64 if double else np.float32)
    builder.last.shape = ["batch", pooled.features]
    names = builder.let(build, classes, random, head.options)
    nodes, tensors = builder.export()
    result = pooled.model
    graph = result.graph
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    result.ir_version = max(result.ir_version, 4)
    del graph.output[:]
    element = TensorProto.DOUBLE if double else TensorProto.FLOAT
    batch = shapes.symbolic[end][shapes.batch_axes[end]]
    graph.output.append(make_value(OUTPUT, element, (batch, classes)))
    return result, names, [node.name for node in nodes]


def add_pool(
    model: ModelProto,
    shapes: Shapes,
    tensor: str,
    inputs: Sequence[onnx.ValueInfoProto] = (),
) -> tuple[ModelProto, list[NodeProto], list[TensorProto]]:
    """Return the nodes and constants that pool a value as a head does, none where it is pooled.

    The model comes with them for its opsets; see `add_head`.
    """
    pooled = _pooled(model, shapes, [tensor], Head(), inputs)
    nodes, tensors = pooled.builder.export() if pooled.builder.any else ([], [])
    return pooled.model, nodes, tensors


@dataclass
class _Pooled:
    """Features [batch, features] of values, under construction in a copy of their graph."""

    model: ModelProto
    builder: _HeadNodes
    end: str
    shapes: Shapes
    features: int


def _pooled(
    model: ModelProto,
    shapes: Shapes,
    values: Sequence[str],
    head: Head,
    inputs: Sequence[onnx.ValueInfoProto],
) -> _Pooled:
    """Begin a head: pool every value, and concatenate them."""
    result = ModelProto()
    result.CopyFrom(model)
    opset = next((i.version for i in model.opset_import if i.domain in ("", "ai.onnx")), 0)
    if not opset:
        # A classical model imports ai.onnx.ml alone; the head's domain is added at the version that
        # belongs to the file's IR version.
        opset = _opset_of_ir(max(model.ir_version, 4))
        result.opset_import.add(domain="", version=opset)
    if OUTPUT in all_names(result.graph):
        values, shapes = _free_output_name(result, values, shapes)
    builder = _HeadNodes(all_names(result.graph), opset)
    end = values[-1]
    features, parts = 0, []
    for name in values:
        builder.begin(name, shapes.dtype(name))
        mask = None
        if head.pool == "mean" and len(shapes.one[name][1]) == 3 and opset >= 8:
            mask = _find_mask(inputs, shapes, name)
            if mask is not None:
                _add_input(result.graph, mask, [value.name for value in inputs])
        features += _pool(builder, result, shapes, name, head, mask)
        if _wide(shapes.dtype(name)) != _wide(shapes.dtype(end)):
            builder.add("Cast", {"to": _wide(shapes.dtype(end))})
        parts.append(builder.last)
    if len(parts) > 1:
        builder.last = builder.apply("Concat", {"axis": 1}, *parts)
    return _Pooled(result, builder, end, shapes, features)


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
        value = self._gs.Variable(self.free(f"{name}.out"))
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

    @property
    def any(self) -> bool:
        """Whether there is a node yet."""
        return bool(self._nodes)

    def let(
        self,
        build: Callable[..., Built],
        outputs: int,
        random: np.random.Generator,
        options: Mapping[str, Any],
    ) -> tuple[str, ...]:
        """Let a head be built on the chain's last value; return the names of its weights.

        Whatever names its author gave, they begin with `surgeon.head.` and are free in the graph.
        """
        graph = self._gs.Graph(opset=self.opset)
        built = build(graph, self.last, outputs, random, **options)
        named: set[int] = set()
        for node in graph.nodes:
            node.name = self.free(f"surgeon.head.{node.op.lower()}")
            for tensor in node.inputs:
                if isinstance(tensor, self._gs.Constant) and id(tensor) not in named:
                    named.add(id(tensor))
                    tensor.name = self.free(f"surgeon.head.{tensor.name}")
            for tensor in node.outputs:
                end = tensor is built.output
                tensor.name = OUTPUT if end else self.free(f"{node.name}.out")
        self._nodes += graph.nodes
        self.last = built.output
        return tuple(weight.name for weight in built.weights)

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
