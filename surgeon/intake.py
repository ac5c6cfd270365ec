"""What goes into an operation: preprocessing found, samples opened, labels coded, parts divided.

The verbs that read data begin here, and with it everything behind them: data are opened, labels
coded, samples divided and the device chosen once.

What must not enter: surgery, training.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from surgeon.errors import (
    SurgeonError,
    UsageError,
)
from surgeon.graph import cuts as graph_cuts
from surgeon.graph import encodings, envelope
from surgeon.graph.reading import what_lies_at
from surgeon.graph.shapes import input_infos
from surgeon.options import Reading
from surgeon.plugin.manager import loaded_plugins
from surgeon.records import (
    Encoding,
    Known,
    Medium,
    Preprocess,
)
from surgeon.targets import Asked, ask, ask_for, onto_file, onto_plan, require_learnt

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.data.samples import Samples
    from surgeon.data.splits import Splits
    from surgeon.model import Model
    from surgeon.options import Options, Training
    from surgeon.plugin.manager import Plugins
    from surgeon.probe.detected import Detected
    from surgeon.records import DataFinding, TensorInfo
    from surgeon.runtime.places import Device
    from surgeon.tasks.base import Targets, TaskCode

    Source = str | os.PathLike[str] | onnx.ModelProto | Model
    Report = Callable[..., None]
    Naming = Callable[[Model, TaskCode, Targets], Targets]
    Detecting = Callable[..., Detected | None]

AS_THE_FILE_SAYS = Reading()
"""No option given."""


@dataclass(frozen=True, kw_only=True)
class Intake:
    """What goes into an operation, opened once.

    Attributes:
        model: what the samples are for.
        samples: opened.
        preprocess: how inputs are made, or None for values taken as they are.
        constants: constant inputs that the graph still has.
        device: where ONNX Runtime computes.
        threads: CPU threads; None = as many as there are cores.
        progress: called as `progress(stage, done, total, **figures)`; None = nobody listens.
    """

    model: Model
    samples: Samples
    preprocess: Preprocess | Encoding | None
    constants: Mapping[str, NDArray[Any]]
    device: Device
    threads: int | None = None
    progress: Report | None = None

    def say(self, stage: str, done: float, total: float | None = None, **figures: Any) -> None:
        """Tell the caller how far it is."""
        if self.progress is not None:
            self.progress(stage, done, total, **figures)

    def first(self) -> list[dict[str, NDArray[Any]]]:
        """Return the first few samples, as far as they can be read."""
        loaded = map(self.samples.load, range(min(self.samples.n, 3)))
        return [one for one in loaded if isinstance(one, dict)]


@dataclass(frozen=True, kw_only=True)
class Answered(Intake):
    """Samples with their answers.

    Attributes:
        task_name: the word behind `--task`.
        task: what an answer is.
        targets: the answers of all samples, in the outputs' order.
    """

    task_name: str
    task: TaskCode
    targets: Targets

    @property
    def labels(self) -> list[str]:
        """Names of the outputs, in their order; empty where they have none."""
        return list(self.targets.names)

    @property
    def outputs(self) -> int:
        """How many numbers the head gives per sample or position."""
        return self.task.outputs(self.targets)

    @property
    def strata(self) -> NDArray[np.int64]:
        """Codes whose shares every part and fold keeps, [n]; one for all where it is no matter."""
        return strata_of(self.task, self.targets)


@dataclass(frozen=True, kw_only=True)
class Divided(Answered):
    """Samples with their answers, divided.

    Attributes:
        parts: which samples are learnt from, which validate, which are held back.
        seed: that divided them.
        detected: how the preprocessing was measured, where nothing said it.
        seconds: of opening the data.
        source: what the samples were opened from.
    """

    parts: Splits
    seed: int
    detected: Detected | None = None
    seconds: float = 0.0
    source: Any = None

    @classmethod
    def of(cls, model: Model, samples: Samples, asked: Asked, to: Options, **known: Any) -> Divided:
        """Divide opened samples whose answers are in the outputs' order."""
        seed = to.training.seed
        return cls(
            model=model, samples=samples, task_name=asked.name, task=asked.task,
            targets=asked.targets, parts=divide(samples, asked, to.training.validation, seed),
            seed=seed, threads=to.place.threads, **known,
        )  # fmt: skip

    def under(self, name: str, to: Options, plugins: Plugins | None) -> Divided:
        """Return the same under the task that a case's plan names.

        Raises:
            UsageError: another one was asked for.
            DataError: the answers are none of that task.
        """
        if name == self.task_name:
            return self
        if to.reading.task == self.task_name:
            raise UsageError(
                f"--task is {self.task_name!r}, the plan of the case is for {name!r}",
                where="--task",
                remedy="leave it out, or choose another case",
            )
        asked = ask_for(name, self.samples, plugins)
        asked.task.check(asked.targets)
        return replace(self, task_name=name, task=asked.task, targets=asked.targets)

    def kept_together(self, near: Sequence[tuple[int, ...]]) -> Divided:
        """Return the same, with sets of samples that show the same thing on one side each."""
        from surgeon.data.splits import keep_together

        return replace(self, parts=keep_together(self.parts, near, self.samples.n))

    def examined(self) -> list[DataFinding]:
        """Find what needs no model: see `data.examine`."""
        from surgeon.data.examine import examine_samples

        return examine_samples(self.samples, self.task, self.targets, self.parts, self.seed)


