"""Folding what is constant: an If whose condition is known becomes its branch, in place.

Whole networks stand inside an `If` on a sampling rate; with that input bound to its constant there
is a graph to cut. Exact by construction: the branch taken is the branch that would run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from surgeon.graph.bounds import affordable
from surgeon.graph.normalize import drop_nodes, rename
from surgeon.graph.walk import all_names, attribute, producers, reads, subgraphs
from surgeon.graph.weights import to_array
from surgeon.records import Change

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

SHAPE_OF = "\0shape of "
"""Key prefix of an input's declared dims among known values, 0 where a dim is open."""

LIMIT = 4096
"""Elements up to which an initializer may take part in a condition."""


def bind(
    model: ModelProto, constants: Mapping[str, NDArray[Any]]
) -> tuple[ModelProto, tuple[Change, ...]]:
    """Return a copy in which inputs are the given constants and every decided If is its branch.

    A constant is one sample's value; an input whose value depends on the batch is left alone.

    Args:
        model: normalized model.
        constants: {graph input: value}.
    """
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    bound = 0
    for index in reversed(range(len(graph.input))):
        value = graph.input[index]
        if value.name not in constants or not _scalar_like(value):
            continue
        wanted = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        array = np.asarray(constants[value.name]).astype(wanted)
        graph.initializer.append(numpy_helper.from_array(array, value.name))
        del graph.input[index]
        bound += 1
    inlined = inline_decided(result)
    counts = {"input bound to a constant": bound, "decided If replaced by its branch": inlined}
    return result, tuple(Change(what, count) for what, count in counts.items() if count)


