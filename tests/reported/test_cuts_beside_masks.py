"""Masks and positions are no paths that a cut must hold: encoders can be cut at every layer."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from encoders import FAMILIES, LAYERS, WORDS, Net, classifier, feeds
from onnx import TensorProto, helper

import surgeon
from surgeon import operation


def run(proto, inputs):
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    needed = {item.name for item in session.get_inputs()}
    return session.run(None, {k: v for k, v in inputs.items() if k in needed})[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_has_a_cut_at_every_layer(family):
    body = operation.cuts(classifier(family))
    assert len(body["cuts"]) >= LAYERS
    depths = np.array([cut["depth"] for cut in body["cuts"]])
    for wanted in (0.1, 0.33, 0.5, 0.75, 0.9):
        assert np.abs(depths - wanted).min() <= 0.1
    early = next(cut for cut in body["cuts"] if cut["tensor"] == body["early"])
    assert abs(early["depth"] - 0.33) <= 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_cut_early_runs_and_keeps_its_mask(family):
    model = classifier(family)
    patient = surgeon.operate(model, case="small-different", classes=2)
    assert abs(patient.plan.depth - 0.33) <= 0.1
    assert not any("nearest" in note for note in patient.notes)
    inputs = feeds(model)
    found = run(patient.proto, inputs)
    assert found.shape == (4, 2)
    if "attention_mask" in inputs:
        assert "attention_mask" in {info.name for info in patient.inputs}
        longer = {name: np.pad(value, ((0, 0), (0, 3))) for name, value in inputs.items()}
        np.testing.assert_allclose(run(patient.proto, longer), found, atol=1e-4)


def test_a_depth_that_ends_far_away_is_said():
    net = Net()
    x = net.op("Gather", net.weight("words", WORDS, 8), "input_ids")
    pooled = net.op("ReduceMean", x, axes=[1], keepdims=0)
    scores = net.linear(pooled, "score", 8, 3)
    model = net.model(["input_ids"], {scores: ["n", 3]})
    patient = surgeon.operate(model, case="small-similar", classes=2, cut="@0.33")
    assert any("@0.33" in note for note in patient.notes)
    assert not any(
        "@0.9" in note
        for note in surgeon.operate(model, case="small-similar", classes=2, cut="@0.9").notes
    )


def two_towers(join):
    """Two columns of integers: a word, embedded; and a number, used as it is, late."""
    net = Net()
    x = net.op("Gather", net.weight("words", WORDS, 8), "word")
    x = net.op("ReduceMean", x, axes=[1], keepdims=0)
    x = net.op("Relu", net.linear(x, "deep", 8, 8), name="tower")
    number = net.op("Cast", "number", to=TensorProto.FLOAT)
    if join == "embedded":
        number = net.op("Gather", net.weight("table", WORDS, 8), "number")
        number = net.op("ReduceMean", number, axes=[1], keepdims=0)
        x = net.op("Add", x, number)
    elif join == "multiplied":
        x = net.op("Add", x, net.op("MatMul", number, net.weight("number.w", 4, 8)))
    else:
        x = net.op("Concat", x, number, axis=1)
        x = net.op("MatMul", x, net.weight("both.w", 12, 8))
    scores = net.linear(net.op("Relu", x, name="both"), "score", 8, 3)
    model = net.model(["word", "number"], {scores: ["n", 3]})
    number = helper.make_tensor_value_info("number", TensorProto.INT64, ["n", 4])
    model.graph.input[1].CopyFrom(number)
    return model


@pytest.mark.parametrize("join", ["embedded", "multiplied", "concatenated"])
def test_numbers_that_are_content_must_be_held(join):
    listed = {cut["tensor"] for cut in operation.cuts(two_towers(join))["cuts"]}
    assert "tower" not in listed
    assert "both" in listed
