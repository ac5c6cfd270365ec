"""More classes, the old ones kept: with old data, by statistics alone, and what is refused."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import mlp
from onnx import numpy_helper

import surgeon
from surgeon.cli import main
from surgeon.errors import DataError, ModelError, UnsupportedError, UsageError
from surgeon.job.extend import old_labels

CENTRES = 2 * np.random.default_rng(0).normal(size=(9, 8))


def data(classes, each=24, seed=1, names="c{}"):
    """Return samples of some classes, called c8, c7, … so that new labels sort in front."""
    random, codes = np.random.default_rng(seed), np.repeat(list(classes), each)
    values = CENTRES[codes] + 0.4 * random.normal(size=(len(codes), 8))
    return {
        "x": values.astype(np.float32),
        "labels": np.array([names.format(8 - code) for code in codes]),
    }


def labels(classes):
    return [f"c{8 - code}" for code in classes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a network, and one that was tuned on six classes."""
    root = tmp_path_factory.mktemp("extend")
    onnx.save(mlp(), root / "net.onnx")
    surgeon.finetune(
        root / "net.onnx", data(range(6)), root / "six.onnx", case="small-similar",
        keep_statistics=True, device="cpu",
    )  # fmt: skip
    np.savez(root / "new.npz", **data([6, 7, 8]))
    np.savez(root / "old.npz", **data(range(6), seed=2))
    return root


def weights(path):
    graph = onnx.load(path).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def accuracy(path, classes):
    return surgeon.evaluate(path, data(classes, seed=5), device="cpu")["metrics"]["accuracy"]


def told(command, capsys):
    code = main([*map(str, command), "--device", "cpu", "--json"])
    return json.loads(capsys.readouterr().out), code


def test_classes_are_added_without_the_data_of_the_old_ones(folder, capsys):
    six, nine = folder / "six.onnx", folder / "nine.onnx"
    command = ["finetune", six, folder / "new.npz", "--extend", "-o", nine]
    body, code = told(command, capsys)
    assert code == 0, body
    old, new = sorted(labels(range(6))), sorted(labels([6, 7, 8]))
    assert body["extended"] == {"old": old, "new": new, "method": "statistics"}
    assert body["labels"] == old + new == surgeon.load(nine).labels
    assert surgeon.load(nine).plan.extended == tuple(new)
    assert body["changed"] == ["surgeon.head.weight", "surgeon.head.bias"]
    assert body["metrics"]["validation"]["method"] == "cross-validated"
    before, after = weights(six), weights(nine)
    assert before.keys() == after.keys()
    for name in before.keys() - set(body["changed"]):
        assert before[name].tobytes() == after[name].tobytes()
    assert surgeon.verify(nine, folder / "net.onnx", device="cpu").passed
    found = surgeon.evaluate(nine, data(range(9), seed=5), device="cpu")
    assert [row["label"] for row in found["per_class"]] == old + new
    assert found["metrics"]["accuracy"] > accuracy(six, range(6)) - 0.1
    assert accuracy(nine, range(6)) > 0.85
    assert accuracy(nine, [6, 7, 8]) > 0.85


def test_one_class_after_another_ends_where_all_at_once_does(folder):
    model, names = folder / "six.onnx", sorted(labels(range(6)))
    for code in (6, 7, 8):
        model = surgeon.finetune(model, data([code]), extend=True, device="cpu").model
        names += labels([code])
        assert model.labels == names
    assert model.plan.extended == tuple(labels([6, 7, 8]))
    once = surgeon.finetune(folder / "six.onnx", data([6, 7, 8]), extend=True, device="cpu").model
    seen = data(range(9), seed=5)["x"]
    answers = [[surgeon.predict(one, seen, device="cpu").labels for one in (model, once)]]
    ((first, second),) = answers
    assert np.mean(np.array(first) == np.array(second)) > 0.97


@pytest.mark.parametrize("apart", [True, False])
def test_with_old_data_all_classes_are_learnt_from_samples(folder, apart):
    new, old = data([6, 7, 8]), data(range(6), seed=2)
    both = {name: np.concatenate([old[name], new[name]]) for name in new}
    outcome = surgeon.finetune(
        folder / "six.onnx", new if apart else both, extend=True, device="cpu",
        old_data=old if apart else None,
    )  # fmt: skip
    assert outcome.body["extended"]["method"] == "data"
    assert outcome.model.labels == sorted(labels(range(6))) + sorted(labels([6, 7, 8]))
    assert (
        surgeon.evaluate(outcome.model, data(range(9), seed=5), device="cpu")["metrics"]["accuracy"]
        > 0.85
    )
    assert "surgeon.statistics" in {entry.key for entry in outcome.model.proto.metadata_props}


