"""What an exported ONNX file *is*: its structure, a sample of its weights; and what it is not.

An export of the same weights differs from machine to machine: in its metadata (the dynamo exporter
writes the exporting machine's paths and stack traces into every node), and in the last digits of
what the exporter computes (a BatchNormalization folded into a convolution), which are the
processor's. `strip` removes the first. For the second, weights are compared as numbers, and hashes
see only what is no computed number. Needs onnx alone; never a session, never torch.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

_HALF = frozenset({onnx.TensorProto.FLOAT16})
_FLOATS = _HALF | {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}
_BYTES = frozenset({onnx.TensorProto.INT8, onnx.TensorProto.UINT8})  # a quantised file's

#: How far a weight may lie from the indexed one, relative to it and to the tensor's own size
#: (root mean square). Processors differ by 1e-6, one epoch of training by more than 1e-2.
TOLERANCE = 1e-4
#: The same in float16, whose steps are 1e-3 apart: three of them.
HALF_TOLERANCE = 3e-3
#: A value in 8 bits may round the other way.
STEP = 1.0

_PLACES = (1 / 3, 2 / 3)  # of each tensor, where its two samples stand
_DIGITS = 6  # that are noted of each: more would be one processor's


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


def structure_sha256(model: onnx.ModelProto) -> str:
    """Return the hash of a model's inputs, outputs, opsets, nodes and its weights' declarations.

    Nodes count with operator, attributes and what they are connected to, in order. Names that only
    connect nodes do not count, nor the order in which weights are stored, nor metadata, nor any
    weight's values.
    """
    digest = sha256()
    for line in _structure(model):
        digest.update(line)
        digest.update(b"\n")
    return digest.hexdigest()


def _structure(model: onnx.ModelProto) -> Iterator[bytes]:
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    numbers: dict[str, str] = {"": ""}
    numbers |= {value.name: value.name for value in graph.input if value.name not in weights}

    def connect(name: str) -> str:
        if name not in numbers:
            tensor = weights.get(name)
            declared = "" if tensor is None else f"{tensor.data_type}{list(tensor.dims)}"
            numbers[name] = f"#{len(numbers)}{declared}"
        return numbers[name]

    for opset in sorted(model.opset_import, key=lambda each: each.domain):
        yield f"opset {opset.domain} {opset.version}".encode()
    for value in (*graph.input, *graph.output):
        name = connect(value.name) if value.name in weights else value.name
        yield name.encode() + value.type.SerializeToString(deterministic=True)
    for node in graph.node:
        places = [[connect(name) for name in names] for names in (node.input, node.output)]
        yield f"{node.domain} {node.op_type} {places}".encode()
        for attribute in sorted(node.attribute, key=lambda each: each.name):
            yield _without_name(attribute).SerializeToString(deterministic=True)
    yield f"outputs {[connect(value.name) for value in graph.output]}".encode()


def _without_name(attribute: onnx.AttributeProto) -> onnx.AttributeProto:
    """Return an attribute whose tensor, if it is one, has no name: exporters number those."""
    if not attribute.t.name:
        return attribute
    plain = onnx.AttributeProto()
    plain.CopyFrom(attribute)
    plain.t.name = ""
    return plain


def sample_weights(model: onnx.ModelProto) -> list[float]:
    """Return two values of each weight, rounded, in the order in which nodes use the weights."""
    found: list[float] = []
    for tensor in _weights(model.graph):
        values = numpy_helper.to_array(tensor).reshape(-1)
        found += [float(f"{values[place]:.{_DIGITS}g}") for place in _places(values.size)]
    return found


def count_samples(model: onnx.ModelProto) -> int:
    """Return how many values `sample_weights` gives, without reading any."""
    return len(_PLACES) * sum(1 for _ in _weights(model.graph))


def compare_weights(
    model: onnx.ModelProto,
    samples: Sequence[float],
    read: Callable[[onnx.TensorProto], NDArray[Any]] | None = None,
) -> str:
    """Compare a model's weights with the indexed samples; return what differs, "" if nothing.

    Args:
        model: of the indexed structure.
        samples: what `sample_weights` gave of the indexed file, on whatever processor.
        read: gives a tensor's values; needed where they lie in another file.
    """
    weights = list(_weights(model.graph))
    if len(samples) != len(_PLACES) * len(weights):
        return f"{len(weights)} weights instead of {len(samples) // len(_PLACES)}"
    expected = iter(samples)
    for tensor in weights:
        values = (read or numpy_helper.to_array)(tensor).reshape(-1)
        size = float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
        for place in _places(values.size):
            wanted, measured = next(expected), float(values[place])
            if not abs(measured - wanted) <= _allowed(tensor.data_type, wanted, size):
                return f"{tensor.name}[{place}] is {measured:.6g} instead of {wanted:.6g}"
    return ""


def _allowed(kind: int, wanted: float, size: float) -> float:
    if kind in _BYTES:
        return STEP
    return (HALF_TOLERANCE if kind in _HALF else TOLERANCE) * max(abs(wanted), size)


def _weights(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the float and 8-bit initializers of more than one element, by their first use.

    Those were trained, drawn or rounded. Small constants that exporters add or leave out do not
    count.
    """
    left = {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type in _FLOATS | _BYTES and np.prod(tensor.dims, dtype=np.int64) > 1
    }
    for node in graph.node:
        for name in node.input:
            if name in left:
                yield left.pop(name)


def _places(size: int) -> list[int]:
    return [int(size * share) for share in _PLACES]
