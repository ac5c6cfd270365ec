"""A float file made QDQ: int8 weights per channel, uint8 values between operators.

ONNX Runtime's own quantiser inserts the nodes, so that its fusions find what they look for; ranges
are measured here, and biases stay floats, which ONNX Runtime rounds to int32 when it loads the
file. What must not enter: training.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final, Literal

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from surgeon.errors import ModelError, SurgeonError, UnsupportedError
from surgeon.plugin.settings import Within
from surgeon.records import Rewritten
from surgeon_qat.operators import Opened, open_up
from surgeon_qat.ranges import Method, measure
from surgeon_qat.scales import let_learn

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from onnx import NodeProto

    from surgeon_qat.ranges import Feeds, Range

OWN: Final = "surgeon."
"""How names of added initializers begin."""
NAMELESS: Final = "surgeon.qat.node."
OPSETS: Final = {"channel": 13, "tensor": 10}
"""The first opset whose QuantizeLinear takes a scale for each of these."""
WEIGHTED: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose weights become int8."""
BESIDE: Final = (
    "Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip",
    "LeakyRelu", "Sigmoid", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Resize",
    "Pad", "Slice", "Split",
)  # fmt: skip
"""Operators that ONNX Runtime computes in 8 bits between those."""
PAIRED: Final = frozenset({"Add", "Mul"})
"""Operators that are left in floats beside a constant, and in front of a Softmax."""
SUFFIXES: Final = (
    "_scale", "_zero_point", "_quantized", "_QuantizeLinear_Input", "_QuantizeLinear_Output",
    "_DequantizeLinear_Output",
)  # fmt: skip
"""How ONNX Runtime's quantiser calls what it adds for a value."""
MOST: Final = 1e30
"""What lies beyond is no number to quantise but a mask."""


def quantize(  # noqa: PLR0913 - its keywords are the settings
    model: ModelProto,
    feeds: Feeds,
    head: Sequence[str],
    trainable: Sequence[str] = (),
    whole: bool = False,
    *,
    ranges: Literal["minmax", "percentile", "mse"] = "minmax",
    percentile: Annotated[float, Within(50, 100)] = 99.99,
    samples: Annotated[int, Within(1)] = 128,
    per: Literal["channel", "tensor"] = "channel",
    bits: Literal[7, 8] = 7,
    scales: Literal["fixed", "learned"] = "fixed",
) -> Rewritten:
    """Quantise a file in front of its new head.

    Args:
        model: the operated file.
        feeds: training samples, and values that the file computes of them.
        head: those of the new head, which stays in floats.
        ranges: how the range of a value is found: all that was seen, its middle `percentile`, or
            what leaves the least squared error.
        percentile: per cent of the numbers that lie within the range.
        samples: training samples that ranges are measured on.
        trainable: initializers that are to be trained.
        whole: whether all that can learn is to be: then weights of quantised operators do, too.
        per: what has a scale of its own, each channel of a weight or the weight.
        scales: whether they stay as measured, or learn beside the weights.
        bits: of the weights; with 7, processors without VNNI compute what the file says, too.

    Raises:
        UnsupportedError: an opset below 13 (10 for scales per tensor), floats of 16 bits, or
            nothing to quantise.
    """
    _require(model, OPSETS[per])
    opened = open_up(model) if whole else Opened(model)
    named = _named(opened.model)
    sites = _Sites.of(named, head)
    made = Rewritten(opened.model, also=opened.trains, notes=opened.notes)
    if sites.weighted:
        _refuse_taken(named, sites)
        found, seen = measure(feeds, sorted(sites.values), samples, Method(ranges, percentile))
        sites = sites.without({name for name, one in found.items() if max(map(abs, one)) > MOST})
        options = {"per_channel": per == "channel", "reduce_range": bits == 7}
        result, instead = _put_together(made.model, _inserted(named, sites, found, options))
        said = _said(made.model, result, seen, ranges)
        made = replace(made, model=result, instead=instead, notes=(*made.notes, said))
    elif not opened.trains and (scales == "fixed" or not _dequantised(model)):
        raise _nothing(model)
    return made if scales == "fixed" else _with_scales(made, trainable)


def _nothing(model: ModelProto) -> UnsupportedError:
    """Return the error for a file in which nothing is left to quantise."""
    already = bool(_dequantised(model))
    return UnsupportedError(
        "the file is quantised already" if already else
        f"there is nothing to quantise: no {', '.join(WEIGHTED)} with a float weight in front of "
        "the head",
        where="--adapter qat",
        remedy="its int8 weights train without --adapter, and with qat:scales=learned their scales "
        "do, too" if already else "leave --adapter out; weights of quantised operators learn where "
        "a case trains all: --case large-similar",
    )  # fmt: skip


