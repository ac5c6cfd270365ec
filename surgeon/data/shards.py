"""Shards: tar files of samples, `key.jpg` beside `key.cls`, as WebDataset writes them.

Only where each file lies is held; contents are read where they lie, when they are asked for. What
must not enter: what columns mean.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.data.media.registry import PICTURES, SOUNDS, is_of
from surgeon.data.tables import Table
from surgeon.errors import DataError
from surgeon.graph.reading import parse_json, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    Member = tuple[Path, int, int]

SUFFIX = ".tar"
_LABEL, _TEXT, _OBJECT = "cls", "txt", "json"


def read_shards(path: Path) -> Table:
    """Return a table of the samples of a shard, or of all shards of a folder, by name.

    Files of one name up to its first dot are one sample. The column `content` is its picture or
    sound, `label` what `.cls` says, or `.txt` beside a content; without one `.txt` is `text`.
    What `.json` holds are columns by its keys.

    Raises:
        DataError: no sample in it, or a file that cannot be read where it lies.
    """
    where = shown(str(path))
    shards = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    samples: dict[str, dict[str, Member]] = {}
    try:
        for shard in shards:
            for name, ending, member in _members(shard):
                samples.setdefault(name, {})[ending] = member
        rows = [_row(found) for found in samples.values()]
    except (OSError, ValueError, tarfile.TarError) as error:
        raise DataError(
            f"the shard cannot be read: {error}",
            where=where,
            remedy="give a plain .tar, not a compressed one: contents are read where they lie",
        ) from None
    names = dict.fromkeys(name for row in rows for name in row)
    if not rows or not names:
        raise DataError("there is no sample in it", where=where, remedy="key.jpg beside key.cls")
    contents = [row.get("content") for row in rows]
    called = [
        name if content is None else f"{name}.{content[0]}"
        for name, content in zip(samples, contents, strict=True)
    ]
    columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in names}

    def fetch(_: str, row: int) -> bytes:
        found = contents[row]
        return b"" if found is None else _read(found[1])

    pictures = ("content",) if "content" in names else ()
    return Table(columns, where, path.parent, fetch, pictures, names=called)


def _members(shard: Path) -> Iterator[tuple[str, str, Member]]:
    with tarfile.open(shard, "r:") as file:
        for member in file:
            folder, _, base = member.name.rpartition("/")
            key, _, ending = base.partition(".")
            if member.isreg() and key and ending:
                name = "/".join([shown(str(shard)), *filter(None, [folder, key])])
                yield name, ending.lower(), (shard, member.offset_data, member.size)


def _row(found: dict[str, Member]) -> dict[str, Any]:
    """Return the cells of a sample; of its content the ending, and where it lies."""
    row: dict[str, Any] = {}
    for ending, member in found.items():
        if any(is_of(Path(f"_.{ending}"), medium) for medium in (PICTURES, SOUNDS)):
            row["content"] = (ending, member)
    if _OBJECT in found and isinstance(told := parse_json(_read(found[_OBJECT])), dict):
        row |= {name: value for name, value in told.items() if name != "content"}
    if _TEXT in found:
        row["label" if "content" in row else "text"] = _read(found[_TEXT]).decode().strip()
    if _LABEL in found:
        row["label"] = _read(found[_LABEL]).decode().strip()
    return row


def _read(member: Member) -> bytes:
    shard, place, size = member
    with shard.open("rb") as file:
        file.seek(place)
        return file.read(size)
