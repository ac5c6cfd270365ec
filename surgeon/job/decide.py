"""What a case decides, made sure of: plans asked for, checked, and resolved to names.

The case is a plugin and pure; everything it says is checked here before the core acts on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.errors import (
    ModelError,
    SurgeonError,
    UnknownNameError,
    UnsupportedError,
    UsageError,
)
from surgeon.graph import cuts as graph_cuts
from surgeon.graph import envelope
from surgeon.graph.picks import pick_again, picks
from surgeon.graph.schema import opsets
from surgeon.graph.taps import choose_cuts
from surgeon.graph.walk import all_graphs, data_inputs
from surgeon.graph.weights import write_back
from surgeon.options import words
from surgeon.records import (
    Case,
    Context,
    Evidence,
    Head,
    Parameter,
    Plan,
    Stage,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

    from surgeon.graph.cuts import Anatomy
    from surgeon.graph.shapes import Observe, Shapes
    from surgeon.model import Model
    from surgeon.plugin.manager import Plugins
    from surgeon.records import CutPoint

    Source = str | os.PathLike[str] | onnx.ModelProto | Model
    Report = Callable[..., None]

OLDEST_HEAD = 7
"""The first opset whose Gemm ONNX Runtime implements."""


def decide(
    model: Model,
    anatomy: Anatomy,
    case: str,
    classes: int,
    cut: str | None,
    init: str | None,
    evidence: Evidence | None,
    plugins: Plugins | None,
) -> Plan:
    """Ask the case for its plan; what the user said by name wins."""
    chosen = loaded_plugins(plugins).offer(Case, case).offer
    wanted = None if cut is None else graph_cuts.resolve(anatomy, cut)
    context = Context(
        classes=classes,
        cut=wanted,
        init=init,  # type: ignore[arg-type]
        late=anatomy.late,
        early=anatomy.early,
        cuts=anatomy.cuts,
        taps=_taps(anatomy),
        parameters=tuple(_parameters(model, anatomy)),
        old_head=anatomy.head,
        evidence=evidence or Evidence(classes=classes),
    )
    try:
        plan = chosen.plan(context)
    except SurgeonError:
        raise
    except Exception as error:
        raise UsageError(
            f"case {case!r} failed while it decided: {type(error).__name__}: {error}",
            where=f"case {case!r}",
            remedy="this is an error in the plugin that offers it",
        ) from error
    _check_plan(plan, case)
    return replace(
        plan, case=plan.case or case, cut=wanted or plan.cut, init=context.init or plan.init
    )


def _taps(anatomy: Anatomy) -> tuple[CutPoint, ...]:
    try:
        return tuple(choose_cuts(anatomy))
    except UnsupportedError:
        return ()


def _check_plan(plan: Any, case: str) -> None:
    """Refuse a plan whose fields are not of the words and types that records.Plan states."""

    def refuse(what: str) -> UsageError:
        return UsageError(
            f"case {case!r} returned {what}",
            where=f"case {case!r}",
            remedy="this is an error in the plugin that offers it; see surgeon.records.Plan",
        )

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
    if not isinstance(plan.head, Head) or plan.head.kind != "gemm":
        raise refuse(f"the head {plan.head!r}, not a Head of kind `gemm`")
    if plan.head.pool not in ("mean", "max", "first", "last", "flatten"):
        raise refuse(f"the pool {plan.head.pool!r}, not mean, max, first, last or flatten")
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


def resolve_trainable(plan: Plan, patient: Model, source: Model) -> tuple[str, ...]:
    """Turn `head`, `all` or a plugin's names into names of initializers, in graph order.

    A plugin may name parameters of one element too; those that the cut took away are left out.
    """
    head = plan.head.weights
    if plan.trainable == "head":
        return head
    parameters = patient.parameters()
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
    kept = patient.learnable()
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


@dataclass(frozen=True)
class Truncated:
    """A graph up to the values a new head reads.

    Attributes:
        model: the graph.
        values: what the head reads, the cut last.
        shapes: of all values.
        picked: nodes that were added to pick the old head's token.
        notes: what people should know.
    """

    model: onnx.ModelProto
    values: tuple[str, ...]
    shapes: Shapes
    picked: int = 0
    notes: tuple[str, ...] = ()


def truncate(anatomy: Anatomy, values: Sequence[str], pool: str, observe: Observe) -> Truncated:
    """Drop what lies behind the values a head reads.

    Where the old head scored every token and one token's scores were picked, that token is picked
    at the old head's input, in place of the mean over all.
    """
    *taps, cut = values
    notes: tuple[str, ...] = ()
    if cut == anatomy.end and pool == "mean" and picks(anatomy):
        again = pick_again(anatomy, values, observe=observe)
        if again is not None:
            model, value, shapes = again
            added = sum(node.output[0] not in anatomy.links.makers for node in model.graph.node)
            said = "the old head gave one token's scores: the new one reads that token"
            return Truncated(model, (*taps, value), shapes, added, (said,))
        said = (
            "the old head gave some tokens' scores, and how they were picked is not understood: "
            "the new one reads the mean of all tokens"
        )
        notes = (said,)
    also = () if anatomy.head is None or cut != anatomy.end else anatomy.head.also
    if also:
        said = f"the scores of {len(also) + 1} heads were averaged: the new one reads what all read"
        notes = (f"{said}: {', '.join([*also, cut])}",)
    model = graph_cuts.keep_only(anatomy.model, values, anatomy.shapes)
    return Truncated(model, tuple(values), anatomy.shapes, 0, notes)


def settle_start(plan: Plan, patient: Model) -> tuple[Plan, str | None]:
    """Make sure that a start from random weights is possible; a race without one is no race.

    Returns:
        The plan, and what people should know.

    Raises:
        UnsupportedError: `random` was asked for, and quantised weights would have to be drawn.
    """
    quantised = [name for name in plan.trainable if name in patient.quantized()]
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


def draw_anew(patient: Model, plan: Plan, seed: int) -> onnx.ModelProto:
    """Draw every trainable weight anew; the head has its random weights already."""
    from surgeon.graph.weights import tuned_names
    from surgeon.torch_graph.initialize import draw_all

    tuned = tuned_names(patient.proto, plan.trainable)
    names = [name for name in tuned if name not in plan.head.weights]
    return write_back(patient.proto, draw_all(patient.proto, names, seed=seed), partial=True)


def start_only(model: Model, start: str) -> Model:
    """Drop everything in front of a tensor; nothing else changes."""
    anatomy = model.anatomy()
    proto = graph_cuts.start_at(anatomy.model, start, anatomy.shapes)
    for key in (envelope.PROOF, envelope.PREPROCESS):
        envelope.put(proto, key, None)
    removed = len(anatomy.model.graph.node) - len(proto.graph.node)
    plan = Plan(case="start", cut=start, depth=graph_cuts.depth_of(anatomy, start), trainable=())
    return replace(model.with_proto(proto), plan=plan, removed_nodes=removed)


def batch_as_tried(
    model: Model, proto: onnx.ModelProto, note: str, constants: Mapping[str, NDArray[Any]]
) -> tuple[onnx.ModelProto, str]:
    """Try an operated file whose batch was made free; pin its batch where that does not hold.

    Returns:
        The file, and what is true of its batch.
    """
    from surgeon.graph.batch import pinned
    from surgeon.graph.shapes import fixed_batch, input_infos
    from surgeon.runtime.settle import try_written

    if fixed_batch(input_infos(proto)) is not None:
        return proto, note
    why = try_written(proto, model.sizes, constants, model.bound)
    if why is None:
        return proto, note
    held = fixed_batch(model.inputs) or 1
    return pinned(proto, held), f"the batch stays fixed at {held}: the operated file: {why}"


def require_samples(model: Model) -> None:
    """Refuse a graph whose inputs hold one sample and no more.

    Raises:
        ModelError: no input has a batch axis.
    """
    from surgeon.runtime.settle import one_sample

    if model.inputs and all(info.batch_axis is None for info in model.inputs):
        raise ModelError(
            one_sample(model.proto),
            where=model.where,
            remedy="export it with a batch axis in front: [batch, ...]",
        )


def require_runs_at_all(model: Model) -> None:
    """Refuse a graph that ONNX Runtime does not run; its words say more than a missing type."""
    from surgeon.runtime.observe import require_runs

    require_runs(model.stored or model.proto, model.where or "the model")


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


def output_notes(anatomy: Anatomy, proto: onnx.ModelProto) -> list[str]:
    """Return what became of the old output: its activation, its name."""
    new, head = proto.graph.output[0].name, anatomy.head
    notes = []
    if head is not None and head.activation is not None:
        notes.append(
            f"the old {head.activation} is gone: {new} are raw scores, and `surgeon predict` makes "
            "probabilities of them"
        )
    if anatomy.output != new:
        notes.append(f"the output is called {new} now; it was {anatomy.output}")
    return notes


def dropped_inputs(model: Model, proto: onnx.ModelProto) -> list[str]:
    """Return the inputs of a model that an operated graph no longer takes."""
    left = set(data_inputs(proto.graph))
    return [info.name for info in model.inputs if info.name not in left]


def measures(case: str | None, plugins: Plugins | None) -> bool:
    """Say whether a case wants evidence measured before it plans.

    Raises:
        UnknownNameError: there is no such case.
    """
    return isinstance(case, str) and loaded_plugins(plugins).offer(Case, case).offer.measures


def loaded_plugins(plugins: Plugins | None) -> Plugins:
    """Return the plugins given, or load them."""
    if plugins is not None:
        return plugins
    from surgeon.plugin.manager import load_plugins

    return load_plugins()


def load_operators(model: onnx.ModelProto, plugins: Plugins | None) -> None:
    """Let plugins declare their operators, where a graph has nodes of a domain that is not ours."""
    known = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "ai.onnx.preview.training"}
    foreign = {node.domain for graph in all_graphs(model.graph) for node in graph.node} - known
    if not foreign:
        return
    from surgeon.ops.registry import load_plugin

    for names in loaded_plugins(plugins).hook.surgeon_ops():
        for name in names:
            load_plugin(name)


def opened_by_plugin(data: Any, plugins: Plugins | None) -> Any:
    """Return what a plugin makes of a data URI; a path, and what no plugin knows, stay as given."""
    if not isinstance(data, str) or ":" not in data or Path(data).exists():
        return data
    found = loaded_plugins(plugins).hook.surgeon_open_data(uri=data)
    return data if found is None else found
