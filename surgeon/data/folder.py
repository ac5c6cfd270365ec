"""Pictures in folders: one sub-folder per class. What must not enter: decoding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from surgeon.data.images import SUFFIXES
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


@dataclass
class Listing:
    """Pictures found: path, label and split of each, and how many files were passed over."""

    paths: list[Path] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    split: list[str] | None = None
    ignored: int = 0


def list_classes(root: Path) -> Listing:
    """List the pictures of a folder with one sub-folder per class, in a stable order.

    Sub-folders of a class are searched too. Hidden files and files that are no pictures (by their
    ending) are passed over and counted. Where the sub-folders are `train` beside `validation`
    (`val`, `valid`) or `test`, and hold folders only, they are splits.

    Raises:
        DataError: no sub-folder, or no picture in any of them.
    """
    folders, stray = _visible(root)
    if not folders:
        remedy = "make one sub-folder per class and put its pictures there"
        raise DataError("the folder has no sub-folder", where=str(root), remedy=remedy)
    listing = Listing(ignored=stray)
    if _are_splits(folders):
        listing.split = []
        for folder in folders:
            inner, stray = _visible(folder)
            listing.ignored += stray
            before = len(listing.paths)
            _collect(inner, listing)
            listing.split += [_SPLITS[folder.name]] * (len(listing.paths) - before)
    else:
        _collect(folders, listing)
    if not listing.paths:
        raise DataError(
            f"the folder holds no pictures ({listing.ignored} other files)",
            where=str(root),
            remedy="put pictures (.jpg, .png, ...) into one sub-folder per class",
        )
    return listing


def list_pictures(root: Path) -> Listing:
    """List every picture below a folder, in a stable order, without labels.

    Raises:
        DataError: there is none.
    """
    listing = Listing()
    listing.paths, listing.ignored = _walk(root, set())
    if not listing.paths:
        message = f"the folder holds no pictures ({listing.ignored} other files)"
        raise DataError(message, where=str(root), remedy="give a folder with pictures")
    return listing


def _collect(folders: Iterable[Path], listing: Listing) -> None:
    for folder in folders:
        paths, ignored = _walk(folder, set())
        listing.paths += paths
        listing.labels += [folder.name] * len(paths)
        listing.ignored += ignored


def _are_splits(folders: list[Path]) -> bool:
    names = [folder.name for folder in folders]
    if "train" not in names or len(names) < 2 or any(name not in _SPLITS for name in names):
        return False
    return all(_visible(folder)[0] and not _has_pictures(folder) for folder in folders)


def _has_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in folder.iterdir() if path.is_file())


def _visible(folder: Path) -> tuple[list[Path], int]:
    """Return the sub-folders that are not hidden, by name, and the number of files beside them."""
    entries = _entries(folder)
    folders = [path for path in entries if path.is_dir() and not path.name.startswith(".")]
    return folders, sum(not path.is_dir() for path in entries)


def _walk(folder: Path, seen: set[Path]) -> tuple[list[Path], int]:
    """Return the pictures below a folder and the number of other files; links are followed once."""
    real = folder.resolve()
    if real in seen:
        return [], 0
    seen.add(real)
    pictures: list[Path] = []
    ignored = 0
    for path in _entries(folder):
        hidden = path.name.startswith(".")
        if path.is_dir():
            if not hidden:
                below, others = _walk(path, seen)
                pictures += below
                ignored += others
        elif not hidden and path.suffix.lower() in SUFFIXES:
            pictures.append(path)
        else:
            ignored += 1
    return pictures, ignored


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        message = f"the folder cannot be read: {error.strerror}"
        raise DataError(message, where=str(folder), remedy="check its permissions") from None
