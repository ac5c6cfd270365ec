"""LoRA beside weights of a few bits that are multiplied as they are stored: nodes of the file.

QLoRA (Dettmers et al. 2023, arXiv 2305.14314). Nothing can be folded into a MatMulNBits: its
numbers have too few steps for a small change. What must not enter: weights that `lora` folds into.
"""

from __future__ import annotations

import hashlib
import math
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from surgeon.errors import UsageError
from surgeon.plugin.settings import Within
from surgeon.records import Rewritten

if TYPE_CHECKING:
    from collections.abc import Sequence

OPERATOR, BEGIN = "MatMulNBits", "surgeon.lora"
WHERE = "--adapter qlora"
LISTED = 12


def beside(
    model: ModelProto,
    feeds: Any,  # noqa: ARG001 - nothing is measured
    trainable: Sequence[str],
    head: Sequence[str],
    *,
    rank: Annotated[int, Within(1)] = 8,
    alpha: Annotated[float, Within(0)] = 16.0,
    rs: bool = False,
    targets: str = "*",
) -> Rewritten:
    """Add two thin MatMul beside each MatMulNBits; they and the new head alone learn.

    Args:
        model: the operated file.
        feeds: its samples.
        trainable: what would train without it.
        head: the new head's initializers.
        rank: of the product, at most the weight's smaller side.
        alpha: the product is scaled by alpha ÷ rank.
        rs: scale by alpha ÷ √rank.
        targets: patterns of weights or nodes, `|` between them.

    Raises:
        UsageError: there is no such node, or none that matches; or it has been done already.
    """
    done = ModelProto()
    done.CopyFrom(model)
    if any(one.name.startswith(BEGIN) for one in model.graph.initializer):
        raise UsageError(
            "the file has thin matrices beside its weights already",
            where=WHERE,
            remedy="go on with it without --adapter: they learn",
        )
    found, patterns = _found(model), [one.strip() for one in targets.split("|")]
    chosen = [
        node for node in found
        if any(fnmatchcase(said, one) for said in (node.name, node.input[1]) for one in patterns)
    ]  # fmt: skip
    if not chosen:
        raise UsageError(
            f"no {OPERATOR} matches {targets!r}" if found else f"the file has no {OPERATOR}",
            where=WHERE,
            remedy=f"targets is a pattern of {_listed(found)}"
            if found
            else "--adapter lora folds into every other weight",
        )
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    scale, added = alpha / (math.sqrt(rank) if rs else rank), []
    by: dict[str, list[str]] = {name: [] for name in trainable if name not in head}
    for node in chosen:
        dtype = numpy_helper.to_array(stored[node.input[2]]).dtype
        pair = _pair(node, min(rank, *_sides(node)), scale, dtype)
        added += pair
        place = next(at for at, one in enumerate(done.graph.node) if one == node)
        _put_beside(done, place, [one.name for one in pair])
    done.graph.initializer.extend(added)
    learn = [one.name for one in added if not one.name.endswith("scale")]
    few = sum(math.prod(one.dims) for one in added if one.name in learn)
    note = (
        f"qlora: {few:,} numbers learn in nodes of their own beside {len(chosen)} {OPERATOR}; "
        "they are delivered, as nothing can be folded into weights of so few bits"
    )
    return Rewritten(done, by, also=learn, notes=(note,))


def _found(model: ModelProto) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type == OPERATOR]


def _sides(node: NodeProto) -> tuple[int, int]:
    said = {one.name: one.i for one in node.attribute}
    return said["K"], said["N"]


def _pair(node: NodeProto, rank: int, scale: float, dtype: Any) -> list[Any]:
    """Return the first and the second matrix, and the scale between them, as initializers."""
    inputs, outputs = _sides(node)
    name = f"{BEGIN}.{node.output[0]}"
    random = np.random.default_rng(
        int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
    )
    most = 1 / math.sqrt(inputs)  # what torch draws for `a=√5`, as LoRA's authors do
    values = {
        "A": random.uniform(-most, most, (inputs, rank)),
        "B": np.zeros((rank, outputs)),
        "scale": np.array(scale),
    }
    return [numpy_helper.from_array(one.astype(dtype), f"{name}.{key}")
            for key, one in values.items()]  # fmt: skip


def _put_beside(model: ModelProto, place: int, names: Sequence[str]) -> None:
    """Add the product of a node's input with two matrices to what the node makes."""
    node, (first, second, scale) = model.graph.node[place], names
    made, stem = node.output[0], first.rpartition(".")[0]
    node.output[0] = f"{stem}/packed"
    lines = (
        ("MatMul", (node.input[0], first), f"{stem}/thin"),
        ("Mul", (f"{stem}/thin", scale), f"{stem}/scaled"),
        ("MatMul", (f"{stem}/scaled", second), f"{stem}/wide"),
        ("Add", (node.output[0], f"{stem}/wide"), made),
    )
    for step, (operator, given, output) in enumerate(lines, 1):
        one = helper.make_node(operator, given, [output], name=f"{stem}/{step}")
        model.graph.node.insert(place + step, one)


def _listed(found: Sequence[NodeProto]) -> str:
    said = [f"{node.input[1]} ({node.name or node.output[0]})" for node in found[:LISTED]]
    return ", ".join(said) + (f" and {len(found) - LISTED} more" if len(found) > LISTED else "")
