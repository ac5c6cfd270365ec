"""Whether a network is a detector, and what its detection heads share, by structure alone.

Boxes and scores come in few forms: a NonMaxSuppression behind them, two outputs that tell of the
same places, levels of a pyramid that are outputs or joined into one. What is none of these surely
is no detector to us. What must not enter: names of models, values of weights.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from surgeon.graph.old_head import WEIGHTED
from surgeon.graph.walk import FLOATS, Links, all_graphs, ancestors, data_inputs, reads

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnx import ModelProto, NodeProto

    from surgeon.graph.shapes import Shapes

SUPPRESSION = frozenset(
    {"NonMaxSuppression", "EfficientNMS_TRT", "BatchedNMS_TRT", "BatchedNMSDynamic_TRT",
     "EfficientNMSX_TRT", "MultiClassNMS", "BatchMultiClassNMS", "DetectionOutput"}
)  # fmt: skip
SQUASHING = frozenset({"Sigmoid", "Softmax", "Exp", "HardSigmoid"})
BOX = 4
"""Numbers that say where a box is."""
FEWEST = 5
"""Places below which two outputs that belong together are no list of boxes."""
SMALL = 64
"""Elements up to which a kernel decodes boxes (their form, their distribution) and learns none."""


@dataclass(frozen=True)
class Detector:
    """What says that a network is a detector.

    Attributes:
        reason: in one sentence.
        heads: values that the last weighted operators of its heads make.
    """

    reason: str
    heads: tuple[str, ...]


@dataclass(frozen=True)
class _Scene:
    """The graph that is looked at."""

    model: ModelProto
    shapes: Shapes
    links: Links
    weights: Mapping[str, int]

    def dims(self, name: str) -> tuple[int, ...] | None:
        """Return the sizes of a value without its batch, or None where they are not known."""
        entry = self.shapes.one.get(name)
        if entry is None or not entry[1]:
            return None
        axis = self.shapes.batch_axes.get(name, 0)
        return tuple(dim for place, dim in enumerate(entry[1]) if place != axis)

    def behind(self, values: Iterable[str], anchors: int = 0) -> tuple[list[str], set[str]]:
        """Return what the last weighted operators in front of values make, and operators passed.

        Args:
            values: where the walk begins.
            anchors: of a value that has as many boxes, small kernels only decode.
        """
        todo, seen, found, kinds = list(values), set[str](), list[str](), set[str]()
        while todo:
            name = todo.pop()
            node = self.links.makers.get(name)
            if node is None or name in seen or name not in self.shapes.data:
                continue
            seen.add(name)
            if self._learns(node, anchors):
                found.append(name)
                continue
            kinds.add(node.op_type)
            todo += reads(node)
        return sorted(found), kinds

    def _learns(self, node: NodeProto, anchors: int) -> bool:
        if node.op_type not in WEIGHTED:
            return False
        kernel = max((self.weights.get(name, 0) for name in node.input), default=0)
        kernel = kernel or SMALL + 1  # a kernel that is computed is none that decodes
        return kernel > SMALL or anchors not in (self.dims(node.output[0]) or ())


def find_detector(model: ModelProto, shapes: Shapes, links: Links | None = None) -> Detector | None:
    """Find what says that a network is a detector, or None."""
    graph = model.graph
    links = links or Links(graph)
    scene = _Scene(model, shapes, links, {t.name: prod(t.dims) for t in graph.initializer})
    suppressing = _suppression(scene)
    if suppressing is not None:
        return suppressing
    if not pictures(model, shapes):
        return None
    outputs = [value.name for value in graph.output]
    return _pair(scene, outputs) or _levels(scene, outputs) or _joined(scene, outputs)


def pictures(model: ModelProto, shapes: Shapes) -> list[tuple[str, int, tuple[int, int]]]:
    """Return (input, channels, (height, width)) of every input that takes pictures."""
    found = []
    for name in data_inputs(model.graph):
        _, dims = shapes.one.get(name, (0, ()))
        if len(dims) != 4:
            continue
        if dims[1] in (1, 3, 4):
            found.append((name, dims[1], (dims[2], dims[3])))
        elif dims[3] in (1, 3, 4):
            found.append((name, dims[3], (dims[1], dims[2])))
    return found


def shared(heads: Sequence[str], model: ModelProto, shapes: Shapes, links: Links) -> list[str]:
    """Return the last of the values that all heads are computed from: where the backbone ends.

    Those are floats that carry the batch. Of maps the coarsest count, as far as a head reads such:
    a neck goes back to finer ones, which tell more of places and less of what is there.
    """
    common: set[str] | None = None
    for head in heads:
        node = links.makers[head]
        front = ancestors(model.graph, reads(node))
        made = {name for one in front for name in one.output if name}
        common = made if common is None else common & made
    fit = {
        name
        for name in common or ()
        if name in shapes.data and name in shapes.batch_axes and shapes.dtype(name) in FLOATS
    }
    fit = _coarsest(fit, heads, shapes)
    inner = {
        name
        for made in fit
        for name in reads(links.makers[made])
        if name in fit and len(shapes.one.get(name, (0, ()))[1]) > 1
    }
    return sorted(fit - inner)


def _coarsest(names: set[str], heads: Sequence[str], shapes: Shapes) -> set[str]:
    """Return the maps with fewest places, but not fewer than a head reads; all where none is."""

    def places(name: str) -> int:
        _, dims = shapes.one.get(name, (0, ()))
        return prod(dims[2:]) if len(dims) == 4 else 0

    least = max(min((places(head) for head in heads), default=0), 2)
    maps = {name: places(name) for name in names if places(name) >= least}
    if not maps or min(places(head) for head in heads) == 0:
        return names
    return {name for name, count in maps.items() if count == min(maps.values())}


def _suppression(scene: _Scene) -> Detector | None:
    for graph in all_graphs(scene.model.graph):
        for node in graph.node:
            if node.op_type not in SUPPRESSION:
                continue
            anchors = (scene.dims(node.input[0]) or (0,))[0]
            heads, _ = scene.behind(node.input, anchors)
            return Detector(f"{node.op_type} chooses among boxes that overlap", tuple(heads))
    return None


def _pair(scene: _Scene, outputs: Sequence[str]) -> Detector | None:
    """Find four numbers for each of many places, and scores of the same places."""

    def places(name: str) -> tuple[int, ...]:
        return tuple(dim for dim in scene.dims(name) or () if dim != 1)

    for boxes in outputs:
        dims = places(boxes)
        if len(dims) != 2 or dims[1] != BOX or dims[0] < FEWEST:
            continue
        if scene.shapes.dtype(boxes) not in FLOATS:
            continue
        for scores in outputs:
            if scores == boxes or not (dims[:1] == places(scores)[:1] and len(places(scores)) < 3):
                continue
            heads, _ = scene.behind([boxes, scores], dims[0])
            told = f"{boxes} has {BOX} numbers for each of {dims[0]} places of a picture"
            return Detector(f"{told}, {scores} scores of the same places", tuple(heads))
    return None


def _levels(scene: _Scene, outputs: Sequence[str]) -> Detector | None:
    """Find outputs that are the same maps of boxes and scores at several sizes."""
    sizes: dict[tuple[int, ...], list[tuple[int, ...]]] = defaultdict(list)
    for name in outputs:
        dims = scene.dims(name)
        if dims is None or len(dims) < 3:
            continue
        if len(dims) == 4:  # [anchors, height, width, numbers]
            sizes[dims[1:3]].append((dims[0], dims[3]))
        else:
            sizes[dims[1:]].append((dims[0],))
    if len(sizes) < 2 or len({tuple(sorted(maps)) for maps in sizes.values()}) != 1:
        return None
    maps = sorted(next(iter(sizes.values())))
    if not _told_boxes(maps):
        return None
    heads, _ = scene.behind(outputs)
    if any(scene.links.makers[name].op_type not in ("Conv", "FusedConv") for name in heads):
        return None
    told = " and ".join("x".join(map(str, one)) for one in maps)
    return Detector(f"its outputs are {told} numbers a place at {len(sizes)} sizes", tuple(heads))


def _told_boxes(maps: Sequence[tuple[int, ...]]) -> bool:
    """Say whether a level's maps can be boxes with their scores and hardly anything else."""
    if any(len(one) == 2 for one in maps):
        return len(maps) == 1 and maps[0][0] <= 16 and maps[0][1] > BOX + 1
    counts = [one[0] for one in maps]
    if len(counts) == 1:  # three anchors, each with a box, whether something is there, and classes
        (count,) = counts
        return count % 3 == 0 and count // 3 > BOX + 1 and count % 16 != 0
    return any(
        count % BOX == 0 and count // BOX <= 16 and other % (count // BOX) == 0
        for place, count in enumerate(counts)
        for other in counts[:place] + counts[place + 1 :]
    )


