"""A task of a third party, counts by Poisson regression, goes through every verb."""

from __future__ import annotations

import json
from pathlib import Path

import networks as nw
import numpy as np
import onnx
import pytest

import surgeon
from surgeon import operation
from surgeon.cli import main
from surgeon.errors import DataError, UsageError

HERE = Path(__file__).resolve().parents[1] / "fixtures" / "count_plugin"


@pytest.fixture(autouse=True)
def distribution(install, monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    install("surgeon-counts", "counts", "from surgeon_counts import *")


def counted(n=200):
    random = np.random.default_rng(0)
    x = random.standard_normal((n, 8)).astype(np.float32)
    rate = np.exp(0.8 * np.tanh(x[:, 0]) - 0.5 * np.tanh(x[:, 1]) + 0.7)
    return {"x": x, "labels": random.poisson(rate)}


def test_it_is_short_and_imports_nothing_private():
    lines = [line for file in HERE.glob("*.py") for line in file.read_text("utf-8").splitlines()]
    assert len(lines) <= 120
    assert all("._" not in line for line in lines if "import" in line)


@pytest.mark.parametrize("case", ["small-similar", "large-similar"])
def test_every_verb_takes_it(case, tmp_path):
    data, path = counted(), tmp_path / "tuned.onnx"
    outcome = surgeon.finetune(
        nw.mlp(), data, case=case, task="counts", epochs=10, lr=0.02, out=path, device="cpu"
    )
    body = outcome.document()
    assert body["plan"]["task"] == "counts"
    assert (body["plan"]["classes"], body["plan"]["outputs"]) == (None, 1)
    assert outcome.metrics["validation"]["deviance_explained"] > 0
    assert outcome.model.proto.graph.output[0].name == "log_count"
    assert surgeon.verify(path).passed
    found = operation.evaluate(path, data)
    assert found["metrics"]["quality"] == found["metrics"]["deviance_explained"] > 0
    assert found["metrics"]["accuracy"] is None
    told = surgeon.predict(path, data["x"]).document()["predictions"]
    counts = np.array([row["count"] for row in told])
    assert np.corrcoef(counts, data["labels"])[0, 1] > 0.4
    again = surgeon.finetune(path, data, epochs=1, device="cpu")
    assert again.model.task == "counts"


def test_advice_says_what_it_can():
    advice = surgeon.advise(nw.mlp(), counted(), task="counts", device="cpu")
    assert advice.plan.task == "counts"


def test_the_command_line_shows_what_it_tells(tmp_path, capsys):
    data, path = counted(), tmp_path / "tuned.onnx"
    np.savez(tmp_path / "d.npz", **data)
    onnx.save(nw.mlp(), tmp_path / "m.onnx")
    given = ["finetune", str(tmp_path / "m.onnx"), str(tmp_path / "d.npz"), "--epochs", "1"]
    given += ["--case", "small-similar", "--task", "counts", "-o", str(path), "--device", "cpu"]
    assert main(given) == 0
    assert "deviance explained" in capsys.readouterr().out
    assert main(["evaluate", str(path), str(tmp_path / "d.npz")]) == 0
    assert "deviance explained" in capsys.readouterr().out
    assert main(["predict", str(path), str(tmp_path / "d.npz")]) == 0
    assert "count" in capsys.readouterr().out
    assert main(["predict", str(path), str(tmp_path / "d.npz"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["predictions"]
    assert rows[0]["count"] > 0
    assert rows[0]["label"] is None


def test_what_is_no_count_is_refused_with_its_sample():
    data = counted()
    data["labels"] = data["labels"].astype(float)
    data["labels"][7] = 1.5
    with pytest.raises(DataError, match=r"1\.5") as caught:
        surgeon.finetune(nw.mlp(), data, case="small-similar", task="counts")
    assert "7" in caught.value.where
    with pytest.raises(UsageError):
        surgeon.finetune(nw.mlp(), data, case="small-similar", task="count")
