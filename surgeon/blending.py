"""Weights between two files of one structure: the better of both worlds is often on the way.

::

    blended = surgeon.blend("before.onnx", "tuned.onnx", "photos/")
    blended.alpha, blended.tried

Wortsman et al., "Robust fine-tuning of zero-shot models" (arXiv 2109.01903): between a network
before and after fine-tuning lie some that keep what the first knew of other data, and most of what
the second learnt. What must not enter: training.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon import intake
from surgeon.comparing import meaning
from surgeon.documents import Clock, skip_notes, start_body
from surgeon.errors import DataError, ModelError, UsageError
from surgeon.graph import envelope
from surgeon.graph.walk import label
from surgeon.graph.weights import initializers, same_values, to_array, write_back
from surgeon.job.operate import load_operators
from surgeon.model import Model, load
from surgeon.options import Options, explained
from surgeon.own_weights import named, planned, proven
from surgeon.resumption import writable

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import onnx

    from surgeon.job.run import Job
    from surgeon.plugin.manager import Plugins

    Source = str | os.PathLike[str] | onnx.ModelProto | Model

HALF_WAY = 0.5
"""Share of the second file where nothing chooses, as the paper advises."""
TRIED = tuple(step / 10 for step in range(11))
"""Shares that data choose from."""
LISTED = 5


@dataclass(frozen=True)
class Blended:
    """A file between two.

    Attributes:
        model: it.
        alpha: share of the second file's weights.
        tried: {alpha, quality, loss} of all that were judged; empty where none was.
        proof: of the file; None where there were no data.
        warnings: what people should know.
    """

    model: Model
    alpha: float
    tried: tuple[Mapping[str, Any], ...] = ()
    proof: Mapping[str, Any] | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the file.

        Raises:
            OutputError: it exists (without `force`) or cannot be written.
        """
        self.model.save(path, force=force)

    def document(self, out: str | os.PathLike[str] | None = None) -> dict[str, Any]:
        """Return the body of the document."""
        return {
            "out": None if out is None else str(out),
            "alpha": self.alpha,
            "tried": [dict(one) for one in self.tried],
            "proof": self.proof,
            "warnings": list(self.warnings),
        }


@explained
def blend(  # noqa: PLR0913 - a public verb has its options as keywords
    first: Source,
    second: Source,
    data: Any = None,
    out: str | os.PathLike[str] | None = None,
    *,
    alpha: float | None = None,
    preprocess: Any = None,
    size: Any = None,
    tokenizer: Any = None,
    max_length: int | None = None,
    audio: Any = None,
    label_column: str | None = None,
    task: str = "auto",
    group_column: str | None = None,
    inputs: Sequence[str] | Mapping[str, Any] = (),
    validation: float | str = 0.2,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    golden_samples: bool = False,
    force: bool = False,
    progress: Callable[..., None] | None = None,
    plugins: Plugins | None = None,
) -> Blended:
    """Make a file whose weights lie between those of two files: (1 − alpha) first + alpha second.

    All else is the second's: labels, preprocessing, plan. Its plan then trains what differs, too.

    Args:
        first: path, ModelProto or Model: the network before, or tuned on something else.
        second: of the same structure: the same nodes, and weights of the same names and shapes.
        data: samples whose validation part chooses alpha, of 0, 0.1 … 1; None = `alpha` says it.
        alpha: 0 is the first, 1 the second. Default without data: 0.5.
        progress: called as `progress(stage, done, total)`.
        plugins: loaded plugins; None loads them.

    Raises:
        ModelError: the files differ in more than float weights.
        UsageError: alpha lies outside 0..1, or both it and data are given.
        DataError: no sample can be judged.
    """
    clock = Clock(time.perf_counter())
    to = Options.of(locals())
    to = replace(to, delivery=writable(to.delivery))
    _require_share(alpha, data)
    one, other = load(first), load(second)
    differing = _differing(one, other)
    notes = _notes(one, other, differing)
    if data is None:
        share = HALF_WAY if alpha is None else float(alpha)
        proto = _between(one, other, differing, share)
        if envelope.get(proto, envelope.PROOF) is not None:
            envelope.put(proto, envelope.PROOF, None)
            notes.append("the file carries no proof, as the weights are new: data give it one")
        found = Blended(other.with_proto(proto), share, warnings=tuple(notes))
    else:
        job, told = _opened(other, differing, data, to, progress, plugins)
        found = _chosen(job, one, differing, [*notes, *told], clock)
    if to.delivery.out is not None:
        found.save(to.delivery.out, force=to.delivery.force)
    return found


def _require_share(alpha: Any, data: Any) -> None:
    """Refuse a share that is none, or two ways of choosing one."""
    if alpha is None:
        return
    number = isinstance(alpha, int | float | np.number) and not isinstance(alpha, bool)
    if not number or not 0 <= alpha <= 1:
        raise UsageError(f"alpha is {alpha!r}", where="--alpha", remedy="a number from 0 to 1")
    if data is not None:
        raise UsageError(
            "alpha is given, and data to choose it by",
            where="--alpha",
            remedy="leave one of them out; `surgeon evaluate` judges the file",
        )