def _joined(scene: _Scene, outputs: Sequence[str]) -> Detector | None:
    """Find levels of several sizes joined into one list, with nothing learnt behind it."""
    for output in outputs:
        dims = [dim for dim in scene.dims(output) or () if dim != 1]
        if len(dims) != 2 or min(dims) <= BOX:
            continue
        for anchors in dims:
            heads, kinds = scene.behind([output], anchors)
            sizes = [(scene.dims(name) or ())[1:] for name in heads]
            if len(set(sizes)) < 2 or any(len(size) != 2 for size in sizes):
                continue
            if "Concat" not in kinds or not kinds & SQUASHING:
                continue
            cells = sum(prod(size) for size in set(sizes))
            if anchors % cells == 0 or _sums(anchors, sizes):
                told = f"{output} joins {anchors} places of {len(set(sizes))} sizes of a picture"
                return Detector(f"{told}, {_other(dims, anchors)} numbers for each", tuple(heads))
    return None


def _other(dims: Sequence[int], one: int) -> int:
    return dims[1] if dims[0] == one else dims[0]


def _sums(total: int, sizes: Sequence[tuple[int, ...]]) -> bool:
    """Say whether a number is the sum of the cells of levels, each a few times (SSD: 4 or 6)."""
    reached = {0}
    for size in sorted(set(sizes)):
        cells = prod(size)
        reached = {some + cells * times for some in reached for times in range(1, 10)}
    return total in reached
