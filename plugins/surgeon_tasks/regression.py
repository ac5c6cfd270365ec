"""One or several numbers per sample: read, judged, told with intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from surgeon.errors import DataError
from surgeon.records import DataFinding, Head
from surgeon.tasks.base import Decoded, Scores, Targets, TaskCode
from surgeon.tasks.labels import listed
from surgeon.tasks.numbers import read_numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.tasks.base import Ints, Link

COVERAGE = 0.9
"""Share of samples whose number an interval holds."""


class Regression(TaskCode):
    """Targets and answers are numbers [n, outputs]; intervals are stored as `half_widths`."""

    quality: ClassVar[str] = "r2"
    link: ClassVar[Link | None] = "squared"
    output: ClassVar[str] = "values"
    objective: ClassVar[str] = "surgeon.train.objective:SquaredError"

    def head(self, options: Mapping[str, Any]) -> Head:  # noqa: ARG002 - a linear head has none
        """Return the linear head."""
        return Head()

    def read(self, column: Any, where: str) -> Targets:
        """Read a number, or a list of numbers, per sample; or a column of numbers per output."""
        if isinstance(column, dict):
            read = [read_numbers(values, f"{where}:{name}") for name, values in column.items()]
            if any(values.ndim > 1 for values in read):
                raise DataError(
                    "a cell of several columns holds several numbers",
                    where=where,
                    remedy="name one column of lists, or several of numbers, with --label-column",
                )
            return Targets(np.stack(read, axis=1), tuple(map(str, column)))
        values = read_numbers(column, where)
        if values.ndim > 2 or (values.ndim == 2 and not values.shape[1]):
            raise DataError(
                f"the numbers to predict have shape {list(values.shape)}",
                where=where,
                remedy="give [n], or [n, outputs]",
            )
        return Targets(values.reshape(len(values), -1) if len(values) else values.reshape(0, 1))

    def onto(self, targets: Targets, names: Sequence[str], *, ignore_unknown: bool) -> Targets:  # noqa: ARG002 - no name is unknown among numbers
        """Bring columns into the order of their names; without names they are in order."""
        place = {name: at for at, name in enumerate(targets.names)}
        if names and place and (absent := [name for name in names if name not in place]):
            raise DataError(
                f"the data have no column {listed(absent)}",
                remedy=f"they have {listed(targets.names)}; name them with --label-column",
            )
        if names and not place and len(names) != targets.values.shape[1]:
            raise DataError(
                f"the data have {targets.values.shape[1]} numbers a sample, the file gives "
                f"{len(names)}: {listed(list(names))}",
                remedy="name the columns with --label-column",
            )
        if not names or not place:
            return Targets(targets.values, tuple(names), targets.known, targets.groups)
        values = targets.values[:, [place[name] for name in names]]
        return Targets(values, tuple(names), targets.known, targets.groups)

    def check(self, targets: Targets) -> None:
        """Refuse fewer than two samples, and numbers that are all the same."""
        if len(targets) < 2:
            raise DataError(
                f"there are {len(targets)} samples to train on", remedy="give at least two"
            )
        same = np.flatnonzero(np.ptp(targets.values, axis=0) == 0)
        if len(same):
            names = [targets.names[at] if targets.names else str(at) for at in same.tolist()]
            raise DataError(
                f"all {len(targets)} samples have the same number "
                f"{targets.values[0, same[0]]:g}: nothing can be learnt from it",
                where=f"column {listed(names)}" if targets.values.shape[1] > 1 else None,
                remedy="give numbers that vary, or leave the column out",
            )

    def outputs(self, targets: Targets) -> int:
        """Return how many numbers a sample has."""
        return int(targets.values.shape[1])

    def strata(self, targets: Targets) -> Ints | None:
        """Return up to ten bins of equal size, by the mean of the standardised numbers."""
        values, bins = targets.values, min(10, len(targets) // 10)
        if bins < 2:
            return None
        spread = values.std(axis=0)
        level = ((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)).mean(axis=1)
        edges = np.quantile(level, np.arange(1, bins) / bins)
        codes: Ints = np.searchsorted(edges, level, side="right").astype(np.int64)
        return codes

    def findings(self, targets: Targets, parts: Mapping[str, Ints]) -> Iterable[DataFinding]:  # noqa: ARG002 - the range is of all
        """Say the range of the numbers."""
        for place, column in enumerate(targets.values.T):
            name = f"{targets.names[place]}: " if targets.names else ""
            low, middle, high = (f"{value:g}" for value in np.quantile(column, (0, 0.5, 1)))
            yield DataFinding(
                "note",
                "numbers",
                f"{name}{len(column):,} numbers from {low} to {high}, half of them below {middle}",
            )

    def decode(
        self,
        raw: NDArray[Any],
        activation: str | None,  # noqa: ARG002 - what a graph gives are the numbers
        names: Sequence[str] | None = None,  # noqa: ARG002 - the same
    ) -> Decoded:
        """Return the numbers as they are."""
        return Decoded("values", np.asarray(raw, np.float64))

    def score(self, parts: Iterable[tuple[NDArray[np.float64], Targets]]) -> Scores:
        """Return R², mean absolute error and root mean squared error, each a mean over outputs.

        `loss` is the mean squared error. An output whose numbers are all the same has no R².
        """
        found = [(decoded, targets.values) for decoded, targets in parts]
        told, right = (np.concatenate(values) for values in zip(*found, strict=True))
        apart = told.reshape(right.shape) - right
        squares, spread = apart**2, right.var(axis=0) if len(right) else np.zeros(right.shape[1])
        shares = 1 - (squares[:, spread > 0] / spread[spread > 0])
        shares = shares.mean(axis=1) if shares.shape[1] else np.full(len(right), np.nan)
        figures: dict[str, float | None] = dict.fromkeys(("r2", "mae", "rmse", "loss"))
        if len(right):
            figures = {
                "r2": float(shares.mean()) if (spread > 0).any() else None,
                "mae": float(np.abs(apart).mean()),
                "rmse": float(np.sqrt(squares.mean(axis=0)).mean()),
                "loss": float(squares.mean()),
            }
        return Scores(figures | {"quality": figures["r2"]}, shares, squares.mean(axis=1))

    def rows(
        self,
        decoded: NDArray[np.float64],
        names: Sequence[str] | None,  # noqa: ARG002 - values are in the file's order
    ) -> list[dict[str, Any]]:
        """Return the numbers of each sample, and [lowest, highest] of each where it is stored."""
        widths = self.stored.get("half_widths")
        absent = ("label", "index", "probability", "probabilities", "labels")
        told = [dict.fromkeys(absent) | {"values": row.tolist()} for row in decoded]
        if isinstance(widths, list) and len(widths) == decoded.shape[1]:
            for one, row in zip(told, decoded, strict=True):
                one["interval"] = [
                    [v - w, v + w] for v, w in zip(row.tolist(), widths, strict=True)
                ]
        return told

    def calibrate(self, decoded: NDArray[np.float64], targets: Targets) -> dict[str, Any]:
        """Return half the width of an interval that holds nine of ten numbers, per output.

        Split conformal prediction (Lei et al., "Distribution-Free Predictive Inference for
        Regression", 2018): the ⌈0.9 (n + 1)⌉-th smallest of n absolute errors.
        """
        n = len(targets)
        place = math.ceil(COVERAGE * (n + 1))
        if place > n:
            note = f"{n} validation samples are too few for intervals that hold 90 %: none are told"
            return {"notes": [note]}
        errors = np.sort(np.abs(decoded.reshape(n, -1) - targets.values), axis=0)
        return {"coverage": COVERAGE, "half_widths": errors[place - 1].tolist(), "samples": n}
