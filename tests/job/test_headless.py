"""Features without a head: what a file gives is what the network computes at its cuts."""

from __future__ import annotations

import json

import networks as nw
import numpy as np
import onnx
import pytest
import seeing
from quantised import digits, quantised_network

import surgeon
from surgeon.cli import main
from surgeon.errors import UsageError

NAMES = [name for name in nw.ZOO if name != "shuffle"]


def inner(model, feeds, *names):
    """What ONNX Runtime sees at inner values."""
    return nw.run(nw.with_outputs(model, *names), feeds, list(names))


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_what_a_new_head_reads(name):
    model = nw.ZOO[name]()
    given = nw.feeds(model, batch=3)
    headed = surgeon.operate(model, "small-similar", classes=2)
    gemm = next(n for n in headed.proto.graph.node if headed.plan.head.weights[0] in n.input)
    read = gemm.input[0]
    wanted = nw.run(nw.with_outputs(headed.proto, read), given, [read])[read]
    got = surgeon.predict(surgeon.operate(model, "features"), given)
    np.testing.assert_allclose(got.values, wanted, rtol=1e-5, atol=1e-6)
    assert got.kind == "embedding"


@pytest.mark.parametrize(
    ("pool", "by_hand"),
    [
        ("mean", lambda x: x.mean((2, 3))),
        ("max", lambda x: x.max((2, 3))),
        ("first", lambda x: x[:, :, 0, 0]),
        ("last", lambda x: x[:, :, -1, -1]),
        ("flatten", lambda x: x.reshape(len(x), -1)),
        ("none", lambda x: x),
    ],
)
def test_pools(pool, by_hand):
    model, cut = nw.residual(), "b1.out"
    given = nw.feeds(model, batch=4)
    got = surgeon.operate(model, "features", cut=cut, pool=pool)
    wanted = by_hand(inner(model, given, cut)[cut])
    np.testing.assert_allclose(surgeon.predict(got, given).values, wanted, rtol=1e-5, atol=1e-6)
    info = got.proto.graph.output[0]
    assert info.name == "embedding"
    dims = [d.dim_value for d in info.type.tensor_type.shape.dim][1:]
    assert dims == list(wanted.shape[1:])
    onnx.checker.check_model(got.proto, full_check=True)


def test_several_cuts_are_outputs_in_the_order_given(tmp_path):
    model = nw.residual()
    given = nw.feeds(model, batch=2)
    file = surgeon.operate(model, "features", cut=["b2.out", "stem", "@0.5"]).save(
        tmp_path / "f.onnx"
    )
    got = surgeon.predict(file, given)
    assert list(got.embeddings) == ["embedding", "embedding.2", "embedding.3"]
    values = inner(model, given, "b2.out", "stem")
    for output, cut in (("embedding", "b2.out"), ("embedding.2", "stem")):
        np.testing.assert_allclose(got.embeddings[output], values[cut].mean((2, 3)), rtol=1e-5)
    row = got.document()["predictions"][1]
    assert row["embedding"] == row["embeddings"]["embedding"]
    assert list(row["embeddings"]) == list(got.embeddings)
    np.testing.assert_array_equal(got.values, got.embeddings["embedding"])


def test_one_command_without_a_file(tmp_path, capsys):
    file = tmp_path / "m.onnx"
    onnx.save(nw.convnet(), file)
    np.savez(tmp_path / "x.npz", **nw.feeds(nw.convnet(), batch=3))
    assert main(["predict", str(file), str(tmp_path / "x.npz"), "--cut", "@0.5", "--cut", "late",
                 "--json"]) == 0  # fmt: skip
    rows = json.loads(capsys.readouterr().out)["predictions"]
    assert [len(row["embeddings"]["embedding.2"]) for row in rows] == [8] * 3
    assert main(["predict", str(file), str(tmp_path / "x.npz"), "--cut", "late"]) == 0
    assert "embedding" in capsys.readouterr().out


