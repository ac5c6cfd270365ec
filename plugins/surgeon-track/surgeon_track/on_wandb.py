"""Weights & Biases: a run in a folder of this machine; `mode=online` sends it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from surgeon.events import Failed, Finished, Progressed, Started
from surgeon.plugin.settings import Within
from surgeon_track import figures

# Read when it is imported: it would tell its makers what goes wrong.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb

if TYPE_CHECKING:
    from surgeon.events import Event


class OnWandb:
    """Figures by stage, each against its step; parameters as the configuration."""

    def __init__(
        self,
        *,
        project: str = "surgeon",
        name: str | None = None,
        mode: Literal["offline", "online"] = "offline",
        dir: str = ".",
        file: bool = False,
        every: Annotated[float, Within(0)] = 1.0,
    ) -> None:
        """Take where runs are kept.

        Args:
            project: that the run belongs to.
            name: of the run.
            mode: `offline` keeps it in the folder (`wandb sync` sends it later), `online` sends it.
            dir: folder in which the folder `wandb` is made.
            file: whether the delivered file is kept with the run, as an artifact.
            every: seconds between running figures.
        """
        self.where: str | None = None
        self._project, self._name, self._mode = project, name, mode
        self._dir, self._keeps = dir, file
        self._figures = figures.Figures(every)
        self._axes = set[str]()
        self._run: Any = None

    def __call__(self, event: Event) -> None:
        """Write an event."""
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Progressed):
            self._log(self._figures.of(event))
        elif isinstance(event, Finished):
            self._run.summary.update(
                figures.final(event.document) | figures.last_tags(event.document)
            )
            if self._keeps and event.document["out"] is not None:
                artifact = wandb.Artifact("model", "model")
                artifact.add_file(event.document["out"])
                self._run.log_artifact(artifact)
            self._end(0)
        elif isinstance(event, Failed):
            self._run.summary["error"] = f"{event.kind}: {event.message}"
            self._end(1)

    def close(self) -> None:
        """End a run that no event ended."""
        if self._run is not None:
            self._end(1)

    def _start(self, event: Started) -> None:
        settings = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, save_code=False,
            disable_job_creation=True, x_disable_stats=True, x_disable_machine_info=True,
        )  # fmt: skip
        self._run = wandb.init(
            project=self._project, name=figures.run_name(event, self._name), mode=self._mode,
            dir=self._dir, settings=settings,
            config=figures.parameters(event) | figures.tags(event) | {"plan": dict(event.plan)},
        )  # fmt: skip
        self.where = self._run.url if self._mode == "online" else str(Path(self._run.dir).parent)

    def _log(self, found: list[figures.Figure]) -> None:
        """Log figures of one event; they are drawn against the step of their stage."""
        if not found:
            return
        told: dict[str, float] = {}
        for name, value, step in found:
            axis = f"{name.rsplit('/', 1)[0]}/step"
            if name not in self._axes:
                self._axes.add(name)
                self._run.define_metric(name, step_metric=axis)
            told |= {name: value, axis: step}
        self._run.log(told)

    def _end(self, code: int) -> None:
        run, self._run = self._run, None
        run.finish(exit_code=code)
