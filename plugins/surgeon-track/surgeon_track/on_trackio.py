"""trackio: a run in its own folder on this machine (`TRACKIO_DIR`). Nothing leaves the machine."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

from surgeon.events import Failed, Finished, Progressed, Started
from surgeon.plugin.settings import Within
from surgeon_track import figures

# Read when they are imported: the libraries beneath it would tell their makers.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import trackio

if TYPE_CHECKING:
    from surgeon.events import Event


class OnTrackio:
    """Figures by stage; parameters as the configuration."""

    def __init__(
        self,
        *,
        project: str = "surgeon",
        name: str | None = None,
        file: bool = False,
        every: Annotated[float, Within(0)] = 1.0,
    ) -> None:
        """Take the project, the run's name, whether the delivered file is kept, and a pace."""
        self.where: str | None = None
        self._project, self._name, self._keeps = project, name, file
        self._figures = figures.Figures(every)
        self._run: Any = None

    def __call__(self, event: Event) -> None:
        """Write an event."""
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Progressed):
            self._log(self._figures.of(event))
        elif isinstance(event, Finished):
            last = figures.last_tags(event.document)
            self._run.log({**figures.final(event.document), **last})
            if self._keeps and event.document["out"] is not None:
                trackio.log_artifact(event.document["out"], name="model", type="model")
        elif isinstance(event, Failed):
            self._run.log({"error": f"{event.kind}: {event.message}"})

    def close(self) -> None:
        """Write what is left."""
        if self._run is not None:
            with redirect_stdout(sys.stderr):
                self._run.finish()

    def _start(self, event: Started) -> None:
        config = figures.parameters(event) | figures.tags(event) | {"plan": dict(event.plan)}
        with redirect_stdout(sys.stderr):  # it says where it writes
            self._run = trackio.init(
                self._project, name=figures.run_name(event, self._name), config=config,
                embed=False, auto_log_gpu=False, auto_log_cpu=False,
            )  # fmt: skip
        self.where = f"project {self._project}, run {self._run.name}"

    def _log(self, found: list[figures.Figure]) -> None:
        """Log figures of one event, with the step of their stage beside them."""
        told: dict[str, float] = {}
        for name, value, step in found:
            told |= {name: value, f"{name.rsplit('/', 1)[0]}/step": step}
        if told:
            self._run.log(told)
