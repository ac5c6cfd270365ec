"""Thousands of classes of a few samples: nothing grows with samples · classes, or its square."""

from __future__ import annotations

import networks
import numpy as np
import pytest
import torch

import surgeon
from surgeon.data.splits import by_class
from surgeon.probe import convex, evidence, penalty
from surgeon.probe.solver import solve
from surgeon_tasks import classification


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))


def blobs(classes, each, d=16, noise=0.3, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(classes * each) % classes
    centres = random.standard_normal((classes, d))
    return (centres[labels] + noise * random.standard_normal((len(labels), d))).astype("f"), labels


def right(solution, x, labels):
    return ((x @ solution.weight.T + solution.bias).argmax(1) == labels).mean()


def test_rows_in_pieces_are_the_same_problem(monkeypatch):
    x, y = blobs(7, 9)
    points, target = torch.from_numpy(x).double(), torch.from_numpy(y)
    weights = torch.rand(3, len(y), dtype=torch.float64)
    theta = torch.randn(3, 7, 17, dtype=torch.float64)
    penalty = torch.full((3,), 0.1, dtype=torch.float64)
    whole = convex.Problem(points, target, 7, weights).value(theta, penalty, spread=True)
    monkeypatch.setattr(convex, "AT_ONCE", 100)
    pieces = convex.Problem(points, target, 7, weights)
    assert pieces.at_once < 9
    for one, other in zip(whole, pieces.value(theta, penalty, spread=True), strict=True):
        torch.testing.assert_close(one, other)


def test_the_closed_form_is_the_first_step_from_nothing():
    x, y = blobs(7, 9)
    points, target = torch.from_numpy(x).double(), torch.from_numpy(y)
    problem = convex.Problem(points, target, 7, torch.rand(3, len(y), dtype=torch.float64))
    penalty = (1 / (convex.CLOSED_C * problem.total)).double()
    before, gradient, spread = problem.value(problem.zeros(), penalty, spread=True)
    # p(1 − p) is told as p of many classes.
    spread = torch.full_like(spread, 1 / 7)
    found, step = problem.closed_form(1.0), -gradient / problem.curvature(spread, penalty)
    scale = found.norm(dim=(1, 2)) / step.norm(dim=(1, 2))
    assert set(scale.numpy().round(6)) <= set(convex.SCALES)
    torch.testing.assert_close(found, step * scale[:, None, None])
    assert (problem.value(found, penalty)[0] < before).all()


def test_a_part_of_the_classes_chooses_the_penalty_where_all_would_take_too_long(monkeypatch):
    x, y = blobs(120, 4)
    everything = solve(x, y, 120)
    held = np.arange(len(y)) >= 360  # the last of each class
    monkeypatch.setattr(penalty, "SEARCH_WORK", 2**21)
    monkeypatch.setattr(penalty, "SEARCH_CLASSES", 20)
    monkeypatch.setattr(penalty, "PRECISE_WORK", 0)
    part = solve(x, y, 120, held=held)
    assert (part.out_of_fold[~held] == -1).all()  # of fewer classes: no figure for all
    assert (part.out_of_fold[held] == y[held]).mean() > 0.8
    lost = everything.cv_loss[everything.grid.index(part.regularisation)]
    assert lost <= min(everything.cv_loss) + 0.05  # which of those alike is no matter
    fresh, labels = blobs(120, 8)
    assert right(part, fresh, labels) >= right(everything, fresh, labels) - 0.03


def test_classes_of_several_samples_choose_for_those_of_one():
    x, y = blobs(300, 2)
    kept = np.r_[:300, 300:350]  # 50 of 300 classes have two samples
    solution = solve(x[kept], y[kept], 300)
    assert solution.folds == 2
    assert len(solution.grid) > 1
    assert right(solution, x, y) > 0.8


def test_many_classes_end_to_end(monkeypatch):
    x, y = blobs(400, 3, d=8)
    monkeypatch.setattr(penalty, "SEARCH_WORK", 2**20)
    outcome = surgeon.finetune(
        networks.mlp(), {"x": x, "labels": y}, case="small-similar", device="cpu"
    )
    assert len(outcome.body["data"]["classes"]) == 400
    assert set(outcome.body["data"]["classes"].values()) == {3}
    assert outcome.metrics["validation"]["method"] == "cross-validated"
    assert outcome.metrics["validation"]["samples"] == 240
    monkeypatch.setattr(classification, "MOST_CONFUSED", 399)
    told = surgeon.evaluate(outcome.model, {"x": x, "labels": y})
    assert told["confusion"] is None
    assert any("confusion" in said for said in told["warnings"])
    assert len(told["per_class"]) == 400


def test_per_class_figures_are_those_of_their_definition():
    random = np.random.default_rng(0)
    codes, predicted = random.integers(0, 9, (2, 60))
    codes[codes == 4] = 5
    predicted[predicted == 4] = 6
    rows = classification.per_class([str(label) for label in range(10)], codes, predicted)
    for label in (0, 3, 8):
        hits = ((codes == label) & (predicted == label)).sum()
        assert rows[label]["support"] == (codes == label).sum()
        assert rows[label]["recall"] == pytest.approx(hits / (codes == label).sum())
        assert rows[label]["precision"] == pytest.approx(hits / (predicted == label).sum())
    for label in (4, 9):
        assert rows[label]["support"] == 0
        assert rows[label]["f1"] is None


def test_classes_and_their_positions():
    found = dict(by_class(np.array([3, 1, 3, 7])))
    assert {key: rows.tolist() for key, rows in found.items()} == {1: [1], 3: [0, 2], 7: [3]}
    assert not list(by_class(np.zeros(0, np.int64)))


def test_advice_looks_at_a_part_of_the_classes(monkeypatch):
    """Its probes make arrays of penalties · samples · classes."""
    made = []
    scores = evidence._Ridge.scores

    def counted(self, *arguments):
        found = scores(self, *arguments)
        made.append(found.size)
        return found

    monkeypatch.setattr(evidence._Ridge, "scores", counted)
    monkeypatch.setattr(evidence, "MOST_CLASSES", 100)
    x, y = blobs(2000, 2, d=8)
    advice = surgeon.advise(networks.mlp(), {"x": x, "labels": y + 7}, device="cpu")
    assert 0 < max(made) <= len(evidence.PENALTIES) * 200 * 100
    assert advice.looked_at <= 200
    assert advice.evidence.classes == 2000
    assert len(advice.per_class) == 100
    assert set(advice.per_class) <= set(advice.labels)
    assert any("2000" in said and "classes" in said for said in advice.warnings)


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "each"), [(1000, 4), (4000, 2)])
def test_sizes_end(classes, each):
    x, y = blobs(classes, each, d=64, noise=0.5)
    net = networks.Net()
    values = net.node("Mul", net.input("x", ["N", 64]), net.weight("s", 64, values=np.ones(64)))
    net.node("Gemm", values, net.weight("w", 5, 64), net.weight("b", 5), out="y", transB=1)
    outcome = surgeon.finetune(
        net.model("y", shape=["N", 5]), {"x": x, "labels": y}, case="small-similar", device="cpu"
    )
    assert outcome.metrics["test"]["accuracy"] > 0.2
    assert outcome.metrics["validation"]["accuracy"] > 0.2