def open(  # noqa: A001 - read as intake.open
    model: Model,
    data: Any,
    to: Options,
    *,
    as_planned: bool = False,
    names: Naming | None = None,
    detect: Detecting | None = None,
    progress: Report | None = None,
    plugins: Plugins | None = None,
) -> Divided:
    """Open labelled data for a model that learns from them, or is judged by a part of them.

    Args:
        model: as it was loaded.
        data: folder, table, data set, `.npz`, or `{name: array}`.
        to: how to read and divide them, and where to compute.
        as_planned: whether the model has the plan that is gone on with: then no constant input
            changes its graph, and its outputs are those of the answers.
        names: says the answers in the outputs of a model that learnt them already; such answers
            need not be good for training.
        detect: measures the preprocessing where nothing says it; None = that is an error.
        progress: called as `progress(stage, done, total, **figures)`.
        plugins: loaded plugins; None loads them.

    Raises:
        SurgeonError: of the kind that fits.
    """
    from surgeon.runtime.places import choose_device

    device = choose_device(to.place.device)
    data = source = opened_by_plugin(data, plugins)
    pre, constants = find_preprocess(model, to.reading), constant_inputs(model, to.reading.inputs)
    model, detected = model.knowing(constants), None
    if pre is None and detect is not None:
        detected = detect(
            model, data, to, constants=constants, device=device, progress=progress,
            plugins=plugins,
        )  # fmt: skip
        pre = None if detected is None else detected.preprocess
    if getattr(pre, "embedded", False):
        raise UsageError(
            "the file prepares its inputs itself, so that it cannot be tuned",
            where=model.where,
            remedy="tune the file that it was exported from",
        )
    if isinstance(pre, Preprocess):
        model = resized(model, pre)
    model = model if as_planned else model.with_constants(constants)
    data = without(data, set(model.bound_inputs) | gone_inputs(model))
    left = {info.name: constants[info.name] for info in model.inputs if info.name in constants}
    model = model.knowing(left)
    opening = time.perf_counter()
    reading = to.reading
    old = opened_by_plugin(reading.old_data, plugins)
    old = without(old, set(model.bound_inputs) | gone_inputs(model))
    judging = to.training.validation
    judging = judging if _is_number(judging) else opened_by_plugin(judging, plugins)
    samples = open_samples(data, model, pre, reading, left, judging, old)
    asked = ask(samples, model, reading, planned=as_planned, plugins=plugins)
    if names is None:
        asked.task.check(asked.targets)
    first = samples.load(0)
    seconds = time.perf_counter() - opening
    model = model.sized_like(first) if isinstance(first, dict) else model
    if names is not None or as_planned:
        said = (names or onto_plan)(model, asked.task, asked.targets)
        asked = replace(asked, targets=said)
    divided = Divided.of(
        model, samples, asked, to, preprocess=samples.encoding or pre, constants=left,
        device=device, progress=progress, detected=detected, seconds=seconds, source=source,
    )  # fmt: skip
    if names is None:
        require_learnt(asked.task, asked.targets, asked.targets[divided.parts.train])
    return divided


