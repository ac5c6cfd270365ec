"""Where a graph may be cut, how deep each place lies, and the cutting itself.

Depth is work, not layers: multiply-adds needed to compute a value ÷ those needed for the input of
the old head. A *listed* cut is a value through which every path from the inputs to the head passes;
truncation by name accepts any float value that carries the batch axis.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

from onnx import ModelProto, TensorProto

from surgeon.errors import ModelError, UnknownNameError, UsageError
from surgeon.graph.beside import taken_in
from surgeon.graph.dequantize import INTEGERS, Scales
from surgeon.graph.detector import find_detector, shared
from surgeon.graph.envelope import headed_at
from surgeon.graph.external import dense_size
from surgeon.graph.old_head import CLASSIFYING, find_heads
from surgeon.graph.schema import type_name
from surgeon.graph.shapes import Shapes, declared, macs, make_value, trace
from surgeon.graph.walk import FLOATS, Links, ancestors, data_inputs, producers, reads
from surgeon.options import depth_meant
from surgeon.records import CutPoint, OldHead

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onnx import GraphProto, NodeProto, ValueInfoProto

    from surgeon.graph.shapes import Observe
    from surgeon.records import Shape

KERNELS = FLOATS | INTEGERS
"""Element types of learnt matrices."""

EARLY = 0.33
"""Depth of the early cut until advice is measured."""


@dataclass(frozen=True)
class Anatomy:
    """A normalized graph understood: shapes, the old head, what every value costs, the cuts.

    Attributes:
        model: the normalized model (batch freed where that was proven).
        shapes: shapes and batch axes of all values.
        head: the old head, or None.
        output: the graph output the cuts lead to.
        end: the value depth 1 means: the old head's input, or that output.
        cuts: the listed cuts by ascending depth.
        total: multiply-adds of one sample up to `end`.
    """

    model: ModelProto
    shapes: Shapes
    head: OldHead | None
    output: str
    end: str
    cuts: tuple[CutPoint, ...]
    total: int
    work: Mapping[str, int]
    """multiply-adds of the node that makes a value, keyed by its first output"""
    missing: str | None = None
    """that the graph ends in no classification head, or None"""
    several: str | None = None
    """which of several outputs counts, or None"""
    held: int | None = None
    """the batch at which constants hold a graph that declares it open, None where they do not"""
    batch_note: str | None = None
    """what became of a batch that is or was fixed: freed, or why it stays"""

    @cached_property
    def links(self) -> Links:
        """Makers and readers of the values."""
        return Links(self.model.graph)

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of the head: that there is none, which of several it is."""
        return tuple(filter(None, (self.missing, self.several, self._moved)))

    @property
    def _moved(self) -> str | None:
        """Say that the late cut lies in front of where it would be, or None."""
        if self.late == self.end:
            return None
        return f"value {self.end!r} {self._unfit}: the late cut is {self.late!r}"

    @property
    def late(self) -> str:
        """The case's own late cut: the input of the old head's first weighted operator.

        Without a head it is the output. Where that does not carry the batch, or its features
        cannot be counted, it is the last listed cut of which neither is so.
        """
        if self._unfit is None:
            return self.end
        counted = [cut for cut in self.cuts if _features_known(cut.shape, cut.batch_axis)]
        return (counted or self.cuts)[-1].tensor if self.cuts else self.end

    @property
    def _unfit(self) -> str | None:
        """Say why no new head can read the value that depth 1 means, or None."""
        axis = self.shapes.batch_axes.get(self.end)
        if axis is None:
            return "does not carry the batch axis"
        known = _features_known(self.shapes.symbolic.get(self.end, ()), axis)
        return None if known or self.head else "has no fixed number of features"

    @property
    def early(self) -> str:
        """The case's own early cut: the listed cut nearest `@0.33` whose features are counted."""
        counted = [c for c in self.cuts if _features_known(c.shape, c.batch_axis)] or self.cuts
        return nearest(counted, EARLY).tensor if counted else self.end


