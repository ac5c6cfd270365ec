"""What a run computes once and finds again: features at whatever frontier, and augmented views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from networks import residual
from PIL import Image

import surgeon
from surgeon.errors import UsageError
from surgeon.records import SOLVE_HEAD, Stage
from surgeon.runtime.cache import list_entries

RULE = {"size": [8, 8], "mean": [127], "std": [60], "layout": "NCHW", "channels": "RGB"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def pictures(tmp_path):
    random = np.random.default_rng(0)
    for place in range(90):
        folder = tmp_path / "pictures" / "abc"[place % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 200, (10, 10, 3))
        pixels[..., place % 3] += 40
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{place:02}.png")
    return str(tmp_path / "pictures")


def tune(model, data, **settings):
    outcome = surgeon.finetune(model, data, seed=1, device="cpu", preprocess=RULE, **settings)
    return outcome, outcome.document()


def test_part_of_a_network_is_tuned_on_features_kept_at_its_own_frontier(pictures, cache):
    patient = surgeon.operate(residual(), case="large-similar", classes=3)
    part = [name for name in patient.trainable if name.startswith(("b2.", "surgeon.head."))]
    stages = (SOLVE_HEAD, Stage("rest", "all", epochs=2, lr=0.01, method="adamw"))
    patient = replace(patient, plan=replace(patient.plan, trainable=tuple(part), stages=stages))
    first, body = tune(patient, pictures)
    frontier = body["frontier"]
    assert [tensor["name"] for tensor in frontier["tensors"]] == ["b1.out"]
    assert frontier["cache"]["bytes"] >= 90 * 6 * 8 * 8 * 4
    assert frontier["cache"]["hit"] is False
    assert frontier["nodes_frozen"] > 0
    assert len(list_entries(cache)) == 2  # the head's frontier, and the part's
    again, body = tune(patient, pictures)
    assert body["frontier"]["cache"]["hit"] is True
    assert len(list_entries(cache)) == 2
    one, other = surgeon.load(first.model), surgeon.load(again.model)
    assert one.proto.graph.SerializeToString() == other.proto.graph.SerializeToString()
    assert not any(name.startswith(("stem", "b1.")) for name in body["changed"])


def test_views_are_kept_beside_the_pictures_and_found_again(pictures, cache):
    plain, without = tune(residual(), pictures, case="small-similar")
    first, body = tune(residual(), pictures, case="small-similar", views=3)
    assert body["frontier"]["cache"]["hit"] is True  # the pictures as they are: the same entry
    views = body["frontier"]["views"]
    assert (views["views"], views["augment"], views["hit"]) == (3, "light", False)
    assert len(list_entries(cache)) == 2
    # Views are of samples that are learnt from, and metrics of the pictures as they are.
    learnt = body["data"]["train"] + body["data"]["validation"]
    assert list_entries(cache)[1].about["rows"] == 2 * learnt
    for part in ("train", "validation"):
        assert body["metrics"][part]["samples"] == without["metrics"][part]["samples"]
    cross = body["metrics"]["cross_validation"]
    assert cross["samples"] == body["data"]["train"]
    again, body = tune(residual(), pictures, case="small-similar", views=3)
    assert body["frontier"]["views"]["hit"] is True

    def head(outcome):
        weights = surgeon.load(outcome.model).proto.graph.initializer
        return next(w.raw_data for w in weights if w.name == "surgeon.head.weight")

    assert head(first) == head(again)
    assert head(first) != head(plain)


def test_views_of_what_cannot_be_augmented(pictures):
    with pytest.raises(UsageError, match="nothing varies them"):
        tune(residual(), pictures, case="small-similar", views=2, augment="none")
    random = np.random.default_rng(0)
    data = {"x": random.normal(size=(30, 3, 8, 8)).astype("f"), "labels": np.arange(30) % 3}
    with pytest.raises(UsageError, match="only pictures"):
        surgeon.finetune(residual(), data, case="small-similar", views=2)
    with pytest.raises(UsageError, match="views is 0"):
        surgeon.finetune(residual(), data, case="small-similar", views=0)
