"""Which convolutions of a graph get a layer behind them, and why others do not.

What must not enter: numbers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from onnx import AttributeProto, helper

from surgeon.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx import GraphProto, ModelProto, NodeProto

HEAD = "surgeon.head."
"""How names of the new head's weights begin."""
POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"})
PLAIN = frozenset(
    {"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Identity", "Mul",
     "Add", "Div", "Cast", "Flatten", "Reshape", "Conv", "Swish", "Softplus"}
)  # fmt: skip
"""What may lie between a pool over all places and a convolution that sees no places."""


@dataclass(frozen=True)
class Convolution:
    """One that gets a layer behind it.

    Attributes:
        weight: initializer, output channels first.
        bias: initializer.
        output: its value.
        channels: of the output.
        dtype: of the weight, numpy's.
    """

    weight: str
    bias: str
    output: str
    channels: int
    dtype: Any


def find(
    model: ModelProto, trainable: Sequence[str], targets: str
) -> tuple[dict[str, Convolution], tuple[str, ...]]:
    """Return the convolutions to put a layer behind, by their output, and what people should know.

    Left out are those of the new head, those that have a layer behind them already, and those of
    values without a place (behind a pool over all of it), which had none in any network we know.

    Raises:
        UsageError: `targets` names no weight of a convolution that learns.
    """
    graph, learns = model.graph, set(trainable)
    uses, pooled, left = _uses(graph), _pooled(graph), Counter[str]()
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    found = {}
    patterns = targets.split("|")
    seen = []
    for node in graph.node:
        weight = node.input[1] if node.op_type == "Conv" else ""
        if weight not in learns or weight.startswith(HEAD):
            continue
        seen.append(weight)
        if not any(fnmatchcase(weight, pattern) for pattern in patterns):
            continue
        why = _why_not(node, learns, uses, pooled)
        if why:
            left[why] += 1
            continue
        tensor = tensors[weight]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        found[node.output[0]] = Convolution(
            weight, node.input[2], node.output[0], tensor.dims[0], dtype
        )
    if seen and not found and not left:
        raise UsageError(
            f"no weight of a convolution that is trained is named like {targets!r}",
            where="--adapter batchnorm:targets",
            remedy=f"they are {', '.join(seen[:3])}" + (", …" if len(seen) > 3 else ""),
        )
    return found, tuple(_told(len(found), left))


def names_in(model: ModelProto) -> set[str]:
    """Return every name in a graph and its subgraphs."""
    found = {tensor.name for tensor in model.graph.initializer}
    for node in _nodes(model.graph):
        found.update(node.input, node.output)
    return found


def _why_not(node: NodeProto, learns: set[str], uses: Counter[str], pooled: set[str]) -> str | None:
    """Return why a convolution gets no layer; None = it gets one."""
    if uses[f"{node.output[0]} normalised"]:
        return "have BatchNormalization already"
    if len(node.input) < 3 or not node.input[2]:
        return "have no bias, which the layer would be folded into"
    if node.input[2] not in learns:
        return "have a bias that is not trained"
    if uses[node.input[1]] > 1 or uses[node.input[2]] > 1:
        return "share a weight or bias with another node"
    return "see no places, only what a pool made of all" if node.input[0] in pooled else None


def _told(found: int, left: Counter[str]) -> Iterator[str]:
    """Say what was done and what was left out."""
    whole = found + sum(left.values())
    why = "; ".join(f"{count} {reason}" for reason, count in sorted(left.items()))
    if not whole:
        yield "batchnorm: nothing to do: no convolution of the network is trained"
    elif not found:
        yield f"batchnorm: nothing to do: of {whole} convolutions {why}"
    else:
        yield f"batchnorm: put back behind {found} of {whole} convolutions" + (
            f"; {why}" if why else ""
        )


def _uses(graph: GraphProto) -> Counter[str]:
    """Count how often names are read, in subgraphs too; `NAME normalised` by BatchNormalization."""
    found: Counter[str] = Counter()
    for node in _nodes(graph):
        found.update(node.input)
        if node.op_type == "BatchNormalization":
            found[f"{node.input[0]} normalised"] += 1
    found.update(value.name for value in graph.output)
    return found


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield every node, those of subgraphs too."""
    for node in graph.node:
        yield node
        for item in node.attribute:
            if item.type == AttributeProto.GRAPH:
                yield from _nodes(item.g)
            for inner in item.graphs:
                yield from _nodes(inner)


def _pooled(graph: GraphProto) -> set[str]:
    """Return values that a pool over all places makes, and what is made of them alone."""
    stored = {tensor.name for tensor in graph.initializer}
    found: set[str] = set()
    for node in graph.node:
        values = [name for name in node.input if name and name not in stored]
        if node.op_type in POOLS or (node.op_type in PLAIN and values and found.issuperset(values)):
            found.update(node.output)
    return found
