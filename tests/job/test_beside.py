"""Losses that ask for more: what they are given, of which samples, and what is said of misuse."""

from __future__ import annotations

import asking
import networks as nw
import numpy as np
import pytest

import surgeon
from surgeon.errors import DataError, PluginError
from surgeon.plugin.manager import load_plugins


@pytest.fixture
def plugins(monkeypatch, tmp_path):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(asking, "SEEN", [])
    found = load_plugins()
    found.manager.register(asking, name="asking")
    return found


def data(n=24):
    values = np.random.default_rng(0).normal(0, 1, (n, 3, 12, 12)).astype(np.float32)
    codes = np.arange(n) % 3
    values += codes[:, None, None, None].astype(np.float32)
    return {"x": values, "labels": codes}


def tune(plugins, loss, model=None, **options):
    options = {"case": "large-similar", "epochs": 1, "device": "cpu"} | options
    return surgeon.finetune(model or nw.convnet(), data(), loss=loss, plugins=plugins, **options)


@pytest.mark.parametrize("case", ["small-similar", "large-similar"])
def test_a_loss_is_given_the_values_of_its_samples(plugins, case):
    outcome = tune(plugins, "asking:times=2", case=case)
    given, *batches = asking.SEEN
    assert (given.task, given.labels, given.outputs) == ("classification", ("0", "1", "2"), 3)
    assert len(given) == outcome.body["data"]["train"]
    assert given.reaches == (case == "large-similar")
    right = data()["labels"]
    seen = set()
    for targets, numbers, places in batches:
        assert (right[places] == targets).all()
        assert (numbers[:, 0] == 2 * targets).all()
        seen |= set(places.tolist())
    assert seen == set(given.samples.tolist())


def test_a_fixed_batch_gives_features_too(plugins):
    tune(plugins, "seeing", nw.convnet(batch=4), batch=6)
    assert {one.shape[1] for one in asking.SEEN} == {8}
    assert any(len(one) % 4 for one in asking.SEEN)


@pytest.mark.parametrize("case", ["small-similar", "large-similar"])
def test_features_are_what_the_head_reads(plugins, case):
    tune(plugins, "seeing", case=case, batch=100, epochs=2)
    shown = nw.with_outputs(nw.convnet(), "features")
    wanted = nw.run(shown, {"x": data()["x"]}, ["features"])["features"]
    seen = asking.SEEN[0]
    near = np.abs(seen[:, None] - wanted[None]).max(axis=2).min(axis=1)
    assert near.max() < 1e-4


def test_other_files_run_over_the_same_samples(plugins):
    tune(plugins, "asking")
    given = asking.SEEN[0]
    other = nw.convnet()
    other.graph.input[0].name = "pixels"
    for node in other.graph.node:
        node.input[:] = ["pixels" if name == "x" else name for name in node.input]
    model = surgeon.load(other)
    wanted = data()["x"][given.samples]
    taken = np.concatenate([part["x"] for part in given.inputs(model, batch=7)])
    assert (taken == wanted).all()
    scores = nw.run(nw.convnet(), {"x": wanted})["y"]
    said = given.answers(model)
    assert np.allclose(
        np.log(said.answers / said.answers[:, :1]), scores - scores[:, :1], atol=1e-4
    )
    assert given.features(model).shape == (len(given), 8)
    assert given.features(model, "@0.2").shape == (len(given), 6)


@pytest.mark.parametrize(
    ("loss", "words"),
    [("hoping", "beside='module"), ("short", "numbers"), ("raising", "ZeroDivisionError")],
)
def test_a_loss_that_is_not_given_what_it_asks_for_names_its_author(plugins, loss, words):
    with pytest.raises(PluginError) as caught:
        tune(plugins, loss)
    assert words in str(caught.value)
    assert repr(loss) in str(caught.value)
    assert "unknown 0" in str(caught.value)


def test_numbers_that_are_none_are_named_by_their_samples(plugins, monkeypatch):
    def make(given):
        numbers = np.where(given.samples == 5, np.nan, 1.0)
        return {"numbers": numbers[:, None], "places": given.samples}

    monkeypatch.setattr(asking, "make", make)
    given = data() | {"split": np.array(["train"] * 18 + ["validation"] * 6)}
    with pytest.raises(DataError, match="row 5"):
        surgeon.finetune(
            nw.convnet(), given, case="small-similar", loss="asking", device="cpu", plugins=plugins
        )
