from __future__ import annotations

import numpy as np
import pytest

from surgeon.data import open_data, parse_constants
from surgeon.errors import DataError, UsageError
from surgeon.records import TensorInfo
from surgeon.targets import ask_for
from surgeon.tasks.labels import plain_texts, sort_labels

X = TensorInfo("x", "float", ("N", 3), 0)
IDS = TensorInfo("ids", "int32", ("N", "t"), 0)
STATE = TensorInfo("h", "float", (2, "N", 4), 1)
FLAG = TensorInfo("flag", "bool", (), None)
LENGTH = TensorInfo("length", "int64", ("N",), 0)


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_npz_feeds_inputs_in_graph_order_along_each_batch_axis(tmp_path):
    path = save(
        tmp_path / "d.npz",
        labels=np.array([3, 20, 3, 100]),
        h=np.arange(32, dtype=np.float32).reshape(2, 4, 4),
        x=np.arange(12.0).reshape(4, 3),
        flag=np.array(True),
        length=np.array(7),
        split=np.array(["train", "train", "validation", "test"]),
    )
    samples = open_data(path, [X, STATE, FLAG, LENGTH])
    feeds = samples.batch([2, 0])
    assert list(feeds) == ["x", "h", "flag", "length"]
    assert feeds["x"].tolist() == [[6, 7, 8], [0, 1, 2]]
    assert feeds["x"].dtype == np.float32
    assert feeds["h"].shape == (2, 2, 4)
    assert feeds["h"][1, 0].tolist() == [24, 25, 26, 27]
    assert feeds["flag"].item() is True
    assert feeds["length"].tolist() == [7, 7]
    assert plain_texts(samples.answers) == ["3", "20", "3", "100"]
    assert sort_labels(plain_texts(samples.answers)) == ["3", "20", "100"]
    assert samples.split.tolist() == ["train", "train", "validation", "test"]
    assert (samples.is_images, samples.skipped, samples.names[1]) == (False, [], "row 1")


def test_dictionary_in_the_same_convention():
    samples = open_data({"x": np.zeros((2, 3), np.float32), "labels": ["b", "a"]}, [X])
    assert sort_labels(plain_texts(samples.answers)) == ["a", "b"]


def test_inputs_called_labels_and_split():
    inputs = [TensorInfo("labels", "float", ("N", 2), 0), TensorInfo("split", "float", ("N",), 0)]
    samples = open_data(
        {
            "input:labels": np.ones((3, 2), np.float32),
            "input:split": np.zeros(3, np.float32),
            "labels": np.array([0, 1, 0]),
        },
        inputs,
    )
    assert list(samples.batch([0])) == ["labels", "split"]
    with pytest.raises(DataError, match="labels"):
        open_data({"labels": np.array([0, 1])}, inputs)


def test_integer_casts_are_exact_or_refused():
    good = open_data({"ids": np.array([[1, 2]], np.uint64), "labels": [0]}, [IDS])
    assert good.batch([0])["ids"].dtype == np.int32
    with pytest.raises(DataError, match=r"index \(0, 1\), out of range for int32"):
        open_data({"ids": np.array([[1, 1 << 40]]), "labels": [0]}, [IDS])


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 3), np.float16), "element type float16, the graph takes float"),
        (np.zeros((2, 3), np.int64), "element type int64"),
        (np.zeros((2, 4), np.float32), r"shape \[2, 4\], the graph takes \[N, 3\]"),
        (np.zeros((2, 3, 1), np.float32), "shape"),
        (np.zeros((3, 3), np.float32), "x has 3, labels has 2"),
        (np.array([[1, 2, 3], [4, np.nan, 6]], np.float32), r"NaN, first at index \(1, 1\)"),
        (np.full((2, 3), 1e300), "too large for float32"),
        (np.array([[None] * 3] * 2, object), "Python objects"),
        (np.zeros((2, 3), bool), "element type bool"),
    ],
)
def test_arrays_that_do_not_fit(array, words):
    with pytest.raises(DataError, match=words) as caught:
        open_data({"x": array, "labels": [0, 1]}, [X])
    assert "x" in str(caught.value)
    assert caught.value.exit == 2


def test_all_offenders_are_named_at_once():
    with pytest.raises(DataError) as caught:
        open_data({"y": np.zeros(2), "ids": np.zeros((2, 2)), "labels": [0, 1, 2]}, [X, IDS])
    for word in ("'y'", "x (float [N, 3]) is missing", "'ids' has element type float64"):
        assert word in str(caught.value)


