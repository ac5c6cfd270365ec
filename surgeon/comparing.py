"""Two files side by side: which weights moved and how far, which nodes came and went.

::

    found = surgeon.diff("model.onnx", "tuned.onnx")
    [one["name"] for one in found["tensors"] if one["changed"]]

One tensor at a time is read, a piece of it at a time where it lies in a file of its own, so that
memory is that of the largest. What must not enter: running a graph.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.graph import envelope
from surgeon.graph.shapes import input_infos, output_infos
from surgeon.graph.walk import label, reads
from surgeon.graph.weights import initializers, same_values, to_array, tuned_names
from surgeon.model import Model, load
from surgeon.records import as_json

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    import onnx
    from numpy.typing import NDArray

    Source = str | os.PathLike[str] | onnx.ModelProto | Model

PIECE = 1 << 22
"""Elements that are compared at a time."""
FAR = ("max_difference", "relative", "distance")
BLOCKS = 24
"""Blocks there are at most, where names tell some."""


def diff(a: Source, b: Source) -> dict[str, Any]:
    """Compare two files: structure, weights by name, metadata.

    Both are brought to normal form first, so that a weight has the name by which it is trained.

    Args:
        a: path, ModelProto or Model: the file before.
        b: the file after.

    Returns:
        The body of the document. `same_structure`: the same nodes (their names and remarks left
        aside), inputs, outputs, opsets, and weights of the same names, types and shapes. `tensors`
        in the order in which `b` reads them; those that only one has are `changed`, too.

    Raises:
        ModelError: a file is none that can be read.
    """
    one, other = load(a, hashed=False), load(b, hashed=False)
    added, removed = _nodes(one.proto, other.proto)
    ends = _ends(one.proto, other.proto)
    tensors = _tensors(one, other)
    alike = all(row["only"] is None and row["other"] is None for row in tensors)
    return {
        "a": one.where,
        "b": other.where,
        "same_structure": not (added or removed or ends) and alike,
        "same": not (added or removed or ends) and not any(row["changed"] for row in tensors)
        and not _metadata(one, other),
        "nodes": {"added": added, "removed": removed},
        "graph": ends,
        "tensors": tensors,
        "metadata": _metadata(one, other),
        "warnings": [],
    }  # fmt: skip


def _nodes(a: onnx.ModelProto, b: onnx.ModelProto) -> tuple[list[str], list[str]]:
    """Return the nodes that only the second has, and those that only the first has."""
    counts = [Counter(map(meaning, model.graph.node)) for model in (a, b)]
    found = []
    for model, more in ((b, counts[1] - counts[0]), (a, counts[0] - counts[1])):
        names = []
        for node in model.graph.node:
            if more[meaning(node)]:
                more[meaning(node)] -= 1
                names.append(label(node))
        found.append(names)
    return found[0], found[1]


def meaning(node: onnx.NodeProto) -> bytes:
    """Return a node without name and remarks."""
    bare = type(node)()
    bare.CopyFrom(node)
    for remark in ("name", "doc_string", "metadata_props"):
        bare.ClearField(remark)
    return bytes(bare.SerializeToString(deterministic=True))


def _ends(a: onnx.ModelProto, b: onnx.ModelProto) -> list[dict[str, Any]]:
    """Return the inputs, outputs and opsets in which two graphs differ: {what, a, b}."""
    told = []
    for model in (a, b):
        said: dict[str, str] = {}
        for what, infos in (("input", input_infos(model)), ("output", output_infos(model))):
            for info in infos:
                shape = "unknown" if info.shape is None else list(info.shape)
                said[f"{what} {info.name!r}"] = f"{info.dtype} {shape}"
        for opset in model.opset_import:
            said[f"opset of {opset.domain or 'ai.onnx'!r}"] = str(opset.version)
        told.append(said)
    names = dict.fromkeys([*told[0], *told[1]])
    return [
        {"what": name, "a": told[0].get(name), "b": told[1].get(name)}
        for name in names
        if told[0].get(name) != told[1].get(name)
    ]


def _metadata(one: Model, other: Model) -> list[dict[str, str | None]]:
    """Return the entries that differ, as they stand: {key, a, b}."""
    a, b = (envelope.metadata(model.stored or model.proto) for model in (one, other))
    return [
        {"key": key, "a": a.get(key), "b": b.get(key)}
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def _tensors(one: Model, other: Model) -> list[dict[str, Any]]:
    """Return how far each tensor moved, in the order of the second graph, then what it lacks."""
    a, b = initializers(one.proto), initializers(other.proto)
    order = list(dict.fromkeys([*_order(other.proto), *_order(one.proto)]))
    blocks = blocks_of(order, _scopes(one.proto) | _scopes(other.proto))
    plan = other.plan
    trained = None if plan is None else set(tuned_names(other.proto, plan.trainable))
    return [
        {
            "name": name,
            "block": blocks[name],
            **_moved(a.get(name), b.get(name)),
            "trained": None if trained is None or name not in b else name in trained,
        }
        for name in order
    ]


def _order(model: onnx.ModelProto) -> Iterable[str]:
    """Yield the initializers as nodes read them, then those that none does."""
    stored = initializers(model)
    yield from dict.fromkeys(
        name for node in model.graph.node for name in reads(node) if name in stored
    )
    yield from stored


def _moved(a: onnx.TensorProto | None, b: onnx.TensorProto | None) -> dict[str, Any]:
    """Say how two tensors of one name differ."""
    told: dict[str, Any] = dict.fromkeys((*FAR, "other", "only"))
    shown = a if b is None else b
    assert shown is not None
    told |= {"shape": list(shown.dims), "dtype": _kind(shown)}
    if a is None or b is None:
        return told | {"changed": True, "only": "a" if b is None else "b"}
    if same_values(a, b):
        return told | {"changed": False, **dict.fromkeys(FAR, 0.0)}
    if list(a.dims) != list(b.dims) or a.data_type != b.data_type:
        told["other"] = {"shape": list(a.dims), "dtype": _kind(a)}
    if list(a.dims) != list(b.dims) or "STRING" in (_kind(a), _kind(b)):
        return told | {"changed": True}
    far: dict[str, Any] = as_json(_distance(to_array(a), to_array(b)))
    return told | {"changed": True} | far


def _kind(tensor: onnx.TensorProto) -> str:
    return str(type(tensor).DataType.Name(tensor.data_type))


def _distance(a: NDArray[Any], b: NDArray[Any]) -> dict[str, float]:
    """Return the largest difference, the same relative to the largest of `a`, and |b − a| / |a|.

    The last by the Euclidean norm. Where one of two values is finite they are infinitely apart.
    """
    furthest = largest = moved = size = 0.0
    left, right = a.reshape(-1), b.reshape(-1)
    for start in range(0, left.size, PIECE):
        x, y = (np.asarray(one[start : start + PIECE]).astype(np.float64) for one in (left, right))
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(y - x))
        apart[np.isnan(apart)] = np.inf
        known = x[np.isfinite(x)]
        furthest = max(furthest, float(apart.max(initial=0.0)))
        largest = max(largest, float(np.abs(known).max(initial=0.0)))
        moved, size = moved + float(apart @ apart), size + float(known @ known)
    return {
        "max_difference": furthest,
        "relative": furthest / max(largest, 1e-6),
        "distance": math.sqrt(moved) / max(math.sqrt(size), 1e-6),
    }


def _scopes(model: onnx.ModelProto) -> dict[str, str]:
    """Return where a weight belongs whose own name does not say it: the node that reads it."""
    found: dict[str, str] = {}
    for node in model.graph.node:
        for name in reads(node):
            if node.name and not re.search(r"[./]", name):
                found.setdefault(name, node.name.strip("/"))
    return found


def blocks_of(names: Sequence[str], scopes: dict[str, str]) -> dict[str, str]:
    """Return {tensor: block}: as many leading parts of the names as make `BLOCKS` at most."""
    parts = {
        name: [part for part in re.split(r"[./]", scopes.get(name, name)) if part] or [name]
        for name in names
    }
    found: dict[str, str] = {}
    for depth in range(1, max(map(len, parts.values()), default=1) + 1):
        deeper = {
            name: ".".join(told[: min(depth, max(len(told) - 1, 1))])
            for name, told in parts.items()
        }
        if found and len(set(deeper.values())) > BLOCKS:
            break
        found = deeper
    return found


__all__ = ["blocks_of", "diff", "meaning"]
