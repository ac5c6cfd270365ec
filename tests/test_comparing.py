"""`diff` names what training moved and nothing else, and says what came and went."""

from __future__ import annotations

import json

import networks as nw
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import surgeon
from surgeon import comparing
from surgeon.cli import main
from surgeon.graph import envelope
from surgeon.graph.weights import tuned_names


def moved(found):
    return {one["name"] for one in found["tensors"] if one["changed"] and one["only"] is None}


def only(found, which):
    return {one["name"] for one in found["tensors"] if one["only"] == which}


@pytest.fixture(scope="module")
def source():
    return nw.batchnorm()


@pytest.fixture(scope="module")
def tuned(source):
    data = nw.feeds(source, batch=24, seed=1) | {"labels": np.arange(24) % 3}
    steps = {"init": "random", "epochs": 1, "compile": "off", "augment": "none"}
    cases = {"small-similar": {}, "large-similar": steps}  # begun at random, all of it moves
    return {
        case: surgeon.finetune(source, data, case=case, device="cpu", **options).model
        for case, options in cases.items()
    }


@pytest.mark.parametrize("case", ["small-similar", "large-similar"])
def test_a_tuned_file_and_its_source(source, tuned, case):
    found = surgeon.diff(source, tuned[case])
    plan = tuned[case].plan
    names = set(tuned_names(tuned[case].proto, plan.trainable))
    assert only(found, "b") == {"surgeon.head.weight", "surgeon.head.bias"}
    assert only(found, "a") == {"fc.w", "fc.b"}
    assert moved(found) == names - only(found, "b")
    assert all(one["trained"] for one in found["tensors"] if one["name"] in names)
    assert not found["same_structure"]
    assert [one["what"] for one in found["graph"]] == ["output 'y'", "output 'logits'"]
    assert len(found["nodes"]["added"]) == len(found["nodes"]["removed"]) == 1
    stored = {one["key"]: one["b"] for one in found["metadata"]}
    assert stored[envelope.PLAN] == envelope.metadata(tuned[case].proto)[envelope.PLAN]


def test_how_far_is_as_numpy_says(source):
    other = onnx.ModelProto()
    other.CopyFrom(source)
    tensor = next(t for t in other.graph.initializer if t.name == "l1.weight")
    before = numpy_helper.to_array(tensor).astype(np.float64)
    after = before + np.random.default_rng(0).normal(size=before.shape)
    tensor.CopyFrom(numpy_helper.from_array(after.astype(np.float32), "l1.weight"))
    found = surgeon.diff(source, other)
    assert found["same_structure"]
    assert moved(found) == {"l1.weight"}
    (row,) = [one for one in found["tensors"] if one["changed"]]
    apart = after.astype(np.float32) - before
    assert row["max_difference"] == pytest.approx(np.abs(apart).max())
    assert row["relative"] == pytest.approx(np.abs(apart).max() / np.abs(before).max())
    assert row["distance"] == pytest.approx(np.linalg.norm(apart) / np.linalg.norm(before))
    assert row["shape"] == list(before.shape)


def test_the_same_file_and_one_whose_nodes_have_other_names(source):
    other = onnx.ModelProto()
    other.CopyFrom(source)
    assert surgeon.diff(source, other)["same"]
    for place, node in enumerate(other.graph.node):
        node.name = f"other{place}"
        node.doc_string = "seen"
    found = surgeon.diff(source, other)
    assert found["same_structure"]
    assert not moved(found)


def values(first, second):
    network = nw.mlp()
    pair = []
    for value in (first, second):
        model = onnx.ModelProto()
        model.CopyFrom(network)
        model.graph.initializer.append(numpy_helper.from_array(value, "odd"))
        model.graph.node.add(op_type="Identity", input=["odd"], output=["unused"])
        pair.append(model)
    found = surgeon.diff(*pair)
    return next(one for one in found["tensors"] if one["name"] == "odd")


def test_values_that_are_no_numbers_and_types_that_differ():
    nan, one = np.float32([np.nan, 1]), np.float32([np.nan, 2])
    assert values(nan, one)["max_difference"] == 1
    assert values(nan, np.float32([0, 1]))["max_difference"] is None
    assert values(np.float32([np.inf]), np.float32([-np.inf]))["max_difference"] is None
    assert values(np.int8([-128]), np.int8([127]))["max_difference"] == 255
    assert values(np.array([True]), np.array([False]))["max_difference"] == 1
    half = values(np.float32([1, 2]), np.float16([1, 2]))
    assert half["changed"]
    assert half["max_difference"] == 0
    assert half["other"] == {"shape": [2], "dtype": "FLOAT"}
    shape = values(np.float32([1, 2]), np.float32([1]))
    assert shape["changed"]
    assert shape["max_difference"] is None
    text = values(np.array(["a"], object), np.array(["b"], object))
    assert text["changed"]
    assert text["distance"] is None


def test_pieces_and_weights_beside_the_file(source, tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "PIECE", 7)
    other = surgeon.load(source).proto
    onnx.save(source, tmp_path / "a.onnx")
    copy = onnx.ModelProto()
    copy.CopyFrom(other)
    onnx.save(
        copy, tmp_path / "b.onnx", save_as_external_data=True, location="b.data", size_threshold=0
    )
    assert surgeon.diff(tmp_path / "a.onnx", tmp_path / "b.onnx")["same"]
    data = bytearray((tmp_path / "b.data").read_bytes())
    data[-1] ^= 1
    (tmp_path / "b.data").write_bytes(bytes(data))
    assert len(moved(surgeon.diff(tmp_path / "a.onnx", tmp_path / "b.onnx"))) == 1


def test_blocks_are_the_beginnings_of_names():
    names = [f"encoder.layer.{n}.{part}.weight" for n in range(12) for part in ("q", "k", "v")]
    found = comparing.blocks_of([*names, "pooler.bias", "lonely", "num/1"], {"lonely": "a/b/c"})
    assert found["encoder.layer.3.q.weight"] == "encoder.layer.3"
    assert found["pooler.bias"] == "pooler"
    assert found["lonely"] == "a.b"
    assert len(set(found.values())) <= comparing.BLOCKS


def test_the_verb(source, tuned, tmp_path, capsys):
    onnx.save(source, tmp_path / "a.onnx")
    tuned["large-similar"].save(tmp_path / "b.onnx")
    pair = [str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")]
    assert main(["diff", *pair]) == 0
    told = capsys.readouterr().out
    assert "surgeon.head" in told
    assert max(map(len, told.splitlines())) <= 80
    assert main(["diff", *pair, "-v"]) == 0
    assert "l1.bn.mean" in capsys.readouterr().out
    assert main(["diff", *pair, "--exit-code", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["a"] == pair[0]
    assert main(["diff", pair[0], pair[0], "--exit-code"]) == 0
    assert main(["diff", pair[0], str(tmp_path / "absent.onnx"), "--json"]) == 2
