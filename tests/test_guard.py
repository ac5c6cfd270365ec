"""The guard: what is delivered is never worse on validation than the closed-form probe."""

from __future__ import annotations

import json

import networks as nw
import numpy as np
import pytest

import surgeon
from surgeon.plugin import hookimpl
from surgeon.plugin.manager import load_plugins
from surgeon.probe import guard
from surgeon.records import TRAIN_ALL, Case, Plan, Stage
from surgeon.tasks.base import Scores

HEAD = {"surgeon.head.weight", "surgeon.head.bias"}


def separable(n=60, seed=0, gap=4.0):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    x = random.standard_normal((n, 8)).astype(np.float32)
    x[:, 0] += gap * labels
    return {"x": x, "labels": labels}


def probe_of(body):
    (row,) = [row for row in body["history"] if row["stage"] in ("head", "probe")]
    return row["validation_accuracy"]


def says_probe(body):
    assert body["delivered"] == "probe"
    if body["plan"]["init"] != "random":  # else the operated file is one of random weights
        assert set(body["changed"]) <= HEAD
    assert body["metrics"]["validation"]["accuracy"] == pytest.approx(probe_of(body))
    assert any("the probe is delivered" in note for note in body["warnings"]), body["warnings"]
    json.dumps(body, allow_nan=False)


# ── the rule ─────────────────────────────────────────────────────────────────────────────────────


def scores(quality, loss=0.2):
    quality = np.asarray(quality, np.float64)
    return Scores({}, quality, np.broadcast_to(loss, quality.shape).astype(np.float64))


def compared(probe_right, tuned_right, expected=None):
    return guard.compare(scores(probe_right), scores(tuned_right), "accuracy", expected=expected)


def test_the_more_accurate_one_is_better():
    half = np.arange(200) < 100
    same = compared(half, half)
    assert (same.gain, same.better) == (0.0, False)
    assert same.error == pytest.approx(np.sqrt(2) / 200)
    assert "not better" in same.note
    assert compared(half, np.arange(200) < 101).better
    assert not compared(half, np.arange(200) < 99).better


def test_a_gain_within_its_error_must_reach_what_cross_validation_expects():
    probe, one_more = np.arange(16) < 13, np.arange(16) < 14  # 81 and 88 %
    assert compared(probe, one_more).better
    assert compared(probe, one_more, expected=0.85).better
    doubtful = compared(probe, one_more, expected=0.94)
    assert not doubtful.better
    assert "cross-validation" in doubtful.note
    assert compared(probe, np.arange(16) < 16, expected=1.0).better  # three are beyond chance


def test_where_both_are_as_good_the_loss_decides():
    right = np.arange(200) < 190
    assert guard.compare(scores(right, 0.4), scores(right, 0.3), "accuracy").better
    assert not guard.compare(scores(right, 0.3), scores(right, 0.4), "accuracy").better


def test_any_quality_decides_by_its_shares():
    """An R² has shares below 0, and each output of a sample has its part in one."""
    random = np.random.default_rng(0)
    probe, noise = random.normal(0.2, 1.0, 400), random.normal(0.0, 0.05, 400)
    found = guard.compare(scores(probe), scores(probe + 0.1 + noise), "r2", expected=0.9)
    assert found.gain == pytest.approx(0.1, abs=0.01)
    assert found.error < 0.01
    assert found.better
    assert set(found.as_dict()["tuned"]) == {"r2", "loss"}


def test_the_error_is_that_of_a_paired_difference():
    random = np.random.default_rng(0)
    probe, tuned = random.random(500) < 0.7, random.random(500) < 0.8
    found = compared(probe, tuned)
    difference = tuned.astype(float) - probe
    assert found.gain == pytest.approx(difference.mean())
    assert found.error == pytest.approx(difference.std() / np.sqrt(500), rel=0.02)


def test_what_is_no_number_counts_as_wrong():
    good, bad = scores(np.ones(4)), scores(np.ones(4), np.nan)
    assert guard.compare(good, bad, "accuracy").tuned["accuracy"] == 0
    assert not guard.compare(good, bad, "accuracy").better


# ── in a run ─────────────────────────────────────────────────────────────────────────────────────


def test_a_tuned_model_that_is_no_better_is_not_delivered():
    # What separates the classes is known to the old features: steps have little to add.
    body = surgeon.finetune(
        nw.mlp(), separable(), case="large-similar", epochs=2, lr=1e-6, device="cpu"
    ).document()
    assert probe_of(body) == 1.0
    says_probe(body)
    assert body["guard"]["gain"] == 0
    assert body["guard"]["error"] > 0
    assert body["guard"]["samples"] == body["data"]["validation"]


def test_a_tuned_model_that_is_better_is_delivered():
    # Which of two inputs is larger in size: no linear classifier of the old features knows.
    random = np.random.default_rng(0)
    x = random.standard_normal((400, 8)).astype(np.float32)
    data = {"x": x, "labels": (np.abs(x[:, 0]) > np.abs(x[:, 1])).astype(int)}
    body = surgeon.finetune(
        nw.mlp(), data, case="large-different", epochs=60, lr=0.03, device="cpu"
    ).document()
    assert body["delivered"] == "tuned"
    found = body["guard"]
    assert found["gain"] > 0
    measured = body["metrics"]["validation"]
    assert found["tuned"] == pytest.approx({k: measured[k] for k in ("accuracy", "loss")})
    assert measured["accuracy"] > probe_of(body)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("init", ["pretrained", "race"])
