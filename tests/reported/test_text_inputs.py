"""Graphs that read text: proofs hold it, and what reads it stays frozen."""

from __future__ import annotations

import networks as nw
import numpy as np
import pytest
from onnx import TensorProto

import surgeon
from surgeon.runtime import proof

WORDS = ["a", "b", "ü", 'quote"\n', ""]


def data():
    random = np.random.default_rng(0)
    t = random.choice(WORDS, (60, 4))
    labels = np.where((t == "a").sum(1) > (t == "b").sum(1), "yes", "no")
    return {"t": t, "labels": labels}


def network():
    """Words are counted."""
    net = nw.Net()
    net.input("t", ["N", 4], TensorProto.STRING)
    count = net.node(
        "TfIdfVectorizer", "t", mode="TF", min_gram_length=1, max_gram_length=1, max_skip_count=0,
        ngram_counts=[0], ngram_indexes=[0, 1, 2], pool_strings=["a", "b", "ü"],
    )  # fmt: skip
    h = net.node("Relu", net.node("MatMul", count, net.weight("w", 3, 6)), out="h")
    net.node("MatMul", h, net.weight("v", 6, 4), out="y")
    return net.model("y", shape=["N", 4])


@pytest.mark.parametrize("case", ["small-similar", "large-similar", "large-different"])
def test_a_network_of_text_is_tuned_and_verified(case, tmp_path):
    out = tmp_path / "o.onnx"
    done = surgeon.finetune(network(), data(), out, case=case, epochs=2, device="cpu", threads=1)
    assert surgeon.verify(out).passed
    assert len(done.proof["golden"]) == 4
    if case.startswith("large"):
        assert "w" in done.document()["trainable"]


@pytest.mark.parametrize("kind", [object, "U", "S"])
def test_text_in_a_proof_comes_back(kind):
    words = np.array(WORDS[:2] if kind == "S" else WORDS, kind).reshape(1, -1)
    back = proof.decode(proof.encode(words))
    assert back.shape == words.shape
    assert [str(word) for word in back[0]] == WORDS[: words.shape[1]]
