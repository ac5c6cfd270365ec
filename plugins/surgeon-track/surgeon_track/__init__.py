"""Trackers: a run told to TensorBoard, MLflow, Weights & Biases or trackio, on this machine.

A module each, imported when it is asked for; what all of them write stands in `figures`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.plugin import hookimpl
from surgeon.records import Tracker

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def surgeon_trackers() -> Iterable[Tracker]:
    """Yield the four trackers."""
    yield Tracker(
        "tensorboard",
        "event files for TensorBoard, in a folder",
        "surgeon_track.on_tensorboard:OnTensorBoard",
    )
    yield Tracker(
        "mlflow", "a run of MLflow, in a folder or on a server", "surgeon_track.on_mlflow:OnMlflow"
    )
    yield Tracker(
        "wandb", "a run of Weights & Biases, offline unless asked", "surgeon_track.on_wandb:OnWandb"
    )
    yield Tracker(
        "trackio", "a run of trackio, on this machine", "surgeon_track.on_trackio:OnTrackio"
    )
