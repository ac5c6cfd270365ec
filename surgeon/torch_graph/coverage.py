"""Which nodes of a model are converted, told without converting any.

What must not enter: the conversion itself (`surgeon.torch_graph.build`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.errors import UnsupportedError
from surgeon.ops.registry import canonical, lookup

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from onnx import ModelProto, NodeProto


def unsupported(proto: ModelProto) -> list[UnsupportedError]:
    """Return an error for every node whose operator or version is not converted, all at once.

    Nodes in subgraphs and local functions count; options that an operator refuses show only when it
    is converted or run.
    """
    found = []
    for node, _, error in unconverted(proto, proto.graph.node):
        label = node.name or next((o for o in node.output if o), node.op_type)
        where = f"node {label!r} ({canonical(node.domain) or 'ai.onnx'} {node.op_type})"
        found.append(UnsupportedError(error.message, where=where, remedy=error.remedy))
    return found


def unconverted(
    proto: ModelProto, nodes: Iterable[NodeProto]
) -> Iterator[tuple[NodeProto, int | None, UnsupportedError]]:
    """Yield what of some nodes of a model is not converted: node, its domain's opset, the error."""
    for node, opset in operators(proto, nodes):
        try:
            lookup(canonical(node.domain), node.op_type, opset or 1)
        except UnsupportedError as error:
            yield node, opset, error


def operators(
    proto: ModelProto, nodes: Iterable[NodeProto]
) -> Iterator[tuple[NodeProto, int | None]]:
    """Yield some nodes of a model, those in their subgraphs and in the functions they call.

    A call of a local function is replaced by the function's nodes, once. With every node comes the
    opset of its domain, None where the model states none.
    """
    local = {(canonical(f.domain), f.name): f for f in proto.functions}
    entered: set[tuple[str, str]] = set()

    def visit(
        some: Iterable[NodeProto], versions: Mapping[str, int]
    ) -> Iterator[tuple[NodeProto, int | None]]:
        for node in some:
            key = (canonical(node.domain), node.op_type)
            function = local.get(key)
            if function is None:
                yield node, versions.get(key[0])
            elif key not in entered:
                entered.add(key)
                own = {canonical(o.domain): o.version for o in function.opset_import}
                yield from visit(function.node, {**versions, **own})
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    yield from visit(graph.node, versions)

    return visit(nodes, {canonical(o.domain): o.version for o in proto.opset_import})
