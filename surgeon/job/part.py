"""The trained part of a stage, opened: the module, and the batches it is trained and judged on.

A stage splits the operated graph at its own frontier, so a head trains on cached vectors and a
whole network has no frozen part; the set of weights is one. What must not enter: training.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import numpy_helper

from surgeon.errors import SurgeonError, UnsupportedError, UsageError
from surgeon.extras import installed
from surgeon.graph import precision as halves
from surgeon.graph.ending import reading
from surgeon.graph.frontier import split as split_graph
from surgeon.graph.initialization import scheme
from surgeon.graph.walk import label, reads
from surgeon.graph.weights import roles, tuned_names, write_back
from surgeon.job.adapters import adapter_of, adapter_work, put_in
from surgeon.job.done import Believed, Work
from surgeon.job.frozen import features_of, frozen_work, rows_of
from surgeon.job.losses import asked_of, own_objective
from surgeon.job.proving import require_alike
from surgeon.job.run import head_input, head_weights, stage_names, torch_device
from surgeon.job.weaving import Weaving, pieces, weave
from surgeon.probe.solver import torch_threads
from surgeon.tasks.units import Units
from surgeon.torch_graph import arrays
from surgeon.torch_graph.initialize import draw_all, randomize
from surgeon.torch_graph.module import tensors, to_module
from surgeon.torch_graph.stepwise import quantised_values
from surgeon.torch_graph.straight_through import let_scales_learn
from surgeon.train import batches
from surgeon.train.device import arithmetic
from surgeon.train.objective import FEATURES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.graph.frontier import Frontier
    from surgeon.job.done import Candidate
    from surgeon.job.run import Job
    from surgeon.records import Stage
    from surgeon.runtime.features import Features
    from surgeon.torch_graph.module import GraphModule
    from surgeon.train.parameters import Trainable


BEGUN = 2048
"""Training samples that an objective may look at before training, where it wants to."""
BELIEVED = 32
"""Validation samples whose logits by torch are compared with those of the written file."""
LINEAR = frozenset(
    {"Gemm", "MatMul", "Conv", "Add", "Transpose", "Identity", "Reshape", "Flatten", "Squeeze",
     "Unsqueeze", "Cast", "Resize", "Upsample"}
)  # fmt: skip
"""Operators behind a head's last weight through which a scale and an offset of it pass."""
TORCH_SLACK = 10
"""Times the bound of parity by which they may differ: batches are summed in other orders."""


@dataclass(frozen=True)
class Sets:
    """What is trained and judged on.

    Attributes:
        train: batches to train on.
        validation: batches to judge on, or None where there are no samples for it.
        learnt: samples of `train`, by position.
        judged: samples of `validation`, by position.
        features: that the batches are made of, or None.
    """

    train: Any
    validation: Any
    learnt: NDArray[np.int64]
    judged: NDArray[np.int64]
    features: Features | None = None


@dataclass(frozen=True)
class Part:
    """The trained part of a stage, converted: what `fit` takes, and the work of opening it.

    Numbers are learnt in `units` of their own: targets and the last linear layer are brought into
    them here, and weights and outputs come back in plain ones. None = as they are. `adapters` are
    the parameters that learn in place of initializers, by their names; `scales`, of scales;
    `weaving` is what an adapter made of the graph.
    """

    module: Any
    graph: ModelProto
    names: list[str]
    sets: Sets
    work: Work
    units: Units | None = None
    adapters: Mapping[str, list[str]] = field(default_factory=dict)
    scales: Mapping[str, list[str]] = field(default_factory=dict)
    weaving: Weaving | None = None

    @property
    def learning(self) -> Trainable:
        """What the optimiser gets."""
        if self.weaving is not None:
            return {**self.weaving.woven.trainable, **self.scales}
        instead = {**self.adapters, **self.scales}
        return {name: instead.get(name, [name]) for name in self.names} if instead else self.names

    @property
    def answers(self) -> NDArray[Any]:
        """Targets of the training samples, in plain units."""
        targets: NDArray[Any] = self.sets.train.targets
        return targets if self.units is None else self.units.plain(targets)


