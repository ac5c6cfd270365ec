"""How much may be computed to understand a graph: shape inference and folding of any file end.

A file may state shapes that no machine holds, in a constant of a few bytes. What is looked at
without having been asked for stays small. What must not enter: limits of what the user runs.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from surgeon.graph.walk import all_graphs, attribute

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray

FOLDED = 1 << 16
"""Elements a folded node may make: what is folded are shapes and conditions."""

OBSERVED, OBSERVED_TOTAL = 1 << 29, 1 << 33
"""Bytes that one value, and all values, may take where a graph is run only to understand it."""

GUESSED = 1 << 23
"""Elements of an input whose open dimensions are guessed."""

OPAQUE = "surgeon.opaque"
"""Domain of nodes that shape inference is to leave alone."""

GROWING = frozenset(
    {"BlackmanWindow", "CenterCropPad", "Col2Im", "ConstantOfShape", "ConvTranspose", "DFT",
     "Einsum", "Expand", "EyeLike", "HammingWindow", "HannWindow", "ImageDecoder", "MatMul",
     "MaxUnpool", "MelWeightMatrix", "OneHot", "Pad", "Range", "Resize", "STFT", "AffineGrid",
     "Tile", "Upsample"}
)  # fmt: skip
"""Operators whose output may be larger than all their inputs by any factor."""


def affordable(
    node: NodeProto, feeds: Mapping[str, NDArray[Any]], versions: Mapping[str, int]
) -> bool:
    """Say whether a node with known inputs makes few enough elements to be folded."""
    if node.op_type not in GROWING:
        return sum(value.size for value in feeds.values()) <= FOLDED
    if node.op_type == "Range":
        return not _endless(node, feeds)
    graph = GraphProto(name="one")
    graph.node.append(node)
    graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in feeds.items() if name in node.input
    )
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
    model = ModelProto(ir_version=8, graph=graph)
    model.opset_import.extend(helper.make_opsetid(*item) for item in versions.items())
    try:
        inferred = infer_shapes(model)
    except Exception:  # noqa: BLE001 - inference may refuse anything; then nothing is computed
        return False
    shapes = [value.type.tensor_type.shape for value in inferred.graph.output]
    known = [[dim.dim_value for dim in shape.dim if dim.HasField("dim_value")] for shape in shapes]
    whole = all(len(dims) == len(shape.dim) for dims, shape in zip(known, shapes, strict=True))
    return whole and sum(prod(dims) for dims in known) <= FOLDED


def runs_small(shapes: Mapping[str, tuple[int, tuple[int, ...]]]) -> bool:
    """Say whether values of these types and dims are small enough for a run nobody asked for."""
    total = 0
    for kind, dims in shapes.values():
        size = prod(dims) * _width(kind)
        total += size
        if size > OBSERVED or total > OBSERVED_TOTAL:
            return False
    return True


def _width(kind: int) -> int:
    if kind in (TensorProto.UNDEFINED, TensorProto.STRING):
        return 8
    return int(helper.tensor_dtype_to_np_dtype(kind).itemsize)


def infer_shapes(model: ModelProto) -> ModelProto:
    """Run ONNX's shape inference with data propagation; it ends for every graph.

    ONNX's inference of an Einsum does not end where one term has two ellipses: such a node is
    unknown to it. Its data propagation makes every number of a Range: it is left out where those
    are too many. `model` must be the caller's own copy.
    """
    propagate = True
    known = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer
             if prod(t.dims) == 1 and (t.raw_data or t.int64_data or t.int32_data)}  # fmt: skip
    model.opset_import.add(domain=OPAQUE, version=1)
    for graph in all_graphs(model.graph):
        for node in graph.node:
            if node.op_type == "Einsum" and _ambiguous(node):
                node.domain = OPAQUE
            elif node.op_type == "Range" and all(name in known for name in node.input):
                propagate = propagate and not _endless(node, known)
    return onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=propagate)


def _endless(node: NodeProto, feeds: Mapping[str, NDArray[Any]]) -> bool:
    """Say whether a Range of known limits makes more numbers than are folded."""
    if len(node.input) != 3:
        return True
    start, limit, delta = (float(feeds[name].reshape(-1)[0]) for name in node.input)
    return delta == 0 or (limit - start) / delta > FOLDED


def _ambiguous(node: NodeProto) -> bool:
    equation = attribute(node, "equation")
    text: bytes = b"" if equation is None else equation.s
    terms = text.split(b"->")[0].split(b",")
    return bool(max(term.count(b"...") for term in terms) > 1)


def stripped(node: NodeProto, most: int) -> NodeProto:
    """Return a node without the values of large tensors in its attributes, at any depth.

    Shape inference needs types and dims; it is run often, and copies all it is given.
    """
    if not _holds_large(node, most):
        return node
    light = NodeProto(
        op_type=node.op_type, domain=node.domain, name=node.name, input=node.input,
        output=node.output,
    )  # fmt: skip
    for item in node.attribute:
        copy = light.attribute.add(name=item.name, type=item.type)
        if item.type == item.TENSOR:
            copy.t.CopyFrom(_dims_only(item.t) if _is_large(item.t, most) else item.t)
        elif item.type == item.GRAPH:
            copy.g.CopyFrom(_stripped_graph(item.g, most))
        elif item.type == item.GRAPHS:
            copy.graphs.extend(_stripped_graph(graph, most) for graph in item.graphs)
        else:
            copy.CopyFrom(item)
    return light


def _holds_large(node: NodeProto, most: int) -> bool:
    for item in node.attribute:
        if item.type == item.TENSOR and _is_large(item.t, most):
            return True
        if item.type in (item.GRAPH, item.GRAPHS):
            return True
    return False


def _stripped_graph(graph: GraphProto, most: int) -> GraphProto:
    light = GraphProto(name=graph.name)
    light.node.extend(stripped(node, most) for node in graph.node)
    light.input.extend(graph.input)
    light.output.extend(graph.output)
    light.value_info.extend(graph.value_info)
    light.initializer.extend(
        _dims_only(tensor) if _is_large(tensor, most) else tensor for tensor in graph.initializer
    )
    light.sparse_initializer.extend(graph.sparse_initializer)
    return light


def _is_large(tensor: TensorProto, most: int) -> bool:
    return int(prod(tensor.dims)) > most


def _dims_only(tensor: TensorProto) -> TensorProto:
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
