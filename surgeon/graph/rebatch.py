"""Rewriting, place by place, what holds a graph to one batch size.

The shapes of a larger batch are followed through a skeleton of the graph; where they show that a
constant holds the batch, the place is rewritten, and the shapes are followed anew. Whether the
result computes the same is not known here: the caller proves it.
"""

from __future__ import annotations

from collections import Counter
from itertools import count
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from surgeon.graph.shapes import (
    Concrete,
    data_values,
    infer,
    input_infos,
    input_sizes,
    skeleton,
)
from surgeon.graph.walk import all_names, attribute, reads
from surgeon.graph.weights import to_array

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

SYMBOL = "batch"
GROWTH = 3
"""How many times larger the batch is at which shapes are compared."""

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
BROADCAST = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where", "MatMul", "And", "Or", "PRelu",
     "Equal", "Less", "Greater", "Mod", "Mean", "Sum"}
)  # fmt: skip
MOST_SIZE = 1024
"""The largest batch a constant may state."""

MOST_ENTRIES = 16
"""Entries a constant may have that states a shape."""

AXES_AS_INPUT = 13
"""Opset from which Squeeze takes its axes as an input."""

END = np.iinfo(np.int64).max

Key = tuple[str, ...]
"""What tells a node apart inside its graph: the values it makes."""


