"""The entry points of what is installed, read from their files.

`importlib.metadata` reads the same, and takes as long to import as all else of `surgeon --help`: it
is asked only where something is installed in another way than as files in folders. So `os.path`
stands for `pathlib` here, too. What must not enter: loading what nobody wants yet.
"""

# ruff: noqa: PTH113, PTH118, PTH119, PTH123, PTH208 - pathlib takes longer to import than this to run

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDERS = (".dist-info", ".egg-info")
"""How the folders end in which distributions are described."""
FINDERS = ("PathFinder", "BuiltinImporter", "FrozenImporter")
"""Python's own, which find no other distributions than these."""
DYNAMIC = ("import *", "__getattr__", "globals(", "setattr(")
"""What gives a module names that its source does not mention."""


class Point(NamedTuple):
    """An entry point: its name, the `module` or `module:attribute` it means, whose it is."""

    name: str
    value: str
    distribution: str = "unknown"
    version: str = "0"

    @property
    def module(self) -> str:
        """The module to import."""
        return self._parts()[0]

    def load(self) -> Any:
        """Import what it means."""
        module, attributes = self._parts()
        found: Any = import_module(module)
        for name in filter(None, attributes.split(".")):
            found = getattr(found, name)
        return found

    def lacks(self, word: str) -> bool:
        """Say whether its module surely has no attribute of a name: its source mentions none."""
        text = None if self._parts()[1] else self.source()
        return text is not None and not any(one in text for one in (word, *DYNAMIC))

    def stated(self, name: str) -> int | None:
        """Return the whole number that its source gives a name, where one cannot load it."""
        import re

        found = re.search(rf"^{name}\b[^=\n]*=\s*(\d+)\s*(#|$)", self.source() or "", re.MULTILINE)
        return int(found[1]) if found else None

    def source(self) -> str | None:
        """Return the text of its module, or None."""
        from importlib.util import find_spec

        try:
            spec = find_spec(self.module)
            if spec is None or not (spec.origin or "").endswith(".py"):
                return None
            with open(spec.origin or "", encoding="utf-8") as file:
                return file.read()
        except (Exception, SystemExit):  # noqa: BLE001 - loading it says what is wrong
            return None

    def _parts(self) -> tuple[str, str]:
        module, _, attributes = self.value.partition("[")[0].partition(":")
        return module.strip(), attributes.strip()


def entry_points(group: str) -> list[Point]:
    """Return the entry points of a group; of distributions of one name the first on the path."""
    if _elsewhere():
        from importlib import metadata

        return [
            Point(one.name, one.value, *((one.dist.name, one.dist.version) if one.dist else ()))
            for one in metadata.entry_points(group=group)
        ]
    found, seen = [], set[str]()
    for folder in _described():
        name = os.path.basename(folder).rpartition(".")[0].partition("-")[0].lower()
        if name not in seen:
            seen.add(name)
            found += _points(folder, group)
    return found


def _elsewhere() -> bool:
    """Say whether anything may be installed in an archive, or by a finder of its own."""
    finders = [one for one in sys.meta_path if hasattr(one, "find_distributions")]
    return any(getattr(one, "__name__", "") not in FINDERS for one in finders) or any(
        place.endswith(".egg") or os.path.isfile(place) for place in sys.path
    )


def _described() -> Iterator[str]:
    """Yield the folders that describe distributions, in the order of the path."""
    for place in sys.path:
        try:
            names = sorted(os.listdir(place or "."))
        except OSError:
            continue
        yield from (os.path.join(place, name) for name in names if name.endswith(FOLDERS))


def _points(folder: str, group: str) -> list[Point]:
    """Read the entry points of a group that one distribution names."""
    text, found, inside = _read(folder, "entry_points.txt"), [], False
    if f"[{group}]" not in text:
        return []
    told = _read(folder, "METADATA") or _read(folder, "PKG-INFO")
    head = dict(
        line.split(": ", 1) for line in told.partition("\n\n")[0].splitlines() if ": " in line
    )
    whose = head.get("Name", "unknown"), head.get("Version", "0")
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            inside = line == f"[{group}]"
        elif inside and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            found.append(Point(name.strip(), value.strip(), *whose))
    return found


def _read(folder: str, name: str) -> str:
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
