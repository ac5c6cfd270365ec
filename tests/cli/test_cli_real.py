"""The whole thread through the command line, nothing faked: a small network, generated data."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from surgeon import schemas

CLASSES = ("0", "1", "2")
SHAPE = (3, 8, 8)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Conv → Relu → pool → Flatten → Gemm, with seeded weights and a symbolic batch."""
    rng = np.random.default_rng(0)
    weights = {
        "conv.weight": rng.normal(size=(8, 3, 3, 3)) * 0.3,
        "conv.bias": rng.normal(size=8) * 0.1,
        "fc.weight": rng.normal(size=(5, 8)),
        "fc.bias": np.zeros(5),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], name="fc", transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])
    initializers = [
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()
    ]
    graph = helper.make_graph(nodes, "small", [x], [y], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = tmp_path_factory.mktemp("network") / "small.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three classes that differ in the mean of one channel."""
    rng = np.random.default_rng(1)
    labels = np.arange(90) % len(CLASSES)
    values = rng.normal(size=(90, *SHAPE)).astype(np.float32) * 0.5
    values[np.arange(90), labels] += 2
    path = tmp_path_factory.mktemp("data") / "three.npz"
    np.savez(path, x=values, labels=labels)
    return path


@pytest.fixture
def document(run, monkeypatch, tmp_path):
    """Run a verb with --json and return its document, held against its schema."""
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))

    def call(verb, *arguments, code=0):
        done = run(verb, *arguments, "--json", "--traceback")
        assert done.code == code, done.err
        found = json.loads(done.out)
        schema = schemas.load("error" if "error" in found else verb)
        jsonschema.Draft202012Validator(schema).validate(found)
        shown = run(verb, *arguments, "--force" if "-o" in arguments and code == 0 else "-q")
        assert (shown.code, bool(shown.out.strip())) == (code, "error" not in found)
        return found

    return call


def test_looking_at_a_network(document, network):
    assert document("inspect", network)["head"]["classes"] == 5
    found = document("cuts", network)
    assert (found["late"], found["cuts"][-1]["depth"]) == ("f", 1.0)
    names = [case["name"] for case in document("cases")["cases"]]
    assert names[:4] == ["small-similar", "small-different", "large-similar", "large-different"]
    assert document("check", network, "--case", "large-similar")["ok"] is True
    assert document("cuts", network.parent, code=2)["error"]["kind"] == "usage"


def test_unknown_names_are_answered_with_the_nearest(document, network, tmp_path):
    out = ["--classes", 3, "-o", tmp_path / "o.onnx"]
    error = document("operate", network, "--case", "small-simlar", *out, code=2)["error"]
    assert "small-similar" in error["remedy"]
    command = ["operate", network, "--case", "small-similar", "--cut", "flat"]
    assert document(*command, *out, code=2)["error"]["exit"] == 2


def test_surgery_alone(document, network, tmp_path):
    out = tmp_path / "o.onnx"
    command = ["operate", network, "--case", "small-similar", "--classes", 3]
    assert document(*command, "--dry-run")["out"] is None
    found = document(*command, "-o", out)
    assert (found["out"], found["output"]) == (str(out), "logits")
    assert onnx.load(out).graph.output[0].name == "logits"


@pytest.mark.parametrize("case", ["small-similar", "large-similar"])
def test_training_and_what_follows(document, network, data, tmp_path, case):
    out = tmp_path / "tuned.onnx"
    training = ["finetune", network, data, "--case", case, "--epochs", 2, "--device", "cpu"]
    assert document(*training, "--dry-run")["out"] is None
    found = document(*training, "-o", out)
    assert found["metrics"]["validation"]["accuracy"] > 0.6
    assert set(found["changed"]) <= {*found["trainable"], *found["statistics"]}
    assert document(*training, "-o", out, code=2)["error"]["kind"] == "output"
    assert document("inspect", out)["surgeon"]["case"] == case
    assert document("evaluate", out, data)["labels"] == list(CLASSES)
    assert len(document("predict", out, data)["predictions"]) == 90
    assert document("verify", out, "--source", network)["passed"] is True
    assert document("verify", network, code=2)["error"]["exit"] == 2
