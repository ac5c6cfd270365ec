"""The side file, and programs in Python: what they say is what `predict` says."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import surgeon
from surgeon.data.media.pictures import ImageSamples
from surgeon.data.samples import Given
from surgeon.errors import OutputError, UnknownNameError, UsageError


def test_the_side_file_says_enough_to_answer_its_example(tuned, tmp_path):
    body = surgeon.export(tuned, tmp_path / "out.onnx", describe=True)
    assert body["forms"] == ["describe"]
    assert body["comparison"] is None
    told = json.loads((tmp_path / "out.onnx.json").read_text("utf-8"))
    rule, example = told["preprocess"], told["example"]
    assert told["labels"] == ["flower", "roof"]
    assert rule["rule"]["alpha"]
    y, x, c = np.ogrid[: example["height"], : example["width"], :3]
    pixels = (7 * x + 3 * y + 50 * c) % 256
    values = (pixels * rule["scale"] - rule["mean"]) / rule["std"]
    session = onnxruntime.InferenceSession(tmp_path / told["file"])
    feeds = {told["inputs"][0]["name"]: values.transpose(2, 0, 1)[None].astype(np.float32)}
    numbers = session.run([told["decoding"]["output"]], feeds)[0][0]
    np.testing.assert_allclose(numbers, example["output"], rtol=1e-4, atol=1e-5)
    assert told["decoding"]["apply"] == "softmax"
    shares = np.exp(numbers) / np.exp(numbers).sum()
    np.testing.assert_allclose(shares, example["probabilities"], atol=1e-5)
    assert told["labels"][shares.argmax()] == example["label"]


def test_the_source_itself_can_be_described(tuned, tmp_path):
    copy = tmp_path / "tuned.onnx"
    copy.write_bytes(tuned.read_bytes())
    body = surgeon.export(copy, copy, describe=True, code="python")
    assert copy.read_bytes() == tuned.read_bytes()
    assert set(body["files"]) == {str(tmp_path / "tuned.py"), str(tmp_path / "tuned.onnx.json")}
    with pytest.raises(OutputError, match="exists"):
        surgeon.export(copy, copy, code="python")


def test_a_file_with_probabilities_gets_no_second_softmax(tuned, tmp_path):
    surgeon.export(tuned, tmp_path / "out.onnx", describe=True, probabilities=True, code="python")
    told = json.loads((tmp_path / "out.onnx.json").read_text("utf-8"))
    assert told["decoding"]["probabilities"]
    assert told["decoding"]["apply"] == "nothing"
    assert "exp(" not in (tmp_path / "out.py").read_text("utf-8")


def test_a_program_may_name_the_place(tuned, tmp_path):
    body = surgeon.export(tuned, tmp_path / "app" / "", code=["python", "openvino"])
    names = {"tuned.onnx", "tuned.python.py", "tuned.openvino.py"}
    assert {path.name for path in (tmp_path / "app").iterdir()} == names
    assert body["forms"] == ["code=python,openvino"]
    surgeon.export(tuned, tmp_path / "run.py", code="python")
    assert (tmp_path / "run.onnx").is_file()


def test_what_no_program_can_do_is_refused_before_anything_is_written(tuned, tmp_path):
    with pytest.raises(UnknownNameError, match="python"):
        surgeon.export(tuned, tmp_path / "out.onnx", code="pyton")
    with pytest.raises(UsageError, match="one sample at a time"):
        surgeon.export(tuned, tmp_path / "out.onnx", code="python", batch=4)
    with pytest.raises(UsageError, match="float64"):
        surgeon.export(tuned, tmp_path / "out.onnx", code="opencv", embed_preprocess=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "rule",
    [
        {"resize": "bilinear"},
        {"resize": "bicubic", "fit": "crop"},
        {"resize": "nearest", "channels": "BGR"},
        {"fit": "crop", "bits": 12},
    ],
    ids=str,
)
def test_the_program_reads_pictures_bit_for_bit_as_predict(tuned, few, tmp_path, rule):
    document = {"scale": 1 / 255, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.1], **rule}
    model = surgeon.load(tuned)
    from surgeon.graph import encodings, envelope, preprocess

    how = preprocess.parse_preprocess(document, model.inputs[0], source="metadata")
    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    envelope.put(proto, envelope.PREPROCESS, encodings.as_document(how))
    surgeon.export(proto, tmp_path / "other.onnx", code="python")
    names = runpy.run_path(str(tmp_path / "other.py"))
    given = Given(model.inputs, few, sources=list(map(Path, few)), rule=how)
    samples = ImageSamples(given)
    for number, path in enumerate(few):
        wanted = samples.batch([number])["x"]
        np.testing.assert_array_equal(names["values"](path), wanted, err_msg=path)


def test_the_program_answers_as_predict(tuned, few, tmp_path):
    surgeon.export(tuned, tmp_path / "out.onnx", code="python")
    told = subprocess.run(
        [sys.executable, tmp_path / "out.py", *few], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split("\t") for line in told.splitlines()]
    found = surgeon.predict(tuned, few, batch=1)
    assert [row[0] for row in rows] == few
    assert [row[1] for row in rows] == found.labels
    best = [f"{row.max():.6f}" for row in found.probabilities]
    assert [row[2] for row in rows] == best


@pytest.mark.parametrize("language", ["node", "web", "csharp", "java", "rust", "cpp"])
def test_programs_that_hand_over_pixels_get_a_file_that_takes_them(tuned, tmp_path, language):
    body = surgeon.export(tuned, tmp_path / "out.onnx", code=language, describe=True)
    assert body["forms"] == ["embed-preprocess", "describe", f"code={language}"]
    assert any("--embed-preprocess is implied" in one for one in body["warnings"])
    assert surgeon.verify(tmp_path / "out.onnx").passed
    told = json.loads((tmp_path / "out.onnx.json").read_text("utf-8"))
    text = next(path for path in tmp_path.iterdir() if "onnx" not in path.name).read_text("utf-8")
    for name in (told["inputs"][0]["name"], told["decoding"]["output"], *told["labels"]):
        assert json.dumps(name) in text
    example = told["example"]
    y, x, c = np.ogrid[: example["height"], : example["width"], :3]
    pixels = ((7 * x + 3 * y + 50 * c) % 256).astype(np.uint8)[None]
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx")
    (numbers,) = session.run(["logits"], {told["inputs"][0]["name"]: pixels})
    np.testing.assert_allclose(numbers[0], example["output"], rtol=1e-4, atol=1e-5)
