"""A head in place: the file's own last layers are given other sizes, and nothing is cut.

The code of such a head comes from anyone: what it gives back is compared with what it was given.
What must not enter: which layers those are.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from surgeon.errors import PluginError, SurgeonError, UsageError
from surgeon.graph.walk import FLOATS
from surgeon.graph.weights import same_values
from surgeon.records import Refitted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgeon.graph.cuts import Anatomy
    from surgeon.graph.nodes import HeadCode
    from surgeon.options import Surgery
    from surgeon.records import Plan

ASKED = ("model", "outputs", "random")
"""What the code of every head in place is called with."""


def require_whole(anatomy: Anatomy, plan: Plan, to: Surgery) -> str:
    """Return the output that the graph keeps: a head in place allows of no cut.

    Raises:
        UsageError: a cut or taps are asked for, or the case cuts early.
    """
    early = plan.cut not in (None, "late", anatomy.late)
    if to.cut is not None or early or plan.head.taps:
        what = f"case {plan.case!r} cuts early" if to.cut is None and early else "a cut is given"
        raise UsageError(
            f"{what}, and the head {plan.head.kind!r} stays where it is in the file",
            where="--cut" if to.cut is not None else f"--case {plan.case}",
            remedy="leave --cut out, and give --case small-similar (the head only), large-similar "
            "or large-different (everything)",
        )
    return anatomy.output


def refit(anatomy: Anatomy, plan: Plan, code: HeadCode, outputs: int, seed: int) -> Refitted:
    """Let the code of a head give the file's last layers other sizes.

    Outputs beside the one that is read are left out.

    Args:
        anatomy: of the graph.
        plan: names the head and its settings.
        code: of its kind.
        outputs: how many names the answers have.
        seed: of the first weights.

    Returns:
        What the code gave.

    Raises:
        SurgeonError: the code does not know the form of the file.
        PluginError: it gives back something else than was asked for.
    """
    model = onnx.ModelProto()
    model.CopyFrom(anatomy.model)
    kept = [value for value in model.graph.output if value.name == anatomy.output]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    del model.graph.value_info[:]
    random = np.random.Generator(np.random.PCG64(seed))
    where = f"head {plan.head.kind!r}"
    more = _beside(code, {"sizes": {k: v[1] for k, v in anatomy.shapes.one.items()}}, where)
    try:
        made = code.build(model, outputs, random, *more, **plan.head.options)
    except SurgeonError:
        raise
    except Exception as error:
        raise _wrong(f"it failed: {type(error).__name__}: {error}", where) from error
    if not isinstance(made, Refitted) or not isinstance(made.model, onnx.ModelProto):
        raise _wrong(f"it gave a {type(made).__name__}, not a Refitted", where)
    _compare(anatomy.model, made, where)
    return made


def _beside(code: HeadCode, given: Mapping[str, Any], where: str) -> list[Any]:
    """Return what the code asks for behind what all are called with."""
    found = inspect.signature(code.build).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [one.name for one in found if one.kind in kinds][len(ASKED) :]
    for name in names:
        if name not in given:
            raise _wrong(f"it asks for {name!r}; there are {', '.join(given)}", where)
    return [given[name] for name in names]


def _compare(before: onnx.ModelProto, made: Refitted, where: str) -> None:
    """Make sure that nodes stay, and that no weight changed but those that were drawn anew.

    Raises:
        PluginError: says what else did.
    """
    after, weights = made.model, set(made.weights)
    if [n.op_type for n in before.graph.node] != [n.op_type for n in after.graph.node]:
        raise _wrong("the nodes are not those of the file", where)
    if [v.name for v in after.graph.output] not in ([v.name] for v in before.graph.output):
        raise _wrong("the outputs are not those of the file", where)
    floats = {t.name for t in after.graph.initializer if t.data_type in FLOATS}
    if not weights or not weights <= floats:
        raise _wrong(f"there are no weights {sorted(weights - floats)}", where)
    there = {t.name: t for t in after.graph.initializer}
    moved = [
        one.name
        for one in before.graph.initializer
        if one.data_type in FLOATS and one.name not in weights
        and not (one.name in there and same_values(one, there[one.name]))
    ]  # fmt: skip
    if moved:
        raise _wrong(f"it changed {', '.join(sorted(moved))}, which it does not name", where)


def _wrong(what: str, where: str) -> PluginError:
    return PluginError(
        f"the code of the head cannot be used: {what}",
        where=where,
        remedy="this is an error in the plugin that offers it; see surgeon.records.HeadKind",
    )
