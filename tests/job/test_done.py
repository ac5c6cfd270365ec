"""What stages give are values: they add up, and nobody writes into what another gave."""

from __future__ import annotations

import itertools
from dataclasses import FrozenInstanceError, fields, replace

import networks as nw
import numpy as np
import pytest

import surgeon
from surgeon.job import stages
from surgeon.job.done import Candidate, SolvedHead, StageDone, Work

FIRST = Work(
    frontier={"nodes_frozen": 3},
    providers=("CPUExecutionProvider",),
    history=({"stage": "head"},),
    peak_memory=5,
    samples_seen=10,
    seconds_features=1.0,
    notes=("one",),
)
SECOND = Work(
    frontier={"nodes_frozen": 0},
    alone=True,
    history=({"stage": "all"},),
    compiled=True,
    samples_seen=20,
    seconds_train=2.0,
    notes=("two",),
)


def test_work_adds_up_in_its_order():
    both = FIRST + SECOND
    assert [row["stage"] for row in both.history] == ["head", "all"]
    assert both.notes == ("one", "two")
    assert (both.samples_seen, both.seconds_features, both.seconds_train) == (30, 1.0, 2.0)
    assert both.frontier == {"nodes_frozen": 0}  # of the last split
    assert both.providers == FIRST.providers  # the second had no frozen part
    assert both.peak_memory == 5
    assert both.alone
    assert both.compiled


@pytest.mark.parametrize("work", [FIRST, SECOND])
def test_no_work_changes_nothing(work):
    assert Work() + work == work == work + Work()


def test_work_may_be_added_up_in_any_groups():
    third = Work(resumed={"stage": "all", "epoch": 2}, notes=("three",))
    assert (FIRST + SECOND) + third == FIRST + (SECOND + third)


@pytest.mark.parametrize("value", [Work(), Candidate(), StageDone("pretrained")])
def test_nobody_writes_into_a_value(value):
    for one in fields(value):
        with pytest.raises(FrozenInstanceError):
            setattr(value, one.name, None)


def test_more_work_leaves_what_was_known():
    known = StageDone("race", without_gain=("all",), work=FIRST)
    later = known.worked(SECOND)
    assert known.work == FIRST
    assert later.work == FIRST + SECOND
    assert replace(later, work=FIRST) == known


def test_what_a_solved_head_believes_are_its_own_logits_within_rounding():
    random = np.random.default_rng(0)
    features, weight = random.standard_normal((6, 4)), random.standard_normal((3, 4))
    bias = random.standard_normal(3)
    solved = SolvedHead(Candidate("probe"), np.arange(6), features, weight, bias)
    logits, slack = solved.believed(1e-4).at(np.array([1, 4]))
    np.testing.assert_allclose(logits, solved.logits()[[1, 4]])
    # By all that is summed, not by what is left of it.
    assert (slack >= 1e-4 * np.abs(logits).max(axis=1, keepdims=True)).all()


def data(n=60):
    random = np.random.default_rng(0)
    width = surgeon.load(nw.mlp()).inputs[0].shape[1]
    labels = np.arange(n) % 3
    values = random.standard_normal((n, width)).astype(np.float32)
    values[:, :3] += 3.0 * np.eye(3, dtype=np.float32)[labels]
    return {surgeon.load(nw.mlp()).inputs[0].name: values, "labels": labels}


@pytest.mark.parametrize("case", ["small-similar", "large-similar"])
def test_a_stage_begins_with_what_the_one_before_gave(case, monkeypatch):
    """Every stage is given a value and gives another: the chain of them is the whole training."""
    seen = []

    def noticed(real):
        def stage(*arguments, **options):
            done = real(*arguments, **options)
            seen.append((next(one for one in arguments if isinstance(one, StageDone)), done))
            return done

        return stage

    for name in ("_solve_stage", "fit_stage"):
        monkeypatch.setattr(stages, name, noticed(getattr(stages, name)))
    body = surgeon.finetune(
        nw.mlp(), data(), case=case, epochs=1, device="cpu", threads=1
    ).document()
    assert len(seen) == (1 if case == "small-similar" else 2)
    for (_, before), (known, _) in itertools.pairwise(seen):
        assert known is before
    assert list(seen[-1][1].work.history) == body["history"]
    assert len(seen[0][1].work.history) == 1  # what came later was not written into it
    assert seen[0][1].probe is seen[-1][1].probe