def test_object_arrays_in_a_file_are_never_loaded(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x=np.array([{"a": 1}], object), labels=np.array([0]))
    with pytest.raises(DataError, match="'x' holds Python objects"):
        open_data(path, [X])


def test_a_truncated_npz_is_one_error(tmp_path):
    path = save(
        tmp_path / "d.npz", x=np.random.default_rng(0).random((500, 3)), labels=np.zeros(500)
    )
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="readable"):
        open_data(path, [X])
    np.save(tmp_path / "d.npy", np.zeros(3))
    with pytest.raises(DataError, match="single array"):
        open_data(tmp_path / "d.npy", [X])


def test_labels_and_split_are_checked():
    x = np.zeros((2, 3), np.float32)
    for extra, words in (
        ({}, "no labels"),
        ({"labels": [[0], [1]]}, "have shape"),
        ({"labels": [0.0, np.nan]}, "missing"),
        ({"labels": ["a", ""]}, "label is missing"),
        ({"labels": [0, 1], "split": ["train", "val"]}, r"split\[1\] is 'val'"),
        ({"labels": [0, 1], "split": ["train"]}, "numbers of samples differ"),
    ):
        with pytest.raises(DataError, match=words):
            ask_for("classification", open_data({"x": x, **extra}, [X]), None)
    assert open_data({"x": x}, [X], labelled=False).answers is None
    for labels, texts in (([1.0, 0.0], ["1", "0"]), ([b"u", b"v"], ["u", "v"])):
        samples = open_data({"x": x, "labels": np.array(labels)}, [X])
        assert plain_texts(samples.answers) == texts


def test_no_samples():
    with pytest.raises(DataError, match="no samples"):
        open_data({"x": np.zeros((0, 3), np.float32), "labels": np.zeros(0, int)}, [X])


def test_big_endian_and_text():
    samples = open_data(
        {"x": np.ones((2, 3), ">f4"), "s": np.array(["a", "b"]), "labels": [0, 1]},
        [X, TensorInfo("s", "string", ("N",), 0)],
    )
    assert samples.batch([0])["x"].dtype == np.dtype("float32")
    assert samples.batch([1])["s"].tolist() == ["b"]
    assert len(samples.sha256) == 64


def test_hash_follows_values_labels_and_split():
    base = {"x": np.zeros((2, 3), np.float32), "labels": [0, 1]}
    one = open_data(base, [X])
    assert one.sha256 == open_data(dict(base), [X]).sha256
    assert one.sha256 != open_data({**base, "labels": [1, 0]}, [X]).sha256
    assert one.sha256 != open_data({**base, "split": ["train", "test"]}, [X]).sha256
    changed = open_data({**base, "x": np.ones((2, 3), np.float32)}, [X])
    assert changed.content_sha256() != one.content_sha256()


def test_constants_from_the_option():
    inputs = [X, FLAG, LENGTH, TensorInfo("roi", "float", (4,), None)]
    found = parse_constants(["flag=false", "length=5", "roi=[0, 0, 1, 1]"], inputs)
    assert found["flag"].dtype == bool
    assert (found["length"].shape, found["length"].dtype) == ((), np.int64)
    assert found["roi"].dtype == np.float32
    samples = open_data(
        {"x": np.zeros((2, 3), np.float32), "labels": [0, 1]}, inputs, constants=found
    )
    assert samples.batch([0, 1])["length"].tolist() == [5, 5]
    assert parse_constants(["roi=2"], inputs)["roi"].tolist() == [2, 2, 2, 2]
    assert parse_constants({"roi": [1, 2, 3, 4]}, inputs)["roi"].tolist() == [1, 2, 3, 4]
    odd = [TensorInfo("a=b", "float", (), None), TensorInfo("s", "string", (), None)]
    assert parse_constants(["a=b=2"], odd)["a=b"] == 2
    assert parse_constants(["s=x=y"], odd)["s"].item() == "x=y"


@pytest.mark.parametrize(
    "option",
    ["flag", "=1", "none=1", "flag=maybe", "length=1.5", "roi=[1,2]", "length=1e30", "roi=[1,[2]]"],
)
def test_bad_constants(option):
    with pytest.raises(UsageError):
        parse_constants([option], [X, FLAG, LENGTH, TensorInfo("roi", "float", (4,), None)])
