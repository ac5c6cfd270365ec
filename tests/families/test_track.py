"""What trackers wrote, read back by their own libraries, is the document's."""

from __future__ import annotations

import socket
import sys
import types
from dataclasses import replace

import networks
import numpy as np
import pytest

import surgeon
from surgeon.errors import EnvironmentLacksError, UsageError
from surgeon.events import Failed, Finished, Progressed, Started

ABSENT = "is for the extra `track`"


def figure_names(history):
    """{(name, step): value} of every number of the history, as trackers name them."""
    names = ("loss", "validation_loss", "validation_accuracy", "lr")
    return {
        (f"{row['stage']}/{name}", row["step"]): row[name]
        for row in history
        for name in names
        if row[name] is not None
    }


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """One run told to two trackers at once, without a network; where they keep it."""
    pytest.importorskip("tensorboard", reason=ABSENT)
    pytest.importorskip("mlflow", reason=ABSENT)
    root, called = tmp_path_factory.mktemp("tracked"), []
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    x = random.standard_normal((40, 3, 12, 12)) + labels[:, None, None, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SURGEON_CACHE", str(root / "cache"))
        patch.chdir(root)
        patch.setattr(socket.socket, "connect", lambda *to: called.append(to[1:]))
        patch.setattr(socket, "getaddrinfo", lambda *to, **_: called.append(to))
        outcome = surgeon.finetune(
            networks.convnet(), {"x": x.astype(np.float32), "labels": labels}, root / "tuned.onnx",
            case="large-similar", epochs=2, batch=16, device="cpu", threads=1, compile="off",
            track=["tensorboard:dir=boards", "mlflow:experiment=mine,file=true"],
        )  # fmt: skip
    return root, outcome, called


def test_both_say_where_and_call_nobody(tuned):
    root, outcome, called = tuned
    assert not called
    assert [one["name"] for one in outcome.body["tracked"]] == ["tensorboard", "mlflow"]
    assert all(one["error"] is None for one in outcome.body["tracked"])
    assert all((root / one["where"]).is_dir() for one in outcome.body["tracked"])
    assert not [text for text in outcome.body["warnings"] if "tracker" in text]


def test_event_files_hold_the_history(tuned):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    root, outcome, _ = tuned
    board = EventAccumulator(str(root / outcome.body["tracked"][0]["where"]))
    board.Reload()
    tags = board.Tags()
    found = {
        (name, one.step): one.value
        for name in tags["scalars"]
        if not name.startswith(("final/", "seconds/")) and "running" not in name
        for one in board.Scalars(name)
        if not name.endswith("throughput")
    }
    expected = figure_names(outcome.history)
    assert len(expected) > 8
    assert found.keys() >= expected.keys()
    assert [found[key] for key in expected] == pytest.approx(list(expected.values()), rel=1e-6)
    (final,) = board.Scalars("final/validation/accuracy")
    assert final.value == pytest.approx(outcome.metrics["validation"]["accuracy"], rel=1e-6)
    assert {"plan/text_summary", "parameters/text_summary"} <= set(tags["tensors"])
    assert any("_hparams_" in name for name in board.summary_metadata)


def test_a_run_of_mlflow_holds_the_history(tuned):
    from mlflow import MlflowClient

    root, outcome, _ = tuned
    client = MlflowClient(tracking_uri=(root / "mlruns").as_uri())
    mine = client.get_experiment_by_name("mine")
    (run,) = client.search_runs([mine.experiment_id])
    assert run.info.status == "FINISHED"
    expected = figure_names(outcome.history)
    found = {
        (name, one.step): one.value
        for name in {name for name, _ in expected}
        for one in client.get_metric_history(run.info.run_id, name)
    }
    assert found == expected
    metrics, params, tags = run.data.metrics, run.data.params, run.data.tags
    assert metrics["final/validation/loss"] == outcome.metrics["validation"]["loss"]
    assert params["epochs"] == "2"
    assert params["plan.case"] == "large-similar"
    assert tags["file_sha256"] == outcome.body["sha256"]
    assert tags["model_sha256"] == outcome.proof["source_sha256"]
    assert {one.path for one in client.list_artifacts(run.info.run_id)} == {
        "plan.json", "tuned.onnx",
    }  # fmt: skip


STARTED = Started(
    "net.onnx", "ab" * 32, "photos", out="out.onnx", options={"epochs": 2, "lr": None},
    plan={"case": "mine", "head": {"kind": "gemm"}, "stages": [{"name": "all"}]},
    parts={"train": 8, "validation": 2, "test": 0},
)  # fmt: skip
ROW = {"stage": "all", "epoch": 1, "step": 4, "loss": 0.5, "validation_loss": 0.4, "lr": 0.1}
PROGRESSED = Progressed(
    "all", 0.5, 1.0, epoch=1, step=4, loss=0.5, validation_loss=0.4, quality=0.75, judged="r2",
    lr=0.1, throughput=float("nan"), row=ROW,
)  # fmt: skip
FINISHED = Finished(
    {
        "metrics": {"validation": {"r2": 0.75, "loss": 0.4, "accuracy": None}, "test": None},
        "seconds": {"total": 2.0}, "trained_parameters": 7, "out": None, "sha256": None,
        "delivered": "tuned", "stopped": None,
    }
)  # fmt: skip


def test_an_mlflow_run_says_how_it_ended(tmp_path):
    pytest.importorskip("mlflow", reason=ABSENT)
    from mlflow import MlflowClient

    from surgeon_track.on_mlflow import OnMlflow

    ends = {
        "FAILED": [Failed("data", "no data", ValueError())],
        "KILLED": [Failed("interrupt", "", KeyboardInterrupt())],
        "FINISHED": [PROGRESSED, FINISHED],
    }
    for events in (*ends.values(), []):
        tracker = OnMlflow(dir=str(tmp_path))
        for event in (STARTED, *events):
            tracker(event)
        tracker.close()
    client = MlflowClient(tracking_uri=tmp_path.as_uri())
    found = client.search_runs([client.get_experiment_by_name("surgeon").experiment_id])
    assert sorted(run.info.status for run in found) == sorted([*ends, "FAILED"])
    (done,) = (run for run in found if run.info.status == "FINISHED")
    assert done.data.metrics == {
        "all/loss": 0.5, "all/validation_loss": 0.4, "all/validation_r2": 0.75, "all/lr": 0.1,
        "final/validation/r2": 0.75, "final/validation/loss": 0.4, "seconds/total": 2.0,
        "trained_parameters": 7.0,
    }  # fmt: skip


def test_two_runs_of_one_name_are_not_drawn_as_one(tmp_path):
    pytest.importorskip("tensorboard", reason=ABSENT)
    from surgeon_track.on_tensorboard import OnTensorBoard

    folders = set()
    for _ in range(2):
        board = OnTensorBoard(dir=str(tmp_path), name="same")
        board(STARTED)
        board(Failed("data", "no data", ValueError()))
        board.close()
        folders.add(board.where)
    assert folders == {str(tmp_path / "same"), str(tmp_path / "same-2")}


def test_running_figures_keep_a_pace():
    from surgeon_track.figures import Figures

    step = Progressed("all", 0.1, 1.0, epoch=1, step=3, loss=0.5, lr=0.1, row=None)
    waits, each = Figures(3600), Figures(0)
    assert [one.name for one in waits.of(step)] == ["all/running/loss", "all/running/lr"]
    assert waits.of(step) == []
    assert waits.of(PROGRESSED)  # a row is always told
    assert each.of(step)
    assert each.of(step)
    assert not each.of(Progressed("features", 3, 9))


@pytest.fixture
def fake(monkeypatch):
    """Put a recording module in the place of a library."""

    def put(name, **attributes):
        module = types.ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, f"surgeon_track.on_{name}", raising=False)
        return module

    yield put
    for name in ("wandb", "trackio"):
        sys.modules.pop(f"surgeon_track.on_{name}", None)


