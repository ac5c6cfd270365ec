"""Freeing a fixed batch: a candidate graph in which the batch is a symbol, and the claim about it.

Setting the input's first dimension is not enough: exporters write the batch into Reshape targets.
Whether the candidate computes the same, sample by sample, is proven by `surgeon.operation`.
"""

from __future__ import annotations

from itertools import count
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from surgeon.graph.shapes import (
    Concrete,
    data_values,
    fixed_batch,
    infer,
    input_infos,
    input_sizes,
    skeleton,
)
from surgeon.graph.walk import all_names, attribute, consumers, data_inputs
from surgeon.graph.weights import to_array

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import GraphProto

    from surgeon.records import TensorInfo

SYMBOL = "batch"


def free_batch(model: ModelProto) -> tuple[ModelProto, str] | None:
    """Return (candidate with a symbolic batch, claim), or None where the batch is free already.

    The claim, which the caller proves, is that a batch of n gives what n single ones give.
    """
    infos = input_infos(model)
    fixed = fixed_batch(infos)
    if fixed is None:
        return None
    shapes = infer(skeleton(model), input_sizes(infos, fixed))
    candidate = _with_free_ends(model, infos, fixed)
    patched = _free_reshapes(candidate, shapes, fixed)
    claim = f"the fixed batch of {fixed} was made free ({patched} Reshape targets rewritten)"
    return candidate, claim


def _with_free_ends(model: ModelProto, infos: list[TensorInfo], fixed: int) -> ModelProto:
    """Return a copy whose inputs and outputs carry the batch as a symbol."""
    candidate = ModelProto()
    candidate.CopyFrom(model)
    graph = candidate.graph
    axes = {info.name: info.batch_axis for info in infos}
    for value in graph.input:
        axis = axes.get(value.name)
        if axis is not None:
            value.type.tensor_type.shape.dim[axis].dim_param = SYMBOL
    for value in graph.output:
        for dim in list(value.type.tensor_type.shape.dim)[:1]:
            if dim.dim_value == fixed:
                dim.dim_param = SYMBOL
    del graph.value_info[:]
    return candidate


GROWTH = 3
"""How many times larger the batch is at which a candidate's shapes are compared."""


def free_batch_stepwise(model: ModelProto) -> tuple[ModelProto, str] | None:
    """Return a (candidate, claim) made place by place, for graphs that `free_batch` gets wrong.

    The shapes of a larger batch are followed through the graph. Where a Reshape would put the batch
    in the wrong axis (heads folded into the batch, the batch behind the sequence) its target is
    rewritten; where a constant of one sample meets the batch (a class token, a recurrent state) it
    is expanded. None where the batch is free already or nothing was found to rewrite.
    """
    infos = input_infos(model)
    fixed = fixed_batch(infos)
    if fixed is None:
        return None
    small = infer(skeleton(model), input_sizes(infos, fixed))
    candidate = _with_free_ends(model, infos, fixed)
    reshaped = spread = 0
    for _ in range(len(model.graph.node)):
        sizes = input_sizes(input_infos(candidate), GROWTH * fixed)
        large = infer(skeleton(candidate), sizes)
        targets, constants = _patch(candidate, small, large, fixed)
        reshaped, spread = reshaped + targets, spread + constants
        if not targets + constants:
            break
    if not reshaped + spread:
        return None
    claim = (
        f"the fixed batch of {fixed} was made free ({reshaped} Reshape targets rewritten, "
        f"{spread} constants expanded)"
    )
    return candidate, claim


