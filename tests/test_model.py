"""`Model`: what it says of a network, and that nothing about it changes in place."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import networks as nw
import onnx
import pytest
from onnx import helper

import surgeon
from surgeon.errors import UsageError
from surgeon.graph import envelope
from surgeon.records import Plan


def test_loading_a_message_leaves_it_and_hashes_its_bytes():
    model = nw.convnet()
    content = model.SerializeToString(deterministic=True)
    loaded = surgeon.load(model)
    loaded.cuts()
    surgeon.operate(loaded, case="large-similar", classes=3)
    assert model.SerializeToString(deterministic=True) == content
    assert loaded.source_sha256 == hashlib.sha256(content).hexdigest()
    assert surgeon.load(loaded) is loaded
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.proto = model


def test_inputs_in_graph_order_with_their_batch_axis():
    loaded = surgeon.load(nw.two_inputs())
    assert [(i.name, i.shape, i.batch_axis) for i in loaded.inputs] == [
        ("vector", ("N", 5), 0),
        ("image", ("N", 3, 6, 6), 0),
    ]
    loaded = surgeon.load(nw.lstm_state())
    assert [(i.name, i.batch_axis) for i in loaded.inputs] == [("x", 1), ("h0", 1), ("c0", 1)]
    loaded = surgeon.load(nw.scalar_input())
    assert [(i.name, i.shape, i.batch_axis) for i in loaded.inputs] == [
        ("x", ("N", 8), 0),
        ("temperature", (), None),
    ]


@pytest.mark.parametrize("dims", [["s0", 8], [None, 8], ["unk__6", 8], [-1, 8], ["batch", 8]])
def test_a_batch_by_any_name(dims):
    model = nw.mlp()
    value = helper.make_tensor_value_info("x", nw.F, [None if d == -1 else d for d in dims])
    if dims[0] == -1:
        value.type.tensor_type.shape.dim[0].dim_value = -1
    model.graph.input[0].CopyFrom(value)
    loaded = surgeon.load(model)
    assert loaded.inputs[0].batch_axis == 0
    assert loaded.batch_note is None
    patient = surgeon.operate(loaded, case="small-similar", classes=3)
    assert nw.run(patient.proto, {"x": nw.feeds(nw.mlp(), 5)["x"]})["logits"].shape == (5, 3)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("build", [nw.lstm, nw.lstm_state])
def test_a_fixed_batch_on_axis_one(build, batch):
    loaded = surgeon.load(build(batch=batch))
    assert {info.batch_axis for info in loaded.inputs} == {1}
    assert "proven" in loaded.batch_note


def test_labels_as_exporters_leave_them():
    for key, text in (
        ("names", "{0: 'cat', 1: 'dog'}"),
        ("labels", '["cat", "dog"]'),
        ("id2label", '{"1": "dog", "0": "cat"}'),
        ("classes", "['cat', 'dog']"),
    ):
        model = nw.mlp()
        model.metadata_props.add(key=key, value=text)
        assert surgeon.load(model).labels == ["cat", "dog"]
    model = nw.mlp()
    model.metadata_props.add(key="names", value="not a list")
    assert surgeon.load(model).labels is None


def test_the_plan_survives_the_file():
    patient = surgeon.operate(nw.residual(), case="large-similar", classes=4, init="random")
    again = surgeon.load(patient.proto)
    assert again.plan == patient.plan
    assert isinstance(again.plan, Plan)
    assert again.trainable == patient.trainable
    document = json.loads({p.key: p.value for p in patient.proto.metadata_props}[envelope.PLAN])
    assert document["cut"] == "features"
    assert document["head"] == {"kind": "gemm", "pool": "mean", "taps": []}


def test_a_plan_of_a_newer_version_still_loads():
    patient = surgeon.operate(nw.mlp(), case="small-similar", classes=4)
    document = envelope.get(patient.proto, envelope.PLAN) | {"from_the_future": {"a": 1}}
    model = onnx.ModelProto()
    model.CopyFrom(patient.proto)
    envelope.put(model, envelope.PLAN, document)
    assert surgeon.load(model).plan == patient.plan


def test_the_document_of_operate():
    patient = surgeon.operate(nw.two_outputs(), case="small-similar", classes=4)
    document = patient.document("out.onnx")
    assert document["output"] == "logits"
    assert document["out"] == "out.onnx"
    names = {t.name for t in patient.proto.graph.initializer}
    assert set(document["frozen"]) | set(document["trainable"]) == names
    assert not set(document["frozen"]) & set(document["trainable"])
    assert document["added_nodes"] == 1
    assert document["removed_nodes"] == 3
    json.dumps(document, allow_nan=False)


def test_what_normalization_did_is_listed():
    patient = surgeon.operate(nw.tied(), case="small-similar", classes=4)
    assert patient.document()["normalized"] == [
        {"what": "Identity of an initializer removed", "count": 1}
    ]


def test_writing_over_a_file_needs_force(tmp_path):
    loaded = surgeon.load(nw.mlp())
    path = loaded.save(tmp_path / "a.onnx")
    with pytest.raises(surgeon.errors.OutputError):
        loaded.save(path)
    loaded.save(path, force=True)
    assert surgeon.load(path).proto == loaded.proto


def test_a_thing_that_is_no_model():
    with pytest.raises(UsageError, match="dict"):
        surgeon.load({})
