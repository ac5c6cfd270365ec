"""Training by gradient: epochs, budget, early stop, best weights, resumption. One loop.

The room takes a module and batches and leaves the module with its best weights. What must not
enter: graphs, files of models, where samples come from, what a case is.

Bits: on the CPU, with the same number of threads, a run is a function of its settings and data.
The order of the samples is a permutation by (seed, epoch); Dropout and augmentation draw from a
seed of their own in every step, so a run resumed after an epoch goes on as if it had never stopped.
A budget of time is an exception, and so is a form of the passes that was chosen by measurement
(`compile="auto"` in a run of half an hour and more): clocks do not repeat.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import signal
import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from surgeon.errors import (
    DataError,
    EnvironmentLacksError,
    SurgeonError,
    UnknownNameError,
    UsageError,
)
from surgeon.train import checkpoint, optimizers, schedule
from surgeon.train.compile import Compile, Passes, work_seconds
from surgeon.train.device import (
    arithmetic,
    autocast,
    check_precision,
    choose,
    has_no_repeatable_form,
    is_out_of_memory,
    kept_memory,
    memory_share,
    peak_memory,
    prepared,
    seed_all,
    start_peak,
)
from surgeon.train.feed import Batches, Brought, Indices, Wanted, bring, feed
from surgeon.train.readings import Readings
from surgeon.train.settings import FitResult, FitSettings, Progress, Row, Stopped, check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from surgeon.train.objective import Objective

#: Share of a GPU's memory that a pass may take: the rest is for what batches of other sizes and
#: the allocator's gaps need.
_FULL: Final = 0.9
#: Steps in a row whose float16 gradients overflow, after which no scale is left to try: 2¹² halved
#: as often is below 1e-4.
_OVERFLOWS: Final = 26
#: Share of a budget that one validation may take; larger sets are judged by a fixed random part.
_VALIDATION_SHARE: Final = 0.1


def fit(
    module: nn.Module,
    train: Batches,
    validation: Batches | None,
    *,
    objective: Objective,
    trainable: Sequence[str],
    depths: Mapping[str, float] | None = None,
    settings: FitSettings | None = None,
    progress: Callable[[Progress], None] | None = None,
    checkpoint_dir: Path | None = None,
    resume: bool = False,
) -> FitResult:
    """Train some parameters of a module and leave it with the best weights seen.

    The start counts as a candidate, so the result is never worse on the validation samples than
    what came in. Ctrl-C, a spent budget and a loss that is not a number all end the fit in order.

    Args:
        module: positional inputs → outputs [n, …] (or a tuple that begins with them).
        train: what to learn from.
        validation: what to judge by; None = the training loss decides, at the end of each epoch.
        objective: what is minimised and judged.
        trainable: names of parameters; all others are frozen.
        depths: 0 at the input .. 1 at the head, by name; missing = 1.
        settings: how.
        progress: called after every step and validation, in this thread.
        checkpoint_dir: where to write a checkpoint after every epoch; None = nowhere.
        resume: go on from the checkpoint there, if there is one.

    Returns:
        What was done.

    Raises:
        UsageError: settings that cannot be meant, a checkpoint of another run, or `deterministic`
            and an operator that has no such form on the GPU.
        UnknownNameError: a trainable name the module lacks.
        DataError: no samples.
        EnvironmentLacksError: no such device, or out of memory at one sample.

    """
    settings = settings or FitSettings()
    run = _Fit(module, train, validation, objective, trainable, depths or {}, settings, progress)
    run.folder = checkpoint_dir
    cuda = [run.device.index or 0] if run.device.type == "cuda" else []
    memory = nullcontext() if settings.memory != "normal" else kept_memory(run.device)
    ready = prepared(run.device, deterministic=settings.deterministic)
    with torch.random.fork_rng(devices=cuda), memory, ready:
        try:
            return run.go(resume=resume)
        except (RuntimeError, SurgeonError) as error:
            if not (settings.deterministic and has_no_repeatable_form(error)):
                raise
            raise UsageError(
                f"an operator cannot repeat bit for bit on this device: {error}",
                where="--deterministic",
                remedy="train without it, or with --device cpu",
            ) from error


class _StopError(Exception):
    """Ends the training loop from inside."""

    def __init__(self, why: Stopped | None) -> None:
        super().__init__(why)
        self.why = why


@dataclass
class _State:
    """What changes during a fit, apart from tensors; all of it goes into a checkpoint."""

    epoch: int = 0  # finished ones
    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    stale: int = 0  # epochs without improvement
    best: int = 0  # row
    history: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    micro: int = 0
    compiled: bool | None = None


class _Fit:
    """One fit: the parts that `go` strings together."""

    folder: Path | None = None
    resumed: int | None = None

    def __init__(
        self,
        module: nn.Module,
        train: Batches,
        validation: Batches | None,
        objective: Objective,
        trainable: Sequence[str],
        depths: Mapping[str, float],
        settings: FitSettings,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        if train.n < 1 or (validation is not None and validation.n < 1):
            raise DataError("there are no samples to train on, or none to validate on")
        check(settings)
        self.module, self.train, self.validation = module, train, validation
        self.settings, self.report = settings, progress
        self.device = choose(settings.device)
        check_precision(settings.precision, self.device)
        scratch = settings.scratch
        self.epochs = settings.epochs or schedule.default_epochs(train.n, scratch=scratch)
        passes = settings.batch or schedule.default_batch(train.n)
        self.batch = min(passes * settings.accumulate, train.n)
        self.lr = settings.lr or schedule.default_rate(scratch=scratch)
        self.per_epoch = math.ceil(train.n / self.batch)
        self.steps = self.epochs * self.per_epoch
        if settings.max_steps is not None:
            self.steps = min(self.steps, settings.max_steps)
        warmup = settings.warmup_steps
        self.warmup = schedule.default_warmup(self.steps) if warmup is None else warmup
        self.patience = settings.patience
        if self.patience is None:
            self.patience = schedule.default_patience(self.epochs)
        self.objective = objective
        objective.to(self.device)

        known = dict(module.named_parameters())
        for name in trainable:
            if name not in known:
                raise UnknownNameError("parameter", name, known)
        if not trainable:
            raise UsageError("nothing is trainable", remedy="name parameters to train")
        wanted = set(trainable)
        for name, parameter in known.items():
            parameter.requires_grad_(name in wanted)
        module.to(self.device)
        self._lay_out(torch.channels_last)
        known = dict(module.named_parameters())
        self.parameters = {name: known[name] for name in known if name in wanted}
        self.masters = {
            name: p if p.dtype in {torch.float32, torch.float64} else p.detach().float()
            for name, p in self.parameters.items()
        }
        self.optimizer = self._optimizer(depths)
        scaled = settings.precision == "fp16" or any(
            p.dtype == torch.float16 for p in self.parameters.values()
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled, init_scale=2.0**12)
        self.state = _State(micro=min(passes, self.batch))
        if settings.memory != "normal":
            self._save_memory()
        # What is fastest is found by the clock, which does not repeat.
        unmeasured = settings.deterministic and settings.compile == "auto"
        forms: Compile = "off" if unmeasured else settings.compile
        measured = not settings.deterministic
        self.passes = Passes(module, forms, self.device, measured=measured)
        self.readings, self.pace = Readings(self.device), Readings(self.device)
        self.overflows = 0
        self.interrupted = threading.Event()
        self.judged = self._all_judged()
        self.kept: dict[str, Tensor] = {}
        self.losses: list[float] = []
        self.total_loss = 0.0
        self.fits = False  # whether a pass is known to fit into memory
        self.began = 0.0
        self.trained_seconds = 0.0
        self.trained_samples = 0
        self.validation_seconds = 0.0
        self.step_seconds = 0.0
        self.last_lr = 0.0

    # ---------------------------------------------------------------------------- the order

    def go(self, *, resume: bool) -> FitResult:
        stopped: Stopped | None = None
        self.began = time.perf_counter()
        try:
            with _noticed() as self.interrupted:
                if not (resume and self._resume()):
                    self._judge(epoch=0)
                while self.state.epoch < self.epochs and self.state.step < self.steps:
                    self._stop_if_due()
                    self._train_epoch(self.state.epoch)
                    self.state.epoch += 1
                    self._judge(self.state.epoch)
                    self._save()
        except _StopError as stop:
            stopped = stop.why
        except KeyboardInterrupt:
            stopped = "interrupt"
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            self.module.eval()
        return self._finish(stopped)

    def _stop_if_due(self) -> None:
        if self.patience and self.state.stale >= self.patience:
            raise _StopError("early")
        if self._spent():
            raise _StopError("budget")

    def _train_epoch(self, epoch: int) -> None:
        """Take every optimiser step of an epoch; a step that runs out of memory is taken again."""
        parts = schedule.split_epoch(self.train.n, self.batch, seed=self.settings.seed, epoch=epoch)
        self.module.train()
        self._fit_into_memory(parts[0])
        varies = len({len(chunk) for part in parts for chunk in _chunks(part, self.state.micro)})
        position = 0
        while position < len(parts):
            chunked = [_chunks(part, self.state.micro) for part in parts[position:]]
            seeds = [self._seed(epoch, place) for place in range(position, len(parts))]
            wanted = [
                Wanted(chunk, (seed + number) % 2**62)
                for chunks, seed in zip(chunked, seeds, strict=True)
                for number, chunk in enumerate(chunks)
            ]
            # What a GPU prepares ahead draws from a generator that compiling and computing a
            # segment again touch, too.
            shared = self.settings.deterministic or self.settings.memory != "normal"
            ahead = False if shared else None
            loads = feed(self.train, wanted, self.device, self.objective.target, ahead=ahead)
            try:
                for chunks, seed in zip(chunked, seeds, strict=True):
                    self._choose_passes(chunks, varies=varies > 1)
                    self._step(seed, chunks, loads)
                    position += 1
                    self._after_step(epoch, last=position == len(parts))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error)
            finally:
                loads.close()

    def _seed(self, epoch: int, position: int) -> int:
        return schedule.step_seed(self.settings.seed, epoch, position)

    def _step(self, seed: int, chunks: list[Indices], loads: Iterator[Brought]) -> None:
        """Take one optimiser step over the chunks of a batch; on a GPU, without waiting for it."""
        started, working = time.perf_counter(), work_seconds(self.device)
        seed_all(seed, self.device)
        self.last_lr = self._set_rates()
        self._clear()
        whole = np.concatenate(chunks)
        weight = self.objective.total(np.asarray(self.train.targets)[whole])
        losses: list[Tensor] = []
        with arithmetic(self.device, exact=False):
            for number in range(len(chunks)):
                if number:
                    if number == 1:  # later passes add to these in place
                        self.passes.between()
                    self.pace.put(losses[-1])
                    self.pace.take()
                losses.append(self._pass(next(loads), weight))
        self._update(torch.stack(losses).sum() if len(losses) > 1 else losses[0])
        self._read(wait=self.passes.timing)
        self.state.step += 1
        self.state.samples += len(whole)
        self.trained_samples += len(whole)
        self.step_seconds = time.perf_counter() - started
        self.trained_seconds += self.step_seconds
        note = self.passes.took(work_seconds(self.device) - working)
        if note is not None:
            self._note(note)

    def _pass(self, brought: Brought, weight: float) -> Tensor:
        """Go forward and backward once; return the loss, a tensor without axes."""
        with autocast(self.settings.precision, self.device):
            outputs = _outputs(self.passes.forward(*brought.inputs))
        # The sum over the chunk ÷ the weight of the whole batch: chunks add up to its mean.
        loss = self.objective.loss(outputs.float(), brought.target) / weight
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _read(self, *, wait: bool = False) -> None:
        """Note the losses that are known by now; end the fit where one is not a number."""
        for loss, norm in self.readings.take(wait=wait):
            self.overflows = 0 if math.isfinite(norm) else self.overflows + 1
            allowed = _OVERFLOWS if self.scaler.is_enabled() else 0
            if not math.isfinite(loss) or self.overflows > allowed:
                raise _StopError("nan")
            self.losses.append(loss)
            self.total_loss += loss

    def _choose_passes(self, chunks: list[Indices], *, varies: bool) -> None:
        """Try other forms when it is time to, on samples that are about to be trained on."""
        seconds = math.inf
        if self.settings.budget_seconds is not None:
            seconds = self._time_to_train() - self._seconds()
        steps = self.steps - self.state.step
        if self.passes.is_due(steps, seconds):
            with self._rehearsing(chunks[0]) as once:
                note = self.passes.attempt(
                    once,
                    varies=varies,
                    left=self.passes.left(steps, seconds),
                    several=len(chunks) > 1,
                )
            self._note(note)
        self.state.compiled = self.passes.compiled

    @contextmanager
    def _rehearsing(self, indices: Indices) -> Iterator[Callable[[Callable[..., Any]], None]]:
        """Give a function that goes forward and backward once and leaves no trace of it."""
        brought = bring(self.train, Wanted(indices, 0), self.device, self.objective.target)
        buffers = [(tensor, tensor.clone()) for tensor in self.module.buffers()]

        def once(forward: Callable[..., Any]) -> None:
            self._clear()
            with arithmetic(self.device, exact=False):
                with autocast(self.settings.precision, self.device):
                    outputs = _outputs(forward(*brought.inputs))
                loss = self.objective.loss(outputs.float(), brought.target)
                loss.backward()  # type: ignore[no-untyped-call]
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        try:
            yield once
        finally:
            self._clear()
            with torch.no_grad():
                for tensor, before in buffers:
                    tensor.copy_(before)

    def _fit_into_memory(self, part: Indices) -> None:
        """Halve the passes until one takes no more than its share of a GPU's memory.

        On a CPU there is nothing to try: a system that runs out of memory ends processes.
        """
        if self.fits or memory_share(self.device) is None:
            return
        while self.state.micro > 1:
            error = None
            start_peak(self.device)
            try:
                with self._rehearsing(part[: self.state.micro]) as once:
                    once(self.module)  # cuDNN tries its algorithms, with memory of their own
                    start_peak(self.device)
                    once(self.module)
                if (memory_share(self.device) or 0.0) <= _FULL:
                    break
            except Exception as caught:
                if not is_out_of_memory(caught):
                    raise
                error = caught
            self._halve(error)
        self.fits = True

    def _save_memory(self) -> None:
        """Let the module compute its values twice instead of keeping them, where it can."""
        save = getattr(self.module, "save_memory", None)
        if save is None:
            raise UsageError(
                f"a {type(self.module).__name__} cannot be trained in less memory",
                where=f"--memory {self.settings.memory}",
                remedy="give a module that surgeon.to_torch returned",
            )
        save()

    def _update(self, loss: Tensor) -> None:
        """Move the weights by the gradients that lie in them.

        The fused optimisers divide by `grad_scale` as they go, which clips without a pass of its
        own, and do nothing where `found_inf` is 1: nobody has to look at a number before.
        """
        for name, parameter in self.parameters.items():
            master = self.masters[name]
            if master is not parameter and parameter.grad is not None:
                master.grad = parameter.grad.float()
        optimizer: Any = self.optimizer
        self.scaler.unscale_(optimizer)
        gradients = [p.grad for p in self.masters.values() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients).float()
        if self.settings.clip is not None:
            optimizer.grad_scale = ((norm + 1e-6) / self.settings.clip).clamp(min=1.0)
        if not self.scaler.is_enabled():
            optimizer.found_inf = 1.0 - (torch.isfinite(norm) & torch.isfinite(loss)).float()
        self.scaler.step(optimizer)
        self.scaler.update()
        for name in ("grad_scale", "found_inf"):
            if hasattr(optimizer, name):
                delattr(optimizer, name)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if self.masters[name] is not parameter:
                    parameter.copy_(self.masters[name])
        self.readings.put(loss, norm)

    def _after_step(self, epoch: int, *, last: bool) -> None:
        """Tell; under a budget judge in the middle of an epoch that is too long to wait for."""
        if self.interrupted.is_set():
            raise KeyboardInterrupt
        self._tell(epoch + 1)
        if self.state.step >= self.steps and not last:
            self._judge(epoch + 1)
            raise _StopError(None)
        if self.settings.budget_seconds is None or last:
            return
        if self._spent():
            self._judge(epoch + 1)
            raise _StopError("budget")
        since = self._seconds() - self.state.history[-1]["seconds"]
        if since > max(self.settings.budget_seconds / 6, 10 * self.validation_seconds):
            self._judge(epoch + 1)
            self.module.train()

    # ----------------------------------------------------------------------------- the rate

    def _lay_out(self, memory_format: torch.memory_format) -> None:
        """Store weights of four axes with channels last: convolutions then take 15 to 20 % less.

        Measured on two CPUs and two networks; the layout of the inputs makes no difference. On a
        GPU it is what the matrix units of convolutions in bf16, fp16 and TF32 take.
        """
        for parameter in self.module.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=memory_format)

    def _optimizer(self, depths: Mapping[str, float]) -> torch.optim.Optimizer:
        settings = self.settings
        decay = 1.0 if settings.scratch else settings.lr_decay
        ranks = {name: parameter.ndim for name, parameter in self.masters.items()}
        groups: list[dict[str, Any]] = [
            {
                "params": [self.masters[name] for name in names],
                "names": names,
                "factor": factor,
                "lr": self.lr * factor,
                "weight_decay": settings.weight_decay if decays else 0.0,
            }
            for factor, decays, names in schedule.group_by_rate(
                list(self.masters), depths, ranks, decay
            )
        ]
        names_in_order = [name for group in groups for name in group.pop("names")]
        self.order = names_in_order
        kind: optimizers.Kind = settings.optimizer
        if kind == "adamw" and settings.memory == "lowest":
            kind = "adamw8bit"
        return optimizers.make(groups, kind=kind, lr=self.lr)

    def _set_rates(self) -> float:
        """Set the rate of every group for the step to come; return that of the head."""
        rate = self.lr
        if not self.settings.constant_rate:
            share, warmup = self._share(), max(self.warmup, 1)
            # Counted from 1: a step at rate 0 would be wasted. A budget warms up by its share too.
            warmed = max((self.state.step + 1) / warmup, share * self.steps / warmup)
            rate *= schedule.rate_factor(share, warmed)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        return rate

    def _share(self) -> float:
        """Return how much is done: the share of the steps, or of the budget where that is more."""
        share = self.state.step / max(self.steps, 1)
        if self.settings.budget_seconds is not None:
            first = self.state.history[0]["seconds"] if self.state.history else 0.0
            time_to_train = max(self._time_to_train() - first, 1e-3)
            share = max(share, (self._seconds() - first) / time_to_train)
        return min(share, 1.0)

    def _time_to_train(self) -> float:
        """Return the second at which to stop, so that a step and the last validation still fit."""
        budget = self.settings.budget_seconds or math.inf
        return max(budget - 1.1 * self.validation_seconds - self.step_seconds, 1e-3)

    def _spent(self) -> bool:
        return self._seconds() >= self._time_to_train()

    def _seconds(self) -> float:
        return self.state.seconds + time.perf_counter() - self.began

    # ------------------------------------------------------------------------- the judgement

    def _all_judged(self) -> Indices:
        if self.validation is None:
            return np.arange(0)
        order = np.random.default_rng(self.settings.seed).permutation(self.validation.n)
        return order.astype(np.int64)

    def _judge(self, epoch: int) -> None:
        """Validate, write a row of the history, keep the weights if they are the best so far."""
        started = time.perf_counter()
        self._read(wait=True)
        self.trained_seconds += time.perf_counter() - started
        started = time.perf_counter()
        with arithmetic(self.device, exact=True):
            loss, quality = self._validate(first=not self.state.history)
        self.validation_seconds = time.perf_counter() - started
        self.module.train()
        row: Row = {
            "stage": self.settings.stage,
            "epoch": epoch,
            "step": self.state.step,
            "loss": float(np.mean(self.losses)) if self.losses else None,
            "validation_loss": loss,
            "validation_quality": quality,
            "lr": self.last_lr,
            "seconds": self._seconds(),
        }
        self.losses, self.total_loss = [], 0.0
        history = self.state.history
        progressed = self._gained(row)
        history.append(row)
        if len(history) == 1 or self._better(row, history[self.state.best]):
            self.state.best = len(history) - 1
            self._keep()
            progressed = True
        if progressed:
            self.state.stale = 0
        elif self.state.epoch == epoch:
            self.state.stale += 1
        self._tell(epoch, row=row)

    def _gained(self, row: Row) -> bool:
        """Tell whether the validation loss is the lowest yet: quality may lag behind it."""
        losses = [r["validation_loss"] for r in self.state.history]
        now = row["validation_loss"]
        return now is not None and all(now < loss for loss in losses if loss is not None)

    def _better(self, row: Row, best: Row) -> bool:
        if self.settings.keep == "last":
            return True
        if row["validation_loss"] is None:
            # Without validation samples the training loss decides; the start has none to compare.
            return row["loss"] is not None and (best["loss"] is None or row["loss"] < best["loss"])
        if not math.isfinite(row["validation_loss"]):
            return False
        if not math.isfinite(best["validation_loss"]):
            return True
        if self.settings.monitor == "loss":
            return bool(row["validation_loss"] < best["validation_loss"])
        return bool(
            (row["validation_quality"], -row["validation_loss"])
            > (best["validation_quality"], -best["validation_loss"])
        )

    def _validate(self, *, first: bool) -> tuple[float | None, float | None]:
        """Return mean loss and quality, in evaluation mode and without reduced precision.

        The first time under a budget, judging ends at its share of the time; the samples judged by
        then, in random order, are the ones judged from now on.
        """
        if self.validation is None:
            return None, None
        self.module.eval()
        started = time.perf_counter()
        limit = math.inf
        if first and self.settings.budget_seconds is not None:
            limit = _VALIDATION_SHARE * self.settings.budget_seconds
        while True:
            chunks = _chunks(self.judged, max(self.state.micro, 1))
            parts = [Wanted(chunk) for chunk in chunks]
            loads = feed(self.validation, parts, self.device, self.objective.target)
            sums = Readings(self.device)
            rows: list[tuple[float, ...]] = []
            done = 0
            try:
                for chunk, brought in zip(chunks, loads, strict=True):
                    with torch.no_grad():
                        outputs = _outputs(self.module(*brought.inputs)).float()
                        sums.put(*self.objective.judge(outputs, brought.target))
                    rows += sums.take(wait=limit < math.inf)
                    done += len(chunk)
                    if time.perf_counter() - started > limit:
                        break
                rows += sums.take(wait=True)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error)
                continue
            finally:
                loads.close()
            break
        if done < len(self.judged):
            self.judged = self.judged[:done]
            self._note(f"validating on {done} of {self.validation.n} samples to keep the budget")
        loss, quality, judged = (sum(column) for column in zip(*rows, strict=True))
        if not judged:
            raise DataError("no validation sample has a target that is known")
        return loss / judged, quality / judged

    # ------------------------------------------------------------------------------ the rest

    def _clear(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None
        self.optimizer.zero_grad(set_to_none=True)

    def _halve(self, error: BaseException | None) -> None:
        """Make the passes half as large; the optimiser's batch stays."""
        if self.state.micro <= 1:
            raise EnvironmentLacksError(
                f"out of memory with one sample at a time on {self.device}",
                where="training",
                remedy="train less of the network, use a smaller --size, or another device",
            ) from error
        self._clear()
        self.state.micro = math.ceil(self.state.micro / 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        reason = "out of memory" if error else "memory nearly full"
        self._note(
            f"{reason}: passes of {self.state.micro} samples from now on, "
            f"still {self.batch} per optimiser step"
        )

    def _note(self, text: str) -> None:
        self.state.notes.append(text)
        self._tell(self.state.epoch + 1, note=text)

    def _tell(self, epoch: int, *, row: Row | None = None, note: str | None = None) -> None:
        if self.report is None:
            return
        share, seconds = self._share(), self._seconds()
        trained = self.trained_seconds
        self.report(
            Progress(
                stage=self.settings.stage,
                epoch=epoch,
                epochs=self.epochs,
                step=self.state.step,
                steps=self.steps,
                share=share,
                loss=self._mean_loss() if self.losses else (row or {}).get("loss"),
                lr=self.last_lr,
                seconds=seconds,
                seconds_left=seconds * (1 - share) / share if share > 0 else None,
                samples_per_second=self.trained_samples / trained if self.trained_samples else None,
                row=row,
                note=note,
            )
        )

    def _mean_loss(self) -> float:
        return self.total_loss / len(self.losses)

    def _tensors(self) -> dict[str, Tensor]:
        """Return what training may move: trainable parameters and the buffers of the module."""
        parameters = dict(self.module.named_parameters())
        buffers = {
            name: tensor
            for name, tensor in self.module.state_dict().items()
            if name not in parameters
        }
        return {**{n: p.detach() for n, p in self.parameters.items()}, **buffers}

    def _keep(self) -> None:
        self.kept = {name: tensor.clone() for name, tensor in self._tensors().items()}

    def _put_back(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(tensors[name])

    def _finish(self, stopped: Stopped | None) -> FitResult:
        history = self.state.history
        if self.kept and (self.settings.keep == "best" or stopped == "nan"):
            self._put_back(self.kept)
        if not history:  # interrupted before the first validation ended
            history.append(
                {
                    "stage": self.settings.stage,
                    "epoch": 0,
                    "step": 0,
                    "loss": None,
                    "validation_loss": None,
                    "validation_quality": None,
                    "lr": 0.0,
                    "seconds": self._seconds(),
                }
            )
        self._lay_out(torch.contiguous_format)
        self.module.to("cpu")
        compiled, peak = bool(self.passes.compiled), peak_memory(self.device)
        self._let_go()
        return FitResult(
            history=tuple(history),
            stopped=stopped,
            best=history[self.state.best],
            improved=self.state.best > 0,
            epochs=self.state.epoch,
            steps=self.state.step,
            samples=self.state.samples,
            planned_epochs=self.epochs,
            batch=self.batch,
            micro_batch=self.state.micro,
            lr=self.lr,
            validation_samples=len(self.judged),
            device=str(self.device),
            precision=self.settings.precision,
            seconds=self._seconds(),
            compiled=compiled,
            resumed=self.resumed,
            decision=self.passes.decision,
            peak_memory=peak,
            notes=tuple(self.state.notes),
        )

    def _let_go(self) -> None:
        """Give a GPU's memory back: ONNX Runtime may need it next."""
        self.passes.end()
        if self.device.type == "cuda":
            self.kept = {}
            self.optimizer.state.clear()
            torch.cuda.empty_cache()

    # ------------------------------------------------------------------------- the checkpoint

    def _fingerprint(self) -> str:
        """Return a hash of what a resumed run must have in common with the one before."""
        settings = dataclasses.asdict(self.settings)
        for name in ("budget_seconds", "max_steps", "device"):
            del settings[name]
        if self.device.type == "cpu":  # where it chooses no algorithm
            del settings["deterministic"]
        shapes = {name: list(p.shape) for name, p in self.module.named_parameters()}
        kind = np.dtype(self.objective.target).newbyteorder("<")
        targets = np.asarray(self.train.targets).astype(kind).tobytes()
        told = [settings, repr(self.objective), list(self.parameters), shapes]
        text = json.dumps([*told, self.epochs, self.batch])
        return hashlib.sha256(text.encode() + b"\0" + targets).hexdigest()

    def _save(self) -> None:
        if self.folder is None:
            return
        tensors = {f"now/{name}": tensor for name, tensor in self._tensors().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.kept.items()}
        for name, master in self.masters.items():
            if master is not self.parameters[name]:
                tensors[f"master/{name}"] = master
        for name in self.order:
            for key, value in self.optimizer.state.get(self.masters[name], {}).items():
                tensors[f"optimizer/{key}/{name}"] = value
        state = dataclasses.asdict(self.state)
        state["seconds"] = self._seconds()
        state["fingerprint"] = self._fingerprint()
        state["scaler"] = self.scaler.state_dict()
        state["judged"] = len(self.judged)
        state["validation_seconds"] = self.validation_seconds
        state["device"] = self.device.type
        checkpoint.save(self.folder, tensors, state)

    def _resume(self) -> bool:
        """Go back to the checkpoint; False where there is none."""
        found = None if self.folder is None else checkpoint.load(self.folder)
        if found is None:
            return False
        tensors, state = found
        if state.pop("fingerprint") != self._fingerprint():
            raise UsageError(
                "the checkpoint is of another run: its data, trainable weights or settings differ",
                where=str(self.folder),
                remedy="give the same options as before, or start again without --resume",
            )
        self.scaler.load_state_dict(state.pop("scaler"))
        self.judged = self.judged[: state.pop("judged")]
        self.validation_seconds = state.pop("validation_seconds")
        del state["version"]
        same_device = state.pop("device", self.device.type) == self.device.type
        self.state = _State(**state)
        if same_device:  # what is fast on one device says nothing about another
            self.passes.resume(self.state.compiled)
        self.last_lr = self.state.history[-1]["lr"]
        self.resumed = self.state.epoch
        by_part: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "master": {}}
        states: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            if part == "optimizer":
                key, _, owner = rest.partition("/")
                states.setdefault(owner, {})[key] = tensor
            else:
                by_part[part][rest] = tensor.to(self.device)
        for owner, found_state in states.items():
            optimizers.restore(self.optimizer, self.masters[owner], found_state)
        self._put_back(by_part["now"])
        self.kept = by_part["best"]
        with torch.no_grad():
            for name, tensor in by_part["master"].items():
                self.masters[name].copy_(tensor)
        return True


@contextmanager
def _noticed() -> Iterator[threading.Event]:
    """Remember Ctrl-C: Python drops an interrupt that falls into a finalizer or a callback."""
    pressed = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread()
    if not ours or before is not signal.default_int_handler:
        yield pressed  # another thread, or another's handler: theirs to decide
        return

    def remember(number: int, frame: Any) -> None:
        pressed.set()
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, remember)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _chunks(indices: Indices, size: int) -> list[Indices]:
    return [indices[first : first + size] for first in range(0, len(indices), size)]


def _outputs(output: Any) -> Tensor:
    first = output[0] if isinstance(output, tuple | list) else output
    assert isinstance(first, Tensor)
    return first
