"""The classes of a detector in place: found by what makes the output's columns, re-dimensioned.

Known are lists of boxes of one output, decoded, without suppression behind them: YOLOv8's form
[n, 4 + k, boxes], YOLOv5's [n, boxes, 5 + k] with a column that says whether anything is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from onnx import numpy_helper

from surgeon.errors import UnsupportedError
from surgeon.records import Refitted
from surgeon_detect.follow import Graph, LostError, Said, Source, resize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

BOX = 4
CHOOSING = frozenset(
    {"NonMaxSuppression", "EfficientNMS_TRT", "BatchedNMS_TRT", "BatchedNMSDynamic_TRT", "TopK",
     "MultiClassNMS", "DetectionOutput"}
)  # fmt: skip
"""Operators that choose among boxes: what they leave out gets no gradient."""
FIRST = 0.01
"""Probability that every new class begins with (Lin et al., "Focal Loss", 2017, section 4.1)."""
SPREAD = 0.01
"""Standard deviation of the first weights (the same)."""
LOOKED_FOR = (
    "looked for: one output of boxes as YOLOv8, YOLO11 and decoded YOLOX or YOLOv5 give it, "
    "[n, 4 + k, boxes] or [n, boxes, 5 + k], a Sigmoid and convolutions behind its classes"
)


@dataclass(frozen=True)
class Form:
    """What the columns of an output are.

    Attributes:
        axis: on which they lie, 1 or 2.
        first: column of the first class: 4, or 5 behind that which says whether anything is there.
        classes: how many there are.
        sources: convolutions that make classes, with the channels of each class.
        said: numbers in nodes that count the classes.
    """

    axis: int
    first: int
    classes: int
    sources: tuple[Source, ...]
    said: frozenset[Said]


def refit(
    model: ModelProto,
    outputs: int,
    random: np.random.Generator,
    sizes: Mapping[str, tuple[int, ...]],
) -> Refitted:
    """Give the class convolutions of a detector another number of classes.

    Channels of boxes keep their weights, those of classes are drawn.

    Args:
        model: the detector; it is changed.
        outputs: how many classes it will tell.
        random: what first weights are drawn with.
        sizes: dims of every value.

    Raises:
        UnsupportedError: its form is not known; says what was looked for.
    """
    graph = Graph(model, sizes)
    form = recognise(model, graph)
    stay = _decoding(graph, model.graph.output[0].name)
    weights: list[str] = []
    for source in form.sources:
        node = model.graph.node[source.node]
        for place in range(1, len(node.input)):
            held = graph.stored.get(node.input[place])
            if held is None or held.data_type != 1:
                _refuse(f"the weights of Conv node {node.name!r} are no float initializer")
            values = numpy_helper.to_array(held)
            drawn = _resized(values, source, outputs, random)
            held.CopyFrom(numpy_helper.from_array(drawn, held.name))
            weights.append(held.name)
    resize(graph, set(form.said), outputs - form.classes)
    _declare(model, form, outputs)
    return Refitted(model, tuple(dict.fromkeys(weights)), stay)


def _decoding(graph: Graph, output: str) -> tuple[str, ...]:
    """Return the initializers that only decode boxes: grids, strides, the bins of a distribution.

    They lie behind the last convolutions; one whose kernel counts 0, 1, 2, … sums up bins.
    """
    todo, seen, found = [output], set[str](), list[str]()
    while todo:
        name = todo.pop()
        node = graph.maker(name)
        if name in seen or node is None:
            continue
        seen.add(name)
        if node.op_type in ("Conv", "FusedConv"):
            kernel = graph.constant(node.input[1])
            bins = np.arange(0 if kernel is None else kernel.size)
            if kernel is None or not (kernel.ravel() == bins).all():
                continue
        found += [one for one in node.input if one in graph.stored]
        todo += [one for one in node.input if one]
    return tuple(dict.fromkeys(found))


def recognise(model: ModelProto, graph: Graph) -> Form:
    """Find which columns of the output are classes, and which convolutions make them.

    Raises:
        UnsupportedError: says what was looked for.
    """
    for node in model.graph.node:
        if node.op_type in CHOOSING:
            _refuse(
                f"{node.op_type} node {node.name or node.output[0]!r} chooses among boxes, and "
                "what it leaves out cannot be learnt",
                "export it without: `nms=False`, `end2end=False`",
            )
    output = model.graph.output[0].name
    try:
        dims = graph.dims(output)
        if len(dims) != 3:
            _refuse(f"output {output!r} is {list(dims)}")
        found = [form for axis in (1, 2) for form in _forms(graph, output, axis, dims[axis])]
    except LostError as error:
        _refuse(str(error))
    if not found:
        _refuse(
            f"no columns of output {output!r} {list(dims)} are classes: {_why(graph, output, dims)}"
        )
    return found[0]


def _forms(graph: Graph, output: str, axis: int, columns: int) -> list[Form]:
    """Return the form of an output whose columns lie on an axis; nothing where they do not."""
    if columns < BOX + 1:
        return []
    for first in (BOX, BOX + 1):
        try:
            classes = graph.follow(output, axis, range(first, columns))
        except LostError:
            continue
        channels = {graph.dims(graph.graph.node[one.node].output[0])[1] for one in classes.sources}
        count = columns - first
        whole = channels == {count * one.channels.shape[1] for one in classes.sources}
        joined = channels == {columns * one.channels.shape[1] for one in classes.sources}
        if "Sigmoid" not in classes.passed or not count or not (whole or (joined and first > BOX)):
            continue
        if _raw(graph, output, axis):
            _refuse(
                "its boxes are distances in cells, which post-processing decodes",
                "export it with boxes decoded (YOLOX: `decode_in_inference=True`)",
            )
        return [Form(axis, first, count, tuple(classes.sources), frozenset(classes.said))]
    return []


def _raw(graph: Graph, output: str, axis: int) -> bool:
    """Say whether nothing is computed between convolutions and boxes."""
    try:
        passed = graph.follow(output, axis, range(BOX)).passed
    except LostError:
        return False
    return not passed & {"Mul", "Add", "Sub", "Exp", "Pow", "Sigmoid"}


def _why(graph: Graph, output: str, dims: tuple[int, ...]) -> str:
    """Say where the last column of an output leads."""
    axis = 1 if dims[1] <= dims[2] else 2
    try:
        found = graph.follow(output, axis, [dims[axis] - 1])
    except LostError as error:
        return str(error)
    sigmoid = "a" if "Sigmoid" in found.passed else "no"
    return (
        f"the last of axis {axis} comes from {len(found.sources)} Conv, through {sigmoid} Sigmoid"
    )


def _resized(
    values: np.ndarray, source: Source, outputs: int, random: np.random.Generator
) -> np.ndarray:
    """Return weights [channels, …] or a bias [channels], with other channels for other classes."""
    old, times = source.channels.shape
    kept = np.setdiff1d(np.arange(len(values)), source.channels)
    rest, groups = len(kept) // times, values.reshape(times, -1, *values.shape[1:])
    new = np.empty((times, rest + outputs, *values.shape[1:]), values.dtype)
    begin = int(source.channels.min())
    new[:, :begin], new[:, begin + outputs :] = groups[:, :begin], groups[:, begin + old :]
    if values.ndim == 1:
        new[:, begin : begin + outputs] = np.log(FIRST / (1 - FIRST))
    else:
        drawn = random.normal(0, SPREAD, (times, outputs, *values.shape[1:]))
        new[:, begin : begin + outputs] = drawn
    return new.reshape(-1, *values.shape[1:])


def _declare(model: ModelProto, form: Form, outputs: int) -> None:
    """Say the new length in the declared output, where one is said."""
    shape = model.graph.output[0].type.tensor_type.shape
    if len(shape.dim) > form.axis and shape.dim[form.axis].HasField("dim_value"):
        shape.dim[form.axis].dim_value = form.first + outputs


def _refuse(what: str, remedy: str | None = None) -> NoReturn:
    raise UnsupportedError(
        f"the form of this detector is not known: {what}",
        where="graph output",
        remedy=f"{remedy}; {LOOKED_FOR}" if remedy else LOOKED_FOR,
    )