class Rewriter:
    """Rewrites of a graph that is held at a batch of `fixed`, found on its skeleton.

    Attributes:
        counts: what was rewritten, by kind: `Reshape targets`, `constants`, `other places`.
    """

    def __init__(
        self, model: ModelProto, fixed: int, known: Mapping[str, int] | None = None
    ) -> None:
        """Follow the shapes of `fixed` samples and of `GROWTH` times as many.

        Args:
            model: normalized model whose batch is declared open.
            fixed: the batch at which the constants of the graph hold it.
            known: sizes of open dimensions that are known.
        """
        self.fixed = fixed
        self.counts: Counter[str] = Counter()
        self._infos = input_infos(model)
        self._known = known
        self._data = data_values(model)
        self._taken = all_names(model.graph)
        self._bones = skeleton(model)
        self._small = infer(self._bones, input_sizes(self._infos, fixed, known=known))
        self._large: Concrete = {}
        self._constants: dict[str, NDArray[np.int64]] = {}
        self._done: set[Key] = set()
        self._inputs: dict[tuple[Key, int], str] = {}
        self._attributes: dict[tuple[Key, str], list[int]] = {}
        self._before: dict[Key, list[NodeProto]] = {}
        self._initializers: list[TensorProto] = []

    def run(self) -> int:
        """Rewrite until nothing more is found; return how many places were rewritten."""
        while self._round():
            pass
        return sum(self.counts.values())

    def suspicious(self) -> bool:
        """Say whether anything in the graph looks as if it held the batch at `fixed`."""
        if self._round():
            return True
        for node in self._bones.graph.node:
            names = [name for name in node.output if name in self._data]
            grown = any(self._grown(name) is not None for name in reads(node))
            if not names or not grown:
                continue
            if self._misfits(node) or self._cuts_off(node):
                return True
            # What sums over all samples means to; a constant is no part of that.
            summed = node.op_type.startswith("Reduce") or node.op_type in ("If", "Loop", "Scan")
            blind = [name for name in names if name not in self._large]
            if blind and not summed and (blind[0] in self._small or self._contradicts(node)):
                return True
            if not blind and not summed and all(self._grown(name) is None for name in names):
                return True
        return False

    def _contradicts(self, node: NodeProto) -> bool:
        """Say whether inference finds no result of a node whose inputs have known shapes."""
        known = all(name in self._small and name in self._large for name in node.input if name)
        return known and node.op_type in BROADCAST | {"Concat", "Reshape", "Gemm"}

    def sizes(self) -> list[int]:
        """Return the batch sizes other than 1 that small constants of the graph may state."""
        found: list[int] = []
        for node in self._bones.graph.node:
            if not any(self._grown(name) is not None for name in node.input):
                continue
            for name in node.input:
                if name in self._constants:
                    found += self._constants[name].tolist()
                if name in self._small and name not in self._data:
                    found += self._small[name][1][:2]
        return [size for size, _ in Counter(found).most_common() if 1 < size <= MOST_SIZE]

    def consistent(self) -> bool:
        """Say whether nothing in the graph states another batch than `fixed`."""
        sizes = input_sizes(self._infos, GROWTH * self.fixed, known=self._known)
        self._large = infer(self._bones, sizes)
        self._read_constants()
        return not any(self._misfits(node) for node in self._bones.graph.node)

    def apply(self, model: ModelProto) -> None:
        """Make the rewrites in the graph itself."""
        graph = model.graph
        nodes: list[NodeProto] = []
        for node in graph.node:
            key = tuple(node.output)
            for slot in range(len(node.input) + 1):
                if (key, slot) in self._inputs:
                    _set_input(node, slot, self._inputs[key, slot])
            for name in ("shape", "axes", "ends"):
                if (key, name) in self._attributes:
                    _set_ints(node, name, self._attributes[key, name])
            nodes += [*self._before.get(key, []), node]
        if self._before:
            copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
            del graph.node[:]
            graph.node.extend(copies)
        graph.initializer.extend(self._initializers)

    # ── one round ────────────────────────────────────────────────────────────────────────────

    def _round(self) -> int:
        """Rewrite the first wrong place of every path: behind it, shapes are not known yet."""
        sizes = input_sizes(self._infos, GROWTH * self.fixed, known=self._known)
        self._large = infer(self._bones, sizes)
        self._read_constants()
        dirty: set[str] = set()
        rewritten = 0
        for node in list(self._bones.graph.node):
            key = tuple(node.output)
            if dirty.intersection(node.input):
                dirty |= set(key)
                continue
            if key not in self._done and self._rewrite(node):
                self._done.add(key)
                dirty |= set(key)
                rewritten += 1
        return rewritten

    def _read_constants(self) -> None:
        graph = self._bones.graph
        self._constants = {
            tensor.name: to_array(tensor).reshape(-1)
            for tensor in graph.initializer
            if tensor.data_type == TensorProto.INT64 and prod(tensor.dims) < MOST_ENTRIES
        }
        for node in graph.node:
            value = attribute(node, "value") if node.op_type == "Constant" else None
            if value is not None and value.t.data_type == TensorProto.INT64:
                self._constants[node.output[0]] = numpy_helper.to_array(value.t).reshape(-1)

    def _grown(self, name: str) -> int | None:
        """Return the one axis of a value that grew with the batch, or None."""
        if name not in self._small or name not in self._large:
            return None
        small, large = self._small[name][1], self._large[name][1]
        if len(small) != len(large):
            return None
        pairs = list(zip(small, large, strict=True))
        axes = [axis for axis, (one, many) in enumerate(pairs) if one != many]
        same = [axis for axis in axes if pairs[axis][1] == GROWTH * pairs[axis][0]]
        return axes[0] if len(axes) == len(same) == 1 else None

    def _rewrite(self, node: NodeProto) -> bool:
        kind = node.op_type
        if kind in RECURRENT or kind in BROADCAST or kind in ("Concat", "GridSample"):
            return self._constants_of(node)
        rules = {
            "Reshape": self._reshape, "Squeeze": self._squeeze, "Resize": self._resize,
            "Expand": self._expand, "Slice": self._slice,
        }  # fmt: skip
        if kind not in rules or node.input[0] not in self._data:
            return False
        axis = self._grown(node.input[0])
        return axis is not None and rules[kind](node, axis)

    # ── operators that state shapes ──────────────────────────────────────────────────────────

    def _reshape(self, node: NodeProto, axis: int) -> bool:
        listed = attribute(node, "shape")
        constant = listed is not None or (len(node.input) > 1 and node.input[1] in self._constants)
        if not constant or node.output[0] not in self._small:
            return False
        before, after = self._small[node.input[0]][1], self._small[node.output[0]][1]
        if prod(before) != prod(after):
            return False
        place = _new_place(before, after, axis, self.fixed)
        if place is None or self._grown(node.output[0]) == place:
            return False
        freed = [-1 if index == place else size for index, size in enumerate(after)]
        if listed is not None:
            self._set_attribute(node, "shape", freed)
        else:
            self._set_input(node, 1, self._add(f"{node.input[1]}.{SYMBOL}", freed))
        self.counts["Reshape targets"] += 1
        return True

    def _squeeze(self, node: NodeProto, axis: int) -> bool:
        """Name the axes of a Squeeze that takes all it finds: one sample's batch is one, too."""
        if len(node.input) > 1 or attribute(node, "axes") is not None or self.fixed != 1:
            return False
        dims = self._small[node.input[0]][1]
        axes = [place for place, dim in enumerate(dims) if dim == 1 and place != axis]
        if self._opset() < AXES_AS_INPUT:
            self._set_attribute(node, "axes", axes)
        else:
            self._set_input(node, 1, self._add(f"surgeon.{SYMBOL}.axes", axes))
        # Its result for one sample has the batch's axis now, too.
        kind = self._small[node.input[0]][0]
        kept = tuple(dim for place, dim in enumerate(dims) if place not in axes)
        self._small[node.output[0]] = (kind, kept)
        self._follow_anew()
        self.counts["other places"] += 1
        return True

    def _resize(self, node: NodeProto, axis: int) -> bool:
        listed = attribute(node, "axes")
        sizes = self._constants.get(node.input[3]) if len(node.input) > 3 else None
        rank = len(self._small[node.input[0]][1])
        if sizes is None or listed is not None or len(sizes) != rank:
            return False
        if sizes[axis] != self._small[node.input[0]][1][axis]:
            return False
        base = self._free_base()
        made = self._size_of(base, node.input[0], axis)
        parts = [f"{base}.size"]
        if axis:
            parts.insert(0, self._add(f"{base}.before", sizes[:axis].tolist()))
        if axis < rank - 1:
            parts.append(self._add(f"{base}.behind", sizes[axis + 1 :].tolist()))
        made.append(helper.make_node("Concat", parts, [base], axis=0))
        self._insert(node, made)
        self._set_input(node, 3, base)
        self.counts["other places"] += 1
        return True

    def _expand(self, node: NodeProto, axis: int) -> bool:
        target = self._constants.get(node.input[1])
        dims = self._small[node.input[0]][1]
        if target is None or len(target) < len(dims) - axis:
            return False
        place = axis + len(target) - len(dims)
        if target[place] == 1 or target[place] != dims[axis]:
            return False
        freed = target.tolist()
        freed[place] = 1
        self._set_input(node, 1, self._add(f"{node.input[1]}.{SYMBOL}", freed))
        self.counts["other places"] += 1
        return True

    def _slice(self, node: NodeProto, axis: int) -> bool:
        """Let a Slice that keeps exactly the fixed batch keep all there is."""
        dims = self._small[node.input[0]][1]
        found = self._slice_parts(node)
        if found is None:
            return False
        starts, ends, axes, steps = found
        place = axes.index(axis) if axis in axes else None
        if place is None or starts[place] or ends[place] != dims[axis] or steps[place] != 1:
            return False
        freed = [END if index == place else int(end) for index, end in enumerate(ends)]
        if len(node.input) > 1:
            self._set_input(node, 2, self._add(f"{node.input[2]}.{SYMBOL}", freed))
        else:
            self._set_attribute(node, "ends", freed)
        self.counts["other places"] += 1
        return True

    # ── constants of one batch that meet values of many ──────────────────────────────────────

    def _constants_of(self, node: NodeProto) -> bool:
        changed = 0
        for slot, guide, axis, spread in self._meetings(node):
            name = node.input[slot]
            if not name or name in self._data or name not in self._small:
                continue
            dims, guide_dims = self._small[name][1], self._small[guide][1]
            place = axis if spread else axis + len(dims) - len(guide_dims)
            if not 0 <= place < len(dims) or self._grown(name) is not None:
                continue
            rows = dims[place]
            grown = self._grown(guide)
            fits = spread or (rows == self.fixed and rows > 1)  # one row broadcasts as it is
            if grown is None or not fits or rows != guide_dims[grown] or rows % self.fixed:
                continue
            self._set_input(node, slot, self._repeat(node, name, guide, place, grown, spread))
            changed += 1
        self.counts["constants"] += changed
        return changed > 0

    def _misfits(self, node: NodeProto) -> bool:
        """Say whether a node states, by a constant, another batch than `fixed`."""
        kind = node.op_type
        for slot, guide, axis, spread in self._meetings(node):
            name = node.input[slot]
            if name and name in self._small and name not in self._data and name != guide:
                dims, guide_dims = self._small[name][1], self._small[guide][1]
                place = axis if spread else axis + len(dims) - len(guide_dims)
                rows = dims[place] if 0 <= place < len(dims) else 1
                wanted = guide_dims[self._grown(guide) or 0]
                if self._grown(name) is None and rows != wanted and (spread or rows > 1):
                    return True
        if kind not in ("Reshape", "Resize", "Expand", "Slice") or node.input[0] not in self._small:
            return False
        grown = self._grown(node.input[0])
        before = self._small[node.input[0]][1]
        after = self._small.get(node.output[0], (0, before))[1]
        if grown is None:
            return False
        if kind == "Reshape":
            return prod(before) != prod(after)
        if kind == "Slice":
            return self._cuts_off(node) and before[grown] != self._end_along(node, grown)
        return len(after) == len(before) and before[grown] != after[grown]

    def _cuts_off(self, node: NodeProto) -> bool:
        """Say whether a Slice keeps a stated number of samples."""
        if node.op_type != "Slice" or node.input[0] not in self._data:
            return False
        axis = self._grown(node.input[0])
        end = None if axis is None else self._end_along(node, axis)
        return end is not None and 0 < end <= MOST_SIZE

    def _end_along(self, node: NodeProto, axis: int) -> int | None:
        found = self._slice_parts(node)
        if found is None:
            return None
        starts, ends, axes, _ = found
        place = axes.index(axis) if axis in axes else None
        return None if place is None or starts[place] else int(ends[place])

    def _slice_parts(
        self, node: NodeProto
    ) -> tuple[list[int], list[int], list[int], list[int]] | None:
        """Return the constant starts, ends, axes and steps of a Slice, or None."""
        rank = len(self._small[node.input[0]][1])
        names = ("starts", "ends", "axes", "steps")
        parts: list[list[int] | None] = []
        for slot, name in enumerate(names, 1):
            given = node.input[slot] if slot < len(node.input) else ""
            listed = attribute(node, name)
            if given and given not in self._constants:
                return None
            values = self._constants[given].tolist() if given else None
            parts.append(list(listed.ints) if listed is not None else values)
        starts, ends, axes, steps = parts
        if starts is None or ends is None:
            return None
        axes = [axis % rank for axis in axes] if axes else list(range(len(starts)))
        return starts, ends, axes, steps or [1] * len(starts)

    def _meetings(self, node: NodeProto) -> Iterator[tuple[int, str, int, bool]]:
        """Yield (slot, value that grows, axis, whether it must have the batch's very size)."""
        kind, names = node.op_type, list(node.input)
        if kind in RECURRENT:
            layout = attribute(node, "layout")
            axis = 0 if layout is not None and layout.i else 1
            if self._grown(names[0]) == axis:
                yield from ((s, names[0], 0 if s == 4 else axis, True)
                            for s in (4, 5, 6) if s < len(names))  # fmt: skip
            return
        if kind not in BROADCAST and kind not in ("Concat", "GridSample"):
            return
        guide = next((n for n in names if n in self._data and self._grown(n) is not None), None)
        if guide is None:
            return
        axis = self._grown(guide) or 0
        if kind == "Concat":
            joined = attribute(node, "axis")
            if joined is None or joined.i % len(self._small[guide][1]) == axis:
                return
            yield from ((slot, guide, axis, True) for slot in range(len(names)))
        elif kind == "GridSample":
            yield from ((slot, guide, 0, True) for slot in range(len(names)) if axis == 0)
        elif kind != "MatMul" or axis < len(self._small[guide][1]) - 2:
            # Of a MatMul only the axes in front of its two matrices are broadcast.
            yield from ((slot, guide, axis, False) for slot in range(len(names)))

    def _repeat(
        self, node: NodeProto, name: str, guide: str, place: int, axis: int, spread: bool
    ) -> str:
        """Put nodes in front of `node` that repeat one sample's rows of a constant."""
        dims = self._small[name][1]
        rows = dims[place] // self.fixed
        base = self._free_base()
        made: list[NodeProto] = []
        first = name
        if self.fixed > 1:
            index = self._add(f"{base}.rows", list(range(rows)))
            first = f"{base}.first"
            made.append(helper.make_node("Gather", [name, index], [first], axis=place))
        if not spread:  # one sample's row broadcasts
            self._insert(node, made)
            return first
        made += self._size_of(base, guide, axis)
        number = f"{base}.size"
        if rows > 1:
            number = f"{base}.number"
            made.append(
                helper.make_node("Div", [f"{base}.size", self._add(f"{base}.each", [rows])],
                                 [number])
            )  # fmt: skip
        parts = [self._add(f"{base}.before", [1] * place)] if place else []
        parts.append(number)
        behind = len(dims) - place - 1
        parts += [self._add(f"{base}.behind", [1] * behind)] if behind else []
        made.append(helper.make_node("Concat", parts, [f"{base}.target"], axis=0))
        kind = "Tile" if rows > 1 else "Expand"
        made.append(helper.make_node(kind, [first, f"{base}.target"], [base]))
        self._insert(node, made)
        return base

    # ── writing ──────────────────────────────────────────────────────────────────────────────

    def _size_of(self, base: str, guide: str, axis: int) -> list[NodeProto]:
        index = self._add(f"{base}.axis", [axis])
        return [
            helper.make_node("Shape", [guide], [f"{base}.shape"]),
            helper.make_node("Gather", [f"{base}.shape", index], [f"{base}.size"]),
        ]

    def _free_base(self) -> str:
        bases = (f"surgeon.{SYMBOL}.{number}" for number in count(1))
        base = next(b for b in bases if b not in self._taken and f"{b}.shape" not in self._taken)
        parts = ("", ".shape", ".size", ".number", ".first", ".target")
        self._taken |= {f"{base}{part}" for part in parts}
        return base

    def _add(self, name: str, values: list[int]) -> str:
        """Add an integer initializer under a free name; return the name."""
        while name in self._taken:
            name += "."
        self._taken.add(name)
        tensor = numpy_helper.from_array(np.asarray(values, np.int64), name)
        self._initializers.append(tensor)
        self._bones.graph.initializer.append(tensor)
        return name

    def _set_input(self, node: NodeProto, slot: int, name: str) -> None:
        self._inputs[tuple(node.output), slot] = name
        _set_input(node, slot, name)

    def _set_attribute(self, node: NodeProto, name: str, values: list[int]) -> None:
        self._attributes[tuple(node.output), name] = values
        _set_ints(node, name, values)

    def _insert(self, node: NodeProto, made: list[NodeProto]) -> None:
        key = tuple(node.output)
        self._before.setdefault(key, []).extend(made)
        graph = self._bones.graph
        place = next(i for i, other in enumerate(graph.node) if tuple(other.output) == key)
        for offset, new in enumerate(made):
            graph.node.insert(place + offset, new)

    def _follow_anew(self) -> None:
        sizes = input_sizes(self._infos, self.fixed, known=self._known)
        self._small = {**self._small, **infer(self._bones, sizes)}

    def _opset(self) -> int:
        return max((o.version for o in self._bones.opset_import if o.domain in ("", "ai.onnx")),
                   default=1)  # fmt: skip


def _set_input(node: NodeProto, slot: int, name: str) -> None:
    while len(node.input) <= slot:
        node.input.append("")
    node.input[slot] = name


def _set_ints(node: NodeProto, name: str, values: list[int]) -> None:
    found = attribute(node, name)
    if found is None:
        node.attribute.append(helper.make_attribute(name, values))
    else:
        found.ints[:] = values


def _new_place(
    before: tuple[int, ...], after: tuple[int, ...], axis: int, fixed: int
) -> int | None:
    """Return the axis of a Reshape's result that the batch falls into, or None.

    In row-major order it is where as much lies in front of the batch as before, or as much behind
    it, best an axis of the fixed batch's size; the last axis, which holds features, takes no batch.
    """
    # The batch's axis may hold heads inside it, or steps around it.
    beside = before[axis] // fixed
    lead, tail = prod(before[:axis]), prod(before[axis + 1 :])
    last = len(after) - 1 if tail > 1 else len(after)
    front = [p for p in range(last) if prod(after[:p]) == lead]
    behind = [p for p in range(last) if prod(after[p + 1 :]) in (tail, tail * beside)]
    places = [*front, *behind]
    return next((p for p in places if after[p] == fixed), places[0] if places else None)
