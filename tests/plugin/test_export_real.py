"""Real networks in 8 bits: a convolutional one on pictures, a transformer on texts."""

from __future__ import annotations

import csv

import numpy as np
import pytest

import surgeon
from surgeon_models import datasets, get

pytestmark = pytest.mark.slow


def test_a_convolutional_network(tmp_path, monkeypatch):
    from surgeon.exporting import integers

    monkeypatch.setattr(integers, "BOUND", integers.LIMIT)  # which layers stay, small nets show
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))
    path = get("efficientnet-lite0")
    data = datasets.emoji()
    rows = np.random.default_rng(0).permutation(len(data.labels))[:120]
    labels = np.array(data.classes)[data.labels]
    for part, chosen in (("train", rows[:80]), ("held", rows[80:])):
        datasets.write_folder(data.images[chosen], labels[chosen], tmp_path / part)
    tuned, out = tmp_path / "tuned.onnx", tmp_path / "out.onnx"
    surgeon.finetune(
        path, tmp_path / "train", tuned, case="small-similar", size=(64, 64), device="cpu"
    )
    body = surgeon.export(
        tuned, out, int8=tmp_path / "train", check=tmp_path / "held", probabilities=True
    )
    print(body["comparison"], body["quantised"])
    assert body["bytes"] < 0.6 * body["comparison"]["bytes_before"]
    assert body["comparison"]["agreement"] >= 0.85
    assert body["quantised"]["error"] <= 0.3
    for source in (None, tuned, path):
        assert surgeon.verify(out, source=source).passed


def test_a_transformer(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))
    path = get("minilm-l3")
    data = datasets.mail()
    rows = np.random.default_rng(0).permutation(len(data.labels))[:160]
    for part, chosen in (("train.csv", rows[:100]), ("held.csv", rows[100:])):
        with (tmp_path / part).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "label"])
            for row in chosen:
                writer.writerow([data.texts[row][:400], data.classes[data.labels[row]]])
    tuned, out = tmp_path / "tuned.onnx", tmp_path / "out.onnx"
    surgeon.finetune(
        path, tmp_path / "train.csv", tuned, case="small-similar", max_length=64, device="cpu"
    )
    body = surgeon.export(tuned, out, int8_dynamic=True, check=tmp_path / "held.csv")
    print(body["comparison"], body["quantised"])
    assert body["bytes"] < 0.6 * body["comparison"]["bytes_before"]
    assert body["comparison"]["agreement"] >= 0.9
    for source in (None, tuned, path):
        assert surgeon.verify(out, source=source).passed