def test_operate_writes_the_file_without_classes(tmp_path, capsys):
    file, out = tmp_path / "m.onnx", tmp_path / "f.onnx"
    onnx.save(nw.convnet(), file)
    asked = ["operate", str(file), "--case", "features", "--pool", "max", "-o", str(out), "--json"]
    assert main(asked) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["output"], body["trainable"], body["plan"]["outputs"]) == ("embedding", [], 8)
    assert surgeon.load(out).plan.head.pool == "max"
    assert surgeon.operation.inspect(out)["kind"] == "encoder"


def test_texts_of_several_lengths_keep_their_tokens():
    model = nw.transformer()
    file = surgeon.operate(model, "features", cut="@0.9", pool="none")
    for length in (4, 6):
        given = nw.feeds(model, batch=2, length=length)
        assert surgeon.predict(file, given).values.shape == (2, length, 8)


def test_an_inner_value_of_the_same_name_stays():
    model = nw.convnet()
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = "embedding" if name == "features" else name
    given = nw.feeds(model, batch=2)
    got = surgeon.predict(surgeon.operate(model, "features", cut=["@0.3", "embedding"]), given)
    wanted = inner(model, given, "embedding")["embedding"]
    np.testing.assert_allclose(got.embeddings["embedding.2"], wanted, rtol=1e-5, atol=1e-6)


def test_quantised_features_come_as_floats(tmp_path):
    model = quantised_network(tmp_path)
    cuts = [one.tensor for one in surgeon.load(model).cuts() if one.dtype == "uint8"][-2:]
    got = surgeon.predict(model, digits(5)[0], cut=cuts, pool="none")
    for values in got.embeddings.values():
        assert values.dtype == np.float32
        assert len(np.unique(values)) <= 256


def test_features_of_a_features_file_and_a_head_on_it(tmp_path):
    file = surgeon.operate(nw.convnet(), "features").save(tmp_path / "f.onnx")
    again = surgeon.operate(file, "small-similar", classes=3)
    assert again.proto.graph.output[0].name == "logits"
    assert list(again.plan.trainable) == list(again.plan.head.weights)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"case": "features", "classes": 3}, "--classes"),
        ({"case": "features", "init": "random"}, "--init"),
        ({"case": "features", "train": "*"}, "--train"),
        ({"case": "features", "cut": ["stem", "stem"]}, "--cut"),
        ({"case": "features", "cut": []}, "--cut"),
        ({"case": "small-similar", "classes": 2, "cut": ["stem", "late"]}, "--cut"),
        ({"case": "small-similar", "classes": 2, "pool": "max"}, "--pool"),
        ({"case": "features", "pool": "median"}, "--pool"),
    ],
)
def test_what_cannot_be_meant_is_refused(asked, named):
    with pytest.raises(UsageError) as told:
        surgeon.operate(nw.residual(), **asked)
    assert named in (told.value.where or "")
    assert told.value.remedy


def test_nothing_is_trained_by_it(tmp_path):
    model, data = nw.convnet(), {**nw.feeds(nw.convnet(), batch=6), "labels": np.arange(6) % 2}
    with pytest.raises(UsageError, match="trains nothing"):
        surgeon.finetune(model, data, case="features")
    with pytest.raises(UsageError, match="no plan to go on"):
        surgeon.finetune(surgeon.operate(model, "features"), data)


@pytest.mark.parametrize("case", ["features", "features-in"])
def test_check_knows_the_cases_that_cut_a_network_in_two(case):
    body = surgeon.operation.check(nw.residual(), case=case)
    assert (body["ok"], body["case"]) == (True, case)


def test_a_detector_gives_features_too():
    model = seeing.yolo()
    assert surgeon.predict(model, nw.feeds(model, batch=2), cut="stage2.out").values.shape == (2, 8)


def test_a_task_is_refused_where_there_is_no_head():
    with pytest.raises(UsageError, match="no task"):
        surgeon.operate(nw.mlp(), "features", task="regression")
