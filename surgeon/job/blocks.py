"""What trains, at which rate, and what stays: the weights in blocks of neighbouring depth.

What must not enter: deciding, training.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING, Any

from surgeon.graph.cuts import first_use
from surgeon.graph.weights import sizes
from surgeon.job.adapters import asked_rate
from surgeon.job.run import head_weights, stage_names
from surgeon.job.stages import stages_of
from surgeon.train.schedule import default_rate, depth_factor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from surgeon.job.run import Job


def blocks(job: Job, lr: float | None = None) -> list[dict[str, Any]]:
    """Return the `blocks` of a plan, by depth, the head last.

    Weights that train lie in one block where their rate is the same; frozen ones where nothing
    that trains lies between them.

    Args:
        job: what will be trained.
        lr: rate of the head that was found for it; None = what is asked for, else the default.
    """
    rates = _rates(job, lr)
    depths, head = first_use(job.given.model.anatomy()), head_weights(job)
    own, trains = first_use(job.operated.anatomy()), set(job.operated.trainable)
    weights = dict.fromkeys([*job.operated.learnable(), *job.operated.trainable, *head])
    place = {n: 1.0 if n in head else depths.get(n, own.get(n, 1.0)) for n in weights}
    ordered = sorted(
        weights,
        key=lambda one: (one in head, round(10 * own.get(one, 1.0)), one in trains, place[one]),
    )
    count = sizes(job.operated.proto)
    return [
        {
            "name": _title(names),
            "depth": [min(place[one] for one in names), max(place[one] for one in names)],
            "trained": names[0] in trains,
            "weights": names,
            "parameters": sum(count[name] for name in names),
            "lr": rates.get(names[0]),
        }
        for _, found in groupby(
            ordered, key=lambda name: (name in head, name in trains, rates.get(name))
        )
        for names in [list(found)]
    ]


def _rates(job: Job, lr: float | None) -> dict[str, float]:
    """Return the peak rate of everything that is trained by steps; a solved head has none."""
    scratch = job.plan.init == "random" and not job.operated.tuned
    depths, rates = first_use(job.operated.anatomy()), dict[str, float]()
    for stage in stages_of(job):
        if stage.method == "solve":
            continue
        peak = lr or asked_rate(job, stage) or default_rate(scratch=scratch)
        for name in stage_names(job, stage):
            decay = 1.0 if scratch else stage.lr_decay
            rate = peak * depth_factor(depths.get(name, 1.0), decay)
            rates[name] = max(rate, rates.get(name, 0.0))
    return rates


def _title(names: Sequence[str]) -> str:
    """Write the first and the last of some names, up to where they differ."""
    first, last = (re.split(r"(?<=[./])", name) for name in (names[0], names[-1]))
    same = 0
    while same < min(len(first), len(last)) and first[same] == last[same]:
        same += 1
    if same == len(first) == len(last):
        return names[0]
    if same >= max(len(first), len(last)) - 1 and same:
        return "".join(first[:same]) + "*"
    return " … ".join("".join(parts[: same + 1]).rstrip("./") for parts in (first, last))
