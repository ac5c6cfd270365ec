from __future__ import annotations

import numpy as np
import pytest

from surgeon.data import open_data, open_inputs
from surgeon.data.read import needs_preprocess
from surgeon.errors import DataError
from surgeon.records import TensorInfo

FIRST = TensorInfo("x", "float", ("N", 2, "T"), 0)
LAST = TensorInfo("x", "float", ("N", "T", 2), 0)
TIME_FIRST = TensorInfo("x", "float", ("T", "N", 2), 1)
OPEN = TensorInfo("x", "float", ("N", "C", "T"), 0)


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:  # steps down, channels across
        lines = ["x,y", *(",".join(str(v) for v in step) for step in np.asarray(values).T)]
        path.write_text("\n".join(lines) + "\n")


def series(seed=0, length=5):
    return np.random.default_rng(seed).standard_normal((2, length)).round(3)


@pytest.fixture(params=[".npy", ".csv"])
def folder(request, tmp_path):
    for number in range(4):
        write(tmp_path / "d" / "ab"[number % 2] / f"{number}{request.param}", series(number))
    return tmp_path / "d"


def test_the_shape_decides_which_way_round_a_series_goes(folder):
    assert not needs_preprocess(folder, [FIRST])
    samples = open_data(folder, [FIRST])
    assert samples.answers == ["a", "a", "b", "b"]
    wanted = np.stack([series(0), series(2)]).astype(np.float32)
    np.testing.assert_array_equal(samples.batch([0, 1])["x"], wanted)
    turned = open_data(folder, [LAST]).batch([0, 1])["x"]
    np.testing.assert_array_equal(turned, wanted.transpose(0, 2, 1))
    recurrent = open_data(folder, [TIME_FIRST]).batch([0, 1])["x"]
    np.testing.assert_array_equal(recurrent, wanted.transpose(2, 0, 1))
    assert samples.read([]).feeds["x"].shape == (0, 2, 5)


def test_predict_takes_folders_and_arrays(folder, tmp_path):
    write(tmp_path / "one.npy", series(9))
    samples = open_inputs([folder, tmp_path / "one.npy"], [FIRST])
    assert samples.n == 5
    np.testing.assert_array_equal(samples.batch([4])["x"][0], series(9).astype(np.float32))
    alone = open_inputs([tmp_path / "one.npy"], [FIRST])
    np.testing.assert_array_equal(alone.batch([0])["x"], samples.batch([4])["x"])


def test_one_channel_may_be_flat(tmp_path):
    single = TensorInfo("x", "float", ("N", 1, "T"), 0)
    np.save(tmp_path / "x.npy", np.arange(5))
    assert open_inputs([tmp_path / "x.npy"], [single]).batch([0])["x"].tolist() == [
        [[0, 1, 2, 3, 4]]
    ]


def test_unequal_lengths_name_the_file(folder):
    suffix = next(folder.rglob("0.*")).suffix
    write(folder / "b" / f"3{suffix}", series(3, length=6))
    with pytest.raises(DataError, match="not of one length") as caught:
        open_data(folder, [FIRST]).batch(range(4))
    assert caught.value.where == str(folder / "b" / f"3{suffix}")


def test_a_csv_needs_to_know_which_axis_is_time(tmp_path):
    write(tmp_path / "d" / "a" / "0.csv", series())
    with pytest.raises(DataError, match="which axis of the graph is time"):
        open_data(tmp_path / "d", [OPEN]).batch([0])
    write(tmp_path / "e" / "a" / "0.npy", series())
    assert open_data(tmp_path / "e", [OPEN]).batch([0])["x"].shape == (1, 2, 5)
    square = tmp_path / "f" / "a" / "0.csv"
    write(square, series(length=2))
    wanted = series(length=2).astype(np.float32)
    np.testing.assert_array_equal(open_data(tmp_path / "f", [FIRST]).batch([0])["x"][0], wanted)
    np.testing.assert_array_equal(open_data(tmp_path / "f", [LAST]).batch([0])["x"][0], wanted.T)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.npy", b"no", "not a readable .npy"),
        ("x.csv", b"a,b\n", "no numbers"),
        ("x.csv", b"1,2\n3\n", "not a table"),
        ("x.csv", b"1,2\n3,nan\n", "NaN"),
        ("x.csv", b"1,2,3\n4,5,6\n7,8,9\n", "the graph takes"),
        ("x.csv", b"\xff\xfe", "not UTF-8"),
    ],
)
def test_broken_series_are_failures(name, content, words, tmp_path):
    for number in range(30):
        write(tmp_path / "d" / "a" / f"{number}.npy", series(number))
    (tmp_path / "d" / "a" / name).write_bytes(content)
    samples = open_data(tmp_path / "d", [FIRST])
    assert len(samples.read(range(31)).indices) == 30
    assert words in samples.skipped[0][1]


def test_none_that_can_be_read(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.npy").write_bytes(b"no")
    with pytest.raises(DataError, match="none of 1 series"):
        open_data(tmp_path, [FIRST]).read([])
