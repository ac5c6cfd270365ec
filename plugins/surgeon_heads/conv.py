"""A score per output at every place of a picture: 1×1 Conv on a map, resized to the picture.

With taps it is U-shaped (after Ronneberger et al., arXiv 1505.04597, and the feature pyramids of
Lin et al., arXiv 1612.03144): from the deepest map on, each is resized to the one in front of it
and added to what a 1×1 Conv makes of that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from surgeon.errors import UnsupportedError
from surgeon.records import Built
from surgeon_heads import layers


def build(
    graph: Any,
    value: Any,
    outputs: int,
    random: np.random.Generator,
    taps: tuple[Any, ...],
    size: Any,
    *,
    width: int = 64,
) -> Built:
    """Append the Convs and the Resizes.

    The value is [n, channels, height, width], `taps` are maps in front of it by ascending depth,
    `size` is that of the picture, `width` the channels of the U where there are taps. ONNX Runtime
    has neither Conv nor Resize for float64: such values are cast to float32. Without taps it is
    linear, as a 1×1 Conv and a Resize commute; before opset 11 that has no half-pixel centres.

    Raises:
        UnsupportedError: before opset 11, where a size is not fixed or a map would shrink.
    """
    layers.at_least(width, 1, "width")
    dtype = value.dtype
    made, *fronts = (_narrow(graph, one) for one in (value, *taps))
    weights: list[Any] = []
    if fronts:
        made, weights = _conv(graph, made, width, random, "deep.", np.sqrt(6))
    for place, front in enumerate(reversed(fronts), 1):
        beside, more = _conv(graph, front, width, random, f"tap.{place}.", np.sqrt(6))
        made = _resized(graph, made, _size_of(graph, front), front.shape[2:])
        shape = made.shape
        made = layers.put(graph, "Relu", layers.put(graph, "Add", made, beside))
        made.shape = shape
        weights += more
    made, last = _conv(graph, made, outputs, random, "", 1.0)
    fixed = size.values.tolist() if isinstance(size, gs.Constant) else [None, None]
    before, made = made, _resized(graph, made, size, fixed)
    resizes = made is not before
    if dtype != np.float32:
        made = layers.put(graph, "Cast", made, to=_CODES[np.dtype(dtype)])
    linear = not fronts and (graph.opset >= 11 or not resizes)
    return Built(made, (*weights, *last), linear)


_CODES = {np.dtype(np.float32): 1, np.dtype(np.float64): 11}
"""Element types of ONNX."""


def _narrow(graph: Any, value: Any) -> Any:
    """Append a cast of float64 to float32."""
    if value.dtype == np.float32:
        return value
    made = layers.put(graph, "Cast", value, to=_CODES[np.dtype(np.float32)])
    made.dtype, made.shape = np.dtype(np.float32), value.shape
    return made


def _conv(
    graph: Any, value: Any, outputs: int, random: np.random.Generator, name: str, gain: float
) -> tuple[Any, list[Any]]:
    """Append a 1×1 Conv; return what it makes, weight and bias."""
    first = layers.drawn(random, (outputs, value.shape[1], 1, 1), value.dtype, gain)
    weight = gs.Constant(f"{name}weight", first)
    bias = gs.Constant(f"{name}bias", np.zeros(outputs, value.dtype))
    made = layers.put(graph, "Conv", value, weight, bias, kernel_shape=[1, 1])
    made.shape = [value.shape[0], outputs, *value.shape[2:]]
    return made, [weight, bias]


def _size_of(graph: Any, value: Any) -> Any:
    """Return the height and width of a map: a constant where they are fixed."""
    sides = value.shape[2:]
    if all(isinstance(side, int) for side in sides):
        return layers.constant(graph, "size", sides, np.int64)
    return layers.put(
        graph, "Gather", layers.put(graph, "Shape", value),
        layers.constant(graph, "sides", [2, 3], np.int64), axis=0,
    )  # fmt: skip


def _resized(graph: Any, value: Any, size: Any, wanted: Any) -> Any:
    """Append what brings a map to a size, linear between places; nothing where it has that size."""
    sides, wanted = value.shape[2:], list(wanted)
    if all(isinstance(side, int) for side in wanted) and list(sides) == list(wanted):
        return value
    if graph.opset >= 11:
        made = _by_size(graph, value, size)
    else:
        made = _by_scale(graph, value, sides, wanted)
    made.dtype, made.shape = value.dtype, [*value.shape[:2], *wanted]
    return made


def _by_size(graph: Any, value: Any, size: Any) -> Any:
    attributes: dict[str, Any] = {
        "mode": "linear", "coordinate_transformation_mode": "half_pixel"
    }  # fmt: skip
    if graph.opset >= 18:
        empty = gs.Variable.empty()
        return layers.put(graph, "Resize", value, empty, empty, size, axes=[2, 3], **attributes)
    front = layers.put(
        graph, "Gather", layers.put(graph, "Shape", value),
        layers.constant(graph, "front", [0, 1], np.int64), axis=0,
    )  # fmt: skip
    sizes = layers.put(graph, "Concat", front, size, axis=0)
    roi, scales = (layers.constant(graph, name, [], np.float32) for name in ("roi", "scales"))
    return layers.put(graph, "Resize", value, roi, scales, sizes, **attributes)


def _by_scale(graph: Any, value: Any, sides: Any, wanted: Any) -> Any:
    """Append Resize 10 or Upsample, which know factors only: sizes have to be fixed."""
    fixed = all(isinstance(side, int) for side in (*sides, *wanted))
    if not fixed or any(want < side for side, want in zip(sides, wanted, strict=True)):
        raise UnsupportedError(
            f"a map of {list(sides)} is resized to {list(wanted)}, and before opset 11 a size has "
            "to be fixed and may not shrink",
            where=f"opset {graph.opset}",
            remedy="export it for opset 11 or later, or with a fixed size of pictures",
        )
    scales = [1.0, 1.0, *(_factor(side, want) for side, want in zip(sides, wanted, strict=True))]
    if graph.opset < 9:
        return layers.put(graph, "Upsample", value, mode="linear", scales=scales)
    factors = layers.constant(graph, "scales", scales, np.float32)
    operator = "Resize" if graph.opset == 10 else "Upsample"
    return layers.put(graph, operator, value, factors, mode="linear")


def _factor(side: int, want: int) -> float:
    """Return the least float32 whose product with a side, exact or rounded, is not below `want`."""
    factor = np.float32(want) / np.float32(side)
    while side * float(factor) < want:
        factor = np.nextafter(factor, np.float32(np.inf))
    return float(factor)
