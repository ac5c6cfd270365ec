"""How sure figures are: intervals, calibration, the likeliest few; against what others compute."""

from __future__ import annotations

import json

import jsonschema
import networks as nw
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import top_k_accuracy_score

import surgeon
from surgeon import schemas
from surgeon.cli import main
from surgeon.tasks import metrics


def test_an_interval_is_that_of_the_bootstrap():
    random = np.random.default_rng(0)
    for n in (20, 300, 30_000):
        shares = (random.random(n) < 0.8).astype(float)
        low, high = metrics.interval(np.append(shares, np.nan))
        wanted = stats.bootstrap(
            (shares,), np.mean, n_resamples=500, method="percentile", rng=1, batch=50
        ).confidence_interval
        width = wanted.high - wanted.low
        assert low == pytest.approx(wanted.low, abs=0.15 * width)
        assert high == pytest.approx(wanted.high, abs=0.15 * width)
    assert metrics.interval(shares[:50]) == metrics.interval(shares[:50])
    assert metrics.interval(np.ones(9)) == [1, 1]
    assert metrics.interval(np.ones(1)) is None
    assert metrics.interval(np.full(9, np.nan)) is None


def test_no_interval_is_above_the_best():
    from surgeon.documents import _interval
    from surgeon.tasks.base import Scores

    shares = np.random.default_rng(0).normal(0.95, 0.5, 60)
    figures = {"quality": float(shares.mean())}
    low, high = _interval(Scores(figures, shares, np.zeros(60)), None)
    assert low < figures["quality"] < high <= 1


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        low, high = metrics.interval(random.exponential(size=60))
        held += low <= 1 <= high
    assert 86 <= held <= 99


def test_groups_are_drawn_as_a_whole():
    random = np.random.default_rng(0)
    each = random.random(20)
    copied, groups = np.repeat(each, 50), np.arange(1000) // 50
    alone, together = metrics.interval(copied), metrics.interval(copied, groups)
    assert together[1] - together[0] > 4 * (alone[1] - alone[0])
    assert together == pytest.approx(metrics.interval(each), abs=0.01)
    many = np.repeat(random.random(25_000), 2)
    wide = metrics.interval(many, np.arange(50_000) // 2)
    assert wide == pytest.approx(metrics.interval(many[::2]), abs=1e-9)


def test_calibration_error_by_hand():
    told, right = np.array([0.95, 0.95, 0.55, 0.55, 1.0]), np.array([1, 1, 1, 0, 0])
    # 0.95 and 1.0 are one bin: |2.9 − 2|; 0.55 another: |1.1 − 1|
    assert metrics.calibration_error(told, right) == pytest.approx((0.9 + 0.1) / 5)
    assert metrics.calibration_error(told[:0], right[:0]) is None
    assert metrics.calibration_error(told * 3, right) is None
    assert metrics.calibration_error(np.array([np.nan]), np.array([1])) is None
    random = np.random.default_rng(0)
    told = random.random(200_000)
    assert metrics.calibration_error(told, random.random(200_000) < told) < 0.01


def test_brier_and_the_likeliest_few():
    random = np.random.default_rng(0)
    told, codes = random.dirichlet(np.ones(7), 300), random.integers(0, 7, 300)
    wanted = ((told - np.eye(7)[codes]) ** 2).sum(1).mean()
    assert metrics.brier(told, codes) == pytest.approx(wanted)
    found = metrics.top_k(told, codes)
    assert [one["k"] for one in found] == [1, 2, 3, 5]
    for one in found:
        wanted = top_k_accuracy_score(codes, told, k=one["k"], labels=np.arange(7))
        assert one["accuracy"] == pytest.approx(wanted)
    assert metrics.top_k(told[:0], codes[:0]) == []


ANSWERS = {
    "classification": lambda n, random: np.arange(n) % 3,
    "multi-label": lambda n, random: random.integers(0, 2, (n, 3)) == 1,
    "regression": lambda n, random: random.normal(size=n).astype(np.float32),
    "embedding": lambda n, random: np.arange(n) % 3,
}


@pytest.mark.parametrize("task", ANSWERS)
def test_every_task_tells_how_sure_it_is(task, tmp_path, capsys):
    network = nw.mlp()
    random = np.random.default_rng(0)
    data = nw.feeds(network, batch=40, seed=1) | {"labels": ANSWERS[task](40, random)}
    options = {"task": task, "case": "small-similar", "device": "cpu"}
    if task == "embedding":
        options |= {"epochs": 1, "compile": "off"}
    surgeon.finetune(network, data, **options, out=tmp_path / "tuned.onnx")
    np.savez(tmp_path / "data.npz", **data)
    path = str(tmp_path / "tuned.onnx")
    command = ["evaluate", path, str(tmp_path / "data.npz"), "--against", path]
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(schemas.load("evaluate")).validate(document)
    found = document["metrics"]
    low, high = found["interval"]
    assert low <= found["quality"] <= high
    told = task in ("classification", "multi-label")
    assert (found["calibration_error"] is not None) is told
    assert (found["brier"] is not None) is told
    assert (document["top_k"] is not None) is (task == "classification")
    against = document["against"]
    assert (against["difference"], against["interval"]) == (0, [0, 0])
    assert against["samples"] == 40
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "95 % interval" in shown
    assert max(map(len, shown.replace(str(tmp_path), "").splitlines())) <= 80
