"""The token an old head's scores were picked from: picked again, for a new head, in front of them.

GPT-2 and its like score every token and then take the last one's scores. Scores of a token follow
from that token alone, so that picking the token first and scoring it gives the same: the operators
that pick are repeated on the old head's input, with the same indices. What must not enter: heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto, numpy_helper

from surgeon.errors import ModelError
from surgeon.graph.cuts import keep_only
from surgeon.graph.shapes import trace
from surgeon.graph.walk import all_names, attribute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto, TensorProto

    from surgeon.graph.cuts import Anatomy
    from surgeon.graph.shapes import Observe, Shapes

PICKING = frozenset({"Gather", "GatherND", "Slice"})
MOVING = PICKING | {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity"}
SCORING = frozenset(
    {"Add", "Mul", "Div", "Softmax", "LogSoftmax", "Sigmoid", "Dropout", "Cast", "ArgMax", "TopK"}
)
"""What happens to scores on the way and does not matter to who is scored."""


def picks(anatomy: Anatomy) -> bool:
    """Say whether an old head scores more than it gives: some of its scores are picked."""
    head, shapes = anatomy.head, anatomy.shapes
    if head is None or head.also or len(shapes.one.get(head.input, (0, ()))[1]) < 3:
        return False
    makers = anatomy.links.makers
    return any(makers[name].op_type in PICKING for name in head.passed)


def pick_again(
    anatomy: Anatomy, outputs: Sequence[str], *, observe: Observe | None = None
) -> tuple[ModelProto, str, Shapes] | None:
    """Cut a graph at its old head's input and pick there what was picked of the scores.

    Args:
        anatomy: the graph understood; its old head picks (see `picks`).
        outputs: values to keep, the old head's input among them.
        observe: runs the graph where inference does not see what the picking makes.

    Returns:
        The truncated graph with the picking behind it, the value that is made [batch, features],
        and the shapes with it; None where the picking cannot be repeated.
    """
    head, shapes = anatomy.head, anatomy.shapes
    assert head is not None
    replay = _Replay(anatomy, head.scores, head.input)
    for value in head.passed:
        kind = anatomy.links.makers[value].op_type
        if kind in MOVING:
            replay.repeat(value)
        elif kind in SCORING:
            replay.made[value] = replay.last
        else:
            return None
    try:
        model = keep_only(anatomy.model, list(dict.fromkeys([*outputs, *replay.read])), shapes)
    except ModelError:  # the type of an index is not known
        return None
    model.graph.node.extend(replay.nodes)
    model.graph.initializer.extend(replay.constants)
    seen = trace(model, observe=observe, needed=lambda found: replay.last in found)
    element, dims = seen.one.get(replay.last, (0, ()))
    width = shapes.one[head.input][1][-1]
    if len(dims) != 2 or dims[-1] != width:
        return None
    batch = shapes.symbolic[head.input][shapes.batch_axes[head.input]]
    known = replace(
        shapes,
        one={**shapes.one, replay.last: (element, dims)},
        batch_axes={**shapes.batch_axes, replay.last: 0},
        symbolic={**shapes.symbolic, replay.last: (batch, width)},
        data=shapes.data | {replay.last},
    )
    return model, replay.last, known


@dataclass
class _Replay:
    """Nodes of a graph once more, with the old head's input where its scores were.

    Attributes:
        made: {old value: the value that takes its place}.
        read: values of the graph that the new nodes read.
    """

    anatomy: Anatomy
    scores: str
    last: str
    made: dict[str, str] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    read: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.made[self.scores] = self.last
        self._taken = all_names(self.anatomy.model.graph)
        self._weights = {t.name: t for t in self.anatomy.model.graph.initializer}
        self._depends = self._behind(self.scores)

    def _behind(self, value: str) -> set[str]:
        found = {value}
        for node in self.anatomy.model.graph.node:
            if found.intersection(node.input):
                found |= set(node.output)
        return found

    def _free(self, name: str) -> str:
        found = next(n for i in count() if (n := f"{name}.{i}" if i else name) not in self._taken)
        self._taken.add(found)
        return found

    def repeat(self, value: str) -> str:
        """Repeat the node that makes a value, and what it needs of those behind the scores."""
        if value in self.made:
            return self.made[value]
        if value not in self._depends:
            if value and value not in self.read:
                self.read.append(value)
            return value
        old = self.anatomy.links.makers[value]
        node = NodeProto()
        node.CopyFrom(old)
        node.name = self._free(f"surgeon.head.{old.op_type.lower()}")
        del node.input[:]
        for slot, name in enumerate(old.input):
            wide = old.op_type == "Reshape" and slot == 1
            node.input.append((self._wide_shape(name) if wide else None) or self.repeat(name))
        for slot, name in enumerate(old.output):
            if name:
                node.output[slot] = self.made[name] = self._free(f"{node.name}.out")
        self.nodes.append(node)
        self.last = self.made[value]
        return self.last

    def _wide_shape(self, name: str) -> str | None:
        """Return a constant shape that ends in the number of features where it was of classes."""
        maker = self.anatomy.links.makers.get(name)
        value = attribute(maker, "value") if maker is not None else None
        tensor = self._weights.get(name) or (value.t if value is not None else None)
        one = self.anatomy.shapes.one
        if tensor is None or self.scores not in one:
            return None
        shape = numpy_helper.to_array(tensor).copy()
        if shape.ndim != 1 or not shape.size or shape[-1] != one[self.scores][1][-1]:
            return None
        shape[-1] = one[self.made[self.scores]][1][-1]
        made = self._free("surgeon.head.shape")
        self.constants.append(numpy_helper.from_array(np.asarray(shape, np.int64), made))
        return made
