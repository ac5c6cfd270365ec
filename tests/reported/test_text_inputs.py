"""Graphs that read text: proofs hold it, and what reads it stays frozen."""

from __future__ import annotations

import networks as nw
import numpy as np
import pytest
from onnx import TensorProto, helper

import surgeon
from surgeon.errors import UnsupportedError
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
    done = surgeon.finetune(
        network(), data(), out, case=case, epochs=2, device="cpu", threads=1, golden_samples=True
    )
    assert surgeon.verify(out).passed
    assert len(done.proof["golden"]) == 4
    if case.startswith("large"):
        assert "w" in done.document()["trainable"]


def test_text_that_a_trained_weight_chooses_is_refused():
    """Which words are counted follows from a weight: torch would have to hold them."""
    net = nw.Net()
    net.input("t", ["N", 4], TensorProto.STRING)
    net.input("x", ["N", 4])
    first = net.node("MatMul", "x", net.weight("first", 4, 4))
    chosen = net.node("Greater", first, net.weight("nothing", values=np.zeros(1)))
    net.weights.append(helper.make_tensor("other", TensorProto.STRING, [1], [b"c"]))
    net.nodes.append(helper.make_node("Where", [chosen, "t", "other"], ["words"], name="choice"))
    count = net.node(
        "TfIdfVectorizer", "words", mode="TF", min_gram_length=1, max_gram_length=1,
        max_skip_count=0, ngram_counts=[0], ngram_indexes=[0, 1], pool_strings=["a", "b"],
    )  # fmt: skip
    h = net.node("Add", net.node("MatMul", count, net.weight("w", 2, 6)),
                 net.node("MatMul", first, net.weight("u", 4, 6)))  # fmt: skip
    net.node("MatMul", net.node("Relu", h), net.weight("v", 6, 4), out="y")
    model, given = net.model("y", shape=["N", 4]), data()
    given["x"] = np.random.default_rng(1).standard_normal((60, 4)).astype("f")
    with pytest.raises(UnsupportedError, match="numbers only") as caught:
        surgeon.finetune(model, given, case="large-different", epochs=1, device="cpu", threads=1)
    assert "choice" in str(caught.value)
    assert "'t'" in caught.value.where
    done = surgeon.finetune(model, given, case="small-similar", device="cpu", threads=1)
    assert done.proof["parity"]["max_relative"] < 1e-4


@pytest.mark.parametrize("kind", [object, "U", "S"])
def test_text_in_a_proof_comes_back(kind):
    words = np.array(WORDS[:2] if kind == "S" else WORDS, kind).reshape(1, -1)
    back = proof.decode(proof.encode(words))
    assert back.shape == words.shape
    assert [str(word) for word in back[0]] == WORDS[: words.shape[1]]
