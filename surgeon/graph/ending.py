"""What a graph's output means: the activation it ends in, and the value that holds the scores.

Read off the nodes in front of the output. What must not enter: sessions and values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import ModelProto, ValueInfoProto

from surgeon.graph.old_head import TREES, softmax_in_parts
from surgeon.graph.walk import Links, attribute

if TYPE_CHECKING:
    from onnx import NodeProto

MOVES = frozenset(
    {"Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout", "Transpose",
     "Gather", "GatherND", "Slice", "QuantizeLinear", "DequantizeLinear", "Clip"}
)  # fmt: skip
SCALING = frozenset({"Mul", "Div"})
ACTIVATIONS = {
    "Softmax": "Softmax", "QLinearSoftmax": "Softmax", "LogSoftmax": "LogSoftmax",
    "Sigmoid": "Sigmoid", "HardSigmoid": "Sigmoid", "QLinearSigmoid": "Sigmoid",
}  # fmt: skip
CHOSEN = frozenset({"ArgMax", "TopK", "ZipMap"})
"""Operators that make an answer of scores: a class's number, or a map; the scores are read."""
POST = {"SOFTMAX": "Softmax", "SOFTMAX_ZERO": "Softmax", "LOGISTIC": "Sigmoid"}
MOST_STEPS = 64


@dataclass(frozen=True)
class Ending:
    """How an output is to be read.

    Attributes:
        value: the value that holds the scores: the output, or what its ArgMax or ZipMap reads.
        activation: `Softmax`, `LogSoftmax` or `Sigmoid`, or None where the graph ends in none.
    """

    value: str
    activation: str | None


def ending(model: ModelProto, output: str) -> Ending:
    """Find what an output ends in; what only moves values is seen through."""
    links = Links(model.graph)
    value, name = output, output
    for _ in range(MOST_STEPS):
        node = links.makers.get(name)
        if node is None:
            break
        if node.op_type in TREES:
            return _of_trees(node, value)
        found = ACTIVATIONS.get(node.op_type) or _in_parts(node, links)
        if found is not None:
            return Ending(value, found)
        if node.op_type in CHOSEN:
            value = node.input[0]
        elif node.op_type in SCALING:
            computed = [item for item in node.input if _computed(item, links)]
            if len(computed) != 1:
                break
            name = computed[0]
            continue
        elif node.op_type not in MOVES:
            break
        name = node.input[0]
    return Ending(value, None)


def _of_trees(node: NodeProto, value: str) -> Ending:
    """Read a classical classifier's scores, its second output, whichever output was meant."""
    if "Classifier" not in node.op_type:
        return Ending(value, None)
    scores = node.output[1] if len(node.output) > 1 else value
    post = attribute(node, "post_transform")
    return Ending(
        scores if value in node.output else value,
        POST.get(post.s.decode() if post is not None else "NONE"),
    )


def _in_parts(node: NodeProto, links: Links) -> str | None:
    """Recognise activations that exporters spell out of smaller operators."""
    makers = links.makers
    if softmax_in_parts(node, makers) is not None:
        return "Softmax"
    first = makers.get(node.input[0]) if node.input else None
    kind = node.op_type
    if kind == "Log" and first is not None and ACTIVATIONS.get(first.op_type) == "Softmax":
        return "LogSoftmax"
    if kind == "Exp" and first is not None and ACTIVATIONS.get(first.op_type) == "LogSoftmax":
        return "Softmax"
    if kind == "Sub" and len(node.input) == 2:
        total = makers.get(node.input[1])
        if total is not None and total.op_type == "ReduceLogSumExp":
            return "LogSoftmax" if total.input[0] == node.input[0] else None
    # 1 ÷ (1 + exp(−x))
    under = makers.get(node.input[-1]) if kind in ("Div", "Reciprocal") else None
    if under is not None and under.op_type == "Add":
        powers = [makers[item] for item in under.input if item in makers]
        if any(item.op_type == "Exp" for item in powers):
            return "Sigmoid"
    return None


def _computed(name: str, links: Links) -> bool:
    maker = links.makers.get(name)
    return maker is not None and maker.op_type != "Constant"


def reading(model: ModelProto, value: str) -> ModelProto:
    """Return the model with a value among its outputs."""
    if any(output.name == value for output in model.graph.output):
        return model
    result = ModelProto()
    result.CopyFrom(model)
    result.graph.output.append(ValueInfoProto(name=value))
    return result
