"""Tensors of torch as arrays of numpy, bit for bit, bfloat16 and 8-bit floats included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from surgeon.errors import UsageError
from surgeon.ops import convert
from surgeon.torch_graph.module import tensors as module_tensors
from surgeon.torch_graph.straight_through import fold_latents

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.graph.quantized_weights import QuantizedWeight


def to_array(value: Any) -> NDArray[Any]:
    """Return a tensor's values as an array; what is one already comes back as it is."""
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    return convert.to_numpy(value)


def as_arrays(source: Any) -> dict[str, NDArray[Any]]:
    """Return {ONNX name: values} of a module, a state_dict, or `surgeon.tensors(module)`.

    Raises:
        UsageError: neither a module nor a mapping.
    """
    if isinstance(source, nn.Module):
        source = module_tensors(source)
    if not isinstance(source, Mapping):
        raise UsageError(
            f"tensors are a {type(source).__name__}",
            remedy="pass surgeon.tensors(module), module.state_dict(), or the module",
        )
    apart = [name for name in source if ".parametrizations." in f".{name}"]
    if apart:
        raise UsageError(
            f"{len(apart)} tensors are parts of a parametrization, not weights of the graph",
            where=", ".join(map(str, apart[:4])),
            remedy="pass surgeon.tensors(module), which folds them, or the module itself",
        )
    return {name: to_array(value) for name, value in source.items()}


def as_initializers(
    model: ModelProto, quantized: Mapping[str, QuantizedWeight], source: Any
) -> dict[str, NDArray[Any]]:
    """Return `as_arrays`, quantised weights that came in floats as the integers they stand for."""
    arrays = as_arrays(source)
    latents = {name: arrays[name] for name in quantized if name in arrays}
    latents = {name: values for name, values in latents.items() if values.dtype == "f4"}
    return arrays | fold_latents(model, quantized, latents) if latents else arrays