def test_what_trains_everything_trains_all_classes_where_there_are_samples(folder):
    tuned = surgeon.finetune(
        folder / "net.onnx", data(range(6)), case="large-similar", epochs=2, device="cpu",
        keep_statistics=True, compile="off",
    ).model  # fmt: skip
    settings = {"extend": True, "device": "cpu", "compile": "off"}
    outcome = surgeon.finetune(
        tuned, data([6]), old_data=data(range(6), seed=2), epochs=2, **settings
    )
    assert len(outcome.body["trainable"]) > 2
    without = surgeon.finetune(tuned, data([6]), **settings)
    assert without.body["trainable"] == ["surgeon.head.weight", "surgeon.head.bias"]
    assert any("only the head" in warning for warning in without.body["warnings"])
    assert (
        surgeon.evaluate(without.model, data(range(7), seed=5), device="cpu")["metrics"]["accuracy"]
        > 0.8
    )


def test_a_classifier_of_anyone_is_extended_with_old_data(folder, capsys):
    net, out = folder / "net.onnx", folder / "foreign.onnx"
    old = data(range(5), names="{}")
    old["labels"] = np.array([str(8 - int(label)) for label in old["labels"]])
    np.savez(folder / "first.npz", **old)
    command = ["finetune", net, folder / "new.npz", "--extend", "-o", out, "--force"]
    body, code = told(command, capsys)
    assert code == 2
    assert "--old-data" in body["error"]["remedy"]
    body, code = told([*command, "--old-data", folder / "first.npz"], capsys)
    assert code == 0, body
    assert body["labels"][:5] == ["0", "1", "2", "3", "4"]
    assert body["extended"]["method"] == "data"
    assert surgeon.verify(out, net, device="cpu").passed


def test_a_name_that_a_classifier_has_twice_is_one_class():
    net = mlp()
    net.metadata_props.add(key="names", value="['crane', 'b', 'crane', 'd', 'e']")
    assert old_labels(surgeon.load(net)) == ("crane", "b", "d", "e")


def test_few_samples_of_old_classes_beside_statistics_of_many_are_named(folder):
    outcome = surgeon.finetune(
        folder / "six.onnx", data([6]), old_data=data(range(6), each=4), extend=True, device="cpu",
        dry_run=True,
    )  # fmt: skip
    assert outcome.body["extended"]["method"] == "data"
    assert any("carries statistics of 144" in warning for warning in outcome.body["warnings"])


def test_labels_that_are_nearly_the_old_ones_are_named(folder):
    new = data([6], names="C{} ")
    new["labels"] = np.array(["C3"] * len(new["labels"]))
    outcome = surgeon.finetune(folder / "six.onnx", new, extend=True, device="cpu", dry_run=True)
    assert any("'C3' / 'c3'" in warning for warning in outcome.body["warnings"])
    assert outcome.body["extended"]["new"] == ["C3"]


def test_old_classes_may_be_judged_by_validation_data_alone(folder):
    outcome = surgeon.finetune(
        folder / "six.onnx", data([6, 7, 8]), extend=True, device="cpu",
        validation=str(folder / "old.npz"),
    )  # fmt: skip
    assert outcome.body["extended"]["method"] == "statistics"
    assert outcome.metrics["validation"]["samples"] == 6 * 24
    assert outcome.metrics["validation"]["accuracy"] > 0.8


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"data": data([0, 1])}, UsageError, "no label that the file lacks"),
        ({"case": "small-similar"}, UsageError, "case"),
        ({"data": data([6], each=1)}, DataError, "single sample"),
        ({"extend": False, "old_data": "old.npz"}, UsageError, "--extend"),
        ({"task": "regression"}, UsageError, "regression"),
        ({"views": 3}, UsageError, "views"),
    ],
)
def test_what_cannot_be_meant_is_refused(folder, settings, kind, words):
    given = {"data": data([6, 7]), "extend": True, "device": "cpu"} | settings
    with pytest.raises(kind, match=words) as caught:
        surgeon.finetune(folder / "six.onnx", **given)
    assert caught.value.remedy


def test_files_that_cannot_be_extended_are_refused(folder):
    plain = surgeon.finetune(
        folder / "net.onnx", data(range(6)), case="small-similar", device="cpu"
    ).model
    with pytest.raises(DataError, match="nothing says what 6 of the file's classes look like"):
        surgeon.finetune(plain, data([6, 7]), extend=True, device="cpu")
    operated = surgeon.operate(folder / "net.onnx", case="small-similar", classes=3)
    with pytest.raises(UsageError, match="learnt nothing yet"):
        surgeon.finetune(operated, data([6, 7]), extend=True, device="cpu")
    for task in ("multi-label", "regression"):
        other = surgeon.operate(folder / "net.onnx", case="small-similar", classes=3, task=task)
        with pytest.raises(UsageError, match=task):
            surgeon.finetune(other, data([6, 7]), extend=True, device="cpu")