def open_part(
    job: Job,
    stage: Stage,
    start: Candidate,
    *,
    alone: bool,
    like: Part | None = None,
    scratch: bool = False,
) -> Part:
    """Convert the trained part, started from a candidate; the samples are those of `like`, if any.

    Adapters go on where they were: the weights below them are those of the operated file.
    `scratch` says that the candidate's weights are random.
    """
    operated = job.operated
    names, shapes = stage_names(job, stage), operated.anatomy().shapes
    targets, units = targets_of(job)
    adapter = adapter_of(job)
    values = {name: one for name, one in start.tensors.items() if name not in start.adapted}
    current = write_back(operated.proto, _into(job, values, units), partial=True)
    front = split_graph(current, names, shapes, keep_weightless=False)
    _require_numbers(front)
    if like is None:
        require_alike(job, front.trained)
    half = halves.is_half(front.trained)
    trained = halves.widen(front.trained) if half else front.trained
    if FEATURES in asked_of(job):
        trained = reading(trained, head_input(job))
    if like is None:
        begun, inputs = time.perf_counter(), [info.name for info in front.tensors]
        sets = _sets(job, front, inputs, targets, widen=half)
        if job.beside is not None:
            sets.train.beside = job.beside.of(sets.learnt)
        seconds = time.perf_counter() - begun
        work = frozen_work(front, sets.features, alone=alone, seconds=seconds)
    else:
        sets, work = like.sets, Work(alone=alone)
    fixed = shapes.batches[0] if shapes.batches[0] == shapes.batches[1] else None
    batch = 1 if work.alone else fixed
    weaving = None
    if adapter is not None and adapter.of == "part" and set(names) - set(head_weights(job)):
        read = functools.partial(_arrays, front, sets, batch)
        weaving = weave(adapter, trained, names, read, scratch=scratch, batch=batch)
        trained = weaving.woven.graph
        work = work + Work(notes=weaving.woven.notes if like is None else ())
    module = _module(trained, names, weaving)
    adapters: dict[str, list[str]] = {}
    if adapter is not None and adapter.of == "weight":
        adapters = put_in(adapter, module, names, job, start.adapted)
        work = work + adapter_work(module, adapters, names)
    if batch is not None:
        batches.keep_batch(module, batch, [info.batch_axis for info in front.tensors])
    scales = let_scales_learn(module, [name for name in operated.scales() if name in names])
    return Part(module, trained, names, sets, work, units, adapters, scales, weaving)


def _module(trained: ModelProto, names: Sequence[str], weaving: Weaving | None) -> GraphModule:
    """Convert the trained part.

    Raises:
        PluginError: an adapter made it so that it cannot be.
    """
    try:
        return to_module(trained, roles=roles(trained), quantized=names)
    except SurgeonError as error:
        if weaving is None:
            raise
        what = f"makes a graph that torch cannot train: {error.message}"
        raise weaving.chosen.wrong(what, error.where or "the trained part") from error


def _arrays(
    front: Frontier, sets: Sets, batch: int | None, count: int
) -> Iterator[dict[str, NDArray[Any]]]:
    """Give inputs of the trained part, of training samples as they are."""
    for rows in pieces(sets.train.n, count, batch):
        inputs = sets.train.load(rows)
        if hasattr(sets.train, "prepare"):
            inputs = sets.train.prepare(inputs)
        yield {
            info.name: value.numpy()
            for info, value in zip(front.tensors, inputs, strict=True)
            if value is not None
        }


def targets_of(job: Job) -> tuple[NDArray[Any], Units | None]:
    """Return what the samples' targets are in training, and their units where they have such.

    Raises:
        UsageError: the head ends in no linear layer, so that it cannot be brought into them.
    """
    values = job.given.targets.values
    if not getattr(own_objective(job), "standardises", False):
        return values, None
    last = head_weights(job)[-2:]
    if not set(last) <= set(job.operated.trainable):
        return values, None  # a head that stays as it is gives plain units
    if not _linear_to_the_end(job.operated.proto, last[0]):
        raise UsageError(
            f"the head {job.plan.head.kind!r} ends in no linear layer, and the task "
            f"{job.plan.task!r} learns numbers in units of their own",
            where="--head",
            remedy="a head that ends in one: gemm or mlp",
        )
    units = Units.of(values[job.given.parts.train])
    return units.standard(values), units


