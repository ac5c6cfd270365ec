"""What a task is: how answers are read from data, judged and told. The core knows none.

A task has two halves. This one, `TaskCode`, knows numpy and nothing else of the field; the other,
its objective, is what torch minimises, and is imported by name when training by steps begins.

Shapes: n samples; what follows the first axis is the task's own ([n] class codes, [n, k] columns,
[n, length] positions, [n, height, width] pixels). What must not enter: files, graphs, torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.records import DataFinding, Head, Preprocess

    Ints = NDArray[np.int64]
    Column = Sequence[Any] | NDArray[Any]
    Answers = Column | Mapping[str, Column]
    Link = Literal["softmax", "logistic", "squared", "discriminant"]


@dataclass(frozen=True)
class Targets:
    """The right answers of n samples.

    Attributes:
        values: [n, …] what is learnt: class codes, 0 or 1 per label, numbers, codes per position.
        names: of the outputs in their order (classes, labels, columns); empty where they have none.
        known: True where the answer is given, in the shape of `values` or [n]; None = everywhere.
        groups: [n] codes of what may not be torn apart by a split (patients, recordings, copies);
            None = each sample by itself.
    """

    values: NDArray[Any]
    names: tuple[str, ...] = ()
    known: NDArray[np.bool_] | None = None
    groups: Ints | None = None

    def __len__(self) -> int:
        """Return n."""
        return len(self.values)

    @property
    def answered(self) -> Ints:
        """Positions of the samples that tell anything."""
        if self.known is None:
            return np.arange(len(self))
        told = self.known.any(axis=tuple(range(1, self.known.ndim)))
        return np.flatnonzero(told)

    def __getitem__(self, rows: NDArray[Any] | slice) -> Targets:
        """Return the targets of some samples, by positions, a mask or a slice."""
        return replace(
            self,
            values=self.values[rows],
            known=None if self.known is None else self.known[rows],
            groups=None if self.groups is None else self.groups[rows],
        )


@dataclass(frozen=True)
class Scores:
    """How good answers are.

    Attributes:
        figures: what a document's `metrics` object holds beside `samples`: `loss`, `quality` and
            the task's own keys. None = not defined for these samples.
        quality: [n] share of each sample in the quality; more is better. Two models are compared
            on the same samples by the differences of these. NaN where the answer is unknown.
        loss: [n] of each sample, in nats where answers are probabilities; NaN likewise.
        details: what `evaluate` adds where it is known by now, as `TaskCode.details` says it: a
            task whose answers do not fit into memory tells it here.
    """

    figures: Mapping[str, float | None]
    quality: NDArray[np.float64]
    loss: NDArray[np.float64]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Decoded:
    """What raw outputs say.

    Attributes:
        kind: what `answers` holds: `classification` (each row is one distribution over classes),
            `multi-label` (each column is the probability of a label), `values`, or a task's own.
        answers: [n, …] probabilities or values, float64.
        notes: what people should know.
        task: name of the task that tells them; None = the one that decoded them.
    """

    kind: str
    answers: NDArray[np.float64]
    notes: tuple[str, ...] = field(default=())
    task: str | None = None


class Piece(NamedTuple):
    """What of a sample a position stands for: a word of a text, with its place in characters."""

    text: str
    start: int
    end: int


class TaskCode(ABC):
    """One task. Every method is a function of what it is given, and of what the file stores.

    Attributes:
        quality: name of the figure by which models are chosen; more is better.
        link: how the head's outputs meet the targets where it can be solved without steps:
            `discriminant` gives vectors of which directions count, of samples of known classes;
            None = the head is trained by steps on cached features.
        output: name of the graph output that the new head makes.
        keeps: axes of a sample that answers keep, as `HeadKind.keeps` names them: (), ("length",),
            ("height", "width"). Answers that keep some are judged and told as they come, since all
            of them may not fit into memory.
        any_outputs: whether people may say how many numbers the head gives (`--classes`), as of
            vectors, rather than the answers.
        objective: `"module:attribute"` of the torch half, an `Objective` of `surgeon.train`.
        extends: whether names that a file lacks can be added behind its own: targets are [n] codes
            of classes.
    """

    quality: ClassVar[str]
    link: ClassVar[Link | None] = None
    output: ClassVar[str] = "logits"
    keeps: ClassVar[tuple[str, ...]] = ()
    any_outputs: ClassVar[bool] = False
    objective: ClassVar[str]
    extends: ClassVar[bool] = False

    @property
    def names_classes(self) -> bool:
        """Whether outputs are scores of classes or labels, which have names."""
        return self.output == "logits"

    def __init__(self, stored: Mapping[str, Any] | None = None) -> None:
        """Take what a file stores of the task beside its plan: what `calibrate` gave once."""
        self.stored: Mapping[str, Any] = stored or {}

    @abstractmethod
    def head(self, options: Mapping[str, Any]) -> Head:
        """Return the head that gives the answers where a plan names none."""

    @abstractmethod
    def read(self, column: Any, where: str) -> Targets:
        """Read the answers of all samples as the data tells them.

        Args:
            column: `Answers`: n texts, numbers or lists, an array [n, …], or a column of each name
                where people named several.
            where: where they stand, for messages; `where[3]` is the fourth of them.

        Raises:
            DataError: one that is missing or of another form; says where.
        """

    @abstractmethod
    def onto(self, targets: Targets, names: Sequence[str], *, ignore_unknown: bool) -> Targets:
        """Say the same in the outputs of a file: `names` in their order.

        Samples that tell nothing the file knows are unknown (`known`).

        Raises:
            DataError: names that the file lacks, unless `ignore_unknown`; or none that it knows.
        """

    @abstractmethod
    def check(self, targets: Targets) -> None:
        """Refuse answers that nothing can be learnt from.

        Raises:
            DataError: says what is missing, and names every offender.
        """

    @abstractmethod
    def outputs(self, targets: Targets) -> int:
        """Return how many numbers the head gives per sample or position."""

    def counts(self, targets: Targets) -> Ints:  # noqa: ARG002 - the general answer
        """Return how many samples each of `targets.names` occurs in, [outputs].

        A name that has samples must have one in training. Empty where names are no such thing.
        """
        return np.zeros(0, np.int64)

    def sought(self, targets: Targets) -> tuple[Link, NDArray[Any]]:
        """Return what a linear model is asked for per sample, where features are compared.

        Class codes [n] are themselves; of codes per position, the share of each output in its
        sample, [n, outputs]; numbers [n, k] are themselves by the task's link.
        """
        values = targets.values
        if values.dtype.kind in "iu" and values.ndim == 1:
            return "softmax", values
        if values.dtype.kind in "iu":
            flat = values.reshape(len(values), -1)
            shares = [(flat == code).mean(axis=1) for code in range(self.outputs(targets))]
            return "squared", np.stack(shares, axis=1)
        return self.link or "squared", values.reshape(len(values), -1)

    def strata(self, targets: Targets) -> Ints | None:  # noqa: ARG002 - the general answer
        """Return [n] codes whose shares every part of a split keeps; None = no matter."""
        return None

    @abstractmethod
    def decode(
        self, raw: NDArray[Any], activation: str | None, names: Sequence[str] | None = None
    ) -> Decoded:
        """Read raw outputs. What the graph has done already (`activation`) is not done again.

        Args:
            raw: [n, …] what the graph gives.
            activation: what it ends in: `Softmax`, `LogSoftmax`, `Sigmoid`, `Identity` for a head
                of ours, or None where nobody knows.
            names: of the outputs, where the file has them: one Sigmoid of two names is the
                second's.
        """

    @abstractmethod
    def score(self, parts: Iterable[tuple[NDArray[np.float64], Targets]]) -> Scores:
        """Judge answers, those that are known.

        Args:
            parts: [n, …] answers as `decode` gives them and the targets of the same samples, some
                at a time, as all together may not fit into memory; at least one part.
        """

    @abstractmethod
    def rows(
        self, decoded: NDArray[np.float64], names: Sequence[str] | None
    ) -> list[dict[str, Any]]:
        """Return what `predict` tells of each sample, without its name."""

    def beside(
        self,
        row: dict[str, Any],
        pieces: Sequence[Piece | None],  # noqa: ARG002 - the general answer
    ) -> dict[str, Any]:
        """Return a row of `rows` with the pieces of the sample that its positions stand for.

        Args:
            row: of one sample.
            pieces: one per position; None where it stands for none (padding, special tokens).
        """
        return row

    def within(
        self,
        row: dict[str, Any],
        size: tuple[int, int],  # noqa: ARG002 - the general answer
        preprocess: Preprocess,  # noqa: ARG002 - the same
    ) -> dict[str, Any]:
        """Return a row of `rows` with its places in those of the picture.

        Args:
            row: of one sample; places are those of what the network is given.
            size: height and width of the picture, upright.
            preprocess: how it became that.
        """
        return row

    def masks(
        self,
        decoded: NDArray[np.float64],  # noqa: ARG002 - the general answer
    ) -> NDArray[np.int64] | None:
        """Return codes [n, height, width] that `predict --masks` writes; None = none."""
        return None

    def details(
        self,
        decoded: NDArray[np.float64],  # noqa: ARG002 - the general answer
        targets: Targets,  # noqa: ARG002 - the same
    ) -> dict[str, Any]:
        """Return what `evaluate` adds: `per_class`, `confusion`; empty where they mean nothing.

        `metrics` are figures beside those of `score`, `warnings` what people should know.
        """
        return {}

    def calibrate(
        self,
        decoded: NDArray[np.float64],  # noqa: ARG002 - the general answer
        targets: Targets,  # noqa: ARG002 - the same
    ) -> dict[str, Any]:
        """Return what the file stores of answers to samples that were not learnt from: JSON.

        Thresholds of labels, widths of intervals: whatever telling answers needs. Texts under
        `notes` are said to people and not stored.
        """
        return {}

    def findings(
        self,
        targets: Targets,  # noqa: ARG002 - the general answer
        parts: Mapping[str, Ints],  # noqa: ARG002 - the same
    ) -> Iterable[DataFinding]:
        """Return what is wrong with the answers, seen in training samples only."""
        return ()
