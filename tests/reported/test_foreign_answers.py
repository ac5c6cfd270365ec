"""Files that nobody here made: judged and told as what people say they give."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn import metrics

import surgeon
from surgeon import operation
from surgeon.errors import DataError, UnsupportedError, UsageError

X = np.random.default_rng(3).standard_normal((60, 4)).astype("f4")


def network(columns, end=None, labels=None):
    """Build x [n, 4] → MatMul → an activation, or none."""
    weight = np.random.default_rng(1).standard_normal((4, columns)).astype("f4")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y" if end is None else "s"])]
    nodes += [helper.make_node(end, ["s"], ["y"])] if end else []
    shapes = (("x", ["n", 4]), ("y", ["n", columns]))
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in shapes
    )
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if labels is not None:
        helper.set_model_props(model, {"labels": json.dumps(labels)})
    return model


def run(model):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})[0].astype(np.float64)


def noisy(values):
    return values + np.random.default_rng(0).standard_normal(values.shape)


@pytest.mark.parametrize("columns", [1, 2])
def test_a_regression_is_judged_where_people_say_that_it_is_one(columns):
    model = network(columns)
    told = run(model)
    right = noisy(told)
    data = {"x": X, "labels": right[:, 0] if columns == 1 else right}
    body = operation.evaluate(model, data, task="regression")
    assert body["metrics"]["r2"] == pytest.approx(metrics.r2_score(right, told))
    assert body["metrics"]["mae"] == pytest.approx(metrics.mean_absolute_error(right, told))
    assert (body["per_class"], body["confusion"], body["labels"]) == (None, None, [])
    assert body["metrics"]["accuracy"] is None
    found = surgeon.predict(model, X, task="regression")
    np.testing.assert_allclose(found.values, told, atol=1e-6)
    assert found.rows[0]["values"] == found.values[0].tolist()


@pytest.mark.parametrize("labels", [None, ["c", "a", "b"]])
@pytest.mark.parametrize("end", ["Sigmoid", None])
def test_several_labels_are_judged_by_the_order_of_columns_or_by_name(end, labels):
    model = network(3, end, labels)
    told = run(model)
    chance = told if end else 1 / (1 + np.exp(-told))
    right = noisy(4 * (chance - 0.5)) > 0
    data = {"x": X, "labels": right}
    if labels is not None:
        data["labels"] = np.array(
            [
                "|".join(name for name, there in zip(labels, row, strict=True) if there)
                for row in right
            ]
        )
    body = operation.evaluate(model, data, task="multi-label")
    wanted = metrics.average_precision_score(right, chance, average="macro")
    assert body["metrics"]["average_precision"] == pytest.approx(wanted, abs=1e-6)
    assert [row["label"] for row in body["per_class"]] == (labels or ["0", "1", "2"])
    assert body["confusion"] is None
    found = surgeon.predict(model, X, task="multi-label")
    np.testing.assert_allclose(found.probabilities, chance, atol=1e-6)
    names = labels or ["0", "1", "2"]
    assert found.labels[0] == [names[at] for at in np.flatnonzero(chance[0] > 0.5)]


def test_answers_of_another_number_or_kind_are_refused():
    with pytest.raises(UnsupportedError, match="2 columns"):
        operation.evaluate(network(2), {"x": X, "labels": X[:, :3]}, task="regression")
    with pytest.raises(UnsupportedError, match="3 columns"):
        operation.evaluate(network(3), {"x": X, "labels": X[:, :2] > 0}, task="multi-label")
    with pytest.raises(DataError):
        operation.evaluate(
            network(1), {"x": X, "labels": np.array(["a", "b"] * 30)}, task="regression"
        )
    with pytest.raises(UsageError, match="regresion"):
        operation.evaluate(network(1), {"x": X, "labels": X[:, 0]}, task="regresion")