def test_a_head_of_several_layers_is_extended_with_old_data_alone(folder):
    settings = {"device": "cpu", "compile": "off", "epochs": 20}
    tuned = surgeon.finetune(
        folder / "net.onnx", data(range(3)), case="small-similar", head="mlp:hidden=16", **settings
    ).model
    outcome = surgeon.finetune(
        tuned, data([3]), extend=True, old_data=data(range(3), seed=2), **settings
    )
    assert accuracy(outcome.model, range(4)) > 0.6
    before, after = (
        {t.name: t for t in one.proto.graph.initializer} for one in (tuned, outcome.model)
    )
    assert before["w1"] == after["w1"]
    with pytest.raises(UnsupportedError, match="linear"):
        surgeon.finetune(
            folder / "net.onnx", data(range(3)), case="small-similar", head="mlp", device="cpu",
            keep_statistics=True,
        )  # fmt: skip


def test_statistics_outlive_external_data_and_onnx_runtime_ignores_them(folder):
    moved = folder / "outside" / "six.onnx"
    moved.parent.mkdir(exist_ok=True)
    onnx.save(
        onnx.load(folder / "six.onnx"), moved, save_as_external_data=True, size_threshold=0,
        location="weights",
    )  # fmt: skip
    session = onnxruntime.InferenceSession(moved, providers=["CPUExecutionProvider"])
    assert "surgeon.statistics" in session.get_modelmeta().custom_metadata_map
    outcome = surgeon.finetune(moved, data([6, 7, 8]), extend=True, device="cpu")
    assert accuracy(outcome.model, range(9)) > 0.85


def test_statistics_of_another_head_are_refused_and_changed_ones_are_seen(folder):
    file = onnx.load(folder / "six.onnx")
    (entry,) = (one for one in file.metadata_props if one.key == "surgeon.statistics")
    document = json.loads(entry.value)
    entry.value = json.dumps(document | {"counts": [1] * 6})
    verdict = surgeon.verify(file, device="cpu")
    assert "statistics" in [check.name for check in verdict.checks if not check.passed]
    other = onnx.load(surgeon.finetune(
        folder / "net.onnx", data(range(4)), case="small-similar", device="cpu",
        keep_statistics=True,
    ).model.save(folder / "four.onnx", force=True))  # fmt: skip
    (theirs,) = (one for one in other.metadata_props if one.key == "surgeon.statistics")
    entry.value = theirs.value
    with pytest.raises(ModelError, match="statistics"):
        surgeon.finetune(file, data([6, 7]), extend=True, device="cpu")


def test_statistics_go_where_features_change(folder):
    outcome = surgeon.finetune(
        folder / "six.onnx", data(range(6)), device="cpu", train=("w1",), epochs=1, compile="off",
        lr=0.5,
    )  # fmt: skip
    carried = "surgeon.statistics" in {entry.key for entry in outcome.model.proto.metadata_props}
    assert carried == (set(outcome.body["changed"]) <= {"surgeon.head.weight", "surgeon.head.bias"})
    numbers = data(range(6)) | {"labels": np.linspace(0, 1, 144)}
    with pytest.raises(UsageError, match="statistics"):
        surgeon.finetune(
            folder / "net.onnx", numbers, case="small-similar", task="regression", device="cpu",
            keep_statistics=True,
        )  # fmt: skip


@pytest.mark.parametrize("beside", [{"loss": "focal"}, {"adapter": "qat"}])
def test_what_only_steps_can_do_is_refused_beside_statistics(folder, beside):
    (name,) = beside
    with pytest.raises(UsageError, match="statistics") as caught:
        surgeon.finetune(folder / "six.onnx", data([6]), extend=True, device="cpu", **beside)
    assert caught.value.where == f"--{name}"


def test_a_loss_is_minimised_where_the_data_have_every_class(folder):
    outcome = surgeon.finetune(
        folder / "six.onnx", data(range(7)), extend=True, device="cpu", loss="focal:gamma=1",
        dry_run=True,
    )  # fmt: skip
    assert outcome.body["extended"]["method"] == "data"
    assert outcome.model.plan.loss == "focal:gamma=1"


@pytest.mark.parametrize("stays", [{"classes": 4}, {"init": "random"}])
def test_what_a_file_that_goes_on_keeps_is_refused(folder, stays):
    (name,) = stays
    with pytest.raises(UsageError, match=name) as caught:
        surgeon.finetune(folder / "six.onnx", data(range(6)), device="cpu", **stays)
    assert caught.value.where == f"--{name}"
    same = {"classes": 6, "init": "pretrained"}
    surgeon.finetune(folder / "six.onnx", data(range(6)), device="cpu", dry_run=True, **same)
