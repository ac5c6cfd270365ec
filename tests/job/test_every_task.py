"""Every task through every case on two small networks: what holds for one holds for all.

A file is what its training computed, only what the plan trains has changed, it proves that, and it
predicts what ONNX Runtime and the task's decoding say.
"""

from __future__ import annotations

import json

import networks as nw
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import surgeon
from surgeon.errors import SurgeonError
from surgeon.plugin.manager import load_plugins
from surgeon.records import Task
from surgeon.tasks.find import find_task

CASES = (
    "small-similar",
    "large-similar",
    "auto",
    pytest.param("small-different", marks=pytest.mark.slow),
    pytest.param("large-different", marks=pytest.mark.slow),
)
N, SIDE, LENGTH = 40, 12, 6


def pictures():
    """Return pictures of three classes that differ in brightness, a little, and their codes."""
    random = np.random.default_rng(3)
    codes = np.arange(N) % 3
    values = random.normal(0, 1, (N, 3, SIDE, SIDE)).astype(np.float32)
    values += codes[:, None, None, None].astype(np.float32) / 2
    return {"x": values}, codes, values.mean(axis=1)


def texts():
    """Return sequences whose tokens are low or high, mostly by class."""
    random = np.random.default_rng(4)
    codes = np.arange(N) % 3
    ids = random.integers(0, 14, (N, LENGTH)) + 3 * codes[:, None]
    mask = np.ones((N, LENGTH), np.int64)
    mask[::5, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}, codes, ids / 10


def answers(task, codes, places):
    """Return the answers of a task to samples of these classes, and of these values per place."""
    flat = places.reshape(len(places), -1).mean(axis=1)
    if task == "regression":
        return np.stack([1000 + 50 * flat, -3 * flat + codes], axis=1).astype(np.float32)
    if task == "multi-label":
        return np.stack([codes > 0, codes < 2, flat > np.median(flat)], axis=1)
    if task in ("tokens", "segmentation"):
        found = (places > np.median(places)).astype(np.int64)
        found.reshape(len(found), -1)[:, 0] = -100 if task == "tokens" else 255
        return found
    return codes


MATRIX = [
    (network, task)
    for network, tasks in (
        ("convnet", ("classification", "multi-label", "regression", "segmentation", "embedding")),
        ("transformer", ("multi-label", "regression", "tokens", "embedding")),
    )
    for task in tasks
    if task in load_plugins().offers(Task)
]


def opened(network):
    if network == "convnet":
        return nw.convnet(), *pictures()
    return nw.transformer(length=LENGTH), *texts()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("network", "task"), MATRIX)
def test_a_task_goes_through_a_case(network, task, case, tmp_path):
    model, inputs, codes, places = opened(network)
    data = {**inputs, "labels": answers(task, codes, places)}
    path = tmp_path / "tuned.onnx"
    out = surgeon.finetune(model, data, path, case=case, task=task, epochs=1, device="cpu")
    body = out.body
    assert body["plan"]["task"] == task
    parity = out.proof["parity"]
    assert parity["max_relative"] <= parity["bound"] <= 1e-4
    assert set(body["changed"]) <= set(body["trainable"]) | set(body["statistics"])
    for part in ("validation", "train"):
        assert np.isfinite(body["metrics"][part]["loss"])
        assert body["metrics"][part]["quality"] is not None
    assert surgeon.verify(path).passed
    frozen_bytes_are_those_of(model, path, body)
    predicts_as_the_runtime(path, inputs, task)


def frozen_bytes_are_those_of(model, path, body):
    """Compare every tensor that both have and the plan does not train."""
    before = {t.name: t for t in model.graph.initializer}
    moving = set(body["trainable"]) | set(body["statistics"])
    after = {t.name: t for t in onnx.load(path).graph.initializer}
    shared = (before.keys() & after.keys()) - moving
    assert after.keys() - before.keys() <= moving | {n for n in after if "surgeon.head" in n}
    for name in shared:
        first, second = (numpy_helper.to_array(one[name]) for one in (before, after))
        assert first.tobytes() == second.tobytes(), name


