"""LoRA on a real encoder of text: few numbers, the same structure, an adapter kept apart."""

from __future__ import annotations

import csv

import numpy as np
import onnx
import pytest

import surgeon
from surgeon.graph.weights import same_values
from surgeon_models import datasets, get

pytestmark = pytest.mark.slow


def test_an_encoder_of_text_learns_by_few_numbers_and_comes_back_from_what_was_kept(tmp_path):
    mail, table = datasets.load("mail"), tmp_path / "mail.csv"
    chosen = np.random.default_rng(0).permutation(len(mail.labels))[:160]
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows([mail.texts[row], mail.classes[mail.labels[row]]] for row in chosen)
    path, out, kept = get("minilm-l3"), tmp_path / "tuned.onnx", tmp_path / "kept.safetensors"
    adapter = "lora:rank=4,targets=*layer.[12]/attention/*"
    body = surgeon.finetune(
        path, table, out, case="large-similar", adapter=adapter, adapter_out=kept, epochs=2,
        lr=2e-3, max_length=32, freeze="surgeon.head.*", device="cpu",
    ).document()  # fmt: skip
    assert body["delivered"] == "tuned"
    assert body["trained_parameters"] == 8 * 4 * (384 + 384)
    assert body["frontier"]["nodes_frozen"]  # embeddings and the first layer
    operated = surgeon.operate(
        path, "large-similar", 2, adapter=adapter, freeze="surgeon.head.*", init="pretrained"
    )
    tuned = onnx.load(out)
    assert list(tuned.graph.node) == list(operated.proto.graph.node)
    after = {tensor.name: tensor for tensor in tuned.graph.initializer}
    for before in operated.proto.graph.initializer:
        if before.name not in operated.trainable and before.name not in operated.plan.head.weights:
            assert same_values(before, after[before.name]), before.name
    assert surgeon.verify(out, path).passed
    assert kept.stat().st_size < out.stat().st_size / 20
    surgeon.apply(path, kept, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()
