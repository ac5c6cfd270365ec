"""Answers as data tell them: columns, lists, arrays; the task of a run; what cannot be read."""

import json
from typing import ClassVar

import numpy as np
import pytest

from surgeon.data import JoinedSamples, open_data
from surgeon.errors import DataError, UsageError
from surgeon.options import Options
from surgeon.records import TensorInfo
from surgeon.targets import ask, ask_for, choose

X = TensorInfo("x", "float", ("N", 3), 0)
VALUES = np.random.default_rng(0).normal(size=(4, 3)).astype("f4")


class Unplanned:
    """A file that nobody planned anything for."""

    plan = None
    decoding: ClassVar = {}
    where = "m.onnx"


def asked(samples, task="auto"):
    reading = Options.of({"task": task}).reading
    return ask(samples, Unplanned, reading, planned=True, plugins=None)


def arrays(labels, **more):
    return open_data({"x": VALUES[: len(labels)], "labels": labels, **more}, [X])


def table(path, rows, **options):
    path.write_text("\n".join(map(json.dumps, rows)))
    return open_data(path, [X], **options)


def csv(path, *lines, **options):
    path.write_text("\n".join(lines))
    return open_data(path, [X], **options)


COLUMNS = ["a,b,c,sea,sun", "1,2,3,0,1", "4,5,6,1,1", "7,8,9,0,0"]


def test_several_columns_are_labels_or_numbers(tmp_path):
    samples = csv(tmp_path / "t.csv", *COLUMNS, label_column="sea,sun")
    assert samples.batch([0])["x"].tolist() == [[1, 2, 3]]
    found = asked(samples)
    assert found.name == "multi-label"
    assert found.targets.names == ("sea", "sun")
    assert found.targets.values.tolist() == [[0, 1], [1, 1], [0, 0]]
    assert "multi-label" in samples.remarks[-1]
    assert asked(samples, "regression").targets.values.tolist() == [[0, 1], [1, 1], [0, 0]]
    with pytest.raises(DataError, match="2 label columns"):
        asked(samples, "classification")
    again = csv(tmp_path / "t.csv", *COLUMNS, label_column=["sea", "sun"])
    assert again.sha256 == samples.sha256


def test_a_column_whose_name_holds_a_comma_is_one(tmp_path):
    samples = csv(tmp_path / "t.csv", 'a,b,c,"p,q"', "1,2,3,u", "1,2,3,v", label_column="p,q")
    assert samples.answers == ["u", "v"]


@pytest.mark.parametrize("named", ["sea,moon", "sea,sea", ""])
def test_columns_that_cannot_be_meant_are_named(tmp_path, named):
    with pytest.raises(UsageError):
        csv(tmp_path / "t.csv", *COLUMNS, label_column=named)


def test_lists_and_joined_cells_are_labels(tmp_path):
    rows = [{"x": [1.0, 2.0, 3.0], "label": told} for told in (["a", "b"], [], ["b"])]
    samples = table(tmp_path / "t.jsonl", rows)
    lists = asked(samples)
    assert (lists.name, lists.targets.values.tolist()) == ("multi-label", [[1, 1], [0, 0], [0, 1]])
    joined = csv(tmp_path / "t.csv", "a,b,c,label", "1,2,3,a|b", "1,2,3,", "1,2,3,b")
    cells = asked(joined, "multi-label").targets
    assert cells.values.tolist() == lists.targets.values.tolist()
    assert asked(csv(tmp_path / "t.csv", "a,b,c,label", "1,2,3,a|b", "1,2,3,b")).name == (
        "classification"
    )


def test_lists_in_parquet_are_labels(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    data = {"x": [[1.0, 2.0, 3.0]] * 3, "label": [["a"], ["a", "b"], []]}
    pq.write_table(pa.table(data), tmp_path / "t.parquet")
    found = asked(open_data(tmp_path / "t.parquet", [X]))
    assert (found.name, found.targets.values.tolist()) == ("multi-label", [[1, 0], [1, 1], [0, 0]])


def test_a_column_of_numbers_is_predicted(tmp_path):
    samples = csv(tmp_path / "t.csv", "a,b,c,label", "1,2,3,0.5", "4,5,6,2")
    found = asked(samples)
    assert (found.name, found.targets.values.ravel().tolist()) == ("regression", [0.5, 2])


@pytest.mark.parametrize(
    ("lines", "task", "words"),
    [
        (["1,2,3,0.5", "4,5,6,nan"], "auto", ["t.csv, row 2, column 'label'"]),
        (["1,2,3,0.5", "4,5,6,"], "auto", ["row 2"]),
        (["1,2,3,a", "4,5,6,"], "auto", ["missing", "row 2, column 'label'"]),
        (["1,2,3,a", "4,5,6,b"], "regression", ["row 1", "number"]),
    ],
)
def test_an_answer_that_cannot_be_read_is_named_by_its_row(tmp_path, lines, task, words):
    samples = csv(tmp_path / "t.csv", "a,b,c,label", *lines)
    with pytest.raises(DataError) as caught:
        asked(samples, task)
    for word in words:
        assert word in str(caught.value)


def test_a_cell_of_several_columns_is_named_by_row_and_column(tmp_path):
    samples = csv(tmp_path / "t.csv", *COLUMNS, "1,2,3,1,x", label_column="sea,sun")
    with pytest.raises(DataError) as caught:
        asked(samples, "multi-label")
    assert "row 4, column 'sun'" in caught.value.where


def test_what_could_be_meant_in_two_ways_is_asked():
    with pytest.raises(UsageError) as caught:
        choose(arrays(np.eye(3, dtype=int)))
    assert caught.value.exit == 2
    for task in ("multi-label", "tokens", "regression"):
        assert f"--task {task}" in caught.value.remedy


def test_a_task_that_the_files_plan_contradicts_is_refused():
    class Planned(Unplanned):
        class plan:  # noqa: N801 - stands for the plan of a file
            task = "classification"

    reading = Options.of({"task": "regression"}).reading
    with pytest.raises(UsageError) as caught:
        ask(arrays([0, 1]), Planned, reading, planned=True, plugins=None)
    assert "'classification'" in caught.value.message
    assert ask(arrays([0, 1]), Planned, reading, planned=False, plugins=None).name == "regression"


def test_answers_of_two_sources_are_one_behind_the_other(tmp_path):
    one, other = arrays(np.array([0, 1])), csv(tmp_path / "t.csv", "a,b,c,label", "1,2,3,1")
    joined = JoinedSamples(one, other)
    assert asked(joined).targets.values.tolist() == [0, 1, 1]
    with pytest.raises(DataError) as caught:
        ask_for("regression", JoinedSamples(one, arrays(["x"])), None)
    assert "labels[0]" in caught.value.where
    two = csv(tmp_path / "u.csv", *COLUMNS, label_column="sea,sun")
    with pytest.raises(DataError, match="label columns"):
        JoinedSamples(one, two)


@pytest.mark.parametrize("task", ["classification", "multi-label", "regression", "embedding"])
@pytest.mark.parametrize(
    "labels",
    [
        np.zeros((4, 2, 2, 2), int),
        np.array(["2020-01-01"] * 4, "M8[D]"),
        [[1, 2], [3], [], [4]],
        [{"a": 1}] * 4,
        [None] * 4,
        [[1, "a"]] * 4,
        np.full((4, 2), np.inf),
    ],
)
def test_no_form_of_answers_ends_in_anything_but_a_word(task, labels):
    try:
        found = ask_for(task, arrays(labels), None)
        found.task.check(found.targets)
    except (DataError, UsageError) as error:
        assert error.message  # noqa: PT017 - reading some of these is right, too
