from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from surgeon.data import JoinedSamples, data_kind, open_data
from surgeon.data.read import needs_preprocess
from surgeon.errors import DataError, UsageError
from surgeon.records import TensorInfo
from surgeon.targets import ask_for
from surgeon.tasks.labels import plain_texts, sort_labels

FEATURES = TensorInfo("x", "float", ("N", 3), 0)


def test_folder_labels_order_and_ignored(pictures, image_input, raw):
    (pictures / ".hidden.png").write_bytes(b"x")
    (pictures / "2" / ".DS_Store").write_bytes(b"x")
    (pictures / "2" / "notes.txt").write_text("x")
    (pictures / ".git").mkdir()
    (pictures / ".git" / "a.png").write_bytes(b"x")
    samples = open_data(pictures, [image_input], preprocess=raw)
    assert sort_labels(plain_texts(samples.answers)) == ["2", "10"]
    assert plain_texts(samples.answers) == ["10"] * 6 + ["2"] * 6
    assert samples.ignored == 3
    assert (samples.n, samples.split, samples.is_images) == (12, None, True)
    assert samples.names[0] == str(pictures / "10" / "0.png")


def test_labels_that_are_not_all_integers_go_by_code_point(tmp_path, image_input, raw, draw):
    for label in ("b", "10", "2", "É", "B"):
        draw(tmp_path / "d" / label / "0.png")
    samples = open_data(tmp_path / "d", [image_input], preprocess=raw)
    assert sort_labels(plain_texts(samples.answers)) == ["10", "2", "B", "b", "É"]


def test_nested_pictures_belong_to_their_class_and_links_do_not_loop(
    pictures, image_input, raw, draw
):
    draw(pictures / "2" / "deep" / "er" / "9.PNG")
    (pictures / "2" / "deep" / "loop").symlink_to(pictures / "2")
    assert open_data(pictures, [image_input], preprocess=raw).answers.count("2") == 7


def test_train_and_val_folders_are_splits(tmp_path, image_input, raw, draw):
    for part in ("train", "val"):
        for label in "ab":
            draw(tmp_path / "d" / part / label / "0.png")
    samples = open_data(tmp_path / "d", [image_input], preprocess=raw)
    assert sort_labels(plain_texts(samples.answers)) == ["a", "b"]
    assert samples.split.tolist() == ["train", "train", "validation", "validation"]


def test_folders_without_pictures(tmp_path, image_input, raw):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.txt").write_text("x")
    with pytest.raises(DataError, match="no sub-folder"):
        open_data(tmp_path / "flat", [image_input], preprocess=raw)
    (tmp_path / "flat" / "class").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        open_data(tmp_path / "flat", [image_input], preprocess=raw)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".tsv", ".json"])
def test_tables_of_paths(suffix, pictures, image_input, raw):
    rows = [
        {"file": f"{label}/{n}.png", "kind": int(label)} for label in ("10", "2") for n in "012"
    ]
    path = write_table(pictures / f"table{suffix}", rows)
    assert data_kind(path) == "table"
    assert needs_preprocess(path, [image_input])
    samples = open_data(path, [image_input], preprocess=raw, label_column="kind")
    assert sort_labels(plain_texts(samples.answers)) == ["2", "10"]
    folder = open_data(pictures, [image_input], preprocess=raw)
    np.testing.assert_array_equal(samples.batch([3])["x"], folder.batch([6])["x"])
    assert samples.names[0] == str(pictures / "10" / "0.png")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_tables_of_numbers(suffix, tmp_path):
    rows = [{"a": n, "label": "ab"[n % 2], "b": n / 2, "c": -n} for n in range(5)]
    path = write_table(tmp_path / f"t{suffix}", rows)
    assert not needs_preprocess(path, [FEATURES])
    samples = open_data(path, [FEATURES])
    assert samples.batch([4])["x"].tolist() == [[4, 2, -4]]
    assert samples.batch([4])["x"].dtype == np.float32
    assert (sort_labels(plain_texts(samples.answers)), samples.names[0]) == (["a", "b"], "row 1")


def test_a_column_of_lists_feeds_the_input(tmp_path):
    rows = [{"x": [n, n + 1, n + 2], "label": n} for n in range(4)]
    samples = open_data(write_table(tmp_path / "t.jsonl", rows), [FEATURES])
    assert samples.batch([1])["x"].tolist() == [[1, 2, 3]]


def test_a_split_column_is_the_split(tmp_path):
    rows = [
        {"a": n, "b": 1, "c": 2, "label": n % 2, "split": "train" if n < 3 else "test"}
        for n in range(4)
    ]
    samples = open_data(write_table(tmp_path / "t.csv", rows), [FEATURES])
    assert samples.split.tolist() == ["train"] * 3 + ["test"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"a": "x", "b": 1, "c": 2, "label": 0}], "'x' is not a number"),
        ([{"a": 1, "b": 2, "label": 0}], "2 value columns, the model takes 3"),
        ([{"a": 1, "b": 2, "c": 3, "label": ""}], "label is missing"),
        ([{"a": 1, "b": 2, "c": 3}], "which column holds the labels"),
        ([], "no rows"),
    ],
)
def test_bad_tables(rows, words, tmp_path):
    with pytest.raises((DataError, UsageError), match=words):
        ask_for(
            "classification", open_data(write_table(tmp_path / "t.csv", rows), [FEATURES]), None
        )


