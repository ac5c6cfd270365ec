"""From raw texts, sounds and series to a tuned file and predictions, by API and command line."""

from __future__ import annotations

import json
import wave

import networks as nw
import numpy as np
import onnx
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

import surgeon
from surgeon.cli import main
from surgeon.errors import DataError, UsageError

RAIN = ("rain falls on the roof", "wet clouds bring rain and wind", "the storm brings rain")
FOOD = ("bread and butter on the table", "she bakes warm bread", "soup with bread and salt")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = main([str(argument) for argument in (*arguments, "--json")])
        return code, json.loads(capsys.readouterr().out)

    return call


@pytest.fixture
def tokenizer(tmp_path):
    # Words, not pieces of them: training pieces breaks ties differently from run to run.
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    made.train_from_iterator([*RAIN, *FOOD], trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return path


def text_net(*, mask=True):
    """Embedding → mean (over the mask) → Gemm."""
    net = nw.Net(opset=17)
    ids = net.input("input_ids", ["batch", "sequence"], nw.I64)
    value = net.node("Gather", net.weight("embedding", 200, 16), ids)
    if mask:
        net.input("attention_mask", ["batch", "sequence"], nw.I64)
        weights = net.node("Cast", "attention_mask", to=nw.F)
        column = net.node("Unsqueeze", weights, net.ints("last", -1))
        summed = net.node(
            "ReduceSum", net.node("Mul", value, column), net.ints("one", 1), keepdims=0
        )
        value = net.node("Div", summed, net.node("ReduceSum", weights, "one", keepdims=1))
    else:
        value = net.node("ReduceMean", value, axes=[1], keepdims=0)
    out = net.node("Gemm", value, net.weight("w", 5, 16), transB=1, out="y")
    return net.model(out, shape=["batch", 5])


def conv_net(shape, channels, kernel, *, state=False):
    """(Unsqueeze) → Conv → Relu → mean → Gemm; with state, an input that is added to the end."""
    net = nw.Net(opset=13)
    value = net.input("wave", shape)
    if len(shape) == 2:
        value = net.node("Unsqueeze", value, net.ints("axis", 1))
    value = net.node("Conv", value, net.weight("c", 8, channels, kernel), kernel_shape=[kernel])
    value = net.node("Flatten", net.node("GlobalAveragePool", net.node("Relu", value)))
    if state:
        value = net.node("Add", value, net.input("state", ["batch", 8]))
    out = net.node("Gemm", value, net.weight("w", 5, 8), transB=1, out="y")
    return net.model(out, shape=["batch", 5])


def save(model, path):
    onnx.save(model, path)
    return path


@pytest.fixture
def texts(tmp_path):
    for label, sentences in (("food", FOOD), ("rain", RAIN)):
        for number in range(12):
            path = tmp_path / "texts" / label / f"{number:02}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                f"{sentences[number % 3]} {' '.join(sentences[number % 2].split()[:2])}"
            )
    return tmp_path / "texts"


