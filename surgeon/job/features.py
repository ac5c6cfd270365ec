"""Surgery without a new head: what a network computes at its cuts becomes what the file gives.

What must not enter: training.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from surgeon.errors import UsageError
from surgeon.graph import cuts as graph_cuts
from surgeon.graph import encodings, envelope
from surgeon.graph.features import give_features
from surgeon.graph.picks import pick_again, picks
from surgeon.intake import find_preprocess
from surgeon.job.decide import decide
from surgeon.job.front import begin, headless, named
from surgeon.job.operate import batch_as_tried, dropped_inputs, operate, require_samples
from surgeon.options import every

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from surgeon.graph.cuts import Anatomy
    from surgeon.graph.shapes import Shapes
    from surgeon.model import Model
    from surgeon.options import Options, Surgery
    from surgeon.plugin.manager import Plugins
    from surgeon.records import Evidence, Plan

MEANINGLESS = ("classes", "init", "train", "train_from", "freeze", "head")
"""Options that say something of a new head or of training."""


def operate_by(
    model: Model,
    to: Options,
    *,
    also: Sequence[str] = (),
    evidence: Evidence | None = None,
    drawn: bool = True,
    plugins: Plugins | None,
) -> Model:
    """Operate as a case says: with a new head or without, from the inputs or from a tensor.

    Args:
        model: what is operated on; it knows its constant inputs.
        to: what was asked for.
        also: cuts beside the first.
        evidence: what is known about the data.
        drawn: see `job.operate`.
        plugins: loaded plugins; None loads them.
    """
    asked = to.surgery
    if headless(asked.case, plugins):
        if to.reading.asked_task is not None:
            raise UsageError(
                f"case {asked.case!r} appends no head, so that its file has no task",
                where="--task",
                remedy="leave it out",
            )
        return give(model, asked, also, plugins)
    refuse_of_features(asked, also)
    if asked.classes is None:
        raise UsageError(
            "the number of classes is not given", where="--classes", remedy="give 1 or more"
        )
    begun = begin(model, asked, plugins)
    if begun is not None:
        model, asked = begun.model, begun.asked(asked)
    operated = operate(
        model, asked, seed=to.training.seed, plan=None if begun is None else begun.plan,
        task=to.reading.asked_task, evidence=evidence, drawn=drawn, plugins=plugins,
    )  # fmt: skip
    return operated if begun is None else begun.finish(operated)


def refuse_of_features(to: Surgery, also: Sequence[str]) -> None:
    """Refuse what only a case without a head takes.

    Raises:
        UsageError: several cuts, or a pool of its own.
    """
    if also or to.pool is not None:
        raise UsageError(
            f"case {to.case!r} appends a head, which reads one cut",
            where="--cut given several times" if also else "--pool",
            remedy="--case features gives what lies at several cuts, pooled as you say",
        )


def several_cuts(cut: str | Sequence[str] | None) -> tuple[str | None, tuple[str, ...]]:
    """Return the first of several cuts, and the others.

    Raises:
        UsageError: there is none in the list.
    """
    if not isinstance(cut, list | tuple):
        return cut, ()  # type: ignore[return-value]  # what is no text is refused as an option
    if not cut:
        raise UsageError("no cut is given", where="--cut", remedy="give one, or leave it out")
    return cut[0], tuple(cut[1:])


def give(model: Model, to: Surgery, also: Sequence[str], plugins: Plugins | None) -> Model:
    """Cut a network at one value or several; they are what the file gives.

    Args:
        model: what is operated on; it knows its constant inputs.
        to: the case, the first cut and the pool.
        also: further cuts.
        plugins: loaded plugins; None loads them.

    Returns:
        A new Model with `.plan`; nothing of it is trainable.

    Raises:
        UsageError: options that say something of a head; cuts that are the same value.
    """
    _refuse_meaningless(to)
    anatomy = model.anatomy()
    require_samples(model)
    decided = decide(model, anatomy, to, None, plugins)
    cuts = [graph_cuts.resolve(anatomy, one, default=anatomy.late) for one in (decided.cut, *also)]
    _refuse_same(cuts)
    pool = to.pool or decided.head.pool
    part, values, shapes, notes = _truncated(anatomy, cuts, pool, model)
    proto, added, numbers = give_features(part, anatomy.model, shapes, values, pool)
    start = None if to.start is None else named(anatomy, to.start)
    if start is not None:
        proto = graph_cuts.start_at(proto, start, anatomy.shapes)
    dropped = [value.name for value in model.proto.graph.output if value.name not in cuts]
    plan = replace(
        decided,
        cut=cuts[0],
        depth=graph_cuts.depth_of(anatomy, cuts[0]),
        head=replace(decided.head, pool=pool, taps=tuple(cuts[1:])),  # type: ignore[arg-type]
        outputs=numbers,
        start=start,
        dropped_outputs=tuple(name for name in dropped if name != anatomy.output),
        dropped_inputs=(*model.bound_inputs, *dropped_inputs(model, proto)),
    )
    _stamp(proto, model, plan)
    batch_note = anatomy.batch_note
    if batch_note is not None:
        proto, batch_note = batch_as_tried(model, proto, batch_note)
    asked = (to.cut, *also)
    far = [graph_cuts.far_away(anatomy, *pair) for pair in zip(asked, cuts, strict=True)]
    return replace(
        model.with_proto(proto, output=None),
        source_sha256=model.file_sha256,
        plan=plan,
        notes=(*model.notes, *filter(None, [batch_note, anatomy.several, *far]), *notes),
        removed_nodes=len(anatomy.model.graph.node) - (len(proto.graph.node) - len(added)),
        added_nodes=len(added),
    )


def _refuse_meaningless(to: Surgery) -> None:
    known = every()
    given = [name for name in MEANINGLESS if getattr(to, name, None)]
    if given:
        raise UsageError(
            f"case {to.case!r} appends no head and trains nothing",
            where=", ".join(known[name].flag for name in given),
            remedy="leave it out",
        )


def _refuse_same(cuts: Sequence[str]) -> None:
    again = sorted({cut for cut in cuts if cuts.count(cut) > 1})
    if again:
        raise UsageError(
            f"several of the cuts are the value {again[0]!r}",
            where="--cut",
            remedy="`surgeon cuts MODEL` lists the cuts with their depths",
        )


def _stamp(proto: onnx.ModelProto, model: Model, plan: Plan) -> None:
    """Write into a file what it is; what was true of the source only goes."""
    for key in (envelope.LABELS, envelope.PROOF, envelope.ADVICE, envelope.DECODING):
        envelope.put(proto, key, None)
    envelope.put(proto, envelope.PLAN, plan.as_dict() | {"source_sha256": model.file_sha256})
    preprocess = find_preprocess(model)
    if preprocess is not None and plan.start is None:
        envelope.put(proto, envelope.PREPROCESS, encodings.as_document(preprocess))


def _truncated(
    anatomy: Anatomy, cuts: Sequence[str], pool: str, model: Model
) -> tuple[onnx.ModelProto, Sequence[str], Shapes, tuple[str, ...]]:
    """Cut; where the old head scored one token, that token is picked, as a new head would."""
    from surgeon.runtime.settle import observer

    if pool == "mean" and anatomy.end in cuts and picks(anatomy):
        others = [cut for cut in cuts if cut != anatomy.end]
        again = pick_again(anatomy, [*others, anatomy.end], observe=observer(dict(model.constants)))
        if again is not None:
            proto, value, shapes = again
            values = [value if cut == anatomy.end else cut for cut in cuts]
            return proto, values, shapes, ("the old head read one token: its vector is given",)
    return graph_cuts.keep_only(anatomy.model, cuts, anatomy.shapes), cuts, anatomy.shapes, ()
