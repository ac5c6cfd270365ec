"""Verbs about this machine: doctor and cache."""

from __future__ import annotations

import json

import jsonschema
import pytest

from surgeon import schemas
from surgeon.cli import doctor
from surgeon.errors import EnvironmentLacksError


@pytest.fixture
def quick_torch(monkeypatch):
    """Torch is asked in a process of its own, which takes seconds: once is enough."""
    monkeypatch.setattr(doctor, "_torch", lambda: iter(()))


def test_doctor_finds_this_machine_well(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))
    done = run("doctor", "--json")
    document = json.loads(done.out)
    jsonschema.validate(document, schemas.load("doctor"))
    assert (done.code, document["ok"]) == (0, True)
    checks = {one["name"]: one for one in document["checks"]}
    assert "CPUExecutionProvider" in checks["onnxruntime on cpu"]["detail"]
    assert "trains on" in checks["torch"]["detail"]
    assert str(tmp_path / "cache") in checks["cache"]["detail"]


def test_doctor_names_what_is_missing(run, quick_torch, tmp_path, monkeypatch):
    from surgeon.runtime import places

    def both():
        message = "onnxruntime and onnxruntime-gpu are both installed"
        raise EnvironmentLacksError(message, remedy="pip uninstall …")

    monkeypatch.setattr(places, "check_installation", both)
    monkeypatch.setattr(doctor, "installed", lambda name: None if name == "kornia" else "1.0")
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("SURGEON_CACHE", str(file / "cache"))
    done = run("doctor")
    assert done.code == 3
    for word in ("both installed", "pip uninstall", "kornia", "cannot be written"):
        assert word in done.out


def test_doctor_survives_a_torch_that_crashes(monkeypatch):
    monkeypatch.setattr(doctor, "TORCH_PROBE", "import os; os.abort()")
    (finding,) = doctor._torch()
    assert finding["level"] == "error"


def test_cache_lists_and_clears(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path))
    (tmp_path / "models" / "a").mkdir(parents=True)
    (tmp_path / "models" / "a" / "a.onnx").write_bytes(b"12345")
    listed = json.loads(run("cache", "list", "--json").out)
    jsonschema.validate(listed, schemas.load("cache"))
    assert [(one["kind"], one["bytes"]) for one in listed["entries"]] == [("model", 5)]
    assert "1 entries, 5 B" in run("cache", "list").out
    assert "0 entries removed" in run("cache", "clear", "features").out
    cleared = json.loads(run("cache", "clear", "--json").out)
    jsonschema.validate(cleared, schemas.load("cache"))
    assert cleared["bytes"] == 5
    assert "0 entries, 0 B" in run("cache", "list").out
    assert run("cache", "clear", "everything").code == 2
