"""After Ctrl-C, `--resume` goes on without `--force`, says so, and replaces no other file."""

from __future__ import annotations

import json

import networks as nw
import numpy as np
import onnx
import pytest

import surgeon
from surgeon import operation
from surgeon.cli import main
from surgeon.errors import OutputError


def data(n=60):
    random = np.random.default_rng(0)
    labels = np.arange(n) % 3
    x = random.standard_normal((n, 3, 12, 12)).astype(np.float32)
    x[np.arange(n), labels] += 1.0
    return {"x": x, "labels": labels}


def tune(out, **settings):
    settings = {"case": "large-similar", "epochs": 6, "device": "cpu", **settings}
    return surgeon.finetune(nw.convnet(), data(), out=out, **settings)


def stop(when):
    """Return a progress that presses Ctrl-C when an epoch of training is reached."""

    def progress(stage, *_, epoch=None, **__):
        if epoch == when:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_run_goes_on_without_force_and_says_so(tmp_path):
    whole = tune(tmp_path / "whole.onnx")
    out = tmp_path / "out.onnx"
    cut = tune(out, progress=stop(3)).document()
    assert cut["stopped"] == "interrupt"
    assert cut["resumed"] is None
    hint = next(text for text in cut["warnings"] if "interrupted" in text)
    assert "--resume goes on from" in hint
    assert "--force" not in hint
    again = tune(out, resume=True)
    body = again.document()
    assert body["resumed"]["stage"] == "all"
    assert 1 <= body["resumed"]["epoch"] < 6
    assert any(text.startswith("resumed:") for text in body["warnings"])
    assert body["stopped"] != "interrupt"
    assert again.model.proto.graph.initializer == whole.model.proto.graph.initializer
    assert surgeon.verify(out).passed
    assert not (tmp_path / "out.onnx.checkpoint").exists()
    with pytest.raises(OutputError):  # the checkpoint is gone: it is a file like any other
        tune(out, resume=True)


def test_an_interruption_before_any_checkpoint_may_begin_anew(tmp_path):
    out = tmp_path / "out.onnx"
    cut = tune(out, progress=stop(1)).document()
    assert cut["stopped"] == "interrupt"
    again = tune(out, resume=True).document()
    assert again["resumed"] is None or again["resumed"]["epoch"] >= 1
    assert any("resume" in text for text in again["warnings"])
    assert surgeon.verify(out).passed


def test_a_file_that_the_run_did_not_deliver_is_kept(tmp_path):
    out = tmp_path / "out.onnx"
    tune(out, progress=stop(3))
    out.write_bytes(b"precious")
    with pytest.raises(OutputError):
        tune(out, resume=True)
    assert out.read_bytes() == b"precious"


def test_the_command_line_goes_on_as_well(tmp_path, capsys, monkeypatch):
    nw_path, arrays = tmp_path / "m.onnx", tmp_path / "d.npz"
    onnx.save(nw.convnet(), nw_path)
    np.savez(arrays, **data())
    out = tmp_path / "out.onnx"
    command = ["finetune", str(nw_path), str(arrays), "-o", str(out), "--case", "large-similar"]
    command += ["--epochs", "6", "--device", "cpu", "--json"]
    real = operation.finetune
    stopped = {"progress": stop(3)}
    monkeypatch.setattr(operation, "finetune", lambda *a, **k: real(*a, **k | stopped))
    assert main(command) == 130
    monkeypatch.setattr(operation, "finetune", real)
    assert main(command) == 2
    capsys.readouterr()
    assert main([*command, "--resume"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["resumed"]["stage"] == "all"


def test_ctrl_c_that_leaves_only_a_checkpoint_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    model, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    model.write_bytes(b"")

    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(operation, "finetune", pressed)
    command = ["finetune", str(model), "data", "-o", str(out)]
    assert main(command) == 130
    assert "--resume" not in capsys.readouterr().err
    (tmp_path / "out.onnx.checkpoint" / "stage-1").mkdir(parents=True)
    assert main(command) == 130
    assert "--resume" in capsys.readouterr().err
