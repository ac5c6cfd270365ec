"""The race of two starts: same batches, the better goes on, both curves kept; resumed as before."""

from __future__ import annotations

import json
from dataclasses import replace

import networks as nw
import numpy as np
import onnx
import pytest

import surgeon
from surgeon.errors import UsageError
from surgeon.job import race, tuning
from surgeon.records import Context, Evidence, Measurement
from surgeon.train import loop
from surgeon.train.settings import FitResult, FitSettings

KEYS = {"budget", "pretrained", "random", "winner", "gain", "final", "seconds"}


def corners(n=90, seed=0):
    """Pictures whose class is where they are bright: the pretrained random features help little."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    x = random.standard_normal((n, 3, 8, 8)).astype(np.float32)
    for index, label in enumerate(labels):
        x[index, label, 1:5, 1:5] += 1.0
    return {"x": x, "labels": labels}


def tune(model=None, **settings):
    settings = {"case": "large-different", "init": "race", "device": "cpu", **settings}
    return surgeon.finetune(nw.residual() if model is None else model, corners(), **settings)


def leg(accuracy, loss=1.0, steps=10, stopped=None, batch=10):
    row = {"validation_quality": accuracy, "validation_loss": loss}
    return FitResult(
        history=(row,), stopped=stopped, best=row, improved=True, epochs=1, steps=steps, samples=1,
        planned_epochs=1, batch=batch, micro_batch=batch, lr=0.1,
        validation_samples=1, device="cpu", precision="float32", seconds=2.0,
    )  # fmt: skip


# ── the rules ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("pretrained", "random", "winner"),
    [
        (leg(0.9), leg(0.8), "pretrained"),
        (leg(0.8), leg(0.9), "random"),
        (leg(0.9, 0.5), leg(0.9, 0.4), "random"),
        (leg(0.9, 0.4), leg(0.9, 0.4), "pretrained"),
        (leg(0.1), leg(0.9, float("nan")), "pretrained"),
        (leg(0.1, float("nan")), leg(0.1), "random"),
        (leg(0.1), None, "pretrained"),
    ],
)
def test_the_better_on_validation_wins(pretrained, random, winner):
    found = race.Race(pretrained, random)
    assert found.winner == winner
    assert set(found.as_dict(None)) == KEYS
    assert winner in found.note


def test_a_fifth_of_epochs_and_seconds_each_and_steps_at_most():
    settings = FitSettings(epochs=11, patience=3)
    short = race.short(settings, "random", 100, 50.0)
    assert (short.epochs, short.budget_seconds, short.max_steps) == (3, 10.0, race.STEPS)
    assert short.patience == 0  # none is stopped early: both see the same batches
    second = race.short(settings, "random", 100, 50.0, leg(0.5, steps=7, stopped="budget"))
    assert (second.max_steps, second.budget_seconds) == (7, 20.0)
    third = race.short(settings, "random", 100, 50.0, leg(0.5, steps=7, stopped="nan"))
    assert third.max_steps == race.STEPS
    assert race.rest(settings, leg(0.5, steps=30), 100).epochs == 8
    assert race.rest(FitSettings(epochs=1), leg(0.5, steps=10), 100) is None
    scratch = race.rest(FitSettings(scratch=True), leg(0.5, steps=30), 100)
    assert scratch.epochs == race.rest(FitSettings(), leg(0.5, steps=30), 100).epochs * 2 + 3


# ── in a run ─────────────────────────────────────────────────────────────────────────────────────


def test_both_curves_are_kept_and_the_winner_goes_on(tmp_path):
    out = tmp_path / "out.onnx"
    model = nw.residual()
    outcome = tune(model, out=out, epochs=10)
    body = json.loads(json.dumps(outcome.document(), allow_nan=False))
    found = body["race"]
    assert set(found) == KEYS
    assert found["pretrained"]["steps"] == found["random"]["steps"] == found["budget"]["steps"] > 0
    rows = [row for row in body["history"] if "start" in row]
    legs = {start: [r for r in rows if r["stage"] == f"race: {start}"] for start in race.STARTS}
    assert [r["step"] for r in legs["pretrained"]] == [r["step"] for r in legs["random"]]
    for start, curve in legs.items():
        assert {row["start"] for row in curve} == {start}
        best = max((r["validation_accuracy"], -r["validation_loss"]) for r in curve)
        assert (found[start]["accuracy"], -found[start]["loss"]) == best
    going_on = [row for row in rows if row["stage"] == "all"]
    assert {row["start"] for row in going_on} == {found["winner"]}
    assert going_on[-1]["epoch"] <= 8
    # It begins where the winner's part of the race ended best.
    assert going_on[0]["validation_loss"] == pytest.approx(found[found["winner"]]["loss"], rel=1e-4)
    assert found["final"]["accuracy"] >= found[found["winner"]]["accuracy"]
    assert any(note.startswith("race: ") for note in body["warnings"])
    # The file says which start its weights have; all invariants hold.
    told = found["winner"] if body["delivered"] == "tuned" else "pretrained"
    assert body["plan"]["init"] == surgeon.load(out).plan.init == told
    verdict = surgeon.verify(out, source=model)
    assert verdict.passed, verdict.checks
    onnx.checker.check_model(outcome.model.proto, full_check=True)


def test_the_random_start_of_the_race_is_that_of_init_random(monkeypatch):
    seen = {}

    def record(module, *arguments, settings, **more):
        # `setdefault` keeps the first fit of each name: the state in which it began.
        values = {name: p.detach().clone() for name, p in module.named_parameters()}
        seen.setdefault(settings.stage, values)
        return loop.fit(module, *arguments, settings=settings, **more)

    monkeypatch.setattr(tuning, "fit", record)
    tune(epochs=1)
    tune(epochs=1, init="random")
    assert set(seen) == {"race: pretrained", "race: random", "all"}
    for name, values in seen["all"].items():
        assert values.equal(seen["race: random"][name]), name
        kept = seen["race: pretrained"][name]
        assert not values.equal(kept) or not kept.any(), name


def test_the_random_start_goes_on_where_it_is_better(monkeypatch):
    class Reversed(race.Race):
        @property
        def winner(self):
            return "random"

    monkeypatch.setattr(race, "Race", Reversed)
    outcome = tune(epochs=10)
    body = outcome.document()
    assert body["race"]["winner"] == "random"
    # The probe, where it is delivered all the same, stands on the pretrained weights.
    assert body["plan"]["init"] == ("random" if body["delivered"] == "tuned" else "pretrained")
    assert {row["start"] for row in body["history"] if row["stage"] == "all"} == {"random"}
    assert surgeon.verify(outcome.model.proto).passed
    if body["delivered"] == "tuned":
        assert len(body["changed"]) == len(body["trainable"])


def test_an_interrupted_race_is_resumed_as_if_it_had_run_through(tmp_path, monkeypatch):
    whole = tune(out=tmp_path / "whole.onnx", epochs=8)

    def interrupt(stage, *_, epoch=None, **__):
        if stage == "race: random" and epoch == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out.onnx"
    cut = tune(out=out, epochs=8, progress=interrupt)
    assert cut.document()["stopped"] == "interrupt"
    assert surgeon.verify(out).passed
    assert (tmp_path / "out.onnx.checkpoint").is_dir()
    again = tune(out=out, epochs=8, resume=True, force=True)
    assert again.document()["stopped"] == whole.document()["stopped"]
    assert again.document()["race"]["winner"] == whole.document()["race"]["winner"]
    assert again.model.proto.graph.initializer == whole.model.proto.graph.initializer
    assert not (tmp_path / "out.onnx.checkpoint").exists()


def test_a_budget_ends_the_race_and_the_rest(tmp_path):
    body = tune(budget=2.0).document()
    assert body["race"]["pretrained"]["stopped"] in ("budget", None)
    assert body["stopped"] in ("budget", "early", None)


# ── who races ────────────────────────────────────────────────────────────────────────────────────


def test_large_different_races_where_the_data_was_measured():
    from surgeon.plugin.manager import load_plugins
    from surgeon.records import Case

    plan = load_plugins().offer(Case, "large-different").offer.plan
    given = Context(classes=3, cut=None, init=None, late="f", early="e")
    assert plan(given).init == "pretrained"
    measured = replace(given, evidence=Evidence(measurements=(Measurement("t", 1.0, 0.5),)))
    assert plan(measured).init == "race"
    assert plan(replace(measured, init="pretrained")).init == "pretrained"
    assert [stage.method for stage in plan(measured).stages] == ["solve", "adamw"]


def test_a_head_alone_has_nothing_to_race():
    body = tune(case="small-similar").document()
    assert body["race"] is None
    assert body["plan"]["init"] == "pretrained"
    assert any("no race" in note for note in body["warnings"])


def test_an_operated_file_keeps_its_weights_until_the_race_is_run(tmp_path):
    model, path = nw.residual(), tmp_path / "operated.onnx"
    patient = surgeon.operate(model, case="large-different", classes=3, init="race")
    assert patient.plan.init == "race"
    kept = {t.name: t for t in model.graph.initializer}
    assert all(t == kept[t.name] for t in patient.proto.graph.initializer if t.name in kept)
    patient.save(path)
    outcome = surgeon.finetune(path, corners(), epochs=1, device="cpu")
    assert outcome.document()["race"] is not None


def test_other_words_are_refused():
    with pytest.raises(UsageError, match="race"):
        surgeon.operate(nw.residual(), case="large-different", classes=3, init="derby")
