"""What a training run is a function of, and what it gives; read by every room of training.

What must not enter: the order of the stages, and any training.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from surgeon.errors import UsageError
from surgeon.graph.weights import store
from surgeon.runtime.metrics import softmax
from surgeon.runtime.places import choose_device

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from surgeon.data.samples import Samples
    from surgeon.data.splits import Splits
    from surgeon.model import Model
    from surgeon.records import Stage
    from surgeon.runtime.places import Device


@dataclass(frozen=True)
class Run:
    """Everything one training run is a function of."""

    patient: Model
    samples: Samples
    codes: NDArray[np.int64]
    parts: Splits
    device: str = "auto"
    seed: int = 0
    threads: int | None = None
    cache_limit: int | None = None
    precision: str = "float32"
    batch: int | None = None
    lr: float | None = None
    epochs: int | None = None
    budget: float | None = None
    augment: str = "auto"
    views: int = 1
    accumulate: int = 1
    compile: str = "auto"
    memory: str = "normal"
    deterministic: bool = False
    resume: bool = False
    progress: Callable[..., None] | None = None
    checkpoint: Path | None = None
    expected: float | None = None
    """accuracy of a probe at the cut, cross-validated over more samples than validate"""
    drawn: bool = False
    """whether the patient's weights are random ones already, so that no pretrained ones are left"""

    @property
    def classes(self) -> int:
        """Outputs of the head."""
        assert self.patient.plan is not None
        assert self.patient.plan.classes is not None
        return self.patient.plan.classes

    def say(self, stage: str, done: float, total: float | None = None, **figures: Any) -> None:
        """Tell the caller how far it is."""
        if self.progress is not None:
            self.progress(stage, done, total, **figures)


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
class Probe:
    """A solved head.

    Attributes:
        tensors: its weight and bias.
        scores: metrics by part.
        cross: cross-validated metrics on the training samples, or None.
        rows: validation samples, ascending.
        features: what the head reads of them, [rows, d].
        weight: [classes, d], as solved; `bias` [classes] likewise.
        refitted: whether it was fitted to the validation samples, too.
        share: of the summed magnitudes by which the file's logits may differ by rounding.
    """

    tensors: dict[str, NDArray[Any]]
    scores: dict[str, Any]
    cross: dict[str, Any] | None
    rows: NDArray[np.int64]
    features: NDArray[Any]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    share: float
    refitted: bool = False

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Of the validation samples, [rows, classes]; made anew each time, as they may be many."""
        return softmax(self.features @ self.weight.T + self.bias)

    @property
    def believed(self) -> Believed:
        """What the file must give for the validation samples if this head is delivered."""
        weight, bias = self.weight.astype(np.float64), self.bias.astype(np.float64)

        def at(positions: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            values = self.features[positions].astype(np.float64)
            summed = np.abs(values) @ np.abs(weight.T) + np.abs(bias)
            return values @ weight.T + bias, self.share * summed.max(axis=1, keepdims=True)

        return Believed(self.rows, at)


@dataclass
class Trained:
    """What training gave.

    Attributes:
        tensors: {initializer: values} of everything that was trained, statistics included.
        frontier: the `frontier` object of the document.
        history: rows of all stages.
        delivered: `tuned`, `probe` (the solved head on the weights as they came) or `start`.
        stopped: why a stage ended early, or None.
        resumed: the `resumed` object of the document: the last stage that went on from a
            checkpoint, and after how many epochs; None where none did.
        statistics: names of statistics that training moved.
        scores: metrics by part where they follow from features, else empty.
        cross: cross-validated metrics of the solved head on the training samples, or None.
        probe: the first solved head, kept as a candidate.
        stepped: whether weights that were trained by gradient are among the tensors.
        believed: what the file must give for validation samples.
        alone: whether samples of a batch change each other, so that each is run by itself and the
            file takes one at a time.
        guard: the `guard` object of the document: tuned against probe; None where there was
            nothing to compare.
        race: the `race` object of the document; None where there was none.
        device: where torch trained.
        providers: what computed the frozen part.
    """

    tensors: dict[str, NDArray[Any]] = field(default_factory=dict)
    frontier: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    delivered: str = "start"
    stopped: str | None = None
    resumed: dict[str, Any] | None = None
    statistics: list[str] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    cross: dict[str, Any] | None = None
    probe: Probe | None = None
    stepped: bool = False
    believed: list[Believed] = field(default_factory=list)
    alone: bool = False
    guard: dict[str, Any] | None = None
    race: dict[str, Any] | None = None
    device: str = "cpu"
    providers: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    seconds_features: float = 0.0
    seconds_train: float = 0.0
    samples_seen: int = 0
    compiled: bool = False
    decisions: list[dict[str, Any]] = field(default_factory=list)
    peak_memory: int | None = None


def head_names(model: ModelProto) -> tuple[str, str]:
    """Return the names of the new head's weight and bias: inputs of the Gemm that makes logits."""
    node = _head_node(model)
    return node.input[1], node.input[2]


def head_input(model: ModelProto) -> str:
    """Return the name of the features that the new head reads."""
    return str(_head_node(model).input[0])


def _head_node(model: ModelProto) -> NodeProto:
    for node in reversed(model.graph.node):
        if node.op_type == "Gemm" and node.output[0] == model.graph.output[0].name:
            found: NodeProto = node
            return found
    raise UsageError(
        "the graph does not end in a Gemm head",
        where="graph output",
        remedy="operate on it first: `surgeon operate` appends one",
    )


def with_tensors(model: ModelProto, values: Mapping[str, NDArray[Any]]) -> ModelProto:
    """Return a graph with some initializers replaced, where it has them."""
    copy = type(model)()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in values:
            store(tensor, values[tensor.name])
    return copy


def stored_type(run: Run, name: str) -> Any:
    """Return the numpy type in which an initializer is stored."""
    tensor = next(t for t in run.patient.proto.graph.initializer if t.name == name)
    return helper.tensor_dtype_to_np_dtype(tensor.data_type)


def stage_names(run: Run, stage: Stage) -> list[str]:
    """Return the initializers that a stage trains.

    Raises:
        UsageError: one that the plan does not train.
    """
    trainable = run.patient.trainable
    if stage.trains == "all":
        return trainable
    if stage.trains == "head":
        return list(head_names(run.patient.proto))
    wanted = {stage.trains} if isinstance(stage.trains, str) else set(stage.trains)
    unknown = wanted - set(trainable)
    if unknown:
        raise UsageError(
            f"stage {stage.name!r} trains {min(unknown)!r}, which the plan does not train",
            where=f"stage {stage.name!r}",
            remedy="a stage trains `head`, `all`, or names that the plan trains",
        )
    return [name for name in trainable if name in wanted]


def runtime_device(run: Run) -> Device:
    """Return where ONNX Runtime computes."""
    return replace(choose_device(run.device), repeatable=run.deterministic)


def torch_device(run: Run) -> torch.device:
    """Return where torch computes."""
    from surgeon.train.device import choose

    return choose(run.device)


def clean(run: Run) -> None:
    """Remove the checkpoint of a run that was delivered."""
    if run.checkpoint is not None and run.checkpoint.is_dir():
        import shutil

        shutil.rmtree(run.checkpoint)
