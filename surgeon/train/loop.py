"""Training by gradient: epochs, budget, early stop, best weights, resumption. One loop.

The room takes a module and batches and leaves the module with its best weights. The order of a fit
is here, top to bottom; what happens in it has a place each: `step` (gradients), `judge` (what is
best), `room` (memory), `clock` (budgets), `journal` (what people are told), `resume` (checkpoints).
What must not enter: graphs, files of models, where samples come from, what a case or a task is.

Bits: on the CPU, with the same number of threads, a run is a function of its settings and data.
The order of the samples is a permutation by (seed, epoch); Dropout and augmentation draw from a
seed of their own in every step, so a run resumed after an epoch goes on as if it had never stopped.
A budget of time is an exception, and so is a form of the passes that was chosen by measurement
(`compile="auto"` in a run of half an hour and more): clocks do not repeat.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

from surgeon.errors import DataError, SurgeonError, UsageError
from surgeon.train.clock import Clock, now
from surgeon.train.device import (
    check_precision,
    choose,
    has_no_repeatable_form,
    kept_memory,
    peak_memory,
    prepared,
)
from surgeon.train.feed import Batches, Brought, Indices, Wanted, feed
from surgeon.train.interrupt import Interrupt
from surgeon.train.journal import Journal
from surgeon.train.judge import History, Judge
from surgeon.train.parameters import Parameters, Trainable, save_memory
from surgeon.train.resume import Saved, fingerprint
from surgeon.train.room import Room
from surgeon.train.schedule import Schedule, split_epoch, step_seed
from surgeon.train.settings import Checkpoint, FitResult, FitSettings, Progress, Row, Stopped, check
from surgeon.train.step import Step, StopError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from surgeon.train.objective import Objective


def fit(
    module: nn.Module,
    train: Batches,
    validation: Batches | None,
    *,
    objective: Objective,
    trainable: Trainable,
    settings: FitSettings | None = None,
    progress: Callable[[Progress], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> FitResult:
    """Train some parameters of a module and leave it with the best weights seen.

    The start counts as a candidate, so the result is never worse on the validation samples than
    what came in. Ctrl-C, a spent budget and a loss that is not a number all end the fit in order.

    Args:
        module: positional inputs → outputs [n, …] (or a tuple that begins with them).
        train: what to learn from.
        validation: what to judge by; None = the training loss decides, at the end of each epoch.
        objective: what is minimised and judged.
        trainable: names of parameters, or those that learn for each initializer, as adapters do;
            all others are frozen.
        settings: how.
        progress: called after every step and validation, in this thread.
        checkpoint: where one is written after every epoch; None = nowhere.

    Returns:
        What was done.

    Raises:
        UsageError: settings that cannot be meant, a checkpoint of another run, or `deterministic`
            and an operator that has no such form on the GPU.
        UnknownNameError: a trainable name the module lacks.
        DataError: no samples, or none to judge by whose target is known.
        EnvironmentLacksError: no such device, or out of memory at one sample.

    """
    settings = settings or FitSettings()
    if train.n < 1 or (validation is not None and validation.n < 1):
        raise DataError("there are no samples to train on, or none to validate on")
    check(settings)
    device = choose(settings.device)
    check_precision(settings.precision, device)
    objective.to(device)
    own = dict(objective.named_parameters()) if isinstance(objective, nn.Module) else {}
    parameters = Parameters(module, trainable, device, own)
    run = _Fit(parameters, train, validation, objective, settings, device, progress, checkpoint)
    cuda = [device.index or 0] if device.type == "cuda" else []
    memory = nullcontext() if settings.memory != "normal" else kept_memory(device)
    ready = prepared(device, deterministic=settings.deterministic)
    with torch.random.fork_rng(devices=cuda), memory, ready:
        try:
            return run.go()
        except (RuntimeError, SurgeonError) as error:
            if not (settings.deterministic and has_no_repeatable_form(error)):
                raise
            raise UsageError(
                f"an operator cannot repeat bit for bit on this device: {error}",
                where="--deterministic",
                remedy="train without it, or with --device cpu",
            ) from error


class _Fit:
    """One fit: the order of its parts, each of which changes what is its own alone."""

    def __init__(
        self,
        parameters: Parameters,
        train: Batches,
        validation: Batches | None,
        objective: Objective,
        settings: FitSettings,
        device: torch.device,
        progress: Callable[[Progress], None] | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.parameters, self.train, self.objective = parameters, train, objective
        self.settings, self.device = settings, device
        self.schedule = schedule = Schedule.of(settings, train.n)
        if settings.memory != "normal":
            save_memory(parameters.module, settings.memory)
        self.step = Step(parameters, train, objective, settings, schedule.lr, device)
        self.history = History(settings)
        self.interrupt = Interrupt()
        self.clock = Clock(settings.budget_seconds)
        self.journal = Journal(settings.stage, schedule, self.clock, self.step, progress)
        note = self.journal.note
        self.room = Room(schedule, parameters, device, note)
        self.judge = Judge(parameters, validation, objective, self.room, settings, device, note)
        self.saved = Saved(
            checkpoint,
            lambda: fingerprint(settings, schedule, objective, parameters, train.targets, device),
            clock=self.clock, history=self.history, journal=self.journal,
            judge=self.judge, room=self.room, step=self.step,
        )  # fmt: skip
        self.resumed: int | None = None

    def go(self) -> FitResult:
        """Judge the start, then train and judge epoch by epoch until one of the ends."""
        stopped: Stopped | None = None
        try:
            with self.interrupt:
                if self.saved.go_on():
                    self.resumed = self.journal.epoch
                else:
                    self._judge(epoch=0)
                while self.journal.epoch < self.schedule.epochs and not self._all_steps_done():
                    self._stop_if_due()
                    self._train_epoch(self.journal.epoch)
                    self.journal.epoch += 1
                    self._judge(self.journal.epoch)
                    self.saved.write()
        except StopError as stop:
            stopped = stop.why
        except KeyboardInterrupt:
            stopped = "interrupt"
        finally:
            self.parameters.clear()
            self.parameters.module.eval()
        return self._finish(stopped)

    def _all_steps_done(self) -> bool:
        return self.step.done >= self.schedule.steps

    def _stop_if_due(self) -> None:
        if self.schedule.patience and self.history.stale >= self.schedule.patience:
            raise StopError("early")
        if self.step.done and self.clock.spent():  # one step is always taken
            raise StopError("budget")

    def _train_epoch(self, epoch: int) -> None:
        """Take every optimiser step of an epoch; a step that runs out of memory is taken again."""
        seed = self.settings.seed
        parts = split_epoch(self.train.n, self.schedule.batch, seed=seed, epoch=epoch)
        self.parameters.module.train()
        self.room.try_out(parts[0], self.step.rehearsing)
        varies = len({len(chunk) for part in parts for chunk in self.room.chunks(part)}) > 1
        # What a GPU prepares ahead draws from a generator that compiling and computing a segment
        # again touch, too.
        ahead = False if self.settings.deterministic or self.settings.memory != "normal" else None
        position = 0
        while position < len(parts):
            steps = [
                (step_seed(seed, epoch, place), self.room.chunks(parts[place]))
                for place in range(position, len(parts))
            ]
            wanted = [
                Wanted(chunk, (seed_of_step + number) % 2**62)
                for seed_of_step, chunks in steps
                for number, chunk in enumerate(chunks)
            ]
            loads = feed(self.train, wanted, self.device, self.objective.target, ahead=ahead)
            try:
                for seed_of_step, chunks in steps:
                    self._step(seed_of_step, chunks, loads, varies=varies)
                    position += 1
                    self._after_step(epoch, last=position == len(parts))
            except Exception as error:
                if not self.room.found(error):
                    raise
            finally:
                loads.close()

    def _step(
        self, seed: int, chunks: list[Indices], loads: Iterator[Brought], *, varies: bool
    ) -> None:
        left, seconds = self.schedule.steps - self.step.done, self.clock.left()
        note = self.step.choose_form(chunks, varies=varies, steps=left, seconds=seconds)
        self.journal.note(note)
        started = now()
        done = self.step.done
        rate = self.schedule.rate(done, self.clock.share(self.schedule.share(done)))
        note = self.step.take(seed, rate, chunks, loads)
        self.clock.stepped(now() - started, sum(map(len, chunks)))
        self.journal.note(note)

    def _after_step(self, epoch: int, *, last: bool) -> None:
        """Tell; under a budget judge in the middle of an epoch that is too long to wait for."""
        self.interrupt.check()
        self.journal.tell(epoch + 1)
        if last:
            return
        if self._all_steps_done() or self.clock.spent():
            self._judge(epoch + 1)
            raise StopError(None if self._all_steps_done() else "budget")
        if self.clock.validation_is_due():
            self._judge(epoch + 1)

    def _judge(self, epoch: int) -> None:
        """Validate, write a row of the history, keep the weights if they are the best so far."""
        started = now()
        self.step.read(wait=True)
        self.clock.training += now() - started
        started = now()
        judged = self.judge.judge(self.clock.for_validation())
        seconds = self.clock.validated(now() - started)
        row = self._row(epoch, self.step.judged(), judged, seconds)
        whole = self.journal.epoch == epoch
        self.history.add(row, self.parameters.tensors(), whole=whole)
        self.journal.tell(epoch, row=row)

    def _row(
        self, epoch: int, loss: float | None, judged: tuple[float | None, ...], seconds: float
    ) -> Row:
        return {
            "stage": self.settings.stage,
            "epoch": epoch,
            "step": self.step.done,
            "loss": loss,
            "validation_loss": judged[0],
            "validation_quality": judged[1],
            "lr": self.step.rate,
            "seconds": seconds,
        }

    def _finish(self, stopped: Stopped | None) -> FitResult:
        """Leave the module with the best weights, and say what was done."""
        history = self.history
        if history.kept and (self.settings.keep == "best" or stopped == "nan"):
            self.parameters.put_back(history.kept)
        if not history.rows:  # interrupted before the first validation ended
            history.rows.append(self._row(0, None, (None, None), self.clock.seconds()))
        self.parameters.leave()
        history.kept = {}
        self.step.end()  # gives a GPU's memory back: ONNX Runtime may need it next
        return FitResult(
            history=tuple(history.rows),
            stopped=stopped,
            best=history.rows[history.best],
            improved=history.best > 0,
            epochs=self.journal.epoch,
            steps=self.step.done,
            samples=self.step.samples,
            planned_epochs=self.schedule.epochs,
            batch=self.schedule.batch,
            micro_batch=self.room.size,
            lr=self.schedule.lr,
            validation_samples=self.judge.count,
            device=str(self.device),
            precision=self.settings.precision,
            seconds=self.clock.seconds(),
            compiled=bool(self.step.passes.compiled),
            resumed=self.resumed,
            decision=self.step.passes.decision,
            peak_memory=peak_memory(self.device),
            notes=tuple(self.journal.notes),
        )
