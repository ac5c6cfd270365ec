"""Several labels per sample, without a model: read, judged as scikit-learn does, told."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from surgeon.errors import DataError, ModelError
from surgeon.tasks.find import find_task

HOLE = [np.nan, np.nan]
TASK = find_task("multi-label")


def read(column):
    return TASK.read(column, "data")


def samples(n=200, k=4, ties=True, seed=0):
    random = np.random.default_rng(seed)
    right = random.random((n, k)) < np.linspace(0.1, 0.6, k)
    told = np.clip(0.3 * right + random.random((n, k)) * 0.7, 0.001, 0.999)
    return (np.round(told, 1) if ties else told), right.astype(float)


@pytest.mark.parametrize(
    ("column", "names", "values"),
    [
        (["b|a", "", "a", None], ("a", "b"), [[1, 1], [0, 0], [1, 0], HOLE]),
        ([["b", "a"], [], ("a",), float("nan")], ("a", "b"), [[1, 1], [0, 0], [1, 0], HOLE]),
        ([[10, 9], [9], []], ("9", "10"), [[1, 1], [1, 0], [0, 0]]),
        ([[0, 1, 1], [1, 0, 0]], ("0", "1", "2"), [[0, 1, 1], [1, 0, 0]]),
        (np.array([[True, False], [False, True]]), ("0", "1"), [[1, 0], [0, 1]]),
        (np.array([[1.0, np.nan], [0.0, 1.0]]), ("0", "1"), [[1, np.nan], [0, 1]]),
        ({"b": [1, 0], "a": ["", "1"]}, ("b", "a"), [[1, np.nan], [0, 1]]),
        ({"b": np.array([True, False])}, ("b",), [[1], [0]]),
    ],
)  # fmt: skip
def test_every_form_of_labels_is_read(column, names, values):
    found = read(column)
    assert found.names == names
    np.testing.assert_array_equal(found.values, np.array(values, float))
    known = ~np.isnan(np.array(values, float))
    assert (found.known is None) == known.all()
    assert found.answered.tolist() == np.flatnonzero(known.any(axis=1)).tolist()


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (np.array([[0, 2]]), "neither 0 nor 1"),
        ({"a": [1, 0], "b": [1, "x"]}, "data:b[1]"),
        (np.zeros((2, 2, 2)), "[2, 2, 2]"),
        ([["a"], [{"b": 1}]], "data[1]"),
        ([["a", None]], "missing"),
    ],
)
def test_what_is_no_set_of_labels_says_where(column, words):
    with pytest.raises(DataError) as caught:
        read(column)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"a": [1, 0], "b": [0, 0]}, "no sample has 1 of 2 labels: 'b'"),
        (["a|b", "a"], "every sample has 1 of 2 labels: 'a'"),
        (["", ""], "no sample has a label"),
        (np.full((2, 2), np.nan), "no sample tells"),
        ([], "no sample"),
    ],
)
def test_labels_that_nothing_can_be_learnt_from_are_refused(column, words):
    with pytest.raises(DataError, match=words):
        TASK.check(read(column))
    TASK.check(read(["a|b", "a", "b"]))


def test_labels_are_said_in_the_outputs_of_a_file():
    names = ["c", "b", "a"]
    listed = TASK.onto(read(["a|b", None]), names, ignore_unknown=False)
    np.testing.assert_array_equal(listed.values, [[0, 1, 1], [np.nan] * 3])
    columns = TASK.onto(read({"a": [1, 0]}), names, ignore_unknown=False)
    np.testing.assert_array_equal(columns.values, [[np.nan, np.nan, 1], [np.nan, np.nan, 0]])
    unnamed = TASK.onto(read(np.eye(3)), names, ignore_unknown=False)
    assert unnamed.names == tuple(names)
    with pytest.raises(DataError, match="'z'"):
        TASK.onto(read(["a|z"]), names, ignore_unknown=False)
    assert TASK.onto(read(["a|z"]), names, ignore_unknown=True).values.tolist() == [[0, 0, 1]]
    with pytest.raises(DataError):
        TASK.onto(read(["z"]), names, ignore_unknown=True)


@pytest.mark.parametrize("ties", [True, False])
def test_figures_are_scikit_learns(ties):
    told, right = samples(ties=ties)
    said = told > 0.5
    found = TASK.score([(told[:90], read(right[:90])), (told[90:], read(right[90:]))])
    wanted = {
        "average_precision": metrics.average_precision_score(right, told, average="macro"),
        "micro_f1": metrics.f1_score(right, said, average="micro"),
        "macro_f1": metrics.f1_score(right, said, average="macro"),
        "subset_accuracy": metrics.accuracy_score(right, said),
        "loss": np.mean([metrics.log_loss(right[:, at], told[:, at]) for at in range(4)]),
    }
    assert {key: found.figures[key] for key in wanted} == pytest.approx(wanted)
    assert found.figures["quality"] == pytest.approx(found.quality.mean())
    assert found.figures["loss"] == pytest.approx(found.loss.mean())


def test_a_label_that_does_not_occur_and_what_is_not_known_do_not_count():
    told, right = samples()
    holes = right.copy()
    holes[:20, 0], holes[20:25] = np.nan, np.nan
    holes[:, 3] = np.where(np.isnan(holes[:, 3]), np.nan, 0)
    found = TASK.score([(told, read(holes))])
    known = [~np.isnan(holes[:, at]) for at in range(3)]
    each = [
        metrics.average_precision_score(right[rows, at], told[rows, at])
        for at, rows in enumerate(known)
    ]
    assert found.figures["average_precision"] == pytest.approx(np.mean(each))
    assert np.nanmean(found.quality) == pytest.approx(np.mean(each))
    assert np.isnan(found.quality[20:25]).all()
    assert np.isnan(found.loss[20:25]).all()
    nothing = TASK.score([(told, read(np.full(right.shape, np.nan)))])
    assert set(nothing.figures.values()) == {None}


def test_thresholds_have_the_best_f1_and_are_told_by():
    told, right = samples(n=400, ties=False)
    right[:, 1] = 0
    right[:3, 1] = 1  # too few for a threshold of their own
    targets = read({f"l{at}": right[:, at].astype(int) for at in range(4)})
    stored = TASK.calibrate(told, targets)
    thresholds = [stored["thresholds"][f"l{at}"] for at in range(4)]
    grid = np.linspace(0.01, 0.99, 99)
    for at in (0, 2, 3):
        best = max(metrics.f1_score(right[:, at], told[:, at] > cut) for cut in grid)
        assert metrics.f1_score(right[:, at], told[:, at] > thresholds[at]) >= best
    pooled = max(metrics.f1_score(right.ravel(), told.ravel() > cut) for cut in grid)
    assert metrics.f1_score(right.ravel(), told.ravel() > thresholds[1]) >= pooled
    task = find_task("multi-label", stored=stored)
    (row, *_) = task.rows(told, targets.names)
    assert row["labels"] == [f"l{at}" for at in range(4) if told[0, at] > thresholds[at]]
    assert row["probabilities"] == told[0].tolist()
    said = told > np.array(thresholds)
    figures = task.score([(told, targets)]).figures
    assert figures["micro_f1"] == pytest.approx(metrics.f1_score(right, said, average="micro"))
    few = TASK.calibrate(told[:5], targets[:5])
    assert set(few["thresholds"].values()) == {0.5}


def test_thresholds_that_another_tool_broke_are_refused():
    for stored in ({"thresholds": {"a": "x"}}, {"thresholds": [0.1]}):
        with pytest.raises(ModelError, match="threshold"):
            find_task("multi-label", stored=stored).rows(np.zeros((1, 1)), ["a"])


def test_what_a_graph_has_done_is_not_done_again():
    raw = np.array([[-800.0, 0.0, 800.0]])
    np.testing.assert_allclose(TASK.decode(raw, "Identity").answers, [[0, 0.5, 1]])
    np.testing.assert_allclose(TASK.decode(raw, None).answers, [[0, 0.5, 1]])
    inside = np.array([[0.25, 0.5]])
    for activation in ("Sigmoid", None):
        found = TASK.decode(inside, activation, ["a", "b"])
        np.testing.assert_array_equal(found.answers, inside)
        assert found.kind == "multi-label"
    assert TASK.decode(raw, "Sigmoid").kind == "values"


def test_strata_follow_the_rarest_label():
    _, right = samples(n=300)
    strata = TASK.strata(read(right))
    assert TASK.counts(read(right)).tolist() == right.sum(axis=0).tolist()
    rarest = right[:, 0] == 1
    assert len(set(strata[rarest])) == 1
    assert not set(strata[rarest]) & set(strata[~rarest])
    assert not (strata[right.any(axis=1)] == strata[~right.any(axis=1)][0]).any()


def test_each_label_has_its_figures():
    told, right = samples()
    per_class = TASK.details(told, read(right))["per_class"]
    wanted = metrics.precision_recall_fscore_support(right, told > 0.5)
    for at, row in enumerate(per_class):
        keys = ("precision", "recall", "f1", "support")
        assert [row[key] for key in keys] == pytest.approx([float(one[at]) for one in wanted])