def _differing(one: Model, other: Model) -> list[str]:
    """Return the float initializers of two files that differ.

    Raises:
        ModelError: so does something else; all of it is named.
    """
    first, second, role = initializers(one.proto), initializers(other.proto), other.roles()
    wrong = _structure(one.proto, other.proto)
    wrong += [f"only one has the weight {name!r}" for name in sorted(first.keys() ^ second.keys())]
    both = [name for name in second if name in first]
    forms = {n: [(one.data_type, list(one.dims)) for one in (first[n], second[n])] for n in both}
    wrong += [
        f"the weight {name!r} is {here[1]} and {there[1]}"
        + ("" if here[0] == there[0] else ", of two types")
        for name, (here, there) in forms.items()
        if here != there
    ]
    differing = [n for n in both if not same_values(first[n], second[n])]
    blends = {n for n in differing if n in role and role[n] != "setting"}
    if not wrong and blends != set(differing):
        others = [repr(name) for name in differing if name not in blends]
        wrong.append(f"quantised or other tensors differ that are not blended: {_some(others)}")
    if None not in (one.labels, other.labels) and one.labels != other.labels:
        wrong.append("their outputs have other labels")
    if wrong:
        raise ModelError(
            f"the files are not of one structure: {_some(wrong, '; ')}",
            where=f"{one.where} and {other.where}",
            remedy="blend two files that were made from one, such as one file before and after "
            "tuning; quantise after blending",
        )
    return differing


def _structure(one: onnx.ModelProto, other: onnx.ModelProto) -> list[str]:
    """Say in what two graphs differ, weights left aside; remarks on nodes do not count."""
    wrong = []
    nodes = [model.graph.node for model in (one, other)]
    if len(nodes[0]) != len(nodes[1]):
        wrong.append(f"they have {len(nodes[0])} and {len(nodes[1])} nodes")
    else:
        wrong += [
            f"{label(here)} is another"
            for here, there in zip(*nodes, strict=True)
            if meaning(here) != meaning(there)
        ]
    for what in ("input", "output"):
        names = [[value.name for value in getattr(model.graph, what)] for model in (one, other)]
        if names[0] != names[1]:
            wrong.append(f"their {what}s are {', '.join(names[0])} and {', '.join(names[1])}")
    versions = [
        {item.domain: item.version for item in model.opset_import} for model in (one, other)
    ]
    return wrong if versions[0] == versions[1] else [*wrong, "their opsets differ"]


def _some(found: Sequence[str], between: str = ", ") -> str:
    more = len(found) - LISTED
    return between.join(found[:LISTED]) + (f"{between}and {more} more" if more > 0 else "")


def _notes(one: Model, other: Model, differing: Sequence[str]) -> list[str]:
    """Return what people should know of the two files."""
    read = [envelope.get(model.proto, envelope.PREPROCESS) for model in (one, other)]
    notes = [] if differing else ["the files have the same weights"]
    if None not in read and read[0] != read[1]:
        notes.append("the files prepare their inputs differently: as the second does is kept")
    return notes


def _between(one: Model, other: Model, differing: Sequence[str], alpha: float) -> onnx.ModelProto:
    """Return the second file with weights between."""
    first, second = initializers(one.proto), initializers(other.proto)
    wide = {
        name: tuple(to_array(tensors[name]).astype(np.float64) for tensors in (first, second))
        for name in differing
    }
    blended = {name: here + alpha * (there - here) for name, (here, there) in wide.items()}
    return write_back(other.proto, blended if alpha < 1 else {}, partial=True)


def _opened(
    other: Model,
    differing: Sequence[str],
    data: Any,
    to: Options,
    progress: Callable[..., None] | None,
    plugins: Plugins | None,
) -> tuple[Job, list[str]]:
    """Open data for the second file, whose plan trains all that differs."""
    from surgeon.job.run import Job

    model, _ = planned(other, list(differing))
    assert model.plan is not None
    moved = {*model.plan.trainable, *differing}
    plan = replace(model.plan, trainable=tuple(n for n in model.learnable() if n in moved))
    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    document = plan.as_dict() | {"source_sha256": model.source_sha256}
    envelope.put(proto, envelope.PLAN, document)
    model = replace(model.with_proto(proto), plan=plan)
    given = intake.open(
        model, data, to, names=functools.partial(named, None), as_planned=True,
        progress=progress, plugins=plugins,
    )  # fmt: skip
    load_operators(model.proto, plugins)
    return Job(given.model, given, to, given.task, plugins=plugins), skip_notes(given.samples)


def _chosen(
    job: Job, one: Model, differing: Sequence[str], notes: list[str], clock: Clock
) -> Blended:
    """Judge every share on the validation samples, and prove the best file.

    Raises:
        DataError: no sample can be judged.
    """
    from surgeon.job.measure import open_runner, outputs_of, score

    rows, tried = job.given.parts.validation, list[dict[str, Any]]()
    for done, alpha in enumerate(TRIED, 1):
        proto = _between(one, job.operated, differing, alpha)
        metrics = score(job, outputs_of(open_runner(job, proto, alone=False), rows)) or {}
        tried.append({"alpha": alpha, **{key: metrics.get(key) for key in ("quality", "loss")}})
        job.given.say("blends", done, len(TRIED))
    judged = [row for row in tried if row["quality"] is not None and np.isfinite(row["quality"])]
    if not judged:
        raise DataError(
            "no sample can be judged",
            where=job.given.samples.where,
            remedy="give more samples, --validation, or --alpha",
        )
    best: float = max(judged, key=_rank)["alpha"]
    model = job.operated.with_proto(_between(one, job.operated, differing, best))
    job = replace(job, operated=replace(model, plan=job.plan))
    proved = proven(job, start_body(job.operated, job.given, job.to), notes, clock)
    told = tuple(proved.document()["warnings"])
    return Blended(proved.model, best, tuple(tried), proved.proof, told)


def _rank(row: Mapping[str, Any]) -> tuple[float, float, float]:
    """The better figure, then the lower loss, then the share nearest to the middle."""
    loss = row["loss"]
    return row["quality"], -np.inf if loss is None else -loss, -abs(row["alpha"] - HALF_WAY)
