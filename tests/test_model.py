"""`Model`: what it says of a network, and that nothing about it changes in place."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import networks as nw
import numpy as np
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
    assert document["head"] == {"kind": "gemm", "pool": "mean", "taps": [], "options": {}}


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


# ── what is found out is a function of the model, and found once ─────────────────────────────────


def beside_a_constant():
    net = nw.Net()
    x = nw.conv(net, net.input("x", ["N", 3, 8, 8]), "c1", 8, 3)
    x = net.node("Mul", net.node("Relu", x), net.input("factor", [1]))
    x = net.node("Flatten", net.node("GlobalAveragePool", x), out="features")
    net.node("Gemm", x, net.weight("fc", 8, 4), out="y")
    return net.model("y", shape=["N", 4])


@pytest.fixture
def found_out(monkeypatch):
    """How often the expensive steps of looking at a graph are taken."""
    import surgeon_models
    from surgeon.runtime import settle

    taken = dict.fromkeys(("settle", "sketch", "study", "recognise"), 0)

    def count(room, name):
        step = getattr(room, name)

        def counted(*given, **named):
            taken[name] += 1
            return step(*given, **named)

        monkeypatch.setattr(room, name, counted)

    for name in ("settle", "sketch", "study"):
        count(settle, name)
    count(surgeon_models, "recognise")
    return taken


@pytest.mark.parametrize("constants", [{}, {"factor": np.ones(1, np.float32)}])
@pytest.mark.parametrize(
    ("verb", "settled", "sketched"),
    [("inspect", 0, 1), ("cuts", 1, 0), ("operate", 1, 0), ("advise", 1, 0), ("finetune", 2, 0)],
)
def test_a_verb_understands_each_graph_once(
    tmp_path, found_out, constants, verb, settled, sketched
):
    """The model, and where it is trained the operated one, too; whatever inputs are constant."""
    from surgeon import operation

    path = tmp_path / "model.onnx"
    onnx.save(beside_a_constant() if constants else nw.convnet(), path)
    shape = [24, *surgeon.load(path).inputs[0].shape[1:]]
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    data = {surgeon.load(path).inputs[0].name: values, "labels": np.arange(24) % 3}
    found_out.update(dict.fromkeys(found_out, 0))
    run = {
        "inspect": lambda: operation.inspect(path),
        "cuts": lambda: operation.cuts(path, inputs=constants),
        "operate": lambda: surgeon.operate(path, "small-similar", 3, inputs=constants),
        "advise": lambda: surgeon.advise(path, data, inputs=constants, device="cpu"),
        "finetune": lambda: surgeon.finetune(
            path, data, case="auto", epochs=1, inputs=constants, device="cpu"
        ),
    }
    run[verb]()
    assert found_out == {
        "settle": settled,
        "sketch": sketched,
        "study": settled + sketched,
        "recognise": 1,
    }


def test_a_model_made_of_another_one_is_looked_at_by_itself():
    """Also where the other one was looked at before: no order of calls changes an answer."""
    asked, unasked = surgeon.load(nw.convnet()), surgeon.load(nw.convnet())
    assert asked.roles()
    assert asked.cuts()
    assert asked.bound == 1e-4
    other = surgeon.load(nw.mlp()).proto
    for model in (asked, unasked):
        made = dataclasses.replace(model, proto=other)
        assert made.roles() == surgeon.load(other).roles() != asked.roles()
        assert [cut.tensor for cut in made.cuts()] == [
            cut.tensor for cut in surgeon.load(other).cuts()
        ]
