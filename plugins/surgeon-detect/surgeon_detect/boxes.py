"""Boxes in arrays: what outputs say, overlaps, suppression, average precision.

Boxes are [.., 4]: left, top, right, bottom, in pixels of what the network is given. What must not
enter: files, torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from surgeon.records import Preprocess

    Floats = NDArray[np.float64]

LEAST = 0.001
"""Probability below which a box is not looked at."""
SHOWN = 0.25
"""Probability from which on a box is told to people."""
OVERLAP = 0.7
"""Intersection over union above which the less probable of two boxes of a class goes."""
CANDIDATES, MOST = 500, 100
"""The most probable boxes that are looked at, and that are kept, of each picture (COCO: 100)."""
STEPS = np.linspace(0.5, 0.95, 10)
"""Overlaps from which on a box is right; their mean is COCO's AP."""
RECALLS = np.linspace(0, 1, 101)


def layout(shape: Sequence[int], classes: int | None) -> tuple[int, int]:
    """Return the axis on which columns of an output [n, …, …] lie, and the column of class 0."""
    fitting = [
        (axis, first)
        for axis, first in ((1, 4), (2, 5), (2, 4), (1, 5))
        if classes is None or shape[axis] == first + classes
    ]
    if not fitting:
        return (1, 4) if shape[1] < shape[2] else (2, 5)
    return min(fitting, key=lambda one: shape[one[0]])


def decode(raw: NDArray[Any], classes: int | None) -> Floats:
    """Return the boxes that outputs say, [n, MOST, 6]: class, probability, box; NaN where none."""
    axis, first = layout(raw.shape, classes)
    rows = np.moveaxis(np.asarray(raw, np.float64), axis, 2)
    found = np.full((len(rows), MOST, 6), np.nan)
    for place, row in enumerate(rows):
        scores = row[:, first:] * (row[:, 4:5] if first == 5 else 1.0)
        kept = _chosen(row[:, :4], scores)
        found[place, : len(kept)] = kept
    return found


def _chosen(boxes: Floats, scores: Floats) -> Floats:
    """Return [m, 6] of one picture: what overlaps a more probable box of its class is left out."""
    flat = scores.ravel()
    order = np.argsort(-flat, kind="stable")[:CANDIDATES]
    order = order[flat[order] > LEAST]
    anchors, kinds = np.divmod(order, scores.shape[1])
    middle, half = boxes[anchors, :2], boxes[anchors, 2:] / 2
    corners = np.concatenate([middle - half, middle + half], axis=1)
    overlaps = overlap(corners, corners) * (kinds[:, None] == kinds)
    kept: list[int] = []
    alive = np.ones(len(order), np.bool_)
    for place in range(len(order)):
        if alive[place]:
            kept.append(place)
            alive &= overlaps[place] <= OVERLAP
            if len(kept) == MOST:
                break
    return np.column_stack([kinds[kept], flat[order[kept]], corners[kept]])


def overlap(one: Floats, other: Floats) -> Floats:
    """Return intersection over union, [n, m], of boxes [n, 4] and [m, 4]."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    inner = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(b[:, 2:] - b[:, :2], 0, None), axis=1) for b in (one, other)]
    union = areas[0][:, None] + areas[1][None] - inner
    result: Floats = np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)
    return result


@dataclass(frozen=True)
class Matches:
    """Boxes of some class that were said, by falling probability, and how many there are.

    Attributes:
        scores: [m] probabilities.
        right: [m, 10] whether each is one of the boxes that are there, by `STEPS`.
        there: how many are there.
    """

    scores: Floats
    right: NDArray[np.bool_]
    there: int

    @classmethod
    def of(cls, said: Floats, there: Floats) -> Matches:
        """Match boxes of one class in one picture: [m, 5] probability and box, [t, 4].

        Each takes the box that it overlaps most among those that none took before (COCO).
        """
        said = said[np.argsort(-said[:, 0], kind="stable")]
        right = np.zeros((len(said), len(STEPS)), np.bool_)
        overlaps = overlap(said[:, 1:], there)
        for step, least in enumerate(STEPS):
            left = np.ones(len(there), np.bool_)
            for row in range(len(said) if len(there) else 0):
                open_ = np.where(left, overlaps[row], -1.0)
                best = int(open_.argmax())
                if open_[best] >= least:
                    right[row, step], left[best] = True, False
        return cls(said[:, 0], right, len(there))

    @classmethod
    def joined(cls, parts: Sequence[Matches]) -> Matches:
        """Return those of several pictures as one."""
        scores = np.concatenate([one.scores for one in parts])
        order = np.argsort(-scores, kind="stable")
        right = np.concatenate([one.right for one in parts])[order]
        return cls(scores[order], right, sum(one.there for one in parts))

    def average_precision(self) -> Floats:
        """Return [10] the mean, over 101 recalls, of the best precision there or beyond (COCO)."""
        hits = self.right.cumsum(axis=0)
        if not self.there or not len(hits):
            return np.zeros(len(STEPS))
        precision = hits / np.arange(1, len(hits) + 1)[:, None]
        best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        places = [np.searchsorted(column / self.there, RECALLS, side="left") for column in hits.T]
        reached = [
            np.where(at < len(hits), column[np.minimum(at, len(hits) - 1)], 0.0).mean()
            for at, column in zip(places, best.T, strict=True)
        ]
        return np.array(reached)

    def at(self, least: float) -> tuple[int, int]:
        """Return how many are said from a probability on, and how many of them are right (0.5)."""
        said = self.scores >= least
        return int(said.sum()), int(self.right[said, 0].sum())


def matches(said: Floats, there: NDArray[Any]) -> dict[int, Matches]:
    """Return {class: matches} of one picture: [m, 6] as of `decode`, [t, 5] class and box."""
    said = said[~np.isnan(said[:, 0])]
    found = {}
    for kind in np.unique(np.concatenate([said[:, 0], there[:, 0]])).astype(int).tolist():
        mine = there[there[:, 0] == kind, 1:].astype(np.float64)
        found[kind] = Matches.of(said[said[:, 0] == kind, 1:], mine)
    return found


def of_picture(found: dict[int, Matches], step: int = 0) -> float:
    """Return the mean AP of the classes that are in a picture, at one of `STEPS`.

    Of a picture without boxes: 1 if none is told, else 0.
    """
    there = [one.average_precision()[step] for one in found.values() if one.there]
    if there:
        return float(np.mean(there))
    return 0.0 if any(one.at(SHOWN)[0] for one in found.values()) else 1.0


def placed(
    size: tuple[int, int], preprocess: Preprocess
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scale and offset, [4], of a picture's pixels in what the network is given.

    Args:
        size: height and width of the picture, upright.
        preprocess: how it becomes an input.
    """
    height, width = preprocess.size
    if preprocess.fit == "stretch":
        return np.array([width / size[1], height / size[0]] * 2), np.zeros(4)
    ratio = max(width / size[1], height / size[0])
    covering = max(width, int(size[1] * ratio + 1e-6)), max(height, int(size[0] * ratio + 1e-6))
    cut = round((covering[0] - width) / 2), round((covering[1] - height) / 2)
    return np.array([covering[0] / size[1], covering[1] / size[0]] * 2), -np.array(cut * 2, float)
