"""One of several classes per pixel: masks read, judged by intersection over union and drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from surgeon.errors import DataError
from surgeon.records import Head
from surgeon.tasks.base import Decoded, Scores, Targets
from surgeon.tasks.labels import one_column, sort_labels
from surgeon_tasks import places

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.tasks.base import Link

NONE = 255
"""Value of a mask's pixels whose class is not told."""


class Segmentation(places.Placed):
    """Targets are codes [n, height, width], −100 where none; answers [n, classes, height, width].

    Codes are int16: masks of a set lie in memory.
    """

    quality: ClassVar[str] = "miou"
    place: ClassVar[str] = "pixel"
    keeps: ClassVar[tuple[str, ...]] = ("height", "width")
    link: ClassVar[Link | None] = "softmax"
    objective: ClassVar[str] = "surgeon.train.positions:EntropyDice"

    def head(self, options: Mapping[str, Any]) -> Head:  # noqa: ARG002 - it has no settings
        """Return a linear layer at every pixel, its scores brought to the size of the input."""
        return Head("conv")

    def read(self, column: Any, where: str) -> Targets:
        """Read a mask of integers per sample, all of one size; 255 and −100 are none."""
        masks = [_mask(one, f"{where}[{row}]") for row, one in enumerate(one_column(column, where))]
        for row, one in enumerate(masks):
            if one.shape != masks[0].shape:
                raise DataError(
                    f"its mask is {_size(one)}, that of the first sample {_size(masks[0])}",
                    where=f"{where}[{row}]",
                    remedy="give masks of one size, that of the pictures as the model takes them",
                )
        distinct = sorted({int(value) for one in masks for value in np.unique(one)})
        if distinct == [0, NONE]:
            raise DataError(
                f"the masks hold 0 and {NONE} only, and {NONE} is a pixel whose class is not told",
                where=where,
                remedy="write the class as 1, or another value below 255",
            )
        names = sort_labels(str(value) for value in distinct if value not in (NONE, places.NONE))
        table = np.array(
            [names.index(str(v)) if str(v) in names else places.NONE for v in distinct], np.int16
        )
        shape = masks[0].shape if masks else (0, 0)
        values = np.empty((len(masks), *shape), np.int16)
        for row, one in enumerate(masks):
            values[row] = table[np.searchsorted(distinct, one)]
        return places.with_known(values, names)

    def decode(
        self,
        raw: NDArray[Any],
        activation: str | None,
        names: Sequence[str] | None = None,  # noqa: ARG002 - they do not change what is said
    ) -> Decoded:
        """Return probabilities [n, classes, height, width]."""
        return Decoded("segmentation", places.distributions(raw, activation, 1))

    def score(self, parts: Iterable[tuple[NDArray[np.float64], Targets]]) -> Scores:
        """Return mean intersection over union, pixel accuracy and the loss in nats per pixel.

        Intersection and union of a class are summed over the whole set; the mean is over classes
        that occur or are said. Only counts are kept of a sample.
        """
        counts: list[tuple[Any, Any, Any, float]] = []
        names: Sequence[str] = ()
        for decoded, targets in parts:
            names = targets.names
            counts += [_count(*one) for one in zip(decoded, targets.values, strict=True)]
        both, right, said, lost = (np.stack(one) for one in zip(*counts, strict=True))
        union, pixels = right + said - both, right.sum(axis=1)
        judged = pixels > 0
        miou, shares = places.ratio_of_sums(both, union, judged)
        accuracy, _ = places.ratio_of_sums(both.sum(axis=1)[:, None], pixels[:, None], judged)
        figures = {
            "quality": miou,
            "miou": miou,
            "pixel_accuracy": accuracy,
            "loss": float(lost.sum() / pixels.sum()) if judged.any() else None,
        }
        sums = (one.sum(axis=0).tolist() for one in (both, right, said))
        rows = [_of_class(*one) for one in zip(names, *sums, strict=True)]
        with np.errstate(invalid="ignore"):  # no pixel is told: NaN
            return Scores(figures, shares, lost / pixels, {"per_class": rows})

    def rows(
        self,
        decoded: NDArray[np.float64],
        names: Sequence[str] | None,  # noqa: ARG002 - a mask holds codes
    ) -> list[dict[str, Any]]:
        """Return where each mask is: nowhere until it is drawn."""
        return [{"mask": None} for _ in decoded]

    def masks(self, decoded: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the likeliest class of every pixel."""
        codes: NDArray[np.int64] = decoded.argmax(axis=1)
        return codes


def _mask(given: Any, where: str) -> NDArray[np.int64]:
    """Return the mask of one sample as integers.

    Raises:
        DataError: it is none.
    """
    mask = np.asarray(given) if not isinstance(given, str) else np.zeros(0, np.str_)
    whole = mask.dtype.kind in "iub" or (mask.dtype.kind == "f" and (mask == np.round(mask)).all())
    if mask.ndim != 2 or not mask.size or not whole:
        raise DataError(
            f"it is no mask: {mask.dtype} {list(mask.shape)}, not integers [height, width]",
            where=where,
            remedy="give a class per pixel, 255 for none",
        )
    if (np.abs(mask.astype(np.float64)) > np.iinfo(np.int16).max).any():
        raise DataError("a class is above 32,767", where=where, remedy="number classes from 0")
    codes = mask.astype(np.int64)
    below = codes[(codes < 0) & (codes != places.NONE)]
    if len(below):
        raise DataError(
            f"the class of a pixel is {below[0]}",
            where=where,
            remedy="number classes from 0; 255 where none is told",
        )
    return codes


def _size(mask: NDArray[Any]) -> str:
    return f"{mask.shape[1]}×{mask.shape[0]}"


def _of_class(name: str, hits: int, right: int, said: int) -> dict[str, Any]:
    """Return what is told of a class, from pixels that are both, that are right, that are said."""
    shares = {
        "precision": (hits, said),
        "recall": (hits, right),
        "f1": (2 * hits, right + said),
        "iou": (hits, right + said - hits),
    }
    told = {key: part / whole if whole else None for key, (part, whole) in shares.items()}
    return {"label": name, **told, "support": right}


def _count(probabilities: NDArray[np.float64], codes: NDArray[Any]) -> tuple[Any, Any, Any, float]:
    """Return pixels per class that are right and said, that are right, that are said, and loss."""
    place = np.flatnonzero(codes.ravel() >= 0)
    right, classes = codes.ravel()[place].astype(np.int64), len(probabilities)
    flat = probabilities.reshape(classes, -1)
    said = flat.argmax(axis=0)[place]
    both = np.bincount(right[said == right], minlength=classes)
    of_each = [np.bincount(one, minlength=classes) for one in (right, said)]
    lost = -np.log(np.clip(flat[right, place], 1e-12, None)).sum()
    return both, of_each[0], of_each[1], float(lost)
