"""TensorBoard: event files in a folder of the run. Nothing leaves the machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from surgeon.events import Failed, Finished, Progressed, Started
from surgeon.plugin.settings import Within
from surgeon_track import figures

if TYPE_CHECKING:
    from surgeon.events import Event


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
        elif isinstance(event, Failed):
            writer.add_text("failed", f"{event.kind}: {event.message}")

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()

    def _start(self, event: Started) -> None:
        name = figures.run_name(event, self._name)
        folder, number = self._dir / name, 1
        while folder.exists():  # two runs in one folder would be drawn as one
            number += 1
            folder = self._dir / f"{name}-{number}"
        self.where, self._parameters = str(folder), figures.parameters(event)
        self._writer = writer = SummaryWriter(str(folder))
        writer.add_text("plan", f"```json\n{figures.plan_text(event)}\n```")
        writer.add_text("run", "\n".join(figures.lines(figures.tags(event))))
        writer.add_text("parameters", "\n".join(figures.lines(self._parameters)))
