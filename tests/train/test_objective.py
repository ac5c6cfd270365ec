"""The loop knows no task: several kinds of answers go through it, to the file and back."""

from __future__ import annotations

from types import SimpleNamespace

import networks as nw
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

import surgeon
from surgeon.errors import DataError, UsageError
from surgeon.train.loop import fit
from surgeon.train.objective import (
    UNKNOWN,
    BinaryCrossEntropy,
    CrossEntropy,
    SquaredError,
    class_weights,
)
from surgeon.train.settings import FitSettings

QUICK = FitSettings(device="cpu", epochs=12, lr=0.01, patience=0)


def two_layers(axes=()):
    """[n, *axes, 8] → [n, *axes, 3]."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(8, 32)) / np.sqrt(8), "b1": np.zeros(32),
        "w2": rng.normal(size=(32, 3)) / np.sqrt(32), "b2": np.zeros(3),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Add", ["a", "b1"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "w2"], ["d"]),
        helper.make_node("Add", ["d", "b2"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [info("x", TensorProto.FLOAT, ["n", *axes, 8])],
        [info("y", TensorProto.FLOAT, ["n", *axes, 3])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def batches(x, targets):
    return SimpleNamespace(
        n=len(x), targets=targets, load=lambda rows: (torch.from_numpy(x[rows]),)
    )


def labels_of_several(right):
    return (right > 0).astype(np.float32)


def some_unknown(right):
    targets = labels_of_several(right)
    targets[::3, 0] = np.nan
    return targets


def positions(right):
    targets = right.argmax(-1)
    targets[:, 4:] = UNKNOWN
    return targets


@pytest.mark.parametrize(
    ("axes", "told", "objective"),
    [
        ((), labels_of_several, BinaryCrossEntropy()),
        ((), some_unknown, BinaryCrossEntropy()),
        ((), np.abs, SquaredError()),
        ((6,), positions, CrossEntropy(axis=-1)),
        ((), lambda right: right.argmax(-1), CrossEntropy(smoothing=0.1)),
    ],
)
def test_a_task_trains_and_is_written_back(axes, told, objective):
    model, rng = two_layers(axes), np.random.default_rng(1)
    x = rng.normal(size=(160, *axes, 8)).astype(np.float32)
    targets = told(x @ rng.normal(size=(8, 3)).astype(np.float32))
    module = surgeon.to_torch(model)
    result = fit(
        module, batches(x[40:], targets[40:]), batches(x[:40], targets[:40]), objective=objective,
        trainable=[name for name, _ in module.named_parameters()], settings=QUICK,
    )  # fmt: skip
    start, best = result.history[0], result.best
    assert best["validation_loss"] < 0.8 * start["validation_loss"]
    assert best["validation_quality"] > start["validation_quality"]
    assert result.history[-1]["loss"] < result.history[1]["loss"]
    written = surgeon.write_back(model, surgeon.tensors(module))
    found = nw.run(written, {"x": x[:8]})["y"]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), module(torch.from_numpy(x[:8])))


def test_what_is_not_known_counts_nowhere():
    rng = np.random.default_rng(0)
    outputs = torch.from_numpy(rng.normal(size=(4, 3)).astype(np.float32)).requires_grad_()
    told = np.array([[0, 1, np.nan], [np.nan] * 3, [1, 1, 0], [0, np.nan, 1]], np.float32)
    for objective in (BinaryCrossEntropy(), SquaredError()):
        assert objective.total(told) == 7
        loss, _, judged = objective.judge(outputs, torch.from_numpy(told))
        assert judged == 7
        (gradient,) = torch.autograd.grad(loss, outputs)
        assert torch.equal(gradient == 0, torch.from_numpy(np.isnan(told)))
    objective, codes = CrossEntropy(), np.array([0, UNKNOWN, 2, UNKNOWN])
    loss, right, judged = objective.judge(outputs, torch.from_numpy(codes))
    known = functional.cross_entropy(outputs[[0, 2]], torch.tensor([0, 2]), reduction="sum")
    assert (objective.total(codes), int(judged)) == (2, 2)
    assert int(right) <= 2
    torch.testing.assert_close(loss, known)


def test_nothing_to_judge_by_is_refused():
    module = surgeon.to_torch(two_layers())
    x, nothing = np.zeros((8, 8), np.float32), np.full(8, UNKNOWN)
    with pytest.raises(DataError, match="known"):
        fit(
            module, batches(x, np.zeros(8, np.int64)), batches(x, nothing), settings=QUICK,
            objective=CrossEntropy(), trainable=["w1"],
        )  # fmt: skip


def test_classes_are_weighed_where_they_are_uneven():
    labels = np.array([0] * 6 + [1] * 2)
    assert class_weights(labels, 2, None) is None
    assert class_weights(labels, 2, "auto") == pytest.approx((8 / 12, 8 / 4))
    assert class_weights(labels, 3, "balanced") == pytest.approx((8 / 12, 8 / 4, 0))
    assert class_weights(labels, 2, (1, 2)) == (1, 2)
    assert class_weights(np.array([0, 0, 0, 1, 1]), 2, "auto") is None
    uneven = CrossEntropy.of(np.repeat([0, 1], (90, 10)), 2)
    assert uneven.weights == pytest.approx((100 / 180, 100 / 20))
    assert uneven.total(np.array([0, 0, 1])) == pytest.approx(2 * 100 / 180 + 100 / 20)
    assert CrossEntropy.of(np.arange(96) % 3, 3).weights is None


def test_labels_are_smoothed_from_a_random_start_only():
    codes = np.arange(9) % 3
    assert CrossEntropy.of(codes, 3).smoothing == 0
    assert CrossEntropy.of(codes, 3, scratch=True).smoothing > 0
    with pytest.raises(UsageError, match="smoothing"):
        CrossEntropy(smoothing=1.0)


def test_an_objective_tells_its_settings():
    """A checkpoint goes on only with the same ones."""
    assert repr(CrossEntropy()) == repr(CrossEntropy())
    assert repr(CrossEntropy(smoothing=0.1)) != repr(CrossEntropy())
    assert repr(CrossEntropy((1, 2))) != repr(CrossEntropy((1, 3)))
    assert repr(BinaryCrossEntropy()) != repr(SquaredError())
