"""The demonstration on its real model and data, with a budget of seconds."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import onnx
import pytest
from PIL import Image

import surgeon
from surgeon import schemas
from surgeon.cli import main
from surgeon.errors import OutputError
from surgeon_models import demo


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def told(folder):
    """What two demonstrations into one folder said: the second in JSON."""
    import contextlib
    import io

    texts = []
    for more in ((), ("--json",)):
        written = io.StringIO()
        with contextlib.redirect_stdout(written):
            assert main(["demo", "-q", "-o", str(folder), "--budget", "6", *more]) == 0
        texts.append(written.getvalue())
    return texts


@pytest.mark.slow
def test_the_document_fits_its_schema_and_has_a_row_for_each_case(told):
    document = json.loads(told[1])
    jsonschema.validate(document, schemas.load("demo"))
    assert [row["case"] for row in document["rows"]] == list(demo.CASES)
    for row in document["rows"]:
        assert row["images_seen"] >= 1079
        assert row["accuracy"] > 0.85
        assert row["latency"] > 0


@pytest.mark.slow
def test_the_table_names_cases_budget_proof_best_file_and_a_prediction(told, folder):
    text = told[0]
    for word in (*demo.CASES, "4 of 4 files pass", "(by validation)", str(folder / "digits")):
        assert word in " ".join(text.split())
    assert max(map(len, text.splitlines())) < 200


@pytest.mark.slow
def test_the_small_cases_train_the_head_and_the_large_ones_everything(told):
    rows = {row["case"]: row for row in json.loads(told[1])["rows"]}
    assert rows["small-similar"]["trained_parameters"] == 1280 * 10 + 10
    assert rows["small-different"]["bytes"] < rows["small-similar"]["bytes"] / 10
    for case in ("large-similar", "large-different"):
        assert rows[case]["trained_parameters"] > 3_000_000
        assert rows[case]["images_seen"] > 1079


@pytest.mark.slow
def test_the_files_are_proven_and_the_best_one_knows_the_held_out_picture(told):
    document = json.loads(told[1])
    for row in document["rows"]:
        assert surgeon.verify(row["path"], source=document["model"]).passed
    best = max(document["rows"], key=lambda row: row["validation_accuracy"])
    assert document["best"] == best["path"]
    made = document["prediction"]
    assert surgeon.predict(document["best"], [made["input"]]).labels == [made["label"]]
    assert onnx.load(document["best"]).graph.output[0].name == "logits"


@pytest.mark.slow
def test_the_pictures_are_real_files(told, folder):
    pictures = sorted((folder / "digits").rglob("*.png"))
    assert len(pictures) == 1797
    assert np.asarray(Image.open(pictures[0])).shape == (8, 8)


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "small-similar.onnx").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        demo.run(tmp_path)
    assert (tmp_path / "small-similar.onnx").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1
