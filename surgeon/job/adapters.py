"""Adapters: few numbers that learn in place of large weights, found, settled and put into place.

Three forms, by what a plugin's `Adapter.of` says. `weight` is here: a parametrization of torch that
stands for one initializer and is folded back into it. `part` rewrites the graph of the trained part
(`part.open_part`), `file` the operated file itself (behind `operate`). What must not enter: names
of adapters, the loop.
"""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from surgeon.errors import ModelError, PluginError, SurgeonError, UsageError
from surgeon.graph import envelope
from surgeon.graph.adaptable import adaptable
from surgeon.graph.precision import HALVES
from surgeon.graph.weights import initializers, quantized_weights
from surgeon.job.done import Work
from surgeon.plugin.manager import loaded_plugins
from surgeon.plugin.settings import parse, typed
from surgeon.records import Adapter, Plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto
    from torch import Tensor, nn

    from surgeon.graph.adaptable import Adaptable
    from surgeon.job.run import Job
    from surgeon.model import Model
    from surgeon.plugin.manager import Found, Plugins
    from surgeon.records import Stage
    from surgeon.torch_graph.module import GraphModule

NONE = "none"
"""What people say for no adapter, of a file whose plan has one."""
TARGETS = "targets"
"""The setting of every adapter of weights that the core takes."""
LISTED = 12
"""Weights that an error names."""


@dataclass(frozen=True)
class Chosen:
    """An adapter that was asked for: its code, its settings, and whose it is.

    Attributes:
        text: as it was asked for.
        targets: patterns of the weights that it shall stand for; () = all.
    """

    text: str
    found: Found[Adapter]
    code: Any
    settings: Mapping[str, Any]
    targets: tuple[str, ...] = ()

    @property
    def of(self) -> Literal["weight", "part", "file"]:
        """What it adapts."""
        return self.found.offer.of

    def wrong(self, what: str, where: str) -> PluginError:
        """Return the error for a code that does what none may do."""
        found = self.found
        whose = f"distribution {found.distribution} {found.version}"
        return PluginError(
            f"the adapter {found.offer.name!r} of {whose} {what}",
            where=where,
            remedy="tell its author; leave --adapter out, or choose other weights with targets=",
        )


def find_adapter(text: str, plugins: Plugins | None) -> Chosen:
    """Return an adapter by `name:key=value,…`, before anything is computed.

    Raises:
        UsageError: there is no such adapter, or a setting that it does not take.
    """
    name, given = parse(text, "--adapter")
    found = loaded_plugins(plugins).offer(Adapter, name)
    code = found.load()
    own = (TARGETS,) if found.offer.of == "weight" else ()
    targets = given.pop(TARGETS, "") if own else ""
    chosen = tuple(filter(None, (one.strip() for one in targets.split("|"))))
    told = typed(code, given, f"--adapter {name}", besides=own)
    return Chosen(text, found, code, told, chosen)


def adapter_of(job: Job) -> Chosen | None:
    """Return the adapter of a job's plan."""
    text = job.plan.adapter
    return None if text is None else find_adapter(text, job.plugins)


def asked_rate(job: Job, stage: Stage) -> float | None:
    """Return the peak rate of a stage that people, the case or the adapter ask for, in this order.

    The adapter's is for a pretrained start; None = the schedule's own.
    """
    chosen = adapter_of(job)
    own = None if chosen is None or job.plan.init != "pretrained" else chosen.found.offer.lr
    return job.to.training.lr or stage.lr or own


def settle_adapter(plan: Plan, operated: Model, asked: str | None, plugins: Plugins | None) -> Plan:
    """Return the plan with the adapter that was asked for, and what then trains.

    Raises:
        UsageError: see `find_adapter`; or it has nothing to adapt.
    """
    text = plan.adapter if asked is None else asked
    if text in (None, NONE):
        return replace(plan, adapter=None)
    assert text is not None
    chosen = find_adapter(text, plugins)
    if chosen.of != "file" and set(plan.trainable) <= set(plan.head.weights):
        raise UsageError(
            f"the case {plan.case!r} trains the new head alone, so that there is nothing to adapt",
            where=f"--adapter {text}",
            remedy="--case large-similar, or name with --train what the adapter stands for",
        )
    if chosen.of == "weight":
        return _settle_weights(plan, operated, chosen)
    return replace(plan, adapter=text)


