"""A graph whose outputs are what it computes at its cuts, pooled or as it is: no head is appended.

The pooling is that of a head. What must not enter: sessions, samples.
"""

from __future__ import annotations

from itertools import count
from math import prod
from typing import TYPE_CHECKING

from onnx import TensorProto, helper

from surgeon.graph.channels import channel_axis
from surgeon.graph.dequantize import INTEGERS, dequantize
from surgeon.graph.normalize import rename
from surgeon.graph.shapes import make_value
from surgeon.graph.taps import append_pool, without_weights
from surgeon.graph.walk import all_graphs, all_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import GraphProto, ModelProto

    from surgeon.graph.shapes import Shapes
    from surgeon.records import Dim

NAME = "embedding"
"""What the first output is called; further ones are `embedding.2`, `embedding.3`, …"""
AS_IT_IS = "none"
"""The pool that leaves a value as it is."""


def give_features(
    model: ModelProto, original: ModelProto, shapes: Shapes, values: Sequence[str], pool: str
) -> tuple[ModelProto, list[str], int | None]:
    """Let a graph that was cut at some values give these, and nothing else.

    Args:
        model: the truncated graph.
        original: the graph it was cut from, with all inputs in their order.
        shapes: of both.
        values: what is given, in the order of the outputs.
        pool: how axes that are neither batch nor channel collapse, or `AS_IT_IS`.

    Returns:
        The graph, the names of nodes that were added, and the numbers of the first output for a
        sample, None where that is no fixed number.

    Raises:
        ModelError: a pooled value has no fixed number of features.
    """
    result, light = model, without_weights(model)
    inputs = {value.name: value for value in original.graph.input}
    needed = {value.name for value in model.graph.input}
    there, made, infos = {node.name for node in model.graph.node}, list[str](), []
    for place, name in enumerate(values):
        value = name
        if shapes.dtype(value) in INTEGERS:
            result, value, shapes = dequantize(result, original, value, shapes)
            light.graph.node.append(result.graph.node[-1])
        given, read = value, {value}
        if pool != AS_IT_IS:
            prefix = f"surgeon.features.{place + 1}."
            given, read = append_pool(result, light, original, shapes, value, prefix, pool)
        needed |= read & set(inputs)
        made.append(given)
        infos.append(_shape(light, shapes, value, pool))
    names = [NAME if place == 0 else f"{NAME}.{place + 1}" for place in range(len(values))]
    graph = result.graph
    for place, name in enumerate(names):
        if made[place] != name:
            other = _make_free(graph, name)
            made = [other if given == name else given for given in made]
            given = made[place]
            graph.node.append(
                helper.make_node("Identity", [given], [name], f"surgeon.features.{name}")
            )
    del graph.input[:]
    graph.input.extend(value for name, value in inputs.items() if name in needed)
    del graph.output[:]
    graph.output.extend(
        make_value(name, kind, dims) for name, (kind, dims) in zip(names, infos, strict=True)
    )
    result.ir_version = max(result.ir_version, 4)
    numbers = [dim for dim in infos[0][1][1:] if isinstance(dim, int)]
    fixed = len(numbers) == len(infos[0][1]) - 1
    return (
        result,
        [node.name for node in graph.node if node.name not in there],
        prod(numbers) if fixed else None,
    )


def _shape(model: ModelProto, shapes: Shapes, value: str, pool: str) -> tuple[int, tuple[Dim, ...]]:
    """Return element type and shape of what is given of a value."""
    dims, axis = shapes.symbolic[value], shapes.batch_axes[value]
    if pool == AS_IT_IS:
        return shapes.dtype(value), tuple(dims)
    kind = TensorProto.DOUBLE if shapes.dtype(value) == TensorProto.DOUBLE else TensorProto.FLOAT
    if pool == "flatten":
        rest = [dim for place, dim in enumerate(dims) if place != axis]
        return int(kind), (dims[axis], prod(dim for dim in rest if isinstance(dim, int)))
    wide = 1 if len(dims) == 1 else dims[channel_axis(model, shapes, value)]
    return int(kind), (dims[axis], wide)


def _make_free(graph: GraphProto, name: str) -> str:
    """Rename an inner value that is called like an output of ours; return what it is called."""
    taken = all_names(graph)
    if name not in taken:
        return name
    other = next(f"{name}.was.{n}" for n in count(1) if f"{name}.was.{n}" not in taken)
    rename(graph, {name: other})
    for inner in all_graphs(graph):
        for values in (inner.input, inner.initializer, inner.value_info, inner.output):
            for value in values:
                if value.name == name:
                    value.name = other
        for node in inner.node:
            for index, made in enumerate(node.output):
                if made == name:
                    node.output[index] = other
    return other
