"""Freeing a fixed batch: a candidate graph in which the batch is a symbol, and the claim about it.

Setting the input's first dimension is not enough: exporters write the batch into Reshape targets.
Whether the candidate computes the same, sample by sample, is proven by `surgeon.operation`.
"""

from __future__ import annotations

from math import prod

import numpy as np
from onnx import ModelProto, numpy_helper

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
    patched = _free_reshapes(candidate, shapes, fixed)
    claim = f"the fixed batch of {fixed} was made free ({patched} Reshape targets rewritten)"
    return candidate, claim


def _free_reshapes(model: ModelProto, shapes: Concrete, fixed: int) -> int:
    graph = model.graph
    data = data_values(model)
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer if prod(t.dims) < 16}
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
