"""The arithmetic of training, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from surgeon.train import schedule


def test_epochs_fall_and_steps_rise_with_the_data():
    sizes = [10, 100, 500, 2000, 5000, 60_000, 10**6]
    epochs = [schedule.default_epochs(n) for n in sizes]
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[1] == 50
    assert all(5 <= e <= 60 for e in epochs)
    steps = [n * e for n, e in zip(sizes, epochs, strict=True)]
    assert steps == sorted(steps)
    assert schedule.default_epochs(5000, scratch=True) == 2 * schedule.default_epochs(5000)


@pytest.mark.parametrize(
    ("samples", "batch"), [(3, 4), (50, 4), (100, 8), (200, 16), (319, 16), (320, 32), (10**6, 32)]
)
def test_batch(samples, batch):
    assert schedule.default_batch(samples) == batch


def test_rate_warms_up_and_anneals():
    assert schedule.rate_factor(0, 0.25) == 0.25
    assert schedule.rate_factor(0, 2) == 1
    assert schedule.rate_factor(0.5, 1) == pytest.approx(0.5)
    assert schedule.rate_factor(1, 1) == pytest.approx(0)
    assert schedule.rate_factor(1.5, 1) == pytest.approx(0)


def test_depth():
    assert schedule.depth_factor(1, 0.5) == 1
    assert schedule.depth_factor(0, 0.5) == 0.5**10
    assert schedule.depth_factor(-1, 0.5) == 0.5**10
    assert schedule.depth_factor(0.9, 0.5) == 0.5
    groups = schedule.group_by_rate(
        ["a", "b", "head", "head.bias"],
        {"a": 0.0, "b": 0.02},
        {"a": 4, "b": 4, "head": 2, "head.bias": 1},
        0.9,
    )
    assert groups == [
        (pytest.approx(0.9**10), True, ["a", "b"]),
        (1.0, True, ["head"]),
        (1.0, False, ["head.bias"]),
    ]


def test_epoch_is_a_permutation_without_leftovers():
    parts = schedule.split_epoch(33, 16, seed=1, epoch=0)
    assert [len(part) for part in parts] == [11, 11, 11]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(33))
    again = schedule.split_epoch(33, 16, seed=1, epoch=0)
    assert all((a == b).all() for a, b in zip(parts, again, strict=True))
    for other in ({"seed": 2, "epoch": 0}, {"seed": 1, "epoch": 1}):
        assert not (
            np.concatenate(schedule.split_epoch(33, 16, **other)) == np.concatenate(parts)
        ).all()


def test_step_seeds_differ():
    seeds = {schedule.step_seed(s, e, t) for s in range(4) for e in range(4) for t in range(4)}
    assert len(seeds) == 64
    assert all(0 <= seed < 2**63 for seed in seeds)
