"""Any of several labels per sample, or none: each has a probability and a threshold of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from surgeon.errors import DataError, ModelError
from surgeon.records import DataFinding, Head
from surgeon.tasks import answers, metrics
from surgeon.tasks.base import Decoded, Scores, Targets, TaskCode
from surgeon.tasks.label_sets import cells, labels_of, rows_of
from surgeon.tasks.labels import listed, refuse_fractions, sort_labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.tasks.base import Ints, Link

THRESHOLD = 0.5
"""Probability above which a label is given where nothing is stored."""
FEW = 10
"""Samples with a label, or without, below which its threshold is that of all labels together."""


@dataclass(frozen=True)
class _Told(Targets):
    """Labels that samples name: one that none names is absent, and not unknown."""


class MultiLabel(TaskCode):
    """Targets are 0 or 1 [n, labels], NaN where it is not known; answers are probabilities."""

    quality: ClassVar[str] = "average_precision"
    link: ClassVar[Link | None] = "logistic"
    objective: ClassVar[str] = "surgeon.train.objective:BinaryCrossEntropy"

    def head(self, options: Mapping[str, Any]) -> Head:  # noqa: ARG002 - a linear head has none
        """Return the linear head."""
        return Head()

    def read(self, column: Any, where: str) -> Targets:
        """Read names of labels per sample, `a|b` or lists, or a column of 0 and 1 per label.

        Empty text and an empty list are no label; None and NaN are not known.
        """
        if isinstance(column, dict):
            names = list(map(str, column))
            return _table(
                np.stack([cells(given, f"{where}:{name}") for name, given in column.items()], 1),
                names,
            )
        if isinstance(column, np.ndarray) and column.ndim != 1:
            if column.ndim != 2:
                raise DataError(
                    f"the labels have shape {list(column.shape)}, not [n, labels]",
                    where=where,
                    remedy="give a column of 0 and 1 per label",
                )
            values = cells(column, where)
            return _table(values, [str(at) for at in range(values.shape[1])])
        found = [labels_of(value, f"{where}[{row}]") for row, value in enumerate(column)]
        hot = rows_of(found)
        if hot is not None:
            return _table(hot, [str(at) for at in range(hot.shape[1])])
        names = sort_labels(name for one in found for name in one or ())
        place = {name: at for at, name in enumerate(names)}
        values = np.zeros((len(found), len(names)))
        for row, one in enumerate(found):
            values[row, [place[name] for name in one or ()]] = 1
            if one is None:
                values[row] = np.nan
        told = _table(values, names)
        return _Told(told.values, told.names, told.known)

    def onto(self, targets: Targets, names: Sequence[str], *, ignore_unknown: bool) -> Targets:
        """Bring columns into the order of their names; unnamed ones are in order."""
        values = targets.values
        if not names:
            return targets
        numbered = targets.names == tuple(str(at) for at in range(values.shape[1]))
        if numbered and not isinstance(targets, _Told) and values.shape[1] == len(names):
            return replace(targets, names=tuple(names))
        place = {name: at for at, name in enumerate(targets.names)}
        foreign = [name for name in targets.names if name not in set(names)]
        if foreign and not (ignore_unknown and len(foreign) < len(place)):
            raise DataError(
                f"{len(foreign)} labels of the data are not known to the file: {listed(foreign)}",
                remedy=f"it knows {listed(list(names))}; --ignore-unknown leaves the others out",
            )
        absent = np.full(len(values), np.nan)
        if isinstance(targets, _Told):  # where a sample's labels are not known, none is
            absent = np.where(np.isnan(values).all(axis=1), np.nan, 0.0)
        columns = [values[:, place[name]] if name in place else absent for name in names]
        known = _table(np.stack(columns, axis=1), names)
        return replace(targets, values=known.values, names=known.names, known=known.known)

    def check(self, targets: Targets) -> None:
        """Refuse labels that no sample has, or none is without."""
        if not len(targets.answered):
            raise DataError("no sample tells its labels", remedy="give data with labelled samples")
        if not targets.names:
            raise DataError(
                "no sample has a label", remedy="give samples with and without each label"
            )
        refuse_fractions(targets.names, "multi-label learns names of labels")
        for value, said in ((1, "no sample has"), (0, "every sample has")):
            lone = np.flatnonzero(~(targets.values == value).any(axis=0))
            if len(lone):
                raise DataError(
                    f"{said} {len(lone)} of {len(targets.names)} labels: "
                    f"{listed([targets.names[at] for at in lone])}",
                    remedy="give samples with and without each label, or leave these out",
                )

    def outputs(self, targets: Targets) -> int:
        """Return the number of labels."""
        return len(targets.names)

    def counts(self, targets: Targets) -> Ints:
        """Return how many samples have each label."""
        found: Ints = (targets.values == 1).sum(axis=0)
        return found

    def strata(self, targets: Targets) -> Ints | None:
        """Return the rarest label of each sample; one more code for those without any."""
        there = targets.values == 1
        order = np.argsort(self.counts(targets), kind="stable")
        codes = np.where(there.any(axis=1), there[:, order].argmax(axis=1), len(order))
        return np.unique(codes, return_inverse=True)[1].astype(np.int64)

    def findings(self, targets: Targets, parts: Mapping[str, Ints]) -> Iterable[DataFinding]:  # noqa: ARG002 - counts are of all
        """Count the labels, and name those that are too rare to be judged."""
        counts = dict(zip(targets.names, self.counts(targets).tolist(), strict=True))
        none = int((np.nansum(targets.values, axis=1) == 0).sum())
        named = listed([f"{name} {count}" for name, count in counts.items()])
        note = f"{len(targets):,} samples with {len(counts)} labels: {named}; {none} without any"
        yield DataFinding("note", "classes", note.replace("'", ""))
        rare = [name for name, count in counts.items() if 0 < count < FEW]
        if rare:
            yield DataFinding(
                "warning",
                "rare-class",
                f"{len(rare)} of {len(counts)} labels have fewer than {FEW} samples, too few to "
                f"judge them by: {listed(rare)}",
                "gather more of them, or leave them out",
            )

    def decode(
        self,
        raw: NDArray[Any],
        activation: str | None,
        names: Sequence[str] | None = None,  # noqa: ARG002 - each label has a column
    ) -> Decoded:
        """Return a probability for each label; scores without an activation become such."""
        values = np.asarray(raw, np.float64)
        if activation is not None and activation != "Identity":
            found = answers.decode(values, activation, classifier=True)
            if found.kind != "values":
                return Decoded("multi-label", found.answers, found.notes)
            return found
        if activation is None and values.size and np.nanmin(values) >= 0 and np.nanmax(values) <= 1:
            return Decoded("multi-label", values)
        return Decoded("multi-label", 0.5 + 0.5 * np.tanh(0.5 * values))

    def score(self, parts: Iterable[tuple[NDArray[np.float64], Targets]]) -> Scores:
        """Return mean average precision and F1 over labels that occur; loss in nats per label."""
        found = list(parts)
        told = np.concatenate([decoded for decoded, _ in found])
        right = np.concatenate([targets.values for _, targets in found])
        known, there = ~np.isnan(right), right == 1
        shares = np.full(right.shape, np.nan)
        for at in range(right.shape[1]):
            rows = known[:, at]
            shares[rows, at] = metrics.average_precision(told[rows, at], there[rows, at])
        occur = np.flatnonzero(there.any(axis=0))
        answered = known.any(axis=1)
        quality = np.where(answered, np.nansum(shares[:, occur], axis=1), np.nan)
        quality *= answered.sum() / max(len(occur), 1)  # so that the mean is the figure
        entropy = -np.log(np.clip(np.where(there, told, 1 - told), 1e-12, None))
        lost = np.where(known, entropy, 0.0).sum(axis=1) / np.where(
            answered, known.sum(axis=1), np.nan
        )
        said = (told > self._thresholds(found[0][1].names, told.shape[1])) & known
        precision = float(np.nanmean(quality)) if len(occur) else None
        return Scores(
            {
                "average_precision": precision,
                "quality": precision,
                "micro_f1": metrics.f1(said.ravel(), there.ravel()),
                "macro_f1": _mean([metrics.f1(said[:, at], there[:, at]) for at in occur]),
                "subset_accuracy": _mean((said == there)[answered].all(axis=1)),
                "loss": _mean(entropy[known]),
            },
            quality,
            lost,
        )

    def rows(
        self, decoded: NDArray[np.float64], names: Sequence[str] | None
    ) -> list[dict[str, Any]]:
        """Return the labels above their thresholds, and the probabilities of all."""
        given = decoded > self._thresholds(names or (), decoded.shape[1])
        words = names or [str(at) for at in range(decoded.shape[1])]
        absent = dict.fromkeys(("label", "index", "probability", "values"))
        return [
            absent
            | {"labels": [words[at] for at in np.flatnonzero(row)], "probabilities": told.tolist()}
            for row, told in zip(given, decoded, strict=True)
        ]

    def details(self, decoded: NDArray[np.float64], targets: Targets) -> dict[str, Any]:
        """Return figures of each label."""
        said = decoded > self._thresholds(targets.names, decoded.shape[1])
        rows = []
        for at, name in enumerate(targets.names):
            known = ~np.isnan(targets.values[:, at])
            right, given = targets.values[known, at] == 1, said[known, at]
            hits, support = int((right & given).sum()), int(right.sum())
            shares = metrics.average_precision(decoded[known, at], right)
            rows.append(
                {
                    "label": name,
                    "precision": hits / int(given.sum()) if given.any() else None,
                    "recall": hits / support if support else None,
                    "f1": metrics.f1(given, right),
                    "support": support,
                    "average_precision": float(shares.sum()) if support else None,
                }
            )
        known = ~np.isnan(targets.values)
        told, right = decoded[known], targets.values[known]
        calibrated = {
            "calibration_error": metrics.calibration_error(told, right),
            "brier": float(((told - right) ** 2).mean()) if len(told) else None,
        }
        return {"per_class": rows, "metrics": calibrated}

    def calibrate(self, decoded: NDArray[np.float64], targets: Targets) -> dict[str, Any]:
        """Return the threshold of each label at which F1 is best on these samples."""
        known = ~np.isnan(targets.values)
        there = targets.values == 1
        shared = metrics.best_threshold(decoded[known], there[known], THRESHOLD, FEW)
        found = {}
        for at, name in enumerate(targets.names):
            rows = known[:, at]
            told = decoded[rows, at]
            found[name] = metrics.best_threshold(told, there[rows, at], shared, FEW)
        return {"thresholds": found}

    def _thresholds(self, names: Sequence[str], count: int) -> NDArray[np.float64]:
        stored = self.stored.get("thresholds") or {}
        try:
            return np.array([float(stored.get(name, THRESHOLD)) for name in names or range(count)])
        except (AttributeError, TypeError, ValueError):
            raise ModelError(
                "the thresholds of labels are no numbers",
                where="metadata 'surgeon.decoding'",
                remedy="the file was edited by another tool; train it again",
            ) from None


def _table(values: NDArray[np.float64], names: Sequence[str]) -> Targets:
    known = ~np.isnan(values)
    return Targets(values, tuple(names), None if known.all() else known)


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None
