"""Classification through the door that every task has: read, judged and told, without a model."""

from __future__ import annotations

import numpy as np
import pytest

from surgeon.errors import DataError, UnknownNameError
from surgeon.tasks.base import Targets
from surgeon.tasks.find import find_task

TASK = find_task("classification")


def targets(column):
    return TASK.read(column, "labels")


def test_it_comes_from_our_distribution_as_anyones_would():
    from surgeon.plugin.manager import load_plugins
    from surgeon.records import Task

    found = load_plugins(enabled=False).offer(Task, "classification")
    assert found.distribution == "onnx-surgeon"
    with pytest.raises(UnknownNameError):
        find_task("clasification")


@pytest.mark.parametrize(
    ("column", "names", "codes"),
    [
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        ([10, 9, 10], ("9", "10"), [1, 0, 1]),
        (np.array([2.0, 1.0]), ("1", "2"), [1, 0]),
        (np.array([b"x", b"y"]), ("x", "y"), [0, 1]),
    ],
)
def test_labels_are_read_as_names_in_their_order(column, names, codes):
    found = targets(column)
    assert found.names == names
    assert found.values.tolist() == codes
    assert TASK.outputs(found) == len(names)
    assert TASK.strata(found).tolist() == codes


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (["a", None], "labels[1]"),
        ([float("nan"), 1.0], "missing"),
        (["a", ["b", "c"]], "list"),
        (np.eye(3), "argmax"),
        (np.zeros((4, 2, 2), int), "masks"),
    ],
)
def test_what_is_no_label_says_where_and_what_it_looks_like(column, words):
    with pytest.raises(DataError) as caught:
        targets(column)
    assert words in str(caught.value)


def test_what_nothing_can_be_learnt_from_is_refused():
    TASK.check(targets(["a", "a", "b", "b"]))
    for column, words in (([], "no sample"), (["a", "a"], "same label"), (["a", "a", "b"], "'b'")):
        with pytest.raises(DataError, match=words):
            TASK.check(targets(column))


def test_labels_are_said_in_the_outputs_of_a_file():
    found = TASK.onto(targets(["b", "a", "b"]), ["c", "b", "a"], ignore_unknown=False)
    assert found.values.tolist() == [1, 2, 1]
    assert (found.names, found.known) == (("c", "b", "a"), None)
    with pytest.raises(DataError, match="'z'") as caught:
        TASK.onto(targets(["b", "z"]), ["a", "b"], ignore_unknown=False)
    assert "--ignore-unknown" in caught.value.remedy
    some = TASK.onto(targets(["b", "z"]), ["a", "b"], ignore_unknown=True)
    assert some.known.tolist() == [True, False]
    with pytest.raises(DataError):
        TASK.onto(targets(["z"]), ["a", "b"], ignore_unknown=True)


def test_groups_and_rows_stay_together():
    given = Targets(np.array([0, 1, 0]), ("a", "b"), groups=np.array([5, 5, 6]))
    found = TASK.onto(given, ["b", "a"], ignore_unknown=False)[np.array([0, 2])]
    assert found.values.tolist() == [1, 1]
    assert found.groups.tolist() == [5, 6]


@pytest.mark.parametrize(
    ("activation", "raw", "kind"),
    [
        (None, [[0.0, 0.0], [2.0, -1.0]], "classification"),
        ("Softmax", [[0.5, 0.5], [0.9, 0.1]], "classification"),
        ("LogSoftmax", np.log([[0.5, 0.5], [0.9, 0.1]]), "classification"),
        ("Sigmoid", [[0.9, 0.8], [0.1, 0.2]], "multi-label"),
        ("Softmax", [[-5.0, 3.0], [1.0, 2.0]], "values"),
    ],
)
def test_what_the_graph_has_done_is_not_done_again(activation, raw, kind):
    found = TASK.decode(np.asarray(raw), activation)
    assert found.kind == kind
    if kind == "classification":
        np.testing.assert_allclose(found.answers.sum(axis=1), 1)
    if activation == "Softmax" and kind == "classification":
        np.testing.assert_array_equal(found.answers, raw)


