"""A graph that prepares its pictures itself: uint8 [n, H, W, 3] of any size in, by plain operators.

Pillow resizes along the width, then along the height, and rounds to bytes in between. Along a side
that is a product with a matrix of coefficients, which the graph computes from the size it is given,
rounded to 22 bits as Pillow rounds them; in float64 every sum is exact, and so is every pixel.
`Resize` of ONNX, with antialias or without, gives others. The matrix is a band around its diagonal,
so that a side is taken in pieces: less arithmetic, and less memory.

Operators are those of opset 11 on types that ONNX Runtime has for them there, and constants are
nodes, so that neither opset nor IR version rises. What must not enter: reading of pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from surgeon.errors import UnsupportedError
from surgeon.graph.forms import opset_of
from surgeon.graph.walk import all_names

if TYPE_CHECKING:
    from surgeon.records import Preprocess

OLDEST = 11
"""Opset that has `Range`."""
AXES_AS_INPUT = 13
"""Opset from which ReduceSum takes its axes as an input."""
BLOCKS, LEAST = 8, 16
"""Pieces in which a side is taken at most, and places that each has at least."""
BITS = 22
"""Of a coefficient, behind the point."""
NAMES = ("image", "picture", "pixels", "surgeon.image")
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
MARK = "surgeon.image."
"""Beginning of the names of what is put in front."""
LUMA = (19595, 38470, 7471)
"""Of red, green and blue, out of 65536: Pillow's grey."""


def embedded(model: onnx.ModelProto, image: str, how: Preprocess) -> onnx.ModelProto:
    """Return a copy that takes pictures as they are decoded: uint8 [n, H, W, 3].

    Args:
        model: takes pictures that are prepared.
        image: name of that input, which stays as the name of what is computed in front.
        how: how they are prepared.

    Raises:
        UnsupportedError: the opset has no `Range`.
    """
    opset = opset_of(model)
    if opset < OLDEST:
        raise UnsupportedError(
            f"opset {opset} has no Range, by which coefficients are computed",
            where="--embed-preprocess",
            remedy=f"add --opset {OLDEST} or more",
        )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    given = next(value for value in copy.graph.input if value.name == image)
    kind, batch = given.type.tensor_type.elem_type, given.type.tensor_type.shape.dim[0]
    taken = all_names(copy.graph)
    name = next(one for one in NAMES if one not in taken)
    pictures = helper.make_tensor_value_info(name, TensorProto.UINT8, ["n", "height", "width", 3])
    pictures.type.tensor_type.shape.dim[0].CopyFrom(batch)
    nodes = _Pictures(opset, name, how).prepared(image, kind)
    given.CopyFrom(pictures)
    own = list(copy.graph.node)
    del copy.graph.node[:]
    copy.graph.node.extend([*nodes, *own])
    return copy


