"""Steps on a loss that people named begin where the task's own head is solved."""

from __future__ import annotations

import networks as nw
import numpy as np

import surgeon


def test_the_first_step_is_taken_from_the_solved_head():
    codes = np.arange(90) % 3
    values = np.random.default_rng(0).normal(0, 1, (90, 8)) + 4 * np.eye(3, 8)[codes]
    data = {"x": values.astype(np.float32), "labels": codes}
    outcome = surgeon.finetune(
        nw.mlp(), data, case="small-similar", loss="focal:gamma=0", epochs=1, lr=1e-6, device="cpu"
    )
    first = next(row for row in outcome.history if row["stage"] == "head" and row["loss"])
    assert first["loss"] < 0.5 * np.log(3)  # what a head that is drawn begins with, or more
