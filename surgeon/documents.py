"""The bodies of documents, as the contract names their keys: what a run was and what it found."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.graph import encodings
from surgeon.graph.weights import sizes
from surgeon.records import (
    Encoding,
    Preprocess,
    TextEncoding,
    as_json,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    import onnx

    from surgeon.data.samples import Samples
    from surgeon.data.splits import Splits
    from surgeon.graph.cuts import Anatomy
    from surgeon.model import Model

    Source = str | os.PathLike[str] | onnx.ModelProto | Model
    Report = Callable[..., None]


@dataclass
class Clock:
    """Seconds of the phases of a run."""

    started: float
    features: float = 0.0
    train: float = 0.0
    write: float = 0.0

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started


def start_body(
    patient: Model,
    samples: Samples,
    labels: list[str],
    parts: Splits,
    device: Any,
    precision: str,
    seed: int,
    out: Any,
) -> dict[str, Any]:
    """Return the body of `finetune` as far as it is known before training."""
    assert patient.plan is not None
    plan, trainable = patient.plan, patient.trainable
    count = sizes(patient.proto)
    return {
        "out": None if out is None else str(out),
        "sha256": None,
        "case": plan.case,
        "plan": {
            "case": plan.case,
            "cut": plan.cut,
            "depth": plan.depth,
            "classes": plan.classes,
            "init": plan.init,
            "task": plan.task,
            "head": plan.as_dict()["head"],
            "trainable": trainable,
            "stages": [as_json(stage) for stage in plan.stages],
        },
        "labels": labels,
        "device": device.kind if device.kind == "cpu" else f"{device.kind}:{device.index}",
        "providers": [],
        "precision": precision,
        "seed": seed,
        "data": {
            **counts(samples, labels, parts),
            "ignored": samples.ignored,
            "sha256": samples.sha256,
        },
        "frontier": None,
        "trained_parameters": sum(count[name] for name in trainable),
        "trainable": trainable,
        "statistics": [],
        "changed": [],
        "metrics": None,
        "history": [],
        "delivered": None,
        "guard": None,
        "race": None,
        "stopped": None,
        "resumed": None,
        "proof": None,
        "warnings": [*notes_of(patient), *device.notes, *samples.notes],
    }


def counts(samples: Samples, labels: Sequence[str], parts: Splits) -> dict[str, Any]:
    """Count what could be read: the parts add up to `samples`, and so do the classes."""
    told = samples.labels or []
    usable = np.ones(samples.n, bool)
    usable[samples.failed] = False
    of_class = Counter(label for label, kept in zip(told, usable.tolist(), strict=False) if kept)
    return {
        "samples": int(usable.sum()),
        "train": int(usable[parts.train].sum()),
        "validation": int(usable[parts.validation].sum()),
        "test": 0 if parts.test is None else int(usable[parts.test].sum()),
        "classes": {label: of_class[label] for label in labels},
        "groups": samples.group_count,
        "skipped": skipped(samples),
    }


def frontier_body(front: Any) -> dict[str, Any]:
    """Return the `frontier` object of a split that was not run."""
    return {
        "tensors": [
            {"name": t.name, "shape": as_json(t.shape), "dtype": t.dtype} for t in front.tensors
        ],
        "nodes_frozen": front.nodes_frozen,
        "nodes_trained": front.nodes_trained,
        "one_by_one": False,
        "cache": None,
    }


def seconds(clock: Clock) -> dict[str, float]:
    """Return the `seconds` object."""
    return {
        "total": clock.total,
        "features": clock.features,
        "train": clock.train,
        "write": clock.write,
    }


def budget_note(budget: float | None, clock: Clock) -> list[str]:
    """Say where the time went of a run that took more than a tenth longer than its budget."""
    total = clock.total
    if budget is None or total <= 1.1 * budget:
        return []
    rest = max(total - clock.features - clock.train - clock.write, 0.0)
    parts = (
        f"{clock.features:.1f} s the frozen part, {clock.train:.1f} s training, "
        f"{clock.write:.1f} s writing and proof, {rest:.1f} s reading and comparing"
    )
    why = "the budget ends training, and a tenth of it is always trained"
    return [f"--budget {budget:g}: the run took {total:.1f} s ({parts}); {why}"]


def skipped(samples: Samples) -> list[dict[str, str]]:
    """Return the samples that could not be read."""
    return [{"path": path, "reason": reason} for path, reason in samples.skipped]


def skip_notes(samples: Samples) -> list[str]:
    """Say what became of the samples, how many could not be read, and name the first few."""
    notes, skipped = list(samples.notes), samples.skipped
    if skipped:
        named = "; ".join(f"{path}: {reason}" for path, reason in skipped[:3])
        notes.append(f"{len(skipped)} samples could not be read and were skipped: {named}")
    return notes


def size_notes(pre: Preprocess | Encoding | None) -> list[str]:
    """Return what people should know of the length that texts were given."""
    if not isinstance(pre, TextEncoding):
        return []
    return [f"the tokenizer takes {encodings.tokenizer_bytes(pre):,} bytes of the file"]


def notes_of(model: Model, anatomy: Anatomy | None = None) -> list[str]:
    """Return what people should know of a model: its notes, its batch, which head it has."""
    anatomy = anatomy or model.anatomy()
    return list(dict.fromkeys([*model.notes, *filter(None, [anatomy.batch_note]), *anatomy.notes]))
