"""The weights moved by the gradients that lie in them: optimiser, clipping, scaling.

What must not enter: how a gradient came about, the schedule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from surgeon.train import optimizers
from surgeon.train.schedule import group_by_rate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgeon.train.parameters import Parameters
    from surgeon.train.settings import FitSettings


class Update:
    """Moves the weights by the gradients that lie in them.

    Attributes:
        optimizer: its groups have each a factor of the rate.
        scaler: of losses, where gradients are of 16 bits.
    """

    def __init__(
        self, parameters: Parameters, settings: FitSettings, lr: float, device: torch.device
    ) -> None:
        self._parameters = parameters
        self._clip = settings.clip
        self.optimizer = _optimizer(parameters, settings, lr)
        halves = any(p.dtype == torch.float16 for p in parameters.learning.values())
        self.scaler = torch.amp.GradScaler(
            device.type, enabled=halves or settings.precision == "fp16", init_scale=2.0**12
        )

    def set_rate(self, rate: float) -> None:
        """Set the rate of every group by that of the head."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def move(self, loss: Tensor) -> Tensor:
        """Take the optimiser's step; return the norm of the gradient.

        The fused optimisers divide by `grad_scale` as they go, which clips without a pass of its
        own, and do nothing where `found_inf` is 1: nobody has to look at a number before.
        """
        gradients = self._parameters.gradients()
        optimizer: Any = self.optimizer
        self.scaler.unscale_(optimizer)
        norm = nn.utils.get_total_norm(gradients).float()
        if self._clip is not None:
            optimizer.grad_scale = ((norm + 1e-6) / self._clip).clamp(min=1.0)
        if not self.scaler.is_enabled():
            optimizer.found_inf = 1.0 - (torch.isfinite(norm) & torch.isfinite(loss)).float()
        self.scaler.step(optimizer)
        self.scaler.update()
        for name in ("grad_scale", "found_inf"):
            if hasattr(optimizer, name):
                delattr(optimizer, name)
        self._parameters.follow()
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """Return the float32 copies and the state of the optimiser."""
        found: dict[str, Tensor] = {}
        for name, master in self._parameters.masters.items():
            if master is not self._parameters.learning[name]:
                found[f"master/{name}"] = master
            for key, value in self.optimizer.state.get(master, {}).items():
                found[f"optimizer/{key}/{name}"] = value
        return found

    def go_on(self, scaler: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Put them back."""
        self.scaler.load_state_dict(scaler)
        masters = self._parameters.masters
        states: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            if part == "master":
                masters[rest].detach().copy_(tensor)
            elif part == "optimizer":
                key, _, owner = rest.partition("/")
                states.setdefault(owner, {})[key] = tensor
        for owner, state in states.items():
            optimizers.restore(self.optimizer, masters[owner], state)


def _optimizer(parameters: Parameters, settings: FitSettings, lr: float) -> torch.optim.Optimizer:
    """Return the optimiser: rates fall with depth, small tensors do not decay."""
    masters = parameters.masters
    grouped = group_by_rate(
        list(masters),
        {one: settings.depths.get(name, 1.0) for one, name in parameters.initializers.items()},
        {name: parameter.ndim for name, parameter in masters.items()},
        1.0 if settings.scratch else settings.lr_decay,
    )
    groups = [
        {
            "params": [masters[name] for name in names],
            "factor": factor,
            "lr": lr * factor,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for factor, decays, names in grouped
    ]
    kind: optimizers.Kind = settings.optimizer
    if kind == "adamw" and settings.memory == "lowest":
        kind = "adamw8bit"
    return optimizers.make(groups, kind=kind, lr=lr)
