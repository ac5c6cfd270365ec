"""What a new head reads of a value: its axes pooled, or those kept that its kind asks for.

What must not enter: the head itself.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from surgeon.errors import ModelError, UnsupportedError
from surgeon.graph.channels import channel_axis

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx
    from onnx import ModelProto

    from surgeon.graph.builder import HeadNodes
    from surgeon.graph.shapes import Shapes
    from surgeon.records import Dim

POOLS = ("mean", "max", "first", "last", "flatten", "cls", "gem")
MASKED = {"mean": 8, "max": 8, "gem": 8, "last": 11}
"""Pools that honour a mask, and the opset from which they do: Max of two shapes, CumSum."""
LENGTH, PICTURE = ("length",), ("height", "width")
GEM = 3.0
"""The exponent of the generalised mean (Radenović et al. 2018, arXiv 1711.02512)."""
IN_FRONT = (0, 1, 2, 5)
"""Tokens in front of those of patches: none, a class token, two, or one and four registers."""
HIDDEN = 1e30
"""Taken from what a mask hides before the largest is looked for."""


def wide(kind: int) -> int:
    """Return the element type the head computes in."""
    return int(TensorProto.DOUBLE if kind == TensorProto.DOUBLE else TensorProto.FLOAT)


def keeps_axes(shapes: Shapes, tensor: str, keeps: Sequence[str]) -> bool:
    """Say whether a value has the axes that a head keeps or pools, some with more than one place.

    Whether the tokens of a value are a grid of patches is seen where they are laid out.
    """
    dims = shapes.one[tensor][1]
    several = sum(dim > 1 for dim in dims[1:])
    if tuple(keeps) == PICTURE:
        return (len(dims) == 4 and several == 3) or (len(dims) == 3 and several == 2)
    return len(dims) >= 3 and several >= 2


def read_value(
    builder: HeadNodes,
    model: ModelProto,
    shapes: Shapes,
    tensor: str,
    pool: str,
    keeps: Sequence[str],
    inputs: Sequence[onnx.ValueInfoProto],
) -> tuple[Dim, ...]:
    """Add the nodes that make of a value what a head reads.

    Returns:
        Its dims behind the batch: (features,), (length, features) or (channels, height, width).

    Raises:
        ModelError: the number of features is not a fixed number.
        UnsupportedError: a pool is not known, or the value lacks the axes to keep.
    """
    builder.begin(tensor, shapes.dtype(tensor))
    dims = shapes.symbolic[tensor]
    batch = shapes.batch_axes[tensor]
    channels = channel_axis(model, shapes, tensor)
    if shapes.dtype(tensor) in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        builder.add("Cast", {"to": TensorProto.FLOAT})
    if batch != 0:
        order = [batch, *(axis for axis in range(len(dims)) if axis != batch)]
        builder.add("Transpose", {"perm": order})
        dims = tuple(dims[axis] for axis in order)
        channels = order.index(channels)
    if keeps:
        made = _keep(builder, shapes, tensor, dims, channels, keeps, inputs)
        features = made[0] if tuple(keeps) == PICTURE else made[-1]
    else:
        mask = None
        if len(dims) == 3 and channels == 2 and builder.opset >= MASKED.get(pool, np.inf):
            mask = mask_of(builder, model, shapes, tensor, inputs)
        made = (_pool(builder, tensor, dims, channels, pool, mask),)
        features = made[0]
    if not isinstance(features, int):
        raise _no_features(tensor, dims)
    return made


def _no_features(tensor: str, dims: Sequence[Dim]) -> ModelError:
    return ModelError(
        f"value {tensor!r} has no fixed number of features: {list(dims)}",
        where="--cut",
        remedy="cut elsewhere, or give the input a fixed size",
    )


def _pool(
    builder: HeadNodes, tensor: str, dims: Sequence[Dim], channels: int, pool: str, mask: Any
) -> int:
    """Add the nodes that make [batch, features] of a value; return the number of features."""
    rank = len(dims)
    others = [axis for axis in range(1, rank) if axis != channels]
    if rank == 1:
        # A Squeeze without axes leaves a scalar at a batch of one: Reshape takes both.
        target = builder.free("surgeon.head.shape")
        builder.add("Reshape", {}, {target: np.asarray([-1, 1], np.int64)})
        return 1
    sizes: Sequence[Dim] = (dims[channels],)
    if pool == "flatten" and others:
        builder.add("Flatten", {"axis": 1})
        sizes = dims[1:]
    elif pool not in POOLS:
        raise UnsupportedError(
            f"pool {pool!r} is not known", where="plan.head.pool", remedy=", ".join(POOLS)
        )
    elif others:
        if pool == "gem":  # of what is positive; a little more keeps the root's gradient finite
            builder.add("Relu", {})
            _with_number(builder, "Add", 1e-6)
            _with_number(builder, "Pow", GEM)
        _collapse(builder, pool, rank, channels, others, mask)
        if pool == "gem":
            _with_number(builder, "Pow", 1 / GEM)
    else:
        sizes = dims[1:]
    features = 1
    for size in sizes:
        if not isinstance(size, int):
            raise _no_features(tensor, dims)
        features *= size
    return features


def _collapse(
    builder: HeadNodes, pool: str, rank: int, channels: int, others: list[int], mask: Any
) -> None:
    """Add the nodes that pool the axes beside the channels: [batch, features]."""
    # Pooling kernels take up to three sides, and no float64.
    pictures = rank in (4, 5) and channels == 1 and builder.kind != TensorProto.DOUBLE
    if mask is not None and pool != "max":
        _mean_over_mask(builder, _last_of(builder, mask) if pool == "last" else mask)
        return
    if pool in ("mean", "max", "gem"):
        if mask is not None:
            _hide(builder, mask)
        if pictures:
            builder.add("GlobalMaxPool" if pool == "max" else "GlobalAveragePool", {})
        else:
            kind = "ReduceMax" if pool == "max" else "ReduceMean"
            builder.last = builder.over(kind, builder.last, others, 18, keepdims=1)
    else:
        for axis in others:
            index = builder.free("surgeon.head.index")
            at = np.asarray([-1 if pool == "last" else 0], np.int64)
            builder.add("Gather", {"axis": axis}, {index: at})
    builder.add("Flatten", {"axis": 1})


def _keep(
    builder: HeadNodes,
    shapes: Shapes,
    tensor: str,
    dims: Sequence[Dim],
    channels: int,
    keeps: Sequence[str],
    inputs: Sequence[onnx.ValueInfoProto],
) -> tuple[Dim, ...]:
    """Add the nodes that bring a value to [batch, length, features] or [batch, channels, h, w]."""
    rank, keeps = len(dims), tuple(keeps)
    if keeps not in (LENGTH, PICTURE):
        raise UnsupportedError(
            f"a head keeps {' and '.join(keeps)} of its features",
            where="--head",
            remedy="a kind keeps nothing, ('length',) or ('height', 'width')",
        )
    if rank < 3 or (keeps == PICTURE and rank not in (3, 4)):
        raise UnsupportedError(
            f"the head keeps {' and '.join(keeps)}, and value {tensor!r} is {list(dims)}",
            where="--cut",
            remedy="cut in front of the pooling: `surgeon cuts MODEL` lists the shapes",
        )
    if keeps == LENGTH:
        return _positions(builder, dims, channels)
    if rank == 3:
        return _grid(builder, shapes, tensor, dims, channels, inputs)
    if channels != 1:
        order = [0, channels, *(axis for axis in range(1, 4) if axis != channels)]
        builder.add("Transpose", {"perm": order})
        dims = tuple(dims[axis] for axis in order)
    return tuple(dims[1:])


def _positions(builder: HeadNodes, dims: Sequence[Dim], channels: int) -> tuple[Dim, Dim]:
    """Add the nodes of [batch, length, features]; places of a picture are positions in rows."""
    rank = len(dims)
    others = [axis for axis in range(1, rank) if axis != channels]
    if channels != rank - 1:
        builder.add("Transpose", {"perm": [0, *others, channels]})
    if rank == 3:
        return dims[others[0]], dims[channels]
    features = dims[channels]
    target = np.asarray([0, -1, features if isinstance(features, int) else 0], np.int64)
    builder.add("Reshape", {}, {builder.free("surgeon.head.shape"): target})
    length = 1
    for axis in others:
        size = dims[axis]
        if not isinstance(size, int):
            return None, features
        length *= size
    return length, features


def _grid(
    builder: HeadNodes,
    shapes: Shapes,
    tensor: str,
    dims: Sequence[Dim],
    channels: int,
    inputs: Sequence[onnx.ValueInfoProto],
) -> tuple[Dim, ...]:
    """Add the nodes that lay the tokens of a picture's patches out: [batch, channels, h, w].

    Tokens in front of the patches (class, registers) are left out: as few as leave a grid of the
    picture's form.
    """
    tokens, features = dims[3 - channels], dims[channels]
    picture = picture_of(inputs, shapes)
    sides = None
    if isinstance(tokens, int) and isinstance(features, int):
        tall, broad = (1, 1) if picture is None else picture[2]
        counts = (tokens - more for more in IN_FRONT)
        sides = next(filter(None, (_sides(count, tall, broad) for count in counts)), None)
    if sides is None:
        raise UnsupportedError(
            f"value {tensor!r} is {list(dims)}: its tokens are no grid of patches",
            where="--cut",
            remedy="cut where the value is a map, or choose a head per position (`linear`)",
        )
    assert isinstance(tokens, int)
    if channels == 2:
        builder.add("Transpose", {"perm": [0, 2, 1]})
    more = tokens - sides[0] * sides[1]
    if more:
        builder.last = builder.behind(builder.last, 2, more, tokens)
    target = np.asarray([0, features, *sides], np.int64)
    builder.add("Reshape", {}, {builder.free("surgeon.head.shape"): target})
    return features, *sides


def _sides(patches: int, tall: int, broad: int) -> tuple[int, int] | None:
    """Return the (height, width) of a grid of patches with the form of a picture, or None."""
    if patches < 4 or patches * tall % broad:
        return None
    height = isqrt(patches * tall // broad)
    if not height or height * height != patches * tall // broad or patches % height:
        return None
    return height, patches // height


def picture_of(
    inputs: Sequence[onnx.ValueInfoProto], shapes: Shapes
) -> tuple[onnx.ValueInfoProto, tuple[int, int], tuple[int, int]] | None:
    """Return the one input that takes pictures, the axes of its height and width, and both sides.

    Of several of rank 4, none.
    """
    found = [value for value in inputs if len(shapes.one.get(value.name, (0, ()))[1]) == 4]
    if len(found) != 1:
        return None
    dims = shapes.one[found[0].name][1]
    last = dims[3] in (1, 3, 4) and dims[1] not in (1, 3, 4)
    axes = (1, 2) if last else (2, 3)
    return found[0], axes, (dims[axes[0]], dims[axes[1]])


def size_of(
    builder: HeadNodes,
    model: ModelProto,
    shapes: Shapes,
    inputs: Sequence[onnx.ValueInfoProto],
) -> Any:
    """Return the height and width of the pictures that the graph takes, two int64 numbers.

    A constant where they are fixed, else looked up in the input.

    Raises:
        UnsupportedError: no one input takes pictures.
    """
    found = picture_of(inputs, shapes)
    if found is None:
        raise UnsupportedError(
            "the head gives a map of the picture's size, and no one input is a picture (rank 4)",
            where="--head",
            remedy="choose a head that pools, or one per position (`linear`)",
        )
    value, axes, _ = found
    dims = [shapes.symbolic[value.name][axis] for axis in axes]
    if all(isinstance(dim, int) for dim in dims):
        return builder.constant("surgeon.head.size", np.asarray(dims, np.int64))
    add_input(model.graph, value, [one.name for one in inputs])
    given = builder.input(value.name, value.type.tensor_type.elem_type)
    index = builder.constant("surgeon.head.sides", np.asarray(axes, np.int64))
    return builder.apply("Gather", {"axis": 0}, builder.apply("Shape", {}, given), index)


def mask_of(
    builder: HeadNodes,
    model: ModelProto,
    shapes: Shapes,
    tensor: str,
    inputs: Sequence[onnx.ValueInfoProto],
) -> Any:
    """Return the mask [batch, length] of a value [batch, length, features] as numbers, or None.

    The input is put back in its place in graph-input order, if the cut removed it.
    """
    dims = shapes.one[tensor][1]
    for value in inputs:
        entry = shapes.one.get(value.name)
        if "mask" in value.name.lower() and entry is not None and entry[1] == dims[:2]:
            add_input(model.graph, value, [one.name for one in inputs])
            given = builder.input(value.name, value.type.tensor_type.elem_type)
            return builder.apply("Cast", {"to": wide(shapes.dtype(tensor))}, given)
    return None


def add_input(graph: onnx.GraphProto, value: onnx.ValueInfoProto, order: Sequence[str]) -> None:
    """Put an input back in its place in graph-input order, if the cut removed it."""
    if any(one.name == value.name for one in graph.input):
        return
    place = sum(order.index(one.name) < order.index(value.name) for one in graph.input)
    graph.input.insert(place, value)


def _with_number(builder: HeadNodes, operator: str, number: float) -> None:
    """Add an operator on the chain's last value and a number."""
    value = np.asarray([number], builder.dtype)
    builder.add(operator, {}, {builder.free(f"surgeon.head.{operator.lower()}.by"): value})


