"""Building the new head: values are read and pooled, a kind of head is let build.

What must not enter: finding the old head, and what a kind of head is made of.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from surgeon.errors import ModelError, PluginError, SurgeonError, UnsupportedError
from surgeon.graph.builder import HeadNodes, parameters_beside
from surgeon.graph.gate import LARGEST
from surgeon.graph.normalize import rename
from surgeon.graph.pools import PICTURE, mask_of, picture_of, read_value, size_of, wide
from surgeon.graph.shapes import make_value
from surgeon.graph.walk import (
    all_graphs,
    all_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from surgeon.graph.shapes import Shapes
    from surgeon.records import Dim, Head

T = TypeVar("T")


@dataclass(frozen=True)
class HeadCode:
    """A kind of head with its code loaded, and what its output is called.

    Attributes:
        build: see `HeadKind`.
        keeps: axes of the value that are not pooled.
        pools: whether it pools those itself.
        output: name of the graph output.
        in_place: whether the file's own last layers are given other sizes, and nothing is cut.
        wrong: makes the error for a head that is not built as heads are.
    """

    build: Callable[..., Any]
    keeps: tuple[str, ...] = ()
    pools: bool = False
    output: str = "logits"
    in_place: bool = False
    wrong: Callable[[str | BaseException], Exception] = lambda problem: PluginError(str(problem))


SMALL = 1024
"""Elements up to which a tensor of a head is looked into where shapes are inferred."""


@dataclass(frozen=True)
class Added:
    """A new head as it was built.

    Attributes:
        weights: names of the initializers it trains.
        nodes: how many there are.
        linear: see `Built`.
    """

    weights: tuple[str, ...]
    nodes: int
    linear: bool = True


def add_head(
    model: ModelProto,
    shapes: Shapes,
    values: Sequence[str],
    outputs: int,
    head: Head,
    code: HeadCode,
    *,
    seed: int = 0,
    inputs: Sequence[onnx.ValueInfoProto] = (),
) -> tuple[ModelProto, Added]:
    """Append a new head to a graph that ends at a value; what it gives becomes the only output.

    Of several values the head reads the features of all, concatenated in that order (after
    Head2Toe: Evci et al., "Head2Toe: Utilizing Intermediate Representations for Better Transfer
    Learning", 2022), unless its code takes them apart (`taps`).

    float16 and bfloat16 values are cast to float32 first: the sums of the pool and of the head need
    it. First weights are drawn by numpy's PCG64(seed).

    Args:
        model: the truncated model.
        shapes: shapes of the graph it was cut from.
        values: what the head reads, each [batch, ..., channels, ...], the end of the graph last.
        outputs: numbers the head gives per sample or position.
        head: how to pool, and the settings of its kind; its taps are not looked at.
        code: of its kind.
        seed: seed of the weights.
        inputs: inputs of the graph it was cut from; a mask [batch, length] among them weighs the
            mean over a value [batch, length, features].

    Returns:
        The operated model, and what was added to it.

    Raises:
        ModelError: the number of features is not a fixed number.
        UnsupportedError: a pool is not known, or a value lacks the axes that the head keeps.
    """
    begun = _begin(model, shapes, values, head.pool, code, inputs)
    builder, end, shapes = begun.builder, begun.end, begun.shapes
    axis = 0 if code.keeps == PICTURE else -1
    features = begun.dims[axis]
    assert isinstance(features, int)
    if features * outputs > LARGEST:
        raise ModelError(
            f"a head of {outputs} classes on {features:,} features fits into no memory",
            where=repr(end),
            remedy="cut where the network has fewer features: `surgeon cuts MODEL` lists where",
        )
    random = np.random.Generator(np.random.PCG64(seed))
    beside = _beside(begun, inputs)
    try:
        names = builder.let(
            code.build, outputs, random, head.options, name=code.output, beside=beside
        )
        nodes, tensors = builder.export()
    except (SurgeonError, MemoryError):
        raise
    except Exception as error:
        raise code.wrong(error) from error
    result = begun.model
    graph = result.graph
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    result.ir_version = max(result.ir_version, 4)
    del graph.output[:]
    batch = shapes.symbolic[end][shapes.batch_axes[end]]
    dims = (batch, *_dims_of(begun, outputs, code, inputs))
    graph.output.append(make_value(code.output, wide(shapes.dtype(end)), dims))
    made = head_shape(result, nodes, tensors, shapes)
    if made is not None and not _fits(made, dims):
        raise code.wrong(f"it gives {[batch, *made[1:]]}, not {list(dims)}")
    return result, Added(names, len(nodes), builder.linear)


def _fits(made: Sequence[Dim], wanted: Sequence[Dim]) -> bool:
    """Say whether two shapes may be the same one, the batch left out."""
    return len(made) == len(wanted) and all(
        one == other
        for one, other in zip(made[1:], wanted[1:], strict=True)
        if isinstance(one, int) and isinstance(other, int)
    )


def head_shape(
    model: ModelProto, nodes: Sequence[NodeProto], tensors: Sequence[TensorProto], shapes: Shapes
) -> tuple[Dim, ...] | None:
    """Return the shape of what the nodes of a head give, as ONNX infers it; None = unknown."""
    output, made = model.graph.output[0], {name for node in nodes for name in node.output}
    small = [one for one in tensors if np.prod(one.dims) <= SMALL]
    known = [make_value(t.name, t.data_type, tuple(t.dims)) for t in tensors if t not in small]
    taken = made | {tensor.name for tensor in tensors}
    known += [
        make_value(name, shapes.dtype(name), shapes.symbolic[name])
        for name in dict.fromkeys(name for node in nodes for name in node.input)
        if name and name not in taken and name in shapes.symbolic
    ]
    bare = onnx.ValueInfoProto(name=output.name)
    bare.type.tensor_type.elem_type = output.type.tensor_type.elem_type
    graph = onnx.helper.make_graph(nodes, "head", known, [bare], small)
    alone = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    try:
        found = onnx.shape_inference.infer_shapes(alone, data_prop=True).graph.output[0]
    except Exception:  # noqa: BLE001 - what cannot be inferred is found when it runs
        return None
    kind = found.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)


def add_pool(
    model: ModelProto,
    shapes: Shapes,
    tensor: str,
    inputs: Sequence[onnx.ValueInfoProto] = (),
    pool: str = "mean",
) -> tuple[ModelProto, list[NodeProto], list[TensorProto]]:
    """Return the nodes and constants that pool a value as a head does, none where it is pooled.

    The model comes with them for its opsets; see `add_head`.
    """
    begun = _begin(model, shapes, [tensor], pool, None, inputs)
    nodes, tensors = begun.builder.export() if begun.builder.any else ([], [])
    return begun.model, nodes, tensors


@dataclass
class _Begun:
    """A head under construction in a copy of its graph.

    Attributes:
        dims: behind the batch, of what the head reads.
        values: what it reads of each value, where they are not one.
    """

    model: ModelProto
    builder: HeadNodes
    end: str
    shapes: Shapes
    dims: tuple[Dim, ...]
    values: tuple[Any, ...]


def _begin(
    model: ModelProto,
    shapes: Shapes,
    values: Sequence[str],
    pool: str,
    code: HeadCode | None,
    inputs: Sequence[onnx.ValueInfoProto],
) -> _Begun:
    """Begin a head: read every value, and concatenate the features."""
    result = ModelProto()
    result.CopyFrom(model)
    opset = next((i.version for i in model.opset_import if i.domain in ("", "ai.onnx")), 0)
    if not opset:
        # A classical model imports ai.onnx.ml alone; the head's domain is added at the version that
        # belongs to the file's IR version.
        opset = _opset_of_ir(max(model.ir_version, 4))
        result.opset_import.add(domain="", version=opset)
    keeps = () if code is None else code.keeps
    if code is not None and code.output in all_names(result.graph):
        values, shapes = _free_output_name(result, values, shapes, code.output)
    taken = all_names(result.graph) | {node.name for node in result.graph.node}
    builder = HeadNodes(taken, opset)
    end, apart = values[-1], code is not None and "taps" in parameters_beside(code.build)
    parts, sizes = [], []
    for name in values:
        sizes.append(read_value(builder, result, shapes, name, pool, keeps, inputs))
        if wide(shapes.dtype(name)) != wide(shapes.dtype(end)):
            builder.add("Cast", {"to": wide(shapes.dtype(end))})
        builder.last.dtype = np.dtype(
            np.float64 if wide(shapes.dtype(end)) == TensorProto.DOUBLE else np.float32
        )
        builder.last.shape = ["batch", *sizes[-1]]
        parts.append(builder.last)
    dims = sizes[-1]
    if len(parts) > 1 and not apart:
        dims = _joined(builder, parts, sizes, keeps)
    return _Begun(result, builder, end, shapes, dims, tuple(parts))


def _joined(
    builder: HeadNodes, parts: Sequence[Any], sizes: Sequence[tuple[Dim, ...]], keeps: Sequence[str]
) -> tuple[Dim, ...]:
    """Add the node that lays the features of several values side by side."""
    at = 0 if tuple(keeps) == PICTURE else len(keeps)
    rest = {size[:at] + size[at + 1 :] for size in sizes}
    if len(rest) > 1:
        raise UnsupportedError(
            f"the values that the head reads keep {sorted(map(list, rest), key=str)} of "
            f"{' and '.join(keeps)}: they do not lie side by side",
            where="--head",
            remedy="--head KIND:taps=none, or taps of one size",
        )
    builder.last = builder.apply("Concat", {"axis": 1 + at}, *parts)
    features = sum(dim for size in sizes if isinstance(dim := size[at], int))
    dims = (*sizes[-1][:at], features, *sizes[-1][at + 1 :])
    builder.last.dtype, builder.last.shape = parts[-1].dtype, ["batch", *dims]
    return dims


def _beside(begun: _Begun, inputs: Sequence[onnx.ValueInfoProto]) -> dict[str, Callable[[], Any]]:
    """Return what makes each of the things that a head may read beside its value."""
    return {
        "mask": lambda: mask_of(begun.builder, begun.model, begun.shapes, begun.end, inputs),
        "taps": lambda: begun.values[:-1],
        "size": lambda: size_of(begun.builder, begun.model, begun.shapes, inputs),
    }


def _dims_of(
    begun: _Begun, outputs: int, code: HeadCode, inputs: Sequence[onnx.ValueInfoProto]
) -> tuple[Dim, ...]:
    """Return the dims of what a head gives, behind the batch."""
    if not code.keeps or code.pools:
        return (outputs,)
    if code.keeps != PICTURE:
        return (*begun.dims[:-1], outputs)
    found = picture_of(inputs, begun.shapes)
    if found is None or "size" not in parameters_beside(code.build):
        return (outputs, *begun.dims[1:])
    return (outputs, *(begun.shapes.symbolic[found[0].name][axis] for axis in found[1]))


def _opset_of_ir(ir_version: int) -> int:
    """Return the newest standard opset that an IR version was released with."""
    return max(
        opset
        for (domain, opset), ir in onnx.helper.OP_SET_ID_VERSION_MAP.items()
        if domain == "ai.onnx" and ir <= ir_version
    )


def _free_output_name(
    model: ModelProto, tensors: Sequence[str], shapes: Shapes, output: str
) -> tuple[list[str], Shapes]:
    """Rename an inner value that is called like our output."""
    taken = all_names(model.graph)
    name = next(f"{output}.{n}" for n in count(2) if f"{output}.{n}" not in taken)
    rename(model.graph, {output: name})
    for graph in all_graphs(model.graph):
        for values in (graph.input, graph.initializer, graph.value_info, graph.output):
            for value in values:
                if value.name == output:
                    value.name = name
        for node in graph.node:
            for index, made in enumerate(node.output):
                if made == output:
                    node.output[index] = name

    def renamed(table: Mapping[str, T]) -> dict[str, T]:
        return {name if key == output else key: value for key, value in table.items()}

    shapes = replace(
        shapes,
        one=renamed(shapes.one),
        batch_axes=renamed(shapes.batch_axes),
        symbolic=renamed(shapes.symbolic),
        data=frozenset(name if key == output else key for key in shapes.data),
    )
    return [name if tensor == output else tensor for tensor in tensors], shapes
