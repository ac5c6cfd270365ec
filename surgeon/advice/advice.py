"""What advice says: the plan, what was measured, why; and its forms for people and machines.

What must not enter: how it is found (`surgeon.advice.advise`), and by which rules.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from surgeon import shown
from surgeon.graph import encodings
from surgeon.records import (
    CutPoint,
    DataFinding,
    Encoding,
    Evidence,
    Plan,
    Preprocess,
    as_json,
)
from surgeon.tasks.figures import written

if TYPE_CHECKING:
    from surgeon.probe.detected import Detected


@dataclass(frozen=True)
class Candidate:
    """A cut that was looked at: what a linear classifier reaches there, and what it costs.

    Attributes:
        cut: where.
        features: numbers in the pooled value.
        accuracy: cross-validated quality of the probe, the accuracy of classes.
        error: that standard error.
        train_accuracy: on the samples it was fitted to.
        logme: log maximum evidence per sample and class, nats.
        latency: seconds of one sample alone on this machine, or None where that was not measured.
        size: bytes of the weights that are kept, the new head's among them.
        pareto: whether no other candidate is at least as accurate, as quick and as small, and in
            one of these better.
        tie: whether it is as good as the best one, by the rule of ties.
        chosen: whether the plan cuts here.
    """

    cut: CutPoint
    features: int
    accuracy: float
    error: float
    train_accuracy: float
    logme: float
    latency: float | None
    size: int
    pareto: bool
    tie: bool
    chosen: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form: the cut's own keys beside the measured ones."""
        measured = {
            name: value for name, value in vars(self).items() if name not in ("cut", "error")
        }
        kept = ("tensor", "depth", "parameters", "macs", "bytes")
        return {
            **{name: getattr(self.cut, name) for name in kept},
            **measured,
            "accuracy_error": self.error,
        }


@dataclass(frozen=True, repr=False)
class Advice:
    """Which case and cut suit the data, and why.

    Attributes:
        plan: what the advised case decided, its cut a tensor name.
        evidence: what was measured.
        why: three lines: size, similarity, plan.
        candidates: the cuts looked at, by ascending depth.
        samples_needed: data from which training everything is advised, or None: nothing to gain.
        per_class: share of each label's samples that the best probe got right.
        preprocess: how inputs are made, or None for values taken as they are.
        detected: how that was measured, where nothing said it.
        looked_at: samples in the pass.
        labels: the labels of the data, in order.
        seconds: of understanding the model, opening the data, measuring the preprocessing, the
            pass, the probes, latency and findings, and in all.
        warnings: what the user should be told.
        findings: what was found in the data.
        near: sets of samples, by index, that show the same thing: no split tears them apart.
        quality: name of the figure that candidates are compared by, `accuracy` in their rows.
    """

    plan: Plan
    evidence: Evidence
    why: tuple[str, str, str]
    candidates: tuple[Candidate, ...]
    samples_needed: int | None
    per_class: dict[str, float]
    looked_at: int
    labels: tuple[str, ...]
    preprocess: Preprocess | Encoding | None = None
    detected: Detected | None = None
    path: str | None = None
    providers: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    findings: tuple[DataFinding, ...] = ()
    near: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    quality: str = "accuracy"

    def __repr__(self) -> str:
        """Return the case, why, and what was measured, in a few lines."""
        at = [
            f"@{item.cut.depth:.2f} {written(self.quality, item.accuracy)}"
            for item in self.candidates
        ]
        return shown.block(
            f"surgeon.Advice {self.plan.case}",
            {
                "cut": f"{self.plan.cut} (@{self.plan.depth or 0:.4g})",
                **dict(zip(("size", "likeness", "so"), self.why, strict=True)),
                "candidates": ", ".join(at),
                "seconds": f"{self.seconds.get('total', 0):.1f}",
                "warnings": shown.listed(self.warnings),
            },
        )

    @property
    def saves(self) -> dict[str, Any] | None:
        """What giving `--preprocess` saves next time, where it had to be measured; else None."""
        if self.detected is None or not self.detected.samples:
            return None
        said = encodings.as_document(self.detected.preprocess, brief=True)
        said.pop("source", None)
        return {
            "option": f"--preprocess '{json.dumps(said)}'",
            "seconds": self.seconds.get("preprocess", 0.0),
        }

    @property
    def expected(self) -> float | None:
        """Cross-validated quality of the probe where the plan cuts, or None: not looked at."""
        chosen = (item.accuracy for item in self.candidates if item.chosen)
        return next(chosen, None)

    def brief(self) -> dict[str, Any]:
        """Return what a tuned file keeps of it, and the `advice` of the `finetune` document."""
        return {
            "case": self.plan.case,
            "cut": self.plan.cut,
            "depth": self.plan.depth,
            "why": list(self.why),
            "quality": self.quality,
            "evidence": self.evidence.as_dict(),
            "samples_needed": self.samples_needed,
            "candidates": [item.as_dict() for item in self.candidates],
            "preprocess": None if self.detected is None else self.detected.as_dict(),
        }

    def document(self) -> dict[str, Any]:
        """Return the body of the `advise` document."""
        how = self.preprocess
        return {
            **self.brief(),
            "path": self.path,
            "plan": self.plan.as_dict(),
            "labels": list(self.labels),
            "data": {"samples": self.evidence.samples, "looked_at": self.looked_at},
            "per_class": [
                {"label": label, "accuracy": share} for label, share in self.per_class.items()
            ],
            "preprocess": {
                "used": None if how is None else encodings.as_document(how, brief=True),
                "measured": None if self.detected is None else self.detected.as_dict(),
                "saves": self.saves,
            },
            "findings": [as_json(finding) for finding in self.findings],
            "providers": list(self.providers),
            "seconds": dict(self.seconds),
            "warnings": list(self.warnings),
        }