def _hide(builder: HeadNodes, mask: Any) -> None:
    """Take a large number from the steps that the mask hides."""
    held = builder.last
    builder.last = builder.over("Unsqueeze", mask, [2], 13)
    _with_number(builder, "Sub", 1.0)
    _with_number(builder, "Mul", HIDDEN)
    builder.last = builder.apply("Add", {}, held, builder.last)


def _last_of(builder: HeadNodes, mask: Any) -> Any:
    """Append what leaves of a mask the last step that it holds, whichever side is padded."""
    axis = builder.constant("surgeon.head.axis", np.asarray(1, np.int64))
    place = builder.apply("Mul", {}, builder.apply("CumSum", {}, mask, axis), mask)
    total = builder.over("ReduceSum", mask, [1], 13, keepdims=1)
    return builder.apply(
        "Cast", {"to": wide(builder.kind)}, builder.apply("Equal", {}, place, total)
    )


def _mean_over_mask(builder: HeadNodes, weight: Any) -> None:
    """Add the mean over the steps that the mask holds: Σ value · mask ÷ max(Σ mask, 1)."""
    values = builder.last
    total = builder.over("ReduceSum", weight, [1], 13, keepdims=1)
    one = builder.constant("surgeon.head.one", np.ones(1, builder.dtype))
    total = builder.apply("Max", {}, total, one)
    weight = builder.over("Unsqueeze", weight, [2], 13)
    held = builder.apply("Mul", {}, values, weight)
    held = builder.over("ReduceSum", held, [1], 13, keepdims=0)
    builder.last = builder.apply("Div", {}, held, total)
