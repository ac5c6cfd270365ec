"""Features: what the frozen part of a graph computes, asked for and given.

What must not enter: how they are computed (`surgeon.runtime.extract`), training, labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from surgeon.data.ahead import work_ahead
from surgeon.errors import DataError
from surgeon.runtime.stream import Chunk, Runner

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.runtime.places import Device


Progress = Callable[[int, int], None]


class Streamer(Protocol):
    """What computes features once, sample after sample: a `Runner`, or something faster."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should be told, after the last sample."""
        ...

    @property
    def providers(self) -> tuple[str, ...]:
        """What computed them."""
        ...

    def stream(self, indices: NDArray[np.int64]) -> Iterator[Chunk]:
        """Give the outputs of samples, in order."""
        ...


Faster = Callable[[Runner, "ModelProto", "NDArray[np.int64]"], Streamer]
"""Given what would run, the frozen part and the samples: what runs instead, or the same Runner."""


@dataclass(frozen=True)
class Request:
    """What is asked of features beyond graph, tensors and samples.

    Attributes:
        axes: batch axis of each tensor where it is not 0.
        key_parts: more that decides the values, for the key.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        threads: cores to use; None = every one.
        batch: samples per run; None = what suits the device.
        cache_dir: where entries lie; None = `cache_root() / "features"`.
        limit_bytes: past it floats are stored as float16; if that does not do, nothing is stored
            and the features are computed again whenever they are read. None = no limit.
        faster: chooses what computes features that are kept, in the place of the Runner that has
            checked them; what it says of itself belongs into `key_parts`.
        doubtful: whether operators give reason to fear that samples of a batch change each other's
            values (`surgeon.graph.apart`); more is run to find out, then.
        where: what messages call the model.
    """

    axes: Mapping[str, int] = field(default_factory=dict)
    key_parts: Sequence[str] = ()
    device: str | Device = "auto"
    threads: int | None = None
    batch: int | None = None
    cache_dir: Path | None = None
    limit_bytes: int | None = None
    faster: Faster | None = None
    doubtful: bool = True
    where: str | None = None


@dataclass(frozen=True)
class Features:
    """Features of samples, on disk or recomputed whenever they are read.

    Attributes:
        rows: index of the sample behind each row, [n] int64; unreadable samples are left out.
        skipped: `(path, reason)` of the samples left out.
        path: the cache entry, or None where nothing is kept.
        bytes: size of the entry, or of what would have been written.
        hit: whether the entry was there already.
        key: the hash that names the entry.
        providers: execution providers that computed (or would compute) it.
        stored: element type of each tensor as stored, by name; tensors keep their own type when
            read back.
        shapes: shape of one row of each tensor, without the sample axis (−1 = open); tensors that
            are the same for every sample are not among them.
        axes: where the sample axis stands in the graph.
        alone: whether every sample was run by itself, as those of a batch change each other.
        notes: what the user should be told.
    """

    rows: NDArray[np.int64]
    skipped: list[tuple[str, str]]
    path: Path | None
    bytes: int
    hit: bool
    key: str
    providers: tuple[str, ...]
    stored: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    axes: dict[str, int]
    notes: tuple[str, ...] = ()
    alone: bool = False
    _maps: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    _dtypes: dict[str, str] = field(default_factory=dict, repr=False)
    _constants: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    _source: Source | None = field(default=None, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return (*self.shapes, *self._constants)

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def recomputed(self) -> bool:
        """Whether nothing is kept, and every read runs the frozen part."""
        return self._source is not None

    def array(self, name: str) -> NDArray[Any]:
        """Return a whole tensor, [n, ...] with samples along axis 0.

        Memory-mapped and read-only where it is stored as it is; in memory otherwise. A tensor that
        is the same for every sample comes as the graph takes it.

        Raises:
            DataError: a sample that could be read before cannot be read any more.
        """
        if name in self._constants:
            return self._constants[name]
        if self._source is None:
            stored = self._maps[name]
            return stored.astype(self._dtypes[name], copy=False)
        chunk = self._source.run_at(self.rows)
        if chunk.failures:
            failure = chunk.failures[0]
            raise DataError(failure.reason, where=failure.name, remedy="repair or remove it")
        return chunk.outputs[name]

    def read(
        self, positions: Sequence[int] | NDArray[np.int64]
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
        """Return some rows as the trained part takes them.

        Args:
            positions: rows, by position in `rows`.

        Returns:
            one array per tensor, samples along the graph's own batch axis; and the positions that
            are in it (all, unless a picture turned out unreadable while recomputing).

        Raises:
            DataError: more than 5 % of the samples cannot be read.
        """
        chosen = np.asarray(positions, np.int64)
        if self._source is None:
            found = {
                name: stored[chosen].astype(self._dtypes[name], copy=False)
                for name, stored in self._maps.items()
            }
        else:
            chunk = self._source.run_at(self.rows[chosen])
            found, chosen = chunk.outputs, chosen[chunk.positions]
        placed = {name: np.moveaxis(rows, 0, self.axes[name]) for name, rows in found.items()}
        return {**placed, **self._constants}, chosen

    def stream(
        self, batches: Iterable[NDArray[np.int64]], lanes: int = 1
    ) -> Iterator[tuple[dict[str, NDArray[Any]], NDArray[np.int64]]]:
        """Give `read` of each batch of positions in turn, read ahead in `lanes` threads."""
        return work_ahead(self.read, batches, lanes)


class Source(Protocol):
    """What recomputes features: a `Runner`, or the samples themselves."""

    def run_at(self, indices: NDArray[np.int64]) -> Chunk:
        """Compute the features of some samples."""
        ...
