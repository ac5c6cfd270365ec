"""Values beside outputs and targets that a loss asks for: made of the training samples, once.

The code behind `Loss.beside` makes them before training. What other files give of the samples runs
in ONNX Runtime and is kept in the cache, as features are. What must not enter: losses, training.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon import intake
from surgeon.answering import Output, Ran
from surgeon.data.read import data_kind
from surgeon.errors import DataError, PluginError, SurgeonError, UnsupportedError
from surgeon.graph.normalize import rename
from surgeon.job.features import give
from surgeon.job.losses import asked_of
from surgeon.job.run import head_weights, runtime_device
from surgeon.model import load
from surgeon.options import Reading, Surgery
from surgeon.plugin.manager import loaded_plugins
from surgeon.plugin.settings import parse
from surgeon.records import Loss
from surgeon.runtime.extract import extract
from surgeon.runtime.features import Request
from surgeon.tasks.find import find_task
from surgeon.vectors import gives_vectors

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.data.samples import Samples
    from surgeon.job.run import Job
    from surgeon.model import Model
    from surgeon.records import Encoding, Preprocess
    from surgeon.tasks.base import Decoded

NAMED = 3
"""Samples that a message names."""


@dataclass(frozen=True)
class Values:
    """What a loss is given of every training sample, by name.

    Attributes:
        samples: whose values they are, ascending.
        arrays: [n, …] by name.
        digest: of the files that they were made with.
        names: of all samples of the data.
        told: what to call the loss in errors.
    """

    samples: NDArray[np.int64]
    arrays: Mapping[str, NDArray[Any]]
    digest: str
    names: Sequence[str]
    told: str

    def of(self, samples: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return those of some training samples, floats in float32.

        Raises:
            DataError: numbers that are none, naming samples.
        """
        rows, found = np.searchsorted(self.samples, samples), {}
        for name, array in self.arrays.items():
            some = array[rows]
            found[name] = some.astype(np.float32) if some.dtype.kind == "f" else some
            bad = np.flatnonzero(~np.isfinite(some).reshape(len(some), -1).all(axis=1))
            if len(bad):
                named = ", ".join(str(self.names[samples[row]]) for row in bad[:NAMED])
                raise DataError(
                    f"{name!r} of {len(bad)} of {len(some)} training samples is NaN or infinite, "
                    "or they could not be read for it",
                    where=f"--loss {self.told}: {named}",
                    remedy="check these samples and the file that it is made with",
                )
        return found


