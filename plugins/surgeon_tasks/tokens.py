"""One of several classes per position: names in texts, parts of speech, frames of a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from surgeon.errors import DataError
from surgeon.records import Head
from surgeon.tasks import metrics
from surgeon.tasks.base import Decoded, Scores, Targets
from surgeon.tasks.labels import label_text, one_column, sort_labels
from surgeon_tasks import places
from surgeon_tasks.spans import find_spans, matches, scheme_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.tasks.base import Link, Piece


class Tokens(places.Placed):
    """Targets are codes [n, length], −100 where none is told; answers [n, length, classes].

    The quality is the F1 of spans where labels mark some, else accuracy.
    """

    quality: ClassVar[str] = "quality"
    place: ClassVar[str] = "position"
    keeps: ClassVar[tuple[str, ...]] = ("length",)
    link: ClassVar[Link | None] = "softmax"
    objective: ClassVar[str] = "surgeon.train.positions:PositionEntropy"

    def head(self, options: Mapping[str, Any]) -> Head:  # noqa: ARG002 - a linear head has none
        """Return a linear layer at every position."""
        return Head("linear")

    def read(self, column: Any, where: str) -> Targets:
        """Read a list of labels per sample, one for each position; None, "" or −100 is none."""
        rows = [_labels(row, f"{where}[{at}]") for at, row in enumerate(one_column(column, where))]
        names = sort_labels({label for row in rows for label in row if label is not None})
        place: dict[str | None, int] = {name: code for code, name in enumerate(names)}
        values = np.full((len(rows), max(map(len, rows), default=0)), places.NONE, np.int64)
        for at, row in enumerate(rows):
            values[at, : len(row)] = [place.get(label, places.NONE) for label in row]
        return places.with_known(values, names)

    def decode(
        self,
        raw: NDArray[Any],
        activation: str | None,
        names: Sequence[str] | None = None,  # noqa: ARG002 - they do not change what is said
    ) -> Decoded:
        """Return probabilities [n, length, labels]."""
        return Decoded("tokens", places.distributions(raw, activation, 2))

    def score(self, parts: Iterable[tuple[NDArray[np.float64], Targets]]) -> Scores:
        """Return accuracy over positions, F1 of spans where labels mark some, and the loss.

        The loss is in nats per position; the quality is the F1 of spans, else accuracy.
        """
        found, n = [], 0
        names: Sequence[str] = ()
        for decoded, targets in parts:
            row, at = np.nonzero(targets.values >= 0)
            codes, given = targets.values[row, at], decoded[row, at]
            lost = -np.log(np.clip(given[np.arange(len(codes)), codes], 1e-12, None))
            found.append((row + n, codes, given.argmax(axis=1), lost, given.max(axis=1, initial=0)))
            names, n = targets.names, n + len(targets)
        sample, codes, said, lost, sure = map(np.concatenate, zip(*found, strict=True))
        sizes, right, loss = (
            np.bincount(sample, weights, n) for weights in (None, said == codes, lost)
        )
        judged = sizes > 0
        accuracy, shares = places.ratio_of_sums(right[:, None], sizes[:, None], judged)
        spans, rows = None, _by_label(names, codes, said)
        scheme = scheme_of(names)
        if scheme is not None:
            wanted, told = (find_spans(one, sample, scheme) for one in (codes, said))
            hit = matches(wanted, told)
            hits, all_wanted, all_told = (
                np.bincount(sample[first], minlength=n)
                for first in (wanted.first[hit], wanted.first, told.first)
            )
            of = all_wanted + all_told
            spans, by_span = places.ratio_of_sums(2 * hits[:, None], of[:, None], judged)
            shares = shares if spans is None else by_span
            rows = _by_type(scheme.types, wanted.kind, told.kind, wanted.kind[hit])
        calibrated = {"calibration_error": metrics.calibration_error(sure, said == codes)}
        figures = {
            "quality": accuracy if spans is None else spans,
            "accuracy": accuracy,
            "span_f1": spans,
            "loss": float(lost.mean()) if len(lost) else None,
        }
        with np.errstate(invalid="ignore"):  # no position is told: NaN
            return Scores(figures, shares, loss / sizes, {"per_class": rows, "metrics": calibrated})

    def rows(
        self, decoded: NDArray[np.float64], names: Sequence[str] | None
    ) -> list[dict[str, Any]]:
        """Return the likeliest label of each position."""
        return [
            {
                "tokens": [
                    {
                        "text": None,
                        "start": None,
                        "end": None,
                        "label": str(code) if names is None else names[code],
                        "probability": float(row[at, code]),
                    }
                    for at, code in enumerate(row.argmax(axis=1).tolist())
                ]
            }
            for row in decoded
        ]

    def beside(self, row: dict[str, Any], pieces: Sequence[Piece | None]) -> dict[str, Any]:
        """Say which piece of the text each label is of; what is no piece of it is left out."""
        told = zip(row["tokens"], pieces, strict=False)
        return {
            "tokens": [
                one | {"text": piece.text, "start": piece.start, "end": piece.end}
                for one, piece in told
                if piece is not None
            ]
        }


def _labels(row: Any, where: str) -> list[str | None]:
    """Return the labels of one sample.

    Raises:
        DataError: it is no list of labels.
    """
    if not isinstance(row, list | tuple) and getattr(row, "ndim", 0) != 1:
        raise DataError(
            f"{str(row)!r:.60} is no list of labels, one per position",
            where=where,
            remedy="give a list per sample, or integers [n, length] with −100 for none",
        )
    row = row.tolist() if isinstance(row, np.ndarray) else row
    empty = (None, "", b"", places.NONE)
    return [None if one in empty else label_text(one, where) for one in row]


def _by_label(
    names: Sequence[str], codes: NDArray[np.int64], said: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """Return precision, recall and F1 of every label that occurs or is said, over positions."""
    return [
        {"label": names[code], "precision": precision, "recall": recall, "f1": f1, "support": n}
        for code, precision, recall, f1, n in metrics.by_class(codes, said)
    ]


def _by_type(
    types: Sequence[str],
    wanted: NDArray[np.int64],
    said: NDArray[np.int64],
    hit: NDArray[np.int64],
) -> list[dict[str, Any]]:
    """Return precision, recall and F1 of every type of spans."""
    rows = []
    for code, label in enumerate(types):
        hits, right, told = (int((one == code).sum()) for one in (hit, wanted, said))
        rows.append(
            {
                "label": label,
                "precision": hits / told if told else None,
                "recall": hits / right if right else None,
                "f1": 2 * hits / (right + told) if right + told else None,
                "support": right,
            }
        )
    return rows
