"""A head that is all that is trained learns from every sample but the test ones."""

from __future__ import annotations

import networks
import numpy as np
import onnxruntime
import pytest

import surgeon
from surgeon.data.splits import split
from surgeon.probe.solver import solve
from surgeon.tasks.base import Targets
from surgeon.tasks.find import find_task


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))


def rows(n, classes=3, seed=0, noise=2.5):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    x = random.standard_normal((classes, 8))[labels] + noise * random.standard_normal((n, 8))
    return {"x": x.astype(np.float32), "labels": labels}


def tune(data, **options):
    given = {"case": "small-similar", "device": "cpu", **options}
    return surgeon.finetune(networks.mlp(), data, **given)


def head_of(outcome):
    found = {tensor.name: tensor for tensor in outcome.model.proto.graph.initializer}
    return found["surgeon.head.weight"].raw_data


def measured(outcome, data, part):
    """The delivered file's own figures, by ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(
        outcome.model.proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    logits = session.run(None, {"x": data["x"][part]})[0]
    task, truth = find_task("classification"), Targets(data["labels"][part])
    return task.score([(task.decode(logits, "Identity").answers, truth)]).figures


def test_validation_samples_are_learnt_from_and_judged_by_heads_that_have_not_seen_them():
    data = rows(600)
    outcome = tune(data)
    parts = split(data["labels"], seed=0)
    metrics = outcome.metrics
    assert metrics["validation"]["method"] == "cross-validated"
    assert metrics["test"]["method"] == "held-out"
    assert metrics["validation"]["samples"] == len(parts.validation)
    for name in ("train", "test"):
        own = measured(outcome, data, getattr(parts, name))
        assert own["accuracy"] == metrics[name]["accuracy"]
        assert own["loss"] == pytest.approx(metrics[name]["loss"], rel=1e-4)
    # Labels of validation samples move the head, those of test samples do not.
    for part, moves in ((parts.validation, True), (parts.test, False)):
        other = {**data, "labels": data["labels"].copy()}
        some = part[: len(part) // 2]
        other["labels"][some] = np.roll(other["labels"][some], 1)
        given = np.full(600, "train", "<U10")
        given[parts.test] = "test"
        heads = [head_of(tune({**one, "split": given}, threads=1)) for one in (data, other)]
        assert (heads[0] != heads[1]) == moves


@pytest.mark.parametrize("way", ["split", "path"])
def test_validation_of_the_users_own_stays_held_out(way, tmp_path):
    data, more = rows(120), rows(60, seed=1)
    if way == "split":
        both = {key: np.concatenate([data[key], more[key]]) for key in data}
        given = np.repeat(["train", "validation"], [120, 60])
        outcome = tune({**both, "split": given})
    else:
        np.savez(tmp_path / "more.npz", **more)
        outcome = tune(data, validation=str(tmp_path / "more.npz"))
    assert outcome.metrics["validation"]["method"] == "held-out"
    own = measured(outcome, more, np.arange(60))
    assert own["accuracy"] == outcome.metrics["validation"]["accuracy"]
    alone = solve(np.asarray(features(outcome, data)), data["labels"], 3, seed=0)
    head = np.frombuffer(head_of(outcome), np.float32).reshape(3, -1)
    np.testing.assert_allclose(head, alone.weight, atol=1e-4)


def features(outcome, data):
    front = networks.mlp()
    front.graph.output[0].name = next(n for n in front.graph.node if n.op_type == "Relu").output[0]
    del front.graph.node[2:]
    del front.graph.output[0].type.tensor_type.shape.dim[:]
    session = onnxruntime.InferenceSession(
        front.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": data["x"]})[0]


def test_what_cannot_be_learnt_is_not_seen_in_cross_validation():
    random = np.random.default_rng(0)
    data = {"x": random.standard_normal((400, 8)).astype("f"), "labels": random.integers(0, 2, 400)}
    outcome = tune(data, validation=0.5)
    assert outcome.metrics["validation"]["samples"] == 200
    assert abs(outcome.metrics["validation"]["accuracy"] - 0.5) < 0.1


def test_tuned_networks_and_their_probe_are_compared_on_samples_that_nothing_learnt_from():
    data = rows(90)
    outcome = tune(data, case="large-similar", epochs=1)
    assert outcome.metrics["validation"]["method"] == "held-out"
    own = measured(outcome, data, split(data["labels"], seed=0).validation)
    assert own["accuracy"] == outcome.metrics["validation"]["accuracy"]


def test_few_and_uneven_samples():
    labels = np.repeat(["a", "b", "c"], [30, 2, 2])
    x = np.random.default_rng(0).standard_normal((34, 8)).astype("f")
    outcome = tune({"x": x, "labels": labels})
    assert outcome.metrics["validation"]["method"] == "cross-validated"
    few = tune({"x": x[28:], "labels": labels[28:]})
    assert few.metrics["validation"]["samples"] == 1


def test_same_seed_same_bits_and_proof():
    data = rows(100)
    first, second = (tune(data, seed=5, threads=1) for _ in range(2))
    assert head_of(first) == head_of(second)
    assert first.metrics == second.metrics
    assert surgeon.verify(first.model, networks.mlp()).passed


def test_a_held_sample_is_judged_by_a_head_without_it_and_its_views():
    random = np.random.default_rng(0)
    x = random.standard_normal((80, 200)).astype("f")
    y = random.integers(0, 2, 80)
    held = np.arange(80) >= 40
    views = np.concatenate([x, x + 1e-3 * random.standard_normal(x.shape).astype("f")])
    solution = solve(
        views, np.tile(y, 2), 2, views_of=np.tile(np.arange(80), 2), held=np.tile(held, 2)
    )
    right = solution.out_of_fold[:80] == y
    assert abs(right[held].mean() - 0.5) < 0.25  # a view in another fold would give it away


def test_held_samples_do_not_choose_the_penalty():
    random = np.random.default_rng(1)
    y = np.arange(90) % 3
    x = (random.standard_normal((3, 10))[y] + random.standard_normal((90, 10))).astype("f")
    held = np.arange(90) % 5 == 0
    noise = y.copy()
    noise[held] = random.integers(0, 3, held.sum())
    one, other = (solve(x, labels, 3, held=held) for labels in (y, noise))
    assert one.regularisation == other.regularisation
    assert one.cv_loss == pytest.approx(other.cv_loss)
    assert not np.array_equal(one.weight, other.weight)
