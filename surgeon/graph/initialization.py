"""How each weight of a graph is drawn for a start from scratch, by the operator that first uses it.

Pure reading: the room looks at names, operators, slots and shapes, and says what should be drawn.
It draws nothing (`surgeon.torch_graph.initialize` does), so that a plan can show the scheme.

Sources: He et al. 2015 (arXiv 1502.01852) for weights in front of a rectifier; Glorot & Bengio 2010
for attention; Saxe et al. 2013 (arXiv 1312.6120) for recurrent weights; Jozefowicz et al. 2015 for
the forget gate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from onnx import NodeProto, helper

from surgeon.graph.walk import FLOATS, all_graphs
from surgeon.graph.weights import to_array

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

Draw = Literal["normal", "orthogonal", "constant", "forget", "keep"]

_RECTIFIERS: Final = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Celu", "Selu", "Gelu", "FastGelu", "BiasGelu",
     "QuickGelu", "HardSwish", "Swish", "Silu", "Mish", "ThresholdedRelu", "Softplus", "Sigmoid",
     "HardSigmoid", "Erf"}
)  # fmt: skip
_VIEWS: Final = frozenset({"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze"})
#: (operator, slot) → constant it starts with.
_CONSTANTS: Final[dict[tuple[str, int], float]] = {
    ("BatchNormalization", 1): 1, ("BatchNormalization", 2): 0,
    ("BatchNormalization", 3): 0, ("BatchNormalization", 4): 1,
    ("InstanceNormalization", 1): 1, ("InstanceNormalization", 2): 0,
    ("GroupNormalization", 1): 1, ("GroupNormalization", 2): 0,
    ("GroupNorm", 1): 1, ("GroupNorm", 2): 0,
    ("LayerNormalization", 1): 1, ("LayerNormalization", 2): 0,
    ("SimplifiedLayerNormalization", 1): 1, ("RMSNormalization", 1): 1,
    ("SkipLayerNormalization", 2): 1, ("SkipLayerNormalization", 3): 0,
    ("SkipLayerNormalization", 4): 0,
    ("SkipSimplifiedLayerNormalization", 2): 1, ("SkipSimplifiedLayerNormalization", 3): 0,
    ("EmbedLayerNormalization", 5): 1, ("EmbedLayerNormalization", 6): 0,
    ("Conv", 2): 0, ("FusedConv", 2): 0, ("ConvTranspose", 2): 0, ("DeformConv", 3): 0,
    ("Gemm", 2): 0, ("FusedGemm", 2): 0,
    ("Attention", 2): 0, ("MultiHeadAttention", 3): 0,
    ("BiasGelu", 1): 0, ("FastGelu", 1): 0, ("BiasAdd", 1): 0, ("PRelu", 1): 0.25,
    ("LSTM", 5): 0, ("LSTM", 6): 0, ("LSTM", 7): 0, ("GRU", 3): 0, ("GRU", 5): 0,
    ("RNN", 3): 0, ("RNN", 5): 0,
    ("Mul", 0): 1, ("Mul", 1): 1, ("Div", 0): 1, ("Div", 1): 1,
    ("Add", 0): 0, ("Add", 1): 0, ("Sub", 0): 0, ("Sub", 1): 0, ("Sum", 0): 0, ("Sum", 1): 0,
}  # fmt: skip
_GATES: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}
#: Spread of embeddings and of free-standing tokens, as in BERT and ViT.
EMBEDDING_STD: Final = 0.02


@dataclass(frozen=True)
class Rule:
    """How one initializer starts.

    Attributes:
        draw: `normal` (mean 0, `std`), `constant` (`value`), `orthogonal` (each gate's square of
            a recurrent weight [directions, gates · hidden, hidden]), `forget` (zeros, and 1 for the
            forget gate of an LSTM bias [directions, 8 · hidden], ONNX gate order i, o, f, c), or
            `keep` (scalars and what is no weight: as stored).
        operator: the operator that first uses it, and
        slot: at which input.
        std: for `normal`.
        value: for `constant`.
        gates: for `orthogonal`.
        scaled: the output of that operator is linear in the weight, so that its spread can be set.

    """

    draw: Draw
    operator: str
    slot: int
    std: float = 0.0
    value: float = 0.0
    gates: int = 1
    scaled: bool = False


@dataclass(frozen=True)
class _Use:
    node: NodeProto
    slot: int
    shape: tuple[int, ...]  # as the node sees it


def scheme(model: ModelProto) -> dict[str, Rule]:
    """Say for every float initializer of a normalized model how it would start from scratch.

    Args:
        model: normalized, so that weights are initializers of the top graph.

    Returns:
        {name: rule}; initializers that nothing uses are `keep`.

    """
    graph = model.graph
    users: dict[str, list[tuple[NodeProto, int]]] = {}
    for inner in all_graphs(graph):
        for node in inner.node:
            for slot, name in enumerate(node.input):
                users.setdefault(name, []).append((node, slot))
    shapes = {t.name: tuple(t.dims) for t in graph.initializer if t.data_type in FLOATS}
    rules = {}
    for name, shape in shapes.items():
        use = _first_use(graph, users, name, shape)
        rules[name] = Rule("keep", "", 0) if use is None else _rule(use, users)
    return rules


def _first_use(
    graph: GraphProto,
    users: dict[str, list[tuple[NodeProto, int]]],
    name: str,
    shape: tuple[int, ...],
) -> _Use | None:
    """Follow a weight through views to the first operator that computes with it."""
    while name in users:
        node, slot = users[name][0]
        if node.op_type not in _VIEWS or slot != 0 or not node.output:
            return _Use(node, slot, shape)
        if node.op_type == "Transpose":
            permutation = _attribute(node, "perm") or list(reversed(range(len(shape))))
            shape = tuple(shape[axis] for axis in permutation)
        elif node.op_type not in {"Identity", "Cast"}:
            seen = _reshaped(graph, node, shape)
            if seen is None:
                return _Use(node, slot, shape)
            shape = seen
        name = node.output[0]
    return None


def _reshaped(graph: GraphProto, node: NodeProto, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape after a Reshape to a constant, None where it cannot be told."""
    if node.op_type != "Reshape" or len(node.input) < 2:
        return None
    for tensor in graph.initializer:
        if tensor.name == node.input[1]:
            wanted = [int(dim) for dim in to_array(tensor).reshape(-1)]
            try:
                return np.empty(shape, dtype=np.bool_).reshape(wanted).shape
            except ValueError:
                return None
    return None


