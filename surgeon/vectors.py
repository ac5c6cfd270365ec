"""What a file without a head gives of samples: the vectors of its outputs, by ONNX Runtime.

What must not enter: opening data, documents.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.intake import Intake
    from surgeon.model import Model

NO_HEAD = "none"
"""Kind of the head in the plan of a file without one."""


@dataclass(frozen=True)
class Vectors:
    """What a run over samples gave.

    Attributes:
        outputs: by output, of every sample that could be read; an array [n, …] where all have one
            shape, else a list of arrays (texts of several lengths).
        rows: the samples, ascending.
        providers: of the session.
        notes: what people should know.
    """

    outputs: Mapping[str, NDArray[Any] | list[NDArray[Any]]]
    rows: NDArray[np.int64]
    providers: tuple[str, ...]
    notes: tuple[str, ...]


def gives_vectors(model: Model) -> bool:
    """Say whether a file gives features instead of answers."""
    return model.plan is not None and model.plan.head.kind == NO_HEAD


def run_vectors(given: Intake, batch: int | None = None) -> Vectors:
    """Run a network without a head over samples; every output is given."""
    from surgeon.runtime.stream import Runner

    model = given.model
    axes = model.sketch().shapes.batch_axes
    names = [value.name for value in model.proto.graph.output]
    runner = Runner(
        model.proto, given.samples, outputs={name: axes.get(name, 0) for name in names},
        device=given.device, threads=given.threads, batch=batch, where=model.where,
    )  # fmt: skip
    total, done, started = given.samples.n, 0, time.perf_counter()
    found: dict[int, list[NDArray[Any]]] = {}
    for chunk in runner.stream(np.arange(total)):
        for place, position in enumerate(chunk.positions.tolist()):
            found[position] = [chunk.outputs[name][place] for name in names]
        done += len(chunk.positions) + len(chunk.failures)
        rate = done / max(time.perf_counter() - started, 1e-9)
        given.say("samples", done, total, throughput=rate)
    rows = sorted(found)
    outputs = {name: _joined([found[row][at] for row in rows]) for at, name in enumerate(names)}
    return Vectors(outputs, np.array(rows, np.int64), runner.session.providers, (*runner.notes,))


def _joined(pieces: Sequence[NDArray[Any]]) -> NDArray[Any] | list[NDArray[Any]]:
    if len({piece.shape for piece in pieces}) > 1:
        return list(pieces)
    return np.stack(pieces) if pieces else np.zeros((0, 0), np.float32)
