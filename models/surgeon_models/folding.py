"""Compares an export with the torch network it was made of, in arithmetic of its own.

Exporters fold BatchNormalization into the convolution in front of it, in float32 (or float16) and
with the processor's own instructions, so that the last digits are no identity. Here the same fold
is computed in float64, by numpy. Needs torch to see modules, never to compute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper
from torch import nn

from surgeon.errors import CheckError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    Float64 = NDArray[np.float64]

#: Largest difference, relative to the tensor's largest value. Float32 gives 1e-6 and less.
TOLERANCE = 1e-5
#: The same where the fold itself was computed in float16, in several roundings of 5e-4.
HALF_TOLERANCE = 1e-2


def compare(module: nn.Module, proto: onnx.ModelProto, where: str) -> float:
    """Return the largest relative difference between a network's weights and an export's.

    Raises:
        CheckError: a weight is not in the file, neither as it is nor folded.
    """
    half = any(each.data_type == onnx.TensorProto.FLOAT16 for each in proto.graph.initializer)
    bound = HALF_TOLERANCE if half else TOLERANCE
    stored = _by_shape(proto)
    worst = 0.0
    for name, forms in _expected(module):
        found = min(max(_nearest(tensor, stored) for tensor in form) for form in forms)
        if not found <= bound:
            raise CheckError(
                f"the exporter's weights are not the package's: {name} differs by {found:.2g} of "
                f"its largest value, {bound:g} is rounding",
                where=where,
                remedy="install the versions named in constraints.txt and get it with refresh",
            )
        worst = max(worst, found)
    return worst


def _expected(module: nn.Module) -> Iterator[tuple[str, list[list[Float64]]]]:
    """Yield every layer that has weights, and the forms in which an export may hold them."""
    convolution: tuple[str, nn.Conv2d] | None = None
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d):
            if convolution is not None:
                yield convolution[0], [_own(convolution[1])]
            convolution = name, layer
        elif isinstance(layer, nn.BatchNorm2d):
            if convolution is None:
                yield name, [_own(layer)]
                continue
            kept = [*_own(convolution[1]), *_own(layer)]
            yield convolution[0], [kept, _folded(convolution[1], layer)]
            convolution = None
        elif isinstance(layer, nn.Linear):
            yield name, [_own(layer)]
    if convolution is not None:
        yield convolution[0], [_own(convolution[1])]


def _own(layer: nn.Module) -> list[Float64]:
    state = layer.state_dict()
    return [_exact(value) for value in state.values() if value.is_floating_point()]


def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> list[Float64]:
    """Return weight and bias of one convolution that does what both do."""
    state = {name: _exact(value) for name, value in norm.state_dict().items()}
    factor = state["weight"] / np.sqrt(state["running_var"] + norm.eps)
    before = 0.0 if convolution.bias is None else _exact(convolution.bias)
    weight = _exact(convolution.weight) * factor.reshape(-1, 1, 1, 1)
    return [weight, state["bias"] + (before - state["running_mean"]) * factor]


def _exact(tensor: Tensor) -> Float64:
    values: Float64 = tensor.detach().double().numpy()
    return values


def _by_shape(proto: onnx.ModelProto) -> dict[tuple[int, ...], list[Float64]]:
    found: dict[tuple[int, ...], list[Float64]] = {}
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    for tensor in proto.graph.initializer:
        if tensor.data_type in floats:
            values = numpy_helper.to_array(tensor).astype(np.float64)
            found.setdefault(values.shape, []).append(values)
            if values.ndim == 2:  # a MatMul takes what a Gemm transposes
                found.setdefault(values.T.shape, []).append(values.T)
    return found


def _nearest(tensor: Float64, stored: dict[tuple[int, ...], list[Float64]]) -> float:
    """Return how far the nearest tensor of that shape lies, relative to the largest value."""
    alike = stored.get(tensor.shape, [])
    size = float(np.abs(tensor).max()) or 1.0
    return min((float(np.abs(each - tensor).max()) / size for each in alike), default=np.inf)
