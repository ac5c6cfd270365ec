"""Taps: pooled values of several cut points as outputs of one graph, so that one pass reads all.

The pooling is that of a head (`add_pool`), asked for cut by cut on a graph without weights. What
must not enter: sessions, samples, and what is concluded from the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from onnx import ModelProto, ValueInfoProto

from surgeon.errors import UnsupportedError
from surgeon.graph import cuts as graph_cuts
from surgeon.graph.channels import channel_axis
from surgeon.graph.cuts import Anatomy, keep_only
from surgeon.graph.dequantize import INTEGERS, dequantize
from surgeon.graph.external import dense_size
from surgeon.graph.nodes import add_pool
from surgeon.graph.schema import type_name
from surgeon.graph.walk import FLOATS, consumers
from surgeon.records import CutPoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import NodeProto

    from surgeon.graph.shapes import Shapes

MOST = 8
"""Cut points listened to in one pass."""
NEAR_THE_END = 0.99
"""Depth from which a value is the late cut in other words (before its pooling, its Flatten)."""
POOL_PRICE = 16
"""Multiply-adds in the time of which one value is pooled: pooling waits for memory."""
POOL_SHARE = 0.2
"""Share of the graph's multiply-adds that all pooling together may cost."""
FUSED = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh",
     "Gelu", "BatchNormalization", "Add", "Sub", "Mul", "Div", "Cast", "Identity", "Dropout"}
)  # fmt: skip
"""Readers that a runtime fuses into the node before: to listen in between would undo that."""


@dataclass(frozen=True)
class Taps:
    """A graph whose outputs are pooled values.

    Attributes:
        model: the graph; every output has samples along axis 0.
        cuts: where it listens, by ascending depth.
        outputs: the output that holds the pooled value [n, features] of each cut.
        head: the output that holds the old head's scores, or None.
    """

    model: ModelProto
    cuts: tuple[CutPoint, ...]
    outputs: tuple[str, ...]
    head: str | None


def late_cut(anatomy: Anatomy) -> CutPoint:
    """Return the late cut as a cut point, listed or not."""
    for cut in anatomy.cuts:
        if cut.tensor == anatomy.late:
            return cut
    shapes, tensor = anatomy.shapes, anatomy.late
    weights = anatomy.model.graph.initializer
    return CutPoint(
        tensor=tensor,
        depth=graph_cuts.depth_of(anatomy, tensor),
        shape=shapes.symbolic.get(tensor, ()),
        dtype=type_name(shapes.dtype(tensor)),
        batch_axis=shapes.batch_axes.get(tensor, 0),
        parameters=sum(prod(t.dims) for t in weights if t.data_type in FLOATS),
        macs=anatomy.total,
        bytes=sum(dense_size(t) for t in weights),
    )


def choose_cuts(anatomy: Anatomy, most: int = MOST) -> list[CutPoint]:
    """Choose the cut points to listen to: spread over depth, cheap to pool, the late one always.

    Raises:
        UnsupportedError: no listed cut holds floats with a fixed number of features.
    """
    late = late_cut(anatomy)
    ends = [late] if _readable(anatomy, late.tensor) else []
    open_ = [
        cut
        for cut in anatomy.cuts
        if cut.depth < min(NEAR_THE_END, late.depth) and _readable(anatomy, cut.tensor)
    ]
    if not ends and not open_:
        raise UnsupportedError(
            "no cut of this graph holds floats with a fixed number of features",
            where="surgeon advise",
            remedy="say --case and --cut yourself; `surgeon cuts MODEL` lists the cuts",
        )
    floats = [cut for cut in open_ if anatomy.shapes.dtype(cut.tensor) in FLOATS]
    # Where floats lie between eight-bit integers, those are the same values, once more.
    open_ = floats if len(floats) >= min(3, len(open_)) else open_
    users = consumers(anatomy.model.graph)
    whole = [cut for cut in open_ if not _fused(users.get(cut.tensor, []))]
    open_ = whole if len(whole) >= min(3, len(open_)) else open_
    wider = _wider_near_the_end(anatomy, late)
    steps = most - len(ends) - len(wider)
    wanted = [(place + 1) / (steps + 1) for place in range(steps)]
    chosen: dict[str, CutPoint] = {}
    for depth in wanted if open_ else ():
        cut = graph_cuts.nearest(open_, depth)
        chosen.setdefault(cut.tensor, cut)
    kept = sorted(chosen.values(), key=lambda cut: cut.depth)
    limit = POOL_SHARE * max(anatomy.total, 1)
    while len(kept) > 1 and sum(_price(anatomy, cut) for cut in kept) > limit:
        dearest = max(kept, key=lambda cut: _price(anatomy, cut))
        if _price(anatomy, dearest) == 0:
            break
        kept.remove(dearest)
    return [*kept, *wider, *ends]


def _wider_near_the_end(anatomy: Anatomy, late: CutPoint) -> list[CutPoint]:
    """Return the widest cut close in front of a late one that holds fewer features, or nothing.

    Where no classifier was found, late is the graph's output, and that may be one score: what the
    last layers squeezed into it is the value in front of them.
    """
    if not _readable(anatomy, late.tensor):
        return []
    near = [
        cut
        for cut in anatomy.cuts
        if cut.depth >= NEAR_THE_END
        and cut.tensor != late.tensor
        and _readable(anatomy, cut.tensor)
        and _features(anatomy, cut) > _features(anatomy, late)
    ]

    def order(cut: CutPoint) -> tuple[int, bool, float]:
        # Of the equally wide one without axes to pool, and of those the last.
        return _features(anatomy, cut), len(cut.shape) == 2, cut.depth

    return [max(near, key=order)] if near else []


