"""Features as the solver sees them: standardised, and turned onto their principal axes.

The penalty is the same after a rotation, and there the Hessian is nearly diagonal. What must not
enter: targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from surgeon.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    Floats = npt.NDArray[np.floating[Any]]

#: A feature whose spread is below this fraction of its mean carries rounding noise, not signal:
#: a float32 product with it would cancel. It gets weight 0.
CONSTANT = 1e-5
#: From this many features on, spreads below the median count as the median. Channels of one layer
#: share a scale: a channel that hardly moved in the training samples would otherwise be blown up
#: and dominate on unseen ones (measured: +7 points at 4 samples per class, +1 at 90).
FLOORED_FEATURES = 32
#: A feature counts as if noise of this share of its mean lay on it, as float32 and other kernels
#: put some on it: it matters from means of thousands of spreads on, and weights of such features,
#: with which a product loses the digits of the logits, are taken only where they pay.
NOISE = 2.0**-14
#: Up to this many numbers the final solve runs in float64; above, in float32 at 1e-7.
FLOAT64_SIZE = 2**25
#: Above this many axes the rotation costs more than the iterations that it saves.
ROTATION_SIZE = 4096
_CHUNK = 4096


@dataclass(frozen=True)
class Basis:
    """Standardised features on their principal axes: points = (x − mean) · scale @ axes."""

    points: Tensor  # float32 [n, r]
    exact: Tensor | None  # the same in float64; None where that would be too large
    mean: Tensor  # float64 [d]
    scale: Tensor  # float64 [d]
    axes: Tensor | None  # float64 [d, r], orthonormal columns; None = not rotated

    @classmethod
    def of(cls, features: Floats, device: torch.device) -> Basis:
        """Standardise features [n, d] (see `FLOORED_FEATURES`) and turn them."""
        mean, scale = _moments(features)
        n, d = features.shape
        double = n * d <= FLOAT64_SIZE
        dtype = torch.float64 if double else torch.float32
        points = torch.empty((n, d), dtype=dtype, device=device)
        for rows, block in _blocks(features):
            points[rows] = torch.from_numpy((block - mean) * scale).to(device, dtype)
        axes: Tensor | None = None
        if min(n, d) <= ROTATION_SIZE:
            axes = _principal_axes(points)
            points = points @ axes.to(dtype)
        return cls(
            points.float(),
            points if double else None,
            torch.from_numpy(mean).to(device),
            torch.from_numpy(scale).to(device),
            axes,
        )

    def fold_back(
        self, theta: Tensor, present: npt.NDArray[np.bool_] | None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return weight [outputs, d] and bias [outputs] for the original features.

        Biases have the mean 0 over the outputs present; None = they stay. They make up for what
        rounding to float32 took from the weights at the features' mean.
        """
        weight = theta[:, :-1] if self.axes is None else theta[:, :-1] @ self.axes.T
        weight = weight * self.scale
        with np.errstate(over="ignore"):
            rounded = weight.cpu().numpy().astype(np.float32)
            bias = (theta[:, -1] - torch.from_numpy(rounded).to(theta) @ self.mean).cpu().numpy()
            if present is not None:
                bias -= bias[present].mean()
            return rounded, bias.astype(np.float32)


def _blocks(features: Floats) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    for first in range(0, len(features), _CHUNK):
        rows = slice(first, first + _CHUNK)
        yield rows, np.asarray(features[rows], dtype=np.float64)


def _moments(
    features: Floats,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and scale [d] in two passes over blocks; scale 0 for constant features."""
    n, d = features.shape
    total = np.zeros(d)
    for rows, block in _blocks(features):
        if not np.isfinite(block).all():
            row, column = np.argwhere(~np.isfinite(block))[0]
            raise DataError(
                f"features hold NaN or infinity, first in sample {rows.start + row}, "
                f"feature {column}",
                where="features",
                remedy="check the preprocessing; a float16 model may overflow on these samples",
            )
        total += block.sum(0) / n
    with np.errstate(over="ignore", divide="ignore"):
        spread = np.zeros(d)
        for _, block in _blocks(features):
            spread += ((block - total) ** 2).sum(0) / n
        spread = np.sqrt(spread)
        varies = spread > CONSTANT * np.abs(total)
        floor = np.median(spread[varies]) if varies.any() and d >= FLOORED_FEATURES else 0.0
        scale = np.where(varies, 1 / np.hypot(np.maximum(spread, floor), NOISE * total), 0.0)
    if not np.isfinite(scale).all() or not np.isfinite(spread).all():
        raise DataError(
            "features are too large or too small for float64",
            where="features",
            remedy="rescale the features, or cut at another value",
        )
    return total, scale


def _principal_axes(standard: Tensor) -> Tensor:
    """Return an orthonormal basis [d, r] of the row space in which the covariance is diagonal."""
    n, d = standard.shape
    exact = standard.double()
    squares: Tensor
    left: Tensor
    if d <= n:
        _, left = _eigh(exact.T @ exact)
        return left.flip(1)
    squares, left = _eigh(exact @ exact.T)
    # Directions below this hold nothing but rounding: the samples do not reach into them.
    kept = squares > squares[-1] * 1e-12
    if not bool(kept.any()):
        return torch.eye(d, 1, dtype=torch.float64, device=standard.device)
    axes = exact.T @ (left[:, kept] / squares[kept].sqrt())
    return axes.flip(1)


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors; by the CPU where a GPU's solver does not converge."""
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        if not matrix.is_cuda:
            raise
        values, vectors = torch.linalg.eigh(matrix.cpu())
    return values.to(matrix.device), vectors.to(matrix.device)