def test_noise_never_makes_the_result_worse_than_the_probe(init, seed):
    random = np.random.default_rng(seed)
    data = {
        "x": random.standard_normal((60, 8)).astype(np.float32),
        "labels": random.integers(0, 3, 60),
    }
    body = surgeon.finetune(
        nw.mlp(), data, case="large-different", init=init, lr=0.05, epochs=5, seed=seed,
        device="cpu",
    ).document()  # fmt: skip
    assert body["delivered"] in ("tuned", "probe")
    assert body["metrics"]["validation"]["accuracy"] >= probe_of(body) - 1e-9


@pytest.mark.parametrize("init", ["pretrained", "random", "race"])
def test_a_loss_that_is_no_number_delivers_the_probe_or_what_was_drawn(init):
    model = nw.residual()
    random = np.random.default_rng(0)
    data = {"x": random.standard_normal((40, 3, 8, 8)).astype(np.float32)}
    data["labels"] = np.arange(40) % 2
    data["x"][data["labels"] == 1] += 1
    outcome = surgeon.finetune(
        model, data, case="large-different", init=init, lr=1e30, epochs=3, device="cpu"
    )
    body = outcome.document()
    assert body["stopped"] in ("nan", None)
    assert body["delivered"] == ("start" if init == "random" else "probe")
    assert set(body["changed"]) <= HEAD
    assert surgeon.verify(outcome.model.proto, source=model).passed


@pytest.mark.parametrize("init", ["pretrained", "race"])
def test_a_budget_that_is_spent_at_once_delivers_the_probe(init):
    # How large the few steps are hangs on the clock: at this rate they change nothing to speak of.
    body = surgeon.finetune(
        nw.mlp(), separable(), case="large-different", init=init, budget=1e-6, lr=1e-9, device="cpu"
    ).document()
    assert body["delivered"] == "probe"
    assert body["metrics"]["validation"]["accuracy"] == probe_of(body) == 1.0


def test_random_weights_asked_for_by_name_are_delivered_and_what_they_cost_is_said():
    data = separable(gap=2.0)
    body = surgeon.finetune(
        nw.mlp(), data, case="large-different", init="random", epochs=2, device="cpu"
    ).document()
    assert body["delivered"] == "tuned"
    assert set(body["changed"]) > HEAD
    assert body["guard"]["gain"] < 0
    assert any("the probe on the pretrained weights would be better" in w for w in body["warnings"])


def test_a_file_of_random_weights_has_no_probe_of_pretrained_ones(tmp_path):
    path = tmp_path / "random.onnx"
    surgeon.operate(nw.mlp(), case="large-different", classes=2, init="random").save(path)
    body = surgeon.finetune(path, separable(gap=8.0), epochs=20, device="cpu").document()
    assert body["guard"] is None
    assert body["delivered"] == "tuned"
    assert body["history"][0]["stage"] == "all"


@pytest.mark.parametrize("stages", [(TRAIN_ALL,), (Stage("steps", "head", method="adamw"),)])
def test_a_plan_without_a_solved_head_has_a_probe_all_the_same(stages):
    plugins = load_plugins()
    trainable = "all" if stages[0].trains == "all" else "head"
    plan = Plan(classes=2, trainable=trainable, stages=stages)

    class Other:
        @hookimpl
        def surgeon_cases(self):
            yield Case("other", "", lambda _: 0.0, lambda _: plan)

    plugins.manager.register(Other())
    body = surgeon.finetune(
        nw.mlp(), separable(), case="other", epochs=1, device="cpu", plugins=plugins
    ).document()
    assert body["history"][0]["stage"] == "probe"
    says_probe(body)


# ── a real network ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_network_that_forgets_on_few_pictures_delivers_the_probe_and_says_so(tmp_path):
    from surgeon_models import datasets, get

    # 144 pictures of six groups, three of ten labels drawn by lot, and a rate far too high. At a
    # fair one the best of many epochs may beat the probe by chance on 72 samples.
    data = datasets.emoji()
    random = np.random.default_rng(0)
    chosen = np.concatenate(
        [random.permutation(np.flatnonzero(data.labels == code))[:24] for code in range(6)]
    )
    labels = data.labels[chosen].copy()
    wrong = random.random(len(labels)) < 0.3
    labels[wrong] = random.integers(0, 6, wrong.sum())
    folder, out = tmp_path / "emoji", tmp_path / "out.onnx"
    datasets.write_folder(data.images[chosen], labels, folder, classes=data.classes)
    outcome = surgeon.finetune(
        get("mobilenetv2"), str(folder), out, case="large-similar", size=(64, 64), epochs=30,
        lr=3e-3, validation=0.5, augment="none", device="cpu",
    )  # fmt: skip
    body = outcome.document()
    curve = [row for row in body["history"] if row["stage"] == "all" and row["epoch"]]
    assert all(row["validation_accuracy"] < probe_of(body) for row in curve)
    says_probe(body)
    assert surgeon.load(out).plan.case == "large-similar"
    assert surgeon.verify(out, source=get("mobilenetv2")).passed
