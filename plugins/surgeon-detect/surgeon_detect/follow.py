"""Following columns of an output back to the convolutions that make them.

A column is a place along one axis of a value. What only moves values (Concat, Split, Slice,
Reshape, Transpose) is followed by arithmetic, what acts on each number alone is passed through; on
the way it is noted where a node says how long the axis is. What must not enter: what columns mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

ALONE = frozenset(
    {"Sigmoid", "Identity", "Cast", "Mul", "Add", "Sub", "Div", "Pow", "Clip", "Dropout"}
)
"""Operators of each number alone, where what else they read is the same for all columns."""


class LostError(Exception):
    """A node that columns cannot be followed through."""


@dataclass(frozen=True)
class Said:
    """A number in a node that says how many columns there are.

    Attributes:
        node: its place in the graph.
        held: name of the initializer or Constant that holds the number, or of the attribute.
        place: of the number in it.
        times: how often each of the columns counts in it.
        attribute: whether it is an attribute.
    """

    node: int
    held: str
    place: int
    times: int
    attribute: bool = False


@dataclass(frozen=True)
class Source:
    """A convolution that columns come from: [columns, times] of its channels, and its node."""

    node: int
    channels: Ints


@dataclass
class Followed:
    """Where columns come from, what says how many there are, the kinds of operators passed."""

    sources: list[Source] = field(default_factory=list)
    said: set[Said] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Track:
    """Columns of a value: its name, the axis, [columns, times] places along it."""

    value: str
    axis: int
    places: Ints

    @property
    def times(self) -> int:
        return int(self.places.shape[1])


class Graph:
    """A graph that is looked at."""

    def __init__(self, model: ModelProto, sizes: Mapping[str, tuple[int, ...]]) -> None:
        """Take the graph, and the dims of its values."""
        self.graph, self._sizes = model.graph, sizes
        self.makers = {name: n for n, node in enumerate(model.graph.node) for name in node.output}
        self.stored = {one.name: one for one in model.graph.initializer}

    def maker(self, name: str) -> NodeProto | None:
        """Return the node that makes a value; None of inputs and initializers."""
        return self.graph.node[self.makers[name]] if name in self.makers else None

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return the values of an initializer or a Constant; None of anything else."""
        if name in self.stored:
            return numpy_helper.to_array(self.stored[name])
        node = self.maker(name)
        if node is not None and node.op_type == "Identity":
            return self.constant(node.input[0])
        if node is None or node.op_type != "Constant":
            return None
        value = next((one for one in node.attribute if one.name == "value"), None)
        return None if value is None else numpy_helper.to_array(value.t)

    def dims(self, name: str) -> tuple[int, ...]:
        """Return the dims of a value.

        Raises:
            LostError: nobody knows them.
        """
        if name in self._sizes:
            return tuple(self._sizes[name])
        found = self.constant(name)
        if found is None:
            raise LostError(f"the shape of {name!r} is not known")
        return found.shape

    def store(self, node: NodeProto, held: str, values: NDArray[Any]) -> None:
        """Let a node read other values in place of a constant; what nothing reads any more goes."""
        readers = sum(held in one.input for one in self.graph.node)
        maker = self.maker(held)
        if readers == 1 and maker is not None and maker.op_type == "Constant":
            kept = next(one for one in maker.attribute if one.name == "value")
            kept.t.CopyFrom(numpy_helper.from_array(values, kept.t.name))
            return
        name = f"surgeon.{held}"
        while name in self.makers or name in self.stored:
            name += "_"
        self.graph.initializer.append(numpy_helper.from_array(values, name))
        self.stored[name] = self.graph.initializer[-1]
        for at, read in enumerate(node.input):
            if read == held:
                node.input[at] = name
        if readers == 1 and held in self.stored:
            self.graph.initializer.remove(self.stored.pop(held))

    def follow(self, value: str, axis: int, columns: Sequence[int]) -> Followed:
        """Follow columns of a value back to the convolutions that make them.

        Raises:
            LostError: names the node where that ends.
        """
        found = Followed()
        todo = [_Track(value, axis, np.asarray(columns, np.int64)[:, None])]
        while todo:
            track = todo.pop()
            node = self.maker(track.value)
            if node is None:
                raise LostError(f"{track.value!r} is made by no node")
            if node.op_type in ("Conv", "FusedConv"):
                if track.axis != 1:
                    raise LostError(f"{_named(node)} is read along axis {track.axis}")
                found.sources.append(Source(self.makers[track.value], track.places))
                continue
            found.passed.add(node.op_type)
            todo += self._behind(node, track, found)
        return found

    def _behind(self, node: NodeProto, track: _Track, found: Followed) -> list[_Track]:
        """Return what a node makes columns of."""
        step = {
            "Concat": self._concat, "Split": self._split, "Slice": self._slice,
            "Reshape": self._reshape, "Transpose": self._transpose,
        }.get(node.op_type)  # fmt: skip
        if step is not None:
            return step(node, track, found)
        data = [name for name in node.input if name and self.constant(name) is None]
        if node.op_type not in ALONE or len(data) != 1:
            raise LostError(f"{_named(node)} is none that only moves values")
        rank = len(self.dims(track.value))
        for name in node.input:
            dims = self.dims(name) if name and name not in data else ()
            place = track.axis - rank + len(dims)
            if place >= 0 and dims[place] != 1:
                raise LostError(f"{_named(node)} holds a number for each column")
        return [replace(track, value=data[0])]

    def _concat(self, node: NodeProto, track: _Track, found: Followed) -> list[_Track]:  # noqa: ARG002 - as the others
        axis = _attribute(node, "axis", 0) % len(self.dims(track.value))
        if axis != track.axis:
            return [replace(track, value=name) for name in node.input]
        begin = 0
        for name in node.input:
            end = begin + self.dims(name)[axis]
            if begin <= track.places.min() and track.places.max() < end:
                return [_Track(name, axis, track.places - begin)]
            begin = end
        raise LostError(f"{_named(node)} joins columns of several values")

    def _split(self, node: NodeProto, track: _Track, found: Followed) -> list[_Track]:
        axis = _attribute(node, "axis", 0) % len(self.dims(track.value))
        if axis != track.axis:
            return [replace(track, value=node.input[0])]
        at = list(node.output).index(track.value)
        given = len(node.input) > 1 and bool(node.input[1])
        if given:
            self._say(found, node, node.input[1], at, track.times)
        elif any(one.name == "split" for one in node.attribute):
            found.said.add(Said(self.makers[track.value], "split", at, track.times, True))
        else:
            raise LostError(f"{_named(node)} makes equal parts")
        begin = sum(self.dims(name)[axis] for name in node.output[:at])
        return [_Track(node.input[0], axis, track.places + begin)]

    def _slice(self, node: NodeProto, track: _Track, found: Followed) -> list[_Track]:
        if len(node.input) < 3:
            raise LostError(f"{_named(node)} is of an opset before 10")
        rank = len(self.dims(track.value))
        starts, ends, axes, steps = (
            self.constant(node.input[n]) if len(node.input) > n and node.input[n] else None
            for n in range(1, 5)
        )
        if starts is None or ends is None or (steps is not None and (steps != 1).any()):
            raise LostError(f"{_named(node)} begins and ends where a computation says")
        over = [int(one) % rank for one in (range(len(starts)) if axes is None else axes)]
        if track.axis not in over:
            return [replace(track, value=node.input[0])]
        at, length = over.index(track.axis), self.dims(node.input[0])[track.axis]
        begin, end = int(starts[at]) % length, int(ends[at])
        if 0 < end <= length:
            self._say(found, node, node.input[2], at, track.times)
        return [_Track(node.input[0], track.axis, track.places + begin)]

    def _transpose(self, node: NodeProto, track: _Track, found: Followed) -> list[_Track]:  # noqa: ARG002 - as the others
        rank = len(self.dims(track.value))
        order = next((list(one.ints) for one in node.attribute if one.name == "perm"), None)
        axis = (order or list(range(rank))[::-1])[track.axis]
        return [_Track(node.input[0], axis, track.places)]

    def _reshape(self, node: NodeProto, track: _Track, found: Followed) -> list[_Track]:
        before, after = self.dims(node.input[0]), self.dims(track.value)
        self._say(found, node, node.input[1], track.axis, track.times, size=after[track.axis])
        for into, out in _groups(before, after):
            if track.axis not in out:
                continue
            wide, told = (
                [n for n in one if of[n] != 1] for one, of in ((into, before), (out, after))
            )
            if len(wide) != 1 or track.axis != told[-1] or len(told) > 2:
                break
            length, many = after[track.axis], before[wide[0]] // after[track.axis]
            starts = np.arange(many) * length
            places = (track.places[:, None, :] + starts[None, :, None]).reshape(
                len(track.places), -1
            )
            return [_Track(node.input[0], wide[0], places)]
        raise LostError(f"{_named(node)} lays columns side by side with others")

    def _say(
        self, found: Followed, node: NodeProto, held: str, place: int, times: int, size: int = 0
    ) -> None:
        """Note a number that counts columns, in an input that is constant or joined of constants.

        `size`: of the axis that it tells, where it may tell it in another way (0, −1).
        """
        values, maker = self.constant(held), self.maker(held)
        number = self.makers[node.output[0]]
        if values is None and maker is not None and maker.op_type == "Concat":
            for name in maker.input:
                (many,) = self.dims(name) or (1,)
                if place < many:
                    number, held, values = self.makers[held], name, self.constant(name)
                    break
                place -= many
        if values is None or place >= values.size:
            raise LostError(f"{_named(node)} takes sizes from a computation")
        if not size or int(values.ravel()[place]) == size:
            found.said.add(Said(number, held, place, times))


