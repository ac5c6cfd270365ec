"""How long to train and how fast, as pure functions: epochs, batch, learning rate.

Everything here is arithmetic on numbers, so that a plan can show it before a run and a resumed run
computes the same. What must not enter: torch, clocks, data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from surgeon.train.settings import FitSettings


@dataclass(frozen=True)
class Schedule:
    """How long one fit is, and at which rates.

    Attributes:
        epochs: rounds through the training samples.
        batch: samples per optimiser step.
        passes: samples per pass, as long as memory holds.
        steps: optimiser steps.
        warmup: of them.
        patience: epochs without improvement after which to stop; 0 = never.
        lr: peak rate of the head.
        constant: whether it stays there.
    """

    epochs: int
    batch: int
    passes: int
    steps: int
    warmup: int
    patience: int
    lr: float
    constant: bool

    @classmethod
    def of(cls, settings: FitSettings, samples: int) -> Schedule:
        """Fill in what the settings leave open."""
        scratch = settings.scratch
        epochs = settings.epochs or default_epochs(samples, scratch=scratch)
        passes = settings.batch or default_batch(samples)
        batch = min(passes * settings.accumulate, samples)
        steps = epochs * math.ceil(samples / batch)
        if settings.max_steps is not None:
            steps = min(steps, settings.max_steps)
        warmup, patience = settings.warmup_steps, settings.patience
        return cls(
            epochs=epochs,
            batch=batch,
            passes=min(passes, batch),
            steps=steps,
            warmup=default_warmup(steps) if warmup is None else warmup,
            patience=default_patience(epochs) if patience is None else patience,
            lr=settings.lr or default_rate(scratch=scratch),
            constant=settings.constant_rate,
        )

    def share(self, step: int) -> float:
        """Return how much is done after `step` steps, 0..1."""
        return step / max(self.steps, 1)

    def rate(self, step: int, share: float) -> float:
        """Return the rate of the head for the step after `step` others, `share` of all being done.

        Counted from 1: a step at rate 0 would be wasted. A budget warms up by its share, too.
        """
        if self.constant:
            return self.lr
        warmup = max(self.warmup, 1)
        return self.lr * rate_factor(share, max((step + 1) / warmup, share * self.steps / warmup))


def default_epochs(samples: int, *, scratch: bool = False) -> int:
    """Return 50 · (100 / samples)^⅓, between 5 and 60; twice as many from a random start.

    Optimiser steps then grow with the two-thirds power of the data: few samples are seen often,
    many need fewer rounds. A rule of thumb of this project; early stopping corrects it downwards.
    """
    epochs: int = round(50 * (100 / max(samples, 1)) ** (1 / 3))
    return max(5, min(60, epochs)) * (2 if scratch else 1)


def default_batch(samples: int) -> int:
    """Return 32; below 320 samples the power of two under a tenth of them, at least 4."""
    if samples >= 320:
        return 32
    return max(4, 1 << max(samples // 10, 1).bit_length() - 1)


def default_rate(*, scratch: bool = False) -> float:
    """Return the peak rate of AdamW: 3e-4 from pretrained weights, 1e-3 from random ones."""
    return 1e-3 if scratch else 3e-4


def default_patience(epochs: int) -> int:
    """Return the epochs without improvement after which to stop: a third, at least 5."""
    return max(5, epochs // 3)


def default_warmup(steps: int) -> int:
    """Return the steps of linear warm-up: a twentieth, at most 500."""
    return min(500, math.ceil(steps / 20))


def rate_factor(share: float, warmed: float) -> float:
    """Return the fraction of the peak rate: half a cosine from 1 to 0, times a linear warm-up.

    Args:
        share: how much of the training is done, 0..1. It is a share and not a step so that a
            budget of time can drive it as well.
        warmed: how much of the warm-up is done; 1 and more = all.

    """
    share = min(max(share, 0.0), 1.0)
    return min(warmed, 1.0) * 0.5 * (1 + math.cos(math.pi * share))


def depth_factor(depth: float, decay: float) -> float:
    """Return decay^(tenths of depth before the head): 1 at the head, decay¹⁰ at the input.

    Discriminative rates after Howard & Ruder (2018, arXiv 1801.06146), in tenths of depth so that
    the parameters fall into at most eleven groups.
    """
    return float(decay ** round(10 * (1 - min(max(depth, 0.0), 1.0))))


def split_epoch(samples: int, batch: int, *, seed: int, epoch: int) -> list[npt.NDArray[np.int64]]:
    """Return the batches of an epoch: a permutation by (seed, epoch), cut into near-equal parts.

    Near-equal: no batch of one sample is left over, which BatchNormalization could not train on.
    """
    order = np.random.default_rng((seed, epoch)).permutation(samples).astype(np.int64)
    return np.array_split(order, math.ceil(samples / batch))


def step_seed(seed: int, epoch: int, step: int) -> int:
    """Return the seed of the random operators (Dropout, augmentation) of one optimiser step."""
    return int(np.random.SeedSequence((seed, epoch, step)).generate_state(1, np.uint64)[0] >> 1)


def group_by_rate(
    names: Sequence[str], depths: Mapping[str, float], ranks: Mapping[str, int], decay: float
) -> list[tuple[float, bool, list[str]]]:
    """Group parameters by (rate factor, decays): weight decay spares those of rank 0 and 1.

    Returns:
        (factor, decays, names) per group, names in the given order. A name without a depth counts
        as the head.

    """
    groups: dict[tuple[float, bool], list[str]] = {}
    for name in names:
        key = (depth_factor(depths.get(name, 1.0), decay), ranks[name] > 1)
        groups.setdefault(key, []).append(name)
    return [(factor, decays, members) for (factor, decays), members in groups.items()]
