"""What a file is made of, part by part, each with a short hash, so that a change has a name.

Of a set of tensors one hash says that something changed; those of its parts say what. What must not
enter: running a graph.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from surgeon.graph import envelope
from surgeon.graph.reading import parse_json
from surgeon.graph.walk import label
from surgeon.graph.weights import hash_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message
    from onnx import ModelProto

DIGITS = 16
"""Hexadecimal digits of a part's hash."""
APART = frozenset({envelope.PLAN, envelope.LABELS, envelope.PREPROCESS, envelope.DECODING})
"""Metadata entries whose own keys are parts."""
KEPT = ("surgeon.", "Image.")
"""How the metadata keys begin that a file must not lose: others are free to be changed."""
LISTED = 5


def parts_of(model: ModelProto, proof: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the hashes of a file's parts, group by group: {group: {part: 16 hex digits}}.

    Labels, nodes and golden inputs have an order, so that their place is the part's name.

    Args:
        model: the file, whose metadata must be in place.
        proof: all else that its proof says.
    """
    graph, kept = model.graph, _texts(model)
    nodes = {str(place): _of(node) for place, node in enumerate(graph.node)}
    ends = {
        f"{what} {value.name!r}": _of(value)
        for what, values in (("input", graph.input), ("output", graph.output))
        for value in values
    }
    opsets = {
        f"opset of {one.domain or 'ai.onnx'!r}": _json(one.version) for one in model.opset_import
    }
    local = {f"function {one.domain}::{one.name}": _of(one) for one in model.functions}
    sparse = {f"sparse {one.values.name!r}": _of(one) for one in graph.sparse_initializer}
    golden = proof.get("golden")
    entries = golden if isinstance(golden, list) else [golden]
    stated = {key: _json(item) for key, item in proof.items() if key not in ("parts", "golden")}
    return {
        "tensors": {t.name: hash_tensors([t])[:DIGITS] for t in graph.initializer},
        "nodes": nodes,
        "graph": ends | opsets | local | sparse,
        "labels": _keys(kept.get(envelope.LABELS)),
        "preprocess": _keys(kept.get(envelope.PREPROCESS)),
        "plan": _keys(kept.get(envelope.PLAN)),
        "decoding": _keys(kept.get(envelope.DECODING)),
        "metadata": {
            key: _json(_read(text))
            for key, text in kept.items()
            if key not in APART and key != envelope.PROOF
        },
        "proof": stated | {f"golden {place}": _json(one) for place, one in enumerate(entries)},
    }


def as_document(parts: Mapping[str, dict[str, str]]) -> dict[str, Any]:
    """Return parts as a proof states them: what has an order is a list."""
    return {
        group: list(found.values()) if group in ("labels", "nodes") else found
        for group, found in parts.items()
    }


def moved(carried: Mapping[str, str], stated: Any) -> dict[str, str]:
    """Return the parts that are not as a proof states them: {part: changed | added | removed}."""
    if isinstance(stated, list):
        stated = {str(place): digits for place, digits in enumerate(stated)}
    known = stated if isinstance(stated, dict) else {}
    found = {name: "changed" for name in carried if name in known and carried[name] != known[name]}
    found |= {name: "added" for name in carried if name not in known}
    return found | {str(name): "removed" for name in known if name not in carried}


def doubled(model: ModelProto) -> list[str]:
    """Return the metadata keys that stand in a file twice: who reads it takes one or the other."""
    keys = [entry.key for entry in model.metadata_props]
    return [key for key in dict.fromkeys(keys) if keys.count(key) > 1]


def named(group: str, found: Mapping[str, str], model: ModelProto) -> str | None:
    """Say in words which parts of a group are not as stated; None where all are."""
    if not found:
        return None
    labels = envelope.labels(model) if group == "labels" else None
    words: dict[str, list[str]] = {}
    for name, how in found.items():
        words.setdefault(how, []).append(_shown(group, name, labels, model))
    told = []
    for how, names in words.items():
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        told.append(f"{how}: {', '.join(names[:LISTED])}{more}")
    return "; ".join(told)


def _shown(group: str, name: str, labels: list[str] | None, model: ModelProto) -> str:
    place = int(name) if group in ("labels", "nodes") and name.isdigit() else None
    if place is None:
        return name if group == "graph" else repr(name)
    if group == "nodes":
        nodes = model.graph.node
        return label(nodes[place]) if place < len(nodes) else f"node {place}"
    said = labels[place] if labels is not None and place < len(labels) else None
    return f"label {place}" if said is None else f"label {place} ({said!r})"


def _texts(model: ModelProto) -> dict[str, str]:
    found = envelope.metadata(model)
    return {key: text for key, text in found.items() if key.startswith(KEPT)}


def _keys(text: str | None) -> dict[str, str]:
    """Return the hash of each key of an object, of each place of a list, or of all there is."""
    if text is None:
        return {}
    value = _read(text)
    if isinstance(value, dict):
        return _leaves(value)
    if isinstance(value, list):
        return {str(place): _json(item) for place, item in enumerate(value)}
    return {"all of it": _json(value)}


def _leaves(value: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Return the hashes of what stands in an object, by keys with dots: {"head.kind": …}."""
    found: dict[str, str] = {}
    for key, item in value.items():
        name = before + (json.dumps(key) if "." in key else key)
        inner = isinstance(item, dict) and item
        found |= _leaves(item, f"{name}.") if inner else {name: _json(item)}
    return found


def _read(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _of(message: Message) -> str:
    content = message.SerializeToString(deterministic=True)
    return hashlib.sha256(content).hexdigest()[:DIGITS]
