"""Mean and mean square of what enters BatchNormalization, as further outputs of a graph.

A BatchNormalization that was kept remembers what its input looked like in training; inputs made as
in training bring that back. What must not enter: sessions, and what is concluded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from surgeon.graph.walk import FLOATS
from surgeon.graph.weights import to_array

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.graph.shapes import Shapes

MOST = 12
"""BatchNormalizations listened to, spread over the depth of the graph, the first always."""


@dataclass(frozen=True)
class Moments:
    """One BatchNormalization that is listened to.

    Attributes:
        mean_output, square_output: outputs that hold, for each sample, the mean of each channel and
            of its square, [n, channels, 1, ...].
        mean, variance: what it remembers, [channels].
    """

    mean_output: str
    square_output: str
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    def mismatch(self, found: Mapping[str, NDArray[Any]]) -> float:
        """Return how unlike training its input is: mean over channels of ln(1 + divergence).

        The divergence is that of Kullback and Leibler between the two normal distributions, in
        nats; its logarithm, so that a few channels that hardly ever move do not decide.
        """
        mean = _flat(found[self.mean_output]).mean(axis=0)
        variance = np.maximum(_flat(found[self.square_output]).mean(axis=0) - mean**2, 1e-12)
        ratio = variance / self.variance
        divergence = 0.5 * (ratio + (mean - self.mean) ** 2 / self.variance - 1 - np.log(ratio))
        return float(np.log1p(np.maximum(np.nan_to_num(divergence, nan=1e9), 0.0)).mean())


def _flat(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(values, np.float64).reshape(len(values), -1)


def add_moments(model: ModelProto, shapes: Shapes, most: int = MOST) -> list[Moments]:
    """Append the outputs for at most `most` BatchNormalizations; the model is changed in place.

    Those of values with a place (rank 3 and more) whose statistics are stored count.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [
        node
        for node in model.graph.node
        if node.op_type == "BatchNormalization"
        and len(node.input) == 5
        and node.input[3] in stored
        and node.input[4] in stored
        and len(shapes.one.get(node.input[0], (0, ()))[1]) >= 3
        and shapes.batch_axes.get(node.input[0]) == 0
        and shapes.dtype(node.input[0]) in FLOATS
    ]
    places = np.unique(np.linspace(0, len(nodes) - 1, min(most, len(nodes))).round().astype(int))
    found = []
    for place in places if nodes else ():
        node = nodes[int(place)]
        value, prefix = node.input[0], f"surgeon.moments.{place}"
        if shapes.dtype(value) != TensorProto.FLOAT:  # squares do not fit into half precision
            single = f"{prefix}.single"
            model.graph.node.append(
                helper.make_node("Cast", [value], [single], name=single, to=TensorProto.FLOAT)
            )
            value = single
        mean, product, square = f"{prefix}.mean", f"{prefix}.product", f"{prefix}.square"
        model.graph.node.extend(
            [
                helper.make_node("GlobalAveragePool", [value], [mean], name=mean),
                helper.make_node("Mul", [value, value], [product], name=product),
                helper.make_node("GlobalAveragePool", [product], [square], name=square),
            ]
        )
        model.graph.output.extend([ValueInfoProto(name=mean), ValueInfoProto(name=square)])
        found.append(
            Moments(
                mean,
                square,
                to_array(stored[node.input[3]]).astype(np.float64),
                np.maximum(to_array(stored[node.input[4]]).astype(np.float64), 1e-9),
            )
        )
    return found
