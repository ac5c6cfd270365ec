"""Which task answers are for, by their form; what could be meant in two ways is asked."""

import numpy as np
import pytest

from surgeon.tasks.forms import tasks_for

ROWS = np.arange(12).reshape(4, 3)


@pytest.mark.parametrize(
    ("answers", "tasks"),
    [
        (["a", "b", "a"], ["classification"]),
        (["a|b", "b", "a"], ["classification"]),
        ([3, 1, 2], ["classification"]),
        (np.array([0.0, 1.0]), ["classification"]),
        (["1", "2.0", ""], ["classification"]),
        ([True, False], ["classification"]),
        (["v1.5", "2.5"], ["classification"]),
        (np.zeros((4, 1), int), ["classification"]),
        (np.array([0.5, 1.0]), ["regression"]),
        (["1.5", "2", "nan"], ["regression"]),
        (np.array([[0.5], [1.0]]), ["regression"]),
        (np.array([[0.5, 1.0], [1.0, np.nan]]), ["regression"]),
        ([[0.5, 1.0], [1.0, 2.0]], ["regression"]),
        ({"a": ["1", "2"], "b": ["0.5", "1"]}, ["regression"]),
        ({"a": [0, 1], "b": [2, 3]}, ["regression"]),
        ({"a": ["0", "1"], "b": ["", "1.0"]}, ["multi-label"]),
        (ROWS > 3, ["multi-label"]),
        ([["a", "b"], [], ["c"]], ["multi-label"]),
        ([[3, 7], [1]], ["multi-label"]),
        (np.where(ROWS > 3, ROWS, -100), ["tokens"]),
        ([["O", "O", "B"], ["O"]], ["tokens"]),
        ([[{"start": 0, "end": 1, "label": "x"}], []], ["tokens"]),
        (np.zeros((4, 8, 8), np.uint8), ["segmentation"]),
        (ROWS, ["tokens", "regression"]),
        (np.eye(3, dtype=int), ["multi-label", "tokens", "regression"]),
        (np.eye(3), ["multi-label", "regression"]),
        (np.array([["a", "b"]] * 3), ["multi-label", "tokens"]),
        ([[1, 0], [0, 1]], ["multi-label", "tokens", "regression"]),
        ({"a": ["x", "y"], "b": ["1", "2"]}, []),
        ([{"a": 1}], []),
        (np.zeros((4, 8, 8)), []),
        (np.zeros((4, 2, 8, 8), int), []),
    ],
)
def test_the_task_by_the_form_of_the_answers(answers, tasks):
    form, found = tasks_for(answers)
    assert list(found) == tasks
    assert form


def test_lists_of_labels_beside_lists_of_words_are_one_for_each():
    assert list(tasks_for([["A", "B"], ["C"]], words=True)[1]) == ["tokens"]


def test_lists_of_lists_are_asked_about():
    assert tasks_for([[[1, 2], [3, 4]], [[1, 2], [3, 5]]]) == ("lists of lists", ())