def with_adapter(operated: Model, asked: str | None, plugins: Plugins | None) -> Model:
    """Return a file that goes on with its plan, by another adapter."""
    plan = operated.plan
    if asked is None or plan is None:
        return operated
    plan = settle_adapter(plan, operated, asked, plugins)
    proto = type(operated.proto)()
    proto.CopyFrom(operated.proto)
    document = plan.as_dict() | {"source_sha256": operated.source_sha256}
    envelope.put(proto, envelope.PLAN, document)
    return replace(operated, proto=proto, plan=plan)


# ── of weights ───────────────────────────────────────────────────────────────────────────────────


def _settle_weights(plan: Plan, operated: Model, chosen: Chosen) -> Plan:
    """Let adapters learn for the weights that they may stand for, beside the new head."""
    where = f"--adapter {chosen.text}"
    if plan.init != "pretrained":
        raise UsageError(
            f"an adapter changes pretrained weights a little, and the start is {plan.init!r}",
            where=where,
            remedy="--init pretrained, or leave --adapter out",
        )
    head = [name for name in plan.trainable if name in plan.head.weights]
    others = [name for name in plan.trainable if name not in plan.head.weights]
    known = adaptable(operated.proto, others, operated.quantized())
    adapted = [one.name for one in _targeted(known, chosen)]
    if not adapted:
        raise UsageError(
            "no weight that trains matches"
            if chosen.targets
            else "no weight can be adapted: none "
            "that trains is one of Gemm, MatMul, Conv or Gather",
            where=where,
            remedy="targets is a pattern of " + _listed(known) if known else "leave --adapter out",
        )
    return replace(plan, adapter=chosen.text, trainable=(*adapted, *head))


def _targeted(known: Sequence[Adaptable], chosen: Chosen) -> list[Adaptable]:
    """Return the weights whose name, or a node of theirs, a pattern matches; without any, all.

    Kernels of one channel each are so small that nothing is smaller: they want to be named.
    """
    if not chosen.targets:
        return [one for one in known if not one.depthwise]
    return [
        one
        for one in known
        if any(
            fnmatchcase(said, pattern) for said in (one.name, *one.nodes)
            for pattern in chosen.targets
        )
    ]  # fmt: skip


def _listed(known: Sequence[Adaptable]) -> str:
    said = [f"{one.name} ({', '.join(one.nodes)})" for one in known[:LISTED]]
    more = len(known) - LISTED
    return ", ".join(said) + (f" and {more} more" if more > 0 else "")


def put_in(
    chosen: Chosen,
    module: GraphModule,
    names: Sequence[str],
    job: Job,
    known: Mapping[str, Mapping[str, NDArray[Any]]],
) -> dict[str, list[str]]:
    """Let adapters stand for weights of a module.

    Args:
        chosen: which adapter.
        module: the trained part, converted.
        names: initializers that a stage trains.
        job: whose plan, and whose seed first numbers are drawn by.
        known: what adapters learnt in earlier stages.

    Returns:
        The parameters that learn, by the initializer they learn for.
    """
    import torch
    from torch.nn.utils import parametrize

    others = [name for name in names if name not in job.plan.head.weights]
    found = {}
    for one in adaptable(job.operated.proto, others, job.operated.quantized()):
        scope, leaf = module.site(one.name)
        weight = getattr(scope, leaf).detach()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(job.to.training.seed, one.name))
            adapter = made(chosen, weight, one)
        if one.name in known:
            set_learnt(adapter, one.name, known[one.name])
        parametrize.register_parametrization(scope, leaf, adapter)
        found[one.name] = {id(parameter) for parameter in adapter.parameters()}
    called = {id(parameter): name for name, parameter in module.named_parameters()}
    return {name: [called[one] for one in ones] for name, ones in found.items()}