def _linear_to_the_end(model: onnx.ModelProto, weight: str) -> bool:
    """Say whether what a graph gives is linear in a weight of its head."""
    held, kinds = {weight}, set()
    for node in model.graph.node:
        if held.intersection(node.input):
            held.update(node.output)
            kinds.add(node.op_type)
    return kinds <= LINEAR


def _into(
    job: Job, values: Mapping[str, NDArray[Any]], units: Units | None
) -> dict[str, NDArray[Any]]:
    """Return tensors with the last linear layer in the units of training.

    One that is drawn and was never trained is as good in these units as in any.
    """
    found = dict(values)
    if units is None:
        return found
    names = head_weights(job)[-2:]
    if job.goes_on:
        stored = {t.name: t for t in job.operated.proto.graph.initializer if t.name in names}
        found = {name: numpy_helper.to_array(one) for name, one in stored.items()} | found
    if set(names) <= set(found):
        layer = units.layer(*(found[name] for name in names), plain=False)
        found |= dict(zip(names, layer, strict=True))
    return found


def _require_numbers(front: Frontier) -> None:
    """Refuse to train behind a value that torch cannot hold.

    Raises:
        UnsupportedError: naming a node that reads it.
    """
    for info in front.tensors:
        if info.dtype not in ("string", "undefined"):
            continue
        node = next(n for n in front.trained.graph.node if info.name in reads(n))
        raise UnsupportedError(
            f"{label(node)} reads {info.name!r} ({info.dtype}) behind or beside a weight that is "
            "trained; torch holds tensors of numbers only",
            where=f"tensor {info.name!r}",
            remedy="train the head only (`--case small-similar`), or a case that trains what lies "
            "behind this node",
        )


def _sets(
    job: Job, front: Frontier, inputs: Sequence[str], targets: NDArray[Any], *, widen: bool
) -> Sets:
    """Return what is trained and judged on: features of the frozen part, pictures, or values."""
    if front.frozen is not None:
        features = features_of(job, front)
        positions = rows_of(job, features)
        values = {
            part: (batches.of_features(features, rows), features.rows[rows])
            for part, rows in positions.items()
        }
        return replace(_value_sets(targets, values, inputs, widen=widen), features=features)
    parts = {"train": job.given.parts.train, "validation": job.given.parts.validation}
    if not job.given.samples.is_images:
        values = {
            part: (batches.of_samples(job.given.samples, rows), rows)
            for part, rows in parts.items()
        }
        return _value_sets(targets, values, inputs, widen=widen)
    pictures = batches.Pictures(job.given.samples, job.given.progress)
    readable = {name: rows[pictures.readable[rows]] for name, rows in parts.items()}
    strength = _strength(job)
    if strength == "auto":  # nothing is asked for by name, so that nothing need be installed
        varied = installed("kornia") and not job.given.task.keeps  # answers would stay behind
        strength = "light" if varied else "none"
    train, validation = (
        batches.PictureBatches(pictures, readable[part], targets, inputs, applied)
        for part, applied in (("train", strength), ("validation", "none"))
    )
    return Sets(train, validation if validation.n else None, *readable.values())


def _strength(job: Job) -> str:
    """Return how pictures are varied; those with an answer per place are not.

    Nor are those of which a loss is given values: these are of the pictures as they are.

    Raises:
        UsageError: they are asked to be.
    """
    strength, places = job.to.training.augment, job.given.targets.values.ndim >= 3
    if strength == "none" or not (places or job.beside is not None):
        return strength
    if strength == "auto":
        return "none"
    raise UsageError(
        "pictures with an answer per place are not varied: their answers would stay where they are"
        if places
        else f"the loss {job.plan.loss!r} is given values of the pictures as they are",
        where=f"--augment {strength}",
        remedy="leave it out",
    )


def _value_sets(
    targets: NDArray[Any],
    values: Mapping[str, tuple[Any, NDArray[np.int64]]],
    inputs: Sequence[str],
    *,
    widen: bool,
) -> Sets:
    """Return batches of values that are loaded as they are, with the samples they are of."""
    train, validation = (
        batches.ValueBatches(load, targets[samples], inputs, widen=widen)
        for load, samples in (values["train"], values["validation"])
    )
    return Sets(
        train, validation if validation.n else None, values["train"][1], values["validation"][1]
    )


