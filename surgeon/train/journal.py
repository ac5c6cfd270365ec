"""Where a fit stands, told to people as it goes. What must not enter: anything that it decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.train.resume import Part
from surgeon.train.settings import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from surgeon.train.clock import Clock
    from surgeon.train.schedule import Schedule
    from surgeon.train.settings import Row
    from surgeon.train.step import Step


class Journal(Part):
    """Counts epochs, keeps notes and tells both.

    Attributes:
        epoch: finished ones.
        notes: what people should know.
    """

    keeps = ("epoch", "notes")

    def __init__(
        self,
        stage: str,
        schedule: Schedule,
        clock: Clock,
        step: Step,
        report: Callable[[Progress], None] | None,
    ) -> None:
        self.epoch = 0
        self.notes: list[str] = []
        self._stage, self._schedule, self._clock, self._step = stage, schedule, clock, step
        self._report = report

    def note(self, text: str | None) -> None:
        """Tell people something once; None = nothing."""
        if text is not None:
            self.notes.append(text)
            self.tell(self.epoch + 1, note=text)

    def tell(self, epoch: int, *, row: Row | None = None, note: str | None = None) -> None:
        """Tell where the fit stands, in an epoch counted from 1."""
        if self._report is None:
            return
        clock, loss = self._clock, self._step.loss()
        share, seconds = clock.share(self._schedule.share(self._step.done)), clock.seconds()
        self._report(
            Progress(
                stage=self._stage,
                epoch=epoch,
                epochs=self._schedule.epochs,
                step=self._step.done,
                steps=self._schedule.steps,
                share=share,
                loss=(row or {}).get("loss") if loss is None else loss,
                lr=self._step.rate,
                seconds=seconds,
                seconds_left=seconds * (1 - share) / share if share > 0 else None,
                samples_per_second=clock.trained / clock.training if clock.trained else None,
                row=row,
                note=note,
            )
        )
