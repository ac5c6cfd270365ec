"""The losses that come with surgeon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.plugin import hookimpl
from surgeon.records import Loss

if TYPE_CHECKING:
    from collections.abc import Iterable

CLASSES = ("classification", "ordinal")
PLACES = ("tokens", "segmentation")


@hookimpl
def surgeon_losses() -> Iterable[Loss]:
    """Offer the losses."""
    yield Loss(
        "dice", "1 − the overlap of each class, for masks", "surgeon.train.positions:dice",
        ("segmentation",),
    )  # fmt: skip
    yield Loss(
        "supcon", "samples of one class near each other, by pairs in a batch",
        "surgeon_losses.embedding:SupCon", ("embedding",),
    )  # fmt: skip
    yield Loss(
        "arcface", "a direction per class, with a margin between them",
        "surgeon_losses.embedding:ArcFace", ("embedding",),
    )  # fmt: skip
    yield Loss(
        "focal", "hard samples count more: gamma=2", "surgeon_losses.plain:focal",
        (*CLASSES, *PLACES, "multi-label"),
    )  # fmt: skip
    yield Loss(
        "smoothing", "labels are right with probability 1 − amount: amount=0.1",
        "surgeon_losses.plain:smoothing", (*CLASSES, *PLACES),
    )  # fmt: skip
    yield Loss(
        "weighted", "classes count alike, or as told: weights=balanced, weights=cat:3|dog:1",
        "surgeon_losses.weighted:Weighted", CLASSES,
    )  # fmt: skip
    yield Loss(
        "huber", "far numbers count less: delta=1, in standard deviations",
        "surgeon_losses.plain:huber", ("regression",),
    )  # fmt: skip
    yield Loss(
        "ordinal", "far classes are more wrong than near ones: weight=1",
        "surgeon_losses.plain:ordinal", CLASSES,
    )  # fmt: skip
