"""The range test: what it chooses of a curve, and that it leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from surgeon.train.objective import CrossEntropy
from surgeon.train.rates import HIGHEST, LOWEST, STEPS, choose_rate, find_rate
from surgeon.train.settings import FitSettings

RATES = np.geomspace(LOWEST, HIGHEST, STEPS)


class Samples:
    """Two clouds in memory."""

    def __init__(self, n=48):
        self.targets = np.arange(n) % 2
        noise = np.random.default_rng(0).standard_normal((n, 5))
        self.x = torch.from_numpy((noise + 2 * self.targets[:, None]).astype(np.float32))

    @property
    def n(self):
        return len(self.targets)

    def load(self, indices):
        return (self.x[torch.from_numpy(indices)],)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)
    )


def found(module, seed=0, objective=None, **settings):
    names = [name for name, _ in module.named_parameters()]
    settings = FitSettings(device="cpu", batch=16, seed=seed, **settings)
    return find_rate(
        module, Samples(), objective=objective or CrossEntropy(), trainable=names, settings=settings
    )


def test_a_rate_of_the_fall_is_chosen():
    power = np.log10(RATES)
    curve = np.where(power < -4, 1.0, np.where(power < -2, 1.0 - 0.4 * (power + 4), 0.2))
    curve = np.where(power > -1, 0.2 + 3 * (power + 1), curve)
    assert 1e-4 < choose_rate(RATES, curve) < 1e-2


@pytest.mark.parametrize("waver", [0.0, 0.005])
def test_behind_a_curve_that_does_not_fall_lies_a_tenth_of_where_it_rises(waver):
    power = np.log10(RATES)
    noise = waver * np.random.default_rng(0).uniform(-1, 1, STEPS)
    curve = 1.0 + noise + np.clip(power + 2, 0, None)  # rises from 1e-2 on
    assert 5e-4 < choose_rate(RATES, curve) < 2e-3


def test_a_curve_of_one_step_is_a_curve():
    assert LOWEST / 10 <= choose_rate((LOWEST,), (1.0,)) <= LOWEST
    assert choose_rate((LOWEST,), (float("nan"),)) > 0


def test_the_module_stays_as_it_was_and_the_seed_decides():
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    first, state = found(module), torch.get_rng_state()
    assert all(torch.equal(before[name], now) for name, now in module.state_dict().items())
    assert not module.training
    assert all(parameter.grad is None for parameter in module.parameters())
    assert found(module) == first
    assert found(module, seed=1).losses != first.losses
    assert torch.equal(torch.get_rng_state(), state)
    assert LOWEST < first.chosen < HIGHEST
    assert len(first.rates) == len(first.losses) == len(first.smoothed) <= STEPS
    assert list(first.rates) == sorted(first.rates)


def test_weights_of_an_objectives_own_keep_no_gradient():
    class Scaled(CrossEntropy):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(()))

        def loss(self, outputs, targets):
            return super().loss(outputs * self.factor, targets)

    objective = Scaled()
    found(network(), objective=objective)
    assert objective.factor.grad is None
    assert objective.factor.item() == 1


def test_a_loss_that_is_no_number_ends_it():
    module = network()
    with torch.no_grad():
        module[4].weight.fill_(float("inf"))
    assert len(found(module).rates) == 1