class _Nodes:
    """Nodes in a row: a call appends one and returns the name of its value."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.made: list[onnx.NodeProto] = []
        self._constants: dict[bytes, str] = {}

    def __call__(self, op: str, *inputs: str, end: str | None = None, **attributes: Any) -> str:
        name = f"{MARK}{op.lower()}_{len(self.made)}"
        self.made.append(helper.make_node(op, inputs, [end or name], name=name, **attributes))
        return end or name

    def constant(self, value: Any, dtype: Any = np.float64) -> str:
        tensor = numpy_helper.from_array(np.asarray(value, dtype))
        key = tensor.SerializeToString(deterministic=True)
        if key not in self._constants:
            self._constants[key] = self("Constant", value=tensor)
        return self._constants[key]

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def cast(self, value: str, kind: int) -> str:
        return self("Cast", value, to=kind)

    def least(self, one: str, other: str, *, most: bool = False) -> str:
        """Return the lesser of integers, or the greater: Min and Max of opset 11 take floats."""
        return self("Where", self("Greater" if most else "Less", one, other), one, other)

    def column_sums(self, value: str) -> str:
        """Return [1, columns] of [rows, columns]."""
        if self.opset < AXES_AS_INPUT:
            return self("ReduceSum", value, axes=[0], keepdims=1)
        return self("ReduceSum", value, self.ints(0), keepdims=1)

    def whole(self, value: str) -> str:
        """Round to the next whole number; a half goes up."""
        return self("Floor", self("Add", value, self.constant(0.5)))


class _Pictures:
    """What is put in front of a graph; axes are those of [n, channels, height, width]."""

    def __init__(self, opset: int, name: str, how: Preprocess) -> None:
        self._put, self._name, self._how = _Nodes(opset), name, how
        shape = self._put("Shape", name)
        self._sides = [self._put("Gather", shape, self._put.ints(axis)) for axis in (1, 2)]
        self._covered, self._offsets = self._geometry()

    def prepared(self, end: str, kind: int) -> list[onnx.NodeProto]:
        """Return the nodes that make the value `end`, of an element type, of pictures."""
        how, planes = self._how, self._planes()
        for axis in (3, 2):
            planes = (self._picked if how.resize == "nearest" else self._resized)(planes, axis)
        if how.channels == "BGR":
            planes = self._put("Gather", planes, self._put.ints(2, 1, 0), axis=1)
        self._normalized(planes, end, kind)
        return self._put.made

    def _planes(self) -> str:
        """Return [n, channels, H, W], uint8."""
        put, planes = self._put, self._name
        if self._how.channels == "L":
            # Whole numbers below 2^24 are exact in float32.
            wide = put.cast(planes, TensorProto.FLOAT)
            weights = put.constant(np.reshape(LUMA, (3, 1)), np.float32)
            summed = put("Add", put("MatMul", wide, weights), put.constant(2**15, np.float32))
            grey = put("Floor", put("Mul", summed, put.constant(2**-16, np.float32)))
            planes = put.cast(grey, TensorProto.UINT8)
        return put("Transpose", planes, perm=[0, 3, 1, 2])

    def _geometry(self) -> tuple[list[str], list[str]]:
        """Return what height and width are resized to, and where what is cut out begins; [1]."""
        put, sides = self._put, self._sides
        sizes = [put.ints(size) for size in self._how.size]
        zero, two = put.ints(0), put.ints(2)
        if self._how.fit == "stretch":
            return sizes, [zero, zero]
        covered, offsets = [], []
        for here, there in ((0, 1), (1, 0)):
            wide = put("Div", put("Mul", sides[here], sizes[there]), sides[there])
            covered.append(put.least(wide, sizes[here], most=True))
            margin = put("Sub", covered[here], sizes[here])
            half = put("Div", margin, two)
            odd = put("Sub", half, put("Mul", put("Div", half, two), two))
            offsets.append(put("Div", put("Add", margin, odd), two))  # a half goes to the even one
        return covered, offsets

    def _scale(self, side: int) -> str:
        """Return how many pixels one of the new ones stands for, [1]."""
        real = TensorProto.DOUBLE
        sizes = (self._sides[side], self._covered[side])
        return self._put("Div", *(self._put.cast(size, real) for size in sizes))

    def _resized(self, planes: str, axis: int) -> str:
        """Return planes with one side resized and cut out: float32, whole numbers 0..255."""
        put, side, real, whole = self._put, axis - 2, TensorProto.DOUBLE, TensorProto.INT64
        size, scale, half = self._how.size[side], self._scale(side), put.constant(0.5)
        stretch = put("Max", scale, put.constant(1))
        reach = put("Mul", stretch, put.constant(SUPPORT[self._how.resize]))
        start = put("Add", put.cast(self._offsets[side], real), half)
        pieces = []
        for places in np.array_split(np.arange(size), max(1, min(BLOCKS, size // LEAST))):
            centre = put("Mul", put("Add", put.constant(places), start), scale)
            first, last = (put("Gather", centre, put.ints(at)) for at in (0, len(places) - 1))
            low = put.cast(put("Sub", first, reach), whole)
            low = put.least(low, put.ints(0), most=True)
            high = put.cast(put("Add", put("Add", last, reach), put.constant(1)), whole)
            high = put.least(high, self._sides[side])
            weights = self._weights(low, high, centre, stretch)
            piece = put.cast(put("Slice", planes, low, high, put.ints(axis)), real)
            if axis == 2:
                pieces.append(put("MatMul", put("Transpose", weights, perm=[1, 0]), piece))
            else:
                pieces.append(put("MatMul", piece, weights))
        summed = put("Concat", *pieces, axis=axis)
        rounded = put.cast(put.whole(summed), TensorProto.FLOAT)
        if self._how.resize == "bilinear":
            return rounded
        return put("Clip", rounded, *(put.constant(end, np.float32) for end in (0, 255)))

    def _weights(self, low: str, high: str, centre: str, stretch: str) -> str:
        """Return the coefficients [pixels, places] of the pixels from `low` to `high`."""
        put = self._put
        ends = [put("Reshape", one, put.ints()) for one in (low, high)]
        index = put("Range", *ends, put.constant(1, np.int64))
        middles = put("Add", put.cast(index, TensorProto.DOUBLE), put.constant(0.5))
        column = put("Reshape", middles, put.ints(-1, 1))
        away = put("Abs", put("Div", put("Sub", column, centre), stretch))
        if self._how.resize == "bilinear":
            weights = put("Max", put("Sub", put.constant(1), away), put.constant(0))
        else:
            weights = self._cubic(away)
        share = put("Div", weights, put.column_sums(weights))
        rounded = put.whole(put("Mul", share, put.constant(2**BITS)))
        return put("Mul", rounded, put.constant(2**-BITS))

    def _cubic(self, away: str) -> str:
        """Return Keys' kernel with a = -0.5."""
        put = self._put
        number = {value: put.constant(value) for value in (1.5, 2.5, 1, 5, 8, 4, -0.5, 2, 0)}
        near = put("Sub", put("Mul", number[1.5], away), number[2.5])
        near = put("Add", put("Mul", put("Mul", near, away), away), number[1])
        far = put("Add", put("Mul", put("Sub", away, number[5]), away), number[8])
        far = put("Mul", put("Sub", put("Mul", far, away), number[4]), number[-0.5])
        far = put("Where", put("Less", away, number[2]), far, number[0])
        return put("Where", put("Less", away, number[1]), near, far)

    def _picked(self, planes: str, axis: int) -> str:
        """Return planes with the nearest pixels along one side.

        Pillow adds up the step from pixel to pixel, so that a half goes where rounding has led it.
        """
        put, side = self._put, axis - 2
        scale, covered = self._scale(side), self._covered[side]
        first = put("Mul", scale, put.constant(0.5))
        later = put("Slice", put("Expand", scale, covered), put.ints(1), covered)
        places = put("CumSum", put("Concat", first, later, axis=0), put.constant(0, np.int64))
        index = put.cast(put("Floor", places), TensorProto.INT64)
        offset = self._offsets[side]
        end = put("Add", offset, put.ints(self._how.size[side]))
        return put("Gather", planes, put("Slice", index, offset, end), axis=axis)

    def _normalized(self, planes: str, end: str, kind: int) -> None:
        """Put (pixel * scale - mean) / std, in float64 as it is computed for training."""
        put, how = self._put, self._how
        mean, std = (put.constant(np.reshape(one, (-1, 1, 1))) for one in (how.mean, how.std))
        scaled = put("Mul", put.cast(planes, TensorProto.DOUBLE), put.constant(how.scale))
        values = put("Div", put("Sub", scaled, mean), std)
        if kind == TensorProto.UINT8:
            values = put.whole(values)
        if how.layout == "NCHW":
            put("Cast", values, end=end, to=kind)
        else:
            put("Transpose", put.cast(values, kind), end=end, perm=[0, 2, 3, 1])
