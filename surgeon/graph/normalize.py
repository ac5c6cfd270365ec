"""Bringing every file to one form without changing what it computes.

Each rewrite here is exact by construction (no session is needed to believe it) and is counted in
the `Change` list that documents show. After it: nodes are in topological order, local functions are
inlined, no initializer is also an input, a shared weight is one initializer, and every weight is an
initializer of the top graph under the name it had.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.inliner import inline_local_functions

from surgeon.errors import ModelError
from surgeon.graph.schema import LINEAR, WEIGHT_SLOTS
from surgeon.graph.walk import (
    FLOATS,
    all_graphs,
    all_names,
    attribute,
    label,
    reads,
    subgraphs,
)
from surgeon.graph.weights import same_values, to_array
from surgeon.records import Change

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import GraphProto


def normalize(model: ModelProto) -> tuple[ModelProto, tuple[Change, ...]]:
    """Return the normalized copy of a model and what was done to it.

    Raises:
        ModelError: the graph has a cycle, a value is read that nobody makes, or two initializers of
            one name differ.
    """
    result = ModelProto()
    result.CopyFrom(model)
    counts: dict[str, int] = {}
    _check_values(result.graph)
    if result.functions:
        counts["local function inlined"] = len(result.functions)
        try:
            result = inline_local_functions(result)
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"the functions of the model cannot be put into its graph: {error}",
                where=", ".join(repr(function.name) for function in model.functions[:5]),
                remedy="the file is damaged; export it again",
            ) from error
    graph = result.graph
    counts["sparse initializer made dense"] = sum(_densify(g) for g in all_graphs(graph))
    counts["initializer stated twice"] = sum(_state_once(g) for g in all_graphs(graph))
    counts["node moved into topological order"] = _sort(graph)
    counts["initializer taken off the inputs"] = _hide_initializers(result)
    counts["weight lifted out of a subgraph"] = _lift(graph)
    counts |= _weights_to_initializers(graph)
    counts["Identity of an initializer removed"] = _share(graph)
    return result, tuple(Change(what, count) for what, count in counts.items() if count)


def _check_values(graph: GraphProto) -> None:
    known = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    known |= {name for node in graph.node for name in node.output}
    wanted = {name: label(node) for node in graph.node for name in reads(node)}
    wanted |= {value.name: "graph outputs" for value in graph.output}
    missing = [f"{name!r} read by {user}" for name, user in wanted.items() if name not in known]
    if missing:
        raise ModelError(
            "the graph reads values that nothing makes",
            where="; ".join(missing[:5]) + ("; …" if len(missing) > 5 else ""),
            remedy="the file is damaged or was cut badly; export it again",
        )


def drop_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Remove nodes, told apart by what they make (`remove` would compare whole tensors)."""
    gone = {tuple(node.output) for node in nodes}
    for index in reversed(range(len(graph.node) if gone else 0)):
        if tuple(graph.node[index].output) in gone:
            del graph.node[index]


def _densify(graph: GraphProto) -> int:
    count = len(graph.sparse_initializer)
    for sparse in graph.sparse_initializer:
        values = numpy_helper.to_array(sparse.values)
        indices = numpy_helper.to_array(sparse.indices)
        dense = np.zeros(tuple(sparse.dims), values.dtype)
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
        graph.initializer.append(numpy_helper.from_array(dense, sparse.values.name))
    del graph.sparse_initializer[:]
    return count


def _state_once(graph: GraphProto) -> int:
    """Keep one of several initializers that have the same name and content.

    Raises:
        ModelError: they differ, so that no one knows which is meant.
    """
    first: dict[str, int] = {}
    again = []
    for index, tensor in enumerate(graph.initializer):
        if first.setdefault(tensor.name, index) != index:
            again.append(index)
    for index in reversed(again):
        tensor = graph.initializer[index]
        kept = graph.initializer[first[tensor.name]]
        if not same_values(tensor, kept):
            raise ModelError(
                "two initializers have one name and different values",
                where=repr(tensor.name),
                remedy="export the model again; a value has one name",
            )
        del graph.initializer[index]
    return len(again)


