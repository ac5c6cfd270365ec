"""The program of the page is what `predict` does, bit for bit."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import surgeon
from surgeon.data.media.pictures import ImageSamples
from surgeon.data.samples import Given
from surgeon.graph import encodings, envelope, files
from surgeon.graph.preprocess import parse_preprocess
from surgeon.graph.rule import stated

PAGE = Path(__file__).resolve().parents[2] / "docs/deploy/preprocessing.md"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    path = tmp_path_factory.mktemp("page") / "classify.py"
    path.write_text(code, "utf-8")
    assert sum(bool(line) for line in code.splitlines()) <= 30
    return path


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize(
    "rule", [{}, {"fit": "crop", "resize": "bicubic", "channels": "BGR"}], ids=str
)
def test_it_answers_as_predict(program, tuned, few, tmp_path, monkeypatch, capsys, rule):
    model = surgeon.load(tuned)
    document = {"preset": "imagenet", "draft": False, **rule}
    how = parse_preprocess(document, model.inputs[0], source="metadata")
    proto = type(model.stored)()
    proto.CopyFrom(model.stored)
    envelope.put(proto, envelope.PREPROCESS, encodings.as_document(how))
    files.save_model(proto, tmp_path / "other.onnx")
    monkeypatch.setattr(sys, "argv", ["classify.py", str(tmp_path / "other.onnx"), *few])
    last = runpy.run_path(str(program))["x"]
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    found = surgeon.predict(tmp_path / "other.onnx", few, batch=1)
    assert [row[1] for row in rows] == found.labels
    assert [row[2] for row in rows] == [f"{row.max():.6f}" for row in found.probabilities]
    samples = ImageSamples(Given(model.inputs, few, sources=list(map(Path, few)), rule=how))
    np.testing.assert_array_equal(last, samples.batch([len(few) - 1])["x"])


def test_the_table_names_every_entry_of_the_rule():
    page = PAGE.read_text("utf-8")
    for key in stated(parse_preprocess({"preset": "raw", "layout": "NCHW", "size": 8})):
        assert key == "version" or f"`rule.{key}`" in page
