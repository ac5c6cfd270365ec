"""What `finetune` delivers of a frozen network is what scientists know by name: ridge, logistic."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, ValueInfoProto
from sklearn.linear_model import LogisticRegression, Ridge

import surgeon


def shown(model, name, x):
    """Return values inside a graph."""
    other = ModelProto()
    other.CopyFrom(model)
    other.graph.output.append(ValueInfoProto(name=name))
    session = ort.InferenceSession(other.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([name], {"x": x})[0].astype(np.float64)


@pytest.fixture(scope="module")
def drawn():
    random = np.random.default_rng(0)
    x = random.standard_normal((240, 8)).astype(np.float32)
    scores = np.tanh(x) @ random.standard_normal((8, 3)) + 0.3 * random.standard_normal((240, 3))
    return x, scores


@pytest.mark.parametrize("task", ["regression", "multi-label"])
def test_the_head_is_the_one_that_scikit_learn_finds_on_the_same_features(task, drawn):
    x, scores = drawn
    labels = 100 * scores + 7 if task == "regression" else scores > 0.5
    outcome = surgeon.finetune(
        nw.mlp(), {"x": x, "labels": labels}, case="small-similar", task=task, device="cpu"
    )
    proto, (row,) = outcome.model.proto, outcome.history
    node = next(
        node for node in proto.graph.node if outcome.model.plan.head.weights[0] in node.input
    )
    features = shown(proto, node.input[0], x)
    features = features[:, features.std(axis=0) > 0]
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    ours, c = shown(proto, proto.graph.output[0].name, x), row["regularisation"]
    if task == "regression":
        theirs = Ridge(alpha=1 / c).fit(standard, labels).predict(standard)
    else:
        found = [
            LogisticRegression(C=c, tol=1e-10, max_iter=5000).fit(standard, labels[:, at])
            for at in range(3)
        ]
        theirs = np.stack([one.decision_function(standard) for one in found], axis=1)
    apart = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(f"{task}: {apart:.1e} of the largest output")
    assert apart < 1e-3
