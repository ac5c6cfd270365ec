"""The 8-bit optimiser on a device: the values of the CPU, states that travel, no waiting."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from surgeon.train import optimizers


def weights(device):
    draw = torch.Generator().manual_seed(3)
    shapes = [(64, 32, 3, 3), (300, 96), (10,)]
    values = [torch.randn(shape, generator=draw) for shape in shapes]
    values[0] = values[0].contiguous(memory_format=torch.channels_last)
    return [nn.Parameter(value.to(device)) for value in values]


def give_gradients(parameters, step):
    draw = torch.Generator().manual_seed(step)
    for p in parameters:
        p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=draw))


def make(parameters, kind="adamw8bit"):
    groups = [{"params": parameters, "lr": 0.01, "weight_decay": 0.1}]
    return optimizers.make(groups, kind=kind, lr=0.01)


def trained(device, steps, kind="adamw8bit"):
    parameters = weights(device)
    optimizer = make(parameters, kind)
    for step in steps:
        give_gradients(parameters, step)
        optimizer.step()
    return parameters, optimizer


def plain(*lists):
    return zip(*([p.detach().cpu() for p in parameters] for parameters in lists), strict=True)


@contextmanager
def never_waiting(device):
    """Raise where the host waits for a GPU; on the CPU there is nothing to wait for."""
    try:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def test_steps_are_those_of_the_cpu(device):
    found, _ = trained(device, range(20))
    expected, _ = trained("cpu", range(20))
    for p, q, was in plain(found, expected, weights("cpu")):
        # Where the last digit decides between two codes, the two go on from neighbouring levels.
        moved = float((q - was).norm())
        assert float((p - q).norm()) <= 1e-2 * moved


def test_steps_stay_near_those_of_float32_states(device):
    narrow, _ = trained(device, range(50))
    wide, _ = trained(device, range(50), "adamw")
    for p, q, was in plain(narrow, wide, weights(device)):
        assert float((p - q).norm()) <= 0.1 * float((q - was).norm())


def test_states_travel_to_the_cpu_and_back(device):
    parameters, optimizer = trained(device, range(3))
    for other in ("cpu", device):
        there = [nn.Parameter(p.detach().to(other)) for p in parameters]
        moved = make(there)
        for p, q in zip(parameters, there, strict=True):
            optimizers.restore(moved, q, {k: t.cpu() for k, t in optimizer.state[p].items()})
            for key, tensor in optimizer.state[p].items():
                assert moved.state[q][key].device.type == other
                assert torch.equal(moved.state[q][key].cpu(), tensor.cpu())
    give_gradients(parameters, 3)
    give_gradients(there, 3)
    optimizer.step()
    moved.step()
    assert all(torch.equal(p, q) for p, q in zip(parameters, there, strict=True))


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit"])
def test_a_step_clips_and_skips_without_waiting(kind, device):
    """A synchronising call inside a step raises under torch's own detector."""
    parameters, optimizer = trained(device, range(2), kind)
    before = [p.detach().clone() for p in parameters]
    count = float(optimizer.state[parameters[0]]["step"])
    for infinite in (True, False):
        give_gradients(parameters, 2)
        if infinite:
            parameters[0].grad[0, 0, 0, 0] = torch.inf
        with never_waiting(device):
            norm = nn.utils.get_total_norm([p.grad for p in parameters])
            optimizer.grad_scale = norm.clamp(min=1.0)
            optimizer.found_inf = (~torch.isfinite(norm)).float()
            optimizer.step()
        stayed = all(torch.equal(p, q) for p, q in zip(parameters, before, strict=True))
        assert stayed is infinite
        assert float(optimizer.state[parameters[0]]["step"]) == count + (not infinite)
