"""Mean and variance of what convolutions give, channel by channel, over training samples.

What must not enter: which convolutions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import ModelProto, helper, numpy_helper

import surgeon

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import GraphProto, NodeProto

    Moments = tuple[NDArray[np.float64], NDArray[np.float64]]


def measure(
    model: ModelProto,
    values: Collection[str],
    batches: Iterable[Mapping[str, NDArray[Any]]],
) -> dict[str, Moments]:
    """Return {value: (mean, variance)}, per channel, over all samples and places.

    Both are taken batch by batch inside the graph, so that what flows in it is never held at once,
    and put together as Chan, Golub & LeVeque 1979 do.

    Args:
        model: graph that computes the values.
        values: of it, [n, channels, …], float.
        batches: {input: array}, of as many samples each.
    """
    module = surgeon.to_torch(_listening(model, values))
    inputs = module.input_names
    found: dict[str, Moments] = {}
    for seen, batch in enumerate(batches):
        given = [torch.from_numpy(np.ascontiguousarray(batch[name])) for name in inputs]
        with torch.no_grad():
            told = [one.double().numpy().reshape(-1) for one in module(*given)]
        for value, mean, spread in zip(values, told[::2], told[1::2], strict=True):
            before, variance = found.get(value, (mean, spread))
            share, moved = 1 / (seen + 1), mean - before
            found[value] = (
                before + moved * share,
                variance + (spread - variance) * share + moved**2 * share * (1 - share),
            )
    return found


def _listening(model: ModelProto, values: Collection[str]) -> ModelProto:
    """Return a graph whose outputs are the mean and the variance of values, for each batch."""
    listening = ModelProto()
    listening.CopyFrom(model)
    graph = listening.graph
    del graph.output[:]
    makers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    for place, value in enumerate(values):
        weight = weights[makers[value].input[1]]
        axes = [0, *range(2, len(weight.dims))]
        names = [f"surgeon.moments.{place}.{part}" for part in ("mean", "off", "squared", "spread")]
        mean, off, squared, spread = names
        graph.node.extend(
            (
                _mean(graph, value, mean, axes, opset),
                helper.make_node("Sub", [value, mean], [off]),
                helper.make_node("Mul", [off, off], [squared]),
                _mean(graph, squared, spread, axes, opset),
            )
        )
        graph.output.extend(
            helper.make_tensor_value_info(name, weight.data_type, None) for name in (mean, spread)
        )
    return listening


def _mean(graph: GraphProto, value: str, name: str, axes: Sequence[int], opset: int) -> NodeProto:
    """Return the node of a mean over axes; the axes became an input in opset 18."""
    if opset < 18:
        return helper.make_node("ReduceMean", [value], [name], axes=axes, keepdims=1)
    stored = numpy_helper.from_array(np.array(axes, np.int64), f"{name}.axes")
    graph.initializer.append(stored)
    return helper.make_node("ReduceMean", [value, stored.name], [name], keepdims=1)