class Recorded:
    """The documented part of a run of both libraries: what was called with what."""

    url, dir, name = "https://there", "wandb/offline-run-1/files", "mine"

    def __init__(self):
        self.logged, self.summary, self.axes, self.ended = [], {}, {}, []

    def log(self, figures):
        self.logged.append(figures)

    def define_metric(self, name, step_metric):
        self.axes[name] = step_metric

    def finish(self, **how):
        self.ended.append(how)


def test_wandb_is_told_offline(fake, monkeypatch):
    run, asked = Recorded(), {}
    fake(
        "wandb", Settings=lambda **settings: settings,
        init=lambda **settings: asked.update(settings) or run,
    )  # fmt: skip
    from surgeon_track.on_wandb import OnWandb

    tracker = OnWandb(project="mine")
    for event in (STARTED, PROGRESSED, FINISHED):
        tracker(event)
    tracker.close()
    assert asked["mode"] == "offline"
    assert asked["project"] == "mine"
    assert asked["config"]["epochs"] == 2
    assert asked["settings"]["disable_git"]
    assert tracker.where == "wandb/offline-run-1"
    (figures,) = run.logged
    assert figures["all/validation_r2"] == 0.75
    assert figures[run.axes["all/loss"]] == 4
    assert run.summary["final/validation/r2"] == 0.75
    assert run.ended == [{"exit_code": 0}]


