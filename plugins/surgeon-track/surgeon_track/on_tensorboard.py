"""TensorBoard: event files in a folder of the run. Nothing leaves the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from surgeon.events import Failed, Finished, Progressed, Started
from surgeon.plugin.settings import Within
from surgeon_track import figures

if TYPE_CHECKING:
    from surgeon.events import Event


UNFINISHED = "unfinished.json"
"""Lies beside the event files of a run until it is done: what `--resume` knows it by."""


class OnTensorBoard:
    """Scalars by stage and step, hyper-parameters with the final figures, the plan as text."""

    def __init__(
        self,
        *,
        dir: str = "runs",
        name: str | None = None,
        every: Annotated[float, Within(0)] = 1.0,
    ) -> None:
        """Take where runs are kept, the run's name, and the seconds between running figures."""
        self.where: str | None = None
        self._dir, self._name = Path(dir), name
        self._figures = figures.Figures(every)
        self._parameters: dict[str, str | float | int | bool] = {}
        self._writer: Any = None
        self._mark = Path()

    def __call__(self, event: Event) -> None:
        """Write an event."""
        if isinstance(event, Started):
            self._start(event)
        writer = self._writer
        if writer is None:
            return
        if isinstance(event, Progressed):
            for name, value, step in self._figures.of(event):
                writer.add_scalar(name, value, step)
        elif isinstance(event, Finished):
            found = figures.final(event.document)
            for name, value in found.items():
                writer.add_scalar(name, value, 0)
            # `add_hparams` would make a run of its own beside this one.
            for summary in hparams(self._parameters, found):  # type: ignore[no-untyped-call] # torch's
                writer.file_writer.add_summary(summary)
            writer.add_text("result", "\n".join(figures.lines(figures.last_tags(event.document))))
            if not figures.interrupted(event.document):
                self._mark.unlink(missing_ok=True)
        elif isinstance(event, Failed):
            writer.add_text("failed", f"{event.kind}: {event.message}")

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()

    def _start(self, event: Started) -> None:
        known = figures.goes_on(event)
        earlier = self._earlier(known) if event.options.get("resume") else None
        folder = earlier or self._free(figures.run_name(event, self._name))
        self.where, self._parameters = str(folder), figures.parameters(event)
        self._writer = writer = SummaryWriter(str(folder))
        self._mark = folder / UNFINISHED
        self._mark.write_text(json.dumps(known), "utf-8")
        writer.add_text("plan", f"```json\n{figures.plan_text(event)}\n```")
        writer.add_text("run", "\n".join(figures.lines(figures.tags(event))))
        writer.add_text("parameters", "\n".join(figures.lines(self._parameters)))

    def _free(self, name: str) -> Path:
        """Return a folder that is not there: two runs in one would be drawn as one."""
        folder, number = self._dir / name, 1
        while folder.exists():
            number += 1
            folder = self._dir / f"{name}-{number}"
        return folder

    def _earlier(self, known: dict[str, str]) -> Path | None:
        """Return the folder of the newest run that was interrupted and now goes on."""
        marks = sorted(self._dir.glob(f"*/{UNFINISHED}"), key=lambda one: one.stat().st_mtime)
        for mark in reversed(marks):
            try:
                if json.loads(mark.read_text("utf-8")) == known:
                    return mark.parent
            except ValueError:
                continue
        return None