def _features(anatomy: Anatomy, cut: CutPoint) -> int:
    """Return the numbers in the pooled value of a cut that is readable."""
    dims = anatomy.shapes.symbolic.get(cut.tensor, ())
    if len(dims) == 1:
        return 1
    width = dims[channel_axis(anatomy.model, anatomy.shapes, cut.tensor, anatomy.links)]
    return width if isinstance(width, int) else 0


def _readable(anatomy: Anatomy, tensor: str) -> bool:
    shapes = anatomy.shapes
    known = tensor in shapes.one and tensor in shapes.batch_axes
    if not known or shapes.dtype(tensor) not in FLOATS | INTEGERS:
        return False
    axis = channel_axis(anatomy.model, shapes, tensor, anatomy.links)
    dims = shapes.symbolic.get(tensor, ())
    return len(dims) == 1 or isinstance(dims[axis], int)


def _fused(readers: Sequence[NodeProto]) -> bool:
    return bool(readers) and all(node.op_type in FUSED for node in readers)


def _price(anatomy: Anatomy, cut: CutPoint) -> float:
    dims = anatomy.shapes.one[cut.tensor][1]
    if len(dims) <= 2:
        return 0.0
    return POOL_PRICE * prod(dims) / max(anatomy.shapes.batches[0], 1)


def add_taps(anatomy: Anatomy, cuts: Sequence[CutPoint], *, head: bool = True) -> Taps:
    """Return the graph that computes the pooled values of `cuts`, and nothing else.

    Args:
        anatomy: the graph understood.
        cuts: where to listen, each with floats.
        head: whether the old head's scores are an output too, where there is an old head.

    Raises:
        ModelError: a cut has no fixed number of features.
    """
    tensors = [cut.tensor for cut in cuts]
    # The late cut may also be the graph's output; then there is no old head to listen to.
    scores = anatomy.output if head and anatomy.head is not None else None
    if scores in tensors or anatomy.shapes.batch_axes.get(scores or "") != 0:
        scores = None  # samples along another axis are no table of scores
    wanted = [*tensors, *([scores] if scores else [])]
    result = keep_only(anatomy.model, wanted, anatomy.shapes)
    light = without_weights(anatomy.model)
    inputs = {value.name: value for value in anatomy.model.graph.input}
    needed = {value.name for value in result.graph.input}
    outputs = []
    shapes = anatomy.shapes
    for place, cut in enumerate(cuts):
        value = cut.tensor
        if shapes.dtype(value) in INTEGERS:
            result, value, shapes = dequantize(result, anatomy.model, value, shapes)
            result.graph.node[-1].name = f"surgeon.tap.{place}.DequantizeLinear"
            light.graph.node.append(result.graph.node[-1])
        prefix = f"surgeon.tap.{place}."
        name, reads = append_pool(result, light, anatomy.model, shapes, value, prefix)
        outputs.append(name)
        needed |= reads & set(inputs)
    del result.graph.input[:]
    result.graph.input.extend(value for name, value in inputs.items() if name in needed)
    del result.graph.output[:]
    names = dict.fromkeys([*outputs, *([scores] if scores else [])])
    result.graph.output.extend(ValueInfoProto(name=name) for name in names)
    result.ir_version = max(result.ir_version, 4)
    return Taps(result, tuple(cuts), tuple(outputs), scores)


def without_weights(model: ModelProto) -> ModelProto:
    """Return nodes and opsets alone: all that pooling looks at, quick to copy."""
    light = ModelProto()
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    light.graph.node.extend(model.graph.node)
    return light


def append_pool(
    result: ModelProto,
    light: ModelProto,
    original: ModelProto,
    shapes: Shapes,
    tensor: str,
    prefix: str,
    pool: str = "mean",
) -> tuple[str, set[str]]:
    """Append the pooling of one value; return the pooled value's name and all that it reads.

    Args:
        result: the graph that gets it.
        light: its nodes, see `without_weights`.
        original: has all inputs, a mask among them that weighs a mean.
        shapes: of all values.
        tensor: the value.
        prefix: of the names of what is added.
        pool: how; see `Head`.
    """
    pooled, nodes, constants = add_pool(light, shapes, tensor, original.graph.input, pool)
    if not nodes:
        return tensor, {tensor}
    names = {name for node in nodes for name in node.output} | {t.name for t in constants}
    known = {value.name for value in original.graph.input}
    for node in nodes:
        node.name = prefix + node.name
        for index, name in enumerate(node.input):
            if name in names:
                node.input[index] = prefix + name
            elif name not in known:
                node.input[index] = tensor  # whatever it was renamed to on the way
        for index, name in enumerate(node.output):
            node.output[index] = prefix + name
    for constant in constants:
        constant.name = prefix + constant.name
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(constants)
    _import_standard_domain(result, pooled)
    return nodes[-1].output[0], {name for node in nodes for name in node.input}


def _import_standard_domain(result: ModelProto, pooled: ModelProto) -> None:
    known = {item.domain for item in result.opset_import}
    for item in pooled.opset_import:
        if item.domain not in known and not (item.domain == "" and "ai.onnx" in known):
            result.opset_import.add(domain=item.domain, version=item.version)
