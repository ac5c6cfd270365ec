"""BatchNormalization put behind convolutions, and folded into them again.

A folded network has no layer that keeps the values in it apart, so that it trains badly where much
has to move, and hardly at all from random weights. Here each convolution with a bias gets a layer
behind it, which learns in its bias' place. Before training it gives back what it gets: its scale
and offset are those of the values themselves, measured on training samples. Afterwards both are
one convolution again (Jacob et al. 2018, arXiv 1712.05877, section 3.2, has the formula).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from surgeon.errors import UsageError
from surgeon.plugin.settings import Within
from surgeon.records import Woven
from surgeon_batchnorm.convolutions import find, names_in
from surgeon_batchnorm.moments import measure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon_batchnorm.convolutions import Convolution
    from surgeon_batchnorm.moments import Moments

    Arrays = Mapping[str, NDArray[Any]]

SAMPLES = 256
"""Training samples whose values set scale and offset."""
EPSILON = 1e-5
"""Added to variances, as torch does."""


def put_back(
    graph: ModelProto,
    trainable: Sequence[str],
    batches: Callable[[int], Iterator[Arrays]],
    scratch: bool,
    batch: int | None,
    *,
    momentum: Annotated[float, Within(0, 1)] = 0.1,
    targets: str = "*",
) -> Woven:
    """Put BatchNormalization behind the convolutions whose weight and bias learn.

    Args:
        graph: what is trained.
        trainable: its initializers that learn.
        batches: gives inputs of the graph for so many training samples, batch by batch.
        scratch: whether weights start at random: the layers then start as new ones do.
        batch: samples that the graph insists on in every pass; None = any number.
        momentum: share of a batch in the running mean and variance, as torch counts it.
        targets: names of weights to put one behind, with `*`; several with `|` between them.

    Raises:
        UsageError: no weight is named like that, or the graph takes one sample at a time.
    """
    found, notes = find(graph, trainable, targets)
    if found and batch == 1:
        raise UsageError(
            "the network takes one sample at a time, and BatchNormalization learns from several",
            where="--adapter batchnorm",
            remedy="leave it out, or export the model with a batch of any size",
        )
    moments = {} if scratch or not found else measure(graph, found, batches(SAMPLES))
    woven, taken = ModelProto(), names_in(graph)
    woven.CopyFrom(graph)
    del woven.graph.node[:]
    learns: dict[str, Sequence[str]] = {name: (name,) for name in trainable}
    layers = {}
    for node in graph.graph.node:
        one = found.get(node.output[0]) if node.output else None
        if one is None:
            woven.graph.node.append(node)
            continue
        layer = layers[one] = _names(one, taken)
        woven.graph.node.extend(_nodes(node, layer, momentum))
        for name, values in zip(layer[1:], _start(one, moments.get(one.output)), strict=True):
            woven.graph.initializer.append(numpy_helper.from_array(values, name))
        learns[one.bias] = layer[1:3]
    return Woven(woven, learns, functools.partial(_fold, layers), notes)


def _names(one: Convolution, taken: set[str]) -> tuple[str, ...]:
    """Return free names: of the convolution's own output, scale, offset, mean and variance."""
    found = []
    for part in ("convolved", "scale", "offset", "mean", "variance"):
        name = f"{one.weight}.{part}"
        while name in taken:
            name += ".2"
        taken.add(name)
        found.append(name)
    return tuple(found)


def _nodes(node: NodeProto, layer: Sequence[str], momentum: float) -> tuple[NodeProto, NodeProto]:
    """Return a convolution and the layer behind it, whose output has the name it had."""
    convolution = NodeProto()
    convolution.CopyFrom(node)
    convolution.output[0] = layer[0]
    norm = helper.make_node(
        "BatchNormalization", layer, [node.output[0]], name=f"{layer[0]}/normal",
        epsilon=EPSILON, momentum=1 - momentum,
    )  # fmt: skip
    return convolution, norm


def _start(one: Convolution, moments: Moments | None) -> tuple[NDArray[Any], ...]:
    """Return scale, offset, mean and variance: such that nothing changes, or those of new ones."""
    if moments is None:
        values = [np.full(one.channels, value) for value in (1, 0, 0, 1)]
    else:
        mean, variance = moments
        values = [np.sqrt(variance + EPSILON), mean, mean, variance]
    return tuple(each.astype(one.dtype) for each in values)


def _fold(layers: Mapping[Convolution, Sequence[str]], values: Arrays) -> dict[str, NDArray[Any]]:
    """Bring convolutions and the layers behind them together."""
    found = dict(values)
    for one, names in layers.items():
        scale, offset, mean, variance = (found.pop(name).astype(np.float64) for name in names[1:])
        factor = scale / np.sqrt(variance + EPSILON)
        weight, bias = values[one.weight], values[one.bias]
        along = (-1, *[1] * (weight.ndim - 1))
        found[one.weight] = (weight * factor.reshape(along)).astype(weight.dtype)
        found[one.bias] = ((bias - mean) * factor + offset).astype(bias.dtype)
    return found
