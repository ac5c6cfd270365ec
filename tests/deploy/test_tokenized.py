"""A file that makes tokens of texts itself: measured ids, the answers of its source."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import surgeon
from surgeon.errors import CheckError, EnvironmentLacksError, UnsupportedError, UsageError

pytest.importorskip("onnxruntime_extensions")

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "cat",
    "##s",
    "run",
    "ran",
    ".",
    "cafe",
]
TEXTS = ["The cats run.", "the café", "cats ran the the the the the the the the cat", "dog"]


def tokenizer(model=models.WordPiece, **normal):
    made = Tokenizer(model({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(**{"lowercase": True, **normal})
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return json.loads(made.to_str())


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{number}.txt").write_text(text, "utf-8")
    return tmp_path / "texts"


def network(path, *, mask=True, told=None, **rule):
    """The mean of a table's rows, those of the mask or all."""
    random = np.random.default_rng(0)
    weights = {
        "table": random.standard_normal((len(WORDS), 3)).astype(np.float32),
        "last": np.array([2], np.int64),
    }
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["rows"])]
    names = ["input_ids", *(["attention_mask"] if mask else [])]
    if mask:
        nodes += [
            helper.make_node("Cast", ["attention_mask"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["float", "last"], ["weight"]),
            helper.make_node("Mul", ["rows", "weight"], ["seen"]),
        ]
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    nodes.append(
        helper.make_node("ReduceSum", ["seen" if mask else "rows", "axes"], ["logits"], keepdims=0)
    )
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(one, TensorProto.INT64, ["n", "length"]) for one in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [*(numpy_helper.from_array(w, n) for n, w in weights.items()), axes],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    stated = {
        "surgeon.plan": {"case": "small-similar", "task": "classification", "outputs": 3},
        "surgeon.labels": ["a", "b", "c"],
        "surgeon.preprocess": {"kind": "text", "tokenizer": told or tokenizer(), **rule},
    }
    helper.set_model_props(model, {name: json.dumps(value) for name, value in stated.items()})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("mask", "rule"), [(True, {}), (True, {"max_length": 6}), (False, {"length": 9})], ids=str
)
def test_it_answers_as_its_source(texts, tmp_path, mask, rule):
    source = network(tmp_path / "source.onnx", mask=mask, **rule)
    body = surgeon.export(source, tmp_path / "out.onnx", embed_tokenizer=texts)
    assert any("onnxruntime-extensions" in one for one in body["warnings"])
    assert [(one["name"], one["dtype"]) for one in body["inputs"]] == [("text", "string")]
    before, after = (surgeon.predict(tmp_path / f"{n}.onnx", texts) for n in ("source", "out"))
    np.testing.assert_allclose(after.probabilities, before.probabilities, rtol=1e-5)
    assert surgeon.load(tmp_path / "out.onnx").preprocess.embedded


def test_ids_that_differ_are_refused(texts, tmp_path):
    source = network(tmp_path / "source.onnx")
    (texts / "odd.txt").write_text("the [MASK] cat", "utf-8")
    told = tokenizer()
    told["added_tokens"] = [
        {"id": 4, "content": "[MASK]", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
    ]  # fmt: skip
    source = network(tmp_path / "source.onnx", told=told)
    with pytest.raises(CheckError, match="MASK"):
        surgeon.export(source, tmp_path / "out.onnx", embed_tokenizer=texts)
    assert not (tmp_path / "out.onnx").exists()


def test_other_tokenizers_are_refused_by_name(texts, tmp_path):
    source = network(tmp_path / "source.onnx", told=tokenizer(models.WordLevel))
    with pytest.raises(UnsupportedError, match="WordLevel"):
        surgeon.export(source, tmp_path / "out.onnx", embed_tokenizer=texts)


def test_the_library_is_needed_by_name(texts, tmp_path, monkeypatch):
    source = network(tmp_path / "source.onnx")
    surgeon.export(source, tmp_path / "out.onnx", embed_tokenizer=texts)
    with pytest.raises(UsageError, match="nothing in the file"):
        surgeon.export(tmp_path / "out.onnx", tmp_path / "o.onnx", embed_tokenizer=texts)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime_extensions", None)
    with pytest.raises(EnvironmentLacksError, match="onnxruntime_extensions"):
        surgeon.predict(tmp_path / "out.onnx", texts)