def _patch(model: ModelProto, small: Concrete, large: Concrete, fixed: int) -> tuple[int, int]:
    """Rewrite the first wrong place of every path; return (Reshape targets, constants)."""
    graph = model.graph
    data = data_values(model)
    targets = _constant_targets(graph)
    dirty: set[str] = set()
    reshaped = spread = 0
    # What the larger batch does not reach is rewritten from the front, where shapes are known.
    for node in list(graph.node):
        if dirty.intersection(node.input):
            dirty |= set(node.output)
            continue
        done = False
        if node.op_type == "Reshape" and node.input[0] in data:
            done = _patch_reshape(model, node, targets, small, large, fixed)
            reshaped += done
        elif node.op_type in ("Concat", "LSTM", "GRU", "RNN"):
            count = _patch_constants(model, node, data, small, large)
            done, spread = count > 0, spread + count
        if done:
            dirty |= set(node.output)
    return reshaped, spread


def _grown(name: str, small: Concrete, large: Concrete) -> int | None:
    """Return the one axis of a value that grew with the batch, or None."""
    if name not in small or name not in large or len(small[name][1]) != len(large[name][1]):
        return None
    pairs = zip(small[name][1], large[name][1], strict=True)
    axes = [axis for axis, (one, many) in enumerate(pairs) if one != many]
    same = [axis for axis in axes if large[name][1][axis] == GROWTH * small[name][1][axis]]
    return axes[0] if len(axes) == len(same) == 1 else None


def _patch_reshape(
    model: ModelProto,
    node: NodeProto,
    targets: Mapping[str, list[int]],
    small: Concrete,
    large: Concrete,
    fixed: int,
) -> bool:
    axis = _grown(node.input[0], small, large)
    listed = attribute(node, "shape")
    constant = listed is not None or (len(node.input) > 1 and node.input[1] in targets)
    if axis is None or not constant or node.output[0] not in small:
        return False
    before, after = small[node.input[0]][1], small[node.output[0]][1]
    place = _new_place(before, after, axis, fixed)
    if place is None or (_grown(node.output[0], small, large) == place):
        return False
    freed = [-1 if index == place else size for index, size in enumerate(after)]
    if listed is not None:
        listed.ints[:] = freed
    else:
        node.input[1] = _add(model, f"{node.input[1]}.{SYMBOL}", freed)
    return True


def _new_place(
    before: tuple[int, ...], after: tuple[int, ...], axis: int, fixed: int
) -> int | None:
    """Return the axis of a Reshape's result that the batch falls into, or None.

    In row-major order it is where as much lies in front of the batch as before, or as much behind
    it, best an axis of the fixed batch's size; the last axis, which holds features, takes no batch.
    """
    # The batch's axis may hold heads inside it, or steps around it.
    beside = before[axis] // fixed
    lead, tail = prod(before[:axis]), prod(before[axis + 1 :])
    last = len(after) - 1 if tail > 1 else len(after)
    front = [p for p in range(last) if prod(after[:p]) == lead]
    behind = [p for p in range(last) if prod(after[p + 1 :]) in (tail, tail * beside)]
    places = [*front, *behind]
    return next((p for p in places if after[p] == fixed), places[0] if places else None)


def _patch_constants(
    model: ModelProto, node: NodeProto, data: frozenset[str], small: Concrete, large: Concrete
) -> int:
    """Expand constants of one sample where they meet values of many; return how many."""
    if node.op_type == "Concat":
        slots = list(range(len(node.input)))
        guide = next((n for n in node.input if _grown(n, small, large) is not None), None)
        axis = None if guide is None else _grown(guide, small, large)
        joined = attribute(node, "axis")
        if guide is not None and joined is not None:
            rank = len(small[guide][1])
            axis = None if joined.i % rank == axis else axis
    else:
        slots = [slot for slot in (5, 6) if slot < len(node.input)]
        guide = node.input[0]
        axis = 1 if _grown(guide, small, large) == 1 else None
    if guide is None or axis is None:
        return 0
    count = 0
    for slot in slots:
        name = node.input[slot]
        if not name or name in data or name not in small or small[name][1][axis] != 1:
            continue
        node.input[slot] = _expand(model, node, name, guide, axis, len(small[name][1]))
        count += 1
    return count


