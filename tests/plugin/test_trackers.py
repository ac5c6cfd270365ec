"""Trackers hear what a run tells, and nothing they do touches the run."""

from __future__ import annotations

import json
import sys

import networks
import numpy as np
import onnx
import pytest

import surgeon
from surgeon.cli import main
from surgeon.errors import DataError, UnknownNameError, UsageError
from surgeon.events import Failed, Finished, Progressed, Started
from surgeon.plugin.manager import load_plugins

HOOKS = """
from surgeon.plugin import hookimpl
from surgeon.records import Tracker

@hookimpl
def surgeon_trackers():
    yield Tracker("memory", "keeps what it hears", "fixture_trackers:Memory")
    yield Tracker("broken", "fails", "fixture_trackers:Broken")
"""
CODE = """
import sys

HEARD = {}

class Memory:
    def __init__(self, *, at: str = "here"):
        self.where = at
        HEARD[at] = self.heard = []
    def __call__(self, event):
        self.heard.append(event)
    def close(self):
        self.heard.append("closed")

class Broken:
    def __init__(self, *, at: str = "Started", how: str = "error"):
        if at == "__init__":
            raise OSError("nowhere to write")
        self.at, self.how = at, how
        HEARD["broken"] = self.heard = []
    def __call__(self, event):
        self.heard.append(event)
        if type(event).__name__ == self.at and getattr(event, "lr", self) is not None:
            if self.how == "exit":
                sys.exit(3)
            if self.how == "interrupt":
                raise KeyboardInterrupt
            raise RuntimeError("the server is down")
    def close(self):
        self.heard.append("closed")
        if self.at == "close":
            raise ValueError("not closed")
"""


@pytest.fixture
def heard(install, tmp_path, monkeypatch):
    """Two trackers of a third party; what each heard, by its setting."""
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))
    install("their-trackers", "theirs", HOOKS, version="2.5")
    (tmp_path / "site" / "fixture_trackers.py").write_text(CODE)
    import fixture_trackers

    yield fixture_trackers.HEARD
    sys.modules.pop("fixture_trackers")


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    x = random.standard_normal((40, 3, 12, 12)) + labels[:, None, None, None]
    return {"x": x.astype(np.float32), "labels": labels}


def tuned(data, track=(), *, out=None, case="large-similar", **more):
    return surgeon.finetune(
        networks.convnet(), data, out, case=case, epochs=2, batch=16, device="cpu", threads=1,
        compile="off", augment="none", track=track, plugins=load_plugins(), **more,
    )  # fmt: skip


def test_a_run_is_told_from_its_start_to_its_document(heard, data, tmp_path):
    told = []
    out = tmp_path / "tuned.onnx"
    outcome = tuned(
        data, ["memory", "memory:at=there"], out=out,
        progress=lambda stage, done, total=None, **figures: told.append((stage, done, figures)),
    )  # fmt: skip
    assert heard["here"] == heard["there"]
    first, *between, last, closed = heard["here"]
    assert closed == "closed"
    assert isinstance(first, Started)
    assert first.plan == outcome.body["plan"]
    assert dict(first.parts) == {p: outcome.body["data"][p] for p in first.parts}
    assert first.out == str(out)
    assert first.options["epochs"] == 2
    assert {"python", "surgeon", "torch"} <= set(first.versions)
    assert all(isinstance(one, Progressed) for one in between)
    rows = [{"validation_accuracy": None} | one.row for one in between if one.row is not None]
    assert rows == outcome.history
    judged = [one for one in between if one.row is not None]
    assert [one.quality for one in judged] == [row["validation_accuracy"] for row in rows]
    assert [one.validation_loss for one in judged] == [row["validation_loss"] for row in rows]
    steps = [one for one in between if one.row is None and one.lr]
    assert len(steps) == 4
    assert all(one.throughput > 0 for one in steps)
    assert isinstance(last, Finished)
    assert last.document["sha256"] == outcome.body["sha256"]
    assert outcome.body["tracked"] == [
        {"name": "memory", "where": at, "error": None} for at in ("here", "there")
    ]
    # The caller's progress hears the same, in the figures that people are shown.
    shown = [(one.stage, one.done, one.shown) for one in between]
    assert told[-len(shown) :] == shown


