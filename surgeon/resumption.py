"""What an interrupted run leaves beside the file it delivered, and whether that file is its own.

`OUT.checkpoint` holds the states of training and a note of the file that was delivered from them:
`--resume` may replace that very file and no other. What must not enter: what a checkpoint holds.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from surgeon.graph.files import check_output, sha256_file

if TYPE_CHECKING:
    import os

    from surgeon.options import Delivery

_NOTE = "delivered.json"


def folder_of(out: str | os.PathLike[str]) -> Path:
    """Return where the run that writes `out` keeps its checkpoints."""
    return Path(f"{out}.checkpoint")


def note_delivered(out: str | os.PathLike[str]) -> None:
    """Remember that `out`, as it is now, was delivered by the run whose checkpoint is there."""
    folder = folder_of(out)
    folder.mkdir(exist_ok=True)
    (folder / _NOTE).write_text(json.dumps({"sha256": sha256_file(out)}), "utf-8")


def is_delivered(out: str | os.PathLike[str]) -> bool:
    """Whether `out` is the very file that an interrupted run delivered."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        noted = json.loads((folder_of(out) / _NOTE).read_text("utf-8"))
        return bool(noted["sha256"] == sha256_file(out))
    return False


def writable(delivery: Delivery) -> Delivery:
    """Refuse an output that may not be written, before any work; `resume` may replace its own.

    Raises:
        OutputError: it exists, or cannot be written where it was asked for.
    """
    if delivery.adapter_out is not None and not delivery.dry_run:
        check_output(delivery.adapter_out, force=delivery.force or delivery.resume)
    if delivery.report is not None and not delivery.dry_run:
        check_output(delivery.report, force=delivery.force or delivery.resume)
    if delivery.out is None or delivery.dry_run:
        return delivery
    force = delivery.force or (delivery.resume and is_delivered(delivery.out))
    check_output(delivery.out, force=force)
    return replace(delivery, force=force)


def nothing_to_resume(folder: Path | None, delivery: Delivery) -> list[str]:
    """Say so where a run shall go on and left nothing to go on from."""
    if not delivery.resume or has_states(folder):
        return []
    return [f"--resume: there is nothing to go on from in {folder}: it starts anew"]


def has_states(folder: Path | None) -> bool:
    """Whether there is a state of training to go on from."""
    return folder is not None and folder.is_dir() and any(one.is_dir() for one in folder.iterdir())
