"""What samples that lie in files have in common: where each is, its hash, constants beside it.

Pictures, texts, sounds and series differ in how content becomes values, and in nothing else. What
must not enter: any file format.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL.Image import Image

from surgeon.data.samples import Batch, Failure, Given, Samples, Source
from surgeon.errors import DataError, UsageError
from surgeon.graph.reading import misnamed, read_bytes, what_lies_at

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.records import Encoding, Preprocess, TensorInfo


_UNREADABLE = hashlib.sha256(b"unreadable: UnreadableError").digest()


class UnreadableError(Exception):
    """A sample that cannot be read; becomes a `Failure`, and stays inside this room."""


class SourceSamples(Samples):
    """Samples of which each is a file, or bytes.

    Attributes:
        rule: the kind of rule by which content becomes values; None where none is needed.
    """

    rule: ClassVar[type[Preprocess | Encoding] | None] = None

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        self._sources = given.sources
        self._constants = dict(given.constants)

    @classmethod
    @abstractmethod
    def takes(cls, inputs: Sequence[TensorInfo], constants: Mapping[str, Any]) -> bool:
        """Say whether the graph inputs that are no constants are those this medium feeds."""

    @classmethod
    def suited(cls, rule: Preprocess | Encoding | None) -> type[SourceSamples]:  # noqa: ARG003 - the general answer
        """Return the class that reads by a rule: this one."""
        return cls

    @classmethod
    def missing(cls, where: str | None) -> UsageError:
        """Return the error where nothing says how content becomes values."""
        return UsageError(
            f"{cls.__name__} need a rule", where=where, remedy="see its documentation"
        )

    def content_sha256(self, indices: NDArray[np.int64] | None = None) -> str:
        """Hash of the files' bytes, of the rule they are read by, and of the constants."""
        chosen = range(self.n) if indices is None else indices
        total = hashlib.sha256(json.dumps(self._rule(), sort_keys=True).encode())
        for name, value in sorted(self._constants.items()):
            total.update(f"{name}\0{value.dtype.str}{value.shape}".encode() + value.tobytes())
        total.update(b"".join(self._digests[index] for index in chosen))
        return total.hexdigest()

    def digests(self) -> Sequence[bytes | None]:
        """Return a hash of the bytes of each file; None of one that cannot be read."""
        return [None if digest == _UNREADABLE else digest for digest in self._digests]

    @abstractmethod
    def _rule(self) -> dict[str, Any]:
        """Return what decides, beside the bytes, the values of a sample; its source left out."""

    def _content(self, index: int) -> bytes:
        return content_of(self._sources[index])

    def _complete(self, values: Mapping[str, NDArray[Any]], count: int) -> dict[str, NDArray[Any]]:
        """Put the constants beside values of `count` samples, in graph-input order."""
        feeds = {}
        for info in self.inputs:
            if info.name in values:
                feeds[info.name] = values[info.name]
            elif info.batch_axis is None:
                feeds[info.name] = self._constants[info.name]
            else:
                constant = np.expand_dims(self._constants[info.name], info.batch_axis)
                feeds[info.name] = np.repeat(constant, count, info.batch_axis)
        return feeds

    @cached_property
    def _digests(self) -> list[bytes]:
        # Reading releases the interpreter, so threads help where a disk is slow.
        with ThreadPoolExecutor() as pool:
            return list(pool.map(_digest, self._sources, chunksize=64))


class ValueSamples(SourceSamples):
    """Samples that become one array each, for one graph input, one by one."""

    _info: TensorInfo

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Read files into one batch."""
        kept: list[int] = []
        values: list[NDArray[Any]] = []
        failures: list[Failure] = []
        for index in (int(i) for i in indices):
            try:
                values.append(self._value(index))
            except UnreadableError as error:
                failures.append(Failure(index, self.names[index], str(error)))
                continue
            kept.append(index)
        self._note(failures)
        stacked = np.stack(values) if values else self._nothing()
        placed = np.moveaxis(stacked, 0, self._info.batch_axis or 0)
        feeds = self._complete({self._info.name: np.ascontiguousarray(placed)}, len(kept))
        return Batch(np.array(kept, np.int64), feeds, tuple(failures))

    @abstractmethod
    def _value(self, index: int) -> NDArray[Any]:
        """Return one sample, without a batch axis.

        Raises:
            UnreadableError: it cannot be read.
        """

    @abstractmethod
    def _nothing(self) -> NDArray[Any]:
        """Return no sample at all, batch axis first."""


def content_of(source: Source) -> bytes:
    """Return the bytes of a sample; of a picture in memory its pixels.

    Raises:
        UnreadableError: there are none, or what lies there is a pointer to them.
    """
    try:
        if isinstance(source, Image):
            return f"{source.mode} {source.size} ".encode() + source.tobytes()
        found = source() if callable(source) else source
        content = found if isinstance(found, bytes) else read_bytes(found)
    except FileNotFoundError as error:
        raise UnreadableError(_missing(str(error.filename))) from None
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from None
    except DataError as error:
        raise UnreadableError(error.message) from None
    wrong = misnamed(content, pages=False)  # a web page is a text like any other
    if wrong is not None:
        raise UnreadableError(f"{wrong[0]}: {wrong[1]}")
    return content


def broken(content: bytes, reason: str) -> UnreadableError:
    """Return the error for content that a reader refused: what it is instead, or the reason."""
    wrong = misnamed(content)
    return UnreadableError(reason if wrong is None else f"{wrong[0]}: {wrong[1]}")


def _missing(name: str) -> str:
    """Say that there is no such file, and what is often meant by such a name."""
    if re.search(r"(^|/)(https?|s3|gs|ftp|file|hf):/", name):
        return "it is a URL, and nothing is fetched: download it, and name the file"
    path = Path(name)
    if "\\" in name and what_lies_at(name.replace("\\", "/")) is not None:
        return "there is no such file: the path is written with \\, write it with /"
    try:
        near = sorted(p.name for p in path.parent.iterdir() if p.stem == path.name)
    except (OSError, ValueError):
        near = []
    if near:
        return f"there is no such file; {near[0]!r} is there: write the ending, too"
    return "there is no such file"


def describe_inputs(inputs: Sequence[TensorInfo]) -> str:
    """Return the graph inputs' names, types and shapes for a message."""
    return "graph inputs " + ", ".join(
        f"{info.name} ({info.dtype} "
        + ("unknown shape" if info.shape is None else str(list(info.shape)))
        + ")"
        for info in inputs
    )


def _digest(source: Source) -> bytes:
    try:
        return hashlib.sha256(content_of(source)).digest()
    except UnreadableError:
        return _UNREADABLE  # it will fail the same way when it is decoded, and be named there
