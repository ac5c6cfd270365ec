"""What was found out about how pictures become inputs; `advice.detective` measures it.

What must not enter: measuring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgeon.records import Preprocess


@dataclass(frozen=True)
class Detected:
    """The preprocessing that was found.

    Attributes:
        preprocess: the best candidate; its source is `measured`; `metadata` or `graph` where that
            leaves nothing to measure.
        name: what it is called.
        sure: its share of belief among the candidates, 0..1.
        ranking: every candidate, best first: name, belief, tie, accuracy, accuracy_error, loss,
            logme, mismatch, confidence. `tie` = as accurate as the first, or more, within one
            standard error of the paired difference.
        samples: pictures it was measured on; 0 where nothing was left to measure.
        seconds: that it took.
        said: what the file itself says of it, or None.
    """

    preprocess: Preprocess
    name: str
    sure: float
    ranking: tuple[dict[str, Any], ...]
    samples: int
    seconds: float
    said: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "sure": self.sure,
            "said": self.said,
            "samples": self.samples,
            "seconds": self.seconds,
            "candidates": list(self.ranking),
        }

    @property
    def ties(self) -> list[str]:
        """Candidates that are as accurate as the one chosen."""
        return [row["name"] for row in self.ranking[1:] if row["tie"]]

    @property
    def note(self) -> str:
        """What people should know of it, in one line."""
        said = "" if self.said is None else f"{self.said}; "
        if not self.samples:
            return f"{said}preprocessing is {self.name}; --preprocess overrides it"
        ties = f", as accurate: {', '.join(self.ties)}" if self.ties else ""
        return (
            f"{said or 'nothing says the preprocessing: '}measured on {self.samples} pictures, "
            f"{self.name} fits best of {len(self.ranking)} ({100 * self.sure:.0f} % sure{ties}); "
            "--preprocess overrides it"
        )