@pytest.mark.parametrize("how", ["at=__init__", "at=Started,how=exit", "at=Finished", "at=close"])
def test_a_broken_tracker_is_one_warning_and_changes_nothing(heard, data, tmp_path, how, caplog):
    alone = tuned(data, case="small-similar", out=tmp_path / "alone.onnx")
    outcome = tuned(
        data, [f"broken:{how}", "memory"], case="small-similar", out=tmp_path / "tracked.onnx"
    )
    files = [(tmp_path / f"{name}.onnx").read_bytes() for name in ("alone", "tracked")]
    assert files[0] == files[1]
    (warning,) = set(outcome.body["warnings"]) - set(alone.body["warnings"])
    assert all(word in warning for word in ("'broken'", "their-trackers 2.5"))
    broken, whole = outcome.body["tracked"]
    assert broken["error"]
    assert broken["error"] in warning
    assert whole["error"] is None
    assert isinstance(heard["here"][-2], Finished)
    if "__init__" not in how:
        assert heard["broken"][-1] == "closed"
        wrong = [one for one in heard["broken"][:-1] if type(one).__name__ in how]
        assert len(wrong) == (0 if "close" in how else 1)
        assert heard["broken"][-2] is (wrong or [heard["broken"][-2]])[0]
    assert len([one for one in caplog.messages if "'broken'" in one]) == 1


def test_a_run_that_fails_is_told_and_trackers_are_closed(heard, data, monkeypatch):
    from surgeon.job import deliver

    def full(*_, **__):
        raise DataError("no place left", where="here")

    monkeypatch.setattr(deliver, "prove", full)
    with pytest.raises(DataError):
        tuned(data, "memory", case="small-similar")
    failed, closed = heard["here"][-2:]
    assert isinstance(failed, Failed)
    assert failed.kind == "data"
    assert closed == "closed"


def test_a_run_that_does_not_begin_is_not_told(heard, data):
    with pytest.raises(UsageError):
        tuned(data, "memory", case="small-similar", head="gemm:nothing=3")
    assert heard["here"] == ["closed"]


def test_ctrl_c_in_training_is_told_as_a_finished_run(heard, data):
    outcome = tuned(data, ["memory", "broken:at=Progressed,how=interrupt"], case="large-different")
    assert outcome.body["stopped"] == "interrupt"
    assert isinstance(heard["here"][-2], Finished)
    assert heard["here"][-2].document["stopped"] == "interrupt"
    assert outcome.body["tracked"][1]["error"] is None


def test_ctrl_c_before_that_is_told_as_a_failed_one(heard, data):
    with pytest.raises(KeyboardInterrupt):
        tuned(data, ["memory", "broken:at=Started,how=interrupt"])
    assert heard["here"][-2].kind == "interrupt"
    assert heard["here"][-1] == heard["broken"][-1] == "closed"


def test_a_dry_run_tracks_nothing_and_checks_all_the_same(heard, data):
    outcome = tuned(data, "memory", dry_run=True)
    assert outcome.body["tracked"] == []
    assert not heard
    with pytest.raises(UnknownNameError, match="memry"):
        tuned(data, "memry", dry_run=True)
    with pytest.raises(UsageError, match="folder"):
        tuned(data, ["memory", "memory:folder=x"], dry_run=True)


def test_the_command_line_names_several(heard, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(networks.convnet(), "net.onnx")
    np.savez("data.npz", **data)
    trackers = ["--track", "memory", "--track", "broken:at=Started"]
    command = ["finetune", "net.onnx", "data.npz", "--case", "small-similar", *trackers]
    assert main([*command, "-o", "out.onnx", "--device", "cpu", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in document["tracked"]] == ["memory", "broken"]
    assert len([one for one in document["warnings"] if "'broken'" in one]) == 1
    assert heard["here"][0].data == "data.npz"
