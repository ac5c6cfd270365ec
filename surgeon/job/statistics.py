"""Statistics of classes that a tuned file carries: enough to add classes without their samples.

Of each class the mean and the count, and one covariance of all, of the features that the head
reads. It is stored as its 128 largest principal axes and the rest of each variance, in half
precision, in units of the spread of each feature: a few hundred kB. What must not enter: how a head
is made of them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import DataError, ModelError, UnsupportedError, UsageError
from surgeon.graph import envelope
from surgeon.graph.frontier import split as split_graph
from surgeon.job.frozen import features_of, require_finite, rows_of
from surgeon.job.run import head_input, head_weights
from surgeon.probe.discriminant import Moments
from surgeon.runtime.proof import decode, encode
from surgeon.tasks.labels import listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from surgeon.job.run import Job
    from surgeon.model import Model

AXES = 128
"""Principal axes kept."""
MOST_FEATURES = 4096
"""Above, the covariance of the features takes too much memory and time."""
VERSION, HALF = 1, 65504.0
REMEDY = "tune with --keep-statistics again, or give data of the old classes with --old-data"


def as_document(moments: Moments) -> dict[str, Any]:
    """Return statistics as the file stores them: JSON."""
    spread, total = moments.spread, moments.counts.sum()
    centre = moments.counts @ moments.means / total
    covariance = moments.scatter / total / np.outer(spread, spread)
    values, axes = np.linalg.eigh(covariance)
    kept = slice(-min(AXES, len(values)), None)
    basis = (axes[:, kept] * np.sqrt(np.maximum(values[kept], 0.0))).T
    rest = np.maximum(np.diag(covariance) - (basis**2).sum(axis=0), 0.0)
    return {
        "version": VERSION,
        "counts": [int(count) for count in moments.counts],
        "centre": encode(centre.astype(np.float32)),
        "spread": encode(spread.astype(np.float32)),
        "means": encode(np.clip((moments.means - centre) / spread, -HALF, HALF).astype(np.float16)),
        "axes": encode(basis.astype(np.float16)),
        "rest": encode(rest.astype(np.float16)),
    }


def of_document(document: Mapping[str, Any]) -> Moments:
    """Return the statistics that `as_document` wrote.

    Raises:
        ModelError: they are damaged.
    """
    try:
        counts = np.array(document["counts"], np.float64)
        centre, spread, means, axes, rest = (
            decode(document[name]).astype(np.float64)
            for name in ("centre", "spread", "means", "axes", "rest")
        )
    except (ModelError, KeyError, TypeError, ValueError) as error:
        raise _damaged("cannot be read") from error
    width = centre.size
    shapes = [values.shape for values in (counts, centre, spread, means, axes[:0], rest)]
    wanted = [(counts.size,), (width,), (width,), (counts.size, width), (0, width), (width,)]
    if shapes != wanted or not width <= MOST_FEATURES or not (counts > 0).all():
        raise _damaged("do not fit together")
    if not all(np.isfinite(values).all() for values in (counts, centre, spread, means, axes, rest)):
        raise _damaged("hold NaN or infinity")
    covariance = (axes.T @ axes + np.diag(rest)) * np.outer(spread, spread)
    return Moments(counts, means * spread + centre, covariance * counts.sum())


def _damaged(what: str) -> ModelError:
    return ModelError(
        f"the statistics of the classes {what}",
        where=f"metadata {envelope.STATISTICS!r}",
        remedy=REMEDY,
    )


def carries(model: Model) -> bool:
    """Say whether a file carries statistics of its classes."""
    return envelope.STATISTICS in envelope.metadata(model.proto)


def counted(model: Model) -> int:
    """Return of how many samples a file carries statistics."""
    document = envelope.get(model.proto, envelope.STATISTICS) or {}
    counts = document.get("counts")
    return sum(one for one in counts if isinstance(one, int)) if isinstance(counts, list) else 0


def carried(model: Model) -> Moments | None:
    """Return the statistics that a file carries of its classes; None where it has none.

    Raises:
        ModelError: they are damaged, or those of another head.
    """
    document = envelope.get(model.proto, envelope.STATISTICS)
    if document is None or model.plan is None:
        return None
    found, weights = of_document(document), model.plan.head.weights[-2:]
    shape = next((tuple(t.dims) for t in model.proto.graph.initializer if t.name in weights), ())
    if found.means.shape != shape:
        raise ModelError(
            f"the statistics are of {list(found.means.shape)} classes and features, the head has "
            f"{list(shape)}",
            where=f"metadata {envelope.STATISTICS!r}",
            remedy=REMEDY,
        )
    return found


def keeps(job: Job) -> bool:
    """Say whether the file shall carry statistics: it was asked for, or it had them before."""
    asked = job.to.delivery.keep_statistics
    return asked or (job.extended is not None and carries(job.operated))


def require(job: Job) -> None:
    """Refuse to keep statistics of what has none.

    Raises:
        UsageError: the answers are no classes.
        UnsupportedError: the head is not linear in its features, or there are too many of them.
        DataError: classes without a sample.
    """
    if not keeps(job):
        return
    if not job.task.extends:
        raise UsageError(
            f"statistics of classes are kept, and {job.plan.task!r} has none",
            where="--keep-statistics",
            remedy="leave it out",
        )
    if not job.plan.head.solves:
        raise UnsupportedError(
            f"statistics are of what a linear head reads, this is {job.plan.head.kind!r}",
            where="--keep-statistics",
            remedy="leave it out, or take the linear head",
        )
    weight = head_weights(job)[0]
    shape = next(t.dims for t in job.operated.proto.graph.initializer if t.name == weight)
    if shape[1] > MOST_FEATURES:
        raise UnsupportedError(
            f"statistics of {shape[1]:,} features are too large, {MOST_FEATURES:,} is the most",
            where="--keep-statistics",
            remedy="leave it out, or cut where there are fewer (`surgeon cuts`)",
        )
    counts = job.task.counts(job.given.targets[job.given.parts.train])
    if job.extended is None or job.extended.known is None:
        names = [name for name, count in zip(job.given.labels, counts, strict=True) if not count]
        if names:
            raise DataError(
                f"{len(names)} classes have no sample to keep statistics of: {listed(names)}",
                where="--keep-statistics",
                remedy="give samples of every class, or leave it out",
            )


def settle(job: Job, tuned: ModelProto, changed: list[str]) -> list[str]:
    """Put statistics into a tuned file, or take away those that are no longer true; say so.

    They are of the features as the tuned file computes them, of all samples but the test part's
    and validation data of their own.
    """
    if not keeps(job):
        if not carries(job.operated) or set(changed) <= set(head_weights(job)):
            return []
        envelope.put(tuned, envelope.STATISTICS, None)
        return ["the statistics of the classes are gone: features are other ones now"]
    front = split_graph(tuned, head_weights(job), job.operated.anatomy().shapes)
    features, name, parts = features_of(job, front), head_input(job), job.given.parts
    rows = rows_of(job, features)
    chosen = np.concatenate([rows["train"], rows["validation"][: 0 if parts.given else None]])
    values = features.array(name).reshape(features.n, -1)
    require_finite(job, features, values, name)
    found = Moments.of(values[chosen], job.given.targets.values[features.rows[chosen]], job.outputs)
    if job.extended is not None and job.extended.known is not None:
        found = job.extended.known + found
    document = as_document(found)
    envelope.put(tuned, envelope.STATISTICS, document)
    size = f"{len(json.dumps(document)) / 1000:,.0f} kB"
    what = f"mean and count of each, and one covariance, of the features at {name!r}"
    return [f"the file carries statistics of its classes ({size}): {what}"]
