"""The frozen part of a run: features of its samples, computed once and kept.

What must not enter: what is learnt from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.engines.choice import BOUNDS, HALF_BOUND, engine_for
from surgeon.errors import DataError
from surgeon.graph.apart import doubtful_nodes
from surgeon.job.done import Work
from surgeon.job.run import Job, runtime_device
from surgeon.probe.solver import torch_threads
from surgeon.records import as_json
from surgeon.runtime.extract import extract
from surgeon.runtime.features import Request
from surgeon.train.augment import Views

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surgeon.data.samples import Samples
    from surgeon.graph.frontier import Frontier
    from surgeon.runtime.features import Features


QUANTISED_SLACK = 0.05
"""Share of the summed magnitudes by which logits behind quantised values may differ."""


def features_of(
    job: Job,
    front: Frontier,
    samples: Samples | None = None,
    indices: NDArray[np.int64] | None = None,
) -> Features:
    """Return what the frozen part makes of samples (None = the run's), from the cache if it can."""
    names = [info.name for info in front.tensors]
    axes = {info.name: info.batch_axis for info in front.tensors if info.batch_axis}
    engines = engine_for(
        job.to.place.device,
        precision=job.to.place.precision,
        compile=job.to.training.compile,  # type: ignore[arg-type]
        deterministic=job.to.place.deterministic,
    )
    shapes = job.operated.anatomy().shapes
    return extract(
        front.frozen,
        names,
        job.given.samples if samples is None else samples,
        indices,
        Request(
            key_parts=() if engines is None else engines.key_parts,
            axes=axes,
            device=runtime_device(job) if engines is None else engines.place,
            threads=job.to.place.threads,
            limit_bytes=job.to.place.cache_limit,
            faster=engines,
            doubtful=bool(front.frozen and doubtful_nodes(front.frozen, shapes)),
            where=job.operated.where,
        ),
        progress=lambda done, total: job.given.say("features", done, total),
    )


def view_features(
    job: Job, front: Frontier, train: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.int64], dict[str, Any]]:
    """Return the features of augmented views of training samples, and the sample of each row.

    And what the document's `frontier` says of them.
    """
    strength = {"auto": "light"}.get(job.to.training.augment, job.to.training.augment)
    varied = Views(
        job.given.samples, job.to.training.views - 1, strength, seed=job.to.training.seed
    )
    wanted = np.concatenate(
        [train + view * job.given.samples.n for view in range(job.to.training.views - 1)]
    )
    with torch_threads(1):  # every core augments pictures of its own
        features = features_of(job, front, varied, wanted)
    name = front.tensors[0].name
    values = features.array(name)
    values = values.reshape(len(values), -1)
    require_finite(job, features, values, name)
    told = {
        "views": job.to.training.views,
        "augment": strength,
        "bytes": features.bytes,
        "hit": features.hit,
    }
    return values, wanted % job.given.samples.n, told


def slack_of(job: Job, front: Frontier, features: Features) -> float:
    """Return how far logits may lie from the features' by rounding, relative to all that is summed.

    Beside a tie a last digit moves a quantised value by a whole step.
    """
    kinds = set() if front.frozen is None else {node.op_type for node in front.frozen.graph.node}
    if any("Quantize" in kind or kind.startswith(("QLinear", "Q")) for kind in kinds):
        return QUANTISED_SLACK
    stored = set(features.stored.values())
    half = "float16" in stored and any(t.dtype != "float16" for t in front.tensors)
    engines = BOUNDS[job.to.place.precision] if job.to.place.device != "cpu" else BOUNDS["float32"]
    return max(job.operated.bound, engines, HALF_BOUND if half else 0.0)


def frozen_work(front: Frontier, features: Features | None, *, alone: bool, seconds: float) -> Work:
    """Return where the graph was split, and what computed the features in how long."""
    cache = None
    if features is not None:
        alone |= features.alone
        cache = {
            "path": None if features.path is None else str(features.path),
            "bytes": features.bytes,
            "hit": features.hit,
        }
    return Work(
        frontier={
            "tensors": [
                {"name": t.name, "shape": as_json(t.shape), "dtype": t.dtype} for t in front.tensors
            ],
            "nodes_frozen": front.nodes_frozen,
            "nodes_trained": front.nodes_trained,
            "one_by_one": alone,
            "cache": cache,
        },
        providers=() if features is None else features.providers,
        alone=alone,
        notes=() if features is None else features.notes,
        seconds_features=seconds,
    )


def rows_of(job: Job, features: Features) -> dict[str, NDArray[np.int64]]:
    """Return positions in the features of every part, unreadable samples left out."""
    where = np.full(job.given.samples.n, -1, np.int64)
    where[features.rows] = np.arange(features.n)
    test = np.zeros(0, np.int64) if job.given.parts.test is None else job.given.parts.test
    parts = {"train": job.given.parts.train, "validation": job.given.parts.validation, "test": test}
    found = {name: where[indices][where[indices] >= 0] for name, indices in parts.items()}
    task, targets = job.given.task, job.given.targets
    learnt, all_in = targets[features.rows[found["train"]]], targets[job.given.parts.train]
    if (task.counts(all_in) > 0).sum() > (task.counts(learnt) > 0).sum() or not len(learnt):
        raise DataError(
            "no readable sample is left to train on"
            if not len(learnt)
            else "a class has no readable sample left to train on",
            remedy="repair its files, or leave out what they tell",
        )
    return found


def require_finite(job: Job, features: Features, values: NDArray[Any], name: str) -> None:
    """Refuse features that are no numbers, naming the samples they come from.

    Raises:
        DataError: with the count and the first samples.
    """
    bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    if not len(bad):
        return
    samples = [
        str(job.given.samples.names[features.rows[row] % job.given.samples.n]) for row in bad[:3]
    ]
    raise DataError(
        f"the frozen part gives NaN or infinity for {len(bad)} of {len(values)} samples",
        where=f"tensor {name!r}: {', '.join(samples)}",
        remedy="check these samples and the preprocessing; a float16 model may overflow on them",
    )
