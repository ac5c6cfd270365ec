"""A rate of learning found by trying: the range test.

L. N. Smith, "Cyclical Learning Rates for Training Neural Networks" (arXiv 1506.01186): the rate
rises exponentially from step to step while the loss is watched; it falls, then it diverges. The
rate is taken from the fall. What must not enter: stages, what is delivered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import nn

from surgeon.train.device import check_precision, choose, prepared
from surgeon.train.feed import Wanted, feed
from surgeon.train.parameters import Parameters, Trainable
from surgeon.train.room import Room
from surgeon.train.schedule import Schedule, split_epoch, step_seed
from surgeon.train.settings import FitSettings, check
from surgeon.train.step import Step, StopError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from surgeon.train.feed import Batches, Indices
    from surgeon.train.objective import Objective

STEPS: Final = 100
LOWEST: Final = 1e-6
HIGHEST: Final = 1.0
"""Rates of the head in the first and the last step; AdamW diverges below one."""
SMOOTH: Final = 0.95
"""Share of the running mean that each step keeps."""
DIVERGED: Final = 4.0
"""Times its lowest value at which the running mean ends the test, as in fastai."""
FALLS: Final = 0.98
"""Share of its start below which a curve has fallen: above, it only wavers."""


@dataclass(frozen=True)
class RateTest:
    """What a range test saw.

    Attributes:
        rates: of the head, ascending, one per step.
        losses: of each step's batch.
        smoothed: their running mean.
        chosen: the peak rate to train with.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    chosen: float


def find_rate(
    module: nn.Module,
    train: Batches,
    *,
    objective: Objective,
    trainable: Trainable,
    settings: FitSettings,
    progress: Callable[[int, int], None] | None = None,
) -> RateTest:
    """Try rates on a module and leave it as it was; see `surgeon.train.loop.fit`.

    Weights in front of the head keep their share of the rate, as in training. The same seed gives
    the same curve.

    Args:
        module: positional inputs → outputs.
        train: what to learn from.
        objective: what is minimised.
        trainable: names of parameters; all others are frozen.
        settings: how it will be trained; the rate and the length are the test's own.
        progress: called as `progress(step, steps)`.
    """
    check(settings)
    device = choose(settings.device)
    check_precision(settings.precision, device)
    parameters = Parameters(module, trainable, device)
    objective.to(device)
    before = {name: tensor.clone() for name, tensor in parameters.tensors().items()}
    settings, schedule = replace(settings, compile="off"), Schedule.of(settings, train.n)
    room = Room(schedule, parameters, device, lambda _: None)
    cuda = [device.index or 0] if device.type == "cuda" else []
    ready = prepared(device, deterministic=settings.deterministic)
    with torch.random.fork_rng(devices=cuda), ready:
        step = Step(parameters, train, objective, settings, schedule.lr, device)

        def take(number: int, rate: float, batch: Indices) -> float:
            """Take one step, in passes that fit into memory, and return its loss."""
            if number == 0:
                room.try_out(batch, step.rehearsing)
            seed, chunks = step_seed(settings.seed, 0, number), room.chunks(batch)
            wanted = [Wanted(chunk, (seed + place) % 2**62) for place, chunk in enumerate(chunks)]
            loads = feed(train, wanted, device, objective.target)
            try:
                step.take(seed, rate, chunks, loads)
                step.read(wait=True)
            finally:
                loads.close()
            return step.judged() or 0.0

        try:
            module.train()
            curve = _curve(take, _batches(train.n, schedule.batch, settings.seed), progress)
        finally:
            parameters.clear()
            if isinstance(objective, nn.Module):
                objective.zero_grad()
            module.eval()
            parameters.put_back(before)
            parameters.leave()
            step.end()
    rates, losses, smoothed = (tuple(column) for column in zip(*curve, strict=True))
    return RateTest(rates, losses, smoothed, choose_rate(rates, smoothed))


def _batches(samples: int, batch: int, seed: int) -> Iterator[Indices]:
    """Yield the batches that training would see, epoch after epoch."""
    for epoch in count():
        yield from split_epoch(samples, batch, seed=seed, epoch=epoch)


def _curve(
    take: Callable[[int, float, Indices], float],
    batches: Iterator[Indices],
    progress: Callable[[int, int], None] | None,
) -> list[tuple[float, float, float]]:
    """Return (rate, loss, running mean of the losses) of every step until the loss diverges."""
    curve: list[tuple[float, float, float]] = []
    mean = 0.0
    for number, rate in enumerate(np.geomspace(LOWEST, HIGHEST, STEPS).tolist()):
        try:
            loss = take(number, rate, next(batches))
        except StopError:  # the loss is not a number any more
            break
        mean = SMOOTH * mean + (1 - SMOOTH) * loss
        smoothed = mean / (1 - SMOOTH ** (number + 1))  # as if it had begun with the first
        curve.append((rate, loss, smoothed))
        if progress is not None:
            progress(number + 1, STEPS)
        if smoothed > DIVERGED * min(row[2] for row in curve):
            break
    return curve or [(LOWEST, float("nan"), float("nan"))]


def choose_rate(rates: Sequence[float], smoothed: Sequence[float]) -> float:
    """Return a rate well inside the fall of a curve.

    The longest fall is found as the longest falling subsequence, and its middle is taken (fastai's
    `valley`). Where the loss has nowhere to fall, as behind a head that was solved, it is a tenth
    of the highest rate at which the loss has not risen yet.

    Args:
        rates: ascending.
        smoothed: loss at each, not negative.
    """
    first = len(smoothed) // 10  # the mean of a few batches only: it says where the curve begins
    start = float(np.mean(smoothed[: first or 1]))
    rates, losses = rates[first:], np.asarray(smoothed[first:])
    if not losses.min() < FALLS * start:
        kept = np.flatnonzero(losses <= start / FALLS)
        return float(rates[int(kept[-1]) if len(kept) else 0] / 10)
    length = np.ones(len(losses), int)
    for place in range(1, len(losses)):
        higher = losses[:place] > losses[place]
        length[place] = 1 + length[:place][higher].max(initial=0)
    end = int(length.argmax())
    return float(rates[end - int(length[end]) // 2])
