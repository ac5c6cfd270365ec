"""What stages of training give: values, made once and written to by nobody.

What must not enter: training, and the order of the stages.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from surgeon.probe.maps import outputs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from surgeon.records import Init


@dataclass(frozen=True)
class Believed:
    """What the file must give, by what was computed before it was written.

    Attributes:
        rows: validation samples, ascending.
        at: gives, for positions in `rows`, logits [k, classes] and how far the file's may lie from
            them.
        by_runtime: whether ONNX Runtime computed them, from the same graph and weights; then the
            file need not be run over all samples once more.
    """

    rows: NDArray[np.int64]
    at: Callable[[NDArray[np.int64]], tuple[NDArray[np.float64], Any]]
    by_runtime: bool = False

    @classmethod
    def of(
        cls,
        rows: NDArray[np.int64],
        logits: NDArray[np.float64],
        bound: float,
        *,
        by_runtime: bool = False,
    ) -> Believed:
        """Return what stands in a table, with a bound relative to its largest logit."""
        slack = bound * max(float(np.abs(logits).max(initial=0.0)), 1e-6)
        return cls(rows, lambda positions: (logits[positions], slack), by_runtime)


@dataclass(frozen=True)
class Candidate:
    """Weights that may be delivered, and what is known of them.

    Attributes:
        kind: `tuned`, `probe` (the solved head on the weights as they came) or `start`.
        tensors: {initializer: values} of everything that was trained, statistics included.
        scores: metrics by part where they follow from features, else empty.
        cross: cross-validated metrics of the solved head on the training samples, or None.
        believed: what the file must give for validation samples.
        stepped: whether weights that were trained by gradient are among the tensors.
        stored: what the file stores of answers to validation samples; None = not asked yet.
        adapted: what the adapters of weights learnt, {initializer: {name in its adapter: values}};
            `tensors` has those weights folded.
    """

    kind: Literal["tuned", "probe", "start"] = "start"
    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    cross: Mapping[str, Any] | None = None
    believed: tuple[Believed, ...] = ()
    stepped: bool = False
    stored: Mapping[str, Any] | None = None
    adapted: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class SolvedHead:
    """The head solved to its optimum on features: the probe.

    Attributes:
        candidate: its weight and bias, as the file stores them, with their scores.
        rows: validation samples, ascending.
        features: what the head reads of them, [rows, d], [rows, length, d] or maps [rows, d, h, w].
        weight: [classes, d], as solved; `bias` [classes] likewise.
        unit: whether the file brings outputs to length one.
        size: (height, width) that scores of maps are brought to.
    """

    candidate: Candidate
    rows: NDArray[np.int64]
    features: NDArray[Any]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    unit: bool = False
    size: tuple[int, ...] = ()

    def logits(self, positions: NDArray[np.int64] | slice = slice(None)) -> NDArray[Any]:
        """Return those of validation samples; made anew each time, as they may be many."""
        return outputs_of(self.features[positions], self.weight, self.bias, self.size)

    def believed(self, share: float) -> Believed:
        """Return what the file must give for the validation samples if this head is delivered.

        Args:
            share: of the summed magnitudes by which the file's logits may differ by rounding.
        """
        weight, bias = self.weight.astype(np.float64), self.bias.astype(np.float64)

        def at(positions: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            values = self.features[positions].astype(np.float64)
            wanted = outputs_of(values, weight, bias, self.size)
            summed = outputs_of(np.abs(values), np.abs(weight), np.abs(bias), self.size)
            slack = share * summed.max(axis=1 if values.ndim == 4 else -1, keepdims=True)
            if not self.unit:
                return wanted, slack
            length = np.maximum(np.linalg.norm(wanted, axis=-1, keepdims=True), 1e-12)
            return wanted / length, 2 * slack / length + share

        return Believed(self.rows, at)


@dataclass(frozen=True)
class Work:
    """What was done and what it took; work adds up in the order in which it was done.

    Attributes:
        frontier: the `frontier` object of the document: of the last split.
        providers: what computed the frozen part, the last time.
        alone: whether samples of a batch change each other, so that each is run by itself and the
            file takes one at a time.
        history: rows of the document.
        decisions: what was chosen by measuring, and the figures it was chosen by.
        resumed: the `resumed` object of the document: the last stage that went on from a
            checkpoint, and after how many epochs; None where none did.
        lr_find: the `lr_find` object of the document, of the first stage by steps; None where no
            rate was looked for.
        compiled: whether passes were compiled.
        peak_memory: the most bytes in use, in the last fit.
        learned: numbers that learn where adapters stand for weights; None where none does.
        notes: what people should know.
    """

    frontier: Mapping[str, Any] = field(default_factory=dict)
    providers: tuple[str, ...] = ()
    alone: bool = False
    history: tuple[dict[str, Any], ...] = ()
    decisions: tuple[dict[str, Any], ...] = ()
    resumed: dict[str, Any] | None = None
    lr_find: dict[str, Any] | None = None
    compiled: bool = False
    peak_memory: int | None = None
    learned: int | None = None
    samples_seen: int = 0
    seconds_features: float = 0.0
    seconds_train: float = 0.0
    notes: tuple[str, ...] = ()

    def __add__(self, later: Work) -> Work:
        """Return both: what is counted adds up, of what can be one only the later holds."""
        return Work(
            frontier=later.frontier or self.frontier,
            providers=later.providers or self.providers,
            alone=self.alone or later.alone,
            history=self.history + later.history,
            decisions=self.decisions + later.decisions,
            resumed=later.resumed or self.resumed,
            lr_find=self.lr_find or later.lr_find,
            compiled=self.compiled or later.compiled,
            peak_memory=later.peak_memory or self.peak_memory,
            learned=later.learned or self.learned,
            samples_seen=self.samples_seen + later.samples_seen,
            seconds_features=self.seconds_features + later.seconds_features,
            seconds_train=self.seconds_train + later.seconds_train,
            notes=self.notes + later.notes,
        )


@dataclass(frozen=True)
class StageDone:
    """What is known when a stage is done; the next one takes it and returns another.

    Attributes:
        start: which weights the next stage by steps starts from.
        fresh: whether none has been trained by steps yet.
        candidate: what would be delivered now.
        probe: the first solved head, a candidate to the end.
        work: of all stages so far.
        without_gain: names of the stages that did not improve on what they started from.
        stopped: why the last stage ended early, or None.
        race: the `race` object of the document; None where there was none.
    """

    start: Init
    fresh: bool = True
    candidate: Candidate = field(default_factory=Candidate)
    probe: SolvedHead | None = None
    work: Work = field(default_factory=Work)
    without_gain: tuple[str, ...] = ()
    stopped: str | None = None
    race: dict[str, Any] | None = None

    def worked(self, work: Work) -> StageDone:
        """Return the same after more work that changes no weights."""
        return replace(self, work=self.work + work)


@dataclass(frozen=True)
class Trained:
    """What training gave.

    Attributes:
        delivered: the candidate that was chosen.
        work: of all stages.
        device: where torch trained.
        statistics: names of statistics that training may have moved.
        stopped: why a stage ended early, or None.
        guard: the `guard` object of the document: tuned against probe; None where there was
            nothing to compare.
        race: the `race` object of the document; None where there was none.
    """

    delivered: Candidate
    work: Work = field(default_factory=Work)
    device: str = "cpu"
    statistics: tuple[str, ...] = ()
    stopped: str | None = None
    guard: dict[str, Any] | None = None
    race: dict[str, Any] | None = None
