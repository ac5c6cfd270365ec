"""One safetensors file: where everything lies in it, and writing it row by row.

What must not enter: which entry it is (`surgeon.runtime.cache`), what computes it.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import EnvironmentLacksError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


SAFETENSORS = {
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "bool": "BOOL",
}


NUMPY = {code: name for name, code in SAFETENSORS.items()}


@dataclass(frozen=True)
class Layout:
    """Where everything lies in a safetensors file: header first, then tensor after tensor."""

    rows: int
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype[Any]]
    header: bytes
    offsets: dict[str, int]
    bytes: int

    @classmethod
    def plan(
        cls,
        rows: int,
        shapes: Mapping[str, tuple[int, ...]],
        dtypes: Mapping[str, np.dtype[Any]],
    ) -> Layout:
        """Return where rows of these shapes and types lie."""
        # Descending element size keeps every tensor aligned, as the format asks for.
        order = sorted(shapes, key=lambda name: (-dtypes[name].itemsize, name))
        described: dict[str, Any] = {}
        offsets: dict[str, int] = {}
        place = 0
        for name in order:
            size = rows * int(np.prod(shapes[name], dtype=np.int64)) * dtypes[name].itemsize
            described[name] = {
                "dtype": SAFETENSORS[dtypes[name].name],
                "shape": [rows, *shapes[name]],
                "data_offsets": [place, place + size],
            }
            offsets[name] = place
            place += size
        text = json.dumps(described).encode()
        text += b" " * (-(len(text) + 8) % 64)
        header = len(text).to_bytes(8, "little") + text
        return cls(
            rows,
            dict(shapes),
            dict(dtypes),
            header,
            {name: len(header) + offset for name, offset in offsets.items()},
            len(header) + place,
        )

    def row_bytes(self, name: str) -> int:
        """Bytes of one row of a tensor."""
        return int(np.prod(self.shapes[name], dtype=np.int64)) * self.dtypes[name].itemsize


def compact(file: int, layout: Layout, kept: NDArray[np.bool_]) -> Layout:
    """Close the gaps that unreadable samples left, and write the header of what remains."""
    smaller = Layout.plan(int(kept.sum()), layout.shapes, layout.dtypes)
    if len(smaller.header) > len(layout.header):
        message = "a header that grew"
        raise ValueError(message)
    # Rows only move towards the start, and tensors are laid out in the same order, so that going
    # forward never overwrites what is still to be moved.
    for name in sorted(layout.offsets, key=layout.offsets.__getitem__):
        size = layout.row_bytes(name)
        for new, old in enumerate(np.flatnonzero(kept)):
            source, target = layout.offsets[name] + int(old) * size, smaller.offsets[name]
            write_all(file, memoryview(os.pread(file, size, source)), target + new * size)
    os.pwrite(file, smaller.header, 0)
    os.ftruncate(file, smaller.bytes)
    return smaller


def reserve(file: int, size: int) -> None:
    """Take the room on disk now, so that a full disk shows before any work is done."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
                raise
            os.ftruncate(file, size)
    else:
        os.ftruncate(file, size)


def write_all(file: int, data: memoryview, offset: int) -> None:
    """Write all of it, however much one call takes."""
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], offset + written)


def write_error(error: OSError, folder: Path, size: int) -> EnvironmentLacksError:
    """Return what to say of a cache that cannot be written."""
    if error.errno in _NO_ROOM:
        return EnvironmentLacksError(
            f"the disk has no room for {size} bytes of features",
            where=str(folder),
            remedy="free space (surgeon cache clear), set SURGEON_CACHE to another disk, "
            "or lower --cache-limit",
        )
    return EnvironmentLacksError(
        f"the cache cannot be written: {error.strerror or error}",
        where=str(folder),
        remedy="set SURGEON_CACHE to a folder that can be written",
    )
