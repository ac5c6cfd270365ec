"""Statistics of classes that a tuned file carries: enough to add classes without their samples.

Of each class the mean and the count, and one covariance of all, of the features that the head
reads. It is stored as its 128 largest principal axes and the rest of each variance, in half
precision, in units of the spread of each feature: a few hundred kB. What must not enter: how a head
is made of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import ModelError, UnsupportedError
from surgeon.graph import envelope
from surgeon.probe.discriminant import Moments
from surgeon.runtime.proof import decode, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

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


def carried(model: Model, classes: int, features: int) -> Moments | None:
    """Return the statistics that a file carries of its classes; None where it has none.

    Raises:
        ModelError: they are damaged, or those of another head.
    """
    document = envelope.get(model.proto, envelope.STATISTICS)
    if document is None:
        return None
    found = of_document(document)
    if found.means.shape != (classes, features):
        raise ModelError(
            f"the statistics are of {len(found.counts)} classes and {found.means.shape[1]} "
            f"features, the head is of {classes} and {features}",
            where=f"metadata {envelope.STATISTICS!r}",
            remedy=REMEDY,
        )
    return found


def require_few(features: int, where: str) -> None:
    """Refuse features whose covariance is too large.

    Raises:
        UnsupportedError: there are more than `MOST_FEATURES`.
    """
    if features > MOST_FEATURES:
        raise UnsupportedError(
            f"statistics of {features:,} features are too large, {MOST_FEATURES:,} is the most",
            where=where,
            remedy="leave --keep-statistics out, or cut where there are fewer (`surgeon cuts`)",
        )