def _sort(graph: GraphProto) -> int:
    moved = sum(_sort(inner) for node in graph.node for _, inner in subgraphs(node))
    made = {name for node in graph.node for name in node.output if name}
    needs = [{name for name in reads(node) if name in made} for node in graph.node]
    if _in_order(graph, needs):
        return moved
    order = _order(graph, needs)
    if len(order) < len(needs):
        rest = sorted(set(range(len(needs))) - set(order))
        raise ModelError(
            "the graph has a cycle",
            where=", ".join(label(graph.node[i]) for i in rest[:5]),
            remedy="export the model again; ONNX graphs are acyclic",
        )
    nodes = [NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
    del graph.node[:]
    graph.node.extend(nodes)
    return moved + sum(index != place for place, index in enumerate(order))


def _order(graph: GraphProto, needs: list[set[str]]) -> list[int]:
    """Return the nodes in an order that computes them, as near to the file's as there is.

    Of the nodes whose inputs are there the first in the file comes next (Kahn, "Topological sorting
    of large networks", 1962); those on a cycle, or behind one, are left out.
    """
    missing = [len(needed) for needed in needs]
    waiting: dict[str, list[int]] = {}
    for index, needed in enumerate(needs):
        for name in needed:
            waiting.setdefault(name, []).append(index)
    ready = [index for index, count in enumerate(missing) if not count]
    order: list[int] = []
    while ready:
        index = heappop(ready)
        order.append(index)
        for name in dict.fromkeys(graph.node[index].output):
            for user in waiting.pop(name, ()):
                missing[user] -= 1
                if not missing[user]:
                    heappush(ready, user)
    return order


def _in_order(graph: GraphProto, needs: list[set[str]]) -> bool:
    ready: set[str] = set()
    for node, needed in zip(graph.node, needs, strict=True):
        if not needed <= ready:
            return False
        ready |= set(node.output)
    return True


def _hide_initializers(model: ModelProto) -> int:
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    count = 0
    for index in reversed(range(len(graph.input))):
        if graph.input[index].name in weights:
            del graph.input[index]
            count += 1
    if count:
        # Before IR version 4 an initializer had to be listed among the inputs.
        model.ir_version = max(model.ir_version, 4)
    return count


def _lift(graph: GraphProto) -> int:
    """Move float initializers and weight Constants of subgraphs to the top graph."""
    if not any(True for node in graph.node if node.attribute for _ in subgraphs(node)):
        return 0
    taken = all_names(graph)
    seen = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    seen |= {name for node in graph.node for name in node.output}
    # A value that a subgraph makes may not be called like one of the top graph.
    made: set[str] = set()
    for inner in list(all_graphs(graph))[1:]:
        values = {name for node in inner.node for name in node.output}
        made |= values - {node.output[0] for node in _constant_weights(inner)}
        made |= {v.name for v in inner.input} - {t.name for t in inner.initializer}
    count = 0

    def visit(owner: NodeProto, attribute_name: str, inner: GraphProto) -> None:
        nonlocal count
        weights = _constant_weights(inner)
        outputs = {value.name for value in inner.output}
        tensors: list[TensorProto] = []
        for index in reversed(range(len(inner.initializer))):
            tensor = inner.initializer[index]
            # An outer value may not be a subgraph's output as it is, so such a one stays.
            if tensor.data_type in FLOATS and tensor.name not in outputs:
                tensors.append(TensorProto.FromString(tensor.SerializeToString()))
                del inner.initializer[index]
        tensors.reverse()
        moved = [n for n in weights if n.op_type == "Constant" and n.output[0] not in outputs]
        tensors += [_constant_value(node, node.output[0]) for node in moved]
        drop_nodes(inner, moved)
        names = {tensor.name for tensor in tensors}
        for index in reversed(range(len(inner.input))):
            if inner.input[index].name in names:
                del inner.input[index]
        _drop_value_info(inner, names)
        for tensor in tensors:
            name = tensor.name
            if name in seen or name in made:
                name = f"{owner.output[0]}/{attribute_name}/{tensor.name}"
                while name in taken:
                    name += "."
                rename(inner, {tensor.name: name})
                tensor.name = name
            seen.add(name)
            taken.add(name)
            graph.initializer.append(tensor)
            count += 1
        # Outside in, so that an inner weight of the same name still hides the outer one here.
        for node in inner.node:
            for name, deeper in subgraphs(node):
                visit(node, name, deeper)

    for node in graph.node:
        for name, inner in subgraphs(node):
            visit(node, name, inner)
    return count


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename what nodes read, in the graph and its subgraphs, in place (names made stay)."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in names:
                node.input[index] = names[name]
        for _, inner in subgraphs(node):
            hidden = {value.name for value in inner.input}
            hidden |= {tensor.name for tensor in inner.initializer}
            hidden |= {name for child in inner.node for name in child.output}
            rename(inner, {old: new for old, new in names.items() if old not in hidden})


def _share(graph: GraphProto) -> int:
    """Let every reader of an initializer's Identity read the initializer itself."""
    weights = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    captured_outputs = {
        value.name for inner in all_graphs(graph) if inner is not graph for value in inner.output
    }
    names: dict[str, str] = {}
    gone: list[NodeProto] = []
    for node in graph.node:
        if node.op_type != "Identity" or node.domain not in ("", "ai.onnx"):
            continue
        source = names.get(node.input[0], node.input[0])
        if source in weights and node.output[0] not in outputs | captured_outputs:
            names[node.output[0]] = source
            gone.append(node)
    drop_nodes(graph, gone)
    if names:
        rename(graph, names)
        _drop_value_info(graph, set(names))
    return len(gone)


def _drop_value_info(graph: GraphProto, names: set[str]) -> None:
    for index in reversed(range(len(graph.value_info))):
        if graph.value_info[index].name in names:
            del graph.value_info[index]


def _weights_to_initializers(graph: GraphProto) -> dict[str, int]:
    nodes = _constant_weights(graph)
    outputs = {value.name for value in graph.output}
    what = "weight made an initializer"
    counts = {f"Constant {what}": 0, f"ConstantOfShape {what}": 0}
    tensors: list[TensorProto] = []
    moved: list[NodeProto] = []
    for node in nodes:
        if node.output[0] in outputs:
            continue
        if node.op_type == "Constant":
            tensors.append(_constant_value(node, node.output[0]))
        else:
            tensors.append(_filled(graph, node))
        counts[f"{node.op_type} {what}"] += 1
        moved.append(node)
    drop_nodes(graph, moved)
    graph.initializer.extend(tensors)
    _drop_value_info(graph, {tensor.name for tensor in tensors})
    return counts


def _constant_weights(graph: GraphProto) -> list[NodeProto]:
    """Return Constant and ConstantOfShape nodes that stand in a weight place of this graph."""
    candidates: dict[str, NodeProto] = {}
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type == "Constant":
            value = _tensor_attribute(node)
            if value is not None and value.data_type in FLOATS and _size(tuple(value.dims)) > 1:
                candidates[node.output[0]] = node
        elif node.op_type == "ConstantOfShape":
            shape = _static(graph, node.input[0])
            value_item = attribute(node, "value")
            kind = value_item.t.data_type if value_item is not None else TensorProto.FLOAT
            if shape is not None and kind in FLOATS and _size(tuple(shape.tolist())) > 1:
                candidates[node.output[0]] = node
    if not candidates:
        return []
    places = _weight_places(graph)
    return [node for name, node in candidates.items() if name in places]


def _weight_places(graph: GraphProto) -> set[str]:
    """Return names of values read where operators have weights, or added to what they give."""
    places: set[str] = set()
    linear: set[str] = set()
    for inner in all_graphs(graph):
        for node in inner.node:
            for slot in WEIGHT_SLOTS.get(node.op_type, ()):
                if slot < len(node.input):
                    places.add(node.input[slot])
            if node.op_type in LINEAR or node.op_type in WEIGHT_SLOTS:
                linear |= set(node.output)
        for node in inner.node:
            if node.op_type == "Add" and any(name in linear for name in node.input):
                places |= set(node.input)
        for node in reversed(inner.node):
            if node.op_type == "Identity" and node.output[0] in places:
                places.add(node.input[0])
    return places


def _size(dims: tuple[int, ...]) -> int:
    count = 1
    for dim in dims:
        count *= dim
    return count


def _tensor_attribute(node: NodeProto) -> TensorProto | None:
    for item in node.attribute:
        if item.name == "value":
            tensor: TensorProto = item.t
            return tensor
        if item.name == "value_floats" and item.type == AttributeProto.FLOATS:
            return numpy_helper.from_array(np.asarray(item.floats, np.float32))
    return None


def _constant_value(node: NodeProto, name: str) -> TensorProto:
    value = _tensor_attribute(node)
    if value is None:
        raise ModelError("a Constant node holds no dense tensor", where=node.output[0])
    tensor = TensorProto()
    tensor.CopyFrom(value)
    tensor.name = name
    return tensor


def _static(graph: GraphProto, name: str) -> np.ndarray | None:
    for tensor in graph.initializer:
        if tensor.name == name:
            return to_array(tensor)
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] == name:
            item = attribute(node, "value")
            if item is not None:
                return numpy_helper.to_array(item.t)
            ints = attribute(node, "value_ints")
            return None if ints is None else np.asarray(ints.ints, np.int64)
    return None


def _filled(graph: GraphProto, node: NodeProto) -> TensorProto:
    shape = _static(graph, node.input[0])
    assert shape is not None
    item = attribute(node, "value")
    value = numpy_helper.to_array(item.t) if item is not None else np.zeros(1, np.float32)
    return numpy_helper.from_array(
        np.full(tuple(shape.tolist()), value.reshape(-1)[0], value.dtype), node.output[0]
    )
