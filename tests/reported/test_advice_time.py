"""`advise` says where its time goes, and what giving the preprocessing would save."""

from __future__ import annotations

import json
import shlex

import jsonschema
import networks as nw
import numpy as np
import onnx
import pytest
from PIL import Image

import surgeon
from surgeon import schemas
from surgeon.cli import main

PARTS = ("model", "data", "preprocess", "pass", "probes", "latency", "findings")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))
    onnx.save(nw.convnet(), tmp_path / "m.onnx")
    random = np.random.default_rng(0)
    for number, name in enumerate("abc"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(8):
            pixels = random.integers(0, 80, (12, 12, 3)) + 50 * number
            file = tmp_path / "photos" / name / f"{index}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(file)
    return tmp_path


def test_the_parts_make_up_the_whole_and_the_option_saves_one_of_them(place, capsys):
    stages = []
    found = surgeon.advise(
        place / "m.onnx", str(place / "photos"), device="cpu",
        progress=lambda stage, *_, **__: stages.append(stage),
    )  # fmt: skip
    body = found.document()
    assert set(PARTS) <= set(body["seconds"])
    assert sum(body["seconds"][name] for name in PARTS) <= body["seconds"]["total"]
    kinds = [next(k for k in stages if word in k) for word in ("preproc", "cuts", "probes", "lat")]
    assert len(set(kinds)) == 4
    option, value = shlex.split(body["preprocess"]["saves"]["option"])
    assert option == "--preprocess"
    assert body["preprocess"]["saves"]["seconds"] == body["seconds"]["preprocess"] > 0
    command = ["advise", str(place / "m.onnx"), str(place / "photos"), "--device", "cpu"]
    assert main([*command, "--json", option, value]) == 0
    again = json.loads(capsys.readouterr().out)
    jsonschema.validate(again, schemas.load("advise"))
    assert again["preprocess"]["saves"] is None
    assert again["preprocess"]["measured"] is None
    used, before = again["preprocess"]["used"], body["preprocess"]["used"]
    assert {**used, "source": None} == {**before, "source": None}


def test_the_screen_says_both(place, capsys):
    assert main(["advise", str(place / "m.onnx"), str(place / "photos"), "--device", "cpu"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "saved by --preprocess" in out
    assert "seconds" in out
