"""Graphs that begin at an inner tensor: data of its shape, or of the inputs, give the same file."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest

import surgeon
from surgeon.errors import SurgeonError, UnknownNameError, UsageError

START = "b1.out"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.onnx"
    onnx.save(nw.residual(), path)
    return path


@pytest.fixture
def data():
    labels = np.arange(40) % 2
    values = np.random.default_rng(1).standard_normal((40, 3, 8, 8)) + labels[:, None, None, None]
    return {"x": values.astype(np.float32), "labels": labels}


def stored(data):
    """The activations that somebody has kept, by ONNX Runtime."""
    model = nw.with_outputs(nw.residual(), START)
    return {START: nw.run(model, {"x": data["x"]}, [START])[START], "labels": data["labels"]}


def weights(model):
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.proto.graph.initializer}


def test_stored_activations_and_ordinary_data_give_the_same(source, data, tmp_path):
    settings = {"case": "features-in", "start": START, "epochs": 1, "device": "cpu"}
    by_front = surgeon.finetune(source, data, tmp_path / "a.onnx", **settings)
    of_stored = surgeon.finetune(source, stored(data), tmp_path / "b.onnx", **settings)
    one, other = weights(by_front.model), weights(of_stored.model)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-5)
    said = [note for note in by_front.body["warnings"] if START in note]
    assert len(said) == 1
    assert not any(START in note for note in of_stored.body["warnings"])
    again = surgeon.finetune(source, data, **settings)
    assert any("kept from before" in note for note in again.body["warnings"])


def test_the_file_is_proven_and_verified_against_its_source(source, data, tmp_path):
    out = tmp_path / "t.onnx"
    done = surgeon.finetune(source, data, out, case="features-in", start=START, epochs=1)
    plan = surgeon.load(out).plan
    assert (plan.start, plan.dropped_inputs) == (START, ("x",))
    assert {info.name for info in surgeon.load(out).inputs} == {START}
    assert done.proof["parity"]["max_relative"] <= done.proof["parity"]["bound"]
    assert set(done.body["changed"]) <= set(done.body["trainable"])
    verdict = surgeon.verify(out, source=source)
    assert verdict.passed
    assert "source" in {check.name for check in verdict.checks}
    told = surgeon.predict(out, stored(data)[START])
    assert np.mean(np.array(told.labels, int) == data["labels"]) > 0.8
    both = {**stored(data), "x": data["x"]}  # data made for the source have what was dropped, too
    assert surgeon.finetune(out, both, epochs=1).model.plan.start == START


def test_early_and_late_are_depths_of_the_source(source):
    model = surgeon.load(source)
    operated = surgeon.operate(model, "small-similar", classes=2, start="stem", cut="b1.out")
    by_hand = {one.tensor: one.depth for one in model.cuts()}
    assert operated.plan.depth == by_hand["b1.out"]
    assert next(node.output[0] for node in operated.proto.graph.node) != "stem"
    assert operated.removed_nodes > 4
    assert surgeon.operate(model, "features-in", classes=2).plan.start == model.anatomy().early


def test_features_out_of_a_front_and_into_the_rest_are_the_whole(source, data):
    front = surgeon.operate(source, "features", cut=START, pool="none")
    rest = surgeon.operate(source, "features", start=START)
    whole = surgeon.predict(surgeon.operate(source, "features"), data["x"]).values
    inner = surgeon.predict(front, data["x"]).values
    assert next(iter(rest.inputs)).name == START
    np.testing.assert_allclose(surgeon.predict(rest, inner).values, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("start", "kind"), [("nothing", UnknownNameError), ("b1.inner", UsageError)]
)
def test_a_start_that_cannot_be_is_refused(source, data, start, kind):
    with pytest.raises(kind):
        surgeon.finetune(source, data, case="small-similar", start=start)
    with pytest.raises(kind):
        surgeon.operate(source, "small-similar", classes=2, start=start)


def test_a_plan_that_goes_on_begins_where_it_says(source, data):
    operated = surgeon.operate(source, "features-in", classes=2, start=START)
    with pytest.raises(UsageError, match="goes on"):
        surgeon.finetune(operated, stored(data), start="stem")


def test_activations_of_another_shape_are_refused(source, data):
    wrong = {START: np.zeros((40, 5, 8, 8), np.float32), "labels": data["labels"]}
    with pytest.raises(SurgeonError) as told:
        surgeon.finetune(source, wrong, case="features-in", start=START)
    assert START in str(told.value)