def test_trackio_is_told_on_this_machine(fake, capsys):
    run, asked = Recorded(), {}

    def init(project, **settings):
        print("* Trackio project initialized")
        asked.update(settings)
        return run

    fake("trackio", init=init)
    from surgeon_track.on_trackio import OnTrackio

    tracker = OnTrackio(name="mine")
    for event in (STARTED, PROGRESSED, FINISHED):
        tracker(event)
    tracker.close()
    assert "space_id" not in asked
    assert asked["config"]["plan.case"] == "mine"
    assert run.logged[0]["all/loss"] == 0.5
    assert run.logged[1]["final/validation/r2"] == 0.75
    assert run.ended == [{}]
    assert not capsys.readouterr().out


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb", "trackio"])
def test_a_missing_package_is_refused_before_any_work(name, monkeypatch):
    for module in [one for one in sys.modules if one.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    for module in (f"surgeon_track.on_{name}", "torch.utils.tensorboard"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EnvironmentLacksError, match=name) as caught:
        surgeon.finetune("nowhere.onnx", "nowhere", case="small-similar", track=name)
    assert "pip install" in caught.value.remedy


def test_settings_that_cannot_be_meant(tmp_path):
    pytest.importorskip("tensorboard", reason=ABSENT)
    for track, words in (("tensorboard:folder=x", "folder"), ("tensorboard:every=-1", "every")):
        with pytest.raises(UsageError, match=words):
            surgeon.finetune(tmp_path / "x.onnx", "nowhere", case="small-similar", track=track)


STOPPED = Finished({**FINISHED.document, "stopped": "interrupt"})


def hear(tracker, *events):
    for event in events:
        tracker(event)
    tracker.close()
    return tracker.where


def test_a_run_that_goes_on_goes_on_in_its_own_event_files(tmp_path):
    pytest.importorskip("tensorboard", reason=ABSENT)
    from surgeon_track.on_tensorboard import OnTensorBoard

    def run(begun, *events):
        return hear(OnTensorBoard(dir=str(tmp_path), name="mine"), begun, *events)

    again = replace(STARTED, options={"resume": True})
    first, other = run(STARTED, PROGRESSED, STOPPED), run(replace(STARTED, out="b.onnx"), STOPPED)
    assert run(again, PROGRESSED, FINISHED) == first
    assert len({first, other, run(again, FINISHED)}) == 3  # it is done: another one begins
    assert not (tmp_path / "mine" / "unfinished.json").exists()


def test_a_run_that_goes_on_goes_on_in_its_own_run_of_mlflow(tmp_path):
    pytest.importorskip("mlflow", reason=ABSENT)
    from mlflow import MlflowClient

    from surgeon_track.on_mlflow import OnMlflow

    def run(begun, *events):
        return hear(OnMlflow(dir=str(tmp_path)), begun, *events)

    again = replace(STARTED, options={"resume": True, "epochs": 2})
    first = run(STARTED, PROGRESSED, STOPPED)
    assert run(again, PROGRESSED, FINISHED) == first
    assert run(again, FINISHED) != first
    client = MlflowClient(tracking_uri=tmp_path.as_uri())
    found = client.search_runs([client.get_experiment_by_name("surgeon").experiment_id])
    assert [one.info.status for one in found] == ["FINISHED"] * 2
