"""What `predict` reads: folders, patterns, standard input, tables, several of them."""

from __future__ import annotations

import json
import subprocess
import sys

import networks
import numpy as np
import onnx
import pytest
import tabular
from PIL import Image

import surgeon
from surgeon.cli import main
from surgeon.data import flow
from surgeon.errors import DataError


@pytest.fixture
def model(tmp_path):
    onnx.save(networks.convnet(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for name in ("b/2.png", "b/deep/1.png", "a/1.png", "3.jpg", "[odd].png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (12, 12, 3), np.uint8)).save(path)
    (tmp_path / "photos" / "b" / ".hidden.png").touch()
    (tmp_path / "photos" / "b" / "notes.txt").touch()
    return tmp_path / "photos"


def names(paths, root):
    return [str(path.relative_to(root)) for path in paths]


def test_a_pattern_is_put_out_as_a_shell_would(photos):
    def found(pattern):
        return names(flow.matching(f"{photos}/{pattern}"), photos)

    assert found("**/*.png") == ["[odd].png", "a/1.png", "b/2.png", "b/deep/1.png"]
    assert found("*/?.png") == ["a/1.png", "b/2.png"]
    assert found("b/**/1.*") == ["b/deep/1.png"]
    assert found("[ab]/*.png") == ["a/1.png", "b/2.png"]
    assert found("b/.*") == ["b/.hidden.png"]
    assert found("none*") == []
    assert set(found("**")) >= {"3.jpg", "b/deep/1.png"}


def predicted(model, inputs, **more):
    return surgeon.predict(model, inputs, preprocess="zero-one", **more)


def test_a_name_that_looks_like_a_pattern_is_a_name_where_it_is_there(model, photos):
    assert predicted(model, [photos / "[odd].png"]).names == [str(photos / "[odd].png")]


def test_a_pattern_that_matches_nothing_is_an_error(model, photos, tmp_path):
    for more in ({}, {"out": tmp_path / "a.csv"}):
        with pytest.raises(DataError, match="nothing matches"):
            predicted(model, [photos / "*.bmp"], **more)


def test_folders_patterns_and_files_go_together_part_by_part(model, photos, tmp_path, monkeypatch):
    inputs = [photos / "a", str(photos / "b" / "**" / "*.png"), photos / "3.jpg"]
    whole = predicted(model, inputs)
    assert [name.removeprefix(f"{photos}/") for name in whole.names] == [
        "a/1.png", "b/2.png", "b/deep/1.png", "3.jpg",
    ]  # fmt: skip
    monkeypatch.setattr(flow, "FILES", 2)
    written = predicted(model, inputs, out=tmp_path / "a.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["input"] for row in rows] == whole.names
    assert [row["index"] for row in rows] == whole.probabilities.argmax(1).tolist()
    np.testing.assert_allclose(
        [row["probabilities"] for row in rows], whole.probabilities, atol=1e-6
    )
    assert written.written.failed == 0


def test_files_of_a_folder_that_are_none_are_named(model, photos, tmp_path):
    out = tmp_path / "a.jsonl"
    written = predicted(model, photos, out=out).written
    failed = {one["input"].removeprefix(f"{photos}/") for one in written.named}
    assert failed == {"b/.hidden.png", "b/notes.txt"}
    assert written.inputs == 7


@pytest.mark.parametrize("end", ["\n", "\0", "\r\n"])
def test_paths_come_by_standard_input(model, photos, tmp_path, end):
    given = end.join(map(str, [photos / "3.jpg", photos / "none.png", photos / "a" / "1.png"]))
    out = tmp_path / "a.jsonl"
    asked = [sys.executable, "-m", "surgeon", "predict", model, "-", "--preprocess", "zero-one"]
    done = subprocess.run(
        [*asked, "--out", out, "--json"], input=given.encode(), capture_output=True, check=True
    )
    assert json.loads(done.stdout)["counts"] == {"inputs": 3, "answered": 2, "failed": 1}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["input"] for row in rows if row["error"] is None} == {
        str(photos / "3.jpg"), str(photos / "a" / "1.png"),
    }  # fmt: skip


def test_what_a_pattern_names_and_is_none_is_told_without_a_file_too(model, photos):
    found = predicted(model, [photos / "b" / "**"])
    assert [name.removeprefix(f"{photos}/") for name in found.names] == ["b/2.png", "b/deep/1.png"]
    assert [one["input"].removeprefix(f"{photos}/") for one in found.failed] == ["b/notes.txt"]


def test_one_picture_brings_no_library_that_it_does_not_need(model, photos):
    asked = f"import sys, surgeon; surgeon.predict({str(model)!r}, {str(photos / '3.jpg')!r}, "
    asked += "preprocess='zero-one'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, check=True, text=True)
    further = {"pillow_heif", "pydicom", "soundfile", "av", "pyarrow", "tokenizers", "datasets"}
    assert not further & set(done.stdout.split())


def test_a_missing_file_that_is_named_is_an_error_before_anything_runs(model, photos, tmp_path):
    out = tmp_path / "a.csv"
    code = main(["predict", str(model), str(photos / "none.png"), "--out", str(out)])
    assert code == 2
    assert not out.exists()


def test_several_tables_are_told_apart(tmp_path):
    onnx.save(tabular.network(), tmp_path / "net.onnx")
    for name in ("a", "b"):
        tabular.write_csv(tmp_path / f"{name}.csv", tabular.values(3))
    out = tmp_path / "out.jsonl"
    surgeon.predict(tmp_path / "net.onnx", [tmp_path / "a.csv", tmp_path / "b.csv"], out=out)
    rows = [json.loads(line)["input"] for line in out.read_text().splitlines()]
    assert rows[0] == f"{tmp_path / 'a.csv'}, row 1"
    assert rows[-1] == f"{tmp_path / 'b.csv'}, row 3"


def test_arrays_are_written_too(tmp_path):
    onnx.save(tabular.network(), tmp_path / "net.onnx")
    out = tmp_path / "out.jsonl"
    surgeon.predict(tmp_path / "net.onnx", tabular.values(5), out=out)
    assert len(out.read_text().splitlines()) == 5