def predicts_as_the_runtime(path, inputs, task):
    """Compare `predict` with the graph run alone and decoded as its file says."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    taken = {one.name for one in session.get_inputs()}
    feeds = {name: values[:4] for name, values in inputs.items() if name in taken}
    (raw,) = session.run(None, feeds)
    meta = session.get_modelmeta().custom_metadata_map
    labels = json.loads(meta.get("surgeon.labels", "null"))
    code = find_task(task, None, json.loads(meta.get("surgeon.decoding", "null")))
    wanted = code.rows(code.decode(raw, "Identity", labels).answers, labels)
    told = surgeon.predict(path, {name: values[:4] for name, values in inputs.items()}).document()
    for one, row in zip(told["predictions"], wanted, strict=True):
        close(one, row)


def close(told, wanted):
    """Compare what is told of a sample, key by key, numbers but for rounding."""
    for key, value in wanted.items():
        if isinstance(value, dict):
            close(told[key], value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for one, other in zip(told[key], value, strict=False):
                close(one, other)
        elif isinstance(value, float) or (value and isinstance(value, list)):
            if isinstance(np.asarray(value).flat[0], str):
                assert told[key] == value
            else:
                np.testing.assert_allclose(told[key], value, rtol=1e-4, atol=1e-5)
        else:
            assert told[key] == value


def regressed(**options):
    inputs, codes, places = pictures()
    data = {**inputs, "labels": answers("regression", codes, places)}
    return surgeon.finetune(
        nw.convnet(), data, case="small-similar", task="regression", device="cpu", **options
    )


def test_a_loss_that_is_named_is_minimised_and_stands_in_the_plan(tmp_path):
    path = tmp_path / "tuned.onnx"
    out = regressed(loss="huber:delta=0.5", epochs=3, out=path)
    assert out.body["plan"]["loss"] == "huber:delta=0.5"
    assert [row["stage"] for row in out.history][-1] == "head"
    assert out.history[-1]["validation_r2"] is not None
    inputs, codes, places = pictures()
    data = {**inputs, "labels": answers("regression", codes, places)}
    again = surgeon.finetune(path, data, epochs=1, device="cpu")
    assert again.body["plan"]["loss"] == "huber:delta=0.5"


def test_vectors_are_solved_and_a_named_loss_goes_on_from_there(tmp_path):
    inputs, codes, _ = pictures()
    data = {**inputs, "labels": codes}
    wanted = {"case": "small-similar", "task": "embedding", "classes": 4, "device": "cpu"}
    out = surgeon.finetune(nw.convnet(), data, tmp_path / "solved.onnx", **wanted)
    assert [row["lr"] for row in out.history] == [None]
    assert surgeon.verify(tmp_path / "solved.onnx").passed
    loss = {"loss": "supcon", "lr": 1e-9, "epochs": 1}
    more = surgeon.finetune(nw.convnet(), data, tmp_path / "stepped.onnx", **wanted, **loss)
    assert [row["lr"] for row in more.history][:2] == [None, pytest.approx(1e-9, rel=1)]
    assert more.delivered == "probe"  # such steps move nothing: it began where the probe is


@pytest.mark.parametrize("loss", ["focal", "hubert", "huber:gamma=2", "huber:delta=x"])
def test_a_loss_that_does_not_fit_is_refused(loss):
    with pytest.raises(SurgeonError) as caught:
        regressed(loss=loss)
    assert "huber" in str(caught.value) or "delta" in str(caught.value)


def test_numbers_far_from_zero_are_learnt_by_steps_and_given_in_plain_units():
    inputs, _, places = pictures()
    labels = 5e4 + 10 * places.reshape(N, -1).mean(axis=1)
    out = surgeon.finetune(
        nw.convnet(), {**inputs, "labels": labels}, case="large-similar", task="regression",
        head="mlp:hidden=8", epochs=20, lr=0.02, device="cpu",
    )  # fmt: skip
    assert out.metrics["train"]["r2"] > 0
    assert out.history[0]["validation_loss"] < 1e6  # drawn weights are drawn in these units


@pytest.mark.parametrize(
    ("network", "task"), [("convnet", "segmentation"), ("transformer", "tokens")]
)
def test_answers_of_other_positions_than_the_network_gives_are_refused(network, task):
    model, inputs, codes, places = opened(network)
    labels = answers(task, codes, places)[:, 1:]
    with pytest.raises(SurgeonError) as caught:
        surgeon.finetune(
            model, {**inputs, "labels": labels}, case="large-similar", task=task, device="cpu"
        )
    assert str(labels.shape[1]) in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("network", "task"),
    [("convnet", "segmentation"), ("convnet", "embedding"), ("transformer", "tokens")],
)
def test_a_case_takes_off_the_head_that_a_task_put_on(network, task, tmp_path):
    """A file is operated on anew where its own head began, whatever that head's form."""
    model, inputs, codes, places = opened(network)
    path, data = tmp_path / "tuned.onnx", {**inputs, "labels": answers(task, codes, places)}
    to = {"task": task, "epochs": 1, "device": "cpu"}
    first = surgeon.finetune(model, data, path, case="small-similar", **to)
    again = surgeon.finetune(path, data, case="large-similar", **to)
    assert again.body["plan"]["cut"] == first.body["plan"]["cut"]
    assert not [note for note in again.body["warnings"] if "no classification head" in note]
    names = [node.name for node in again.model.proto.graph.node if node.name]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("task", ["regression", "segmentation", "embedding"])
def test_advice_plans_the_head_of_the_task(task):
    model, inputs, codes, places = opened("convnet")
    data = {**inputs, "labels": answers(task, codes, places)}
    plan = surgeon.advise(model, data, task=task, device="cpu").plan
    trained = surgeon.finetune(model, data, case="auto", task=task, epochs=1, device="cpu")
    trained = trained.model.plan
    assert (plan.head.kind, plan.classes) == (trained.head.kind, trained.classes)
    assert [stage.method for stage in plan.stages] == [stage.method for stage in trained.stages]


