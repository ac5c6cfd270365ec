"""Surgery: what a plan says, done to a graph; the source stays as it is.

What must not enter: deciding, data, training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from surgeon.errors import ModelError, UsageError
from surgeon.graph import cuts as graph_cuts
from surgeon.graph import encodings, envelope
from surgeon.graph.dequantize import INTEGERS, dequantize
from surgeon.graph.nodes import Added, add_head
from surgeon.graph.picks import pick_again, picks
from surgeon.graph.walk import all_graphs, data_inputs
from surgeon.graph.weights import write_back
from surgeon.intake import find_preprocess
from surgeon.job.adapters import settle_adapter
from surgeon.job.chosen import choose
from surgeon.job.decide import (
    decide,
    for_task,
    require_opset,
    resolve_cut,
    resolve_taps,
    resolve_trainable,
    settle_head,
    settle_stages,
    settle_start,
)
from surgeon.job.losses import settle_loss
from surgeon.job.refit import refit, require_whole
from surgeon.plugin.manager import loaded_plugins
from surgeon.records import Evidence, Plan
from surgeon.tasks.find import find_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from surgeon.graph.cuts import Anatomy
    from surgeon.graph.nodes import HeadCode
    from surgeon.graph.shapes import Observe, Shapes
    from surgeon.intake import Divided
    from surgeon.model import Model
    from surgeon.options import Options, Surgery
    from surgeon.plugin.manager import Plugins


def operate(
    model: Model,
    to: Surgery,
    *,
    seed: int,
    plan: Plan | None = None,
    evidence: Evidence | None = None,
    drawn: bool = True,
    task: str | None = None,
    plugins: Plugins | None = None,
) -> Model:
    """Cut a network and append a new head, as a case decides.

    Args:
        model: what is operated on; it knows its constant inputs.
        to: the case and the number of classes, and what the user said of cut and weights.
        seed: of the head's weights, and of all for a random start.
        plan: what the case decided, where it was asked before.
        evidence: what is known about the data, for the case.
        drawn: False leaves the pretrained weights where the start is random, for training to draw.
        task: what the answers are; None = as the case says.
        plugins: loaded plugins; None loads them.

    Returns:
        A new Model with `.plan` and `.trainable`.
    """
    assert to.classes is not None
    plugins = loaded_plugins(plugins)
    anatomy = model.anatomy()
    require_samples(model)
    if not anatomy.shapes.dtype(anatomy.end):
        require_opset(model)  # types of the oldest operators cannot be inferred
    decided = plan or decide(model, anatomy, to, evidence, plugins)
    decided = decided if task is None else for_task(decided, task)
    decided, code = settle_head(decided, to.head, find_task(decided.task, plugins), plugins)
    _require_types(model, anatomy, decided)
    free = to.cut is None or plan is not None  # what was measured read pooled values
    tensor = (
        require_whole(anatomy, decided, to)
        if code.in_place
        else resolve_cut(anatomy, decided, code, to, free=free)
    )
    headed = _with_head(model, anatomy, decided, tensor, code, to.classes, seed)
    decided = settle_stages(decided, linear=headed.added.linear)
    decided = settle_loss(decided, to.loss, plugins)
    proto = headed.proto
    operated = model.with_proto(proto, output=None)
    settled = _planned(model, anatomy, decided, tensor, headed, to.classes, proto, plugins)
    settled = replace(settled, trainable=resolve_trainable(settled, operated, model, plugins))
    settled = _without(choose(settled, operated, model, to), headed.stay)
    settled = settle_adapter(settled, operated, to.adapter, plugins)
    settled, no_race = settle_start(settled, operated)
    if settled.init == "random" and drawn:
        proto = draw_anew(operated, settled, seed)
    _stamp(proto, model, settled)
    batch_note = anatomy.batch_note
    if batch_note is not None:
        proto, batch_note = batch_as_tried(model, proto, batch_note)
    notes = [*model.notes, *filter(None, [batch_note, no_race]), *anatomy.notes]
    if settled.init == "random" and set(settled.trainable) <= set(headed.added.weights):
        notes.append("--init random: only what is trained starts anew, here the new head alone")
    if settled.dropped_outputs:
        notes.append(f"other outputs were dropped: {', '.join(settled.dropped_outputs)}")
    notes += headed.part.notes
    notes += [] if code.in_place else output_notes(anatomy, proto, settled)
    chosen_early = to.cut is None and tensor == anatomy.early != anatomy.late
    asked = "early" if chosen_early else to.cut or decided.cut
    notes += filter(None, [graph_cuts.far_away(anatomy, asked, tensor)])
    added = headed.added.nodes + headed.part.picked
    return replace(
        operated,
        proto=proto,
        source_sha256=model.file_sha256,
        plan=settled,
        notes=tuple(notes),
        removed_nodes=len(anatomy.model.graph.node) - (len(proto.graph.node) - added),
        added_nodes=added,
    )


def operate_for(
    given: Divided,
    to: Options,
    *,
    plan: Plan | None,
    evidence: Evidence | None,
    plugins: Plugins | None,
) -> Model:
    """Operate for data: by the plan that was advised, or by what the case decides now.

    Weights that shall start at random are drawn by training, which compares both.

    Raises:
        UsageError: another number of classes was asked for than the data have.
    """
    asked, count = to.surgery, given.outputs
    if given.task.any_outputs:
        count = asked.classes or count
    if asked.classes not in (None, count):
        raise UsageError(
            f"--classes is {asked.classes}, the data has {count} labels",
            where="--classes",
            remedy="leave it out: the data says it",
        )
    asked = replace(asked, classes=count)
    if plan is not None and asked.case == "auto":
        asked = replace(asked, case=plan.case, cut=plan.cut, init=plan.init)
    return operate(
        given.model, asked, seed=given.seed, plan=plan, drawn=False, plugins=plugins,
        evidence=evidence or Evidence(samples=given.samples.n, classes=count),
        task=given.task_name,
    )  # fmt: skip


def _require_types(model: Model, anatomy: Anatomy, decided: Plan) -> None:
    """Refuse a graph whose types are not known where it is cut, in the runtime's own words."""
    shapes = anatomy.shapes
    wanted = decided.cut if decided.cut in shapes.one else anatomy.late
    unknown = anatomy.head is not None and not shapes.dtype(anatomy.head.input)
    if not anatomy.cuts or not wanted or not shapes.dtype(wanted) or unknown:
        require_runs_at_all(model)


