"""What an exported ONNX file *is*, as two hashes, and the removal of what it is not.

An export of the same weights differs from machine to machine in its metadata: the dynamo exporter
writes the exporting machine's paths and stack traces into every node. `strip` removes that, and
the hashes look only at what computes. Needs onnx alone; never a session, never torch.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE})
_WEIGHTS = _FLOATS | {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}  # 8 bits: a quantised file's


def strip(model: onnx.ModelProto) -> None:
    """Remove metadata and doc strings of the exporter from a model, in place.

    Nodes, values, initializers and opsets are untouched: the file computes the same.
    """
    model.doc_string = ""
    del model.metadata_props[:]
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        _strip_nodes(function.node)
    _strip_graph(model.graph)


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.doc_string = ""
        del value.metadata_props[:]
    for tensor in graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    _strip_nodes(graph.node)


def _strip_nodes(nodes: object) -> None:
    for node in nodes:  # type: ignore[attr-defined]  # a protobuf repeated field
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs) if _has_graph(attribute) else ():
                _strip_graph(graph)


def _has_graph(attribute: onnx.AttributeProto) -> bool:
    return attribute.type in {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS}


def weights_sha256(path: Path) -> str:
    """Return the hash of a file's weights, whatever their names and order.

    Weights are the float and 8-bit initializers of more than one element: those were trained (or
    drawn), and the same package gives the same ones on every machine. Small constants that
    exporters add or leave out do not count, nor do quantisation scales: those come from a
    calibration run, whose last bit is the machine's. Hash = sha256 over the sorted sha256 of each
    tensor's dtype number, dims and little-endian bytes.
    """
    graph = onnx.load(path).graph
    scales = _quantisation_scales(graph)
    digests = sorted(
        _tensor_digest(tensor)
        for tensor in graph.initializer
        if tensor.data_type in _WEIGHTS
        and tensor.name not in scales
        and np.prod(tensor.dims, dtype=np.int64) > 1
    )
    return sha256(b"".join(digests)).hexdigest()


def _quantisation_scales(graph: onnx.GraphProto) -> set[str]:
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type in _FLOATS}
    return {
        name
        for node in graph.node
        if node.op_type.startswith("QLinear")
        or node.op_type in {"QuantizeLinear", "DequantizeLinear"}
        for name in node.input[1:]
        if name in floats
    }


def structure_sha256(path: Path) -> str:
    """Return the hash of a file's inputs, outputs, opsets, nodes and initializers' declarations.

    Nodes count with operator, inputs, outputs and attributes, in order, but not with their names
    or metadata.
    """
    digest = sha256()
    for line in _structure(onnx.load(path, load_external_data=False)):
        digest.update(line)
        digest.update(b"\n")
    return digest.hexdigest()


def _structure(model: onnx.ModelProto) -> Iterator[bytes]:
    for opset in model.opset_import:
        yield f"opset {opset.domain} {opset.version}".encode()
    for value in (*model.graph.input, *model.graph.output):
        yield value.name.encode() + value.type.SerializeToString(deterministic=True)
    for tensor in model.graph.initializer:
        yield f"{tensor.name} {tensor.data_type} {list(tensor.dims)}".encode()
    for node in model.graph.node:
        yield f"{node.domain} {node.op_type} {list(node.input)} {list(node.output)}".encode()
        for attribute in sorted(node.attribute, key=lambda each: each.name):
            yield attribute.SerializeToString(deterministic=True)


def _tensor_digest(tensor: onnx.TensorProto) -> bytes:
    array = numpy_helper.to_array(tensor)
    head = f"{tensor.data_type} {list(tensor.dims)} ".encode()
    return sha256(head + array.astype(array.dtype.newbyteorder("<")).tobytes()).digest()
