"""Nodes by which a graph does not answer the same twice: chance, and statistics of the batch.

Exporting a network in training mode leaves them behind. What is judged on such a graph is no
property of the file, so the nodes are named and the graph is refused, unless running it shows that
they have no effect (`surgeon.runtime.neighbours`). What must not enter: sessions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.errors import UnsupportedError
from surgeon.graph.walk import all_graphs, attribute, label
from surgeon.graph.weights import to_array

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import ModelProto, NodeProto, TensorProto

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli",
     "Multinomial", "Sampling"}
)  # fmt: skip
"""Operators that draw; a seed makes only the first run of a session repeat."""
DROPPING = {"Dropout": 2, "BiasDropout": 4, "BitmaskDropout": 2, "BitmaskBiasDropout": 4}
"""{operator that drops values in training: place of its input `training_mode`, behind the ratio}"""


def unsteady_nodes(model: ModelProto) -> list[NodeProto]:
    """Return the nodes that draw, or normalise by their batch; those in bodies of others, too."""
    graphs = list(all_graphs(model.graph))
    constants = {tensor.name: tensor for graph in graphs for tensor in graph.initializer}
    constants |= {
        node.output[0]: value.t
        for graph in graphs
        for node in graph.node
        if node.op_type == "Constant" and (value := attribute(node, "value")) is not None
    }
    return [node for graph in graphs for node in graph.node if _is_unsteady(node, constants)]


def _is_unsteady(node: NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    if node.op_type in DROPPING:
        place = DROPPING[node.op_type]
        ratio, training = (
            node.input[slot] if slot < len(node.input) else "" for slot in (place - 1, place)
        )
        return (
            bool(training)
            and _may_be_true(training, constants)
            and (not ratio or _may_be_true(ratio, constants))
        )
    if node.op_type == "BatchNormalization":
        mode = attribute(node, "training_mode")
        # Below opset 14 the further outputs are what says that it trains.
        return (mode is not None and mode.i == 1) or sum(map(bool, node.output)) > 1
    return node.op_type in RANDOM


def _may_be_true(name: str, constants: Mapping[str, TensorProto]) -> bool:
    return name not in constants or bool(to_array(constants[name]).any())


def refusal(nodes: Sequence[NodeProto]) -> UnsupportedError:
    """Return the error about these nodes: what they do, and what to do about it."""
    kinds = {node.op_type for node in nodes}
    said, remedies = [], []
    if "BatchNormalization" in kinds:
        said.append("normalises by the statistics of each batch")
        remedies.append("set training_mode = 0 and drop the outputs of it behind the first")
    if kinds & set(DROPPING):
        said.append("drops values by chance")
        remedies.append("set its input training_mode to false")
    if kinds & RANDOM:
        said.append("draws random numbers")
        remedies.append("replace what it draws by a constant, or cut in front of it")
    first = label(nodes[0])
    others = f" (and {len(nodes) - 1} more)" if len(nodes) > 1 else ""
    return UnsupportedError(
        f"{first}{others} {' or '.join(said)} when the file is only run: the file would not answer "
        "as it was judged",
        where=", ".join(node.name or node.output[0] for node in nodes[:5]),
        remedy="export the network in evaluation mode (model.eval(), training=TrainingMode.EVAL); "
        f"or {'; '.join(remedies)}",
    )