def test_a_label_column_that_is_not_there_lists_the_others(tmp_path):
    path = write_table(tmp_path / "t.csv", [{"a": 1, "b": 2}])
    with pytest.raises(UsageError) as caught:
        open_data(path, [FEATURES], label_column="nope")
    assert "a, b" in caught.value.remedy


def test_ragged_csv_and_broken_files_are_data_errors(tmp_path):
    for name, content in {
        "a.csv": b"a,label\n1,2,3\n",
        "b.parquet": b"PAR1 no",
        "c.jsonl": b'{"a": 1}\n{"a": \n',
        "d.json": b"[1, 2]",
        "e.csv": b"\xff\xfe\x00",
        "f.xyz": b"",
        "g.npz": b"PK no",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            open_data(tmp_path / name, [FEATURES])
        assert caught.value.remedy
        assert name in str(caught.value)


def test_datasets_directory_with_pictures(tmp_path, pictures, image_input, raw):
    datasets = pytest.importorskip("datasets")
    files = sorted(pictures.rglob("*.png"))
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ten", "two"])}
    )
    rows = {
        "image": [str(file) for file in files],
        "label": [int(f.parent.name == "2") for f in files],
    }
    data = datasets.Dataset.from_dict(rows, features=features)
    parts = datasets.DatasetDict({"train": data, "test": data.select(range(2))})
    parts.save_to_disk(tmp_path / "saved")
    assert data_kind(tmp_path / "saved") == "dataset"
    samples = open_data(tmp_path / "saved", [image_input], preprocess=raw)
    assert sort_labels(plain_texts(samples.answers)) == ["ten", "two"]
    assert samples.split.tolist() == ["train"] * 12 + ["test"] * 2
    folder = open_data(pictures, [image_input], preprocess=raw)
    np.testing.assert_array_equal(samples.batch(range(12))["x"], folder.batch(range(12))["x"])
    again = open_data(data, [image_input], preprocess=raw)
    assert again.content_sha256(np.arange(12)) == samples.content_sha256(np.arange(12))


def test_datasets_of_numbers(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"x": [[1.0, 2, 3], [4, 5, 6]], "label": ["a", "b"]})
    data.save_to_disk(tmp_path / "saved")
    assert open_data(tmp_path / "saved", [FEATURES]).batch([1])["x"].tolist() == [[4, 5, 6]]


def test_parquet_with_pictures_inside(tmp_path, image_input, raw, draw):
    content = draw(tmp_path / "a.png").read_bytes()
    rows = [{"image": {"bytes": content, "path": None}, "label": n % 2} for n in range(4)]
    samples = open_data(write_table(tmp_path / "t.parquet", rows), [image_input], preprocess=raw)
    assert samples.batch([0])["x"].shape == (1, 3, 8, 8)


def test_names_that_are_no_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert data_kind("owner/name") == "hub"
    assert data_kind("hub:name") == "hub"
    for text in ("data/digts", "digits", "./owner/name", "a/b/c", ""):
        if text:
            with pytest.raises(DataError, match="no such file"):
                data_kind(text)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert data_kind("owner/name") == "folder"
    with pytest.raises(DataError):
        data_kind(3)


def test_joined_samples_keep_order_names_and_split(pictures, tmp_path, image_input, raw, draw):
    for label in ("2", "10"):
        draw(tmp_path / "held" / label / "0.png", seed=99)
    train = open_data(pictures, [image_input], preprocess=raw)
    held = open_data(tmp_path / "held", [image_input], preprocess=raw)
    both = JoinedSamples(train, held)
    assert both.split.tolist() == ["train"] * 12 + ["validation"] * 2
    found = both.batch([13, 0, 12, 5])["x"]
    wanted = np.concatenate(
        [held.batch([1])["x"], train.batch([0])["x"], held.batch([0])["x"], train.batch([5])["x"]]
    )
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(both.normalize(both.images([13, 0, 12, 5])), wanted)
    assert both.content_sha256() != train.content_sha256()
    assert both.read([]).feeds["x"].shape[0] == 0


def test_folder_with_one_broken_picture_in_forty(tmp_path, image_input, raw, draw):
    for number in range(39):
        draw(tmp_path / "d" / "ab"[number % 2] / f"{number}.png", seed=number)
    (tmp_path / "d" / "a" / "broken.png").write_bytes(b"no picture")
    samples = open_data(tmp_path / "d", [image_input], preprocess=raw)
    batch = samples.read(range(samples.n))
    assert len(batch.indices) == 39
    assert samples.skipped == [(str(tmp_path / "d" / "a" / "broken.png"), batch.failures[0].reason)]


def write_table(path, rows):
    if path.suffix in {".csv", ".tsv"}:
        mark = "," if path.suffix == ".csv" else "\t"
        lines = [mark.join(rows[0] if rows else ["label"])]
        lines += [mark.join(str(value) for value in row.values()) for row in rows]
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_the_fixture_is_a_picture(pictures):
    with Image.open(pictures / "2" / "0.png") as image:
        assert image.size == (12, 10)