def open_labelled(
    model: Model, data: Any, to: Options, *, progress: Report | None, plugins: Plugins | None
) -> Answered:
    """Open labelled data for a file that is judged by them as it is."""
    from surgeon.data.read import open_data
    from surgeon.runtime.places import choose_device

    pre, constants = find_preprocess(model, to.reading), constant_inputs(model, to.reading.inputs)
    data = without(opened_by_plugin(data, plugins), gone_inputs(model))
    require_preprocess(model, [data], pre, constants)
    samples = open_data(
        data, model.inputs, preprocess=pre, label_column=to.reading.label_column,
        constants=constants,
    )  # fmt: skip
    asked = ask(samples, model, to.reading, planned=True, plugins=plugins)
    targets = onto_file(model, asked.task, asked.targets, ignore_unknown=to.reading.ignore_unknown)
    return Answered(
        model=model, samples=samples, preprocess=pre, constants=constants,
        task_name=asked.name, task=asked.task, targets=targets,
        device=choose_device(to.place.device), threads=to.place.threads, progress=progress,
    )  # fmt: skip


def require_preprocess(
    model: Model, data: list[Any], pre: Preprocess | Encoding | None, constants: Mapping[str, Any]
) -> None:
    """Refuse pictures, texts and sounds of which nothing says how they become inputs.

    Raises:
        UsageError: they are such.
    """
    from surgeon.data.read import needs_preprocess
    from surgeon.graph.preprocess import missing_preprocess

    if pre is None and any(needs_preprocess(one, model.inputs, constants) for one in data):
        raise missing_preprocess(model.where)


def check_views(to: Training, samples: Samples, task: TaskCode) -> None:
    """Refuse augmented views of what cannot be augmented.

    Raises:
        UsageError: views are asked for, and the samples are no pictures or nothing varies them; or
            pictures are to vary whose answers, one for each pixel, would not.
    """
    views = to.views
    varied = views > 1 or to.augment in ("light", "strong")
    if varied and task.keeps and samples.is_images:
        raise UsageError(
            "pictures would be turned and cut, and the answers of their pixels would not",
            where="--augment" if views == 1 else "--views",
            remedy="leave it out",
        )
    if views == 1:
        return
    if not samples.is_images:
        raise UsageError(
            f"{views} views of each sample are asked for, and only pictures can be augmented",
            where="--views",
            remedy="leave it out",
        )
    if to.augment == "none":
        raise UsageError(
            f"{views} views of each sample are asked for, and nothing varies them",
            where="--views",
            remedy="leave it out, or give --augment light or strong",
        )


def offer_media(plugins: Plugins | None) -> None:
    """Let plugins add their media to those that data are opened as.

    Raises:
        PluginError: one takes the name or an ending of another.
    """
    from surgeon.data.media import registry

    registry.forget()
    for found in loaded_plugins(plugins).offers(Medium).values():
        registry.offer(found.offer, found.load, found.said)


def opened_by_plugin(data: Any, plugins: Plugins | None, *, labelled: bool = True) -> Any:
    """Return what a plugin makes of a data URI, or of a path; what none knows stays as given.

    Args:
        data: as people gave it.
        plugins: loaded plugins; None loads them.
        labelled: whether answers are wanted, so that what lies at a path may name its own.
    """
    offer_media(plugins)
    if not isinstance(data, str | Path):
        return data
    found: Any = None
    if what_lies_at(data) is not None:
        found = loaded_plugins(plugins).listed(Path(data)) if labelled else None
    elif isinstance(data, str) and ":" in data:
        found = loaded_plugins(plugins).open_data(data)
    return data if found is None else found


