"""The optimisers of a fit: torch's own fused ones, and AdamW with states of 8 bits.

One place, so that the loop asks for a kind and treats all alike: rates in `param_groups`, state as
plain tensors for checkpoints, `grad_scale` and `found_inf` for clipping and skipping without
waiting for the device. What must not enter: schedules, names of parameters, the loop.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from surgeon.errors import CheckError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Kind = Literal["adamw", "sgd", "adamw8bit"]

#: Elements that share one scale.
BLOCK: Final = 256
#: Parameters below so many elements keep float32 states: they cost nothing and matter most.
SMALL: Final = 4096
#: Blocks whose states are widened at a time, by kind of device: about ten temporaries of 1 MiB on a
#: CPU, where they stay in its cache, of 16 MiB elsewhere, where every call costs.
_BLOCKS_AT_A_TIME: Final = {"cpu": 2**10}
_BLOCKS_ELSEWHERE: Final = 2**14


def make(
    groups: Iterable[Mapping[str, Any]], *, kind: Kind, lr: float | Tensor
) -> torch.optim.Optimizer:
    """Return the optimiser of a kind, its step one pass over the weights where the device can.

    Each takes the attributes `grad_scale` (gradients are divided by it) and `found_inf` (1: the
    step changes nothing, its count included, 0: it counts), both float32 tensors without axes on
    the device, or None. Set them before every `step`; no `step` waits for the device.

    Args:
        groups: groups of parameters with their `lr` and `weight_decay`; other keys are kept. A rate
            may be changed at any time, as a number or as a tensor.
        kind: `adamw`; `sgd`, plain, without decay, for exact checks; `adamw8bit`, whose states
            take 2 bytes per parameter instead of 8.
        lr: rate of groups without one.

    Raises:
        UsageError: another kind.

    """
    entries = [dict(group) for group in groups]
    if kind == "sgd":
        for group in entries:
            group["weight_decay"] = 0.0
        return torch.optim.SGD(entries, lr=lr, fused=True)
    if kind == "adamw":
        made = torch.optim.AdamW(entries, lr=lr, fused=True)
        for parameter in (p for group in made.param_groups for p in group["params"]):
            made.state[parameter] = {  # as torch makes them at its first step: memory runs out here
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
        return made
    if kind == "adamw8bit":
        return AdamW8bit(entries, lr=lr)
    raise UsageError(
        f"unknown optimiser {kind!r}", where="optimizer", remedy="give adamw, sgd or adamw8bit"
    )


def restore(
    optimizer: torch.optim.Optimizer, parameter: Tensor, state: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer.state[parameter]` held, bit for bit, on whatever device it was.

    Args:
        optimizer: as `make` returns it, its groups as when the state was taken.
        parameter: one of its parameters.
        state: tensors by key, as they were in `optimizer.state[parameter]`.

    Raises:
        CheckError: the state is of another optimiser or parameter.

    """
    own = optimizer.state[parameter]
    if not isinstance(optimizer, AdamW8bit):
        for key, tensor in state.items():
            # In the layout of the weight: the fused step walks both in memory order.
            laid = torch.empty_like(parameter if tensor.ndim else tensor, dtype=tensor.dtype)
            own[key] = laid.copy_(tensor).to(parameter.device)
        return
    forms, wanted = (
        {key: (tensor.shape, tensor.dtype) for key, tensor in tensors.items()}
        for tensors in (state, own)
    )
    if forms != wanted:
        raise CheckError(
            f"the state of a parameter does not fit this optimiser: {sorted(forms)} instead of "
            f"{sorted(wanted)}, or of another shape",
            where="checkpoint",
            remedy="start again without --resume",
        )
    for key, tensor in state.items():
        own[key].copy_(tensor)