@dataclass(frozen=True)
class Headed:
    """A graph cut and with a new head, and what that reads."""

    proto: onnx.ModelProto
    added: Added
    taps: tuple[str, ...]
    part: Truncated
    stay: tuple[str, ...] = ()


def _with_head(
    model: Model,
    anatomy: Anatomy,
    decided: Plan,
    tensor: str,
    code: HeadCode,
    outputs: int,
    seed: int,
) -> Headed:
    """Cut at a tensor and append the head, unless it is one in place."""
    from surgeon.runtime.settle import observer

    if code.in_place:
        made = refit(anatomy, decided, code, outputs, seed)
        whole = Truncated(anatomy.model, (tensor,), anatomy.shapes)
        added = Added(tuple(made.weights), 0, linear=False)
        return Headed(made.model, added, (), whole, tuple(made.stay))
    taps = resolve_taps(anatomy, decided, tensor)
    observe = observer(dict(model.constants))
    part = truncate(anatomy, [*taps, tensor], "" if code.keeps else decided.head.pool, observe)
    truncated, values, shapes = part.model, list(part.values), part.shapes
    for place, value in enumerate(values):
        if shapes.dtype(value) in INTEGERS:
            truncated, values[place], shapes = dequantize(truncated, anatomy.model, value, shapes)
    proto, added = add_head(
        truncated, shapes, values, outputs, decided.head, code, seed=seed,
        inputs=anatomy.model.graph.input,
    )  # fmt: skip
    return Headed(proto, added, taps, part)


def _without(plan: Plan, stay: Sequence[str]) -> Plan:
    """Return a plan that does not train some initializers."""
    return replace(plan, trainable=tuple(name for name in plan.trainable if name not in stay))


