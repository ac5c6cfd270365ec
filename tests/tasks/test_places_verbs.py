"""`predict` and `evaluate` of files whose answers keep the axes of a sample."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

import surgeon
from surgeon.cli import main
from surgeon.errors import DataError, OutputError, SurgeonError, UnsupportedError, UsageError

RNG = np.random.default_rng(0)


def info(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def network(nodes, inputs, output, weights, task, labels, **more):
    """A file as `finetune` writes it, as far as these verbs read it."""
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **(node[3] if node[3:] else {})) for node in nodes], "g",
        inputs, [output], [numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    told = {
        "surgeon.plan": {"case": "small-similar", "task": task, "outputs": len(labels) or 4},
        "surgeon.labels": labels,
        **more,
    }
    helper.set_model_props(model, {name: json.dumps(value) for name, value in told.items()})
    return model


@pytest.fixture
def tagger(tmp_path):
    """Says B-X of `cat`, I-X of `##s`, else O."""
    words = {"[UNK]": 0, "the": 1, "cat": 2, "##s": 3, "[PAD]": 4}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    scores = np.full((5, 3), -2.0, np.float32)
    for word, label in ((0, 2), (1, 2), (2, 0), (3, 1), (4, 2)):
        scores[word, label] = 2.0
    model = network(
        [("Gather", ["scores", "ids"], ["logits"])],
        [info("ids", TensorProto.INT64, ["n", "length"])],
        info("logits", TensorProto.FLOAT, ["n", "length", 3]), {"scores": scores},
        "tokens", ["B-X", "I-X", "O"],
        **{"surgeon.preprocess": {"kind": "text", "tokenizer": json.loads(tokenizer.to_str())}},
    )  # fmt: skip
    onnx.save(model, tmp_path / "tagger.onnx")
    return tmp_path / "tagger.onnx"


def segmenter(labels=("dark", "light")):
    """Says by the sign of a grey pixel which of two classes it is."""
    return network(
        [("Concat", ["x", "x"], ["two"], {"axis": 1}), ("Mul", ["two", "signs"], ["logits"])],
        [info("x", TensorProto.FLOAT, ["n", 1, 4, 4])],
        info("logits", TensorProto.FLOAT, ["n", 2, 4, 4]),
        {"signs": np.array([-9, 9], np.float32).reshape(1, 2, 1, 1)},
        "segmentation", list(labels),
        **{"surgeon.preprocess": {
            "layout": "NCHW", "channels": "L", "size": [4, 4], "resize": "nearest",
            "mean": [127.5], "std": [127.5], "fit": "stretch",
        }},
    )  # fmt: skip


def test_words_are_told_with_their_labels_and_places(tagger, tmp_path, capsys):
    for name, text in (("a", "the cats"), ("b", "cat the  cat the")):
        (tmp_path / f"{name}.txt").write_text(text)
    said = surgeon.predict(tagger, [tmp_path / "a.txt", tmp_path / "b.txt"])
    rows = said.document()["predictions"]
    assert [
        [(one["text"], one["start"], one["label"]) for one in row["tokens"]] for row in rows
    ] == [
        [("the", 0, "O"), ("cats", 4, "B-X")],
        [("cat", 0, "B-X"), ("the", 4, "O"), ("cat", 9, "B-X"), ("the", 13, "O")],
    ]
    assert rows[0]["tokens"][1]["end"] == 8
    assert rows[0]["tokens"][0]["probability"] == pytest.approx(1 / (1 + 2 * np.exp(-4)), abs=1e-6)
    assert rows[0]["label"] is None
    assert main(["predict", str(tagger), str(tmp_path / "a.txt")]) == 0
    assert "the/O cats/B-X" in capsys.readouterr().out


def test_arrays_of_positions_are_told_and_judged(tagger):
    ids = np.array([[1, 2, 3, 1], [2, 2, 1, 4]])
    rows = surgeon.predict(tagger, {"ids": ids}).document()["predictions"]
    assert [one["label"] for one in rows[0]["tokens"]] == ["O", "B-X", "I-X", "O"]
    assert rows[0]["tokens"][0]["text"] is None
    labels = np.array([["O", "B-X", "I-X", "O"], ["B-X", "I-X", "O", ""]])
    found = surgeon.evaluate(tagger, {"ids": ids, "labels": labels})
    figures = found["metrics"]
    assert (figures["accuracy"], figures["span_f1"]) == (pytest.approx(6 / 7), pytest.approx(0.4))
    assert figures["quality"] == figures["span_f1"]
    assert [row["label"] for row in found["per_class"]] == ["X"]
    assert (found["confusion"], found["samples"], found["labels"]) == (None, 2, ["B-X", "I-X", "O"])


@pytest.mark.parametrize(
    ("labels", "kind", "words"),
    [
        (np.array([["O"] * 3] * 2), UnsupportedError, "compared"),
        (np.array([["Z"] * 4] * 2), DataError, "does not know"),
        (np.array(["O", "O"]), DataError, "list of labels"),
        (np.full((2, 4), -100), DataError, "no position"),
    ],
)
def test_answers_of_other_places_or_names_are_refused(tagger, labels, kind, words):
    with pytest.raises(SurgeonError, match=words) as caught:
        surgeon.evaluate(tagger, {"ids": np.ones((2, 4), np.int64), "labels": labels})
    assert isinstance(caught.value, kind)


def test_masks_are_drawn_as_large_as_the_pictures(tmp_path, capsys):
    path = tmp_path / "segmenter.onnx"
    onnx.save(segmenter(), path)
    pixels = np.where(RNG.random((8, 12)) < 0.5, 0, 255).astype(np.uint8)
    pixels = pixels[::2, ::3].repeat(2, 0).repeat(3, 1)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / "one.png")
    pictures = [tmp_path / "a" / "one.png", tmp_path / "b" / "one.png"]
    masks = tmp_path / "masks"
    said = surgeon.predict(path, pictures, masks=masks)
    assert [row["mask"] for row in said.rows] == [str(masks / "one.png"), str(masks / "one.2.png")]
    with Image.open(masks / "one.png") as file:
        assert np.array_equal(np.asarray(file), pixels // 255)
    with pytest.raises(OutputError):
        surgeon.predict(path, pictures, masks=masks)
    assert surgeon.predict(path, pictures).rows[0]["mask"] is None
    assert main(["predict", str(path), str(pictures[0]), "--masks", str(tmp_path / "more")]) == 0
    assert (tmp_path / "more" / "one.png").exists()
    assert "mask" in capsys.readouterr().out


def test_masks_are_judged_some_at_a_time():
    x = RNG.normal(size=(70, 1, 4, 4)).astype(np.float32)
    labels = np.where(RNG.random((70, 4, 4)) < 0.8, x[:, 0] > 0, x[:, 0] <= 0).astype(int)
    labels[0, 0] = 255
    figures = surgeon.evaluate(segmenter(labels=["0", "1"]), {"x": x, "labels": labels}, batch=16)[
        "metrics"
    ]
    told, said = labels != 255, x[:, 0] > 0
    wanted = [
        ((labels == c) & (said == c) & told).sum() / (((labels == c) | (said == c)) & told).sum()
        for c in (0, 1)
    ]
    assert figures["miou"] == figures["quality"] == pytest.approx(np.mean(wanted))
    assert figures["pixel_accuracy"] == pytest.approx((labels == said)[told].mean())


def test_a_file_of_another_origin_is_read_as_the_named_task():
    model = segmenter()
    del model.metadata_props[:]
    x = RNG.normal(size=(3, 1, 4, 4)).astype(np.float32)
    with pytest.raises(UnsupportedError):
        surgeon.predict(model, {"x": x})
    rows = surgeon.predict(model, {"x": x}, task="segmentation").rows
    assert [row["mask"] for row in rows] == [None] * 3


def test_only_a_file_that_segments_draws(tagger, tmp_path):
    with pytest.raises(UsageError, match="not drawn"):
        surgeon.predict(tagger, {"ids": np.ones((1, 3), np.int64)}, masks=tmp_path / "masks")


def test_vectors_are_told_and_judged_by_their_neighbours():
    model = network(
        [("LpNormalization", ["x"], ["embedding"], {"axis": 1})],
        [info("x", TensorProto.FLOAT, ["n", 4])], info("embedding", TensorProto.FLOAT, ["n", 4]),
        {}, "embedding", [],
    )  # fmt: skip
    x = RNG.normal(size=(40, 4)).astype(np.float32)
    (row, *_) = surgeon.predict(model, {"x": x}).document()["predictions"]
    np.testing.assert_allclose(row["embedding"], x[0] / np.linalg.norm(x[0]), rtol=1e-5)
    labels = np.repeat(["a", "b"], 20)
    found = surgeon.evaluate(
        model, {"x": np.where((labels == "a")[:, None], x + 9, x - 9), "labels": labels}
    )
    assert found["metrics"]["recall_at_1"] > 0.9
    assert found["metrics"]["map_at_10"] > 0.9
