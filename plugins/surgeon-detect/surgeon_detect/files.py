"""Boxes as they lie beside pictures: YOLO's folders and COCO's JSON, read into one form.

A box is (class, left, top, right, bottom) in shares of its picture, 0 to 1. Everything that is
wrong is told at once, with file and line. What must not enter: pictures' contents, torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from surgeon.errors import DataError
from surgeon.records import Files
from surgeon_detect.boxes import placed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from surgeon.records import Preprocess

    Box = tuple[int, float, float, float, float]

PICTURES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".pgm", ".ppm"}
)
PARTS = {"train": "train", "val": "validation", "test": "test"}
WORDS = {"train": "train", "training": "train", "val": "validation", "valid": "validation",
         "validation": "validation", "test": "test", "testing": "test"}  # fmt: skip
SLACK = 0.005
"""Share of the picture by which a box may stand out: numbers are rounded."""
TOLD = 5
"""Offenders that are named."""


class Boxes(Sequence[Any]):
    """The boxes of n pictures, brought to the geometry of what a network is given when asked for.

    Attributes:
        names: of the classes.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[Box]],
        names: Sequence[str],
        sources: Sequence[Any] = (),
        preprocess: Preprocess | None = None,
    ) -> None:
        """Take boxes in shares of their pictures; `sources` and `preprocess` say the geometry."""
        self._rows, self.names = rows, tuple(names)
        self._sources, self._preprocess = sources, preprocess

    def fitted(self, pictures: Sequence[Any], preprocess: Preprocess) -> Boxes:
        """Return the same for pictures that are preprocessed."""
        return Boxes(self._rows, self.names, pictures, preprocess)

    @property
    def texts(self) -> list[str]:
        """What says each picture's boxes, for a hash."""
        return [repr((self.names, list(row))) for row in self._rows]

    def __len__(self) -> int:
        """Return n."""
        return len(self._rows)

    def __getitem__(self, at: Any) -> Any:
        """Return [1 + m, 5] of one picture, see `surgeon_detect.task`; or the boxes of a slice."""
        if isinstance(at, slice):
            return Boxes(self._rows[at], self.names, self._sources[at], self._preprocess)
        if self._preprocess is None:
            raise TypeError("boxes have no geometry before they are fitted to pictures")
        size = self._preprocess.size
        found = np.array([(-1, 0, 0, size[1], size[0]), *self._rows[at]], np.float64)
        if self._preprocess.fit == "stretch":
            found[1:, 1:] *= [size[1], size[0]] * 2
            return found
        sides = size_of(self._sources[at])
        scale, offset = placed(sides, self._preprocess)
        found[1:, 1:] = found[1:, 1:] * ([sides[1], sides[0]] * 2) * scale + offset
        inner = np.clip(found[1:, 1:], 0, [size[1], size[0]] * 2)
        kept = np.minimum(inner[:, 2] - inner[:, 0], inner[:, 3] - inner[:, 1]) > 0
        return np.concatenate([found[:1], np.column_stack([found[1:, 0], inner])[kept]])

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield the boxes of every picture."""
        return (self[place] for place in range(len(self)))

    def __add__(self, other: Boxes) -> Boxes:
        """Return both, one behind the other; classes meet by name."""
        names = [*self.names, *(name for name in other.names if name not in self.names)]
        code = [names.index(name) for name in other.names]
        rows = [[(code[kind], *box) for kind, *box in row] for row in other._rows]
        return Boxes([*self._rows, *rows], names)  # type: ignore[list-item]  # four numbers


def size_of(source: Any) -> tuple[int, int]:
    """Return (height, width) of a picture as it is shown.

    Raises:
        DataError: it cannot be read.
    """
    from io import BytesIO

    from PIL import Image

    found = source() if callable(source) else source
    try:
        with Image.open(BytesIO(found) if isinstance(found, bytes) else found) as file:
            turned = file.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return file.size if turned else (file.height, file.width)
    except OSError as error:
        raise DataError(str(error), where=str(found)[:200], remedy="repair it") from None


@dataclass
class _Listing:
    """What was found so far, and what is wrong with it."""

    paths: list[Path] = field(default_factory=list)
    rows: list[list[Box]] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, path: Path, boxes: list[Box], part: str, held: Path | str) -> None:
        self.paths.append(path)
        self.rows.append(boxes)
        self.split.append(part)
        self.held.append(str(held))

    def files(self, names: Sequence[str], where: Path) -> Files:
        """Return the listing as the core takes it.

        Raises:
            DataError: nothing was found, or something is wrong: all of it.
        """
        if self.wrong:
            more = len(self.wrong) - TOLD
            raise DataError(
                f"{len(self.wrong)} boxes cannot be used: {'; '.join(self.wrong[:TOLD])}"
                + (f"; and {more} more" if more > 0 else ""),
                where=str(where),
                remedy="correct or remove these lines",
            )
        if not self.paths:
            raise DataError(
                "there are no pictures", where=str(where), remedy="put pictures into images/"
            )
        bare = sum(not row for row in self.rows)
        notes = (f"{bare} of {len(self.rows)} pictures have no boxes",) if bare else ()
        split = self.split if len(set(self.split)) > 1 else None
        return Files(
            tuple(self.paths), Boxes(self.rows, names), split=split, task="detection",
            remarks=notes, answers_at=tuple(self.held),
        )  # fmt: skip

    def box(self, kind: int, corners: Sequence[float], where: str) -> Box | None:
        """Return a box whose corners lie in the picture; None of one that is noted as wrong."""
        left, top, right, bottom = corners
        if not all(np.isfinite(corners)):
            self.wrong.append(f"{where}: a number that is not finite")
        elif right <= left or bottom <= top:
            self.wrong.append(f"{where}: a box without area")
        elif min(left, top) < -SLACK or max(right, bottom) > 1 + SLACK:
            told = ", ".join(f"{one:.3f}" for one in corners)
            self.wrong.append(f"{where}: a box outside the picture ({told} of its sides)")
        else:
            inner = np.clip(corners, 0, 1)
            if (inner[2:] > inner[:2]).all():
                return (kind, *inner.tolist())
            self.wrong.append(f"{where}: a box outside the picture")
        return None


def listed(path: Path) -> Files | None:
    """Return the pictures and boxes that lie somewhere; None where it is no form of boxes.

    Args:
        path: a folder, a data.yaml, or COCO's JSON.

    Raises:
        DataError: it is one, and something of it is wrong.
    """
    if path.is_file():
        if path.suffix.lower() in (".yaml", ".yml"):
            return _of_yaml(path)
        return _of_coco([path], path) if path.suffix.lower() == ".json" and _is_coco(path) else None
    if not path.is_dir():
        return None
    told = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
    told = [one for one in told if {"names", "train"} <= set(_keys(one))] or [
        one for one in told if one.stem == "data"
    ]
    if told:
        return _of_yaml(told[0])
    found = [*sorted(path.glob("*.json")), *sorted(path.glob("annotations/*.json")),
             *sorted(path.glob("*/_annotations*.json"))]  # fmt: skip
    coco = [one for one in found if _is_coco(one)]
    if coco:
        return _of_coco(coco, path)
    labels = path / "labels"
    if (path / "images").is_dir() and labels.is_dir() and any(labels.rglob("*.txt")):
        return _of_folders(path)
    return None


# ── YOLO ─────────────────────────────────────────────────────────────────────────────────────────


def _of_yaml(path: Path) -> Files:
    """Read what a data.yaml describes: `train`, `val`, `test`, `names`."""
    said = _yaml(path)
    names = said.get("names")
    if isinstance(names, dict):
        if sorted(names) != [str(n) for n in sorted(range(len(names)), key=str)]:
            _refuse(path, "names are not numbered from 0 on", "number every class once")
        names = [names[str(n)] for n in range(len(names))]
    if not isinstance(names, list) or not names:
        _refuse(path, "there are no names of classes", "names: [first, second]")
    if len(set(names)) < len(names):
        _refuse(path, "a name stands twice", "give each class a name of its own")
    roots = [path.parent / str(said.get("path") or "."), path.parent]
    listing, places = _Listing(), {}
    for key, part in PARTS.items():
        given = said.get(key)
        for one in given if isinstance(given, list) else [given] if given else []:
            found = _find(str(one), roots)
            if found is None:
                _refuse(path, f"{key}: {one!r} is no folder and no list", "name what is there")
            if found not in places:  # the same pictures to learn from and to judge by say no parts
                places[found] = part
    if not places:
        _refuse(path, "it names no pictures", "train: images")
    for found, part in places.items():
        for picture in _pictures(found, roots):
            _add(listing, picture, part, len(names))
    return listing.files(names, path)


def _of_folders(root: Path) -> Files:
    """Read `images/` and `labels/` of which nothing says the names: numbers, or classes.txt."""
    told, listing = root / "classes.txt", _Listing()
    names = _lines(told) if told.is_file() else None
    inside = {one.name: one for one in (root / "images").iterdir() if one.is_dir()}
    parts = {name: WORDS[name.lower()] for name in inside if name.lower() in WORDS}
    for picture in _pictures(root / "images", []):
        first = picture.relative_to(root / "images").parts[0]
        _add(listing, picture, parts.get(first, "train"), None if names is None else len(names))
    if names is None:
        most = max((box[0] for row in listing.rows for box in row), default=0)
        names = [str(code) for code in range(most + 1)]
    return listing.files(names, root)


def _find(text: str, roots: Sequence[Path]) -> Path | None:
    tried = [root / one for root in roots for one in (text, re.sub(r"^(\.\./)+", "", text))]
    return next((one.resolve() for one in tried if one.exists()), None)


def _pictures(place: Path, roots: Sequence[Path]) -> list[Path]:
    """Return the pictures below a folder, or those that a text lists."""
    if place.is_dir():
        found = (one for one in place.rglob("*") if one.suffix.lower() in PICTURES)
        return sorted(one for one in found if not one.name.startswith("."))
    named = [(text, _find(text, [place.parent, *roots])) for text in _lines(place) if text.strip()]
    missing = [text for text, found in named if found is None]
    if missing:
        _refuse(place, f"{len(missing)} pictures are not there: {missing[0]}", "correct the list")
    return [found for _, found in named if found is not None]


def _add(listing: _Listing, picture: Path, part: str, classes: int | None) -> None:
    """Take a picture and the text of its name in labels/; none says that it has no boxes."""
    parts = list(picture.parts)
    places = [n for n, one in enumerate(parts[:-1]) if one == "images"]
    if places:
        parts[places[-1]] = "labels"
    told = Path(*parts).with_suffix(".txt")
    lines = _lines(told) if told.is_file() else []
    found = (
        _line(listing, text, classes, f"{told}, line {number}")
        for number, text in enumerate(lines, 1)
        if text.strip()
    )
    listing.add(picture, [one for one in found if one is not None], part, told)


def _line(listing: _Listing, text: str, classes: int | None, where: str) -> Box | None:
    """Read `class x y width height`, or `class` and the corners of an outline."""
    try:
        kind, *numbers = (float(one) for one in text.split())
    except ValueError:
        kind, numbers = -1.0, []
    if len(numbers) < 4 or (len(numbers) > 4 and len(numbers) % 2):
        listing.wrong.append(f"{where}: {text.strip()[:40]!r} is not `class x y width height`")
        return None
    if kind < 0 or not kind.is_integer() or (classes is not None and kind >= classes):
        of = "0 on" if classes is None else f"0 to {classes - 1}, as data.yaml names them"
        listing.wrong.append(f"{where}: class {kind:g}; classes are {of}")
        return None
    if len(numbers) > 4:
        corners = [min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])]
    else:
        x, y, width, height = numbers
        corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return listing.box(int(kind), corners, where)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        _refuse(path, "it is no text", "save it as UTF-8")
    except OSError as error:
        _refuse(path, f"it cannot be read: {error.strerror}", "check its permissions")


def _keys(path: Path) -> list[str]:
    found = (re.match(r"(\w+)\s*:", line) for line in _lines(path))
    return [one.group(1) for one in found if one]


def _yaml(path: Path) -> dict[str, Any]:
    """Read the plain form of YAML that data.yaml has: words, lists, one level of keys below one.

    Raises:
        DataError: a line of another form.
    """
    said: dict[str, Any] = {}
    key = ""
    for number, line in enumerate(_lines(path), 1):
        text = re.sub(r"(^|\s)#.*$", "", line).rstrip()
        if not text.strip() or text.strip() == "---":
            continue
        inner = re.match(r"\s+([^:]+?)\s*:\s*(.*)$", text)
        item = re.match(r"\s*-\s+(.*)$", text)
        top = re.match(r"([^\s:#-][^:]*?)\s*:\s*(.*)$", text)
        if item and key and isinstance(said[key] or [], list):
            said[key] = [*(said[key] or []), _word(item.group(1))]
        elif top:
            key, value = top.groups()
            said[key] = _value(value)
        elif inner and key and isinstance(said[key] or {}, dict):
            said[key] = {**(said[key] or {}), str(_word(inner.group(1))): _word(inner.group(2))}
        elif key and key not in ("names", *PARTS, "path"):
            continue  # `download: |` and the like, which nothing here reads
        else:
            _refuse(f"{path}, line {number}", f"{text.strip()[:40]!r} is not understood",
                    "write lists as `- one` or [one, two], names as `0: one`")  # fmt: skip
    return said


def _value(text: str) -> Any:
    if text.startswith("[") and text.endswith("]"):
        return [_word(one) for one in text[1:-1].split(",") if one.strip()]
    if text.startswith("{") and text.endswith("}"):
        pairs = (one.split(":", 1) for one in text[1:-1].split(",") if ":" in one)
        return {_word(one): _word(other) for one, other in pairs}
    return _word(text) or None


def _word(text: str) -> str:
    return text.strip().strip("'\"")


# ── COCO ─────────────────────────────────────────────────────────────────────────────────────────


def _is_coco(path: Path) -> bool:
    """Say whether a JSON looks like COCO's, by its first and last bytes."""
    try:
        with path.open("rb") as file:
            text = file.read(65536)
            file.seek(max(path.stat().st_size - 65536, 0))
            text += file.read()
    except OSError:
        return False
    return text.lstrip()[:1] == b"{" and sum(
        one in text for one in (b'"images"', b'"annotations"', b'"categories"', b'"bbox"')
    ) >= 2  # fmt: skip


