"""Detectors: class convolutions re-dimensioned in place, boxes as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgeon.plugin import hookimpl
from surgeon.records import Files, HeadKind, Known, Task

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ULTRALYTICS = {"layout": "NCHW", "channels": "RGB", "scale": 1 / 255, "mean": [0.0], "std": [1.0],
               "resize": "bilinear", "fit": "stretch"}  # fmt: skip
"""How pictures become inputs of files that Ultralytics' exporter wrote."""

EXAMPLE = "surgeon_detect.example:boxes"


@hookimpl
def surgeon_tasks() -> Iterable[Task]:
    """Offer the task."""
    yield Task(
        "detection", "boxes of classes in pictures", "surgeon_detect.task:Detection",
        example=EXAMPLE,
    )  # fmt: skip


@hookimpl
def surgeon_heads() -> Iterable[HeadKind]:
    """Offer the head: the file's own."""
    yield HeadKind(
        "detector", "the file's own class convolutions, for other classes",
        "surgeon_detect.classes:refit", keeps=("boxes",), in_place=True,
        example=EXAMPLE,
    )  # fmt: skip


@hookimpl
def surgeon_list_data(path: Path) -> Files | None:
    """List pictures and boxes of YOLO's folders and of COCO's JSON."""
    if path.is_file() and path.suffix.lower() not in (".yaml", ".yml", ".json"):
        return None
    from surgeon_detect.files import listed

    return listed(path)


@hookimpl
def surgeon_known(sha256: str, model: Any) -> Known | None:  # noqa: ARG001 - any export is known by what it says
    """Say how pictures become inputs of an export that says it is Ultralytics' detector."""
    said = {one.key: one.value for one in getattr(model, "metadata_props", ())}
    if said.get("author") != "Ultralytics" or said.get("task") != "detect":
        return None
    dims = model.graph.input[0].type.tensor_type.shape.dim
    size = [dim.dim_value for dim in dims[2:]]
    if len(size) != 2 or not all(size):
        size = [640, 640]
    return Known("an Ultralytics detector", preprocess={**ULTRALYTICS, "size": size})
