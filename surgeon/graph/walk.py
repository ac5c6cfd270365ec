"""Walking an ONNX graph: what a node reads (subgraphs included), who makes and who uses a value.

Everything here reads; nothing changes a graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FLOATS = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
)


def subgraphs(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """Yield (attribute name, graph) for every subgraph a node owns."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.name, attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            for graph in attribute.graphs:
                yield attribute.name, graph


def captured(graph: GraphProto) -> set[str]:
    """Return the outer values a subgraph reads, through any depth of nesting."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {tensor.values.name for tensor in graph.sparse_initializer}
    # Names are made once, so that the order of the nodes (which may be wrong) does not matter.
    own |= {name for node in graph.node for name in node.output}
    outer: set[str] = set()
    for node in graph.node:
        outer |= {name for name in reads(node) if name not in own}
    return outer | {value.name for value in graph.output if value.name not in own}


def reads(node: NodeProto) -> list[str]:
    """Return every value a node reads: its inputs in order, then what its subgraphs capture."""
    names = [name for name in node.input if name]
    if not node.attribute:  # nearly every node, asked for often
        return names
    for _, graph in subgraphs(node):
        names.extend(sorted(captured(graph) - set(names)))
    return names


def all_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield the graph and every graph inside it."""
    yield graph
    for node in graph.node:
        if node.attribute:  # a graph lies in an attribute, and most nodes of a long graph have none
            for _, inner in subgraphs(node):
                yield from all_graphs(inner)


@dataclass(frozen=True)
class Links:
    """Who makes and who reads every value of a graph, found once for many questions."""

    graph: GraphProto

    @cached_property
    def makers(self) -> dict[str, NodeProto]:
        """{value: the node that makes it}."""
        return producers(self.graph)

    @cached_property
    def users(self) -> dict[str, list[NodeProto]]:
        """{value: the nodes that read it}, in graph order."""
        return consumers(self.graph)


def producers(graph: GraphProto) -> dict[str, NodeProto]:
    """Return {value: the node that makes it}."""
    return {name: node for node in graph.node for name in node.output if name}


def consumers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Return {value: the nodes that read it}, in graph order."""
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(reads(node)):
            users.setdefault(name, []).append(node)
    return users


def ancestors(
    graph: GraphProto, values: Iterable[str], stop: Iterable[str] = ()
) -> list[NodeProto]:
    """Return, in graph order, the nodes needed to compute `values`, not walking past `stop`."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    found: set[int] = set()
    barrier = set(stop)
    todo = [name for name in values if name not in barrier]
    while todo:
        index = makers.get(todo.pop())
        if index is None or index in found:
            continue
        found.add(index)
        todo.extend(name for name in reads(graph.node[index]) if name not in barrier)
    return [graph.node[index] for index in sorted(found)]


def data_inputs(graph: GraphProto) -> list[str]:
    """Return the graph inputs that are not initializers, in order."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value.name for value in graph.input if value.name not in weights]


def attribute(node: NodeProto, name: str) -> AttributeProto | None:
    """Return the attribute of that name, or None."""
    return next((item for item in node.attribute if item.name == name), None)


def all_names(graph: GraphProto) -> set[str]:
    """Return every value and initializer name in the graph and its subgraphs."""
    names: set[str] = set()
    for inner in all_graphs(graph):
        names |= {value.name for value in inner.input} | {value.name for value in inner.output}
        names |= {tensor.name for tensor in inner.initializer}
        for node in inner.node:
            names |= set(node.input) | set(node.output)
    names.discard("")
    return names


def label(node: NodeProto) -> str:
    """Return how messages call a node: its name, or else its operator and first output."""
    kind = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    if node.name:
        return f"{kind} node {node.name!r}"
    return f"{kind} node making {next((name for name in node.output if name), '')!r}"
