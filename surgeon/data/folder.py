"""Files in folders: one sub-folder per class. What must not enter: reading them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from surgeon.data.media.registry import PICTURES, counts_in_folders, examples
from surgeon.errors import DataError
from surgeon.graph.reading import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from surgeon.records import Medium

_PARTS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
_PICTURED = re.compile(r"(img|image|picture|photo|jpegimage|frame|rgb)s?")
_MASKS = re.compile(r"(mask|label|annotation|segmentation|trimap)s?|segmentation(class)|gt")
_ANSWERS = re.compile(
    r"(mask|label|annotation|segmentation|trimap|matte|bbox|xml)s?"
    r"|segmentation(class|object)|gt|ground[ _-]?truth"
)
_ANSWER_ENDING = re.compile(r"[ ._-]*(mask|seg|segmentation|label|gt|annotation|matte)s?$")
_MACS = "__MACOSX"  # what archives made on a Mac carry beside their content
_SHOWN = 5


@dataclass
class Listing:
    """Files found: path, label or mask, split of each; the others; what the user should be told."""

    paths: list[Path] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    split: list[str] | None = None
    others: list[tuple[Path, str]] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def ignored(self) -> int:
        """Number of files that were passed over."""
        return len(self.others)


def list_classes(root: Path, medium: Medium = PICTURES) -> Listing:
    """List the files of a folder with one sub-folder per class, in a stable order.

    Sub-folders of a class are searched too. Hidden files and files of another medium (by their
    ending) are passed over and counted. Sub-folders that are called like parts of a data set
    (`train`, `Valid`, `testing`, ...) and hold sub-folders themselves are splits.

    Raises:
        DataError: no sub-folder, no such file in any of them, splits without classes, or folders
            of pictures and of their masks.
    """
    listing = Listing()
    inner = _descend(root)
    if inner != root:
        listing.remarks.append(f"the classes are the sub-folders of {shown(str(inner))!r}")
    folders, stray = _visible(inner)
    if not folders:
        remedy = f"make one sub-folder per class and put its {medium.name} there"
        raise DataError("the folder has no sub-folder", where=shown(str(root)), remedy=remedy)
    _pass_over(stray, listing, medium)
    _refuse_answers(folders)
    parts = _parts(folders, medium)
    if parts:
        _collect_parts(parts, listing, medium)
    else:
        _collect(folders, listing, medium)
        listing.remarks += _same_inside(folders)
    if not listing.paths:
        raise DataError(
            f"the folder holds no {medium.name} ({listing.ignored} other files)",
            where=shown(str(root)),
            remedy=f"put {medium.name} ({examples(medium)}) into one sub-folder per class",
        )
    return listing


def list_files(root: Path, medium: Medium = PICTURES) -> Listing:
    """List every file of a medium below a folder, in a stable order, without labels.

    Raises:
        DataError: there is none.
    """
    listing = Listing()
    listing.paths, listing.others = _walk(root, medium, set())
    if not listing.paths:
        message = f"the folder holds no {medium.name} ({listing.ignored} other files)"
        remedy = f"give a folder with {medium.name} ({examples(medium)})"
        raise DataError(message, where=shown(str(root)), remedy=remedy)
    return listing


def holds(root: Path, medium: Medium) -> bool:
    """Say whether there is a file of this medium anywhere below a folder."""
    return bool(_walk(root, medium, set())[0])


# ── masks ────────────────────────────────────────────────────────────────────────────────────────


def list_masks(root: Path) -> Listing | None:
    """List pictures and their masks: `images/` and `masks/` with equal stems, or parts of these.

    None where the folder is not of this form.

    Raises:
        DataError: pictures without a mask (the first are named), or with two.
    """
    inner = _descend(root)
    folders, stray = _visible(inner)
    beside = _beside(folders)
    listing = Listing(others=[(path, "it lies beside images and masks") for path in stray])
    if beside is not None:
        _pair(*beside, listing)
        return listing
    parts = {folder: _part_of(folder.name)[0] for folder in folders}
    found = {folder: _beside(_visible(_descend(folder))[0]) for folder in folders}
    if not folders or not all(parts.values()) or not any(found.values()):
        return None
    listing.split = []
    for folder, part in parts.items():
        both, before = found[folder], len(listing.paths)
        if both is None:
            raise DataError(
                f"{_named([folder])} holds no images and masks, as other parts do",
                where=shown(str(folder)),
                remedy="put images/ and masks/ into each part",
            )
        _pair(*both, listing)
        listing.split += [str(part)] * (len(listing.paths) - before)
    listing.remarks.append(f"the folders {_named(folders)} are splits")
    return listing


def _beside(folders: Sequence[Path]) -> tuple[Path, Path] | None:
    """Return the folder of pictures and that of masks, where there are no others."""
    pictured = [folder for folder in folders if _PICTURED.fullmatch(folder.name.casefold())]
    masks = [folder for folder in folders if _MASKS.fullmatch(folder.name.casefold())]
    if len(folders) != 2 or len(pictured) != 1 or len(masks) != 1:
        return None
    held = _walk(masks[0], PICTURES, set())[0]
    named = masks[0].name.casefold() == "masks"
    alike = set(_by_stem(masks[0], held)) & set(
        _by_stem(pictured[0], _walk(pictured[0], PICTURES, set())[0])
    )
    return (pictured[0], masks[0]) if held and (named or 2 * len(alike) >= len(held)) else None


def _pair(pictures: Path, masks: Path, listing: Listing) -> None:
    """Take pictures with the masks of their names."""
    paths, others = _walk(pictures, PICTURES, set())
    found, rest = _walk(masks, PICTURES, set())
    by_stem = _by_stem(masks, found)
    listing.others += [*others, *rest]
    twice = [group for group in by_stem.values() if len(group) > 1]
    if twice:
        raise DataError(
            f"{len(twice)} pictures have more than one mask: {_named(twice[0])}",
            where=shown(str(masks)),
            remedy="leave one mask for each picture",
        )
    own = {path: stem for stem, group in _by_stem(pictures, paths).items() for path in group}
    lone = [path for path in paths if own[path] not in by_stem]
    if lone or not paths:
        raise DataError(
            f"{len(lone)} of {len(paths)} pictures have no mask: {_named(lone)}",
            where=shown(str(masks)),
            remedy="give each picture a mask of the same name, or take these pictures out",
        )
    listing.paths += paths
    listing.masks += [by_stem[own[path]][0] for path in paths]
    spare = len(by_stem) - len({own[path] for path in paths})
    if spare:
        listing.remarks.append(f"{spare} masks in {shown(str(masks))!r} have no picture")


def _by_stem(folder: Path, paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Return files by their names below a folder, without ending or the word mask."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        stem = path.stem.casefold()
        place = path.relative_to(folder).parent / (_ANSWER_ENDING.sub("", stem) or stem)
        found.setdefault(str(place).casefold(), []).append(path)
    return found


# ── classes ──────────────────────────────────────────────────────────────────────────────────────


def _collect(folders: Iterable[Path], listing: Listing, medium: Medium) -> None:
    """Take each folder as a class; those without a file are said."""
    empty = []
    for folder in folders:
        paths, others = _walk(folder, medium, set())
        listing.paths += paths
        listing.labels += [shown(folder.name)] * len(paths)
        listing.others += others
        if not paths:
            empty.append(folder)
    if empty:
        listing.remarks.append(
            f"{_named(empty)} {_holds(empty)} no {medium.name}: no such class is learnt"
        )


def _same_inside(folders: Sequence[Path]) -> list[str]:
    """Say that all classes hold the same sub-folders, which then may be the classes."""
    inside = [{inner.name.casefold() for inner in _visible(folder)[0]} for folder in folders]
    if len(folders) < 2 or not all(inside):
        return []
    common, whole = set.intersection(*inside), set.union(*inside)
    if len(common) < 2 or 2 * len(common) < len(whole):
        return []
    told = f"every class folder ({_named(folders)}) holds the same sub-folders "
    told += (
        f"({_list(sorted(common))}): if these are the classes, give a folder that holds no other"
    )
    return [told]


def _refuse_answers(folders: Sequence[Path]) -> None:
    """Refuse pictures beside their masks or boxes, which are no classes.

    Raises:
        DataError: the files of two such folders have the same names.
    """
    pictured = [folder for folder in folders if _PICTURED.fullmatch(folder.name.casefold())]
    answers = [folder for folder in folders if _ANSWERS.fullmatch(folder.name.casefold())]
    if not pictured or not answers:
        return
    stems = _stems(pictured)
    for folder in answers:
        own = _stems([folder])
        if own and 2 * len(own & stems) >= min(len(own), len(stems)):
            raise DataError(
                f"{_named([*pictured, folder])} hold files of the same names: "
                "this looks like segmentation or detection data",
                where=shown(str(folder.parent)),
                remedy="masks are grey or palette PNG in masks/ beside images/; for classes, give "
                "one sub-folder per class",
            )


def _stems(folders: Sequence[Path]) -> set[str]:
    names = {
        path.stem.casefold()
        for folder in folders
        for path in folder.rglob("*")
        if not path.name.startswith(".") and path.suffix
    }
    return {_ANSWER_ENDING.sub("", name) or name for name in names}


# ── splits ───────────────────────────────────────────────────────────────────────────────────────


def _collect_parts(parts: Mapping[Path, str], listing: Listing, medium: Medium) -> None:
    listing.split = []
    for folder, part in parts.items():
        inner, stray = _visible(_descend(folder))
        _pass_over(stray, listing, medium)
        _refuse_answers(inner)
        before = len(listing.paths)
        _collect(inner, listing, medium)
        listing.split += [part] * (len(listing.paths) - before)
    told = [
        part if folder.name == part else f"{shown(folder.name)} ({part})"
        for folder, part in parts.items()
    ]
    listing.remarks.append(f"the folders {', '.join(told)} are splits, not classes")


def _parts(folders: Sequence[Path], medium: Medium) -> dict[Path, str]:
    """Say which part of the data each folder is; nothing where the folders are classes.

    All must be called so, one of them like the training part, and hold sub-folders. A name that
    has other words in it (`seg_train`) counts where the parts hold the same sub-folders.

    Raises:
        DataError: folders called like parts hold samples directly.
    """
    found = {folder: _part_of(folder.name) for folder in folders}
    parts = {folder: part for folder, (part, _) in found.items() if part is not None}
    if len(parts) < len(folders) or "train" not in parts.values() or len(set(parts.values())) < 2:
        return {}
    inside = {folder: _visible(_descend(folder)) for folder in folders}
    exact = all(sure for _, sure in found.values())
    if not exact:
        names = [{inner.name.casefold() for inner in inside[folder][0]} for folder in folders]
        agree = 2 * len(set.intersection(*names)) >= max(map(len, names)) > 0
        return parts if agree else {}
    flat = [
        folder
        for folder, (inner, files) in inside.items()
        if not inner and any(counts_in_folders(path, medium) for path in files)
    ]
    if flat:
        raise DataError(
            f"{_named(folders)} are called like parts of a data set, and {_named(flat)} "
            f"{_holds(flat)} {medium.name} without a class",
            where=shown(str(folders[0].parent)),
            remedy="put one sub-folder per class into each part, or leave that part out; "
            "folders that are classes need other names",
        )
    return parts


def _part_of(name: str) -> tuple[str | None, bool]:
    """Return the part that a folder's name says, and whether it says nothing else."""
    plain = name.strip().casefold()
    word = re.sub(r"[ ._-]*(set|data|split|images|imgs)?[ ._-]*$", "", plain)
    if word in _PARTS:
        return _PARTS[word], True
    said = {_PARTS[word] for word in re.findall("[a-z]+", plain) if word in _PARTS}
    return (said.pop(), False) if len(said) == 1 else (None, False)


