"""Weights between files of one structure: the better of both worlds is often on the way.

::

    blended = surgeon.blend("before.onnx", "tuned.onnx", "photos/")
    blended.alpha, blended.tried
    surgeon.blend("one.onnx", "two.onnx", "photos/", also=["three.onnx"]).members

Wortsman et al., "Robust fine-tuning of zero-shot models" (arXiv 2109.01903): between a network
before and after fine-tuning lie some that keep what the first knew of other data, and most of what
the second learnt. And "Model soups" (arXiv 2203.05482): the mean of several networks that were
tuned from one is often better than the best of them. What must not enter: training.
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
FIGURES = ("quality", "loss")
TRIED = tuple(step / 10 for step in range(11))
"""Shares that data choose from."""
SOUPS = ("uniform", "greedy")
LISTED = 5


@dataclass(frozen=True)
class Blended:
    """A file between others.

    Attributes:
        model: it.
        alpha: share of the second file's weights; None of a soup.
        tried: {alpha, quality, loss} of all that were judged, of a soup `files` instead of a share;
            empty where none was.
        proof: of the file; None where there were no data.
        warnings: what people should know.
        soup: `uniform` or `greedy`; None of two files with a share.
        members: of a soup {path, weight, quality, loss} of each file, as they were named.
    """

    model: Model
    alpha: float | None
    tried: tuple[Mapping[str, Any], ...] = ()
    proof: Mapping[str, Any] | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()
    soup: str | None = None
    members: tuple[Mapping[str, Any], ...] = ()

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
            "soup": self.soup,
            "members": [dict(one) for one in self.members],
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
    also: Sequence[Source] = (),
    soup: str | None = None,
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
    """Make a file whose weights lie between those of others.

    Of two files they are (1 − alpha) first + alpha second; of more, or with `soup`, their mean. All
    else is the last one's: labels, preprocessing, plan. Its plan then trains what differs, too.

    Args:
        first: path, ModelProto or Model: the network before, or tuned on something else.
        second: of the same structure: the same nodes, and weights of the same names and shapes.
        data: samples whose validation part chooses alpha, of 0, 0.1 … 1; None = `alpha` says it.
        alpha: 0 is the first, 1 the second. Default without data: 0.5.
        also: further files, of the same structure.
        soup: `uniform`, the mean of all; `greedy`, of those that make the mean no worse on the
            validation part, the best first. Default of three files and more: greedy with data.
        progress: called as `progress(stage, done, total)`.
        plugins: loaded plugins; None loads them.

    Raises:
        ModelError: the files differ in more than float weights.
        UsageError: alpha lies outside 0..1, or both it and data are given, or it and a soup.
        DataError: no sample can be judged.
    """
    clock = Clock(time.perf_counter())
    to = Options.of(locals())
    to = replace(to, delivery=writable(to.delivery))
    _require_share(alpha, data)
    how = _soup(soup, alpha, data, bool(also))
    *before, last = (load(one) for one in (first, second, *also))
    differing = list(dict.fromkeys(name for one in before for name in _differing(one, last)))
    notes = list(dict.fromkeys(note for one in before for note in _notes(one, last)))
    notes += [] if differing else ["the files have the same weights"]
    if data is None:
        share = None if how else HALF_WAY if alpha is None else float(alpha)
        proto = _mean([*before, last], last, differing, share)
        if envelope.get(proto, envelope.PROOF) is not None:
            envelope.put(proto, envelope.PROOF, None)
            notes.append("the file carries no proof, as the weights are new: data give it one")
        members = [_member(one, 1 / (len(before) + 1)) for one in (*before, last) if how]
        found = Blended(
            last.with_proto(proto), share, warnings=tuple(notes), soup=how, members=tuple(members)
        )
    else:
        job, told = _opened(last, differing, data, to, progress, plugins)
        choose = _Choice(job, [*before, last], differing)
        found = choose.soup(how) if how else choose.share()
        found = choose.proven(found, [*notes, *told], clock)
    if to.delivery.out is not None:
        found.save(to.delivery.out, force=to.delivery.force)
    return found


def _soup(asked: str | None, alpha: Any, data: Any, more: bool) -> str | None:
    """Return how several files become one; None = two, by a share.

    Raises:
        UsageError: what was asked for cannot be.
    """
    if asked is None and not more:
        return None
    how = asked or ("uniform" if data is None else "greedy")
    wrong, remedy = None, "leave one of them out"
    if how not in SOUPS:
        wrong, remedy = f"soup is {how!r}", " or ".join(SOUPS)
    elif alpha is not None:
        wrong = "a share is of two files, and a soup is the mean of all"
    elif how == "greedy" and data is None:
        wrong, remedy = "a greedy soup is chosen by data, and none are given", "give data"
    if wrong:
        raise UsageError(wrong, where="--soup" if alpha is None else "--alpha", remedy=remedy)
    return how


def _member(one: Model, weight: float, row: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what is told of a file of a soup."""
    return {"path": one.where, "weight": weight, **{k: (row or {}).get(k) for k in FIGURES}}


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
        order = sorted(one.labels or ()) == sorted(other.labels or ())
        more = ": the same in another order" if order else ""
        wrong.append(f"their outputs have other labels{more}")
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


