"""Every way in which a fit may run its passes learns what the plain one learns."""

from __future__ import annotations

from dataclasses import replace

import networks
import numpy as np
import pytest
import torch

import surgeon
from surgeon.tune import fit as fitting
from surgeon.tune.device import arithmetic
from surgeon.tune.fit import fit
from surgeon.tune.settings import FitSettings

SETTINGS = FitSettings(
    epochs=3, batch=16, lr=0.003, patience=0, keep="last", label_smoothing=0.0, compile="off"
)
WAYS = {
    "compiled": {"compile": "on"},
    "several passes a step": {"batch": 8, "accumulate": 2},
    "compiled, several passes a step": {"compile": "on", "batch": 8, "accumulate": 2},
    "low memory": {"memory": "low"},
    "lowest memory": {"memory": "lowest"},
    "compiled, fp16": {"compile": "on", "precision": "fp16"},
    "compiled, repeatable": {"compile": "on", "deterministic": True},
}
CLOSE = {"lowest memory": 5e-2, "compiled, fp16": 5e-2}
"""Largest difference of losses; float32 ways differ by the order of their additions."""


class Batches:
    """Pictures of one pattern per class, 49 of them: parts of two sizes."""

    def __init__(self, samples=49, seed=0):
        rng = np.random.default_rng(seed)
        self.labels = np.arange(samples) % 3
        patterns = np.random.default_rng(7).standard_normal((3, 3, 12, 12))
        x = patterns[self.labels] + 1.5 * rng.standard_normal((samples, 3, 12, 12))
        self.x = torch.from_numpy(x.astype(np.float32))

    @property
    def n(self):
        return len(self.labels)

    def load(self, indices):
        return (self.x[torch.from_numpy(indices)],)


def losses(device, **changes):
    patient = surgeon.operate(networks.convnet(), case="large-similar", classes=3)
    result = fit(
        surgeon.to_torch(patient), Batches(), Batches(30, 1), trainable=patient.trainable,
        settings=replace(SETTINGS, device=device, **changes),
    )  # fmt: skip
    assert result.stopped is None
    return np.array([row["validation_loss"] for row in result.history]), result


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Compare in full float32: TF32 is what training would do on a GPU by itself."""
    monkeypatch.setattr(fitting, "arithmetic", lambda device, exact: arithmetic(device, exact=True))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_way_learns_the_same(way, device):
    expected, _ = losses(device)
    found, result = losses(device, **WAYS[way])
    assert expected[-1] < expected[0]
    assert np.abs(found - expected).max() <= CLOSE.get(way, 5e-3) * expected[0]
    # A machine without a compiler says so and goes on.
    told = any("does not work here" in note for note in result.notes)
    assert result.compiled == ("compiled" in way and not told)