def test_numbers_are_no_probabilities_of_the_old_head():
    out = surgeon.operate(nw.matmul_add(), case="small-similar", classes=2, task="regression")
    assert not [note for note in out.notes if "probabilities" in note]


ROWS = np.random.default_rng(5).normal(0, 1, (20, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("task", "labels", "more", "said"),
    [
        ("multi-label", ROWS[:, 0], {}, "with a fraction"),
        ("tokens", ROWS[:, 0], {}, "is no list of labels"),
        (
            "embedding",
            np.arange(6) // 4,
            {"split": ["train"] * 4 + ["validation"] * 2},
            "of the same class",
        ),
        ("regression", ROWS[:2, 0], {}, "the same target"),
        ("regression", ROWS[:, 0], {"split": ["validation"] * 20}, "left to train on"),
    ],
)
def test_answers_that_teach_nothing_are_said_with_a_remedy(task, labels, more, said):
    data = {"x": ROWS[: len(labels)], "labels": labels, **{k: np.array(v) for k, v in more.items()}}
    with pytest.raises(SurgeonError, match=said) as caught:
        surgeon.finetune(nw.mlp(), data, case="small-similar", task=task, device="cpu")
    assert caught.value.remedy
    assert "np." not in str(caught.value)


def test_names_that_are_very_long_are_cut_in_messages():
    with pytest.raises(SurgeonError) as caught:
        find_task("classification").check(
            find_task("classification").read([f"{n}" * 400 for n in "abc"], "labels")
        )
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("task", "loss"),
    [
        ("classification", "focal:gamma=-1"),
        ("classification", "focal:gamma=nan"),
        ("classification", "smoothing:amount=1.5"),
        ("classification", "weighted:smoothing=-1"),
        ("regression", "huber:delta=0"),
        ("embedding", "supcon:temperature=0"),
        ("embedding", "arcface:margin=inf"),
        ("segmentation", "dice:smooth=-1"),
    ],
)
def test_settings_of_losses_have_limits(task, loss):
    model, inputs, codes, places = opened("convnet")
    data = {**inputs, "labels": answers(task, codes, places)}
    with pytest.raises(SurgeonError) as caught:
        surgeon.finetune(model, data, case="small-similar", task=task, loss=loss, device="cpu")
    assert caught.value.remedy
    assert loss.partition(":")[2].partition("=")[0] in str(caught.value)


def test_numbers_are_learnt_in_front_of_a_head_that_stays(tmp_path):
    out = surgeon.finetune(
        nw.mlp(),
        {"x": ROWS, "labels": 100 + ROWS[:, :2]},
        tmp_path / "tuned.onnx",
        case="large-similar",
        freeze=["surgeon.head.*"],
        epochs=2,
        lr=0.1,
        device="cpu",
    )
    assert set(out.body["changed"]) <= set(out.body["trainable"])
    assert not [name for name in out.body["changed"] if "head" in name]
    assert surgeon.verify(tmp_path / "tuned.onnx").passed


def test_a_head_of_length_one_gives_no_numbers():
    with pytest.raises(SurgeonError, match="ends in no linear layer"):
        surgeon.finetune(
            nw.mlp(), {"x": ROWS, "labels": ROWS[:, 0]}, case="small-similar", head="embed"
        )


def test_what_is_told_of_a_class_has_the_same_keys_in_every_task(tmp_path):
    model, inputs, codes, places = opened("convnet")
    path, data = tmp_path / "t.onnx", {**inputs, "labels": answers("segmentation", codes, places)}
    surgeon.finetune(model, data, path, case="small-similar", task="segmentation", epochs=1)
    row = surgeon.evaluate(path, data)["per_class"][0]
    assert {"label", "precision", "recall", "f1", "support", "iou"} <= set(row)


def test_a_file_goes_on_with_as_many_numbers_as_it_gives():
    model = surgeon.finetune(
        nw.mlp(), {"x": ROWS, "labels": ROWS[:, 0]}, case="small-similar", device="cpu"
    ).model
    with pytest.raises(SurgeonError, match="has 1 outputs, the data has 2"):
        surgeon.finetune(model, {"x": ROWS, "labels": ROWS[:, :2]}, device="cpu")


def test_data_without_answers_are_not_printed():
    with pytest.raises(SurgeonError) as caught:
        surgeon.finetune(nw.mlp(), {"x": ROWS}, case="small-similar")
    assert caught.value.where == "data"


@pytest.mark.parametrize("given", [{"head": "mlp"}, {"cut": "@0.5"}, {"start": "@0.5"}])
def test_a_file_that_goes_on_takes_no_other_head(given):
    model = surgeon.operate(nw.mlp(), case="small-similar", classes=1, task="regression")
    with pytest.raises(SurgeonError, match="goes on with its plan"):
        surgeon.finetune(model, {"x": ROWS, "labels": ROWS[:, 0]}, device="cpu", **given)
