"""What every source of samples has in common: labels, names, content hash, batches, failures.

A sample that cannot be read is found when it is read, not in a pass of its own: `read` returns the
rows that could be read and the failures beside them, and past 5 % of failures it raises. What must
not enter: any file format.
"""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from surgeon.errors import DataError
from surgeon.tasks.labels import code_groups, plain_texts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL.Image import Image

    from surgeon.records import Encoding, Preprocess, TensorInfo
    from surgeon.tasks.base import Answers, Column, Piece

FAILURE_BOUND = 0.05  # more unreadable samples than this share of all is an error
LOOKED_AT = 200  # samples more that are opened to say how many of them cannot be read

Source: TypeAlias = "Path | bytes | Image | Callable[[], Path | bytes]"


@dataclass(frozen=True)
class Given:
    """What samples of every medium are made of.

    Attributes:
        inputs: the graph inputs to feed, in graph-input order.
        names: one name per sample: its path, or its row.
        answers: what the data say of each sample, as they say it (n texts, numbers or lists; an
            array [n, …]; or a column of each name), or None where there are none.
        split: [n] of `train`, `validation`, `test`, or None where the data does not say.
        groups: [n] names of what samples belong to and are not to be torn from (a patient, a
            recording); None for a sample by itself, and in all where the data does not say.
        ignored: hidden files and files of another medium, passed over.
        sources: where the content of each sample lies, for media of files.
        constants: values of other graph inputs, the same for every sample.
        words: of each sample, where texts are lists of words; its text joins them by blanks.
        rule: how content becomes values, where the medium needs one.
        where: what messages call the data, where not by the samples' names.
        answer_at: says where a sample's answer stands, for messages; None = its name does.
    """

    inputs: Sequence[TensorInfo]
    names: Sequence[str]
    answers: Answers | None = None
    split: Sequence[str] | NDArray[Any] | None = None
    groups: Sequence[str | None] | None = None
    ignored: int = 0
    sources: Sequence[Source] = ()
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    rule: Preprocess | Encoding | None = None
    where: str | None = None
    answer_at: Callable[[int], str] | None = None
    words: Sequence[Sequence[str]] | None = None


@dataclass(frozen=True)
class Failure:
    """A sample that could not be read: its index, its name (path or row) and the reason."""

    index: int
    name: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """Samples as the graph takes them.

    Attributes:
        indices: the samples that could be read, [k] int64, in the order asked for.
        feeds: one array per graph input, in graph-input order, k samples along its batch axis.
        failures: the samples that could not be read.
    """

    indices: NDArray[np.int64]
    feeds: dict[str, NDArray[Any]]
    failures: tuple[Failure, ...] = ()