def _planned(
    model: Model,
    anatomy: Anatomy,
    decided: Plan,
    tensor: str,
    headed: Headed,
    classes: int,
    proto: onnx.ModelProto,
    plugins: Plugins,
) -> Plan:
    """Return the plan in names of tensors, with what the operation dropped."""
    dropped = [value.name for value in model.proto.graph.output if value.name != tensor]
    pool = "token" if headed.part.picked else decided.head.pool
    return replace(
        decided,
        cut=tensor,
        depth=graph_cuts.depth_of(anatomy, tensor),
        head=replace(decided.head, taps=headed.taps, pool=pool, weights=headed.added.weights),
        classes=classes if find_task(decided.task, plugins).names_classes else None,
        outputs=classes,
        dropped_outputs=tuple(name for name in dropped if name != anatomy.output),
        dropped_inputs=(*model.bound_inputs, *dropped_inputs(model, proto)),
    )


def _stamp(proto: onnx.ModelProto, model: Model, plan: Plan) -> None:
    """Write into a file what it is; what was true of the source only goes."""
    for key in (envelope.LABELS, envelope.PROOF, envelope.ADVICE, envelope.STATISTICS):
        envelope.put(proto, key, None)
    document = plan.as_dict() | {"source_sha256": model.file_sha256}
    envelope.put(proto, envelope.PLAN, document)
    preprocess = find_preprocess(model)
    if preprocess is not None:
        envelope.put(proto, envelope.PREPROCESS, encodings.as_document(preprocess))


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
    if cut == anatomy.end and pool in ("mean", "cls") and picks(anatomy):
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


def draw_anew(operated: Model, plan: Plan, seed: int) -> onnx.ModelProto:
    """Draw every trainable weight anew; the head has its random weights already."""
    from surgeon.graph.weights import tuned_names
    from surgeon.torch_graph.initialize import draw_all

    tuned = tuned_names(operated.proto, plan.trainable)
    names = [name for name in tuned if name not in plan.head.weights]
    return write_back(operated.proto, draw_all(operated.proto, names, seed=seed), partial=True)


def start_only(model: Model, start: str | None) -> Model:
    """Drop everything in front of a tensor; nothing else changes.

    Raises:
        UsageError: no tensor is given, and no case was.
    """
    if start is None:
        raise UsageError(
            "no case is given", where="--case", remedy="`surgeon cases` lists the cases"
        )
    anatomy = model.anatomy()
    proto = graph_cuts.start_at(anatomy.model, start, anatomy.shapes)
    for key in (envelope.PROOF, envelope.PREPROCESS):
        envelope.put(proto, key, None)
    removed = len(anatomy.model.graph.node) - len(proto.graph.node)
    plan = Plan(case="start", cut=start, depth=graph_cuts.depth_of(anatomy, start), trainable=())
    return replace(model.with_proto(proto), plan=plan, removed_nodes=removed)


def batch_as_tried(model: Model, proto: onnx.ModelProto, note: str) -> tuple[onnx.ModelProto, str]:
    """Try an operated file whose batch was made free; pin its batch where that does not hold.

    Returns:
        The file, and what is true of its batch.
    """
    from surgeon.graph.batch import pinned
    from surgeon.graph.shapes import fixed_batch, input_infos
    from surgeon.runtime.settle import try_written

    if fixed_batch(input_infos(proto)) is not None:
        return proto, note
    why = try_written(proto, model.sizes, model.constants, model.bound)
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


def output_notes(anatomy: Anatomy, proto: onnx.ModelProto, plan: Plan) -> list[str]:
    """Return what became of the old output: its activation, its name."""
    new, head = proto.graph.output[0].name, anatomy.head
    notes = []
    if head is not None and head.activation is not None:
        raw = f"the old {head.activation} is gone"
        named = f"{raw}: {new} are raw scores, and `surgeon predict` makes probabilities of them"
        notes.append(raw if plan.classes is None else named)
    if anatomy.output != new:
        notes.append(f"the output is called {new} now; it was {anatomy.output}")
    return notes


def dropped_inputs(model: Model, proto: onnx.ModelProto) -> list[str]:
    """Return the inputs of a model that an operated graph no longer takes."""
    left = set(data_inputs(proto.graph))
    return [info.name for info in model.inputs if info.name not in left]


def load_operators(model: onnx.ModelProto, plugins: Plugins | None) -> None:
    """Let plugins declare their operators, where a graph has nodes of a domain that is not ours."""
    known = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "ai.onnx.preview.training"}
    foreign = {node.domain for graph in all_graphs(model.graph) for node in graph.node} - known
    if not foreign:
        return
    from surgeon.ops.registry import load_plugin

    loaded_plugins(plugins).declare_operators(load_plugin)