def made(chosen: Chosen, weight: Tensor, one: Adaptable) -> nn.Module:
    """Make the adapter of one weight; refuse one that does not give a weight like it.

    Raises:
        PluginError: its code fails, or gives what stands for no such weight.
    """
    import torch
    from torch import nn

    where = f"initializer {one.name!r} {list(weight.shape)}"
    asks = inspect.signature(chosen.code).parameters
    told = {"axis": one.axis, "operator": one.operator}
    more = {key: value for key, value in told.items() if key in asks}
    try:
        adapter = chosen.code(weight.clone(), **more, **chosen.settings)
        module = isinstance(adapter, nn.Module)
        with torch.no_grad():
            given = adapter.eval()(weight) if module else None
    except SurgeonError:
        raise
    except Exception as error:  # a stranger's code may raise anything
        raise chosen.wrong(f"fails: {type(error).__name__}: {error}", where) from error
    if not module:
        raise chosen.wrong(f"gives a {type(adapter).__name__}, not a torch module", where)
    if not isinstance(given, torch.Tensor) or given.shape != weight.shape:
        shape = list(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
        raise chosen.wrong(f"gives {shape} for a weight", where)
    if given.dtype != weight.dtype:
        raise chosen.wrong(f"gives {given.dtype} for a weight of {weight.dtype}", where)
    if not bool(torch.isfinite(given).all()):
        raise chosen.wrong("gives numbers that are not finite", where)
    if not any(parameter.requires_grad for parameter in adapter.parameters()):
        raise chosen.wrong("has no parameters, so that nothing can learn", where)
    found: nn.Module = adapter
    return found


def fold(
    chosen: Chosen,
    model: ModelProto,
    forms: Sequence[Adaptable],
    learnt: Mapping[str, Mapping[str, NDArray[Any]]],
) -> dict[str, NDArray[Any]]:
    """Return weights with what adapters have learnt in them, as training delivers them.

    Args:
        chosen: which adapter.
        model: that has the weights as they were.
        forms: the weights, as the adapter was told of them.
        learnt: {initializer: {name in its adapter: values}}.

    Raises:
        ModelError: what was learnt is of another adapter, or of other weights.
        PluginError: see `made`.
    """
    import torch

    from surgeon.torch_graph.arrays import to_array
    from surgeon.torch_graph.stored import as_tensor
    from surgeon.torch_graph.straight_through import Rounding, stand_for

    quantised, tensors = quantized_weights(model), initializers(model)
    found = {}
    for one in forms:
        stored, scaled = as_tensor(tensors[one.name]), quantised.get(one.name)
        if scaled is not None:
            weight = stand_for(scaled, stored)
        else:
            weight = stored.float() if tensors[one.name].data_type in HALVES else stored
        adapter = made(chosen, weight, one)
        set_learnt(adapter, one.name, learnt[one.name])
        with torch.no_grad():
            value = adapter.eval()(weight)
        found[one.name] = to_array(
            value if scaled is None else Rounding(scaled, stored).fold(value)
        )
    return found


def set_learnt(adapter: nn.Module, name: str, learnt: Mapping[str, NDArray[Any]]) -> None:
    """Let an adapter stand where an earlier one stood.

    Raises:
        ModelError: that was of another form.
    """
    import torch

    state = {key: torch.from_numpy(np.array(values)) for key, values in learnt.items()}
    try:
        adapter.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise ModelError(
            f"what was learnt for {name!r} does not fit its adapter: {error}",
            where=f"initializer {name!r}",
            remedy="use the version of the adapter's plugin that it was learnt with",
        ) from error


def _seed(seed: int, name: str) -> int:
    """Return the seed of one weight's adapter: no matter which others there are."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "big")


def learnt(module: GraphModule, adapters: Mapping[str, Any]) -> dict[str, dict[str, NDArray[Any]]]:
    """Return what adapters have learnt, by initializer and by their own names."""
    found = {}
    for name in adapters:
        scope, leaf = module.site(name)
        (adapter,) = scope.parametrizations[leaf]  # type: ignore[index]
        state = adapter.state_dict()
        found[name] = {key: value.detach().cpu().numpy().copy() for key, value in state.items()}
    return found


def adapter_work(
    module: GraphModule, adapters: Mapping[str, Sequence[str]], names: Sequence[str]
) -> Work:
    """Return how many numbers learn, and in place of how many."""
    known = {name: one.numel() for name, one in module.named_parameters()}
    few = sum(known[one] for ones in adapters.values() for one in ones)
    many = sum(getattr(*module.site(name)).numel() for name in adapters)
    rest = sum(known[name] for name in names if name not in adapters)
    said = f"{few:,} numbers learn in place of {many:,} of {len(adapters)} weights"
    return Work(learned=few + rest, notes=(f"adapters: {said}",))