def test_one_sigmoid_of_two_names_is_the_seconds():
    found = TASK.decode(np.array([[0.2], [0.9]]), "Sigmoid", ["no", "yes"])
    assert found.kind == "classification"
    np.testing.assert_allclose(found.answers, [[0.8, 0.2], [0.1, 0.9]])


def test_scores_are_those_of_scikit_learn_and_each_samples_own():
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    random = np.random.default_rng(0)
    raw = random.standard_normal((40, 4))
    truth = Targets(random.integers(0, 4, 40), tuple("abcd"))
    told = TASK.decode(raw, None).answers
    found = TASK.score([(told, truth)])
    predicted = told.argmax(axis=1)
    assert found.figures["quality"] == found.figures[TASK.quality]
    assert found.figures["accuracy"] == pytest.approx(accuracy_score(truth.values, predicted))
    wanted = f1_score(truth.values, predicted, average="macro")
    assert found.figures["macro_f1"] == pytest.approx(wanted)
    assert found.figures["loss"] == pytest.approx(log_loss(truth.values, told))
    assert found.quality.mean() == pytest.approx(found.figures["quality"])
    assert found.loss.mean() == pytest.approx(found.figures["loss"])
    details = TASK.details(told, truth)
    assert np.sum(details["confusion"]) == 40
    assert np.trace(details["confusion"]) == (predicted == truth.values).sum()
    assert [row["support"] for row in details["per_class"]] == np.bincount(truth.values).tolist()


def test_scores_are_the_same_some_samples_at_a_time():
    random = np.random.default_rng(0)
    raw = random.standard_normal((40, 4))
    truth = Targets(random.integers(0, 4, 40), tuple("abcd"))
    told = TASK.decode(raw, "Identity").answers
    whole = TASK.score([(told, truth)])
    parts = TASK.score((told[rows], truth[rows]) for rows in (slice(0, 1), slice(1, 40)))
    assert parts.figures == whole.figures
    np.testing.assert_array_equal(parts.quality, whole.quality)
    np.testing.assert_array_equal(parts.loss, whole.loss)


def test_scores_that_look_like_probabilities_are_scores_of_a_head_of_ours():
    """By themselves nobody could tell them apart."""
    raw = np.array([[1.0, 0.0]])
    np.testing.assert_array_equal(TASK.decode(raw, None).answers, raw)
    assert TASK.decode(raw, "Identity").answers[0, 1] == pytest.approx(1 / (1 + np.e))


def test_samples_of_unknown_class_are_not_judged():
    told = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    known = np.array([True, False, True])
    found = TASK.score([(told, Targets(np.array([0, -1, 1]), ("a", "b"), known))])
    assert found.figures["accuracy"] == 0.5
    assert np.isnan(found.quality).tolist() == [False, True, False]
    assert np.isnan(found.loss).tolist() == [False, True, False]
    details = TASK.details(told, Targets(np.array([0, -1, 1]), ("a", "b"), known))
    assert np.sum(details["confusion"]) == 2


def test_rows_tell_the_likeliest_class():
    told = np.array([[0.25, 0.75], [1.0, 0.0]])
    assert TASK.rows(told, ["no", "yes"]) == [
        {"label": "yes", "index": 1, "probability": 0.75, "probabilities": [0.25, 0.75]},
        {"label": "no", "index": 0, "probability": 1.0, "probabilities": [1.0, 0.0]},
    ]
    assert TASK.rows(told, None)[0]["label"] is None


def test_many_classes_have_no_table():
    truth = Targets(np.array([0, 1]), tuple(map(str, range(2001))))
    told = np.full((2, 2001), 1 / 2001)
    details = TASK.details(told, truth)
    assert details["confusion"] is None
    assert "2,001" in details["warnings"][0]
    assert details["metrics"]["top5"] is not None
