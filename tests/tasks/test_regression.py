"""Numbers to predict, without a model: read, judged as scikit-learn does, told with intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from surgeon.errors import DataError
from surgeon.tasks.find import find_task

TASK = find_task("regression")


def read(column):
    return TASK.read(column, "data")


@pytest.mark.parametrize(
    ("column", "names", "values"),
    [
        ([1, 2.5, "3e1"], (), [[1], [2.5], [30]]),
        (np.array([1, 2], np.int8), (), [[1], [2]]),
        (np.array([[1.0, 2.0], [3.0, 4.0]], np.float16), (), [[1, 2], [3, 4]]),
        ([[1, 2], (3, 4)], (), [[1, 2], [3, 4]]),
        ({"b": [1, 2], "a": ["3", 4.5]}, ("b", "a"), [[1, 3], [2, 4.5]]),
    ],
)
def test_every_form_of_numbers_is_read(column, names, values):
    found = read(column)
    assert found.names == names
    np.testing.assert_array_equal(found.values, values)
    assert TASK.outputs(found) == len(values[0])


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([1.0, float("nan"), None], "data[1]"),
        ([1.0, float("inf")], "data[1]"),
        ([1.0, 1e30], "data[1]"),
        (np.array([1.0, np.nan]), "1 of 2"),
        (["1", "two"], "'two' is no number"),
        (["1", ""], "missing"),
        ([[1, 2], [3]], "data[1]"),
        ({"a": [1, "x"], "b": [1, 2]}, "data:a[1]"),
        ({"a": [[1, 2], [3, 4]], "b": [[1, 2], [3, 4]]}, "several"),
        (np.zeros((2, 2, 2)), "[2, 2, 2]"),
        (np.array([1j, 2]), "no number"),
        (np.array(["2020-01-01"], "datetime64[D]"), "no number"),
        ([{"a": 1}], "no number"),
    ],
)
def test_what_is_no_number_says_where(column, words):
    with pytest.raises(DataError) as caught:
        read(column)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("column", "words"),
    [([], "0 samples"), ([1.0], "1 samples"), ({"a": [1, 2], "b": [3, 3]}, "'b'")],
)
def test_numbers_that_nothing_can_be_learnt_from_are_refused(column, words):
    with pytest.raises(DataError) as caught:
        TASK.check(read(column))
    assert words in str(caught.value)
    TASK.check(read([1, 2]))


def test_columns_come_in_the_order_of_a_file():
    named = TASK.onto(read({"a": [1, 2], "b": [3, 4]}), ["b", "a"], ignore_unknown=False)
    assert named.values.tolist() == [[3, 1], [4, 2]]
    assert TASK.onto(read([[1, 2]]), ["b", "a"], ignore_unknown=False).names == ("b", "a")
    with pytest.raises(DataError, match="'c'"):
        TASK.onto(read({"a": [1, 2]}), ["c"], ignore_unknown=False)
    with pytest.raises(DataError, match="gives 2"):
        TASK.onto(read([1, 2]), ["a", "b"], ignore_unknown=False)


def test_figures_are_scikit_learns():
    random = np.random.default_rng(0)
    right = random.standard_normal((100, 3)) * [1, 10, 100]
    told = right + random.standard_normal((100, 3)) * [0.5, 1, 200]
    found = TASK.score([(told[:30], read(right[:30])), (told[30:], read(right[30:]))])
    wanted = {
        "r2": metrics.r2_score(right, told),
        "mae": metrics.mean_absolute_error(right, told),
        "rmse": metrics.root_mean_squared_error(right, told),
        "loss": metrics.mean_squared_error(right, told),
    }
    assert {key: found.figures[key] for key in wanted} == pytest.approx(wanted)
    assert found.figures["quality"] == pytest.approx(found.quality.mean())
    assert found.figures["loss"] == pytest.approx(found.loss.mean())
    constant = TASK.score([(told[:, :1], read(np.ones((100, 1))))])
    assert constant.figures["r2"] is None
    assert constant.figures["mae"] is not None


def test_intervals_hold_nine_of_ten_numbers_never_seen():
    random = np.random.default_rng(0)
    held = []
    for _ in range(100):
        right = random.standard_normal((60, 2)) * [1, 100]
        told = right + random.standard_normal((60, 2)) * [1, 100]
        stored = TASK.calibrate(told[:20], read(right[:20]))
        task = find_task("regression", stored=stored)
        rows = task.rows(told[20:], None)
        assert rows[0]["values"] == told[20].tolist()
        low, high = np.moveaxis(np.array([row["interval"] for row in rows]), 2, 0)
        held.append((low <= right[20:]) & (right[20:] <= high))
    assert 0.89 <= np.mean(held) <= 0.93
    few = TASK.calibrate(told[:8], read(right[:8]))
    assert "half_widths" not in few
    assert few["notes"]
    assert "interval" not in find_task("regression", stored=few).rows(told[:1], None)[0]


def test_strata_are_bins_of_like_numbers():
    values = np.random.default_rng(0).standard_normal(200)
    strata = TASK.strata(read(values))
    assert np.bincount(strata).tolist() == [20] * 10
    assert (np.diff(strata[np.argsort(values)]) >= 0).all()
    assert TASK.strata(read(values[:15])) is None
    many = np.zeros(200)
    many[:20] = values[:20]
    assert len(set(TASK.strata(read(many))[20:])) == 1