def _scalar_like(value: onnx.ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return value.type.tensor_type.HasField("shape") and all(dim.dim_value == 1 for dim in dims)


def inline_decided(model: ModelProto) -> int:
    """Replace every If whose condition follows from constants by the branch it takes, in place.

    One sweep in graph order: what an If gives is known before the next one is looked at.
    """
    graph = model.graph
    versions = {item.domain: item.version for item in model.opset_import}
    makers, known, unknown = producers(graph), _small_constants(graph), set[str]()
    names, made = all_names(graph), _made(graph) | {value.name for value in graph.input}
    todo, done, count = list(reversed(graph.node)), list[NodeProto](), 0
    while todo:
        node = todo.pop()
        condition = None
        if node.op_type == "If" and node.domain in ("", "ai.onnx"):
            condition = value_of(node.input[0], makers, known, unknown, versions)
        if condition is None or condition.size != 1:
            done.append(node)
            continue
        branch = _branch(node, names, made, taken=bool(condition.reshape(())))
        inner = GraphProto(node=branch.node, initializer=branch.initializer)
        todo.extend(reversed(branch.node))
        makers |= producers(inner)
        known |= _small_constants(inner)
        made |= _made(inner)
        names |= all_names(inner)
        graph.initializer.extend(branch.initializer)
        graph.value_info.extend(branch.value_info)
        count += 1
    if count:
        kept = [NodeProto.FromString(node.SerializeToString()) for node in done]
        del graph.node[:]
        graph.node.extend(kept)
        _drop_dead(model)
    return count


def _small_constants(graph: GraphProto) -> dict[str, NDArray[Any]]:
    known = {
        tensor.name: to_array(tensor)
        for tensor in graph.initializer
        if int(np.prod(tensor.dims, dtype=np.int64)) <= LIMIT
    }
    for node in graph.node:
        value = attribute(node, "value") if node.op_type == "Constant" else None
        if value is not None:
            known[node.output[0]] = numpy_helper.to_array(value.t)
    for item in graph.input:
        if item.type.HasField("tensor_type") and item.type.tensor_type.HasField("shape"):
            dims = [dim.dim_value for dim in item.type.tensor_type.shape.dim]
            known[f"{SHAPE_OF}{item.name}"] = np.asarray(dims, np.int64)
    return known


def value_of(
    name: str,
    makers: Mapping[str, NodeProto],
    known: dict[str, NDArray[Any]],
    unknown: set[str],
    versions: Mapping[str, int],
) -> NDArray[Any] | None:
    """Return a value that follows from constants alone, or None.

    `known` and `unknown` keep what was found, so that no node is looked at twice. Chains may be of
    any length: nothing here calls itself.
    """
    todo = [name]
    while todo:
        current = todo[-1]
        if current in known or current in unknown:
            todo.pop()
            continue
        node = makers.get(current)
        if node is None or node.op_type.startswith("Random") or any(True for _ in subgraphs(node)):
            unknown.add(current)
            continue
        dims = _dims_of(node, makers, known)
        wanted = [node.input[1]] if dims is not None else [item for item in node.input if item]
        open_ = next((item for item in wanted if item not in known), None)
        if open_ in unknown:
            unknown.add(current)
        elif open_ is not None:
            todo.append(open_)
        elif dims is not None:
            found = _dim(dims, known[node.input[1]])
            known.update({} if found is None else {current: found})
            unknown.update(() if found is not None else (current,))
        else:
            results = evaluate(node, {item: known[item] for item in wanted}, versions)
            known.update(zip(node.output, results or (), strict=False))
            unknown.update(() if current in known else (current,))
    return known.get(name)


def _dims_of(
    node: NodeProto, makers: Mapping[str, NodeProto], known: Mapping[str, NDArray[Any]]
) -> NDArray[Any] | None:
    """Return the declared dims of the input whose shape a Gather reads, 0 where open, or None."""
    shape = makers.get(node.input[0]) if node.op_type == "Gather" else None
    if shape is None or shape.op_type != "Shape" or shape.attribute:
        return None
    return known.get(f"{SHAPE_OF}{shape.input[0]}")


def _dim(dims: NDArray[Any], index: NDArray[Any]) -> NDArray[Any] | None:
    """Return dimensions by their index, where they are numbers."""
    try:
        found = dims[index]
    except IndexError:
        return None
    return found if (found > 0).all() else None


def evaluate(
    node: NodeProto, feeds: Mapping[str, NDArray[Any]], versions: Mapping[str, int]
) -> list[NDArray[Any]] | None:
    """Compute one node by ONNX's reference evaluator, or None where that fails or is large."""
    from onnx.reference import ReferenceEvaluator

    given = {name: feeds[name] for name in node.input if name}
    if not affordable(node, given, versions):
        return None
    try:
        results = ReferenceEvaluator(node, opsets=dict(versions)).run(None, given)
    except Exception:  # noqa: BLE001 - what cannot be computed stays as it is
        return None
    return [np.asarray(result) for result in results]


def _branch(node: NodeProto, names: set[str], made: set[str], *, taken: bool) -> GraphProto:
    """Return the branch that an If takes, with names that are free and the If's own outputs.

    Args:
        node: the If.
        names: every name in the graph around it, subgraphs' too.
        made: what that graph itself makes or is given.
        taken: the condition.
    """
    wanted = "then_branch" if taken else "else_branch"
    branch = GraphProto()
    branch.CopyFrom(next(inner for name, inner in subgraphs(node) if name == wanted))
    outputs = list(node.output)
    around = (names - _made(branch)) | (made - set(outputs))
    _make_unique(branch, around, node.name or outputs[0])
    inside = {name for child in branch.node for name in child.output if name}
    ends: list[NodeProto] = []
    given: dict[str, str] = {}
    for value, output in zip(branch.output, outputs, strict=True):
        if not output:
            continue
        if value.name in inside and value.name not in given:
            given[value.name] = output
        else:
            ends.append(
                onnx.helper.make_node("Identity", [given.get(value.name, value.name)], [output])
            )
    rename(branch, given)
    for child in branch.node:
        for place, name in enumerate(child.output):
            if name in given:
                child.output[place] = given[name]
    branch.node.extend(ends)
    described = [value for value in branch.value_info if value.name not in given]
    del branch.value_info[:]
    branch.value_info.extend(described)
    return branch


def _made(graph: GraphProto) -> set[str]:
    names = {name for node in graph.node for name in node.output if name}
    return names | {tensor.name for tensor in graph.initializer}


def _make_unique(branch: GraphProto, outside: set[str], prefix: str) -> None:
    """Rename what a branch makes where the graph around it has the same name."""
    own = _made(branch)
    taken = outside | own
    fresh: dict[str, str] = {}
    for name in sorted(own & outside):
        new = f"{prefix}/{name}"
        while new in taken:
            new += "."
        taken.add(new)
        fresh[name] = new
    if not fresh:
        return
    rename(branch, fresh)
    for child in branch.node:
        for place, name in enumerate(child.output):
            child.output[place] = fresh.get(name, name)
    for values in (branch.initializer, branch.output, branch.value_info):
        for value in values:
            value.name = fresh.get(value.name, value.name)


def _drop_dead(model: ModelProto) -> None:
    """Remove nodes whose values nobody reads any more, and initializers of branches not taken."""
    graph = model.graph
    before = {tensor.name for tensor in graph.initializer}
    used = {value.name for value in graph.output}
    dead = []
    for node in reversed(graph.node):
        if used.intersection(node.output):
            used.update(reads(node))
        else:
            dead.append(node)
    drop_nodes(graph, dead)
    for index in reversed(range(len(graph.initializer))):
        name = graph.initializer[index].name
        if name in before and name not in used:
            del graph.initializer[index]
