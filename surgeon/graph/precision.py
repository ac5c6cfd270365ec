"""Half-precision graphs widened to float32, for training only.

Tuning float16 weights in float16 loses small updates; the widened graph has the same nodes and
names, its weights are rounded once, when they are written back.
"""

from __future__ import annotations

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, numpy_helper

from surgeon.graph.walk import all_graphs
from surgeon.graph.weights import to_array

HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})


def is_half(model: ModelProto) -> bool:
    """Say whether any weight is stored in half precision."""
    return any(tensor.data_type in HALVES for tensor in model.graph.initializer)


def computes_half(model: ModelProto) -> bool:
    """Say whether anything in a graph is half precision: a weight, an input, a cast, a constant."""
    for graph in all_graphs(model.graph):
        if any(tensor.data_type in HALVES for tensor in graph.initializer):
            return True
        if any(v.type.tensor_type.elem_type in HALVES for v in (*graph.input, *graph.output)):
            return True
        for node in graph.node:
            for item in node.attribute:
                if item.type == AttributeProto.TENSOR and item.t.data_type in HALVES:
                    return True
                if item.name in _NAMING_TYPES and item.i in HALVES:
                    return True
    return False


_NAMING_TYPES = frozenset({"to", "dtype", "output_dtype"})
"""Attributes that name an element type."""


BOUNDS = {"float32": 1e-4, "float16": 1e-2, "int8": 5e-2}
"""How far, relative to the largest answer, two processors may be apart, by precision.

In float32 they add up in another order. In half precision values are rounded to 11 bits on the way.
A value that is rounded to eight bits may fall on the next step, of which there are 255.
"""


def precision_of(model: ModelProto) -> str:
    """Return in what a graph computes: `float32`, `float16`, `int8` (values are quantised)."""
    stored = {tensor.name for graph in all_graphs(model.graph) for tensor in graph.initializer}
    for graph in all_graphs(model.graph):
        for node in graph.node:
            integers = node.op_type in _QUANTISES or node.op_type.startswith("QLinear")
            if integers and any(name and name not in stored for name in node.input):
                return "int8"
    return "float16" if computes_half(model) else "float32"


_QUANTISES = frozenset(
    {"DynamicQuantizeLinear", "QuantizeLinear", "QGemm", "MatMulInteger", "ConvInteger"}
)


def widen(model: ModelProto) -> ModelProto:
    """Return a copy in which every float16 and bfloat16 tensor, value and cast is float32."""
    result = ModelProto()
    result.CopyFrom(model)
    for graph in all_graphs(result.graph):
        for tensor in graph.initializer:
            _widen(tensor)
        for values in (graph.input, graph.output, graph.value_info):
            for value in values:
                if value.type.tensor_type.elem_type in HALVES:
                    value.type.tensor_type.elem_type = TensorProto.FLOAT
        for node in graph.node:
            for item in node.attribute:
                if item.type == AttributeProto.TENSOR:
                    _widen(item.t)
                elif item.name in _NAMING_TYPES and item.i in HALVES:
                    item.i = TensorProto.FLOAT
    return result


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in HALVES:
        values = to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
