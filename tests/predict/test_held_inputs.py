"""Inputs in memory, texts by lines, shards, vectors of a table; answers that keep places."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tarfile

import networks
import numpy as np
import onnx
import pytest
import tabular
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import surgeon
from surgeon.data import flow
from surgeon.errors import DataError


def told(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def model(tmp_path):
    onnx.save(networks.convnet(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def pictures():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (20, 15, 3), np.uint8)) for _ in range(5)]


def test_pictures_arrays_and_contents_are_as_good_as_files(model, pictures, tmp_path):
    contents = []
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
        contents.append((tmp_path / f"{number}.png").read_bytes())
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    wanted = surgeon.predict(model, paths, preprocess="zero-one").probabilities
    for given in (pictures, list(map(np.asarray, pictures)), contents):
        found = surgeon.predict(model, given, preprocess="zero-one")
        np.testing.assert_array_equal(found.probabilities, wanted)
        assert found.names[1] == "input 2"
    one = surgeon.predict(model, pictures[0], preprocess="zero-one").probabilities
    np.testing.assert_allclose(one, wanted[:1], atol=1e-6)
    assert np.asarray(pictures[0]).shape == (20, 15, 3)  # left as it was


def test_what_gives_inputs_one_by_one_is_never_held_whole(model, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "FILES", 4)
    given = 0

    def endless():
        nonlocal given
        for given in range(1, 41):
            yield pictures[given % 5] if given != 7 else tmp_path / "none.png"

    ahead = []

    def watch(_stage, done, _total, **_):
        ahead.append(given - done)

    out = tmp_path / "a.jsonl"
    found = surgeon.predict(model, endless(), preprocess="zero-one", out=out, progress=watch)
    assert (found.written.inputs, found.written.failed) == (40, 1)
    assert max(ahead) <= 8
    assert [row["input"] for row in told(out) if row["error"]] == [str(tmp_path / "none.png")]


def test_arrays_of_one_sample_each(tmp_path):
    onnx.save(tabular.network(), tmp_path / "net.onnx")
    values = tabular.values(6)
    wanted = surgeon.predict(tmp_path / "net.onnx", values).probabilities
    found = surgeon.predict(tmp_path / "net.onnx", list(values)).probabilities
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    out = tmp_path / "a.jsonl"
    surgeon.predict(tmp_path / "net.onnx", iter([values[0], values[0][:3], values[1]]), out=out)
    assert [row["error"] is None for row in told(out)] == [True, False, True]


def test_inputs_of_two_kinds_need_a_file(model, pictures, tmp_path):
    with pytest.raises(DataError, match="several kinds"):
        surgeon.predict(model, [pictures[0], np.zeros((3, 12, 12), np.float32)], preprocess="raw")


@pytest.fixture
def tagger(tmp_path):
    """Says B-X of `cat`, I-X of `##s`, else O."""
    library = pytest.importorskip("tokenizers")
    words = {"[UNK]": 0, "the": 1, "cat": 2, "##s": 3, "[PAD]": 4}
    tokenizer = library.Tokenizer(library.models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
    scores = np.full((5, 3), -2.0, np.float32)
    scores[range(5), [2, 2, 0, 1, 2]] = 2.0
    graph = helper.make_graph(
        [helper.make_node("Gather", ["scores", "ids"], ["logits"])],
        "tagger",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "length"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", "length", 3])],
        [numpy_helper.from_array(scores, "scores")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    said = {
        "surgeon.plan": {"case": "small-similar", "task": "tokens", "outputs": 3},
        "surgeon.labels": ["B-X", "I-X", "O"],
        "surgeon.preprocess": {"kind": "text", "tokenizer": json.loads(tokenizer.to_str())},
    }
    helper.set_model_props(made, {name: json.dumps(value) for name, value in said.items()})
    onnx.save(made, tmp_path / "tagger.onnx")
    return tmp_path / "tagger.onnx"


def test_lines_are_texts_of_their_own(tagger, tmp_path, monkeypatch):
    texts = ["the cats", "", "cat the", "the"] * 3
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    whole = surgeon.predict(tagger, tmp_path / "texts.txt", lines=True)
    assert len(whole.names) == 9
    assert [one["input"] for one in whole.failed] == ["line 2", "line 6", "line 10"]
    monkeypatch.setattr(flow, "FILES", 5)
    for given in (tmp_path / "texts.txt", texts, iter(texts)):
        out = tmp_path / "a.jsonl"
        surgeon.predict(tagger, given, lines=True, out=out, force=True)
        rows = told(out)
        assert [row["input"] for row in rows] == [f"line {one}" for one in range(1, 13)]
        assert [bool(row["error"]) for row in rows] == [not text for text in texts]
        words = [one["text"] for one in rows[0]["tokens"]]
        assert words == ["the", "cats"]


def test_lines_come_by_standard_input(tagger, tmp_path):
    out = tmp_path / "a.csv"
    asked = [sys.executable, "-m", "surgeon", "predict", tagger, "-", "--lines", "--out", out]
    subprocess.run(asked, input=b"the cats\nthe\n", check=True, capture_output=True)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [one["label"] for one in json.loads(rows[0]["tokens"])] == ["O", "B-X"]
    assert len(rows) == 2


def add(file, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    file.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    """Forty pictures of two colours in two shards, as WebDataset writes them."""
    folder = tmp_path / "shards"
    folder.mkdir()
    random = np.random.default_rng(0)
    for shard in range(2):
        with tarfile.open(folder / f"{shard:03}.tar", "w") as file:
            for number in range(20):
                bright = number % 2
                pixels = random.integers(150 * bright, 100 + 150 * bright, (12, 12, 3), np.uint8)
                content = io.BytesIO()
                Image.fromarray(pixels).save(content, "PNG")
                add(file, f"{number:04}.png", content.getvalue())
                add(file, f"{number:04}.cls", str(bright).encode())
                add(file, f"{number:04}.json", json.dumps({"whose": number}).encode())
    return folder


def test_shards_are_learnt_from_and_answered(model, shards, tmp_path):
    outcome = surgeon.finetune(
        model, shards, tmp_path / "tuned.onnx", case="small-similar", preprocess="zero-one",
        label_column="label", device="cpu",
    )  # fmt: skip
    assert outcome.body["labels"] == ["0", "1"]
    assert outcome.body["data"]["samples"] == 40
    found = surgeon.predict(tmp_path / "tuned.onnx", shards / "000.tar")
    assert found.names[0] == f"{shards / '000.tar'}/0000.png"
    assert found.labels == ["0", "1"] * 10
    out = tmp_path / "a.jsonl"
    surgeon.predict(tmp_path / "tuned.onnx", [f"{shards}/*.tar"], out=out)
    assert [row["label"] for row in told(out)] == ["0", "1"] * 20


def test_a_compressed_shard_is_refused(model, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as file:
        add(file, "1.png", b"none")
    with pytest.raises(DataError, match="shard"):
        surgeon.predict(model, tmp_path / "a.tar", preprocess="zero-one")


def test_vectors_of_a_table_are_data(tmp_path):
    pytest.importorskip("pyarrow")
    onnx.save(tabular.network(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=tabular.values(30))
    vectors = tmp_path / "vectors.parquet"
    surgeon.predict(tmp_path / "net.onnx", tmp_path / "data.npz", cut="late", out=vectors)
    answers = surgeon.predict(tmp_path / "net.onnx", vectors)
    wanted = surgeon.predict(tmp_path / "net.onnx", tmp_path / "data.npz")
    np.testing.assert_allclose(answers.probabilities, wanted.probabilities, atol=1e-6)
