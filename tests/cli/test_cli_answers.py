"""What a verb writes when all goes well: a document by its schema, or a page for people."""

from __future__ import annotations

import json

import jsonschema
import pytest
from contract_bodies import BODIES

from surgeon import schemas


@pytest.fixture
def arguments(model, tmp_path):
    """The shortest complete command of each verb."""
    image = tmp_path / "1.png"
    image.write_bytes(b"png")
    out = ["-o", tmp_path / "out.onnx"]
    return {
        "inspect": [model],
        "cuts": [model],
        "check": [model, "--case", "small-similar"],
        "cases": [],
        "operate": [model, "--case", "small-similar", "--classes", 3, *out],
        "finetune": [model, "data", *out],
        "evaluate": [model, "data"],
        "predict": [model, image],
        "verify": [model],
    }


VERBS = [verb for verb in BODIES if verb != "demo"]


@pytest.mark.parametrize("verb", VERBS)
def test_the_document_stands_alone_on_stdout_and_fits_its_schema(
    run, operation, plugins, arguments, verb
):
    done = run(verb, *arguments[verb], "--json")
    document = json.loads(done.out)
    jsonschema.Draft202012Validator(schemas.load(verb)).validate(document)
    assert document["verb"] == verb
    assert "a library prints this" in done.err
    assert done.code == (1 if verb == "check" else 0)


@pytest.mark.parametrize("verb", VERBS)
def test_people_get_plain_text_where_there_is_no_terminal(run, operation, plugins, arguments, verb):
    done = run(verb, *arguments[verb], "-v")
    assert done.out.strip()
    assert "a library prints this" not in done.out
    assert "\x1b" not in done.out


@pytest.mark.parametrize("verb", VERBS)
def test_tables_are_drawn_on_a_terminal(run, operation, plugins, arguments, verb, monkeypatch):
    from surgeon.cli.screen import Screen

    def on_terminal(self, stream, *, verbose=0):
        self.stream, self.verbose, self.terminal = stream, verbose, True

    monkeypatch.setattr(Screen, "__init__", on_terminal)
    done = run(verb, *arguments[verb])
    assert done.out.strip()
    if verb == "inspect":
        assert "[bold]y[/bold]" in done.out  # a tensor's name is no markup


def test_nan_is_null(run, operation, plugins, arguments):
    document = json.loads(run("finetune", *arguments["finetune"], "--json").out)
    assert document["metrics"]["validation"]["loss"] is None


def test_arrays_and_paths_are_plain_values(run, operation, plugins, model, tmp_path):
    import numpy as np

    operation.bodies["cuts"] |= {"path": tmp_path, "macs": np.int64(7), "numbers": np.ones(2)}
    document = json.loads(run("cuts", model, "--json").out)
    assert (document["path"], document["macs"]) == (str(tmp_path), 7)
    assert document["numbers"] == [1, 1]


def test_warnings_are_lines_of_stderr_and_entries_of_the_document(run, operation, plugins, model):
    import logging
    import warnings

    def inspect(path, **_):
        warnings.warn("first\n  thing", UserWarning, stacklevel=1)
        warnings.warn("not for users", DeprecationWarning, stacklevel=1)
        logging.getLogger("surgeon.somewhere").warning("second %s", "thing")
        return {**BODIES["inspect"], "warnings": ["third thing"]}

    operation.inspect = inspect
    done = run("inspect", model, "--json")
    told = ["first thing", "second thing", "third thing"]
    assert json.loads(done.out)["warnings"] == told
    assert done.err.splitlines() == [f"warning: {text}" for text in told]
    assert run("inspect", model, "-q").err == ""


def test_a_failed_check_is_exit_1(run, operation, plugins, model):
    assert run("check", model).code == 1
    operation.bodies["check"] |= {"ok": True, "findings": []}
    assert run("check", model).code == 0
    operation.bodies["verify"] |= {"passed": False}
    assert run("verify", model).code == 1


@pytest.mark.parametrize(("stopped", "code"), [("nan", 1), ("interrupt", 130), ("budget", 0)])
def test_what_stopped_a_training_decides_the_exit_code(
    run, operation, plugins, arguments, stopped, code
):
    operation.bodies["finetune"] |= {"stopped": stopped}
    assert run("finetune", *arguments["finetune"]).code == code


def test_failed_inputs_are_named(run, operation, plugins, arguments):
    done = run("predict", *arguments["predict"])
    assert "warning: 2.png: truncated" in done.err
    operation.bodies["predict"] |= {"predictions": []}
    done = run("predict", *arguments["predict"])
    assert done.code == 2
    assert "2.png" in done.err


def test_operate_saves_and_a_dry_run_does_not(run, operation, plugins, arguments, tmp_path):
    out = tmp_path / "out.onnx"
    done = run("operate", *arguments["operate"], "--dry-run", "--json")
    assert json.loads(done.out)["out"] is None
    assert not out.exists()
    done = run("operate", *arguments["operate"], "--json")
    assert json.loads(done.out)["out"] == str(out)
    assert out.read_text() == "saved"


def test_a_dry_run_of_finetune_may_leave_open_what_only_training_knows(
    run, operation, plugins, model
):
    unknown = ("sha256", "metrics", "history", "delivered", "seconds", "proof", "changed", "out")
    operation.bodies["finetune"] |= dict.fromkeys(unknown)
    done = run("finetune", model, "data", "--dry-run", "--json")
    jsonschema.validate(json.loads(done.out), schemas.load("finetune"))
    assert operation.settings["out"] is None
    assert operation.settings["dry_run"] is True
    assert "nothing written" in run("finetune", model, "data", "--dry-run").out


def test_models_get_prints_the_path_alone(run, monkeypatch, tmp_path):
    import surgeon_models

    def get(name):
        print("pip prints this")
        return tmp_path / f"{name}.onnx"

    monkeypatch.setattr(surgeon_models, "get", get)
    done = run("models", "get", "opennsfw")
    assert (done.code, done.out) == (0, f"{tmp_path / 'opennsfw.onnx'}\n")
    document = json.loads(run("models", "get", "opennsfw", "--json").out)
    jsonschema.validate(document, schemas.load("models"))


def test_models_list(run):
    import surgeon_models

    document = json.loads(run("models", "list", "--json").out)
    jsonschema.validate(document, schemas.load("models"))
    assert [one["name"] for one in document["models"]] == surgeon_models.names()
    assert "opennsfw" in run("models", "list").out


def test_demo_is_a_table(run, monkeypatch, tmp_path):
    import sys
    from types import ModuleType

    import surgeon_models

    fake = ModuleType("surgeon_models.demo")
    fake.run = lambda out, *, progress, budget: BODIES["demo"]
    monkeypatch.setitem(sys.modules, "surgeon_models.demo", fake)
    monkeypatch.setattr(surgeon_models, "demo", fake, raising=False)
    done = run("demo", "-o", tmp_path / "there")
    assert done.code == 0
    assert "12.81 k" in done.out
    assert "best: " in done.out
    document = json.loads(run("demo", "-o", tmp_path / "there", "--json").out)
    jsonschema.validate(document, schemas.load("demo"))
