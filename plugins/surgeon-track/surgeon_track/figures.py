"""What every tracker writes of a run, and under which name: no library of a tracker is known here.

A stage has its own axis of steps. Its rows are those of the document's history, so that what is
read back equals it; between them the running figures are told, now and then.
"""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from surgeon.events import Progressed, Started

LEGAL = re.compile(r"[^\w\-. /]")
"""What no tracker takes in a name."""
LONGEST = 250
"""Characters of a parameter's value."""


class Figure(NamedTuple):
    """One number: its name, its value, and the step of its stage."""

    name: str
    value: float
    step: int


class Figures:
    """The figures of a run, event by event."""

    def __init__(self, every: float) -> None:
        """Take the seconds between two running figures."""
        self._every, self._last = every, -math.inf

    def of(self, event: Progressed) -> list[Figure]:
        """Return what is written of an event: of a row all, of a step the running figures."""
        if event.row is None and (event.lr is None or not self._due()):
            return []
        row, stage = event.row or {}, event.stage
        if row.get("start"):
            stage = f"{stage}/{row['start']}"  # one of the two that race
        if event.row is None:
            told = {"running/loss": event.loss, "running/lr": event.lr}
        else:
            told = {name: row.get(name) for name in ("loss", "validation_loss")}
            told |= {"lr": row.get("lr"), f"validation_{event.judged}": event.quality}
        told["throughput"] = event.throughput
        step = int(row.get("step", event.step) or 0)
        return [
            Figure(legal(f"{stage}/{name}"), float(value), step)
            for name, value in told.items()
            if value is not None and math.isfinite(value)
        ]

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._every:
            return False
        self._last = now
        return True


def final(document: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of the delivered file, by part, and what the run took."""
    found: dict[str, Any] = {}
    for part, figures in (document["metrics"] or {}).items():
        found |= {f"final/{part}/{name}": value for name, value in (figures or {}).items()}
    found |= {f"seconds/{name}": value for name, value in (document["seconds"] or {}).items()}
    found["trained_parameters"] = document["trained_parameters"]
    found["file_bytes"] = _bytes(document["out"])
    return {legal(name): float(value) for name, value in found.items() if _is_number(value)}


def parameters(event: Started) -> dict[str, str | float | int | bool]:
    """Return what decides a run: the plan in a few words, and every option that was given."""
    plan = {
        name: event.plan.get(name)
        for name in ("case", "cut", "depth", "task", "init", "classes", "loss", "adapter", "start")
    }
    plan["head"] = (event.plan.get("head") or {}).get("kind")
    plan["stages"] = " ".join(f"{one['name']}" for one in event.plan.get("stages") or ())
    found: dict[str, Any] = {f"plan.{name}": value for name, value in plan.items()}
    found |= {name: value for name, value in event.options.items() if value not in (None, [], "")}
    found |= {f"samples.{part}": count for part, count in event.parts.items()}
    return {name: _short(value) for name, value in found.items() if value is not None}


def tags(event: Started) -> dict[str, str]:
    """Return what identifies a run: files and data by their hash, and what computed."""
    found = {
        "model": event.model,
        "model_sha256": event.sha256,
        "data": event.data,
        "data_sha256": event.data_sha256,
        "device": event.device,
        **{f"version.{name}": value for name, value in event.versions.items()},
    }
    return {name: str(value)[:LONGEST] for name, value in found.items() if value is not None}


def last_tags(document: Mapping[str, Any]) -> dict[str, str]:
    """Return what is known of the result."""
    found = {
        "file": document["out"],
        "file_sha256": document["sha256"],
        "delivered": document["delivered"],
        "stopped": document["stopped"],
    }
    return {name: str(value)[:LONGEST] for name, value in found.items() if value is not None}


def plan_text(event: Started) -> str:
    """Return the plan as JSON for people."""
    return json.dumps(event.plan, indent=2, ensure_ascii=False, default=str)


def run_name(event: Started, asked: str | None) -> str:
    """Return the name of a run: as asked for, else the file's and the time."""
    made = "run" if event.out is None else Path(event.out).stem
    return asked or f"{legal(made)}-{time.strftime('%Y%m%d-%H%M%S')}"


def goes_on(event: Started) -> dict[str, str]:
    """Return by what an interrupted run is known again, the same before and after `--resume`."""
    told = {"out": event.out, "model": event.sha256, "data": event.data_sha256}
    return {f"run_{name}": str(value) for name, value in told.items() if value is not None}


def interrupted(document: Mapping[str, Any]) -> bool:
    """Say whether a run can go on with `--resume`, so that it is not over yet."""
    return document.get("stopped") == "interrupt"


def legal(name: str) -> str:
    """Return a name that every tracker takes."""
    return LEGAL.sub("_", name)


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table for people, in Markdown."""
    yield "| | |\n|---|---|"
    for name, value in found.items():
        text = str(value).replace("|", "\\|")
        yield f"| {name} | {text} |"


def _short(value: Any) -> str | float | int | bool:
    if isinstance(value, bool | int | float):
        return value
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text[:LONGEST]


def _is_number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and math.isfinite(value)


def _bytes(out: str | None) -> int | None:
    return Path(out).stat().st_size if out is not None and Path(out).is_file() else None