def resize(graph: Graph, said: set[Said], more: int) -> None:
    """Write new numbers of columns into the nodes that say them.

    A number that other nodes read, too, stays as it is for them.

    Args:
        graph: it is changed.
        said: where the numbers stand.
        more: columns; may be negative.
    """
    by_holder: dict[tuple[int, str], list[Said]] = {}
    for one in said:
        by_holder.setdefault((one.node, one.held), []).append(one)
    for (place, held), numbers in by_holder.items():
        node = graph.graph.node[place]
        if numbers[0].attribute:
            listed = next(one for one in node.attribute if one.name == held)
            for one in numbers:
                listed.ints[one.place] += more * one.times
            continue
        found = graph.constant(held)
        assert found is not None
        values = found.copy()
        for one in numbers:
            values.reshape(-1)[one.place] += more * one.times
        graph.store(node, held, values)


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return axes of two shapes of one size that hold the same numbers, group by group."""
    found, i, j = [], 0, 0
    while i < len(before) and j < len(after):
        into, out, left, right = [i], [j], before[i], after[j]
        while left != right:
            if left < right and i + 1 < len(before):
                i += 1
                into.append(i)
                left *= before[i]
            elif j + 1 < len(after):
                j += 1
                out.append(j)
                right *= after[j]
            else:
                break
        found.append((into, out))
        i, j = i + 1, j + 1
    return found


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next(
        (int(helper.get_attribute_value(a)) for a in node.attribute if a.name == name), default
    )


def _named(node: NodeProto) -> str:
    return f"{node.op_type} node {node.name or node.output[0]!r}"
