"""Reads what others wrote: regular files only, JSON of bounded depth, and what a file really is.

A named pipe or a device in a folder of pictures would be read for ever, a thousand brackets would
end the interpreter's stack, and a download that went wrong leaves a web page under a model's name.
Every room that opens a file or parses JSON of others goes through here. What must not enter: any
file format of ours.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from io import BufferedReader

DEEPEST = 100
"""Levels of nesting that JSON may have."""

_POINTER = b"version https://git-lfs.github.com/spec/"
_WEB = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script")
_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file for reading, if it is a regular one; nothing else is even opened.

    Raises:
        OSError: it is absent, may not be read, has a name that no file can have, or is a folder, a
            pipe, a socket or a device.
    """
    try:
        _require_regular(Path(path).stat(), path)
        # Not blocking: what is looked at and what is opened may differ by then.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a NUL, or half a character
        text = "no file can have this name"
        raise OSError(errno.EINVAL, text, ascii(os.fspath(path))) from None
    try:
        _require_regular(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path) as stream:
        return stream.read()


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a regular file in UTF-8; a mark at its start is left out.

    Raises:
        OSError: as `open_regular`.
        ValueError: it is not UTF-8.
    """
    return read_bytes(path).decode("utf-8-sig")


def what_lies_at(path: str | os.PathLike[str]) -> str | None:
    """Say what a path names: `a file`, `a folder`, `a named pipe`, ...; None where it is nothing.

    Unlike `Path.exists` and its like, no text whatever makes it fail.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return None
    return _special(mode) or "a file"


def parse_json(text: str | bytes) -> Any:
    """Parse JSON of at most `DEEPEST` levels.

    Raises:
        ValueError: it is no JSON, or nested deeper.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    _require_shallow(found)
    return found


def misnamed(content: bytes, *, pages: bool = True) -> tuple[str, str] | None:
    """Recognise what downloads leave in place of a file; None for all else.

    Args:
        content: the file's bytes, or its first thousand.
        pages: whether web pages count, too.

    Returns:
        What it is, and what to do about it.
    """
    head = content[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith(_POINTER):
        return "a Git LFS pointer, not the file itself", "fetch the file: git lfs pull"
    if not pages:
        return None
    if head.startswith(_WEB) or (head.startswith((b"<!--", b"<?xml")) and b"<html" in head):
        return "a web page, not the file itself", "download the file itself: its raw or direct link"
    return None


def shown(text: str) -> str:
    r"""Return a name as it can be written anywhere: bytes that are no UTF-8 as `\xff`."""
    if text.isascii():
        return text
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # halves of characters, which no file system made
        content = text.encode("utf-8", "surrogatepass")
    return content.decode("utf-8", "backslashreplace")


def _require_regular(found: os.stat_result, path: str | os.PathLike[str]) -> None:
    kind = _special(found.st_mode)
    if kind is not None:
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))


def _special(mode: int) -> str | None:
    if stat.S_ISREG(mode):
        return None
    return next((name for test, name in _KINDS.items() if test(mode)), "no regular file")


def _require_shallow(found: Any) -> None:
    level, depth = [found], 0
    while level:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        level = [item for item in inner if isinstance(item, dict | list)]
        depth += 1
        if depth > DEEPEST:
            raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"it is nested more than {DEEPEST} levels deep")
