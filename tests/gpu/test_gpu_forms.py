"""Every way in which a fit may run its passes learns what the plain one learns."""

from __future__ import annotations

from dataclasses import replace

import networks
import numpy as np
import pytest
from classes import fit
from patterns import Batches, pictures

import surgeon
from surgeon.train.settings import FitSettings

SETTINGS = FitSettings(epochs=3, batch=16, lr=0.003, patience=0, keep="last", compile="off")
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


def losses(device, **changes):
    """Train on 49 pictures: parts of two sizes."""
    patient = surgeon.operate(networks.convnet(), case="large-similar", classes=3)
    train, validation = Batches(pictures(49)), Batches(pictures(30, seed=1))
    result = fit(
        surgeon.to_torch(patient), train, validation, trainable=patient.trainable,
        settings=replace(SETTINGS, device=device, **changes), smoothing=0.0,
    )  # fmt: skip
    assert result.stopped is None
    return np.array([row["validation_loss"] for row in result.history]), result


@pytest.mark.slow
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("way", WAYS)
def test_every_way_learns_the_same(way, device):
    expected, _ = losses(device)
    found, result = losses(device, **WAYS[way])
    assert expected[-1] < expected[0]
    assert np.abs(found - expected).max() <= CLOSE.get(way, 5e-3) * expected[0]
    # A machine without a compiler says so and goes on.
    told = any("does not work here" in note for note in result.notes)
    assert result.compiled == ("compiled" in way and not told)
