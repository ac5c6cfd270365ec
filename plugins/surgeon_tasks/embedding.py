"""Vectors in which samples of one class lie near each other: for search, and for classes unseen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from surgeon.errors import DataError
from surgeon.records import Head
from surgeon.tasks.base import Decoded, Scores, Targets, TaskCode
from surgeon.tasks.labels import code_labels, label_text, one_column

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.tasks.base import Ints, Link

DIMENSIONS = 64
BEST = 10
"""Neighbours that the mean average precision looks at."""
TEMPERATURE = 0.1
_AT_ONCE = 2**22
"""Similarities computed at once."""


class Embedding(TaskCode):
    """Targets are class codes [n], which outputs do not name; answers are vectors [n, d]."""

    quality: ClassVar[str] = "recall_at_1"
    link: ClassVar[Link | None] = "discriminant"
    output: ClassVar[str] = "embedding"
    any_outputs: ClassVar[bool] = True
    objective: ClassVar[str] = "surgeon_losses.embedding:ArcFace"

    def head(self, options: Mapping[str, Any]) -> Head:
        """Return a linear layer whose output has length one."""
        return Head("embed", options=dict(options))

    def read(self, column: Any, where: str) -> Targets:
        """Read one class or group per sample, by its name or number."""
        column = one_column(column, where)
        if isinstance(column, np.ndarray) and column.ndim != 1:
            raise DataError(
                f"the answers have shape {list(column.shape)}, not [n]",
                where=where,
                remedy="give one class or group per sample",
            )
        labels = [label_text(value, f"{where}[{row}]") for row, value in enumerate(column)]
        return Targets(code_labels(labels).values)

    def onto(
        self,
        targets: Targets,
        names: Sequence[str],  # noqa: ARG002 - outputs of vectors have none
        *,
        ignore_unknown: bool,  # noqa: ARG002 - any class may be judged
    ) -> Targets:
        """Return the targets: which samples belong together does not depend on the file."""
        return targets

    def check(self, targets: Targets) -> None:
        """Refuse a single class, and classes that all have a single sample."""
        if not len(targets):
            raise DataError(
                "there is no sample to train on", remedy="give data with labelled samples"
            )
        counts = np.unique(targets.values, return_counts=True)[1]
        if len(counts) == 1:
            raise DataError(
                f"all {len(targets)} samples are of the same class",
                remedy="give samples of at least two classes",
            )
        if counts.max() == 1:
            raise DataError(
                f"each of the {len(counts)} classes has a single sample: none has a neighbour",
                remedy="give at least two samples of a class",
            )

    def outputs(self, targets: Targets) -> int:  # noqa: ARG002 - vectors are as long as wished
        """Return the dimensions of vectors where nobody says them."""
        return DIMENSIONS

    def strata(self, targets: Targets) -> Ints | None:
        """Return the classes; None where groups keep each whole, so that parts share none."""
        codes: Ints = targets.values
        if targets.groups is not None:
            pairs = np.unique(np.stack([codes, targets.groups]), axis=1)
            if len(np.unique(pairs[0])) == pairs.shape[1]:
                return None
        return codes

    def decode(
        self,
        raw: NDArray[Any],
        activation: str | None,  # noqa: ARG002 - what comes out is the vector
        names: Sequence[str] | None = None,  # noqa: ARG002 - the same
    ) -> Decoded:
        """Return the vectors as they are."""
        return Decoded("embedding", np.asarray(raw, np.float64).reshape(len(raw), -1))

    def score(self, parts: Iterable[tuple[NDArray[np.float64], Targets]]) -> Scores:
        """Return recall at 1, mean average precision at 10 and the supervised contrastive loss.

        Each sample is looked for among all others that are judged, by cosine; one whose class has
        no other is not counted. The loss is that of Khosla et al. (arXiv 2004.11362), over all.
        """
        vectors, codes, known = (
            np.concatenate(one) for one in zip(*map(_part, parts), strict=True)
        )
        first, precise, lost = (np.full(len(codes), np.nan) for _ in range(3))
        place = np.flatnonzero(known)
        for rows, found in _compared(vectors[place], codes[place]):
            at = place[rows]
            first[at], precise[at], lost[at] = found
        judged = ~np.isnan(first)
        figures = {
            name: float(values[judged].mean()) if judged.any() else None
            for name, values in (("recall_at_1", first), ("map_at_10", precise), ("loss", lost))
        }
        return Scores({"quality": figures["recall_at_1"], **figures}, first, lost)

    def rows(
        self,
        decoded: NDArray[np.float64],
        names: Sequence[str] | None,  # noqa: ARG002 - numbers of a vector have none
    ) -> list[dict[str, Any]]:
        """Return the vector of each sample."""
        return [{"embedding": row.tolist()} for row in decoded]


def _part(
    part: tuple[NDArray[np.float64], Targets],
) -> tuple[NDArray[np.float32], Ints, NDArray[np.bool_]]:
    """Return vectors of length one, codes, and whether they are known."""
    vectors, targets = part
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    known = np.ones(len(targets), np.bool_) if targets.known is None else targets.known
    return (vectors / np.maximum(length, 1e-12)).astype(np.float32), targets.values, known


def _compared(
    vectors: NDArray[np.float32], codes: Ints
) -> Iterator[tuple[NDArray[np.int64], tuple[NDArray[np.float64], ...]]]:
    """Give samples with another of their class: rows, recall, average precision, loss of each.

    Average precision at 10 = Σ precision at each of the first ten that is right ÷ the most that
    could be.
    """
    others = np.unique(codes, return_inverse=True, return_counts=True)
    fellows = others[2][others[1]] - 1
    rows = np.flatnonzero(fellows > 0)
    best, step = min(BEST, len(codes) - 1), max(1, _AT_ONCE // max(len(codes), 1))
    for begin in range(0, len(rows), step):
        some = rows[begin : begin + step]
        near = (vectors[some] @ vectors.T).astype(np.float64)
        near[np.arange(len(some)), some] = -np.inf
        order = np.argpartition(-near, best - 1, axis=1)[:, :best]
        order = np.take_along_axis(
            order, np.argsort(-np.take_along_axis(near, order, 1), axis=1, kind="stable"), 1
        )
        same = codes[order] == codes[some][:, None]
        precision = same.cumsum(axis=1) / np.arange(1, best + 1)
        precise = (precision * same).sum(axis=1) / np.minimum(fellows[some], BEST)
        scaled = near / TEMPERATURE
        total = np.logaddexp.reduce(scaled, axis=1)
        alike = (codes[None] == codes[some][:, None]) & np.isfinite(near)
        lost = total - np.where(alike, scaled, 0.0).sum(axis=1) / fellows[some]
        yield some, (same[:, 0].astype(np.float64), precise, lost)
