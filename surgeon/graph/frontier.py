"""The freeze frontier: everything in front of the first trainable weight, and everything behind it.

The graph is split in two graphs. The frozen one's outputs are the frontier tensors, which the
runtime computes once per sample; the trained one takes them as inputs and is converted to torch.
What is computed from shapes, constants or frozen initializers alone is never a frontier tensor: it
is repeated in the trained graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from onnx import ModelProto, TensorProto, ValueInfoProto

from surgeon.graph.cuts import id_of
from surgeon.graph.shapes import Shapes, make_value, tensor_info
from surgeon.graph.walk import FLOATS, data_inputs, producers, reads
from surgeon.graph.weights import quantized_weights

if TYPE_CHECKING:
    from collections.abc import Collection

    from surgeon.records import TensorInfo


@dataclass(frozen=True)
class Frontier:
    """A graph split at its freeze frontier.

    Attributes:
        frozen: graph from the inputs to the frontier tensors; None where nothing is frozen.
        trained: graph from the frontier tensors to the output.
        tensors: the frontier tensors, which are the trained graph's inputs in order.
        nodes_frozen: nodes of the frozen graph.
        nodes_trained: nodes of the trained graph.
    """

    frozen: ModelProto | None
    trained: ModelProto
    tensors: tuple[TensorInfo, ...]
    nodes_frozen: int
    nodes_trained: int


def split(
    model: ModelProto,
    trainable: Collection[str],
    shapes: Shapes,
    *,
    keep_weightless: bool = True,
) -> Frontier:
    """Split an operated graph in front of the first use of any trainable initializer.

    Args:
        model: operated model.
        trainable: names of initializers, quantised ones too; a tied one counts at its first use.
        shapes: shapes of the model.
        keep_weightless: whether a frozen part without any weight (a Pad in front of the first
            convolution) stands; otherwise it joins the trained part, and nothing is cached.
    """
    graph = model.graph
    learning = set(trainable)
    behind: set[tuple[str, ...]] = set()
    if not keep_weightless and _weightless_front(model, learning):
        behind = {id_of(node) for node in graph.node}
        learning |= {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        if learning.intersection(reads(node)):
            behind.add(id_of(node))
            learning |= {name for name in node.output if name}
    makers = producers(graph)
    inputs = set(data_inputs(graph))
    wanted: list[str] = []
    todo = [node for node in graph.node if id_of(node) in behind]
    for node in todo:
        for name in reads(node):
            if name in learning or name in wanted:
                continue
            maker = makers.get(name)
            if name in inputs or (name in shapes.data and name in shapes.batch_axes):
                wanted.append(name)
            elif maker is not None and id_of(maker) not in behind:
                # From shapes, constants or frozen weights alone: repeated, not cached.
                behind.add(id_of(maker))
                todo.append(maker)
    outputs = [value.name for value in graph.output]
    wanted += [n for n in outputs if n not in learning and n not in wanted and n in shapes.data]
    # An input that a repeated shape node reads is a frontier tensor like any other.
    order = {name: place for place, name in enumerate([*inputs, *makers])}
    tensors = sorted(wanted, key=lambda name: order.get(name, 0))
    trained = _behind(model, behind, tensors, shapes)
    made_in_front = [name for name in tensors if name not in inputs]
    frozen = _front(model, tensors, shapes) if made_in_front else None
    return Frontier(
        frozen,
        trained,
        tuple(tensor_info(name, shapes) for name in tensors),
        len(frozen.graph.node) if frozen is not None else 0,
        len(trained.graph.node),
    )


def alone(front: Frontier, model: ModelProto, name: str, shapes: Shapes) -> Frontier:
    """Return a frontier at which one of its tensors alone is computed, if it is among them."""
    kept = tuple(tensor for tensor in front.tensors if tensor.name == name)
    if not kept or len(kept) == len(front.tensors):
        return front
    frozen = None if name in data_inputs(model.graph) else _front(model, [name], shapes)
    nodes = 0 if frozen is None else len(frozen.graph.node)
    return replace(front, frozen=frozen, tensors=kept, nodes_frozen=nodes)


def _weightless_front(model: ModelProto, trainable: set[str]) -> bool:
    """Say whether no frozen weight works in front of the first trainable one.

    What reads text stays in front: torch has none.
    """
    if any(value.type.tensor_type.elem_type == TensorProto.STRING for value in model.graph.input):
        return False
    weights = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type in FLOATS and prod(tensor.dims) > 1
    } | set(quantized_weights(model))
    weights -= trainable
    learning = set(trainable)
    for node in model.graph.node:
        if learning.intersection(reads(node)):
            learning |= {name for name in node.output if name}
        elif weights.intersection(reads(node)):
            return False
    return True


def _behind(
    model: ModelProto, behind: set[tuple[str, ...]], tensors: list[str], shapes: Shapes
) -> ModelProto:
    result = _bare(model)
    graph = result.graph
    graph.node.extend(node for node in model.graph.node if id_of(node) in behind)
    used = {name for node in graph.node for name in reads(node)}
    used |= {value.name for value in model.graph.output}
    graph.initializer.extend(t for t in model.graph.initializer if t.name in used)
    graph.output.extend(model.graph.output)
    graph.input.extend(_value(model, name, shapes) for name in tensors)
    return result


def _front(model: ModelProto, tensors: list[str], shapes: Shapes) -> ModelProto:
    from surgeon.graph.cuts import keep_only

    result = keep_only(model, tensors, shapes)
    del result.metadata_props[:]
    return result


def _value(model: ModelProto, name: str, shapes: Shapes) -> ValueInfoProto:
    for value in model.graph.input:
        if value.name == name:
            found: ValueInfoProto = value
            return found
    return make_value(name, shapes.dtype(name), shapes.symbolic.get(name))


def _bare(model: ModelProto) -> ModelProto:
    result = ModelProto(ir_version=max(model.ir_version, 4))
    result.opset_import.extend(model.opset_import)
    result.graph.name = model.graph.name
    return result