def _expand(model: ModelProto, node: NodeProto, name: str, guide: str, axis: int, rank: int) -> str:
    """Put nodes in front of `node` that repeat a constant along an axis as often as `guide` is."""
    graph = model.graph
    taken = all_names(graph)
    base = next(
        base
        for base in (f"surgeon.{SYMBOL}.{number}" for number in count(1))
        if f"{base}.shape" not in taken and base not in taken
    )
    index = _add(model, f"{base}.axis", [axis])
    parts = [_add(model, f"{base}.before", [1] * axis)] if axis else []
    parts.append(f"{base}.size")
    parts += [_add(model, f"{base}.behind", [1] * (rank - axis - 1))] if axis < rank - 1 else []
    made = [
        helper.make_node("Shape", [guide], [f"{base}.shape"]),
        helper.make_node("Gather", [f"{base}.shape", index], [f"{base}.size"]),
        helper.make_node("Concat", parts, [f"{base}.target"], axis=0),
        helper.make_node("Expand", [name, f"{base}.target"], [base]),
    ]
    place = next(i for i, other in enumerate(graph.node) if other.output == node.output)
    for offset, new in enumerate(made):
        graph.node.insert(place + offset, new)
    return base


def _add(model: ModelProto, name: str, values: list[int]) -> str:
    """Add an integer initializer under a free name; return the name."""
    taken = all_names(model.graph)
    while name in taken:
        name += "."
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
    return name


def _constant_targets(graph: GraphProto) -> dict[str, list[int]]:
    """Return small integer constants, which may be the targets of a Reshape."""
    found = {
        tensor.name: to_array(tensor).reshape(-1).tolist()
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.INT64 and prod(tensor.dims) < 16
    }
    for node in graph.node:
        value = attribute(node, "value") if node.op_type == "Constant" else None
        if value is not None and value.t.data_type == TensorProto.INT64:
            found[node.output[0]] = numpy_helper.to_array(value.t).reshape(-1).tolist()
    return found


def _free_reshapes(model: ModelProto, shapes: Concrete, fixed: int) -> int:
    graph = model.graph
    data = data_values(model)
    constants = {t.name: to_array(t) for t in graph.initializer if prod(t.dims) < 16}
    for node in graph.node:
        value = attribute(node, "value") if node.op_type == "Constant" else None
        if value is not None:
            constants[node.output[0]] = numpy_helper.to_array(value.t)
    taken = all_names(graph)
    patched = 0
    replaced: set[str] = set()
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[0] not in data:
            continue
        listed = attribute(node, "shape")
        target = list(listed.ints) if listed is not None else None
        if target is None and len(node.input) > 1 and node.input[1] in constants:
            target = constants[node.input[1]].reshape(-1).tolist()
        out = shapes.get(node.output[0])
        if not target or out is None or target[0] <= 0 or target[0] % fixed:
            continue
        freed = [-1, *out[1][1:]]
        source = shapes.get(node.input[0])
        same_front = source is not None and bool(source[1]) and source[1][0] == target[0]
        if same_front and -1 not in target[1:]:
            freed = [0, *target[1:]]
        patched += 1
        if listed is not None:
            listed.ints[:] = freed
            continue
        name = f"{node.input[1]}.{SYMBOL}"
        while name in taken:
            name += "."
        taken.add(name)
        replaced.add(node.input[1])
        graph.initializer.append(numpy_helper.from_array(np.asarray(freed, np.int64), name))
        node.input[1] = name
    _drop_unused(model, replaced)
    return patched


def _drop_unused(model: ModelProto, names: set[str]) -> None:
    graph = model.graph
    used = set(consumers(graph)) | {value.name for value in graph.output}
    gone = names - used - set(data_inputs(graph))
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name in gone:
            del graph.initializer[index]
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if node.op_type == "Constant" and node.output[0] in gone:
            del graph.node[index]
