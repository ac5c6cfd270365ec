"""Control flow: subgraphs arrive as callables that know the values around them.

What must not enter: how a subgraph is run (`surgeon.torch_graph.program`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from surgeon.ops.host import Host
from surgeon.ops.registry import op, refuse

Body = Callable[..., list[Any]]


@op("If")
def if_(cond: bool, *, then_branch: Body, else_branch: Body) -> tuple[Any, ...]:
    """Run one of two subgraphs."""
    return tuple((then_branch if cond else else_branch)())


def _truth(value: Any) -> bool:
    if isinstance(value, Host):
        return bool(value.values[0])
    if isinstance(value, Tensor):
        return bool(value.reshape(()).item())
    return bool(value)


def _stacked(parts: list[Any], axis: int = 0) -> Any:
    return torch.stack([_tensor(p) for p in parts], axis)


def _tensor(value: Any) -> Any:
    return value.tensor() if isinstance(value, Host) else value


@op("Loop")
def loop(
    M: int | None,
    cond: Any,
    *v_initial: Any,
    body: Body,
    device: torch.device,
) -> tuple[Any, ...]:
    """Repeat a subgraph: at most M times, while its condition holds.

    The body takes the iteration number, the condition and the carried values; it returns the
    condition, the carried values and one element of every scan output.
    """
    carried = list(v_initial)
    takes = getattr(body, "takes", None) or ((), ())
    going = True if cond is None else _truth(cond)
    scans: list[list[Any]] | None = None
    number = 0
    while going and (M is None or number < M):
        # Some exporters declare both as [1], and their bodies take them so.
        condition = torch.full(takes[1], True, device=device)
        iteration = torch.full(takes[0], number, dtype=torch.int64, device=device)
        results = body(iteration, condition, *carried)
        going = _truth(results[0])
        carried = results[1 : 1 + len(carried)]
        parts = results[1 + len(carried) :]
        if scans is None:
            scans = [[] for _ in parts]
        for collected, part in zip(scans, parts, strict=True):
            collected.append(part)
        number += 1
    if scans is None:
        return (*carried, *_empty_scans(body, len(carried) + 1, device))
    return (*carried, *(_stacked(parts) for parts in scans))


def _empty_scans(body: Body, skip: int, device: torch.device) -> list[Tensor]:
    """Return the scan outputs of no iterations: empty, in the shape the body declares."""
    declared = getattr(body, "declared", None)
    if declared is None:
        return []
    return [
        torch.zeros([0, *shape], dtype=dtype, device=device) for shape, dtype in declared[skip:]
    ]


def _scan(
    states: list[Any],
    inputs: list[Tensor],
    body: Body,
    input_axes: list[int],
    input_directions: list[int],
    output_axes: list[int] | None,
    output_directions: list[int] | None,
    device: torch.device,
) -> tuple[Any, ...]:
    length = inputs[0].shape[input_axes[0]]
    scans: list[list[Any]] | None = None
    for step in range(length):
        slices = [
            x.select(axis, length - 1 - step if backward else step)
            for x, axis, backward in zip(inputs, input_axes, input_directions, strict=True)
        ]
        results = body(*states, *slices)
        states, parts = results[: len(states)], results[len(states) :]
        if scans is None:
            scans = [[] for _ in parts]
        for collected, part in zip(scans, parts, strict=True):
            collected.append(part)
    if scans is None:
        return (*states, *_empty_scans(body, len(states), device))
    outputs = []
    for i, parts in enumerate(scans):
        ordered = parts[::-1] if output_directions and output_directions[i] else parts
        outputs.append(_stacked(ordered, output_axes[i] if output_axes else 0))
    return (*states, *outputs)


@op("Scan", 8)
def scan_8(
    sequence_lens: Tensor | None,
    *initial_state_and_scan_inputs: Tensor,
    body: Body,
    directions: list[int] | None,
    num_scan_inputs: int,
    device: torch.device,
) -> tuple[Any, ...]:
    """Scan over axis 1 of batched inputs, sample by sample."""
    if sequence_lens is not None:
        refuse("Scan-8 with sequence_lens")
    values = list(initial_state_and_scan_inputs)
    split = len(values) - num_scan_inputs
    backward = directions or [0] * num_scan_inputs
    samples = [
        _scan(
            [v[b] for v in values[:split]],
            [v[b] for v in values[split:]],
            body,
            [0] * num_scan_inputs,
            backward,
            None,
            None,
            device,
        )
        for b in range(values[0].shape[0])
    ]
    return tuple(torch.stack(parts) for parts in zip(*samples, strict=True))


@op("Scan", 9, 11, 16, 19, 21, 23, 24, 25)
def scan(
    *initial_state_and_scan_inputs: Tensor,
    body: Body,
    num_scan_inputs: int,
    scan_input_axes: list[int] | None,
    scan_input_directions: list[int] | None,
    scan_output_axes: list[int] | None,
    scan_output_directions: list[int] | None,
    device: torch.device,
) -> tuple[Any, ...]:
    """Apply a subgraph along an axis of the scan inputs, carrying states from slice to slice."""
    values = list(initial_state_and_scan_inputs)
    split = len(values) - num_scan_inputs
    return _scan(
        values[:split],
        values[split:],
        body,
        scan_input_axes or [0] * num_scan_inputs,
        scan_input_directions or [0] * num_scan_inputs,
        scan_output_axes,
        scan_output_directions,
        device,
    )
