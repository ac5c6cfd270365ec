"""What a case decides, made sure of: plans asked for, checked, and resolved to names.

The case is a plugin and pure; everything it says is checked here before the core acts on it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from surgeon.errors import (
    PluginError,
    SurgeonError,
    UnknownNameError,
    UnsupportedError,
    UsageError,
)
from surgeon.graph import cuts as graph_cuts
from surgeon.graph.nodes import HeadCode
from surgeon.graph.pools import LENGTH, POOLS, keeps_axes
from surgeon.graph.schema import opsets
from surgeon.graph.taps import choose_cuts
from surgeon.options import words
from surgeon.plugin import settings
from surgeon.plugin.manager import loaded_plugins
from surgeon.records import (
    SOLVE_HEAD,
    TRAIN_ALL,
    Case,
    Context,
    Evidence,
    Head,
    HeadKind,
    Parameter,
    Plan,
    Stage,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    import onnx

    from surgeon.graph.cuts import Anatomy
    from surgeon.model import Model
    from surgeon.options import Surgery
    from surgeon.plugin.manager import Found, Plugins
    from surgeon.records import CutPoint
    from surgeon.tasks.base import TaskCode

    Source = str | os.PathLike[str] | onnx.ModelProto | Model
    Report = Callable[..., None]

OLDEST_HEAD = 7
"""The first opset whose Gemm ONNX Runtime implements."""


def decide(
    model: Model,
    anatomy: Anatomy,
    to: Surgery,
    evidence: Evidence | None,
    plugins: Plugins | None,
) -> Plan:
    """Ask the case for its plan; what the user said by name wins."""
    assert to.case is not None
    case = to.case
    found = loaded_plugins(plugins).offer(Case, case)
    chosen = found.use()
    wanted = None if to.cut is None else graph_cuts.resolve(anatomy, to.cut)
    context = Context(
        classes=to.classes,
        cut=wanted,
        init=to.init,  # type: ignore[arg-type]
        late=anatomy.late,
        early=anatomy.early,
        start=to.start,
        cuts=anatomy.cuts,
        taps=_taps(anatomy),
        parameters=tuple(_parameters(model, anatomy)),
        old_head=anatomy.head,
        evidence=evidence or Evidence(classes=to.classes),
    )
    try:
        plan = chosen.plan(context)
    except SurgeonError:
        raise
    except Exception as error:
        raise found.wrong(error) from error
    _check_plan(plan, found)
    if wanted is None and not found.own and plan.cut not in (context.late, context.early):
        with blamed(found):
            graph_cuts.resolve(anatomy, plan.cut, default=anatomy.late)
    head = plan.head if to.head is None else asked_head(to.head, plan.head)
    return replace(
        plan, case=plan.case or case, cut=wanted or plan.cut, init=context.init or plan.init,
        head=head,
    )  # fmt: skip


def for_task(plan: Plan, task: str) -> Plan:
    """Return the plan for a task, unless its case named one itself."""
    return replace(plan, task=task) if plan.task == Plan().task else plan


def _taps(anatomy: Anatomy) -> tuple[CutPoint, ...]:
    try:
        return tuple(choose_cuts(anatomy))
    except UnsupportedError:
        return ()


@contextmanager
def blamed(found: Found[Case] | None) -> Iterator[None]:
    """Say whose fault it is that something a plan names is not there.

    Raises:
        PluginError: names the case and its distribution.
    """
    try:
        yield
    except PluginError:
        raise
    except UsageError as error:
        if found is None or found.own:
            raise
        raise found.wrong(f"{error.message} ({error.remedy})") from error


def _check_plan(plan: Any, found: Found[Case]) -> None:
    """Refuse a plan whose fields are not of the words and types that records.Plan states."""

    def refuse(what: str) -> PluginError:
        return found.wrong(f"it returned {what}")

    if not isinstance(plan, Plan):
        raise refuse(f"a {type(plan).__name__}, not a Plan")
    names = plan.trainable
    if not isinstance(names, str) and not (
        isinstance(names, tuple | list) and all(isinstance(name, str) for name in names)
    ):
        raise refuse(f"trainable {names!r}, not `head`, `all`, or names")
    if not isinstance(plan.cut, str | None) or not isinstance(plan.case, str):
        raise refuse(f"cut {plan.cut!r} and case {plan.case!r}, not text")
    if plan.init not in words("init"):
        raise refuse(f"init {plan.init!r}, not one of {', '.join(words('init'))}")
    if not isinstance(plan.head, Head):
        raise refuse(f"the head {plan.head!r}, not a Head")
    if plan.head.pool not in POOLS:
        raise refuse(f"the pool {plan.head.pool!r}, not one of {', '.join(POOLS)}")
    if not isinstance(plan.head.taps, tuple | list) or not all(
        isinstance(tap, str) for tap in plan.head.taps
    ):
        raise refuse(f"the taps {plan.head.taps!r}, not names")
    if not isinstance(plan.stages, tuple | list) or not all(
        isinstance(stage, Stage) for stage in plan.stages
    ):
        raise refuse(f"stages {plan.stages!r}, not a tuple of Stage")


def _parameters(model: Model, anatomy: Anatomy) -> list[Parameter]:
    """Return every parameter with the depth of its first use."""
    first = graph_cuts.first_use(anatomy)
    shapes = {t.name: tuple(t.dims) for t in anatomy.model.graph.initializer}
    return [
        Parameter(name, shapes[name], first.get(name, 1.0))
        for name in model.learnable()
        if name in shapes
    ]


def resolve_trainable(
    plan: Plan, operated: Model, source: Model, plugins: Plugins
) -> tuple[str, ...]:
    """Turn `head`, `all` or a plugin's names into names of initializers, in graph order.

    A plugin may name parameters of one element too; those that the cut took away are left out.
    """
    with blamed(plugins.offers(Case).get(plan.case)):
        return _trainable(plan, operated, source)


def _trainable(plan: Plan, operated: Model, source: Model) -> tuple[str, ...]:
    head = plan.head.weights
    if plan.trainable == "head":
        return head
    parameters = operated.parameters()
    everything = [name for name in parameters if name not in head] + list(head)
    if plan.trainable == "all":
        return tuple(everything)
    if isinstance(plan.trainable, str):
        raise UsageError(
            f"plan trains {plan.trainable!r}",
            where=f"case {plan.case!r}",
            remedy="`head`, `all`, or the names of initializers",
        )
    wanted = {*plan.trainable, *head}
    kept = operated.learnable()
    known = {*kept, *source.learnable()}
    for name in plan.trainable:
        if name not in known:
            raise UnknownNameError("parameter", name, known, where=f"case {plan.case!r}")
    return tuple(name for name in kept if name in wanted and name not in head) + head


def resolve_taps(anatomy: Anatomy, plan: Plan, cut: str) -> tuple[str, ...]:
    """Turn the taps of a plan's head into tensor names by ascending depth, those in front of `cut`.

    Raises:
        UnknownNameError, UsageError: see `graph.cuts.resolve`.
    """
    names = {graph_cuts.resolve(anatomy, tap) for tap in plan.head.taps} - {cut}
    depths = {name: graph_cuts.depth_of(anatomy, name) for name in names}
    end = graph_cuts.depth_of(anatomy, cut)
    taps = sorted((n for n in names if depths[n] < end), key=lambda n: (depths[n], n))
    if cut == anatomy.end and anatomy.head is not None:
        # Heads whose scores were averaged read values that lie side by side.
        taps += [n for n in anatomy.head.also if n in anatomy.shapes.batch_axes and n not in taps]
    return tuple(taps)


def settle_head(
    plan: Plan, asked: str | None, task: TaskCode, plugins: Plugins
) -> tuple[Plan, HeadCode]:
    """Find the code of a head: the user's, the plan's, or the one that its task's answers need.

    Returns:
        The plan, the head's settings as its code takes them, and the code.

    Raises:
        UnknownNameError: there is no such kind of head.
        UsageError: a setting that it does not take, or answers of another form than the task's.
    """
    own = task.head({})
    head = (
        plan.head
        if plan.head.kind != Head().kind
        else replace(plan.head, kind=own.kind, options={**own.options, **plan.head.options})
    )
    head = head if asked is None else asked_head(asked, plan.head)
    found, wanted = (plugins.offer(HeadKind, kind).offer for kind in (head.kind, own.kind))
    if _gives(found) != _gives(wanted):
        fitting = [
            name
            for name, one in plugins.offers(HeadKind).items()
            if _gives(one.offer) == _gives(wanted)
        ]
        raise UsageError(
            f"the head {head.kind!r} gives {_said(_gives(found))}, and the task {plan.task!r} "
            f"wants {_said(_gives(wanted))}",
            where="--head" if asked else "plan.head",
            remedy=f"a head of {', '.join(fitting)}, or another --task",
        )
    build: Callable[..., Any] = plugins.offer(HeadKind, head.kind).load()
    options = settings.typed(build, head.options, f"head {head.kind}")
    solves = task.link is not None and found.solves in (True, task.link)
    head = replace(head, options=options, solves=solves)
    wrong = plugins.offer(HeadKind, head.kind).wrong
    code = HeadCode(build, tuple(found.keeps), found.pools, task.output, found.in_place, wrong)
    return replace(plan, head=head), code


def settle_stages(plan: Plan, *, linear: bool) -> Plan:
    """Return the plan of a head that was built: one that is not solved is trained by steps.

    Args:
        plan: with the head that its kind and task allow to be solved, or not.
        linear: whether it was built so that it can be.
    """
    if plan.head.solves and linear:
        return plan
    stages = plan.stages or (SOLVE_HEAD, *(() if plan.trainable == "head" else (TRAIN_ALL,)))
    stages = tuple(replace(stage, method="adamw") for stage in stages)
    return replace(plan, head=replace(plan.head, solves=False), stages=stages)


def asked_head(text: str, planned: Head) -> Head:
    """Read `KIND:key=value,…`; the pool and the taps of the plan stay where none are named.

    Raises:
        UsageError: it is of another form, or a pool that there is not.
    """
    kind, given = settings.parse(text, "--head")
    pool, taps = given.pop("pool", planned.pool), given.pop("taps", None)
    if pool not in POOLS:
        raise UsageError(
            f"there is no pool {pool!r}", where=f"--head {text}", remedy=", ".join(POOLS)
        )
    read = planned.taps if taps is None else tuple(filter(None, taps.split("+")))
    return Head(kind, pool, () if taps == "none" else read, given)  # type: ignore[arg-type] # one of POOLS


def _gives(kind: HeadKind) -> tuple[str, ...]:
    """Return the axes of the answers of a kind of head, beside the batch and the outputs."""
    return () if kind.pools else tuple(kind.keeps)


def _said(axes: Sequence[str]) -> str:
    return f"one answer per place of {' and '.join(axes)}" if axes else "one answer per sample"


def resolve_cut(anatomy: Anatomy, plan: Plan, code: HeadCode, to: Surgery, *, free: bool) -> str:
    """Return the cut that a head reads.

    Where the axes that it keeps, or that a pool which the user named works on, are pooled already,
    it is the last cut before that, if the cut is `free` to move: one that the user named is not.

    Raises:
        UnknownNameError, UsageError: see `graph.cuts.resolve`; or there is nothing to pool.
    """
    tensor = graph_cuts.resolve(anatomy, plan.cut, default=anatomy.late)
    asked = to.head is not None and "pool" in settings.parse(to.head, "--head")[1]
    axes = code.keeps or (LENGTH if asked else ())
    if not axes or tensor not in anatomy.shapes.one or keeps_axes(anatomy.shapes, tensor, axes):
        return tensor
    having = _last_with(anatomy, tensor, axes)
    if free and having is not None:
        return having
    if not code.keeps:
        dims = list(anatomy.shapes.symbolic[tensor])
        raise UsageError(
            f"value {tensor!r} is {dims}: there is nothing to pool",
            where=f"--head {to.head}",
            remedy="leave the pool out" + ("" if having is None else f", or give --cut {having}"),
        )
    return tensor


def _last_with(anatomy: Anatomy, tensor: str, axes: Sequence[str]) -> str | None:
    """Return the deepest listed cut up to a tensor that has axes; None where none has.

    What a reduction makes is pooled in part: the channels are not where they are looked for.
    """
    end, makers = graph_cuts.depth_of(anatomy, tensor), anatomy.links.makers
    for one in reversed(anatomy.cuts):
        made = makers.get(one.tensor)
        reduced = made is not None and made.op_type.startswith("Reduce")
        if one.depth <= end and not reduced and keeps_axes(anatomy.shapes, one.tensor, axes):
            return one.tensor
    return None


def settle_start(plan: Plan, operated: Model) -> tuple[Plan, str | None]:
    """Make sure that a start from random weights is possible; a race without one is no race.

    Returns:
        The plan, and what people should know.

    Raises:
        UnsupportedError: `random` was asked for, and quantised weights would have to be drawn.
    """
    quantised = [name for name in plan.trainable if name in operated.quantized()]
    if plan.init == "race" and (quantised or set(plan.trainable) <= set(plan.head.weights)):
        why = "quantised weights cannot start at random" if quantised else "only a head is trained"
        return replace(plan, init="pretrained"), f"no race of two starts: {why}"
    if plan.init == "random" and quantised:
        raise UnsupportedError(
            f"{len(quantised)} quantised weights cannot start at random: their scales, and those "
            "of what flows between them, fit the weights they were measured with",
            where=quantised[0],
            remedy="--init pretrained, or start from the float network and quantise the result",
        )
    return plan, None


def require_opset(model: Model) -> None:
    """Refuse an opset in which the new head does not run; opsets are never raised on the way.

    Raises:
        UnsupportedError: the file is of an opset below 7.
    """
    opset = opsets(model.proto).get("", OLDEST_HEAD)
    if opset < OLDEST_HEAD:
        raise UnsupportedError(
            f"the file is of opset {opset}, and before opset {OLDEST_HEAD} ONNX Runtime has no "
            "Gemm, which the new head is",
            where=model.where or "opset_import",
            remedy=f"export it again for opset {OLDEST_HEAD} or later, or raise a copy with "
            "onnx.version_converter and compare what both compute",
        )


NOT_TRAINED = ("probabilities", "fp16", "int8", "int8-dynamic", "optimize", "embed-preprocess")
"""Forms of an exported file behind which its plan is no longer gone on with."""


def keeps_plan(model: Model, case: str | None) -> bool:
    """Say whether a file goes on with the plan it carries; make sure that it can be trained.

    Raises:
        UsageError: it has none, and no case is given.
        UnsupportedError: the file is of an opset below 7.
    """
    goes_on = case is None and model.plan is not None and bool(model.trainable)
    if case is None and not goes_on:
        raise UsageError(
            "no case is given, and the file carries no plan to go on with",
            where="--case",
            remedy="`--case auto` chooses by measurement, `surgeon cases` lists the cases",
        )
    forms = ((model.proof or {}).get("exported") or {}).get("forms") or ()
    ends = [name for name in forms if str(name).partition("=")[0] in NOT_TRAINED]
    if goes_on and ends:
        raise UsageError(
            f"the file was exported ({', '.join(ends)}) and is not trained further",
            where=model.where,
            remedy="go on with the file that it was exported from",
        )
    require_opset(model)
    return goes_on


def measures(case: str | None, plugins: Plugins | None) -> bool:
    """Say whether a case wants evidence measured before it plans.

    Raises:
        UnknownNameError: there is no such case.
    """
    return isinstance(case, str) and loaded_plugins(plugins).offer(Case, case).offer.measures
