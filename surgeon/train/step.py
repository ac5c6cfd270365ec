"""One step: passes forward and backward over the chunks of a batch, and the weights moved by them.

The one place where gradients come about. On a GPU nothing here waits for the device.
What must not enter: the order of the samples, clocks of a budget, what is best.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from surgeon.train.compile import Compile, Passes, work_seconds
from surgeon.train.device import arithmetic, autocast, seed_all
from surgeon.train.feed import Wanted, bring
from surgeon.train.objective import FEATURES
from surgeon.train.readings import Readings
from surgeon.train.resume import Part
from surgeon.train.update import Update

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn

    from surgeon.train.feed import Batches, Brought, Indices
    from surgeon.train.objective import Objective
    from surgeon.train.parameters import Parameters
    from surgeon.train.settings import FitSettings, Stopped

#: Steps in a row whose float16 gradients overflow, after which no scale is left to try: 2¹² halved
#: as often is below 1e-4.
_OVERFLOWS: Final = 26


class StopError(Exception):
    """Ends the training loop from inside."""

    def __init__(self, why: Stopped | None) -> None:
        super().__init__(why)
        self.why = why


def outputs_of(output: Any) -> Tensor:
    """Return what an objective is given: the first output of a module, in float32."""
    first = output[0] if isinstance(output, tuple | list) else output
    assert isinstance(first, Tensor)
    return first.float()


def more_of(output: Any, brought: Brought, objective: Objective) -> dict[str, Tensor]:
    """Return what an objective asks for behind outputs and targets, by name."""
    found = dict(brought.beside)
    if FEATURES in getattr(objective, "asks", ()):
        found[FEATURES] = output[1].float()
    return found


class Step(Part):
    """Takes steps, and reads what they told some steps later.

    Attributes:
        parameters: that it moves.
        passes: the form in which they run.
        done: steps taken.
        samples: trained on, repetitions among them.
        rate: of the head, in the last step.
    """

    def __init__(
        self,
        parameters: Parameters,
        train: Batches,
        objective: Objective,
        settings: FitSettings,
        lr: float,
        device: torch.device,
    ) -> None:
        self.parameters, self.passes = parameters, _passes(parameters.module, settings, device)
        self.done, self.samples, self.rate = 0, 0, 0.0
        self._train, self._objective, self._settings = train, objective, settings
        self._device = device
        self._update = Update(parameters, settings, lr, device)
        self._readings, self._pace = Readings(device), Readings(device)
        self._overflows = 0
        self._losses: list[float] = []  # since the last judgement
        self._sum = 0.0

    def take(
        self, seed: int, rate: float, chunks: list[Indices], loads: Iterator[Brought]
    ) -> str | None:
        """Take one step over the chunks of a batch.

        Args:
            seed: of its random operators.
            rate: of the head.
            chunks: samples of every pass.
            loads: brings them, in this order.

        Returns:
            What people should know.

        Raises:
            StopError: the loss of a step is not a number.
        """
        working = work_seconds(self._device)
        seed_all(seed, self._device)
        self.rate = rate
        self._update.set_rate(rate)
        self.parameters.clear()
        whole = np.concatenate(chunks)
        weight = self._objective.total(np.asarray(self._train.targets)[whole])
        losses: list[Tensor] = []
        with arithmetic(self._device, exact=False):
            for number in range(len(chunks)):
                if number:
                    if number == 1:  # later passes add to these in place
                        self.passes.between()
                    self._pace.put(losses[-1])
                    self._pace.take()
                losses.append(self._pass(next(loads), weight))
        loss = torch.stack(losses).sum() if len(losses) > 1 else losses[0]
        self._readings.put(loss, self._update.move(loss))
        self.read(wait=self.passes.timing)
        self.done += 1
        self.samples += len(whole)
        return self.passes.took(work_seconds(self._device) - working)

    def _pass(self, brought: Brought, weight: float) -> Tensor:
        """Go forward and backward once; return the loss, a tensor without axes."""
        with autocast(self._settings.precision, self._device):
            outputs = self.passes.forward(*brought.inputs)
        # The sum over the chunk ÷ the weight of the whole batch: chunks add up to its mean.
        loss = self._loss(outputs, brought) / weight
        self._update.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _loss(self, outputs: Any, brought: Brought) -> Tensor:
        objective: Any = self._objective
        more = more_of(outputs, brought, objective)
        loss: Tensor = objective.loss(outputs_of(outputs), brought.target, **more)
        return loss

    def read(self, *, wait: bool = False) -> None:
        """Note the losses that are known by now.

        Raises:
            StopError: one is not a number.
        """
        for loss, norm in self._readings.take(wait=wait):
            self._overflows = 0 if math.isfinite(norm) else self._overflows + 1
            allowed = _OVERFLOWS if self._update.scaler.is_enabled() else 0
            if not math.isfinite(loss) or self._overflows > allowed:
                raise StopError("nan")
            self._losses.append(loss)
            self._sum += loss

    def loss(self) -> float | None:
        """Return the mean loss since the last judgement."""
        return self._sum / len(self._losses) if self._losses else None

    def judged(self) -> float | None:
        """Return the mean loss since the last judgement, for this one."""
        mean = float(np.mean(self._losses)) if self._losses else None
        self._losses, self._sum = [], 0.0
        return mean

    def choose_form(
        self, chunks: list[Indices], *, varies: bool, steps: int, seconds: float
    ) -> str | None:
        """Try other forms of the passes when it is time to; return what people should know.

        Args:
            chunks: samples that are about to be trained on.
            varies: whether passes come in more than one size.
            steps: still to come.
            seconds: that a budget leaves.
        """
        if not self.passes.is_due(steps, seconds):
            return None
        left = self.passes.left(steps, seconds)
        with self.rehearsing(chunks[0]) as once:
            return self.passes.attempt(once, varies=varies, left=left, several=len(chunks) > 1)

    @contextmanager
    def rehearsing(self, indices: Indices) -> Iterator[Callable[[Callable[..., Any]], None]]:
        """Give a function that goes forward and backward once and leaves no trace of it."""
        brought = bring(self._train, Wanted(indices, 0), self._device, self._objective.target)
        buffers = [(tensor, tensor.clone()) for tensor in self.parameters.module.buffers()]

        def once(forward: Callable[..., Any]) -> None:
            self.parameters.clear()
            with arithmetic(self._device, exact=False):
                with autocast(self._settings.precision, self._device):
                    outputs = forward(*brought.inputs)
                loss = self._loss(outputs, brought)
                loss.backward()  # type: ignore[no-untyped-call]
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)

        try:
            yield once
        finally:
            self.parameters.clear()
            with torch.no_grad():
                for tensor, before in buffers:
                    tensor.copy_(before)

    def end(self) -> None:
        """Let go of what was compiled, and of a GPU's memory."""
        self.passes.end()
        if self._device.type == "cuda":
            self._update.optimizer.state.clear()
            torch.cuda.empty_cache()

    def state(self) -> dict[str, Any]:
        """Return what a run that goes on must know."""
        return {
            "done": self.done,
            "samples": self.samples,
            "rate": self.rate,
            "compiled": self.passes.compiled,
            "device": self._device.type,
            "scaler": self._update.scaler.state_dict(),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a step moves."""
        now = {f"now/{name}": tensor for name, tensor in self.parameters.tensors().items()}
        return now | self._update.tensors()

    def go_on(self, state: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Stand where an earlier run stood."""
        self.done, self.samples, self.rate = state["done"], state["samples"], state["rate"]
        if state["device"] == self._device.type:  # what is fast there says nothing about another
            self.passes.resume(state["compiled"])
        self.parameters.put_back(
            {name.removeprefix("now/"): t for name, t in tensors.items() if name[:4] == "now/"}
        )
        self._update.go_on(state["scaler"], tensors)


def _passes(module: nn.Module, settings: FitSettings, device: torch.device) -> Passes:
    # What is fastest is found by the clock, which does not repeat.
    unmeasured = settings.deterministic and settings.compile == "auto"
    forms: Compile = "off" if unmeasured else settings.compile
    return Passes(module, forms, device, measured=not settings.deterministic)