def _of_coco(paths: Sequence[Path], where: Path) -> Files:
    """Read COCO's JSON; of several, each is the part of the data that its name says."""
    documents = {path: _json(path) for path in paths}
    documents = {one: said for one, said in documents.items() if said["annotations"]} or documents
    kinds: dict[int, str] = {}
    for path, said in documents.items():
        for one in said["categories"]:
            if kinds.setdefault(one["id"], str(one["name"])) != str(one["name"]):
                _refuse(path, f"category {one['id']} has two names", "use one list of categories")
    used = {one["category_id"] for said in documents.values() for one in said["annotations"]}
    order = [code for code in sorted(kinds) if code in used]
    names = [kinds[code] for code in order]
    if len(set(names)) < len(names):
        _refuse(where, "two categories have the same name", "give each a name of its own")
    listing = _Listing()
    for path, said in documents.items():
        words = re.findall("[a-z]+", f"{path.parent.name} {path.stem}".lower())
        part = next((WORDS[word] for word in words if word in WORDS), "train")
        _take(listing, said, path, part, {code: place for place, code in enumerate(order)})
    return listing.files(names, where)


def _take(
    listing: _Listing, said: Mapping[str, Any], path: Path, part: str, code: Mapping[int, int]
) -> None:
    """Take the pictures of one file, and the boxes of each."""
    by_picture: dict[Any, list[tuple[int, Mapping[str, Any]]]] = {}
    for number, one in enumerate(said["annotations"]):
        by_picture.setdefault(one["image_id"], []).append((number, one))
    find = _finder(path)
    lost = []
    for one in said["images"]:
        picture = find(str(one["file_name"]))
        if picture is None:
            lost.append(str(one["file_name"]))
            continue
        sides = (one.get("height"), one.get("width"))
        height, width = sides if all(sides) else size_of(picture)
        boxes = []
        for number, told in by_picture.get(one["id"], ()):
            if told.get("iscrowd"):
                continue
            at = f"{path}, annotation {told.get('id', number)}"
            bbox = told.get("bbox")
            if not isinstance(bbox, list) or len(bbox) != 4 or told["category_id"] not in code:
                listing.wrong.append(f"{at}: no bbox of four numbers, or an unknown category")
                continue
            x, y, across, down = map(float, bbox)
            corners = [x / width, y / height, (x + across) / width, (y + down) / height]
            found = listing.box(code[told["category_id"]], corners, at)
            boxes += [] if found is None else [found]
        listing.add(picture, boxes, part, path)
    if lost:
        _refuse(path, f"{len(lost)} pictures are not there: {lost[0]}",
                "put them into images/ beside it")  # fmt: skip


def _finder(path: Path) -> Callable[[str], Path | None]:
    """Return what finds a picture by its name: beside the JSON, or in a folder of pictures near."""
    near = [path.parent, path.parent.parent]
    inner = [one for root in near for one in sorted(root.iterdir()) if one.is_dir()]
    part = [one for one in inner if one.name in path.stem]
    places = [path.parent, *(root / "images" for root in near), *part, *near, *inner]

    def find(name: str) -> Path | None:
        return next((one / name for one in places if (one / name).is_file()), None)

    return find


def _json(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        found = {key: said.get(key, []) for key in ("images", "annotations", "categories")}
        for one in found["images"]:
            _ = one["id"], one["file_name"]
        for one in found["annotations"]:
            _ = one["image_id"], one["category_id"]
        for one in found["categories"]:
            _ = one["id"], one["name"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _refuse(path, f"it is not COCO's form: {type(error).__name__}: {error}",
                "images with id and file_name, annotations with image_id, category_id and bbox, "
                "categories with id and name")  # fmt: skip
    return found


def _refuse(where: Path | str, what: str, remedy: str) -> NoReturn:
    raise DataError(what, where=str(where), remedy=remedy)
