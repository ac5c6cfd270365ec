"""MLflow: a run in a folder of this machine, or on a server that is named. No telemetry."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from surgeon.events import Failed, Finished, Progressed, Started
from surgeon.plugin.settings import Within
from surgeon_track import figures

# Read when MLflow is imported: it would tell its makers, and refuse to keep runs in a folder.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

if TYPE_CHECKING:
    from collections.abc import Iterable

    from surgeon.events import Event
    from surgeon_track.figures import Figure


class OnMlflow:
    """Metrics by stage and step, parameters, tags, the plan; the delivered file where asked for."""

    def __init__(
        self,
        *,
        dir: str = "mlruns",
        uri: str | None = None,
        experiment: str = "surgeon",
        name: str | None = None,
        file: bool = False,
        every: Annotated[float, Within(0)] = 1.0,
    ) -> None:
        """Take where runs are kept.

        Args:
            dir: folder of the runs.
            uri: a server or data base in its place, `http://…` or `sqlite:///…`.
            experiment: that the run belongs to.
            name: of the run.
            file: whether the delivered file is kept with the run.
            every: seconds between running figures.
        """
        self.where: str | None = None
        self._uri, self._local = uri or Path(dir).absolute().as_uri(), uri is None
        self._dir, self._experiment, self._name, self._keeps = Path(dir), experiment, name, file
        self._figures = figures.Figures(every)
        self._client: Any = None
        self._run = ""

    def __call__(self, event: Event) -> None:
        """Write an event."""
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Progressed):
            self._log(self._figures.of(event))
        elif isinstance(event, Finished):
            found = figures.final(event.document)
            self._log(figures.Figure(name, value, 0) for name, value in found.items())
            self._tag(figures.last_tags(event.document))
            if self._keeps and event.document["out"] is not None:
                self._client.log_artifact(self._run, event.document["out"])
            self._end("KILLED" if figures.interrupted(event.document) else "FINISHED")
        elif isinstance(event, Failed):
            self._tag({"error": f"{event.kind}: {event.message}"})
            self._end("KILLED" if event.kind == "interrupt" else "FAILED")

    def close(self) -> None:
        """End a run that no event ended."""
        if self._run:
            self._end("FAILED")

    def _start(self, event: Started) -> None:
        self._client = client = MlflowClient(tracking_uri=self._uri)
        there = client.get_experiment_by_name(self._experiment)
        experiment = (
            client.create_experiment(self._experiment) if there is None else there.experiment_id
        )
        known = figures.goes_on(event)
        earlier = self._earlier(experiment, known) if event.options.get("resume") else None
        if earlier is None:
            run = client.create_run(experiment, run_name=figures.run_name(event, self._name))
            self._run = run.info.run_id
        else:
            self._run = earlier
            client.update_run(self._run, status="RUNNING")
        folder = str(self._dir / experiment / self._run)
        self.where = folder if self._local else f"{self._uri} run {self._run}"
        if earlier is None:  # no parameter may change
            given = figures.parameters(event)
            params = [Param(figures.legal(name), str(value)) for name, value in given.items()]
            client.log_batch(self._run, params=params)
        self._tag(figures.tags(event) | known)
        client.log_text(self._run, figures.plan_text(event), "plan.json")

    def _earlier(self, experiment: str, known: dict[str, str]) -> str | None:
        """Return the newest run that was interrupted and now goes on."""
        wanted = " and ".join(f"tags.{key} = '{value}'" for key, value in known.items()
                              if "'" not in value)  # fmt: skip
        found = self._client.search_runs([experiment], wanted, max_results=20)
        ids = (one.info.run_id for one in found if one.info.status != "FINISHED")
        return next(ids, None)

    def _log(self, found: Iterable[Figure]) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value, step in found]
        if metrics:
            self._client.log_batch(self._run, metrics=metrics)

    def _tag(self, found: dict[str, str]) -> None:
        self._client.log_batch(self._run, tags=[RunTag(*pair) for pair in found.items()])

    def _end(self, status: str) -> None:
        run, self._run = self._run, ""
        self._client.set_terminated(run, status)
