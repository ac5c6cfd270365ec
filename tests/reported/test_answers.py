"""`predict` and `evaluate` read an output as what the graph makes of it."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import surgeon
from surgeon import operation
from surgeon.errors import UnsupportedError

FEATURES = 4
X = np.random.default_rng(3).standard_normal((6, FEATURES)).astype("f4")
NODE = helper.make_node


def tensor(name, values, dtype="f4"):
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def network(tail=(), end="y", columns=3, shape=None, extra=(), labels=None, more=()):
    """Build x [n, 4] → Gemm y [n, columns] → tail, whose last value is `end`."""
    rng = np.random.default_rng(1)
    weight = tensor("w", rng.standard_normal((FEATURES, columns)))
    nodes = [NODE("Gemm", ["x", "w", "b"], ["y"]), *tail]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", FEATURES])]
    shape = ["n", columns] if shape is None else shape
    outputs = [helper.make_tensor_value_info(end, TensorProto.FLOAT, shape), *more]
    bias = tensor("b", rng.standard_normal(columns))
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight, bias, *extra])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if labels is not None:
        helper.set_model_props(model, {"labels": json.dumps(labels)})
    return model


def run(model, output=None):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(output and [output], {"x": X})[0]


def softmax(values):
    powers = np.exp(values - values.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


DISTRIBUTIONS = {
    "Softmax": [NODE("Softmax", ["y"], ["p"], axis=1)],
    "moved": [NODE("Softmax", ["y"], ["s"]), NODE("Reshape", ["s", "to"], ["p"])],
    "times one": [NODE("Softmax", ["y"], ["s"]), NODE("Mul", ["s", "one"], ["p"])],
    "added to nothing": [NODE("Softmax", ["y"], ["s"]), NODE("Add", ["s", "zeros"], ["p"])],
    "not recognised": [
        NODE("Softmax", ["y"], ["s"]),
        NODE("Softmax", ["other"], ["o"]),
        NODE("Add", ["s", "o"], ["a"]),
        NODE("Mul", ["a", "half"], ["p"]),
    ],
    "in parts": [
        NODE("ReduceMax", ["y"], ["m"], axes=[1]),
        NODE("Sub", ["y", "m"], ["d"]),
        NODE("Exp", ["d"], ["e"]),
        NODE("ReduceSum", ["e", "axis"], ["t"]),
        NODE("Div", ["e", "t"], ["p"]),
    ],
}
CONSTANTS = [
    tensor("one", 1.0), tensor("half", 0.5), tensor("hundred", 100.0), tensor("zeros", [0.0] * 3),
    tensor("axis", [1], "i8"), tensor("to", [-1, 3], "i8"), tensor("other", np.zeros((1, 3))),
]  # fmt: skip


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_distribution_gets_no_second_softmax(name):
    model = network(DISTRIBUTIONS[name], "p", extra=CONSTANTS)
    found = surgeon.predict(model, {"x": X})
    np.testing.assert_allclose(found.probabilities, run(model), atol=1e-6)
    row = found.document()["predictions"][0]
    assert set(row) == {"input", "label", "index", "probability", "probabilities"}
    assert row["index"] == int(run(model)[0].argmax())


@pytest.mark.parametrize(
    "tail",
    [
        [NODE("LogSoftmax", ["y"], ["p"])],
        [NODE("Softmax", ["y"], ["s"]), NODE("Log", ["s"], ["p"])],
        [NODE("ReduceLogSumExp", ["y"], ["t"], axes=[1]), NODE("Sub", ["y", "t"], ["p"])],
    ],
)
def test_logarithms_of_probabilities_become_probabilities(tail):
    model = network(tail, "p")
    np.testing.assert_allclose(
        surgeon.predict(model, {"x": X}).probabilities, np.exp(run(model)), atol=1e-6
    )


def test_per_cent_become_shares():
    tail = [NODE("Softmax", ["y"], ["s"]), NODE("Mul", ["s", "hundred"], ["p"])]
    model = network(tail, "p", extra=CONSTANTS)
    found = surgeon.predict(model, {"x": X}).probabilities
    np.testing.assert_allclose(found, run(model) / 100, atol=1e-6)


SIGMOIDS = {
    "Sigmoid": [NODE("Sigmoid", ["y"], ["p"])],
    "HardSigmoid": [NODE("HardSigmoid", ["y"], ["p"])],
    "moved": [NODE("Sigmoid", ["y"], ["s"]), NODE("Identity", ["s"], ["p"])],
    "in parts": [
        NODE("Neg", ["y"], ["m"]),
        NODE("Exp", ["m"], ["e"]),
        NODE("Add", ["e", "one"], ["a"]),
        NODE("Div", ["one", "a"], ["p"]),
    ],
}


@pytest.mark.parametrize("name", SIGMOIDS)
def test_each_sigmoid_is_the_probability_of_a_label_of_its_own(name):
    model = network(SIGMOIDS[name], "p", extra=CONSTANTS, labels=["a", "b", "c"])
    truth = run(model)
    found = surgeon.predict(model, {"x": X})
    assert found.kind == "multi-label"
    assert "a" in repr(found)
    np.testing.assert_allclose(found.probabilities, truth, atol=1e-6)
    for row, told in zip(found.document()["predictions"], truth, strict=True):
        assert row["labels"] == [label for label, p in zip("abc", told, strict=True) if p > 0.5]
        assert row["values"] is None
        assert row["label"] is None


def test_one_sigmoid_of_two_names_is_the_second_name():
    model = network(SIGMOIDS["Sigmoid"], "p", columns=1, labels=["no", "yes"])
    truth = run(model)[:, 0]
    found = surgeon.predict(model, {"x": X})
    np.testing.assert_allclose(found.probabilities[:, 1], truth, atol=1e-6)
    assert found.labels == ["yes" if p > 0.5 else "no" for p in truth]


def test_one_sigmoid_without_names_is_one_probability():
    found = surgeon.predict(network(SIGMOIDS["Sigmoid"], "p", columns=1), {"x": X})
    assert found.kind == "multi-label"
    assert found.probabilities.shape == (len(X), 1)


@pytest.mark.parametrize(
    ("tail", "columns"),
    [
        ([], 1),
        ([NODE("Tanh", ["y"], ["p"])], 3),
        ([NODE("Softplus", ["y"], ["p"])], 2),
        ([NODE("Relu", ["y"], ["p"])], 3),
        ([NODE("LpNormalization", ["y"], ["p"])], 3),
    ],
)
def test_numbers_are_values(tail, columns):
    model = network(tail, "p" if tail else "y", columns=columns)
    found = surgeon.predict(model, {"x": X})
    assert found.kind == "values"
    np.testing.assert_allclose(found.values, run(model), atol=1e-6)
    row = found.document()["predictions"][0]
    np.testing.assert_allclose(row["values"], run(model)[0], atol=1e-6)
    assert all(row[key] is None for key in ("label", "index", "probability", "probabilities"))


def test_scores_of_a_classifier_are_made_probabilities():
    model = network()
    found = surgeon.predict(model, {"x": X}).probabilities
    np.testing.assert_allclose(found, softmax(run(model)), atol=1e-6)


def test_a_class_number_is_read_from_the_scores_in_front_of_it():
    model = network([NODE("ArgMax", ["y"], ["n"], axis=1, keepdims=0)], "n", shape=["n"])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    found = surgeon.predict(model, {"x": X})
    np.testing.assert_array_equal(found.probabilities.argmax(1), run(model))


def detector():
    tail = [NODE("Reshape", ["y", "to"], ["output0"])]
    shape = tensor("to", [-1, 4, 5], "i8")
    return network(tail, "output0", columns=20, shape=["n", 4, 5], extra=[shape])


def test_a_detector_is_no_classifier_and_every_verb_says_so(tmp_path):
    model = detector()
    said = "no classification head: output0 [n, 4, 5]"
    with pytest.raises(UnsupportedError, match="no classification head") as caught:
        surgeon.predict(model, {"x": X})
    assert caught.value.message == said
    assert said in operation.inspect(model)["warnings"]
    assert said in operation.cuts(model)["warnings"]
    assert any(finding["message"] == said for finding in operation.check(model)["findings"])
    patient = surgeon.operate(model, case="small-similar", classes=2)
    assert said in patient.notes
    data = {"x": np.repeat(X, 4, 0), "labels": np.array(["a", "b"] * 12)}
    done = surgeon.finetune(model, data, tmp_path / "o.onnx", case="small-similar", threads=1)
    assert said in done.document()["warnings"]


def test_values_are_not_evaluated():
    labels = np.array(["a", "b", "c"] * 2)
    model = network([NODE("Tanh", ["y"], ["p"])], "p", labels=["a", "b", "c"])
    with pytest.raises(UnsupportedError, match="plain values"):
        surgeon.evaluate(model, {"x": X, "labels": labels})


def test_independent_probabilities_are_evaluated_by_the_largest():
    model = network(SIGMOIDS["Sigmoid"], "p", labels=["a", "b", "c"])
    labels = np.array(["a", "b", "c"])[run(model).argmax(1)]
    found = surgeon.evaluate(model, {"x": X, "labels": labels})
    assert found["metrics"]["accuracy"] == 1
    assert any("Sigmoid" in note for note in found["warnings"])