def study(
    model: ModelProto,
    *,
    observe: Observe | None = None,
    known: Mapping[str, int] | None = None,
    output: str | None = None,
) -> Anatomy:
    """Understand a normalized model: old head, shapes, depth of every value, listed cuts.

    Of several outputs the one with the deepest old head counts: that with most multiply-adds in
    front of it.

    Args:
        model: the normalized model.
        observe: runs the graph where inference is blind.
        known: sizes of open dimensions that are known.
        output: the graph output that counts; None = chosen as said above.

    Raises:
        ModelError: no graph output can be reached from an input.
        UnknownNameError: there is no such output.
    """
    graph = model.graph
    outputs = [value.name for value in graph.output]
    if output is not None and output not in outputs:
        raise UnknownNameError("output", output, outputs, where="--output")
    heads = [head for head in find_heads(model) if output in (None, head.output)]
    floats = [output] if output is not None else _float_outputs(model)
    ends = list(dict.fromkeys(head.input for head in heads)) or floats
    wanted = {name for node in ancestors(graph, ends) for name in node.output if name} | set(ends)
    shapes = trace(
        model,
        observe=observe,
        needed=lambda found: all(name in found for name in wanted),
        known=known,
    )
    work = {
        node.output[0]: _work(node, shapes) for node in graph.node if node.output and node.output[0]
    }
    depth = {name: _work_up_to(graph, name, work) for name in ends}
    head = _deepest(heads, depth, model, shapes)
    # Without a head, the output that needs most work says most, the first of equals; recurrent
    # state, which carries the batch elsewhere than in front, only where there is nothing else.
    end = (
        head.input
        if head
        else max(ends, key=lambda name: (shapes.batch_axes.get(name, 0) == 0, depth[name]))
    )
    chosen = head.output if head else end
    ours = headed_at(model)  # a file of ours ends in the head of its task
    known_end = ours is not None or classifies(head, chosen, shapes)
    missing = None if known_end else no_classifier(model, [chosen])
    end = ours if ours in shapes.data and head is None else end
    body = None
    if missing is not None and output is None:
        body = _in_front_of_boxes(model, shapes, work)
    if body is not None:
        head, end, missing = None, *body
    path = ancestors(graph, [end])
    data = [node for node in path if _is_data(node, shapes)]
    total = sum(work.get(node.output[0], 0) for node in data)
    per_sample_work = max(total // shapes.batches[0], 1)
    if not data and end not in shapes.data:
        raise ModelError(
            f"output {chosen!r} does not depend on any input",
            where=chosen,
            remedy="the file is a constant; nothing can be tuned in it",
        )
    cuts = _listed(model, data, end, shapes, work, max(total, 1))
    several = None
    if output is None and len(floats) > 1 and body is None:
        why = "its head is the deepest" if head else "it needs most of the network"
        listed = ", ".join(floats)
        several = f"{chosen} counts of the outputs {listed}: {why}; --output takes another"
    return Anatomy(
        model, shapes, head, chosen, end, tuple(cuts), per_sample_work, work, missing, several
    )


def _in_front_of_boxes(
    model: ModelProto, shapes: Shapes, work: Mapping[str, int]
) -> tuple[str, str] | None:
    """Return the value in front of a detector's heads, and what to say of it; None for others.

    It is the end of the backbone: the deepest of the coarsest values that all heads read.
    """
    links = Links(model.graph)
    detector = find_detector(model, shapes, links)
    if detector is None or not detector.heads:
        return None
    fit = [
        name
        for name in shared(detector.heads, model, shapes, links)
        if _features_known(shapes.symbolic.get(name, ()), shapes.batch_axes[name])
    ]
    if not fit:
        return None
    end = max(fit, key=lambda name: (_work_up_to(model.graph, name, work), name))
    told = f"a detector: cuts lie in front of its {len(detector.heads)} heads, the last at {end!r}"
    return end, told


def _deepest(
    heads: Sequence[OldHead], depth: Mapping[str, int], model: ModelProto, shapes: Shapes
) -> OldHead | None:
    """Choose among the old heads of several outputs; of equal ones the first.

    Scores per sample come before maps and sequences (another head's features, a decoder's picture);
    of the same scores those that say by their activation that they are scores of classes, and
    numbers of classes come last.
    """
    kinds = {value.name: declared(value)[0] for value in model.graph.output}

    def order(head: OldHead) -> tuple[bool, int, bool, bool, bool]:
        return (
            classifies(head, head.output, shapes),
            depth[head.input],
            kinds[head.output] in (*FLOATS, TensorProto.UNDEFINED),
            head.activation in CLASSIFYING,
            head.activation is None,
        )

    return max(heads, key=order, default=None)


def classifies(head: OldHead | None, output: str, shapes: Shapes) -> bool:
    """Say whether a head gives a row of scores per sample: its output has one axis but the batch.

    Axes of one element do not count (SqueezeNet: [n, 1000, 1, 1]).
    """
    return head is not None and per_sample(output, shapes)


def per_sample(output: str, shapes: Shapes) -> bool:
    """Say whether an output is one row of numbers per sample, as far as its shape is known."""
    axis = shapes.batch_axes.get(output, 0)
    dims = shapes.symbolic.get(output) or ()
    return sum(dim != 1 for place, dim in enumerate(dims) if place != axis) <= 1


def no_classifier(model: ModelProto, outputs: Sequence[str] = ()) -> str:
    """Say that a graph ends in no classifier, and in what it ends."""
    told = []
    for value in model.graph.output:
        if outputs and value.name not in outputs:
            continue
        _, shape = declared(value)
        dims = () if shape is None else ("n", *shape[1:])
        told.append(f"{value.name} [{', '.join('?' if d is None else str(d) for d in dims)}]")
    return f"no classification head: {', '.join(told)}"


def _features_known(shape: Shape | None, axis: int) -> bool:
    """Say whether a new head could count the features of a value, with samples along `axis`."""
    dims = [dim for place, dim in enumerate(shape or ()) if place != axis]
    opened = any(not isinstance(dim, int) for dim in dims)
    return any(isinstance(dim, int) and (dim > 1 or not opened) for dim in dims) or not dims


def _float_outputs(model: ModelProto) -> list[str]:
    """Return the outputs a head could read; all of them where none is a float tensor."""
    floats = [
        value.name
        for value in model.graph.output
        if value.type.tensor_type.elem_type in (*FLOATS, 0) and value.type.HasField("tensor_type")
    ]
    return floats or [value.name for value in model.graph.output]


def _work_up_to(graph: GraphProto, name: str, work: Mapping[str, int]) -> int:
    return sum(work.get(node.output[0], 0) for node in ancestors(graph, [name]) if node.output)


def _is_data(node: NodeProto, shapes: Shapes) -> bool:
    return any(name in shapes.data for name in node.output if name)


def _work(node: NodeProto, shapes: Shapes) -> int:
    return macs(node, shapes.one) if _is_data(node, shapes) else 0


def _listed(
    model: ModelProto,
    data: Sequence[NodeProto],
    end: str,
    shapes: Shapes,
    work: Mapping[str, int],
    total: int,
) -> list[CutPoint]:
    """Sweep the data path in order; where exactly one value is alive, every path passes it.

    Masks and positions that run beside it do not count (see `graph.beside`).
    """
    graph = model.graph
    path = {name for node in data for name in node.output if name}
    inputs = [name for name in data_inputs(graph) if name in shapes.data]
    last: dict[str, int] = {}
    for index, node in enumerate(data):
        for name in reads(node):
            if name in path or name in inputs:
                last[name] = index
    last[end] = len(data)
    alive = {name for name in inputs if name in last}
    scales = Scales(model)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    makers = producers(graph)

    def learns(node: NodeProto) -> bool:
        read = (weights[name] for name in _weights_behind(node, makers, weights, shapes))
        return any(t.data_type in KERNELS and sum(d > 1 for d in t.dims) > 1 for t in read)

    taken = taken_in(data, inputs, end, shapes, learns)
    used: set[str] = set()
    parameters = stored = done = 0
    cuts: list[CutPoint] = []
    for index, node in enumerate(data):
        done += work.get(node.output[0], 0)
        for name in _weights_behind(node, makers, weights, shapes):
            if name not in used:
                used.add(name)
                tensor = weights[name]
                parameters += prod(tensor.dims) if tensor.data_type in FLOATS else 0
                stored += dense_size(tensor)
        alive = {name for name in alive if last[name] > index}
        alive |= {name for name in node.output if last.get(name, -1) > index}
        held = [name for name in alive if taken.get(name, index + 1) > index]
        if len(held) != 1:
            continue
        (name,) = held
        if name not in node.output or not _cuttable(name, shapes, scales):
            continue
        cuts.append(
            CutPoint(
                tensor=name,
                depth=round(done / total, 4),
                shape=shapes.symbolic.get(name, ()),
                dtype=type_name(shapes.dtype(name)),
                batch_axis=shapes.batch_axes[name],
                parameters=parameters,
                macs=done // shapes.batches[0],
                bytes=stored,
            )
        )
    return cuts


def _weights_behind(
    node: NodeProto, makers: Mapping[str, NodeProto], weights: Mapping[str, object], shapes: Shapes
) -> list[str]:
    """Return the initializers a data node reads, also through weight-only and shape-only nodes."""
    found: list[str] = []
    todo = reads(node)
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen or name in shapes.data:
            continue
        seen.add(name)
        if name in weights:
            found.append(name)
        elif name in makers:
            todo.extend(reads(makers[name]))
    return found


def _cuttable(name: str, shapes: Shapes, scales: Scales) -> bool:
    if name not in shapes.batch_axes or name not in shapes.data:
        return False
    kind = shapes.dtype(name)
    return kind in FLOATS or (kind in INTEGERS and scales.of(name) is not None)


def nearest(cuts: Sequence[CutPoint], depth: float) -> CutPoint:
    """Return the listed cut nearest in depth; a tie goes to the earlier."""
    # Rounded, so that the last bit of a difference of decimals does not decide a tie.
    return min(cuts, key=lambda cut: (round(abs(cut.depth - depth), 9), cut.depth))


def depth_of(anatomy: Anatomy, tensor: str) -> float:
    """Return the depth of any value: work of its ancestors ÷ work of the old head's input."""
    for cut in anatomy.cuts:
        if cut.tensor == tensor:
            return cut.depth
    done = _work_up_to(anatomy.model.graph, tensor, anatomy.work)
    return round(done / max(anatomy.total * anatomy.shapes.batches[0], 1), 4)


def first_use(anatomy: Anatomy) -> dict[str, float]:
    """Return {initializer: share of the work done before its first use}, 0 at the input."""
    graph = anatomy.model.graph
    total = max(sum(anatomy.work.values()), 1)
    names = {tensor.name for tensor in graph.initializer}
    done, found = 0, dict[str, float]()
    for node in graph.node:
        for name in reads(node):
            if name in names:
                found.setdefault(name, round(done / total, 4))
        done += anatomy.work.get(node.output[0], 0) if node.output else 0
    return found


def resolve(anatomy: Anatomy, cut: str | None, *, default: str | None = None) -> str:
    """Turn what a user or a plan says into a tensor name.

    An exact tensor name comes first, else `@x` with 0 ≤ x ≤ 1 (the listed cut of nearest depth),
    else `late` or `early`; None is `default`.

    Raises:
        UnknownNameError: no such value; names the nearest listed cuts.
        UsageError: the value exists and cannot be cut at, or `@x` is no fraction.
    """
    if cut is None:
        cut = default if default is not None else anatomy.late
    graph = anatomy.model.graph
    made = {name for node in graph.node for name in node.output if name}
    if cut in made or cut in set(data_inputs(graph)):
        _check_cut(anatomy, cut)
        return cut
    if cut.startswith("@"):
        if not re.fullmatch(r"@(0(\.\d*)?|1(\.0*)?|\.\d+)", cut):
            raise UsageError(f"cut {cut!r} is no depth", where="--cut", remedy=_depth_remedy(cut))
        if not anatomy.cuts:
            raise UsageError(
                "this graph has no listed cut",
                where="--cut",
                remedy=f"cut at a tensor by name; the last one is {anatomy.end!r}",
            )
        return nearest(anatomy.cuts, float(cut[1:])).tensor
    if cut in ("late", "early"):
        return anatomy.late if cut == "late" else anatomy.early
    if depth_meant(cut) is not None:
        raise UsageError(f"there is no value {cut!r}", where="--cut", remedy=_depth_remedy(cut))
    listed = [item.tensor for item in anatomy.cuts]
    raise UnknownNameError("cut", cut, [*listed, *made], where="--cut")


def _depth_remedy(cut: str) -> str:
    meant = depth_meant(cut)
    return f"a depth is written {meant}" if meant else "write @x with 0 <= x <= 1, as in @0.5"


FAR = 0.1
"""Difference in depth from which it is said that a cut lies elsewhere than was asked for."""


def far_away(anatomy: Anatomy, asked: str | None, tensor: str) -> str | None:
    """Say where a depth that was asked for ended, if that is far from it.

    Args:
        anatomy: the graph understood.
        asked: the cut as it was given; `early` for a case that asked for its early cut.
        tensor: the value it was resolved to.
    """
    if asked is None or asked == tensor or not re.fullmatch(r"@[\d.]+|early", asked):
        return None
    wanted, depth = EARLY if asked == "early" else float(asked[1:]), depth_of(anatomy, tensor)
    if abs(depth - wanted) <= FAR:
        return None
    return f"no cut is listed near @{wanted:g}: the nearest, {tensor}, lies at @{depth:.2f}"


def _check_cut(anatomy: Anatomy, tensor: str) -> None:
    shapes = anatomy.shapes
    kind = shapes.dtype(tensor)
    quantised = kind in INTEGERS and Scales(anatomy.model).of(tensor) is not None
    if kind not in FLOATS and not quantised:
        raise UsageError(
            f"value {tensor!r} is {type_name(kind)}: a head needs floats",
            where="--cut",
            remedy="`surgeon cuts MODEL` lists the values where the graph may be cut",
        )
    if tensor not in shapes.batch_axes or tensor not in shapes.data:
        raise UsageError(
            f"value {tensor!r} does not carry the batch axis",
            where="--cut",
            remedy="`surgeon cuts MODEL` lists the values where the graph may be cut",
        )


def keep_only(model: ModelProto, outputs: Sequence[str], shapes: Shapes | None) -> ModelProto:
    """Return a copy that computes `outputs` and nothing else; what survives stays byte for byte.

    Inputs no longer needed are dropped, the others keep name, type and order. Everything outside
    the graph (metadata, opsets, doc strings) stays.
    """
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    kept = {id_of(node) for node in ancestors(graph, outputs)}
    for index in reversed(range(len(graph.node))):
        if id_of(graph.node[index]) not in kept:
            del graph.node[index]
    made = {name for node in graph.node for name in node.output if name}
    used = {name for node in graph.node for name in reads(node)} | set(outputs)
    for field in (graph.initializer, graph.input):
        for index in reversed(range(len(field))):
            if field[index].name not in used:
                del field[index]
    old = {value.name: value for value in graph.output}
    infos = {value.name: value for value in [*graph.value_info, *graph.input]}
    values = []
    for name in outputs:
        if name in old:
            values.append(type(old[name]).FromString(old[name].SerializeToString()))
        elif shapes is not None and name in shapes.one:
            values.append(make_value(name, shapes.dtype(name), shapes.symbolic.get(name)))
        elif name in infos:
            values.append(type(infos[name]).FromString(infos[name].SerializeToString()))
        else:
            raise ModelError(
                f"the type of value {name!r} is not known",
                where=name,
                remedy="the operator that makes it is unknown to ONNX's shape inference",
            )
    del graph.output[:]
    graph.output.extend(values)
    for index in reversed(range(len(graph.value_info))):
        value = graph.value_info[index]
        if value.name not in made or value.name in outputs or _wrong_rank(value, shapes):
            del graph.value_info[index]
    for index in reversed(range(len(graph.quantization_annotation))):
        if graph.quantization_annotation[index].tensor_name not in made | used:
            del graph.quantization_annotation[index]
    return result


def _wrong_rank(value: ValueInfoProto, shapes: Shapes | None) -> bool:
    """Say whether a file declares another rank for an inner value than it has."""
    _, stated = declared(value)
    known = shapes.one.get(value.name) if shapes is not None else None
    return stated is not None and known is not None and len(stated) != len(known[1])


def id_of(node: NodeProto) -> tuple[str, ...]:
    """Return what tells a node apart inside its graph: the values it makes."""
    return tuple(node.output)


def start_at(model: ModelProto, tensor: str, shapes: Shapes) -> ModelProto:
    """Return a copy that starts at an inner tensor, which becomes the graph's only data input.

    Raises:
        UnknownNameError: no such value.
        UsageError: the value does not separate the graph: some other input is still needed.
    """
    made = {name for node in model.graph.node for name in node.output if name}
    if tensor not in made:
        raise UnknownNameError("tensor", tensor, made, where="--start")
    outputs = [value.name for value in model.graph.output]
    nodes = ancestors(model.graph, outputs, stop=[tensor])
    needed = {name for node in nodes for name in reads(node)}
    left = [name for name in data_inputs(model.graph) if name in needed]
    if left:
        raise UsageError(
            f"value {tensor!r} does not separate the graph: "
            f"{', '.join(map(repr, left))} would still be needed",
            where="--start",
            remedy="`surgeon cuts MODEL` lists values through which every path passes",
        )
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    kept = {id_of(node) for node in nodes}
    for index in reversed(range(len(graph.node))):
        if id_of(graph.node[index]) not in kept:
            del graph.node[index]
    used = needed | set(outputs)
    del graph.input[:]
    graph.input.append(make_value(tensor, shapes.dtype(tensor), shapes.symbolic.get(tensor)))
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]
    made = {name for node in graph.node for name in node.output if name}
    for index in reversed(range(len(graph.value_info))):
        if graph.value_info[index].name not in made:
            del graph.value_info[index]
    return result
