"""A head per pixel is solved: its optimum over all pixels, the file's own scores, fewer of many."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto, ValueInfoProto
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import interpolate

import surgeon
from surgeon.job import solve
from surgeon.probe import maps
from surgeon_tasks.segmentation import Segmentation

N, SIDE = 24, 12


def pictures(n=N):
    """Return pictures whose brighter half, left of a column or right of it, is to be found."""
    random = np.random.default_rng(0)
    labels = np.arange(SIDE) < random.integers(3, 9, (n, 1, 1)) + np.zeros((1, SIDE, 1), int)
    x = random.normal(0, 0.5, (n, 3, SIDE, SIDE)) + labels[:, None]
    labels = labels.astype(np.int64)
    labels[:, 0] = 255
    labels[::2, 1, ::2] = 2
    x[:, 1][labels == 2] -= 2
    return {"x": x.astype(np.float32), "labels": labels}


def network(sides=(SIDE, SIDE)):
    net = nw.Net(opset=17)
    x = net.input("x", ["N", 3, *sides])
    x = net.node("Relu", nw.conv(net, x, "c1", 6, 3))
    x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Relu", nw.conv(net, x, "c2", 8, 6), out="map")
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    net.node("Gemm", x, net.weight("fc.w", 8, 4), net.weight("fc.b", 4), out="y")
    return net.model("y", shape=["N", 4])


def tuned(data, case="small-similar", model=None, **options):
    return surgeon.finetune(
        model or network(), data, case=case, task="segmentation", device="cpu", **options
    )


def shown(model, name, x):
    other = ModelProto()
    other.CopyFrom(model)
    other.graph.output.append(ValueInfoProto(name=name))
    session = ort.InferenceSession(other.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([name], {"x": x})[0].astype(np.float64)


@pytest.mark.parametrize(("sides", "size"), [((3, 5), (12, 7)), ((4, 4), (4, 4)), ((6, 5), (2, 9))])
def test_maps_are_brought_to_a_size_as_torch_does(sides, size):
    values = np.random.default_rng(0).standard_normal((2, 3, *sides))
    wanted = interpolate(torch.tensor(values), size, mode="bilinear").numpy()
    np.testing.assert_allclose(maps.resized(values, size), wanted, atol=1e-9)
    rows, y, x = (places.ravel() for places in np.indices((2, *size)))
    found = maps.at_pixels(values, rows, (y, x), size)
    np.testing.assert_allclose(found, wanted.transpose(0, 2, 3, 1).reshape(-1, 3), atol=1e-9)


@pytest.mark.parametrize("sides", [(SIDE, SIDE), ("H", "W")])
def test_the_head_is_the_optimum_over_all_pixels(sides, tmp_path):
    data, path = pictures(), tmp_path / "tuned.onnx"
    outcome = tuned(data, model=network(sides), out=path)
    proto, (row,) = outcome.model.proto, outcome.history
    assert row["converged"]
    assert outcome.model.plan.head.solves
    features = interpolate(torch.tensor(shown(proto, "map", data["x"])), (SIDE, SIDE),
                           mode="bilinear").numpy()  # fmt: skip
    told = data["labels"] != 255
    flat, codes = features.transpose(0, 2, 3, 1)[told], data["labels"][told]
    flat = flat[:, flat.std(axis=0) > 0]
    standard = (flat - flat.mean(axis=0)) / flat.std(axis=0)
    found = LogisticRegression(C=row["regularisation"], tol=1e-10, max_iter=5000)
    theirs = found.fit(standard, codes).predict_log_proba(standard)
    ours = shown(proto, "logits", data["x"]).transpose(0, 2, 3, 1)[told]
    ours -= np.log(np.exp(ours).sum(axis=1, keepdims=True))
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-3
    assert outcome.metrics["validation"]["method"] == "cross-validated"
    assert outcome.metrics["cross_validation"]["miou"] > 0.3
    assert surgeon.verify(path).passed


def test_it_is_no_worse_than_steps(monkeypatch):
    data = pictures()
    unseen = {name: values[-8:] for name, values in pictures(N + 8).items()}
    found = []
    for link in ("softmax", None):
        monkeypatch.setattr(Segmentation, "link", link)
        outcome = tuned(data, epochs=4)
        assert outcome.model.plan.head.solves is (link is not None)
        found.append(surgeon.evaluate(outcome.model, unseen)["metrics"]["miou"])
    print("solved {:.3f}, by steps {:.3f}".format(*found))
    assert found[0] >= found[1]


def test_a_large_case_begins_with_it_and_is_compared_with_it():
    large = tuned(pictures(), "large-similar", epochs=1)
    assert [row["stage"] for row in large.history][:2] == ["head", "all"]
    assert large.body["guard"]["samples"] == large.metrics["validation"]["samples"]
    assert large.delivered in ("tuned", "probe")


def test_of_very_many_pixels_some_are_drawn_from_every_picture(monkeypatch):
    monkeypatch.setattr(solve, "MOST_ROWS", 500)
    outcome = tuned(pictures())
    assert any("500 of" in note for note in outcome.body["warnings"])
    assert outcome.metrics["validation"]["method"] == "held-out"
    told = np.random.default_rng(0).random((9, 8, 8)) < np.linspace(0.1, 1, 9)[:, None, None]
    at, *place = solve._drawn(told, 100, 0)
    assert len(at) == len({*zip(at, *place, strict=True)}) == 100
    assert told[(at, *place)].all()
    shares = np.bincount(at) / told.reshape(9, -1).sum(axis=1)
    np.testing.assert_allclose(shares, 100 / told.sum(), atol=0.16)


@pytest.mark.parametrize(
    ("opset", "head"), [(10, None), (17, "conv:taps=@0.2"), (9, "conv:taps=none")]
)
def test_what_is_not_linear_is_trained_by_steps(opset, head):
    plan = surgeon.operate(
        nw.convnet(opset=opset), case="small-similar", classes=3, task="segmentation", head=head
    ).plan
    assert not plan.head.solves
    assert {stage.method for stage in plan.stages} == {"adamw"}
