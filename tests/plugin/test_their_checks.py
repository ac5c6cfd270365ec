"""Checks of plugins: what they find is told as ours is; an error ends a run before it trains."""

from __future__ import annotations

import json

import jsonschema
import networks as nw
import numpy as np
import onnx
import pytest

import surgeon
from surgeon import operation, schemas
from surgeon.cli import main
from surgeon.errors import CheckError, PluginError

CHECK = """
from surgeon.plugin import hookimpl
from surgeon.records import Check, Finding

def examine(model, outcome):
    {body}

@hookimpl
def surgeon_checks():
    yield Check("mine", "one line", f"{{__name__}}:examine", when={when!r})
"""


def finding(level):
    return f'yield Finding({level!r}, "size", "too many weights", "take fewer")'


def data():
    random, labels = np.random.default_rng(0), np.arange(30) % 2
    values = random.normal(size=(30, 8)) + labels[:, None]
    return {"x": values.astype(np.float32), "labels": labels}


@pytest.fixture
def check(install):
    return lambda body, when="before": install(
        "their-checks", "mine", CHECK.format(body=body, when=when)
    )


def test_a_check_before_training_is_asked_by_check_and_finetune(check, tmp_path, capsys):
    check("assert outcome is None; " + finding("error"))
    onnx.save(nw.mlp(), tmp_path / "net.onnx")
    assert main(["check", str(tmp_path / "net.onnx"), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, schemas.load("check"))
    assert document["findings"][-1]["message"] == "too many weights"
    with pytest.raises(CheckError, match="too many weights") as caught:
        surgeon.finetune(nw.mlp(), data(), tmp_path / "out.onnx", case="small-similar")
    assert "their-checks 1.0" in caught.value.where
    assert caught.value.exit == 1
    assert not (tmp_path / "out.onnx").exists()


def test_a_warning_goes_on_and_is_told(check, capsys, tmp_path):
    check(finding("warning"))
    body = surgeon.finetune(nw.mlp(), data(), case="small-similar").document()
    assert [one for one in body["warnings"] if "too many weights" in one]
    (told,) = body["checks"]
    assert (told["check"], told["distribution"], told["when"]) == ("mine", "their-checks", "before")


def test_an_error_after_training_leaves_the_file_and_exits_with_1(check, tmp_path, capsys):
    check("assert outcome.metrics and model is outcome.model; " + finding("error"), "after")
    onnx.save(nw.mlp(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", **data())
    out = tmp_path / "out.onnx"
    given = ["finetune", tmp_path / "net.onnx", tmp_path / "data.npz", "--case", "small-similar"]
    assert main([*map(str, given), "-o", str(out), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, schemas.load("finetune"))
    assert document["checks"][0]["level"] == "error"
    assert out.exists()


@pytest.mark.parametrize(
    "body",
    ["1 / 0", "return 3", "yield 3", 'yield Finding("bad", "", "")', "import sys; sys.exit(2)"],
)
def test_a_check_that_misbehaves_is_one_error_that_names_it(check, body):
    check(body)
    with pytest.raises(PluginError) as caught:
        operation.check(nw.mlp())
    assert "'mine'" in str(caught.value)
    assert "their-checks 1.0" in str(caught.value)