def find_preprocess(
    model: Model, reading: Reading = AS_THE_FILE_SAYS
) -> Preprocess | Encoding | None:
    """Find how pictures, texts or sounds become inputs.

    In this order: option → metadata of the file → the model index → None. `max_length` overrides
    what the file or the index says of texts, as `size` does of pictures.

    Raises:
        UsageError: options that exclude each other, or whose values cannot be meant.
    """
    names = ("preprocess", "tokenizer", "audio")
    named = [f"--{name}" for name in names if getattr(reading, name) is not None]
    if len(named) > 1:
        raise UsageError(
            "a model takes pictures, texts or sounds, not several of them",
            where=" and ".join(named),
            remedy="give one of them",
        )
    if reading.tokenizer is not None:
        return encodings.parse_text(reading.tokenizer, reading.max_length)
    if reading.audio is not None:
        found: Preprocess | Encoding | None = encodings.parse_audio(reading.audio)
    else:
        found = _found(model, reading.preprocess, reading.size)
    length = reading.max_length
    return found if length is None else encodings.with_max_length(found, length)


def _found(model: Model, option: Any, size: Any) -> Preprocess | Encoding | None:
    from surgeon.graph.preprocess import parse_size

    document, source = envelope.get(model.proto, envelope.PREPROCESS), "metadata"
    if option is not None:
        if isinstance(document, dict) and document.get("embedded") is True:
            raise UsageError(
                "the file prepares its pictures itself", where="--preprocess", remedy="leave it out"
            )
        return encodings.parse_option(option, _picture(model), size)
    if document is None:
        entry = model.known
        document, source = (None if entry is None else entry.preprocess), "index"
        if entry is not None and entry.encoding is not None:
            return encodings.from_index(entry.encoding, _folders(model, entry))
    if document is None:
        return None
    if isinstance(document, dict):
        source = document.get("source") or source
    found = encodings.parse_option(document, _picture(model), None, source=source)
    parsed = parse_size(size)
    if parsed is None or not isinstance(found, Preprocess):
        return found
    if found.embedded:
        raise UsageError(
            "the file brings its pictures to a size itself", where="--size", remedy="leave it out"
        )
    return replace(found, size=parsed)


def _folders(model: Model, known: Known) -> list[Path]:
    """Return where what belongs to a known model may lie: beside it, where its zoo keeps it."""
    return [*([] if model.path is None else [model.path.parent]), *map(Path, known.folders)]


def _picture(model: Model) -> TensorInfo | None:
    """Return the input that takes pictures, or None."""
    from surgeon.data.media.pictures import image_input

    return image_input(model.inputs, {})


def resized(model: Model, pre: Preprocess) -> Model:
    """Let the graph take pictures of the size that was asked for, if it runs at that size.

    Raises:
        UsageError: the graph works at its own size only.
    """
    info = _picture(model)
    if info is None or info.shape is None or len(info.shape) != 4:
        return model
    places = (2, 3) if pre.layout == "NCHW" else (1, 2)
    declared = tuple(info.shape[place] for place in places)
    wanted = tuple(pre.size)
    fixed = [dim for dim in declared if isinstance(dim, int)]
    if not fixed or all(
        not isinstance(dim, int) or dim == want for dim, want in zip(declared, wanted, strict=True)
    ):
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.value_info[:]
    for value in proto.graph.input:
        if value.name == info.name:
            for place, want in zip(places, wanted, strict=True):
                value.type.tensor_type.shape.dim[place].dim_value = want
    for value in proto.graph.output:
        # Only the batch is known to stay; the rest follows from the picture's size.
        for dim in list(value.type.tensor_type.shape.dim)[1:]:
            dim.Clear()
    from surgeon.runtime.observe import random_feeds
    from surgeon.runtime.sessions import open_session

    note = (
        f"input {info.name!r} resized from {declared[0]}x{declared[1]} to {wanted[0]}x{wanted[1]}"
    )
    other = model.with_proto(proto, stored=model.stored, notes=(*model.notes, note))
    try:
        anatomy = other.anatomy()
        probe = graph_cuts.keep_only(anatomy.model, [anatomy.end], anatomy.shapes)
        shapes = {
            item.name: anatomy.shapes.one[item.name][1]
            for item in input_infos(probe)
            if item.name in anatomy.shapes.one
        }
        open_session(probe, device="cpu").run(random_feeds(probe, shapes, 0))
    except SurgeonError as error:
        raise UsageError(
            f"the graph does not run at {wanted[0]}x{wanted[1]}: {error.message}",
            where=f"input {info.name!r}, made for {declared[0]}x{declared[1]}",
            remedy=f"leave --size out, or give {declared[0]}x{declared[1]}",
        ) from error
    return other


