"""Quantised weights that learn: a float beside the integers, rounded to them in every run.

The parameter is what the integers stand for, w = (q − zero) · scale, in float32; a run computes
with q = saturate(round(w / scale) + zero), so it gives what the written file will give. Gradients
pass the rounding as if it were not there, and stop where q saturates (Bengio et al. 2013, arXiv
1308.3432; Jacob et al. 2018, arXiv 1712.05877). Zero points never move; a scale does where it is
trained itself: what it divides and multiplies by gives it the gradient of Esser et al. 2020 (arXiv
1902.08153). What must not enter: how such weights are found (`surgeon.graph.quantized_weights`),
the training loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from onnx import TensorProto
from torch import Tensor, nn
from torch.nn.utils import parametrize

from surgeon.ops import convert
from surgeon.ops.quantized import LIMITS, pass_through
from surgeon.torch_graph.stored import as_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from surgeon.graph.quantized_weights import QuantizedWeight
    from surgeon.torch_graph.module import GraphModule


def stand_for(weight: QuantizedWeight, codes: Tensor) -> Tensor:
    """Return in float32 what stored numbers stand for."""
    scale, zero, stored = _wide(weight, codes)
    return ((stored - zero) * scale).float()


def _wide(weight: QuantizedWeight, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return scale, zero point and stored numbers in a float type that tells them all apart."""
    wide = torch.float64 if weight.data_type == TensorProto.INT32 else torch.float32
    stored = codes.to(torch.int32) if codes.dtype == torch.uint16 else codes
    scale, zero = convert.from_numpy(weight.scale), convert.from_numpy(weight.zero)
    return scale.to(wide), zero.to(wide), stored.to(wide)


class Rounding(nn.Module):
    """How one latent weight becomes the stored numbers; its tensors follow the module's device.

    Calling it gives the stored numbers as floats, with a gradient: every operator that moves,
    casts or dequantises them computes the same as on integers.
    """

    scale: Tensor
    zero: Tensor
    codes: Tensor | None
    start: Tensor | None

    def __init__(self, weight: QuantizedWeight, codes: Tensor, by: str | None = None) -> None:
        """Keep scale and zero point.

        Args:
            weight: what is known of it.
            codes: the stored numbers, in their carrier type.
            by: the initializer that is its scale, where that learns, too.
        """
        super().__init__()
        self.number, self.by = weight.data_type, by
        scale, zero, stored = _wide(weight, codes)
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        for name, tensor in (("scale", scale), ("zero", zero), ("codes", None), ("start", None)):
            self.register_buffer(name, tensor, persistent=False)
        first = stand_for(weight, codes)
        if not torch.equal(self(first), stored):
            # int32 beyond what float32 tells apart, or a scale of 0: what never moved stays.
            self.codes, self.start = stored, first

    @property
    def limits(self) -> tuple[float, float]:
        """Least and greatest number the stored type holds."""
        if self.number in LIMITS:
            return LIMITS[self.number]
        kind = torch.finfo(convert.torch_dtype(self.number))
        return kind.min, kind.max

    def forward(self, latent: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return the numbers to store, as floats, for what they shall stand for.

        Args:
            latent: that.
            scale: as it is now, where it learns.
        """
        factor = self.scale if scale is None else scale.reshape(self.scale.shape)
        ratio = latent.to(self.scale.dtype) / factor
        with torch.no_grad():
            low, high = self.limits
            if self.number in LIMITS:
                whole = ratio.round().add_(self.zero).clamp_(low, high)
            else:
                whole = ratio.clamp(low, high).to(convert.torch_dtype(self.number)).to(ratio.dtype)
            if self.codes is not None and self.start is not None:
                whole = torch.where(latent == self.start, self.codes, whole)
        return pass_through(ratio, whole, low - self.zero, high - self.zero)

    @torch.no_grad()
    def fold(self, latent: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return the numbers to store, in the type that carries the stored one."""
        whole: Tensor = self(latent, scale)
        dtype = convert.torch_dtype(self.number)
        return (whole.to(torch.int32) if dtype == torch.uint16 else whole).to(dtype)


class Positive(nn.Module):
    """A scale that learns (a torch parametrization): start · e^x, so that it stays above zero.

    A step of an optimiser then changes it by a share of itself, as it changes weights by a share of
    theirs. Its gradient is a sum over all numbers that it scales: unless it was made smaller,
    clipping by the norm would leave nothing of any other.
    """

    start: Tensor
    SHARE = 1e-3

    def __init__(self, scale: Tensor) -> None:
        """Begin with a scale."""
        super().__init__()
        self.register_buffer("start", scale.detach().clone(), persistent=False)

    def forward(self, exponent: Tensor) -> Tensor:
        """Return the scale."""
        passed = exponent * self.SHARE
        return self.start * (passed + (exponent - passed).detach()).exp()

    def right_inverse(self, scale: Tensor) -> Tensor:
        """Return what is learnt for a scale."""
        return (scale / self.start).log()


def let_scales_learn(module: GraphModule, names: Sequence[str]) -> dict[str, list[str]]:
    """Let scales of a module learn above zero; return the parameter of each."""
    found = {}
    for name in names:
        scope, leaf = module.site(name)
        parametrize.register_parametrization(scope, leaf, Positive(getattr(scope, leaf)))
        found[name] = id(scope.parametrizations[leaf].original)  # type: ignore[index, union-attr]
    called = {id(parameter): name for name, parameter in module.named_parameters()}
    return {name: [called[one]] for name, one in found.items()}


def fold_latents(
    model: onnx.ModelProto,
    weights: Mapping[str, QuantizedWeight],
    latents: Mapping[str, NDArray[np.floating]],
) -> dict[str, NDArray[np.generic]]:
    """Return the numbers to store for latents of quantised weights, as a state_dict has them."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for name, values in latents.items():
        rounding = Rounding(weights[name], as_tensor(tensors[name]))
        folded = rounding.fold(convert.from_numpy(values).float())
        found[name] = convert.to_numpy(folded, tensors[name].data_type)
    return found