def _notes(one: Model, other: Model) -> list[str]:
    """Return what people should know of the two files."""
    read = [envelope.get(model.proto, envelope.PREPROCESS) for model in (one, other)]
    differ = None not in read and read[0] != read[1]
    return ["the files prepare their inputs differently: as the last does is kept"] * differ


def _mean(
    models: Sequence[Model], base: Model, differing: Sequence[str], alpha: float | None = None
) -> onnx.ModelProto:
    """Return the base with the mean of the weights of some files; of two, with a share."""
    tensors = [initializers(one.proto) for one in models]
    last = models[-1] if alpha == 1 or len(models) == 1 else None
    if last is base:
        return write_back(base.proto, {}, partial=True)
    found = {}
    for name in differing:
        values = [to_array(one[name]).astype(np.float64) for one in tensors]
        if alpha is not None:
            found[name] = values[0] + alpha * (values[1] - values[0])
        else:
            found[name] = functools.reduce(np.add, values) / len(values)
    return write_back(base.proto, found, partial=True)


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


class _Choice:
    """Files judged on the validation samples: which share, or which of them, is best there."""

    def __init__(self, job: Job, models: Sequence[Model], differing: Sequence[str]) -> None:
        self.job, self.models, self.differing = job, models, differing
        self.tried: list[dict[str, Any]] = []

    def _file(self, models: Sequence[Model], alpha: float | None = None) -> onnx.ModelProto:
        base = self.job.operated
        last = [base if one is self.models[-1] else one for one in models]
        return _mean(last, base, self.differing, alpha)

    def _judge(self, proto: onnx.ModelProto, told: Mapping[str, Any]) -> dict[str, Any]:
        from surgeon.job.measure import open_runner, outputs_of, score

        rows = self.job.given.parts.validation
        metrics = score(self.job, outputs_of(open_runner(self.job, proto, alone=False), rows)) or {}
        self.tried.append({**told, **{key: metrics.get(key) for key in FIGURES}})
        return self.tried[-1]

    def share(self) -> Blended:
        """Return the best of all shares.

        Raises:
            DataError: no sample can be judged.
        """
        for done, alpha in enumerate(TRIED, 1):
            self._judge(self._file(self.models, alpha), {"alpha": alpha})
            self.job.given.say("blends", done, len(TRIED))
        best: float = max(self._judged(), key=_rank)["alpha"]
        return Blended(self.job.operated.with_proto(self._file(self.models, best)), best)

    def soup(self, how: str) -> Blended:
        """Return the mean of all, or of those that make it no worse, the best first.

        Raises:
            DataError: no sample can be judged.
        """
        count = len(self.models)
        alone = []
        for done, one in enumerate(self.models, 1):
            alone.append(self._judge(self._file([one]), {"alpha": None, "files": [one.where]}))
            self.job.given.say("blends", done, 2 * count)
        self._judged()
        kept = list(range(count))
        if how == "greedy":
            order = sorted(kept, key=lambda place: _quality(alone[place]), reverse=True)
            kept, best = order[:1], _quality(alone[order[0]])
            for done, place in enumerate(order[1:], count + 1):
                found = _quality(self._together([*kept, place]))
                if found >= best:
                    kept, best = [*kept, place], found
                self.job.given.say("blends", done, 2 * count)
        else:
            self._together(kept)
        self.job.given.say("blends", 2 * count, 2 * count)
        members = [
            _member(one, (place in kept) / len(kept), alone[place])
            for place, one in enumerate(self.models)
        ]
        proto = self._file([self.models[place] for place in sorted(kept)])
        model = self.job.operated.with_proto(proto)
        return Blended(model, None, soup=how, members=tuple(members))

    def _together(self, places: Sequence[int]) -> dict[str, Any]:
        some = [self.models[place] for place in sorted(places)]
        return self._judge(self._file(some), {"alpha": None, "files": [one.where for one in some]})

    def _judged(self) -> list[dict[str, Any]]:
        found = [one for one in self.tried if np.isfinite(_quality(one)[0])]
        if not found:
            raise DataError(
                "no sample can be judged",
                where=self.job.given.samples.where,
                remedy="give more samples, --validation, or --alpha",
            )
        return found

    def proven(self, found: Blended, notes: Sequence[str], clock: Clock) -> Blended:
        """Return it with a proof."""
        job = replace(self.job, operated=replace(found.model, plan=self.job.plan))
        proved = proven(job, start_body(job.operated, job.given, job.to), list(notes), clock)
        return replace(
            found, model=proved.model, tried=tuple(self.tried), proof=proved.proof,
            warnings=tuple(proved.document()["warnings"]),
        )  # fmt: skip


def _quality(row: Mapping[str, Any]) -> tuple[float, float]:
    """The better figure, then the lower loss; what cannot be judged is the worst."""
    quality, loss = row["quality"], row["loss"]
    known = quality is not None and np.isfinite(quality)
    return quality if known else -np.inf, -np.inf if loss is None else -loss


def _rank(row: Mapping[str, Any]) -> tuple[float, float, float]:
    """Quality, and of equal ones the share nearest to the middle."""
    return *_quality(row), -abs(row["alpha"] - HALF_WAY)