def open_samples(
    data: Any,
    model: Model,
    pre: Preprocess | Encoding | None,
    reading: Reading,
    constants: Mapping[str, NDArray[Any]],
    validation: Any,
    old: Any = None,
) -> Samples:
    """Open the data, those of old classes, and the validation data where it is a path."""
    from surgeon.data.read import has_columns, needs_preprocess, open_data
    from surgeon.data.samples import JoinedSamples
    from surgeon.graph.preprocess import missing_preprocess

    infos = model.inputs
    if pre is None and needs_preprocess(data, infos, constants):
        raise missing_preprocess(model.where)
    opened: dict[str, Any] = {
        "preprocess": pre, "label_column": reading.label_column, "constants": dict(constants),
    }  # fmt: skip

    def beside(other: Any) -> Samples:
        group = reading.group_column if has_columns(other) else None
        return open_data(other, infos, **opened, group_column=group)

    samples = open_data(data, infos, **opened, group_column=reading.group_column)
    if old is not None:
        samples = JoinedSamples(samples, beside(old), more=True)
    return samples if _is_number(validation) else JoinedSamples(samples, beside(validation))


def without(data: Any, names: set[str]) -> Any:
    """Leave out arrays for inputs that became constants of the graph."""
    if not names:
        return data
    if isinstance(data, dict):
        return {key: value for key, value in data.items() if key not in names}
    if isinstance(data, str | Path) and str(data).endswith(".npz") and Path(data).is_file():
        from surgeon.data.media.arrays import read_npz

        return {key: array for key, array in read_npz(Path(data)).items() if key not in names}
    return data


def divide(samples: Samples, asked: Asked, validation: float | str, seed: int) -> Splits:
    """Divide the samples: the data's own split wins, else by fraction and seed.

    Raises:
        DataError: nothing is left to validate.
    """
    from surgeon.data import splits

    fraction = float(validation) if _is_number(validation) else 0.2
    named = not isinstance(validation, float | int) and not _is_number(validation)
    return splits.split_samples(
        samples, strata_of(asked.task, asked.targets), fraction=fraction, seed=seed,
        hold_test=samples.n >= splits.TEST_FROM if named else None,
    )  # fmt: skip


def strata_of(task: TaskCode, targets: Targets) -> NDArray[np.int64]:
    """Return codes whose shares every part keeps, [n]; one for all where it is no matter."""
    found = task.strata(targets)
    return np.zeros(len(targets), np.int64) if found is None else found


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def constant_inputs(model: Model, inputs: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Read constant inputs; what the operation itself dropped is ignored."""
    gone = gone_inputs(model)
    if isinstance(inputs, dict):
        inputs = {name: value for name, value in inputs.items() if name not in gone}
    else:
        inputs = [text for text in inputs if text.partition("=")[0] not in gone]
    if not inputs:
        return {}
    from surgeon.data.constants import parse_constants

    return parse_constants(inputs, model.inputs)


def gone_inputs(model: Model) -> set[str]:
    """Return inputs that data made for the source may have and the operated file does not take."""
    return set() if model.plan is None else set(model.plan.dropped_inputs)
