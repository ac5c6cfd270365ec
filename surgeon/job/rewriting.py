"""Adapters of files: the operated file itself is rewritten before it is trained.

Nodes and initializers that are added are delivered; what trains in place of a weight, the plan then
says. What must not enter: names of adapters, training.
"""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, ValueInfoProto

from surgeon.errors import DataError, SurgeonError
from surgeon.graph import envelope
from surgeon.graph.learned_scales import find as learned_scales
from surgeon.graph.weights import head_weights, quantized_weights, roles
from surgeon.job.adapters import find_adapter
from surgeon.job.decide import settle_start
from surgeon.records import Plan, Rewritten, Stage
from surgeon.runtime.observe import require_runs
from surgeon.runtime.proof import fill_batch
from surgeon.runtime.sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from surgeon.intake import Divided
    from surgeon.job.adapters import Chosen
    from surgeon.model import Model
    from surgeon.plugin.manager import Plugins

OWN = "surgeon."
"""How names of added initializers begin: `verify` tells them from foreign ones by it."""


def rewritten(operated: Model, asked: str | None, given: Divided, plugins: Plugins | None) -> Model:
    """Return the operated file as the adapter of its plan rewrites it, and the plan that follows.

    A file that was tuned is rewritten only where an adapter is asked for: else it has been.

    Raises:
        UsageError: see `find_adapter`.
        PluginError: what the adapter gives is no such file.
    """
    plan = operated.plan
    if plan is None or plan.adapter is None or (operated.tuned and asked is None):
        return operated
    chosen = find_adapter(plan.adapter, plugins)
    if chosen.of != "file":
        return operated
    made = _made(chosen, operated, plan, given)
    _check(chosen, operated, plan, made)
    proto = ModelProto()
    proto.CopyFrom(made.model)
    model = operated.with_proto(proto, output=None)
    plan, no_race = _replanned(plan, made), None
    if not operated.tuned:  # a file goes on from its own weights, whatever they once began with
        plan, no_race = settle_start(plan, model)
    document = plan.as_dict() | {"source_sha256": operated.source_sha256}
    envelope.put(proto, envelope.PLAN, document)
    before, after = (Counter(n.op_type for n in one.graph.node) for one in (operated.proto, proto))
    return replace(
        model,
        plan=plan,
        notes=(*operated.notes, *made.notes, *filter(None, [no_race])),
        removed_nodes=operated.removed_nodes + (before - after).total(),
        added_nodes=operated.added_nodes + (after - before).total(),
    )


def _made(chosen: Chosen, operated: Model, plan: Plan, given: Divided) -> Rewritten:
    """Call the adapter's code: with what it asks for by name, behind the file and the feeds."""
    asks = inspect.signature(chosen.code).parameters
    whole = any(stage.trains == "all" for stage in plan.stages)
    known = {"trainable": tuple(plan.trainable), "head": plan.head.weights, "whole": whole}
    more = {name: value for name, value in known.items() if name in asks}
    model = ModelProto()
    model.CopyFrom(operated.proto)
    try:
        made = chosen.code(model, Feeds(operated.proto, given), **more, **chosen.settings)
    except SurgeonError:
        raise
    except Exception as error:  # a stranger's code may raise anything
        raise chosen.wrong(f"fails: {type(error).__name__}: {error}", "its code") from error
    if not isinstance(made, Rewritten) or not isinstance(made.model, ModelProto):
        raise chosen.wrong(f"gives a {type(made).__name__}, not a Rewritten", "its code")
    return made


def _check(chosen: Chosen, operated: Model, plan: Plan, made: Rewritten) -> None:
    """Refuse a file that is none, or no longer what the plan is for.

    Raises:
        PluginError: saying why.
    """
    before, after = operated.proto.graph, made.model.graph
    for which in ("input", "output"):
        if [str(one) for one in getattr(before, which)] != [
            str(one) for one in getattr(after, which)
        ]:
            raise chosen.wrong(f"changes the {which}s of the file", f"graph {which}s")
    old = {tensor.name for tensor in before.initializer}
    new = {tensor.name for tensor in after.initializer}
    foreign = sorted(name for name in new - old if not name.startswith(OWN))
    if foreign:
        raise chosen.wrong(
            f"adds {len(foreign)} initializers whose names do not begin with {OWN!r}",
            f"initializer {foreign[0]!r}",
        )
    if missing := [name for name in plan.head.weights if name not in new]:
        raise chosen.wrong("takes weights of the new head away", f"initializer {missing[0]!r}")
    if head_weights(made.model) != head_weights(operated.proto):
        raise chosen.wrong("changes what lies behind the new head", "the end of the graph")
    replan = _replanned(plan, made)
    learns = {name for name, role in roles(made.model).items() if role == "parameter"}
    weights = quantized_weights(made.model)
    learns |= {*weights, *learned_scales(made.model, weights)}
    if unknown := [name for name in replan.trainable if name not in learns]:
        raise chosen.wrong("trains what cannot learn in its file", f"initializer {unknown[0]!r}")
    try:
        require_runs(made.model, "the rewritten file")
    except SurgeonError as error:
        raise chosen.wrong(
            f"gives a file that does not run: {error.message}", "its file"
        ) from error


def _replanned(plan: Plan, made: Rewritten) -> Plan:
    """Return the plan in the names of the rewritten file."""

    def renamed(names: Sequence[str]) -> tuple[str, ...]:
        found = [one for name in names for one in made.instead.get(name, (name,))]
        return tuple(dict.fromkeys(found))

    def staged(stage: Stage) -> Stage:
        if isinstance(stage.trains, tuple):
            return replace(stage, trains=renamed(stage.trains))
        if stage.trains in ("head", "all"):
            return stage
        return replace(stage, trains=renamed((stage.trains,)))

    trainable = dict.fromkeys((*renamed(plan.trainable), *made.also))
    return replace(plan, trainable=tuple(trainable), stages=tuple(map(staged, plan.stages)))


@dataclass(frozen=True)
class Feeds:
    """Training samples one by one, as the file takes them, with values that it computes of them."""

    model: ModelProto
    given: Divided

    def __call__(self, count: int, values: Sequence[str] = ()) -> Iterator[dict[str, NDArray[Any]]]:
        """Give samples, spread evenly over those to train on; those that cannot be read are passed.

        Args:
            count: how many, at most.
            values: names of further values of the graph, by ONNX Runtime.

        Raises:
            DataError: no sample can be read.
        """
        rows, given = self.given.parts.train, self.given
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))]
        taken = {value.name for value in self.model.graph.input}
        asked = [name for name in dict.fromkeys(values) if name not in taken]
        session = open_session(_showing(self.model, asked), device="cpu", threads=given.threads)
        read = 0
        for place, row in enumerate(rows):
            loaded = given.samples.load(int(row))
            given.say("adapter", place + 1, len(rows))
            if isinstance(loaded, dict):
                read += 1
                one = fill_batch(self.model, loaded)
                made = session.run(one, asked) if asked else []
                yield one | dict(zip(asked, made, strict=True))
        if not read:
            raise DataError(
                f"none of the {len(rows)} training samples that were tried can be read",
                where="--adapter",
                remedy="`surgeon advise` lists the samples that cannot be read",
            )


def _showing(model: ModelProto, values: Sequence[str]) -> ModelProto:
    """Return the graph with further values as outputs."""
    shown = ModelProto()
    shown.CopyFrom(model)
    already = {value.name for value in model.graph.output}
    shown.graph.output.extend(ValueInfoProto(name=name) for name in values if name not in already)
    return shown