def scale(job: Job, part: Part) -> None:
    """Scale a random start by data, where normalization layers were folded away (LSUV).

    A graph that an adapter made starts as the adapter, which knows of the start, made it.
    """
    if part.weaving is not None:
        return
    inputs = part.sets.train.load(np.arange(min(part.sets.train.n, 64)))
    if hasattr(part.sets.train, "prepare"):
        inputs = part.sets.train.prepare(inputs)
    with torch_threads(job.to.place.threads):
        randomize(
            part.module, scheme(part.graph), part.names, seed=job.to.training.seed, inputs=inputs
        )


def trained_tensors(job: Job, part: Part) -> dict[str, NDArray[Any]]:
    """Return what training may have changed of the file."""
    wanted = set(tuned_names(job.operated.proto, part.names))
    values = {name: arrays.to_array(value) for name, value in tensors(part.module).items()}
    if part.weaving is not None:
        values = part.weaving.folded(values)
    found = {name: value for name, value in values.items() if name in wanted}
    names = head_weights(job)[-2:]
    if part.units is not None:
        layer = part.units.layer(*(found[name] for name in names), plain=True)
        found |= dict(zip(names, layer, strict=True))
    return found


def believed(job: Job, part: Part) -> tuple[Believed, ...]:
    """Return what the trained module gives for some validation samples.

    Where values are quantised, each step is compared instead (`surgeon.torch_graph.stepwise`).
    """
    validation = part.sets.validation
    if validation is None or quantised_values(part.graph):
        return ()
    count = min(validation.n, BELIEVED)
    logits = _outputs(job, part, validation, np.arange(count)).double().cpu().numpy()
    logits = logits if part.units is None else part.units.plain(logits)
    rows = part.sets.judged[:count]
    order = np.argsort(rows)
    return (Believed.of(rows[order], logits[order], TORCH_SLACK * job.operated.bound),)


def begun(job: Job, part: Part) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Return what the module gives for some training samples before it is trained, and targets.

    And what else the loss asks for of them.
    """
    part.module.to(torch_device(job))
    train = part.sets.train
    rows = np.unique(np.linspace(0, train.n - 1, BEGUN).astype(np.int64))
    pieces = [rows[at : at + BELIEVED] for at in range(0, len(rows), BELIEVED)]
    given = zip(*(_given(job, part, train, piece) for piece in pieces), strict=True)
    found, *more = (torch.cat([one.float().cpu() for one in each]) for each in given)
    beside = {name: torch.from_numpy(values[rows]) for name, values in train.beside.items()}
    beside |= dict(zip((FEATURES,), more, strict=False))
    return found, torch.from_numpy(train.targets[rows]), beside


def shapes_of(job: Job, part: Part) -> dict[str, tuple[int, ...]]:
    """Return the shapes of one sample's values that the loss asks for."""
    asked, train = asked_of(job), part.sets.train
    shapes = {name: rows.shape[1:] for name, rows in train.beside.items()} if asked else {}
    if FEATURES in asked:
        shapes[FEATURES] = tuple(_given(job, part, train, np.arange(1))[1].shape[1:])
    return shapes


def _outputs(job: Job, part: Part, sets: Any, rows: NDArray[np.int64]) -> torch.Tensor:
    """Return what the module gives for samples as they are, by position."""
    return _given(job, part, sets, rows)[0]


def _given(job: Job, part: Part, sets: Any, rows: NDArray[np.int64]) -> tuple[torch.Tensor, ...]:
    """Return the outputs for samples as they are, and the features where a loss asks for them."""
    module = part.module.eval()
    device = next(module.parameters()).device
    inputs = tuple(None if value is None else value.to(device) for value in sets.load(rows))
    if hasattr(sets, "prepare"):
        inputs = sets.prepare(inputs)
    with torch_threads(job.to.place.threads), torch.no_grad(), arithmetic(device, exact=True):
        found = module(*inputs)
    return found if isinstance(found, tuple) else (found,)


def drawn(job: Job) -> dict[str, NDArray[Any]]:
    """Draw every weight that is trained anew; the head has its random weights already."""
    proto, trainable = job.operated.proto, job.operated.trainable
    head = head_weights(job)
    names = [name for name in tuned_names(proto, trainable) if name not in head]
    return draw_all(proto, names, seed=job.to.training.seed)
