"""`--check DATA`: a file and its new form on the same samples: agreement, quality, time, size.

Each is read by its own preprocessing and judged as `evaluate` judges. What must not enter: a bound:
what is lost is told, and people decide.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon import intake
from surgeon.answering import Running
from surgeon.errors import DataError
from surgeon.exporting.samples import some
from surgeon.model import Model, load
from surgeon.runtime.proof import fill_batch
from surgeon.runtime.sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx
    from numpy.typing import NDArray

    from surgeon.exporting.given import Given
    from surgeon.intake import Answered
    from surgeon.tasks.base import Targets

MOST = 1000
"""Samples that are judged."""
HALF = 0.5
ROUNDS, BUDGET = 31, 3.0
"""Runs of each in turn, and seconds after which no more are begun."""


@dataclass(frozen=True)
class Checked:
    """What a check found: figures of the source, then of the new form."""

    samples: int
    agreement: float | None
    measure: str
    quality: tuple[float | None, float | None]
    seconds: tuple[float, float]


def check(given: Given, made: onnx.ModelProto, data: Any) -> Checked:
    """Run both on labelled samples.

    Raises:
        DataError: the data do not fit the file, or none can be read.
    """
    judged = [_judged(given, model, data) for model in (given.model, load(made, hashed=False))]
    (first, before), (second, after) = judged
    shared = sorted(before.said.keys() & after.said.keys())
    same = [np.mean(before.said[row] == after.said[row]) for row in shared]
    return Checked(
        samples=before.samples,
        agreement=float(np.mean(same)) if same else None,
        measure=first.task.quality,
        quality=(before.quality, after.quality),
        seconds=_seconds((given.stored, first), (made, second)),
    )


class _Answers:
    """The answers of a file as they come: judged, and of each the classes or labels it says."""

    def __init__(self, given: Answered) -> None:
        self.said: dict[int, NDArray[Any]] = {}
        self.samples = 0
        rows = given.targets.answered
        rows = np.sort(rows[some(len(rows), MOST)])
        running = Running(given, None, rows, keeps=bool(given.task.keeps))
        scores = given.task.score(self._parts(given, running))
        self.quality = scores.figures.get("quality")

    def _parts(
        self, given: Answered, running: Running
    ) -> Iterator[tuple[NDArray[np.float64], Targets]]:
        for rows, said in running.answers(given.task, given.labels):
            self.samples += len(rows)
            for row, answer in zip(rows.tolist(), said.answers, strict=True):
                words = _words(answer, given.task.link)
                if words is not None:
                    self.said[row] = words
            yield said.answers, given.targets[rows]
        if not self.samples:
            raise DataError("no sample with an answer could be read", remedy="see the data")


def _words(answer: NDArray[np.float64], link: str | None) -> NDArray[Any] | None:
    """Return the classes or labels that an answer says, by place; None where it says none."""
    if link == "logistic":
        return answer > HALF
    if link != "softmax" or not answer.ndim:
        return None
    return np.asarray(answer.argmax(0 if answer.ndim > 2 else -1), np.int32)


def _judged(given: Given, model: Model, data: Any) -> tuple[Answered, _Answers]:
    opened = intake.open_labelled(model, data, given.asked, progress=None, plugins=given.plugins)
    return opened, _Answers(opened)


def _seconds(
    *files: tuple[onnx.ModelProto, Answered],
) -> tuple[float, float]:
    """Return the seconds a sample takes by each: medians of runs in turn."""
    runs: list[tuple[Any, dict[str, NDArray[Any]], int]] = []
    for proto, opened in files:
        loaded = (opened.samples.load(row) for row in range(opened.samples.n))
        one = next(feeds for feeds in loaded if isinstance(feeds, dict))
        session = open_session(proto, device="cpu", spinning=False)
        filled = fill_batch(proto, {name: one[name] for name in session.inputs})
        copies = max(filled[name].size // max(one[name].size, 1) for name in filled)
        session.run(filled)
        runs.append((session, filled, copies))
    taken: list[list[float]] = [[] for _ in runs]
    started = time.perf_counter()
    for _ in range(ROUNDS):
        for place, (session, filled, copies) in enumerate(runs):
            begun = time.perf_counter()
            session.run(filled)
            taken[place].append((time.perf_counter() - begun) / max(copies, 1))
        if time.perf_counter() - started > BUDGET:
            break
    before, after = map(median, taken)
    return before, after
