"""Distillation: another file, run by ONNX Runtime, teaches what is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.plugin import hookimpl
from surgeon.records import Loss

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def surgeon_losses() -> Iterable[Loss]:
    """Offer the loss."""
    yield Loss(
        "distill", "a file, or the original, teaches: teacher=FILE, temperature=2, weight=0.5",
        "surgeon_distill.loss:Distill", beside="surgeon_distill.teacher:teach",
        example="surgeon_distill.example:taught",
    )  # fmt: skip
