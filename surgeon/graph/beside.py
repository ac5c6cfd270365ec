"""Masks and positions: values that run beside what a network computes, from its integer inputs.

An attention mask is read in every layer of a text encoder, so that no single value carries all
paths. What is only a mask or a position says where to look and not what is there: it is no path
that a cut must hold. What must not enter: depth, and the choice of cuts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from surgeon.graph.walk import FLOATS, reads, subgraphs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnx import NodeProto

    from surgeon.graph.shapes import Shapes

LEARNT = frozenset(
    {"Gather", "GatherND", "Gemm", "MatMul", "Conv", "ConvTranspose", "LSTM", "GRU", "RNN",
     "Einsum", "Attention", "EmbedLayerNormalization", "MatMulInteger", "QLinearMatMul",
     "ConvInteger", "QLinearConv", "FusedMatMul", "DynamicQuantizeMatMul", "MatMulNBits",
     "GatherBlockQuantized"}
)  # fmt: skip
"""Operators that make content of integers with a learnt matrix: an embedding, a product."""
PURE = ("mask", "position")
"""What exporters call inputs that are nothing else."""
COUNTS = frozenset({TensorProto.UNDEFINED, *FLOATS})


def taken_in(
    data: Sequence[NodeProto],
    inputs: Sequence[str],
    end: str,
    shapes: Shapes,
    learns: Callable[[NodeProto], bool],
) -> dict[str, int]:
    """Return {value beside the content: index of the last node that takes it in as content}.

    A value is beside the content if it follows from integer inputs alone without a learnt matrix
    (or, of inputs that are masks or positions by name, with one). It is taken in where content is
    made of it (its embedding) or where it is put next to content (Concat); until then a cut must
    hold it. −1 = nowhere. Adding it to scores, choosing by it, and multiplying with it count as
    what masks are for.

    Args:
        data: nodes from the inputs to `end`, in order.
        inputs: data inputs.
        end: the value cuts lead to.
        shapes: of all values.
        learns: says of a node whether it reads a learnt matrix.
    """
    pure = {name: _is_pure(name, shapes) for name in inputs}
    beside = {name for name in inputs if shapes.dtype(name) not in COUNTS or pure[name]}
    for node in data:
        read = [name for name in reads(node) if name in shapes.data]
        if any(name not in beside for name in read) or any(True for _ in subgraphs(node)):
            continue
        plain = all(pure.get(name, False) for name in read)
        if plain or node.op_type not in LEARNT or not learns(node):
            made = [name for name in node.output if name]
            beside.update(made)
            pure.update(dict.fromkeys(made, plain))
    last = dict.fromkeys(beside, -1)
    if end in last:
        last[end] = len(data)
    for index in reversed(range(len(data))):
        node = data[index]
        read = [name for name in reads(node) if name in shapes.data]
        made = [name for name in node.output if name]
        if all(name in beside for name in made):
            takes = any(last[name] >= 0 for name in made)
        else:
            born = all(name in beside for name in read)
            takes = born or node.op_type == "Concat" or any(True for _ in subgraphs(node))
        for name in read if takes else ():
            if name in last:
                last[name] = max(last[name], index)
    return last


def _is_pure(name: str, shapes: Shapes) -> bool:
    """Say whether an input is a mask or positions; of floats, only attention masks are."""
    called = name.lower()
    if shapes.dtype(name) in COUNTS:
        return "attention" in called and "mask" in called
    return any(word in called for word in PURE)
