"""Files in folders: one sub-folder per class. What must not enter: reading them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from surgeon.data import images, series, sounds, texts
from surgeon.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# Sub-folders with exactly these names are splits, not classes.
_SPLITS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class Medium:
    """A kind of files that are samples: what they are called, and their endings."""

    name: str
    suffixes: frozenset[str]
    examples: str


PICTURES = Medium("pictures", images.SUFFIXES, ".jpg, .png, ...")
TEXTS = Medium("texts", texts.SUFFIXES, ".txt")
SOUNDS = Medium("sounds", sounds.SUFFIXES, ".wav")
SERIES = Medium("series", series.SUFFIXES, ".npy, .csv")
MEDIA = (PICTURES, TEXTS, SOUNDS, SERIES)


@dataclass
class Listing:
    """Files found: path, label and split of each, and how many others were passed over."""

    paths: list[Path] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    split: list[str] | None = None
    ignored: int = 0


def list_classes(root: Path, medium: Medium = PICTURES) -> Listing:
    """List the files of a folder with one sub-folder per class, in a stable order.

    Sub-folders of a class are searched too. Hidden files and files of another medium (by their
    ending) are passed over and counted. Where the sub-folders are `train` beside `validation`
    (`val`, `valid`) or `test`, and hold folders only, they are splits.

    Raises:
        DataError: no sub-folder, or no such file in any of them.
    """
    folders, stray = _visible(root)
    if not folders:
        remedy = f"make one sub-folder per class and put its {medium.name} there"
        raise DataError("the folder has no sub-folder", where=str(root), remedy=remedy)
    listing = Listing(ignored=stray)
    if _are_splits(folders, medium):
        listing.split = []
        for folder in folders:
            inner, stray = _visible(folder)
            listing.ignored += stray
            before = len(listing.paths)
            _collect(inner, listing, medium)
            listing.split += [_SPLITS[folder.name]] * (len(listing.paths) - before)
    else:
        _collect(folders, listing, medium)
    if not listing.paths:
        raise DataError(
            f"the folder holds no {medium.name} ({listing.ignored} other files)",
            where=str(root),
            remedy=f"put {medium.name} ({medium.examples}) into one sub-folder per class",
        )
    return listing


def list_files(root: Path, medium: Medium = PICTURES) -> Listing:
    """List every file of a medium below a folder, in a stable order, without labels.

    Raises:
        DataError: there is none.
    """
    listing = Listing()
    listing.paths, listing.ignored = _walk(root, medium, set())
    if not listing.paths:
        message = f"the folder holds no {medium.name} ({listing.ignored} other files)"
        remedy = f"give a folder with {medium.name} ({medium.examples})"
        raise DataError(message, where=str(root), remedy=remedy)
    return listing


def holds(root: Path, medium: Medium) -> bool:
    """Say whether there is a file of this medium anywhere below a folder."""
    return bool(_walk(root, medium, set())[0])


def _collect(folders: Iterable[Path], listing: Listing, medium: Medium) -> None:
    for folder in folders:
        paths, ignored = _walk(folder, medium, set())
        listing.paths += paths
        listing.labels += [folder.name] * len(paths)
        listing.ignored += ignored


def _are_splits(folders: list[Path], medium: Medium) -> bool:
    names = [folder.name for folder in folders]
    if "train" not in names or len(names) < 2 or any(name not in _SPLITS for name in names):
        return False
    return all(_visible(folder)[0] and not _has_files(folder, medium) for folder in folders)


def _has_files(folder: Path, medium: Medium) -> bool:
    files = (path for path in folder.iterdir() if path.is_file())
    return any(path.suffix.lower() in medium.suffixes for path in files)


def _visible(folder: Path) -> tuple[list[Path], int]:
    """Return the sub-folders that are not hidden, by name, and the number of files beside them."""
    entries = _entries(folder)
    folders = [path for path in entries if path.is_dir() and not path.name.startswith(".")]
    return folders, sum(not path.is_dir() for path in entries)


def _walk(folder: Path, medium: Medium, seen: set[Path]) -> tuple[list[Path], int]:
    """Return the files below a folder and the number of others; links are followed once."""
    real = folder.resolve()
    if real in seen:
        return [], 0
    seen.add(real)
    files: list[Path] = []
    ignored = 0
    for path in _entries(folder):
        hidden = path.name.startswith(".")
        if path.is_dir():
            if not hidden:
                below, others = _walk(path, medium, seen)
                files += below
                ignored += others
        elif not hidden and path.suffix.lower() in medium.suffixes:
            files.append(path)
        else:
            ignored += 1
    return files, ignored


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        message = f"the folder cannot be read: {error.strerror}"
        raise DataError(message, where=str(folder), remedy="check its permissions") from None
