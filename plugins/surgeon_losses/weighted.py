"""Cross-entropy in which classes count as people say: rare ones as much as common ones, or more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from surgeon.errors import UnknownNameError, UsageError
from surgeon.train.objective import UNKNOWN, CrossEntropy, class_weights

if TYPE_CHECKING:
    from collections.abc import Sequence


class Weighted(CrossEntropy):
    """Cross-entropy with a weight per class."""

    def __init__(
        self, factors: Sequence[float], *, weights: str = "balanced", smoothing: float = 0.0
    ) -> None:
        """Take a weight per class, and how it was told."""
        super().__init__(factors, smoothing=smoothing)
        self.told = weights

    @classmethod
    def of(
        cls,
        targets: Any,
        outputs: int,
        *,
        scratch: bool = False,  # noqa: ARG003 - no setting follows from the start
        names: Sequence[str] = (),
        weights: str = "balanced",
        smoothing: float = 0.0,
    ) -> Self:
        """Weigh classes by the training samples, or as told.

        Args:
            targets: [n] codes of the training samples.
            outputs: number of classes.
            scratch: whether weights start at random.
            names: of the classes.
            weights: `balanced` (inverse frequency), or `name:weight|name:weight`; those that are
                not named count once.
            smoothing: of labels, 0..1.

        Raises:
            UsageError: a weight that is none, or a name that no class has.
        """
        if not 0 <= smoothing <= 1:
            raise UsageError(
                f"smoothing is {smoothing:g}", where="--loss weighted", remedy="give 0 to 1"
            )
        if weights == "balanced":
            found = class_weights(targets[targets != UNKNOWN], outputs, "balanced")
            return cls(found or (1.0,) * outputs, smoothing=smoothing)
        told = dict.fromkeys(names, 1.0)
        for part in weights.split("|"):
            name, colon, weight = part.strip().rpartition(":")
            if colon and name not in told:
                raise UnknownNameError("class", name, told, where="--loss weighted")
            try:
                told[name] = float(weight)
            except ValueError:
                told[name] = -1.0
            if not (colon and 0 <= told[name] < 1e6):
                raise UsageError(
                    f"{part!r} is no class and its weight",
                    where="--loss weighted",
                    remedy="weights=balanced, or weights=cat:3|dog:1",
                )
        return cls([told[name] for name in names], weights=weights, smoothing=smoothing)
