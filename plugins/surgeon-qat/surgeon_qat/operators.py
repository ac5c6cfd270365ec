"""Quantised operators written as float ones between DequantizeLinear and QuantizeLinear.

No gradient passes QLinearConv and its like; it passes these. ONNX Runtime fuses them to the same
8-bit kernels when it loads the file. What must not enter: ranges, training.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import surgeon
from surgeon_qat.scales import OWN, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import GraphProto


@dataclass(frozen=True)
class _Form:
    """Where the inputs of a quantised operator lie.

    Attributes:
        kind: the float operator.
        values: first of the three inputs (value, scale, zero point) of each value.
        made: scale of what is made; its zero point is behind it.
        bias: int32 in steps of the product of both scales.
    """

    kind: str
    values: tuple[int, ...] = (0,)
    made: int = 3
    bias: int | None = None


FORMS: Final = {
    "QLinearConv": _Form("Conv", (0, 3), 6, 8),
    "QGemm": _Form("Gemm", (0, 3), 7, 6),
    "QLinearMatMul": _Form("MatMul", (0, 3), 6),
    "QLinearAdd": _Form("Add", (0, 3), 6),
    "QLinearMul": _Form("Mul", (0, 3), 6),
    "QLinearConcat": _Form("Concat", (), 0),
    **{f"QLinear{kind}": _Form(kind) for kind in (
        "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax",
    )},
}  # fmt: skip
WEIGHTED: Final = ("QLinearConv", "QGemm", "QLinearMatMul")
_CLOSED: Final = re.compile("^Q(Linear|Gemm|Attention)|Integer|DynamicQuantize")
LEAST: Final = 13
"""The first opset whose DequantizeLinear takes a scale for each channel."""


@dataclass(frozen=True)
class Opened:
    """A file whose quantised operators are written as float ones.

    Attributes:
        model: the file.
        trains: its weights of 8 bits, and their biases, which are floats now.
        notes: what people should know.
    """

    model: ModelProto
    trains: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def open_up(model: ModelProto) -> Opened:
    """Write quantised operators as float ones between roundings; others stay as they are."""
    opset = {item.domain: item.version for item in model.opset_import}.get("", 0)
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    if opset < LEAST or not any(_opens(node, known) for node in model.graph.node):
        return Opened(model)
    result, weights = ModelProto(), []
    result.CopyFrom(model)
    graph, count = result.graph, 0
    del graph.node[:]
    for node in model.graph.node:
        if not _opens(node, known):
            graph.node.append(node)
            continue
        count += 1
        writing = _Writing(node, known)
        graph.node.extend(writing.nodes())
        if node.op_type in WEIGHTED and node.input[3] in known:
            weights.append(node.input[3])
        if writing.bias is not None:
            graph.initializer.append(writing.bias)
            weights.append(writing.bias.name)
    sweep(graph)
    learn, stuck = surgeon.load(result).learnable(), _stuck(graph)
    trains = tuple(name for name in dict.fromkeys(weights) if name in learn and name not in stuck)
    said = f"qat: {count} quantised operators are written as QDQ, which ONNX Runtime fuses again"
    if len(trains) < len(set(weights)):
        said += f"; {len(set(weights)) - len(trains)} weights lie in front of ones that are not"
    return Opened(result, trains, (said,))


def _stuck(graph: GraphProto) -> set[str]:
    """Return the values from which no gradient comes back: a quantised operator reads them."""
    found = set[str]()
    for node in reversed(graph.node):
        if _CLOSED.search(node.op_type) or found.intersection(node.output):
            found.update(node.input)
    return found


def _opens(node: NodeProto, known: Mapping[str, TensorProto]) -> bool:
    """Say whether a node has a form, and all that is known of its scales is written in the file."""
    form = FORMS.get(node.op_type)
    if form is None or node.domain not in ("", "ai.onnx", "com.microsoft"):
        return False
    if any(item.name == "channels_last" and item.i for item in node.attribute):
        return False
    if any(item.name == "opset" and item.i < LEAST for item in node.attribute):
        return False  # a Softmax of all axes behind one
    given = [*_triples(node, form), ("", *_made(node, form))]
    stated = [name for _, *both in given for name in both]
    last = given[-1]
    if node.op_type == "QGemm" and not any(last):
        stated = stated[:-2]  # it gives floats
    if node.op_type == "QLinearMatMul" and known.get(node.input[1], TensorProto()).dims:
        return False  # a scale for every row
    return all(name in known for name in stated)


def _triples(node: NodeProto, form: _Form) -> Iterator[tuple[str, str, str]]:
    starts = form.values or range(2, len(node.input), 3)
    for start in starts:
        value, scale, zero = (*node.input[start : start + 3], "", "")[:3]
        yield value, scale, zero


def _made(node: NodeProto, form: _Form) -> Sequence[str]:
    return (*node.input[form.made : form.made + 2], "", "")[:2]


class _Writing:
    """One operator as float ones.

    Attributes:
        bias: as floats.
    """

    def __init__(self, node: NodeProto, known: Mapping[str, TensorProto]) -> None:
        self._node, self._form, self._known = node, FORMS[node.op_type], known
        self.bias = self._bias()

    def nodes(self) -> Iterator[NodeProto]:
        """Give them in order."""
        node, form = self._node, self._form
        own, taken = f"{OWN}{node.output[0]}", []
        for place, (value, scale, zero) in enumerate(_triples(node, form)):
            taken.append(f"{own}.{place}")
            made = helper.make_node("DequantizeLinear", [value, scale, zero], taken[-1:])
            if place and node.op_type in WEIGHTED:
                made.attribute.append(helper.make_attribute("axis", self._axis()))
            yield made
        if self.bias is not None:
            taken.append(self.bias.name)
        scale, zero = _made(node, form)
        result = f"{own}.float" if scale else node.output[0]
        computed = helper.make_node(form.kind, taken, [result], name=node.name)
        computed.attribute.extend(
            item for item in node.attribute if item.name not in ("channels_last", "opset")
        )
        yield computed
        if scale:
            yield helper.make_node("QuantizeLinear", [result, scale, zero], [node.output[0]])

    def _axis(self) -> int:
        """Return the axis of a weight's channels."""
        if self._node.op_type == "QLinearConv":
            return 0
        weight = self._known.get(self._node.input[3])
        last = len(weight.dims) - 1 if weight is not None else 1
        turned = any(item.name == "transB" and item.i for item in self._node.attribute)
        return 0 if turned else last

    def _bias(self) -> TensorProto | None:
        place, node = self._form.bias, self._node
        if place is None or len(node.input) <= place or not node.input[place]:
            return None
        bias, first, second = (self._array(node.input[at]) for at in (place, 1, 4))
        alpha = next((item.f for item in node.attribute if item.name == "alpha"), 1.0)
        values = bias.astype(np.float64) * first * second * alpha
        return numpy_helper.from_array(values.astype(np.float32), f"{OWN}{node.output[0]}.bias")

    def _array(self, name: str) -> NDArray[np.float64]:
        return numpy_helper.to_array(self._known[name]).astype(np.float64)