def play(path, hertz, rate=8000, seconds=0.2, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal(round(rate * seconds)) * 0.02
    sound = 0.5 * np.sin(2 * np.pi * hertz * np.arange(len(noise)) / rate) + noise
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(sound * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture
def sounds(tmp_path):
    for number in range(12):
        play(tmp_path / "sounds" / "low" / f"{number}.wav", 200, seed=number)
        play(tmp_path / "sounds" / "high" / f"{number}.wav", 2500, 16_000, seed=number)
    return tmp_path / "sounds"


@pytest.mark.parametrize("mask", [True, False])
def test_texts_by_the_api(mask, tmp_path, texts, tokenizer):
    source = save(text_net(mask=mask), tmp_path / "net.onnx")
    out = tmp_path / "tuned.onnx"
    outcome = surgeon.finetune(source, texts, out, case="small-similar", tokenizer=tokenizer)
    assert outcome.metrics["validation"]["accuracy"] == 1
    assert any("padded to" in line for line in outcome.body["warnings"])
    assert any("the tokenizer takes" in line for line in outcome.body["warnings"])
    assert surgeon.verify(out).passed
    # The tuned file alone suffices.
    tokenizer.unlink()
    fresh = tmp_path / "new" / "one.txt"
    fresh.parent.mkdir()
    fresh.write_text("wet clouds and the rain")
    alone = surgeon.predict(out, fresh)
    assert alone.labels == ["rain"]
    among = surgeon.predict(out, [texts, fresh])
    assert among.labels[:12] == ["food"] * 12
    np.testing.assert_allclose(among.probabilities[-1], alone.probabilities[0], atol=1e-5)
    scores = surgeon.operation.evaluate(out, texts)
    assert scores["metrics"]["accuracy"] == 1


@pytest.mark.parametrize("case", ["large-similar", "small-different"])
def test_texts_in_the_other_cases(case, tmp_path, texts, tokenizer):
    source = save(text_net(), tmp_path / "net.onnx")
    outcome = surgeon.finetune(source, texts, case=case, tokenizer=tokenizer, epochs=2)
    assert outcome.proof["parity"]["max_relative"] <= 1e-4


def test_texts_by_the_command_line(tmp_path, texts, tokenizer, run):
    source = save(text_net(), tmp_path / "net.onnx")
    out = tmp_path / "tuned.onnx"
    basic = ("finetune", source, texts, "-o", out, "--case", "small-similar")
    code, failure = run(*basic)
    assert code == 2
    assert "--tokenizer" in failure["error"]["remedy"]
    code, body = run(*basic, "--tokenizer", tokenizer, "--max-length", 6)
    assert code == 0
    assert any("were cut to 6" in line for line in body["warnings"])
    table = tmp_path / "new.csv"
    table.write_text('text\n"rain, wind"\nwarm bread\n')
    code, body = run("predict", out, table)
    assert code == 0
    assert [one["label"] for one in body["predictions"]] == ["rain", "food"]
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    code, body = run("predict", out, texts / "rain" / "00.txt", tmp_path / "bad.txt")
    assert (code, len(body["predictions"]), len(body["failed"])) == (0, 1, 1)
    assert "not UTF-8" in body["failed"][0]["reason"]
    code, body = run("evaluate", out, texts)
    assert body["metrics"]["accuracy"] == 1
    code, body = run("inspect", out)
    kept = body["preprocess"]
    assert (kept["kind"], kept["max_length"], kept["source"]) == ("text", 6, "option")
    assert kept["tokenizer"]["model"] == "WordLevel"
    assert main(["inspect", str(out)]) == 0


def test_a_tuned_text_file_goes_on_with_its_own_tokenizer(tmp_path, texts, tokenizer):
    source = save(text_net(), tmp_path / "net.onnx")
    first = surgeon.finetune(source, texts, case="small-similar", tokenizer=tokenizer)
    again = surgeon.finetune(first.model, texts)
    assert again.metrics["validation"]["accuracy"] == 1
    assert again.proof["preprocess_sha256"] == first.proof["preprocess_sha256"]


def test_validation_texts_of_their_own(tmp_path, texts, tokenizer):
    source = save(text_net(), tmp_path / "net.onnx")
    for label in ("food", "rain"):
        (tmp_path / "held" / label).mkdir(parents=True)
        (tmp_path / "held" / label / "0.txt").write_text(f"{(RAIN, FOOD)[label == 'food'][1]} " * 4)
    outcome = surgeon.finetune(
        source, texts, case="small-similar", tokenizer=tokenizer, validation=str(tmp_path / "held")
    )
    assert outcome.metrics["validation"] | {"loss": 0} == outcome.metrics["validation"] | {
        "samples": 2, "accuracy": 1, "loss": 0,
    }  # fmt: skip


@pytest.mark.parametrize("shape", [["batch", 1600], ["batch", 1, "length"]])
def test_sounds_by_api_and_command_line(shape, tmp_path, sounds, run):
    source = save(conv_net(shape, 1, 25), tmp_path / "net.onnx")
    out = tmp_path / "tuned.onnx"
    basic = ("finetune", source, sounds, "-o", out, "--case", "small-similar")
    code, failure = run(*basic)
    assert code == 2
    assert "--audio" in failure["error"]["remedy"]
    code, body = run(*basic, "--audio", "8000,0.2")
    assert code == 0
    assert body["metrics"]["validation"]["accuracy"] == 1
    assert "of 24 sounds, 12 resampled to 8000 Hz" in body["warnings"]
    fresh = play(tmp_path / "fresh.wav", 2400, 22_050, seconds=0.15, seed=99)
    code, body = run("predict", out, fresh)
    assert [one["label"] for one in body["predictions"]] == ["high"]
    assert surgeon.predict(out, [sounds / "low", fresh]).labels == ["low"] * 12 + ["high"]
    code, body = run("evaluate", out, sounds)
    assert body["metrics"]["accuracy"] == 1
    kept = run("inspect", out)[1]["preprocess"]
    assert kept.pop("rule")["version"] == 1
    assert kept == {"kind": "audio", "rate": 8000, "seconds": 0.2, "source": "option"}
    (tmp_path / "table.csv").write_text(
        "path,label\nsounds/low/0.wav,low\nsounds/high/0.wav,high\n"
    )
    code, body = run("evaluate", out, tmp_path / "table.csv")
    assert (body["samples"], body["metrics"]["accuracy"]) == (2, 1)


@pytest.mark.parametrize("case", ["small-similar", "large-similar"])
def test_sounds_with_state_at_zero(case, tmp_path, sounds):
    model = conv_net(["batch", 1, 1600], 1, 25, state=True)
    given = {"case": case, "audio": (8000, 0.2), "inputs": {"state": 0}, "epochs": 2}
    outcome = surgeon.finetune(model, sounds, **given)
    found = surgeon.predict(outcome.model, sounds / "low", constants={"state": 0})
    assert len(found.labels) == 12
    with pytest.raises(DataError, match="does not take sounds"):
        surgeon.finetune(model, sounds, case=case, audio="8000,0.2")


def test_series_by_the_api(tmp_path):
    random = np.random.default_rng(0)
    for number in range(24):
        values = random.standard_normal((40, 2)) * 0.2
        values[:, number % 2] += np.sin(np.arange(40) * 0.7) * 2
        path = tmp_path / "series" / "ab"[number % 2] / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values.astype(np.float32))
    model = conv_net(["batch", 2, "length"], 2, 5)
    outcome = surgeon.finetune(model, tmp_path / "series", case="small-similar")
    assert outcome.metrics["validation"]["accuracy"] == 1
    assert surgeon.predict(outcome.model, tmp_path / "series" / "b").labels == ["b"] * 12


def test_options_that_exclude_each_other_or_have_no_object(tmp_path, texts, tokenizer):
    model = text_net()
    for given in (
        {"tokenizer": tokenizer, "audio": "8000,1"},
        {"tokenizer": tokenizer, "preprocess": "imagenet"},
        {"max_length": 5},
        {"audio": "8000,1", "max_length": 5},
    ):
        with pytest.raises(UsageError):
            surgeon.finetune(model, texts, case="small-similar", **given)


def test_a_preprocess_document_may_say_its_kind(tmp_path, sounds):
    model = conv_net(["batch", 1, 1600], 1, 25)
    rule = '{"kind": "audio", "rate": 8000, "seconds": 0.2}'
    outcome = surgeon.finetune(model, sounds, case="small-similar", preprocess=rule)
    assert outcome.model.preprocess.samples == 1600