def _rule(use: _Use, users: dict[str, list[tuple[NodeProto, int]]]) -> Rule:
    node, slot, shape = use.node, use.slot, use.shape
    operator = node.op_type
    size = math.prod(shape)
    if operator in {"Conv", "FusedConv", "DeformConv"} and slot == 1:
        return _linear(use, users, math.prod(shape[1:]))
    if operator == "ConvTranspose" and slot == 1:
        group = _attribute(node, "group") or 1
        strides = math.prod(_attribute(node, "strides") or [1])
        fan = max(shape[0] // group * math.prod(shape[2:]) // strides, 1)
        return _linear(use, users, fan)
    if operator in {"Gemm", "FusedGemm"} and slot < 2:
        flipped = bool(_attribute(node, "transB" if slot else "transA"))
        inner = (0 if slot else 1) ^ flipped
        return _linear(use, users, shape[inner])
    if operator in {"MatMul", "FusedMatMul"} and slot < 2:
        inner = max(len(shape) - 2, 0) if slot else len(shape) - 1
        return _linear(use, users, shape[inner])
    if operator in _GATES and slot in {1, 2}:
        gates = _GATES[operator]
        if slot == 2:
            return Rule("orthogonal", operator, slot, gates=gates)
        return Rule("normal", operator, slot, std=1 / math.sqrt(max(shape[-1], 1)))
    if operator == "LSTM" and slot == 3:
        return Rule("forget", operator, slot)
    if size <= 1:
        return Rule("keep", operator, slot)
    if operator in {"Attention", "QAttention"} and slot == 1 and len(shape) == 2:
        # [input, 3 · hidden]: Glorot with the fan-out of one of the three.
        return Rule("normal", operator, slot, std=math.sqrt(2 / (shape[0] + max(shape[1] // 3, 1))))
    if operator in {"Add", "Sum", "Sub"} and sum(dim > 1 for dim in shape) > 1:
        return Rule("normal", operator, slot, std=EMBEDDING_STD)  # positions, tokens
    constant = _CONSTANTS.get((operator, slot))
    if constant is not None:
        return Rule("constant", operator, slot, value=constant)
    if operator in {"Clip", "Resize", "Upsample", "Pow", "Pad", "Dropout", "Range", "Equal"} or (
        operator in {"QuantizeLinear", "DequantizeLinear"}
    ):
        return Rule("keep", operator, slot)
    # Gather, Concat, Where, Expand and what nobody thought of.
    return Rule("normal", operator, slot, std=EMBEDDING_STD)


def _linear(use: _Use, users: dict[str, list[tuple[NodeProto, int]]], fan_in: int) -> Rule:
    """Return the rule of a weight that sums `fan_in` products."""
    gain = math.sqrt(2) if _rectified(use.node, users) else 1.0
    return Rule(
        "normal",
        use.node.op_type,
        use.slot,
        std=gain / math.sqrt(max(fan_in, 1)),
        scaled=not _attribute(use.node, "activation"),
    )


def _rectified(node: NodeProto, users: dict[str, list[tuple[NodeProto, int]]]) -> bool:
    """Tell whether a rectifier follows, a normalization or an added bias in between or not."""
    if _attribute(node, "activation"):
        return True
    for _ in range(4):
        followers = users.get(node.output[0], []) if node.output else []
        if any(follower.op_type in _RECTIFIERS for follower, _ in followers):
            return True
        if len(followers) != 1:
            return False
        node = followers[0][0]
        if node.op_type not in {"BatchNormalization", "Add", "Mul", "Identity"}:
            return False
    return False


def _attribute(node: NodeProto, name: str) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return None
