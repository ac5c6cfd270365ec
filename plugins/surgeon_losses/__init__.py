"""The losses that come with surgeon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.plugin import hookimpl
from surgeon.records import Loss

if TYPE_CHECKING:
    from collections.abc import Iterable


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