def _with_scales(made: Rewritten, trainable: Sequence[str]) -> Rewritten:
    """Let the scales learn, too."""
    known = [one for name in trainable for one in made.instead.get(name, (name,))]
    known += made.also
    model, biases, also = let_learn(made.model, known)
    note = f"qat: {len(also)} scales learn"
    return replace(
        made, model=model, instead={**made.instead, **biases}, also=(*made.also, *also),
        notes=(*made.notes, note),
    )  # fmt: skip


def _require(model: ModelProto, least: int) -> None:
    opset = {item.domain: item.version for item in model.opset_import}.get("", 0)
    if opset < least:
        coarser = opset >= OPSETS["tensor"]
        raise UnsupportedError(
            f"the file is of opset {opset}, and before opset {least} QuantizeLinear has no scale "
            "per channel"
            if coarser
            else f"the file is of opset {opset}, which has no QuantizeLinear",
            where="--adapter qat",
            remedy=f"export it again for opset {least} or later"
            + (", or give qat:per=tensor, which rounds more coarsely" if coarser else ""),
        )
    halves = [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    ]
    if halves:
        raise UnsupportedError(
            f"{len(halves)} weights are floats of 16 bits",
            where=f"initializer {halves[0]!r}",
            remedy="give --adapter qat the float32 file that this one was made from",
        )


