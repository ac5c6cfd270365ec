"""The element types of a model's values: as the file states them, else as inference does.

What must not enter: values.
"""

from __future__ import annotations

import onnx
from onnx import GraphProto, ModelProto

from surgeon.graph.bounds import infer_shapes


class ValueTypes:
    """The types of a model's values as far as the file or inference tells; found when asked for."""

    def __init__(self, proto: ModelProto) -> None:
        self._proto = proto
        self._types: dict[str, int] | None = None
        self._typed: dict[str, onnx.TypeProto | onnx.TensorProto] = {}
        self._inferred = False

    def element_type(self, name: str) -> int:
        """Return the ONNX element type of a value of the model, 0 where nothing tells."""
        if self._types is None:
            self._types = {}
            self._collect(self._proto.graph)
        if name and name not in self._types and not self._inferred:
            self._inferred = True
            try:
                inferred = infer_shapes(_without_weights(self._proto))
            except Exception:  # noqa: BLE001 - any failure of inference means: unknown
                return 0
            self._collect(inferred.graph)
        return self._types.get(name, 0)

    def type_proto(self, name: str) -> onnx.TypeProto:
        """Return the full type of a value, empty where nothing tells."""
        self.element_type(name)
        known = self._typed.get(name)
        if isinstance(known, onnx.TensorProto):
            return onnx.helper.make_tensor_type_proto(known.data_type, list(known.dims))
        return onnx.TypeProto() if known is None else known

    def _collect(self, graph: GraphProto) -> None:
        assert self._types is not None
        for tensor in graph.initializer:
            self._types[tensor.name] = tensor.data_type
            self._typed[tensor.name] = tensor
        for info in (*graph.input, *graph.output, *graph.value_info):
            kind = info.type
            while (which := kind.WhichOneof("value")) not in {"tensor_type", None}:
                if which == "sequence_type":
                    kind = kind.sequence_type.elem_type
                elif which == "optional_type":
                    kind = kind.optional_type.elem_type
                elif which == "map_type":
                    kind = kind.map_type.value_type
                else:
                    break
            if kind.tensor_type.elem_type:
                self._types[info.name] = kind.tensor_type.elem_type
                self._typed[info.name] = info.type
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    self._collect(attribute.g)


def _without_weights(proto: ModelProto) -> ModelProto:
    """Return a copy whose large initializers are inputs, so that inference moves no data."""
    light = ModelProto()
    light.ir_version = max(proto.ir_version, 4)
    light.opset_import.extend(proto.opset_import)
    graph = light.graph
    graph.name = proto.graph.name or "graph"
    graph.input.extend(proto.graph.input)
    listed = {i.name for i in proto.graph.input}
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) <= 1024 and not tensor.external_data:
            graph.initializer.append(tensor)
        elif tensor.name not in listed:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    graph.output.extend(proto.graph.output)
    graph.node.extend(proto.graph.node)
    return light