@dataclass(frozen=True)
class Beside:
    """What values beside a loss are made of: the training samples, and files to run over them.

    Attributes:
        task: name of the task.
        labels: names of the outputs that are trained, in their order; empty where they have none.
        outputs: how many they are, of each sample or position.
        targets: [n, …] of the training samples, in plain units.
        original: the file as it came, before it was operated on.
        goes_on: whether that file is trained itself, as it goes on with its plan.
        reaches: whether anything in front of the head is trained.
        used: files that were run, for whoever compares two runs.
    """

    task: str
    labels: tuple[str, ...]
    outputs: int
    targets: NDArray[Any]
    original: Model
    goes_on: bool
    reaches: bool
    _job: Job = field(repr=False)
    used: list[str] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        """Return the number n of training samples."""
        return len(self.targets)

    @property
    def samples(self) -> NDArray[np.int64]:
        """The training samples among those of the data, ascending."""
        return self._job.given.parts.train

    def load(self, path: str | os.PathLike[str]) -> Model:
        """Load a file, as `surgeon.load` does: any that ONNX Runtime runs, convertible or not."""
        return load(path)

    def in_units(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return numbers [n, k] in the units in which outputs are trained (standardised)."""
        from surgeon.job.part import targets_of

        _, units = targets_of(self._job)
        return values if units is None else units.standard(values)

    def inputs(
        self, model: Model, *, preprocess: str | None = None, batch: int = 32
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Give the training samples in order, some at a time, as a model takes them.

        Args:
            model: of `load`, or `original`.
            preprocess: as `--preprocess`; None = what the file or a model zoo says.
            batch: samples at a time.

        Raises:
            DataError: a sample cannot be read.
        """
        _, opened = self._opened(model, preprocess)
        for first in range(0, len(self), batch):
            yield opened.batch(self.samples[first : first + batch])

    def answers(self, model: Model, *, preprocess: str | None = None) -> Decoded:
        """Return what a model says of the training samples, decoded as `predict` does.

        A graph that ends in Softmax or Sigmoid gets no second one. Samples that the model cannot
        be given are NaN.

        Args:
            model: of `load`, or `original`.
            preprocess: as `--preprocess`; None = what the file or a model zoo says.

        Raises:
            UnsupportedError: its output is no answer (a detector, vectors).
            SurgeonError: it does not run, or not over these data.
        """
        planned = model.plan is not None
        task = find_task(model.task if planned else self.task, self._job.plugins, model.decoding)
        if gives_vectors(model):
            raise UnsupportedError(
                "the file gives vectors and no answers",
                where=model.where,
                remedy="give a file with a head",
            )
        model, opened = self._opened(model, preprocess)
        same = [info.name for info in opened.inputs if info.batch_axis is None]
        feeds = opened.read([]).feeds if same else {}
        constants = {name: feeds[name] for name in same}
        read = Output.of(model, constants, keeps=bool(task.keeps))
        raw = self._ran(model, read.proto, read.value, opened)
        ran = Ran(
            read.rows(model, raw), read.activation, read.classifier, self.samples, (), read.known
        )
        meant = planned or self.task != "classification"
        return ran.say(task, model.labels, meant=meant)

    def features(
        self, model: Model, at: str = "late", *, preprocess: str | None = None
    ) -> NDArray[Any]:
        """Return a value inside a model for the training samples, pooled: [n, d].

        Args:
            model: of `load`, or `original`.
            at: a tensor, `@x`, `late` (what the head reads) or `early`.
            preprocess: as `--preprocess`; None = what the file or a model zoo says.

        Raises:
            UnknownNameError: there is no such value.
            SurgeonError: it does not run, or not over these data.
        """
        model, opened = self._opened(model, preprocess)
        at_features = Surgery(case="features", cut=None if at == "late" else at)
        given = give(replace(model, plan=None), at_features, (), self._job.plugins)
        (value,) = (output.name for output in given.proto.graph.output)
        rows = self._ran(model, given.proto, value, opened)
        return rows.reshape(len(rows), -1)

    def _opened(self, model: Model, preprocess: str | None) -> tuple[Model, Samples]:
        """Return a model with the samples as it takes them."""
        self.used.append(f"{model.file_sha256} {preprocess}")
        given = self._job.given
        if model is self.original and preprocess is None:
            return model, given.samples
        rule = intake.find_preprocess(model, Reading(preprocess=preprocess))
        model = _named_alike(model, given.model)
        return model, opened_again(self._job, model, rule)

    def _ran(self, model: Model, graph: ModelProto, value: str, opened: Samples) -> NDArray[Any]:
        """Return a value of a graph for the training samples, from the cache if it is there."""
        job = self._job
        device, place = runtime_device(job), job.to.place
        found = extract(
            graph, [value], opened, self.samples,
            Request(
                device=device, threads=place.threads, limit_bytes=place.cache_limit,
                where=model.where,
            ),
            progress=lambda done, total: job.given.say("values beside", done, total),
        )  # fmt: skip
        rows = found.array(value)
        if found.n == len(self):
            return rows
        whole = np.full((len(self), *rows.shape[1:]), np.nan)
        whole[np.searchsorted(self.samples, found.rows)] = rows
        return whole


def _named_alike(model: Model, other: Model) -> Model:
    """Return a model whose one input has the name of another's, so that arrays feed both."""
    ours, theirs = (
        [info.name for info in one.inputs if info.batch_axis is not None] for one in (model, other)
    )
    if not (len(ours) == len(theirs) == 1 and ours != theirs):
        return model
    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    if any(theirs[0] in (*node.output, *node.input) for node in proto.graph.node):
        return model
    rename(proto.graph, {ours[0]: theirs[0]})
    for value in (*proto.graph.input, *proto.graph.output):
        if value.name == ours[0]:
            value.name = theirs[0]
    return model.with_proto(proto)


def opened_again(job: Job, model: Model, rule: Preprocess | Encoding | None) -> Samples:
    """Open the samples of a run as another model takes them.

    Raises:
        UsageError: nothing says how pictures, texts or sounds become its inputs.
        DataError: data that it does not take, or that are not the same any more.
    """
    given, reading = job.given, job.to.reading
    takes = {info.name for info in model.inputs}
    if data_kind(given.source) == "samples":
        if takes <= {info.name for info in given.samples.inputs}:
            return given.samples
        raise DataError(
            "the samples are values of one model's inputs and cannot be read for another",
            where=model.where,
            remedy="give the data themselves: a folder, a table or arrays",
        )
    own = {info.name for info in given.model.inputs} | set(given.model.bound_inputs)
    own |= intake.gone_inputs(given.model)
    data, old = (intake.without(one, own - takes) for one in (given.source, reading.old_data))
    inputs: Any = reading.inputs
    if isinstance(inputs, dict):
        inputs = {name: value for name, value in inputs.items() if name in takes}
    else:
        inputs = [text for text in inputs if text.partition("=")[0] in takes]
    constants = intake.constant_inputs(model, inputs)
    found = intake.open_samples(
        data, model, rule, reading, constants, job.to.training.validation, old
    )
    if list(found.names) != list(given.samples.names):
        raise DataError(
            f"the data are {given.samples.n} samples to the model that is trained and {found.n} "
            f"others to {model.where or 'the other one'}",
            where=given.samples.where,
            remedy="leave the data alone while surgeon runs",
        )
    return found


def values_beside(job: Job) -> Values | None:
    """Make what the loss of a run asks for of every training sample; None = nothing.

    Raises:
        PluginError: the offer of the loss does not make it.
        SurgeonError: what making it raises.
    """
    from surgeon.train.losses import check_loss
    from surgeon.train.objective import FEATURES

    wanted = [name for name in asked_of(job) if name != FEATURES]
    text, given, plugins = job.plan.loss, job.given, loaded_plugins(job.plugins)
    if text is None or not wanted:
        return None
    _, settings = check_loss(text, job.plan.task, plugins)
    found = plugins.offer(Loss, parse(text, "--loss")[0])
    said = f"the loss {found.offer.name!r} of distribution {found.distribution} {found.version}"
    if not found.offer.beside:
        raise PluginError(
            f"{said} asks for {', '.join(wanted)}, and nothing makes that",
            where=found.offer.code,
            remedy="its offer names what makes it: Loss(…, beside='module:attribute')",
        )
    code, samples = found.load(found.offer.beside), given.parts.train
    takes = inspect.signature(code).parameters
    beside = Beside(
        job.plan.task, tuple(given.labels), job.outputs, given.targets.values[samples],
        given.model, job.goes_on, not set(job.operated.trainable) <= set(head_weights(job)), job,
    )  # fmt: skip
    try:
        made = code(beside, **{name: settings[name] for name in settings if name in takes})
    except SurgeonError:
        raise
    except Exception as error:
        raise PluginError(
            f"{said} failed before training: {type(error).__name__}: {error}",
            where=found.offer.beside,
            remedy="tell its author",
        ) from error
    arrays = made if isinstance(made, Mapping) else dict.fromkeys(wanted[:1], made)
    shapes = {name: getattr(array, "shape", None) for name, array in arrays.items()}
    right = [one is not None and one[:1] == (len(samples),) for one in shapes.values()]
    if set(arrays) != set(wanted) or not all(right):
        raise PluginError(
            f"{said} asks for {', '.join(wanted)} of {len(samples)} samples, and is given {shapes}",
            where=found.offer.beside,
            remedy="it returns {name: array [n, …]}",
        )
    digest = hashlib.sha256("\0".join(beside.used).encode()).hexdigest()
    return Values(samples, arrays, digest, given.samples.names, text)
