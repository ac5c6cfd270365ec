"""The tasks that come with surgeon, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.plugin import hookimpl
from surgeon.records import Task

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def surgeon_tasks() -> Iterable[Task]:
    """Offer the tasks."""
    yield Task(
        "classification",
        "one of several classes per sample",
        "surgeon_tasks.classification:Classification",
    )
    yield Task(
        "multi-label",
        "any of several labels per sample, or none",
        "surgeon_tasks.multi_label:MultiLabel",
    )
    yield Task(
        "ordinal",
        "grades: whole numbers in an order, a near one is less wrong",
        "surgeon_tasks.ordinal:Ordinal",
    )
    yield Task(
        "regression", "one or several numbers per sample", "surgeon_tasks.regression:Regression"
    )
    yield Task("tokens", "one of several classes per position", "surgeon_tasks.tokens:Tokens")
    yield Task(
        "segmentation",
        "one of several classes per pixel",
        "surgeon_tasks.segmentation:Segmentation",
    )
    yield Task(
        "embedding",
        "vectors, near each other within a class",
        "surgeon_tasks.embedding:Embedding",
    )
