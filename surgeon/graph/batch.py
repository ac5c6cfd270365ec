"""Freeing a fixed batch: a candidate graph in which the batch is a symbol, and the claim about it.

Setting the input's first dimension is not enough: exporters write the batch into Reshape targets.
Whether the candidate computes the same, sample by sample, is proven by `surgeon.operation`.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, numpy_helper

from surgeon.graph.rebatch import SYMBOL, Rewriter
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

    from surgeon.records import TensorInfo


def free_batch(
    model: ModelProto, known: Mapping[str, int] | None = None
) -> tuple[ModelProto, str] | None:
    """Return (candidate with a symbolic batch, claim), or None where the batch is free already.

    The claim, which the caller proves, is that a batch of n gives what n single ones give.
    """
    infos = input_infos(model)
    fixed = fixed_batch(infos)
    if fixed is None:
        return None
    shapes = infer(skeleton(model), input_sizes(infos, fixed, known=known))
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


def free_batch_stepwise(
    model: ModelProto, known: Mapping[str, int] | None = None
) -> tuple[ModelProto, str] | None:
    """Return a (candidate, claim) made place by place, for graphs that `free_batch` gets wrong.

    Where a Reshape would put the batch in the wrong axis (heads folded into the batch, the batch
    behind the sequence) its target is rewritten; where a constant of one batch meets values of many
    samples (a class token, a recurrent state) one sample's is repeated. None where the batch is
    free already or nothing was found to rewrite.
    """
    infos = input_infos(model)
    fixed = fixed_batch(infos)
    if fixed is None:
        return None
    candidate = _with_free_ends(model, infos, fixed)
    rewriter = Rewriter(candidate, fixed, known)
    if not rewriter.run():
        return None
    rewriter.apply(candidate)
    done = ", ".join(f"{number} {what} rewritten" for what, number in rewriter.counts.items())
    return candidate, f"the fixed batch of {fixed} was made free ({done})"


MOST_SIZES = 8
"""Sizes stated by constants that are looked at as a batch."""


def held_sizes(model: ModelProto, known: Mapping[str, int] | None = None) -> list[int]:
    """Return the batch sizes at which constants seem to hold a graph whose batch is declared open.

    Nothing is run: an empty list says that nothing in the graph states a batch.
    """
    if fixed_batch(infos := input_infos(model)) is not None:
        return []
    if all(info.batch_axis is None for info in infos):
        return []
    rewriter = Rewriter(model, 1, known)
    if not rewriter.suspicious():
        return []
    stated = [1, *rewriter.sizes()[:MOST_SIZES]]
    return [size for size in stated if Rewriter(model, size, known).consistent()] or [1]


def pinned(model: ModelProto, size: int) -> ModelProto:
    """Return a copy whose inputs and outputs state a batch of `size`."""
    copy = ModelProto()
    copy.CopyFrom(model)
    infos = {info.name: info for info in input_infos(model)}
    symbols = {
        info.shape[info.batch_axis]
        for info in infos.values()
        if info.batch_axis is not None and info.shape is not None
    }
    for value in copy.graph.input:
        axis = infos[value.name].batch_axis if value.name in infos else None
        if axis is not None:
            value.type.tensor_type.shape.dim[axis].dim_value = size
    for value in copy.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param and dim.dim_param in symbols:
                dim.dim_value = size
    del copy.graph.value_info[:]
    return copy


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
