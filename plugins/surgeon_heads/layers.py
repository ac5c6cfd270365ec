"""What several heads are made of, each at the operator versions of the graph's opset.

What must not enter: a head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from surgeon.errors import UsageError

LARGEST = 2**29
"""Numbers of one weight: 2 GiB of float32, which is what a file holds."""


def drawn(
    random: np.random.Generator, shape: tuple[int, ...], dtype: Any, gain: float = 1.0
) -> Any:
    """Return first weights: uniform on ±gain/sqrt(inputs), `shape` = (outputs, inputs, …).

    A gain of 1 is LeCun et al., "Efficient BackProp", 1998; sqrt(6) in front of a Relu is He et
    al., arXiv 1502.01852.

    Raises:
        UsageError: they fit into no file.
    """
    if np.prod([float(side) for side in shape]) > LARGEST:
        raise UsageError(
            f"a weight of {' × '.join(f'{side:,}' for side in shape)} numbers fits into no file",
            where="--head",
            remedy="a smaller layer, or a cut where the network has fewer features",
        )
    bound = gain / np.sqrt(np.prod(shape[1:]))
    return random.uniform(-bound, bound, shape).astype(dtype)


def at_least(number: float, least: float, name: str, below: float = np.inf) -> None:
    """Refuse a setting that is below `least`, or not below `below`."""
    if not least <= number < below:
        limit = "" if below == np.inf else f" and below {below:g}"
        raise UsageError(
            f"{name} is {number:g}", where="--head", remedy=f"give {least:g} or more{limit}"
        )


def put(graph: Any, operator: str, *inputs: Any, **attributes: Any) -> Any:
    """Append a node of one output; return that, of the first input's type."""
    (made,) = graph.layer(op=operator, inputs=list(inputs), outputs=["made"], attrs=attributes)
    made.dtype = inputs[0].dtype
    return made


def constant(graph: Any, name: str, values: Any, dtype: Any) -> Any:
    """Return what is not trained, under a name of its own."""
    return gs.Constant(f"{name}.{len(graph.nodes)}", np.asarray(values, dtype))


def over(graph: Any, operator: str, value: Any, axes: list[int], **attributes: int) -> Any:
    """Append ReduceSum or Unsqueeze, whose axes are an attribute before opset 13."""
    if graph.opset < 13:
        return put(graph, operator, value, axes=axes, **attributes)
    return put(graph, operator, value, constant(graph, "axes", axes, np.int64), **attributes)


def gemm(graph: Any, value: Any, weight: Any, bias: Any) -> Any:
    """Append value · weightᵀ + bias for a value [n, features]."""
    return put(graph, "Gemm", value, weight, bias, transB=1)


def linear(
    graph: Any, value: Any, outputs: int, random: np.random.Generator, name: str = "",
    gain: float = 1.0,
) -> tuple[Any, tuple[Any, Any]]:  # fmt: skip
    """Append a linear layer on [n, features]; return what it makes, weight and bias."""
    features = value.shape[1]
    weight = gs.Constant(f"{name}weight", drawn(random, (outputs, features), value.dtype, gain))
    bias = gs.Constant(f"{name}bias", np.zeros(outputs, value.dtype))
    made = gemm(graph, value, weight, bias)
    made.shape = [value.shape[0], outputs]
    return made, (weight, bias)


def unit(graph: Any, value: Any) -> Any:
    """Append what brings every row of [n, features] to length one; a row of zeros stays."""
    squares = over(graph, "ReduceSum", put(graph, "Mul", value, value), [1], keepdims=1)
    squares = put(graph, "Add", squares, constant(graph, "least", [1e-12], value.dtype))
    return put(graph, "Div", value, put(graph, "Sqrt", squares))
