"""Programs for texts, for several labels and for numbers: they say what `predict` says."""

from __future__ import annotations

import json
import subprocess
import sys

import networks
import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

import surgeon
from surgeon.errors import UsageError

SENTENCES = ("the cat sat on the mat", "a dog ran far", "rain fell all day", "the dog and the cat")


@pytest.fixture
def tokenizer(tmp_path):
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(SENTENCES, trainers.WordLevelTrainer(special_tokens=special))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(t, made.token_to_id(t)) for t in special[2:]]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def network():
    """Return the mean of the tokens' vectors over the mask, and a linear layer."""
    net = networks.Net(opset=17)
    ids = net.input("input_ids", ["batch", "sequence"], networks.I64)
    net.input("attention_mask", ["batch", "sequence"], networks.I64)
    weights = net.node("Cast", "attention_mask", to=networks.F)
    column = net.node("Unsqueeze", weights, net.ints("last", -1))
    held = net.node("Mul", net.node("Gather", net.weight("embedding", 40, 8), ids), column)
    summed = net.node("ReduceSum", held, net.ints("one", 1), keepdims=0)
    mean = net.node("Div", summed, net.node("ReduceSum", weights, "one", keepdims=1))
    return net.model(
        net.node("Gemm", mean, net.weight("w", 5, 8), transB=1, out="y"), shape=["batch", 5]
    )


def told(folder, samples):
    """Return what the program beside `out.onnx` prints, by sample."""
    command = [sys.executable, str(folder / "out.py"), *samples]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line.split("\t") for line in lines.splitlines()]


def test_texts(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))
    words = ["cat", "dog", "rain", "mat", "day", "far"]
    for number in range(24):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{words[number % 6]} and {SENTENCES[number % 2]} {words[number % 5]}")
    surgeon.finetune(
        network(), tmp_path / "data", tmp_path / "tuned.onnx",
        case="small-similar", tokenizer=tokenizer, max_length=8, device="cpu",
    )  # fmt: skip
    surgeon.export(tmp_path / "tuned.onnx", tmp_path / "out.onnx", code="python", describe=True)
    paths = sorted((tmp_path / "data").rglob("*.txt"))
    found = surgeon.predict(tmp_path / "tuned.onnx", paths, batch=1)
    rows = told(tmp_path, [path.read_text() for path in paths])
    assert [row[1] for row in rows] == found.labels
    shares = [float(row[2]) for row in rows]
    np.testing.assert_allclose(shares, found.probabilities.max(1), atol=1e-6)
    side = json.loads((tmp_path / "out.onnx.json").read_text("utf-8"))
    assert side["medium"] == "texts"
    assert "tokenizer" not in side["preprocess"]
    encoded = Tokenizer.from_file(str(tmp_path / side["tokenizer"])).encode(side["example"]["text"])
    assert encoded.ids == side["example"]["ids"]
    with pytest.raises(UsageError, match="python or openvino"):
        surgeon.export(tmp_path / "tuned.onnx", tmp_path / "other.onnx", code="node")


@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_several_labels_and_numbers(tmp_path, task, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    lines = ["path,answer"]
    for number in range(40):
        light = random.integers(0, 256, 3)
        noise = random.integers(-20, 20, (12, 12, 3))
        pixels = np.clip(light + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        names = "|".join(name for name, value in zip("rgb", light, strict=True) if value > 128)
        lines.append(f"{number}.png,{names if task == 'multi-label' else light[0] / 255 + 0.5}")
    (tmp_path / "data.csv").write_text("\n".join(lines))
    surgeon.finetune(
        networks.convnet(), tmp_path / "data.csv", tmp_path / "tuned.onnx", case="small-similar",
        task=task, label_column="answer", preprocess="zero-one", device="cpu",
    )  # fmt: skip
    surgeon.export(tmp_path / "tuned.onnx", tmp_path / "out.onnx", code="python")
    pictures = [str(tmp_path / f"{number}.png") for number in range(8)]
    rows = told(tmp_path, pictures)
    found = surgeon.predict(tmp_path / "tuned.onnx", pictures, batch=1)
    for row, said in zip(rows, found.document()["predictions"], strict=True):
        if task == "multi-label":
            assert [one.rsplit(" ", 1)[0] for one in row[1:]] == said["labels"]
        else:
            np.testing.assert_allclose(list(map(float, row[1:])), said["values"], rtol=1e-5)
    others = ["node", "web", "csharp", "java", "rust", "cpp"]
    surgeon.export(tmp_path / "tuned.onnx", tmp_path / "others" / "", code=others)
    assert len(list((tmp_path / "others").iterdir())) == len(others) + 1
