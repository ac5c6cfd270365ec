"""Boxes of classes in pictures: read, judged by average precision, told.

Targets are [n, 1 + most, 5]: in the first row of a sample the size of what the network is given,
(−1, 0, 0, width, height); then class, left, top, right, bottom, in its pixels; NaN where there is
no box. What must not enter: files, torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from surgeon.errors import DataError
from surgeon.records import Head
from surgeon.tasks.base import Decoded, Scores, Targets, TaskCode
from surgeon.tasks.labels import listed
from surgeon_detect import boxes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.records import Preprocess
    from surgeon.tasks.base import Ints, Link


class Detection(TaskCode):
    """A list of boxes per picture, judged by mean average precision (COCO)."""

    quality: ClassVar[str] = "map_50"
    keeps: ClassVar[tuple[str, ...]] = ("boxes",)
    objective: ClassVar[str] = "surgeon_detect.loss:Aligned"

    def head(self, options: Mapping[str, Any]) -> Head:  # noqa: ARG002 - it has no settings
        """Return the file's own class convolutions."""
        return Head("detector")

    def read(self, column: Any, where: str) -> Targets:
        """Read what `surgeon_detect.files` lists."""
        names = getattr(column, "names", None)
        if names is None:
            raise DataError(
                "boxes are read from files beside pictures",
                where=where,
                remedy="give a folder of images/ and labels/, its data.yaml, or COCO's JSON",
            )
        rows = list(column)
        most = max(map(len, rows), default=1)
        values = np.full((len(rows), most, 5), np.nan, np.float32)
        for place, row in enumerate(rows):
            values[place, : len(row)] = row
        return Targets(values, tuple(names))

    def onto(self, targets: Targets, names: Sequence[str], *, ignore_unknown: bool) -> Targets:
        """Map classes to the places of their names; a box of another one is left out."""
        if not names:
            return targets
        code = {name: place for place, name in enumerate(names)}
        lacking = sorted(
            name
            for name, count in zip(targets.names, self.counts(targets), strict=True)
            if count and name not in code
        )
        known = [name for name in targets.names if name in code]
        if lacking and not (ignore_unknown and known):
            raise DataError(
                f"boxes have labels the file does not know: {listed(lacking)}",
                remedy=f"it knows {listed(list(names))}; --ignore-unknown passes over the others",
            )
        table = np.array([*(code.get(name, np.nan) for name in targets.names), -1], np.float32)
        values = targets.values.copy()
        kinds = values[..., 0]
        there = ~np.isnan(kinds)
        kinds[there] = table[kinds[there].astype(np.int64)]
        values[np.isnan(kinds)] = np.nan
        return Targets(values, tuple(names), targets.known, targets.groups)

    def check(self, targets: Targets) -> None:
        """Refuse pictures of which none has a box."""
        if not len(targets):
            raise DataError("there is no picture to train on", remedy="give pictures and boxes")
        if not self.counts(targets).any():
            raise DataError(
                f"none of {len(targets)} pictures has a box",
                remedy="labels/ holds a text of the same name for each picture that has any",
            )

    def outputs(self, targets: Targets) -> int:
        """Return the number of classes."""
        return len(targets.names)

    def counts(self, targets: Targets) -> Ints:
        """Return how many pictures each class occurs in."""
        found: Ints = self._occurring(targets).sum(axis=0)
        return found

    def sought(self, targets: Targets) -> tuple[Link, NDArray[Any]]:
        """Return which classes are in a picture, where features are compared."""
        return "squared", self._occurring(targets).astype(np.float64)

    def strata(self, targets: Targets) -> Ints:
        """Return the rarest class of each picture; one more code for those without boxes."""
        there = self._occurring(targets)
        order = np.argsort(there.sum(axis=0), kind="stable")
        codes = np.where(there.any(axis=1), there[:, order].argmax(axis=1), len(order))
        return np.unique(codes, return_inverse=True)[1].astype(np.int64)

    @staticmethod
    def _occurring(targets: Targets) -> Ints:
        there = np.zeros((len(targets), len(targets.names)), np.int64)
        row, _ = place = np.nonzero(targets.values[..., 0] >= 0)
        there[row, targets.values[..., 0][place].astype(np.int64)] = 1
        return there

    def decode(
        self,
        raw: NDArray[Any],
        activation: str | None,  # noqa: ARG002 - the form of the output says it
        names: Sequence[str] | None = None,
    ) -> Decoded:
        """Return class, probability and box of the most probable boxes, [n, most, 6]."""
        if raw.ndim != 3:
            return Decoded("detection", np.asarray(raw, np.float64))
        return Decoded("detection", boxes.decode(raw, len(names) if names else None))

    def score(self, parts: Iterable[tuple[NDArray[np.float64], Targets]]) -> Scores:
        """Return COCO's AP, that at an overlap of 0.5, and of each class.

        AP is of a whole set; each sample's share is the AP of its picture alone, and its loss what
        that lacks to 1.
        """
        by_class: dict[int, list[boxes.Matches]] = {}
        names: Sequence[str] = ()
        shares: list[float] = []
        for decoded, targets in parts:
            names = targets.names
            for said, right in zip(decoded, targets.values, strict=True):
                found = boxes.matches(said, right[right[:, 0] >= 0])
                shares.append(boxes.of_picture(found))
                for kind, one in found.items():
                    by_class.setdefault(kind, []).append(one)
        whole = {kind: boxes.Matches.joined(all_) for kind, all_ in by_class.items()}
        figures = _figures(whole)
        rows = [_of_class(name, whole.get(code)) for code, name in enumerate(names)]
        each = np.array(shares)
        lost = {"loss": float(1 - each.mean()) if len(each) else None}
        return Scores({**figures, **lost}, each, 1 - each, {"per_class": rows})

    def rows(
        self, decoded: NDArray[np.float64], names: Sequence[str] | None
    ) -> list[dict[str, Any]]:
        """Return the boxes of each picture that are probable, in pixels of the network's input."""
        return [
            {
                "boxes": [
                    {
                        "label": names[int(kind)] if names else str(int(kind)),
                        "probability": probability,
                        "box": list(box),
                    }
                    for kind, probability, *box in one[one[:, 1] >= boxes.SHOWN].tolist()
                ]
            }
            for one in decoded
        ]

    def within(
        self, row: dict[str, Any], size: tuple[int, int], preprocess: Preprocess
    ) -> dict[str, Any]:
        """Return a row in pixels of the picture itself."""
        scale, offset = boxes.placed(size, preprocess)
        sides = np.array([size[1], size[0]] * 2, np.float64)
        told = []
        for one in row["boxes"]:
            inner = (np.asarray(one["box"]) - offset) / scale
            told.append(one | {"box": np.clip(inner, 0, sides).round(2).tolist()})
        return {**row, "boxes": told}


def _figures(whole: Mapping[int, boxes.Matches]) -> dict[str, float | None]:
    """Return figures over all classes that occur; None where none does."""
    each = [one.average_precision() for one in whole.values() if one.there]
    if not each:
        return dict.fromkeys(("quality", "map_50", "map"))
    mean = np.mean(each, axis=0)
    return {"quality": float(mean[0]), "map_50": float(mean[0]), "map": float(mean.mean())}


def _of_class(name: str, found: boxes.Matches | None) -> dict[str, Any]:
    """Return what is told of a class: from boxes that are probable, and its AP."""
    if found is None or not found.there:
        said = 0 if found is None else found.at(boxes.SHOWN)[0]
        nothing: dict[str, Any] = dict.fromkeys(("recall", "f1", "ap_50", "ap"))
        return {"label": name, "precision": 0.0 if said else None, **nothing, "support": 0}
    said, right = found.at(boxes.SHOWN)
    each = found.average_precision()
    return {
        "label": name,
        "precision": right / said if said else None,
        "recall": right / found.there,
        "f1": 2 * right / (said + found.there),
        "ap_50": float(each[0]),
        "ap": float(each.mean()),
        "support": found.there,
    }