def _named(model: ModelProto) -> ModelProto:
    """Return a copy whose nodes have names: ONNX Runtime's quantiser tells them apart by these."""
    named = ModelProto()
    named.CopyFrom(model)
    seen: set[str] = set()
    for place, node in enumerate(named.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{NAMELESS}{place}"
        seen.add(node.name)
    return named


@dataclass(frozen=True)
class _Sites:
    """What is quantised.

    Attributes:
        nodes: by name.
        values: floats that these nodes read and make.
        weighted: those of the nodes that have a weight.
    """

    nodes: Mapping[str, NodeProto]
    values: frozenset[str]
    weighted: tuple[str, ...]

    @classmethod
    def of(cls, model: ModelProto, head: Sequence[str]) -> _Sites:
        """Choose by operator, in front of the head, what is in floats yet."""
        inferred = onnx.shape_inference.infer_shapes(model).graph
        typed = (*inferred.value_info, *inferred.input, *inferred.output)
        stored = {tensor.name for tensor in model.graph.initializer}
        floats = {
            value.name for value in typed
            if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name not in stored
        }  # fmt: skip
        left = _behind(model, head) | _in_front_of_softmax(model) | _dequantised(model)
        nodes = {
            node.name: node
            for node in model.graph.node
            if node.op_type in (*WEIGHTED, *BESIDE)
            and node.domain in ("", "ai.onnx")
            and node.name not in left
            and not (node.op_type in PAIRED and stored.intersection(node.input))
        }
        return cls._of(nodes, floats, stored)

    @classmethod
    def _of(
        cls, nodes: Mapping[str, NodeProto], floats: Collection[str], stored: Collection[str]
    ) -> _Sites:
        values = {
            name
            for node in nodes.values()
            for name in (*node.input, *node.output)
            if name in floats
        }
        weighted = tuple(
            name
            for name, node in nodes.items()
            if node.op_type in WEIGHTED and any(one in stored for one in node.input[:2])
        )
        return cls(nodes, frozenset(values), weighted)

    def without(self, values: Collection[str]) -> _Sites:
        """Leave out the nodes that read or make some values."""
        nodes = {
            name: node
            for name, node in self.nodes.items()
            if not {*node.input, *node.output}.intersection(values)
        }
        kept = {one for node in nodes.values() for one in (*node.input, *node.output)}
        weighted = tuple(name for name in self.weighted if name in nodes)
        return _Sites(nodes, self.values & kept, weighted)


def _behind(model: ModelProto, names: Sequence[str]) -> set[str]:
    """Return the nodes that depend on some initializers."""
    reached, found = set(names), set()
    for node in model.graph.node:
        if reached.intersection(node.input):
            reached.update(node.output)
            found.add(node.name)
    return found


def _in_front_of_softmax(model: ModelProto) -> set[str]:
    """Return the sums and products that a Softmax reads: masks there are far beyond all scores."""
    reached, found = set[str](), set[str]()
    for node in reversed(model.graph.node):
        if node.op_type == "Softmax":
            reached.update(node.input)
        elif node.op_type in PAIRED | {"Where", "Div", "Sub"} and reached.intersection(node.output):
            reached.update(node.input)
            found.add(node.name)
    return found


def _dequantised(model: ModelProto) -> set[str]:
    """Return the nodes that read what is dequantised: they are quantised already."""
    made = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return {node.name for node in model.graph.node if made.intersection(node.input)}


def _inserted(
    model: ModelProto, sites: _Sites, ranges: Mapping[str, Range], options: Mapping[str, bool]
) -> ModelProto:
    """Let ONNX Runtime's quantiser put the nodes in.

    Raises:
        UnsupportedError: it refuses the graph, in its own words.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    known = TensorsData(
        CalibrationMethod.MinMax,
        {
            name: tuple(np.float32(end) for end in ranges[name])
            for name in sorted(sites.values & set(ranges))
        },
    )
    try:
        with _quiet():
            quantizer = QDQQuantizer(
                model,
                **options,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=known,
                nodes_to_quantize=list(sites.nodes),
                nodes_to_exclude=[],
                op_types_to_quantize=[*WEIGHTED, *BESIDE],
                extra_options={"QuantizeBias": False},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
    except SurgeonError:
        raise
    except Exception as error:
        raise UnsupportedError(
            f"ONNX Runtime's quantiser refuses the graph: {type(error).__name__}: {error}",
            where="--adapter qat",
            remedy="leave --adapter out, or export the network anew",
        ) from error
    made: ModelProto = quantizer.model.model
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime's advice to itself: it is for people who call its quantiser."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _put_together(
    model: ModelProto, made: ModelProto
) -> tuple[ModelProto, dict[str, tuple[str, ...]]]:
    """Return the file with the new nodes, all else as it was; and what stands for which weight."""
    stored = {tensor.name for tensor in model.graph.initializer}
    called = {
        tensor.name: f"{OWN}{tensor.name}"
        for tensor in made.graph.initializer
        if tensor.name not in stored
    }
    tensors = {tensor.name: tensor for tensor in made.graph.initializer}
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.node[:], graph.initializer[:]
    graph.initializer.extend(one for one in model.graph.initializer if one.name in tensors)
    for name, own in called.items():
        tensors[name].name = own
        graph.initializer.append(tensors[name])
    for node in made.graph.node:
        node.input[:] = [called.get(name, name) for name in node.input]
        if node.name.startswith(NAMELESS):
            node.ClearField("name")
        graph.node.append(node)
    gone = [value for value in graph.value_info if value.name not in _values(graph)]
    for value in gone:
        graph.value_info.remove(value)
    instead: dict[str, tuple[str, ...]] = {
        one.name: (called[f"{one.name}_quantized"],)
        for one in model.graph.initializer
        if f"{one.name}_quantized" in called
    }
    return result, instead


def _values(graph: onnx.GraphProto) -> set[str]:
    return {name for node in graph.node for name in node.output}


def _refuse_taken(model: ModelProto, sites: _Sites) -> None:
    """Refuse a graph in which what is put in would bear names that are there already.

    Raises:
        ModelError: naming one.
    """
    weights = {one for name in sites.weighted for one in sites.nodes[name].input[:2]}
    stored = {tensor.name for tensor in model.graph.initializer}
    taken = stored.union(*(node.output for node in model.graph.node))
    new = {f"{name}{suffix}" for name in sites.values | weights for suffix in SUFFIXES}
    new |= {f"{OWN}{name}" for name in new}
    if taken & new:
        raise ModelError(
            f"the file has a value {min(taken & new)!r} already, as what is put in would be called",
            where="--adapter qat",
            remedy="rename it in the file, or start from the float file where this is quantised",
        )


def _said(model: ModelProto, result: ModelProto, seen: int, ranges: str) -> str:
    before, after = (Counter(node.op_type for node in one.graph.node) for one in (model, result))
    added = ", ".join(f"{count} {kind}" for kind, count in sorted((after - before).items()))
    gone = ", ".join(f"{count} {kind}" for kind, count in sorted((before - after).items()))
    weights = sum(
        tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1
        for tensor in result.graph.initializer
    ) - sum(t.data_type == TensorProto.INT8 and len(t.dims) > 1 for t in model.graph.initializer)
    said = f"qat: {added} nodes put in, {weights} weights become int8"
    said += f"; {gone} left to the rounding behind" if gone else ""
    return f"{said}; ranges ({ranges}) of {seen} training samples"