class Samples(ABC):
    """A source of samples; safe to read from several threads.

    Attributes:
        inputs: the graph inputs it feeds, in graph-input order.
        names: one name per sample: its path, or its row.
        answers: what the data say of each sample, see `Given`; no task has read them.
        split: [n] of `train`, `validation`, `test`, or None where the data does not say.
        groups: [n] names of what samples belong to, see `Given`.
        ignored: hidden files and files that are no pictures, passed over.
        preprocess: how pictures became values; None for values taken as they are.
        encoding: how texts or sounds became values, or None.
        is_images: whether samples are pictures (and may be augmented).
        ragged: whether samples of one batch may differ in size: then its feed is an array of
            objects, an array each, and they are run by size.
        failure_bound: share of unreadable samples past which reading raises.
        remarks: what the user should be told of how the data were understood.
        words: of each sample, where the data tell texts as lists of words; else None.
        task: name of the task whose answers these are, where the data say it.
        passed_over: `(path, reason)` of files that are no samples, where each is to be named.
    """

    is_images: bool = False
    ragged: bool = False
    preprocess: Preprocess | None = None
    encoding: Encoding | None = None
    failure_bound: float = FAILURE_BOUND
    remarks: tuple[str, ...] = ()
    words: Sequence[Sequence[str]] | None = None
    task: str | None = None
    passed_over: tuple[tuple[str, str], ...] = ()

    def __init__(self, given: Given) -> None:
        self.inputs = tuple(given.inputs)
        self.names = given.names
        self.answers = given.answers
        self.where = given.where
        self.split: NDArray[np.str_] | None = (
            None if given.split is None else np.asarray(given.split, str)
        )
        self.groups = None if given.groups is None else list(given.groups)
        self.ignored = given.ignored
        self._answer_at = given.answer_at
        self._failed: dict[int, str] = {}
        self._lock = threading.Lock()
        self._counting = False

    @property
    def n(self) -> int:
        """Number of samples, readable or not."""
        return len(self.names)

    def __len__(self) -> int:
        return self.n

    def pieces(self, index: int) -> list[Piece | None] | None:  # noqa: ARG002 - the general answer
        """Return what of a sample each position of the graph's input stands for.

        None for a position without (padding, special tokens), or for samples of no positions.
        """
        return None

    def answers_along(self, kept: Sequence[str]) -> Answers | None:  # noqa: ARG002 - most keep none
        """Return the answers along axes of what the graph is given (`TaskCode.keeps`).

        Raises:
            DataError: they do not fit a sample.
        """
        return self.answers

    def size_of(self, index: int) -> tuple[int, int] | None:  # noqa: ARG002 - the general answer
        """Return (height, width) of a sample that is a picture, upright; None of any other."""
        return None

    def answer_at(self, index: int) -> str:
        """Say where the answer of a sample stands, for messages."""
        return str(self.names[index]) if self._answer_at is None else self._answer_at(index)

    @property
    def group_count(self) -> int | None:
        """Number of groups, a sample by itself counted as one; None where the data has none."""
        codes = code_groups(self.groups)
        return None if codes is None else len(np.unique(codes))

    @property
    def notes(self) -> list[str]:
        """What the user should be told: how the data were understood and became values."""
        return [*self.remarks, *self._own_notes()]

    def _own_notes(self) -> list[str]:
        """Return what is to be told of how these samples became values."""
        return []

    def match(self, other: Samples) -> None:  # noqa: B027 - most samples have one form already
        """Take on a form in common with samples that will be in one batch with these."""

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """`(path, reason)` of every sample found unreadable so far, in sample order."""
        with self._lock:
            return [(self.names[index], self._failed[index]) for index in sorted(self._failed)]

    @property
    def failed(self) -> NDArray[np.int64]:
        """Indices of the samples found unreadable so far, ascending."""
        with self._lock:
            return np.array(sorted(self._failed), np.int64)

    @cached_property
    def sha256(self) -> str:
        """Hash of content, answers, split and groups, in order; names and places do not enter."""
        total = hashlib.sha256(self.content_sha256().encode())
        told = None if self.answers is None else plain_texts(self.answers)
        for column in (told, None if self.split is None else self.split.tolist()):
            total.update(b"\0none" if column is None else "\0".join(["", *column]).encode())
        if self.groups is not None:
            total.update("\0".join(["", *(group or "" for group in self.groups)]).encode())
        return total.hexdigest()

    @abstractmethod
    def content_sha256(self, indices: NDArray[np.int64] | None = None) -> str:
        """Hash of all that decides the values of `batch(indices)`, in order (None = all)."""

    def digests(self) -> Sequence[bytes | None] | None:
        """Return a hash of each sample's own content, [n], equal where those are; None = unknown.

        Names, labels and the rule by which content becomes values do not enter. None for a sample
        that has no content that can be read.
        """
        return None

    @abstractmethod
    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Read samples, leaving out those that cannot be read.

        Raises:
            DataError: more than 5 % of all samples have turned out unreadable.
        """

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Read samples, every one of them: the feeds, in graph-input order.

        Raises:
            DataError: a sample cannot be read.
        """
        batch = self.read(indices)
        if batch.failures:
            failure = batch.failures[0]
            raise DataError(failure.reason, where=failure.name, remedy="repair or remove it")
        return batch.feeds

    def load(self, index: int) -> dict[str, NDArray[Any]] | Failure:
        """Read one sample as a batch of one; a Failure where it cannot be read."""
        batch = self.read([index])
        return batch.failures[0] if batch.failures else batch.feeds

    def images(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return pictures [n, H, W, C] resized, before normalisation, in RGB (or L) order.

        Raises:
            DataError: these samples are not pictures, or one of them cannot be read.
        """
        raise DataError(
            f"samples {list(indices)[:3]} are values, not pictures",
            remedy="augmentation is for pictures only",
        )

    def normalize(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Turn pictures [n, H, W, C] of `images` into the values of the graph's input."""
        raise DataError(
            f"values are not normalized (got {images.shape})", remedy="use pictures as data"
        )

    def remember(self, unreadable: Sequence[tuple[int, str]]) -> None:
        """Take on what an earlier reading found: `(index, reason)` of samples left out."""
        with self._lock:
            self._failed.update(unreadable)

    def _note(self, failures: Sequence[Failure]) -> None:
        """Remember failures; raise past the bound."""
        if not failures:
            return
        with self._lock:
            self._failed.update({failure.index: failure.reason for failure in failures})
            raises = not self._counting and len(self._failed) > self.failure_bound * self.n
            self._counting = self._counting or raises
        if raises:
            raise self._unreadable()

    def _unreadable(self) -> DataError:
        """Look at more samples, so that the error says how many cannot be read, not one of them."""
        rest = [index for index in range(self.n) if index not in self._failed]
        places = np.unique(np.linspace(0, len(rest) - 1, min(LOOKED_AT, len(rest))).astype(int))
        for place in places:
            self.read([rest[place]])
        with self._lock:
            failed = dict(sorted(self._failed.items()))
            self._counting = False
        whole = len(places) == len(rest)
        if len(failed) == self.n:
            told = f"all {self.n} samples are unreadable"
        elif whole:
            told = f"{len(failed)} of {self.n} samples cannot be read"
            told += f", more than {self.failure_bound:.0%}"
        else:
            told = f"at least {len(failed)} of {self.n} samples cannot be read"
            told += f", more than {self.failure_bound:.0%}"
        reasons: dict[str, int] = {}  # one sample of each reason: most have all the same
        for index, reason in failed.items():
            reasons.setdefault(reason, index)
        named = [f"{self.names[index]}: {reason}" for reason, index in reasons.items()]
        return DataError(
            told,
            where="; ".join(named[:3]),
            remedy="repair or remove the files that cannot be read",
        )


class JoinedSamples(Samples):
    """Two sources as one: training samples first, then the validation samples of `--validation`.

    `split` says which is which, unless the second source is `more` of the same, and neither says
    it. Both must feed the same inputs in the same way.
    """

    def __init__(self, train: Samples, validation: Samples, *, more: bool = False) -> None:
        if train.inputs != validation.inputs or train.is_images != validation.is_images:
            raise DataError(
                "training and validation data do not have the same form",
                remedy="give both as pictures, or both as values",
            )
        train.match(validation)
        answers = None
        if train.words is not None and validation.words is not None:
            self.words = [*train.words, *validation.words]
        if train.answers is not None and validation.answers is not None:
            answers = join_answers(train.answers, validation.answers)
        own, theirs = (
            [name] * part.n if part.split is None or name == "validation" else part.split.tolist()
            for part, name in ((train, "train"), (validation, "train" if more else "validation"))
        )
        divided = not more or train.split is not None or validation.split is not None
        groups = None
        if train.groups is not None or validation.groups is not None:
            groups = [one for part in (train, validation) for one in part.groups or [None] * part.n]
        super().__init__(
            Given(
                inputs=train.inputs,
                names=[*train.names, *validation.names],
                answers=answers,
                split=[*own, *theirs] if divided else None,
                groups=groups,
                ignored=train.ignored + validation.ignored,
                answer_at=lambda index: (
                    train.answer_at(index)
                    if index < train.n
                    else validation.answer_at(index - train.n)
                ),
            )
        )
        self.remarks = tuple(dict.fromkeys([*train.remarks, *validation.remarks]))
        self.is_images = train.is_images
        self.preprocess = train.preprocess
        self.encoding = train.encoding
        self._parts = ((0, train), (train.n, validation))

    def answers_along(self, kept: Sequence[str]) -> Answers | None:
        """Return those of the training part, then those of the validation part."""
        found = [part.answers_along(kept) for _, part in self._parts]
        return None if found[0] is None or found[1] is None else join_answers(found[0], found[1])

    def content_sha256(self, indices: NDArray[np.int64] | None = None) -> str:
        """Hash of both parts' contents."""
        chosen = np.arange(self.n) if indices is None else np.asarray(indices, np.int64)
        total = hashlib.sha256(chosen.astype("<i8").tobytes())
        for _, part, own in self._divide(chosen):
            total.update(part.content_sha256(chosen[own] - self._offset(part)).encode())
        return total.hexdigest()

    def digests(self) -> Sequence[bytes | None] | None:
        """Return those of the training part, then those of the validation part."""
        found = [part.digests() for _, part in self._parts]
        known = [digests for digests in found if digests is not None]
        return [item for digests in known for item in digests] if len(known) == len(found) else None

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Read from both parts and put the rows back into the order asked for."""
        chosen = np.asarray(indices, np.int64)
        if not len(chosen):
            return self._parts[0][1].read(chosen)
        found: list[NDArray[np.int64]] = []
        feeds: list[dict[str, NDArray[Any]]] = []
        failures: list[Failure] = []
        for offset, part, own in self._divide(chosen):
            if not own.any():
                continue
            batch = part.read(chosen[own] - offset)
            found.append(batch.indices + offset)
            feeds.append(batch.feeds)
            failures += [Failure(f.index + offset, f.name, f.reason) for f in batch.failures]
        with self._lock:
            self._failed.update({failure.index: failure.reason for failure in failures})
        if len(feeds) == 1:
            return Batch(found[0], feeds[0], tuple(failures))
        kept = np.concatenate(found)
        place = {int(index): row for row, index in enumerate(kept)}
        order = np.array([place[int(index)] for index in chosen if int(index) in place], np.int64)
        joined = {
            info.name: _join([part[info.name] for part in feeds], info.batch_axis, order)
            for info in self.inputs
        }
        return Batch(kept[order], joined, tuple(failures))

    def pieces(self, index: int) -> list[Piece | None] | None:
        """Return what the positions of a sample of either part stand for."""
        offset, part = self._parts[int(index >= self._parts[1][0])]
        return part.pieces(index - offset)

    def images(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return pictures of both parts in the order asked for."""
        chosen = np.asarray(indices, np.int64)
        rows = [
            part.images([int(index) - offset])
            for index in chosen
            for offset, part in self._parts
            if offset <= index < offset + part.n
        ]
        return np.concatenate(rows)

    def normalize(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Turn pictures into values, as the training part does."""
        return self._parts[0][1].normalize(images)

    def _own_notes(self) -> list[str]:
        return list(dict.fromkeys(note for _, part in self._parts for note in part._own_notes()))  # noqa: SLF001 - of its own kind

    def _divide(self, chosen: NDArray[np.int64]) -> list[tuple[int, Samples, NDArray[np.bool_]]]:
        return [
            (offset, part, (chosen >= offset) & (chosen < offset + part.n))
            for offset, part in self._parts
        ]

    def _offset(self, part: Samples) -> int:
        return next(offset for offset, own in self._parts if own is part)


def join_answers(one: Answers, other: Answers) -> Answers:
    """Return the answers of two sources, one behind the other.

    Raises:
        DataError: they do not have the same columns.
    """
    if isinstance(one, Mapping) or isinstance(other, Mapping):
        if not isinstance(one, Mapping) or not isinstance(other, Mapping) or set(one) != set(other):
            raise DataError(
                "training and validation data do not have the same label columns",
                remedy="name the same columns of both with --label-column",
            )
        return {name: _behind(column, other[name]) for name, column in one.items()}
    return _behind(one, other)


def _behind(one: Column, other: Column) -> Column:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        texts = (one.dtype.kind in "US") == (other.dtype.kind in "US")
        if texts and one.shape[1:] == other.shape[1:]:
            return np.concatenate([one, other])
    if type(one) is type(other) and not isinstance(one, np.ndarray):
        return one + other  # type: ignore[operator]  # lists and masks know how
    return [*one, *other]


def _join(arrays: list[NDArray[Any]], axis: int | None, order: NDArray[np.int64]) -> NDArray[Any]:
    if axis is None:
        return arrays[0]
    return np.take(np.concatenate(arrays, axis), order, axis)
