"""A graph that begins at an inner tensor: what leads to it is dropped, data are of its shape.

Ordinary data are taken, too: the front that was dropped computes the activations once, by ONNX
Runtime, and they are kept as features are. What must not enter: training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon import intake
from surgeon.data.samples import Batch, Failure, Given, Samples
from surgeon.errors import SurgeonError, UsageError
from surgeon.graph import cuts as graph_cuts
from surgeon.graph import envelope
from surgeon.graph.apart import doubtful_nodes
from surgeon.job.decide import decide
from surgeon.options import Reading
from surgeon.plugin.manager import loaded_plugins
from surgeon.records import Case
from surgeon.runtime.extract import extract
from surgeon.runtime.features import Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx
    from numpy.typing import NDArray

    from surgeon.graph.cuts import Anatomy
    from surgeon.intake import Divided, Naming
    from surgeon.model import Model
    from surgeon.options import Options, Surgery
    from surgeon.plugin.manager import Plugins
    from surgeon.records import Plan, TensorInfo
    from surgeon.runtime.features import Features


@dataclass(frozen=True)
class Begun:
    """A model whose first nodes were dropped.

    Attributes:
        source: the model with all its nodes.
        model: the one that begins at the tensor.
        start: that tensor.
        plan: what the case decided, looking at the source; None where it is asked later.
    """

    source: Model
    model: Model
    start: str
    plan: Plan | None

    def asked(self, to: Surgery) -> Surgery:
        """Return what was asked for in names of the model's own: the source's depths differ."""
        return replace(to, start=None, cut=to.cut if self.plan is None else self.plan.cut)

    def finish(self, operated: Model) -> Model:
        """Return what was operated with a plan that speaks of the source."""
        assert operated.plan is not None
        anatomy, plan = self.source.anatomy(), operated.plan
        left = {info.name for info in operated.inputs}
        gone = [info.name for info in self.source.inputs if info.name not in left]
        plan = replace(
            plan, start=self.start,
            depth=plan.depth if plan.cut is None else graph_cuts.depth_of(anatomy, plan.cut),
            dropped_inputs=tuple(dict.fromkeys([*plan.dropped_inputs, *gone])),
        )  # fmt: skip
        document = plan.as_dict() | {"source_sha256": self.source.file_sha256}
        envelope.put(operated.proto, envelope.PLAN, document)
        kept = len(operated.proto.graph.node) - operated.added_nodes
        return replace(operated, plan=plan, removed_nodes=len(anatomy.model.graph.node) - kept)


def headless(case: str | None, plugins: Plugins | None) -> bool:
    """Say whether a case appends no head.

    Raises:
        UnknownNameError: there is no such case.
    """
    if case in (None, "auto"):
        return False
    return loaded_plugins(plugins).offer(Case, case).offer.headless


def require_head(case: str | None, plugins: Plugins | None) -> None:
    """Refuse to train by a case that appends no head.

    Raises:
        UsageError: it is such a case.
    """
    if headless(case, plugins):
        raise UsageError(
            f"case {case!r} appends no head and trains nothing",
            where="--case",
            remedy=f"`surgeon operate --case {case}` writes the file, `surgeon predict` gives its "
            "vectors; `surgeon cases` lists cases that train",
        )


def begin(model: Model, to: Surgery, plugins: Plugins | None) -> Begun | None:
    """Let a model begin where the user or the case says; None where it begins at its inputs.

    What the user said wins over the case.

    Raises:
        UnknownNameError: there is no such tensor.
        UsageError: it does not separate the graph.
    """
    start, plan = to.start, None
    if to.case not in (None, "auto"):
        starts = loaded_plugins(plugins).offer(Case, str(to.case)).offer.starts
        if starts or start is not None:
            plan = decide(model, model.anatomy(), to, None, plugins)
            start = start or plan.start
    if start is None:
        return None
    anatomy = model.anatomy()
    start = named(anatomy, start)
    cut = graph_cuts.resolve(anatomy, None if plan is None else plan.cut, default=anatomy.late)
    proto = _started(anatomy, start, cut)
    for key in (envelope.PROOF, envelope.PREPROCESS, envelope.PLAN):
        envelope.put(proto, key, None)
    outputs = {value.name for value in proto.graph.output}
    notes = tuple(filter(None, [anatomy.batch_note]))
    begun = replace(
        model.with_proto(proto), plan=None, sizes={}, constants={}, bound_inputs=(),
        indexed=(None,), output=model.output if model.output in outputs else None,
        notes=(*model.notes, *notes),
    )  # fmt: skip
    plan = plan and replace(plan, cut=cut, start=start)
    return Begun(model, begun, start, plan)


def named(anatomy: Anatomy, start: str) -> str:
    """Return the tensor that a start means: a name, or the listed cut at a depth."""
    depth = start.startswith("@") or start in ("late", "early")
    return graph_cuts.resolve(anatomy, start) if depth else start


def _started(anatomy: Anatomy, start: str, cut: str) -> onnx.ModelProto:
    """Drop what lies in front of a tensor; outputs that need more than it are given up.

    A value may separate the way to the cut, and not that to every output.
    """
    whole = anatomy.model
    for outputs in ([anatomy.output], [cut]):
        try:
            return graph_cuts.start_at(whole, start, anatomy.shapes)
        except UsageError:
            whole = graph_cuts.keep_only(anatomy.model, outputs, anatomy.shapes)
    return graph_cuts.start_at(whole, start, anatomy.shapes)


def opened(
    model: Model,
    data: Any,
    to: Options,
    *,
    as_planned: bool,
    names: Naming | None,
    **reading: Any,
) -> tuple[Begun | None, Divided]:
    """Open data for a model, which may begin at an inner tensor; see `intake.open`.

    Data of that tensor's name are its values. Of others the front computes them, once.
    """
    plugins = reading["plugins"]
    require_head(to.surgery.case, plugins)
    known = (None, None, None, *(getattr(model.plan, one, None) for one in ("classes", "init")))
    words = ("start", "cut", "head", "classes", "init")
    stays = [
        name
        for name, has in zip(words, known, strict=True)
        if getattr(to.surgery, name) not in (None, has)
    ]
    if to.surgery.case is None and stays:
        raise UsageError(
            f"a file that goes on with its plan keeps the {stays[0]} that this says",
            where=f"--{stays[0]}",
            remedy="leave it out, or give --case",
        )
    begun = begin(model, to.surgery, plugins)
    if begun is None:
        return None, intake.open(model, data, to, as_planned=as_planned, names=names, **reading)
    if not _holds(data, begun.start):
        given = intake.open(model, data, to, **reading)
        again = begin(given.model, to.surgery, plugins)
        assert again is not None
        begun, data = again, _activations(given, again, to)
        training = replace(to.training, validation=_share(to.training.validation))
        to = replace(to, reading=Reading(task=to.reading.task), training=training)
    return begun, intake.open(begun.model, data, to, **reading | {"detect": None})


def _share(validation: float | str) -> float | str:
    """Return the share to validate on; data of their own are joined already and say it."""
    try:
        return float(validation)
    except ValueError:
        return 0.2


def _holds(data: Any, tensor: str) -> bool:
    """Say whether data are arrays by name, and one is that of a tensor."""
    if isinstance(data, dict):
        return tensor in data
    if isinstance(data, Samples):
        return any(info.name == tensor for info in data.inputs)
    if isinstance(data, str | Path) and str(data).endswith(".npz") and Path(data).is_file():
        from surgeon.data.media.arrays import read_npz

        try:
            return tensor in read_npz(Path(data))
        except SurgeonError:  # said where the data are opened
            return False
    return False


def _activations(given: Divided, begun: Begun, to: Options) -> Samples:
    """Compute what the front makes of samples."""
    anatomy, samples = begun.source.anatomy(), given.samples
    front = graph_cuts.keep_only(anatomy.model, [begun.start], anatomy.shapes)
    (info,) = begun.model.inputs
    features = extract(
        front, [begun.start], samples, None,
        Request(
            axes={begun.start: info.batch_axis} if info.batch_axis else {},
            device=given.device, threads=to.place.threads, limit_bytes=to.place.cache_limit,
            doubtful=bool(doubtful_nodes(front, anatomy.shapes)), where=begun.source.where,
        ),
        progress=lambda done, total: given.say("activations", done, total),
    )  # fmt: skip
    found = "were kept from before" if features.hit else "are computed once"
    note = (
        f"the values of {begun.start!r} {found}, by what lies in front of it "
        f"({len(front.graph.node)} nodes); the file takes these values"
    )
    return _Activations(samples, features, info, note)


class _Activations(Samples):
    """Samples as the values of one tensor, which a front computed."""

    def __init__(self, samples: Samples, features: Features, info: TensorInfo, note: str) -> None:
        super().__init__(
            Given(
                inputs=[info], names=samples.names, answers=samples.answers, split=samples.split,
                groups=samples.groups, ignored=samples.ignored, where=samples.where,
                answer_at=samples.answer_at,
            )
        )  # fmt: skip
        self.remarks = (*samples.notes, note, *features.notes)
        self.passed_over = samples.passed_over
        self._samples, self._features, self._info = samples, features, info
        self._place = {int(index): place for place, index in enumerate(features.rows)}
        reasons = dict(samples.skipped)
        self._reason = {
            index: reasons.get(str(name), "it cannot be read")
            for index, name in enumerate(samples.names)
            if index not in self._place
        }

    def content_sha256(self, indices: NDArray[np.int64] | None = None) -> str:
        """Hash of the samples' content and of the front."""
        return f"{self._samples.content_sha256(indices)} {self._features.key}"

    def digests(self) -> Sequence[bytes | None] | None:
        """Return those of the samples."""
        return self._samples.digests()

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return the activations of samples."""
        wanted = [int(index) for index in indices]
        kept = [index for index in wanted if index in self._place]
        failures = tuple(
            Failure(index, str(self.names[index]), self._reason[index])
            for index in wanted
            if index not in self._place
        )
        self._note(failures)
        feeds, _ = self._features.read([self._place[index] for index in kept])
        return Batch(np.array(kept, np.int64), feeds, failures)
