"""What a case decides, made sure of: plans asked for, checked, and resolved to names.

The case is a plugin and pure; everything it says is checked here before the core acts on it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.errors import (
    SurgeonError,
    UnknownNameError,
    UnsupportedError,
    UsageError,
)
from surgeon.graph import cuts as graph_cuts
from surgeon.graph import envelope
from surgeon.graph.schema import opsets
from surgeon.graph.walk import all_graphs, data_inputs
from surgeon.graph.weights import write_back
from surgeon.records import (
    Context,
    Evidence,
    Head,
    Parameter,
    Plan,
    Stage,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    import onnx

    from surgeon.graph.cuts import Anatomy
    from surgeon.model import Model
    from surgeon.plugin.manager import Plugins

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
    chosen = loaded_plugins(plugins).case(case)
    if init not in (None, "pretrained", "random"):
        raise UsageError(
            f"init is {init!r}", where="--init", remedy="give `pretrained` or `random`"
        )
    wanted = None if cut is None else graph_cuts.resolve(anatomy, cut)
    context = Context(
        classes=classes,
        cut=wanted,
        init=init,  # type: ignore[arg-type]
        late=anatomy.late,
        early=anatomy.early,
        cuts=anatomy.cuts,
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
    if plan.init not in ("pretrained", "random"):
        raise refuse(f"init {plan.init!r}, not `pretrained` or `random`")
    if not isinstance(plan.head, Head) or plan.head.kind != "gemm":
        raise refuse(f"the head {plan.head!r}, not a Head of kind `gemm`")
    if plan.head.pool not in ("mean", "max", "first", "last", "flatten"):
        raise refuse(f"the pool {plan.head.pool!r}, not mean, max, first, last or flatten")
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
        for name, role in model.roles().items()
        if role == "parameter" and name in shapes
    ]


def resolve_trainable(
    plan: Plan, patient: Model, head: tuple[str, str], source: Model
) -> tuple[str, ...]:
    """Turn `head`, `all` or a plugin's names into names of initializers, in graph order.

    A plugin may name parameters of one element too; those that the cut took away are left out.
    """
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
    kept = [name for name, role in patient.roles().items() if role == "parameter"]
    known = {*kept, *(name for name, role in source.roles().items() if role == "parameter")}
    for name in plan.trainable:
        if name not in known:
            raise UnknownNameError("parameter", name, known, where=f"case {plan.case!r}")
    return tuple(name for name in kept if name in wanted and name not in head) + head


def draw_anew(patient: Model, plan: Plan, head: tuple[str, str], seed: int) -> onnx.ModelProto:
    """Draw every trainable weight anew; the head has its random weights already."""
    from surgeon.graph.initialization import scheme
    from surgeon.runtime.proof import tuned_names
    from surgeon.tune.initialize import draw

    rules = scheme(patient.proto)
    tensors = {tensor.name: tensor for tensor in patient.proto.graph.initializer}
    drawn = {}
    for name in tuned_names(patient.proto, plan.trainable):
        if name not in head and rules[name].draw != "keep":
            drawn[name] = draw(rules[name], tuple(tensors[name].dims), seed=seed, name=name)
    return write_back(patient.proto, drawn, partial=True)


def start_only(model: Model, start: str) -> Model:
    """Drop everything in front of a tensor; nothing else changes."""
    anatomy = model.anatomy()
    proto = graph_cuts.start_at(anatomy.model, start, anatomy.shapes)
    for key in (envelope.PROOF, envelope.PREPROCESS):
        envelope.put(proto, key, None)
    removed = len(anatomy.model.graph.node) - len(proto.graph.node)
    plan = Plan(case="start", cut=start, depth=graph_cuts.depth_of(anatomy, start), trainable=())
    return replace(model.with_proto(proto), plan=plan, removed_nodes=removed)


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


def dropped_inputs(model: Model, proto: onnx.ModelProto) -> list[str]:
    """Return the inputs of a model that an operated graph no longer takes."""
    left = set(data_inputs(proto.graph))
    return [info.name for info in model.inputs if info.name not in left]


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
