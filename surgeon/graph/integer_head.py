"""Products of integers that stand for a layer of floats, as dynamic quantisation writes them.

A float value is quantised where it lies, multiplied as integers, and scaled back: one layer in five
nodes, or in one of ONNX Runtime's own. Finding the old head has to see the layer. What must not
enter: what is done with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgeon.graph.walk import attribute

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import NodeProto, TensorProto

PRODUCTS = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}
"""{operator on integers whose result is cast and scaled: the layer it is part of}"""
WHOLE = {"DynamicQuantizeMatMul": 4, "MatMulIntegerToFloat": 6, "MatMulNBits": 5}
"""{operator that gives floats: place of its bias}"""
QUANTISERS = frozenset({"DynamicQuantizeLinear", "QuantizeLinear"})


@dataclass(frozen=True)
class IntegerLayer:
    """A layer whose product is one of integers.

    Attributes:
        form: `MatMul` or `Conv`, with `+Add` where its node adds the bias itself.
        input: the value in front of its quantisation.
        weights: initializers of the kernel and of the bias, as far as the node names them.
        classes: outputs of the layer.
    """

    form: str
    input: str
    weights: tuple[str, ...]
    classes: int | None


def integer_layer(
    node: NodeProto, makers: Mapping[str, NodeProto], weights: Mapping[str, TensorProto]
) -> IntegerLayer | None:
    """Return the layer that a node ends, or None."""
    if node.op_type in WHOLE:
        place = WHOLE[node.op_type]
        bias = node.input[place] if place < len(node.input) else ""
        names = tuple(name for name in (node.input[1], bias) if name in weights)
        return IntegerLayer(
            "MatMul+Add" if bias else "MatMul",
            _in_front(node.input[0], makers),
            names,
            _columns(node, weights),
        )
    product = _product(node, makers) if node.op_type == "Mul" else None
    if product is None:
        return None
    kernel = weights.get(product.input[1])
    classes = None
    if kernel is not None:
        classes = int(kernel.dims[-1] if product.op_type == "MatMulInteger" else kernel.dims[0])
    return IntegerLayer(
        PRODUCTS[product.op_type],
        _in_front(product.input[0], makers),
        () if kernel is None else (kernel.name,),
        classes,
    )


def _product(node: NodeProto, makers: Mapping[str, NodeProto]) -> NodeProto | None:
    """Follow a scaled value back through its Cast and further scales to the product."""
    todo, steps = list(node.input), 0
    while todo and steps < 8:
        steps += 1
        maker = makers.get(todo.pop(0))
        if maker is None:
            continue
        if maker.op_type in PRODUCTS:
            return maker
        if maker.op_type in ("Cast", "Mul", "Identity"):
            todo += maker.input
    return None


def _in_front(name: str, makers: Mapping[str, NodeProto]) -> str:
    """Return the float value that a quantised one was made of; itself where nothing says so."""
    maker = makers.get(name)
    return str(maker.input[0]) if maker is not None and maker.op_type in QUANTISERS else name


def _columns(node: NodeProto, weights: Mapping[str, TensorProto]) -> int | None:
    said = attribute(node, "N")
    if said is not None:
        return int(said.i)
    kernel = weights.get(node.input[1])
    return None if kernel is None else int(kernel.dims[-1])
