"""Operators that are defined by other operators: their definitions, put in the place of a node.

What must not enter: what becomes of the nodes then (`surgeon.torch_graph.build`).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import onnx
from onnx import FunctionProto, NodeProto

from surgeon.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from surgeon.ops.registry import FunctionBody


def definition(
    node: NodeProto, body: FunctionBody, types: Iterable[onnx.TypeProto]
) -> FunctionProto:
    """Return an operator's own definition as a function.

    Args:
        node: the node that calls it.
        body: what the registry knows of the operator.
        types: of the node's inputs, empty where nothing tells; read where the definition depends
            on them.

    Raises:
        UnsupportedError: it depends on types that nothing tells.
    """
    schema = body.schema
    if schema.has_function:
        opset = max((v for v in schema.function_opset_versions), default=schema.since_version)
        chosen = schema.get_function_with_opset_version(opset) or schema.function_body
        return chosen if isinstance(chosen, FunctionProto) else _parse(chosen)
    known = list(types)
    if any(n and t.WhichOneof("value") is None for n, t in zip(node.input, known, strict=True)):
        raise UnsupportedError(
            f"the definition of {node.op_type} needs its inputs' types, which nothing tells",
            remedy="run onnx.shape_inference over the file",
        )
    opset = max(schema.context_dependent_function_opset_versions)
    serialized = schema.get_context_dependent_function_with_opset_version(
        opset, node.SerializeToString(), [t.SerializeToString() for t in known]
    )
    return _parse(serialized)


def instantiate(
    original: NodeProto,
    mapping: dict[str, str],
    attributes: Mapping[str, onnx.AttributeProto],
    prefix: str,
) -> NodeProto:
    """Copy a node of a function body, its values renamed, its attribute references filled."""
    node = NodeProto()
    node.CopyFrom(original)
    node.name = f"{prefix}{original.name or original.op_type}"
    names = [mapping.get(n, n) for n in original.input]
    del node.input[:]
    node.input.extend(names)
    outputs = [mapping.setdefault(n, f"{prefix}{n}") for n in original.output]
    del node.output[:]
    node.output.extend(outputs)
    del node.attribute[:]
    for attribute in original.attribute:
        if attribute.ref_attr_name:
            given = attributes.get(attribute.ref_attr_name)
            if given is None:
                continue
            filled = copy.deepcopy(given)
            filled.name = attribute.name
            node.attribute.append(filled)
        elif attribute.type == onnx.AttributeProto.GRAPH:
            changed = copy.deepcopy(attribute)
            inner = dict(mapping)
            for formal in changed.g.input:
                inner[formal.name] = formal.name
            nodes = [instantiate(n, inner, attributes, prefix) for n in attribute.g.node]
            del changed.g.node[:]
            changed.g.node.extend(nodes)
            for output in changed.g.output:
                output.name = inner.get(output.name, output.name)
            node.attribute.append(changed)
        else:
            node.attribute.append(attribute)
    return node


def _parse(serialized: bytes) -> FunctionProto:
    function = FunctionProto()
    function.ParseFromString(serialized)
    return function