class AdamW8bit(torch.optim.Optimizer):
    """AdamW whose two moments lie in 8 bits each, one float32 scale per block of 256.

    Source: T. Dettmers et al., 8-bit Optimizers via Block-wise Quantization (2022). The states of a
    few blocks at a time are widened to float32, stepped by torch's own fused AdamW, and rounded
    again, so it differs from that by the rounding of its states alone. Two changes: the root of the
    second moment is stored, which is what divides the step, in half the range; and it is never
    rounded to zero, so that no step is divided by next to nothing.

    Weights of reduced precision are stepped in float32 and rounded. All states are plain tensors in
    an order that depends on the shape alone, not on the layout in memory or the device.
    """

    # Without values here: torch's GradScaler asks whether they are there.
    grad_scale: Tensor | None
    found_inf: Tensor | None
    #: Tells torch's GradScaler to hand over the two above instead of waiting for the device.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(
            groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group and make its states at once: memory runs out here, not amid a step."""
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            self.state[parameter] = _blank(parameter)
            _maps(parameter.device)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: ARG002 - torch's name
        """Refuse: torch would turn codes and scales into the type of the weight."""
        raise UsageError(
            "8-bit states are not loaded by load_state_dict",
            where=type(self).__name__,
            remedy="call surgeon.train.optimizers.restore for every parameter",
        )

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Move every parameter that has a gradient; gradients may be divided in place."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            self._step_small([p for p in moved if p.numel() < SMALL], group)
            for parameter in moved:
                if parameter.numel() >= SMALL:
                    self._step_large(parameter, group)
        return loss

    def _step_small(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Step parameters whose states are wide, all in one call."""
        states = [self.state[parameter] for parameter in parameters]
        flats = [_flat(parameter) for parameter in parameters]
        values = [flat.to(_wide(flat.dtype)) for flat in flats]
        self._adamw(
            values,
            [_flat(p.grad).to(wide.dtype) for p, wide in zip(parameters, values, strict=True)],
            [state["mean"] for state in states],
            [state["square"] for state in states],
            [state["step"] for state in states],
            group,
        )
        for parameter, flat, wide in zip(parameters, flats, values, strict=True):
            if wide is not flat:
                flat.copy_(wide)
            _put(flat, parameter)

    def _step_large(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """Step a parameter whose states are narrow, a few blocks at a time."""
        state, dtype = self.state[parameter], _wide(parameter.dtype)
        signed, unsigned = _maps(parameter.device)
        flat, gradient = _flat(parameter), _flat(parameter.grad)
        before = step = state["step"]
        at_a_time = _BLOCKS_AT_A_TIME.get(parameter.device.type, _BLOCKS_ELSEWHERE)
        for first in range(0, len(state["mean"]), at_a_time):
            rows = slice(first, first + at_a_time)
            part = slice(first * BLOCK, (first + at_a_time) * BLOCK)
            values = flat[part].to(dtype)
            mean = signed.widen(state["mean"][rows], state["mean_scale"][rows]).to(dtype)
            root = unsigned.widen(state["root"][rows], state["root_scale"][rows]).to(dtype)
            square = root.square_()
            step = before.clone()  # each part takes the same step
            count = len(values)  # the last block may be longer than the parameter
            self._adamw(
                [values],
                [gradient[part].to(dtype)],
                [mean.view(-1)[:count]],
                [square.view(-1)[:count]],
                [step],
                group,
            )
            if flat.dtype != dtype:
                flat[part].copy_(values)
            skip = getattr(self, "found_inf", None)
            signed.narrow(mean, state["mean"][rows], state["mean_scale"][rows], skip)
            unsigned.narrow(square.sqrt_(), state["root"][rows], state["root_scale"][rows], skip)
        before.copy_(step)
        _put(flat, parameter)

    def _adamw(
        self,
        values: list[Tensor],
        gradients: list[Tensor],
        means: list[Tensor],
        squares: list[Tensor],
        steps: list[Tensor],
        group: dict[str, Any],
    ) -> None:
        adamw(
            values,
            gradients,
            means,
            squares,
            [],
            steps,
            fused=True,
            grad_scale=getattr(self, "grad_scale", None),
            found_inf=getattr(self, "found_inf", None),
            amsgrad=False,
            maximize=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
        )


@dataclass(frozen=True)
class _Map:
    """What 256 codes stand for: `levels` [256], ascending; `nearest` [65536], by float16 bits."""

    levels: Tensor
    nearest: Tensor

    def widen(self, codes: Tensor, scale: Tensor) -> Tensor:
        """Return the float32 values of codes [rows, BLOCK] with a scale [rows, 1]."""
        return self.levels.index_select(0, codes.view(-1).int()).view(codes.shape).mul_(scale)

    def narrow(self, values: Tensor, codes: Tensor, scale: Tensor, skip: Tensor | None) -> None:
        """Round values [rows, BLOCK] into codes and scale, in place, unless `skip` is 1.

        A table of all float16 numbers takes a twentieth of the time of a search among the levels
        on a CPU. It errs where a value lies within 2^-11 of the middle between two levels, which
        are 2^-7 apart or more.
        """
        values = values.float()
        largest = values.abs().amax(1, keepdim=True)
        share = values / largest.clamp_min(torch.finfo(torch.float32).tiny)
        bits = share.half().view(torch.int16).int() & 0xFFFF
        rounded = self.nearest.index_select(0, bits.view(-1)).view(codes.shape)
        if skip is not None:  # rounding once more what was rounded could move it
            kept = skip.bool()
            rounded, largest = torch.where(kept, codes, rounded), torch.where(kept, scale, largest)
        codes.copy_(rounded)
        scale.copy_(largest)


@functools.cache
def _maps(device: torch.device) -> tuple[_Map, _Map]:
    """Return the maps of [-1, 1] and of [0, 1] on a device; the first call there waits for it."""
    both = []
    numbers = torch.arange(2**16).to(torch.int16).view(torch.float16).float()
    for signed in (True, False):
        levels = torch.tensor(_levels(signed=signed), dtype=torch.float32)
        bounds = (levels[1:] + levels[:-1]) / 2
        if not signed:
            bounds[0] = -torch.inf  # the least value above zero stands for all below it, too
        nearest = torch.bucketize(numbers, bounds).to(torch.uint8)
        both.append(_Map(levels.to(device), nearest.to(device)))
    return both[0], both[1]


def _levels(*, signed: bool) -> list[float]:
    """Return the dynamic map: 0, 1 and seven decades, each with half the values of the one above.

    The values of a decade are the middles of equal parts of it, from 1e-7 to 1; a signed map has
    them with both signs, and half as many.
    """
    levels = [0.0, 1.0]
    for decade in range(-6, 1):
        parts = 2 ** (decade + 6) * (1 if signed else 2)
        middles = [10.0**decade * (0.1 + 0.9 * (part + 0.5) / parts) for part in range(parts)]
        levels += middles + [-middle for middle in middles] * signed
    return sorted(levels)


def _blank(parameter: Tensor) -> dict[str, Tensor]:
    """Return the state of a parameter before the first step."""
    count, device = parameter.numel(), parameter.device
    state = {"step": torch.zeros((), dtype=torch.float32, device=device)}
    if count < SMALL:
        for key in ("mean", "square"):
            state[key] = torch.zeros(count, dtype=_wide(parameter.dtype), device=device)
        return state
    blocks = -(-count // BLOCK)
    for key in ("mean", "root"):
        state[key] = torch.zeros((blocks, BLOCK), dtype=torch.uint8, device=device)
        state[f"{key}_scale"] = torch.zeros((blocks, 1), dtype=torch.float32, device=device)
    return state


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _ordered(tensor: Tensor) -> Tensor:
    """Return a view with the channels of four axes last, as training lays convolutions out."""
    return tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor


def _flat(tensor: Tensor | None) -> Tensor:
    """Return the values in an order that follows from the shape; a view where memory allows."""
    assert tensor is not None
    return _ordered(tensor.detach()).reshape(-1)


def _put(flat: Tensor, parameter: Tensor) -> None:
    """Write what `_flat` gave back into the parameter, where it was a copy."""
    ordered = _ordered(parameter.detach())
    if not ordered.is_contiguous():
        ordered.copy_(flat.view(ordered.shape))
