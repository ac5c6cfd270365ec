"""The cache of features: entries that are there whole or not at all, found by their key.

An entry is a safetensors file, memory-mapped when read, beside a JSON file that says what it is.
Its name is the hash of all that decides its values: frozen graph and weights, preprocessing,
content of the data, provider, versions. It is written under another name and renamed when it is
complete, so that what is found under its name is whole. What must not enter: what computes them.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.runtime.store import NUMPY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.data.samples import Samples
    from surgeon.runtime.features import Features


FORMAT = 3  # raise it when the meaning of an entry changes


def cache_root() -> Path:
    """Return the folder of everything cached: `SURGEON_CACHE`, or the user's cache directory."""
    given = os.environ.get("SURGEON_CACHE")
    if given:
        return Path(given).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("surgeon")


@dataclass(frozen=True)
class Entry:
    """A cache entry, for `surgeon cache list`: path, size in bytes, and what its JSON file says."""

    path: Path
    bytes: int
    about: dict[str, Any]


def list_entries(folder: Path | None = None) -> list[Entry]:
    """Return the complete entries, oldest first; `folder` None = the user's cache."""
    folder = cache_root() / "features" if folder is None else folder
    entries = []
    for path in folder.glob("*.safetensors") if folder.is_dir() else ():
        about = _read_about(path.with_suffix(".json"))
        if about is not None:
            entries.append((path.stat().st_mtime, Entry(path, path.stat().st_size, about)))
    return [entry for _, entry in sorted(entries, key=lambda pair: (pair[0], pair[1].path))]


def clear(folder: Path | None = None) -> tuple[int, int]:
    """Remove every entry and everything half-written; returns files and bytes removed."""
    folder = cache_root() / "features" if folder is None else folder
    files = size = 0
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix in {".safetensors", ".json", ".part"} and path.is_file():
            size += path.stat().st_size
            path.unlink()
            files += 1
    return files, size


@dataclass(frozen=True)
class CacheEntry:
    """Where an entry lies and how to open it."""

    folder: Path
    key: str
    outputs: tuple[str, ...]
    axes: dict[str, int]
    samples: Samples
    constants: dict[str, NDArray[Any]]

    @property
    def path(self) -> Path:
        """The entry's file."""
        return self.folder / f"{self.key}.safetensors"

    def find(self, notes: Sequence[str]) -> Features | None:
        """Return the entry if it is there and whole, else None."""
        about = _read_about(self.path.with_suffix(".json"))
        if about is None or about.get("key") != self.key or about.get("format") != FORMAT:
            return None
        try:
            if self.path.stat().st_size != about["bytes"]:
                return None
            return self.open(about, notes, hit=True)
        except (OSError, ValueError, KeyError, TypeError):
            return None  # broken in whatever way: it is computed again

    def open(self, about: Mapping[str, Any], notes: Sequence[str], *, hit: bool) -> Features:
        """Map the entry into memory."""
        from surgeon.runtime.features import Features  # with all that computes them

        tensors = about["tensors"]
        with self.path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > about["bytes"]:
                message = "broken header"
                raise ValueError(message)
            header = json.loads(file.read(length))
        maps: dict[str, NDArray[Any]] = {}
        for name in self.outputs:
            described = header[name]
            shape = tuple(described["shape"])
            if shape != (about["rows"], *tensors[name]["shape"]):
                message = "header and description differ"
                raise ValueError(message)
            dtype = np.dtype(NUMPY[described["dtype"]])
            offset = 8 + length + described["data_offsets"][0]
            if 0 in shape:
                maps[name] = np.empty(shape, dtype)
            else:
                maps[name] = np.memmap(self.path, dtype, "r", offset, shape)
        unreadable = [(int(index), str(reason)) for index, reason in about["unreadable"]]
        self.samples.remember(unreadable)
        return Features(
            rows=_expand(about["indices"]),
            skipped=[(self.samples.names[index], reason) for index, reason in unreadable],
            path=self.path,
            bytes=about["bytes"],
            hit=hit,
            key=self.key,
            providers=tuple(about["providers"]),
            stored={name: tensors[name]["stored"] for name in self.outputs},
            shapes={name: tuple(tensors[name]["shape"]) for name in self.outputs},
            axes=self.axes,
            notes=(*notes, *([about["alone"]] if about["alone"] else [])),
            alone=about["alone"] is not None,
            _maps=maps,
            _constants=self.constants,
            _dtypes={name: tensors[name]["dtype"] for name in self.outputs},
        )


def write_about(path: Path, about: Mapping[str, Any]) -> None:
    """Write what an entry is beside it, whole or not at all."""
    handle, name = tempfile.mkstemp(".part", path.stem[:16] + "-", path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(about, file)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _read_about(path: Path) -> dict[str, Any] | None:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) else None


def ranges(indices: NDArray[np.int64]) -> list[list[int]]:
    """Write ascending runs of indices as [first, last] pairs, in order."""
    if not len(indices):
        return []
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    return [[int(run[0]), int(run[-1])] for run in runs]


def _expand(ranges: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    parts = [np.arange(first, last + 1, dtype=np.int64) for first, last in ranges]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