def _descend(folder: Path) -> Path:
    """Go down while a folder holds nothing but one folder of folders: archives are packed so."""
    folders, stray = _visible(folder)
    if len(folders) != 1 or not all(map(_is_hidden, stray)):
        return folder
    below = _descend(folders[0])
    inner, files = _visible(below)
    return below if len(inner) > 1 and all(map(_is_hidden, files)) else folder


# ── walking ──────────────────────────────────────────────────────────────────────────────────────


def _pass_over(stray: Sequence[Path], listing: Listing, medium: Medium) -> None:
    """Count files beside the class folders; samples among them are said."""
    listing.others += [(path, "it lies in no class folder") for path in stray]
    samples = [
        path for path in stray if counts_in_folders(path, medium) and not path.name.startswith(".")
    ]
    if samples:
        listing.remarks.append(
            f"{len(samples)} {medium.name} lie in no class folder and are left out: "
            f"{_named(samples)}"
        )


def _visible(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the sub-folders that are not hidden, by name, and the files beside them."""
    entries = _entries(folder)
    folders = [path for path in entries if path.is_dir() and not _is_hidden(path)]
    return folders, [path for path in entries if not path.is_dir()]


def _walk(
    folder: Path, medium: Medium, seen: set[Path]
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Return the files below a folder, and the others with why; links are followed once."""
    files: list[Path] = []
    others: list[tuple[Path, str]] = []
    for path, reason in walk(folder, medium, seen):
        if reason is None:
            files.append(path)
        else:
            others.append((path, reason))
    return files, others


def walk(
    folder: Path, medium: Medium, seen: set[Path] | None = None
) -> Iterator[tuple[Path, str | None]]:
    """Yield the files below a folder as they are found, and why one is none of this medium.

    Names are sorted, those of one folder at a time; links are followed once.
    """
    seen = set() if seen is None else seen
    real = folder.resolve()
    if real in seen:
        return
    seen.add(real)
    for path in _entries(folder):
        if path.is_dir():
            if not _is_hidden(path):
                yield from walk(path, medium, seen)
        elif _is_hidden(path):
            yield path, "it is a hidden file"
        elif counts_in_folders(path, medium):
            yield path, None
        else:
            yield path, f"its ending is none of {medium.name} ({examples(medium)})"


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name == _MACS


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        message = f"the folder cannot be read: {error.strerror}"
        raise DataError(message, where=shown(str(folder)), remedy="check its permissions") from None


def _named(paths: Sequence[Path]) -> str:
    return _list([shown(path.name) for path in paths])


def _list(names: Sequence[str]) -> str:
    told = ", ".join(map(repr, names[:_SHOWN]))
    return told if len(names) <= _SHOWN else f"{told} and {len(names) - _SHOWN} more"


def _holds(paths: Sequence[Path]) -> str:
    return "holds" if len(paths) == 1 else "hold"
