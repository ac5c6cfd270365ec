"""What people say trains, in place of what the case decided: by names, by depth.

What must not enter: what a case decides, training.
"""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from surgeon.errors import UsageError
from surgeon.graph import cuts as graph_cuts
from surgeon.graph import envelope
from surgeon.graph.walk import reads
from surgeon.records import SOLVE_HEAD, TRAIN_ALL, Plan, Stage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from surgeon.model import Model
    from surgeon.options import Surgery

HEAD = "surgeon.head"
"""How the names of a new head's weights begin."""


def asks(to: Surgery) -> bool:
    """Say whether anything is said of what trains."""
    return bool(to.train or to.freeze or to.train_from is not None)


def choose(plan: Plan, operated: Model, source: Model, to: Surgery) -> Plan:
    """Return a plan, resolved to names, that trains what was asked for.

    `train` and `train_from` add up and take the place of what the case trains, `freeze` takes away
    from that. The new head trains unless it is frozen by name.

    Args:
        plan: of the operated model.
        operated: what will be trained.
        source: what it was made from; its depths are those that are asked for.
        to: what was asked for.

    Raises:
        UsageError: a pattern that matches no weight, or nothing is left to train.
    """
    if not asks(to):
        return plan
    head = plan.head.weights
    learnable = operated.learnable()
    wanted = set(plan.trainable)
    if to.train or to.train_from is not None:
        wanted = {*head, *_matching("--train", to.train, learnable, source)}
    if to.train_from is not None:
        wanted |= set(operated.parameters()) - _in_front(source, to.train_from)
    wanted -= _matching("--freeze", to.freeze, learnable, source)
    order = [*(name for name in learnable if name not in head), *head]
    trainable = tuple(name for name in order if name in wanted)
    if not trainable:
        raise UsageError(
            "nothing is left to train: the new head is frozen, and so is all else",
            where="--freeze",
            remedy="freeze less, or name with --train what trains",
        )
    return replace(plan, trainable=trainable, stages=_stages(plan, trainable))


def chosen_of_tuned(model: Model, to: Surgery) -> Model:
    """Return a model that goes on with its plan, with what was asked for in it.

    What was trained before and is frozen now is as this very file has it, so that the file takes
    the place of the one it came from.
    """
    if not asks(to):
        return model
    assert model.plan is not None
    plan = choose(model.plan, model, model, to)
    frozen_anew = model.tuned and set(model.trainable) - set(plan.trainable)
    source = model.file_sha256 if frozen_anew else model.source_sha256
    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    envelope.put(proto, envelope.PLAN, plan.as_dict() | {"source_sha256": source})
    return replace(model, proto=proto, plan=plan, source_sha256=source)


def _matching(
    option: str, patterns: Sequence[str], known: Collection[str], source: Model
) -> set[str]:
    """Return the names that patterns match; one that is a name stands for itself."""
    found, without = set(), []
    for pattern in patterns:
        names = {pattern} if pattern in known else _fitting(pattern, known)
        found |= names
        if not names:
            without.append(pattern)
    if without:
        raise UsageError(
            f"no weight matches {', '.join(map(repr, without))}",
            where=option,
            remedy=_meant(without, known, source),
        )
    return found


def _fitting(pattern: str, names: Iterable[str]) -> set[str]:
    """Return the names that match; those of a new head only where the pattern begins like them."""
    own = pattern.startswith(HEAD)
    return {
        name for name in names if fnmatchcase(name, pattern) and (own or not name.startswith(HEAD))
    }


def _meant(without: Sequence[str], known: Collection[str], source: Model) -> str:
    """Say what patterns without a weight may have been meant for."""
    stems = [pattern.strip("*?") for pattern in without]
    near = [one for stem in stems for one in get_close_matches(stem, known, n=3, cutoff=0.3)]
    weights = "weights are " + ", ".join([*dict.fromkeys(near)][:5] or sorted(known)[:5])
    for pattern in without:
        if _fitting(pattern, source.learnable()):
            return f"{pattern!r} matches weights behind the cut, which are dropped; {weights}"
        if kinds := {role for name, role in source.roles().items() if fnmatchcase(name, pattern)}:
            told = "move with the scale and bias of their layer" * ("statistics" in kinds)
            which = f"{' and '.join(sorted(kinds))}, which {told or 'stay'}"
            return f"{pattern!r} matches {which}; {weights}"
    return weights


def _in_front(source: Model, start: str) -> set[str]:
    """Return the initializers that it takes to compute the value at which training begins."""
    if start.startswith("@") and not start.strip("@0."):
        return set()
    anatomy = source.anatomy()
    try:
        tensor = graph_cuts.resolve(anatomy, start)
    except UsageError as error:
        error.where = "--from"
        raise
    makers, waiting, seen = anatomy.links.makers, [tensor], set[str]()
    while waiting:
        value = waiting.pop()
        if value not in seen:
            seen.add(value)
            node = makers.get(value)
            waiting += [] if node is None else reads(node)
    return seen


def _stages(plan: Plan, trainable: tuple[str, ...]) -> tuple[Stage, ...]:
    """Return the stages that train just that: the head solved, where it trains, then all by steps.

    Those that the case decided hold as far as they train what is left.
    """
    head, left = set(plan.head.weights), set(trainable)
    solve, steps = SOLVE_HEAD, TRAIN_ALL
    for stage in plan.stages:
        if stage.trains == "head":
            solve = stage
        elif stage.trains == "all":
            steps = stage
    if not plan.head.solves:
        solve = replace(solve, method="adamw")
    anew = plan.init == "random" and plan.stages and plan.stages[0].trains != "head"
    if left == head:
        return (solve,)
    return (steps,) if anew or not head <= left else (solve, steps)
