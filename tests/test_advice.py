"""Advice: the rules on figures that are known, and the verb on networks and data made for them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import jsonschema
import networks as nw
import numpy as np
import onnx
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import surgeon
from surgeon import schemas
from surgeon.advice import advise as advice
from surgeon.advice import rules
from surgeon.cli import main
from surgeon.errors import SurgeonError
from surgeon.plugin.manager import load_plugins
from surgeon.probe.evidence import Probe
from surgeon.records import Case, CutPoint, Plan, as_json


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))


def probe(depth, right, n=1000, seed=0):
    """A probe that gets `right` of `n` samples right, the same ones as far as possible."""
    correct = np.zeros(n)
    correct[:right] = 1.0
    flips = np.random.default_rng(seed).choice(right, 10, replace=False)
    correct[flips] = 0.0
    correct[right : right + 10] = 1.0
    cut = CutPoint(f"t{depth}", depth, ("N", 8), "float", 0, 10, int(1000 * depth), 40)
    share = correct.mean()
    return Probe(cut, 8, share, 0.01, 1.0, 0.0, correct, 1.0)


def pictures(folder, classes=3, each=14, size=12):
    """Pictures whose class is their colour, with noise."""
    random = np.random.default_rng(0)
    for code in range(classes):
        (folder / f"c{code}").mkdir(parents=True)
        for number in range(each):
            pixels = random.integers(0, 120, (size, size, 3))
            pixels[..., code] += 60
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"c{code}" / f"{number}.png")
    return folder


# ── the rules ────────────────────────────────────────────────────────────────────────────────────


def test_a_tie_goes_to_the_earlier_cut_and_means_different():
    probes = [probe(0.2, 700), probe(0.5, 899, seed=1), probe(1.0, 900, seed=2)]
    best, at, similar = rules.compare(probes)
    assert best is probes[2]
    assert at == 1
    assert similar < 0.5


def test_a_late_cut_that_is_clearly_better_means_similar():
    probes = [probe(0.2, 700), probe(0.5, 850, seed=1), probe(1.0, 900, seed=2)]
    _, at, similar = rules.compare(probes)
    assert at == 2
    assert similar > 0.99


def test_a_loss_of_more_than_a_point_is_no_tie_however_few_the_samples():
    few = [probe(0.5, 32, n=50), probe(1.0, 34, n=50, seed=1)]
    _, at, similar = rules.compare(few)
    assert at == 1
    assert similar > 0.5


def test_a_single_cut_says_nothing_of_similarity():
    assert rules.compare([probe(1.0, 900)])[2] is None


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5, 1.0])
def test_what_doubling_removes_follows_the_power_law(power):
    curve = [(n, 1 - 0.4 * (n / 100) ** -power, 0.01) for n in (100, 200, 400, 800)]
    assert rules.removed_by_doubling(curve) == pytest.approx(1 - 2.0**-power, abs=1e-6)


def test_more_data_than_needed_is_large():
    flat, steep = (rules.samples_needed(4_000_000, 2, r, 0.2) for r in (0.0, 0.5))
    assert (flat, steep) == (15, 62)
    assert rules.samples_needed(4_000_000, 500, 0.0, 0.2) == 500 * rules.PER_CLASS
    assert rules.samples_needed(4_000_000, 10, 0.0, 0.001) is None
    assert rules.samples_needed(16_000_000, 2, 0.0, 0.2) == 31


def test_only_what_no_other_candidate_beats_in_everything_is_pareto():
    probes = [probe(0.2, 700), probe(0.5, 900, seed=1), probe(1.0, 880, seed=2)]
    quick, slow = {"t0.2": 0.1, "t0.5": 0.2, "t1.0": 0.3}, {"t0.2": 0.1, "t0.5": 0.3, "t1.0": 0.2}
    for latencies, wanted in ((quick, [True, True, False]), (slow, [True, True, True])):
        found = advice._candidates(probes, probes[1], Plan(cut="t0.5", outputs=10), latencies)
        assert [item.pareto for item in found] == wanted
        assert [item.chosen for item in found] == [False, True, False]
        assert {item.size for item in found} == {40 + 4 * 10 * 9}


# ── the verb ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name", ["convnet", "residual", "nhwc", "transformer", "mlp", "two_inputs"]
)
def test_advice_can_be_followed(name):
    model = surgeon.load(nw.ZOO[name]())
    free = model.anatomy().model
    data = nw.feeds(free, batch=30, seed=1) | {"labels": np.arange(30) % 3}
    found = surgeon.advise(model, data)
    assert found.plan.case in load_plugins().offers(Case)
    assert len(found.why) == 3
    assert found.plan.case in found.why[2]
    assert found.evidence.samples == 30
    assert [c.cut.depth for c in found.candidates] == [
        depth for depth, _ in found.evidence.accuracy_by_depth
    ]
    patient = surgeon.operate(model, found.plan.case, 3, found.plan.cut, evidence=found.evidence)
    assert patient.plan.cut == found.plan.cut
    document = {"schema": 1, "verb": "advise", "surgeon": "0.1", **as_json(found.document())}
    jsonschema.Draft202012Validator(schemas.load("advise")).validate(document)


def test_only_training_samples_are_looked_at():
    model = surgeon.load(nw.mlp())
    data = nw.feeds(model.proto, batch=600, seed=1) | {"labels": np.arange(600) % 3}
    assert surgeon.advise(model, data).looked_at == 360
    own = np.array(["train"] * 400 + ["validation"] * 100 + ["test"] * 100)
    assert surgeon.advise(model, data | {"split": own}).looked_at == 400


def test_few_values_that_decide_nothing_are_small_and_repeat():
    model = surgeon.load(nw.convnet())
    data = nw.feeds(model.proto, batch=10, seed=1) | {"labels": np.arange(10) % 2}
    first, again = surgeon.advise(model, data), surgeon.advise(model, data)
    assert first.plan == again.plan
    untimed = [
        [replace(item, latency=None, pareto=False) for item in found.candidates]
        for found in (first, again)
    ]
    assert untimed[0] == untimed[1]
    assert first.evidence.large < 0.5
    assert first.plan.case.startswith("small-")


def test_data_of_one_class_are_refused():
    with pytest.raises(SurgeonError, match="class"):
        surgeon.advise(nw.mlp(), nw.feeds(nw.mlp(), batch=20) | {"labels": np.zeros(20, int)})


# ── preprocessing ────────────────────────────────────────────────────────────────────────────────


def test_what_is_known_is_not_measured(tmp_path):
    found = surgeon.advise(nw.convnet(), pictures(tmp_path / "photos"), preprocess="zero-one")
    assert found.detected is None
    assert found.preprocess.source == "option"


# ── --case auto ──────────────────────────────────────────────────────────────────────────────────


def test_auto_trains_what_is_advised_and_keeps_the_evidence(tmp_path):
    folder, out = pictures(tmp_path / "photos"), tmp_path / "tuned.onnx"
    outcome = surgeon.finetune(nw.convnet(), folder, out, case="auto", epochs=1)
    told = outcome.document()["advice"]
    assert outcome.model.plan.case == told["case"]
    assert outcome.model.plan.cut == told["cut"]
    assert len(told["why"]) == 3
    entries = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert json.loads(entries["surgeon.advice"])["why"] == told["why"]
    assert json.loads(entries["surgeon.preprocess"])["source"] == "measured"
    assert surgeon.verify(out).passed
    assert surgeon.predict(out, folder).labels[0] in {"c0", "c1", "c2"}
    again = surgeon.operate(out, "small-similar", 3)
    assert "surgeon.advice" not in {entry.key for entry in again.proto.metadata_props}


def test_auto_leaves_the_cut_to_whoever_names_one(tmp_path):
    outcome = surgeon.finetune(
        nw.convnet(), pictures(tmp_path / "photos"), case="auto", cut="@0.3", dry_run=True,
        preprocess="raw",
    )  # fmt: skip
    wanted = surgeon.operate(nw.convnet(), "small-different", 3, "@0.3").plan.cut
    assert outcome.model.plan.cut == wanted


# ── the command line ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def command(tmp_path):
    x, y = load_digits(return_X_y=True)
    network = tmp_path / "net.onnx"
    onnx.save(nw.mlp(), network)
    width = surgeon.load(network).inputs[0].shape[1]
    np.savez(tmp_path / "d.npz", x=x[:200, -width:].astype(np.float32), labels=y[:200])
    return ["advise", str(network), str(tmp_path / "d.npz"), "-q"]


def test_the_command_answers_people_and_machines(command, capsys):
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "so " in told
    assert "chosen" in told
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(schemas.load("advise")).validate(document)
    assert document["why"][0] in told


@pytest.mark.parametrize(("name", "start"), [("p.svg", b"<?xml"), ("p.png", b"\x89PNG")])
def test_a_plot_is_drawn(command, tmp_path, name, start, capsys):
    pytest.importorskip("matplotlib")
    assert main([*command, "--plot", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_bytes().startswith(start)
    assert main([*command, "--plot", str(tmp_path / name)]) == 2  # it exists
    assert main([*command, "--plot", str(tmp_path / "p.txt")]) == 2
    capsys.readouterr()


# ── enough data: everything is trained ───────────────────────────────────────────────────────────


def test_everything_is_trained_up_to_the_cut_that_the_probes_chose():
    random = np.random.default_rng(0)
    pixels = random.random((120, 3, 12, 12), np.float32)
    labels = np.arange(120) % 3
    found = surgeon.advise(nw.convnet(), {"x": pixels, "labels": labels})
    best = max(found.candidates, key=lambda item: item.accuracy)
    first = next(item for item in found.candidates if item.tie)
    assert found.plan.case.startswith("large-")
    assert found.plan.cut == first.cut.tensor
    assert found.plan.init == "pretrained"
    assert found.expected == first.accuracy <= best.accuracy
    assert [item.latency > 0 for item in found.candidates] == [True] * len(found.candidates)


# ── real models of every kind ────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["efficientnet-lite0-int8", "eeg-seizure", "silero-vad", "minilm-l3", "magika"]
)
def test_real_models_of_every_kind_are_advised(name, monkeypatch):
    from surgeon_models import get, sample_data

    monkeypatch.delenv("SURGEON_CACHE")
    model, data = get(name), sample_data(name, samples=32)
    found = surgeon.advise(model, data, threads=1)
    common = max(np.unique(data["labels"], return_counts=True)[1]) / len(data["labels"])
    assert max(item.accuracy for item in found.candidates) > common
    constants = {"sr": 16000} if name == "silero-vad" else {}
    plan = found.plan
    patient = surgeon.operate(model, plan.case, len(found.labels), plan.cut, inputs=constants)
    assert patient.plan.cut == plan.cut


@pytest.mark.slow
def test_raw_texts_are_advised(tmp_path, monkeypatch):
    from surgeon_models import datasets, get

    monkeypatch.delenv("SURGEON_CACHE")
    mail = datasets.mail()
    chosen = np.random.default_rng(0).permutation(len(mail.labels))[:60]
    with (tmp_path / "mail.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = [[mail.texts[row], mail.classes[mail.labels[row]]] for row in chosen]
        csv.writer(stream).writerows([["text", "label"], *rows])
    found = surgeon.advise(get("minilm-l3"), tmp_path / "mail.csv", max_length=32, threads=1)
    assert found.candidates[-1].accuracy > 0.75
