"""What surrounds a graph: metadata entries, labels, preprocessing, the structure hash.

Everything a file carries besides nodes and weights is kept as it is; our own entries are JSON under
`surgeon.*` keys.
"""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from surgeon.errors import ModelError
from surgeon.graph.reading import parse_json
from surgeon.graph.weights import head_weights
from surgeon.records import Plan

if TYPE_CHECKING:
    from onnx import ModelProto

PLAN, LABELS, PREPROCESS, PROOF, ADVICE, DECODING, STATISTICS = (
    "surgeon.plan",
    "surgeon.labels",
    "surgeon.preprocess",
    "surgeon.proof",
    "surgeon.advice",
    "surgeon.decoding",
    "surgeon.statistics",
)
KINDS = {
    PLAN: dict, LABELS: list, PREPROCESS: dict | str, PROOF: dict, DECODING: dict, STATISTICS: dict,
}  # fmt: skip
LABEL_KEYS = (LABELS, "labels", "classes", "class_names", "names", "id2label", "label_names")
"""Metadata keys under which exporters leave class names; ours first."""


def metadata(model: ModelProto) -> dict[str, str]:
    """Return the model's metadata entries."""
    return {entry.key: entry.value for entry in model.metadata_props}


def put(model: ModelProto, key: str, value: Any) -> None:
    """Set a metadata entry to JSON, in place; None removes it."""
    text = None if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)
    put_text(model, key, text)


def put_text(model: ModelProto, key: str, text: str | None) -> None:
    """Set a metadata entry to a text, in place; None removes it."""
    for index in reversed(range(len(model.metadata_props))):
        if model.metadata_props[index].key == key:
            del model.metadata_props[index]
    if text is not None:
        model.metadata_props.add(key=key, value=text)


def get(model: ModelProto, key: str) -> Any:
    """Return a JSON metadata entry, or None where it is absent.

    Raises:
        ModelError: the entry is no JSON, or not of the form we write.
    """
    text = metadata(model).get(key)
    if text is None:
        return None
    try:
        found = parse_json(text)
    except ValueError as error:
        raise _damaged(key, "is not JSON") from error
    if found is not None and not isinstance(found, KINDS.get(key, object)):
        raise _damaged(key, f"is a {type(found).__name__}")
    if isinstance(found, list) and not all(isinstance(label, str) for label in found):
        raise _damaged(key, "holds labels that are no text")
    return found


def _damaged(key: str, what: str) -> ModelError:
    return ModelError(
        f"metadata entry {key!r} {what}",
        where=f"metadata {key!r}",
        remedy="the file was edited by another tool; operate on the original again",
    )


def plan(model: ModelProto) -> Plan | None:
    """Return the plan a file carries, or None.

    Raises:
        ModelError: the entry does not hold a plan.
    """
    document = get(model, PLAN)
    if document is None:
        return None
    try:
        found = Plan.from_dict(document)
    except (TypeError, ValueError) as error:
        raise _damaged(PLAN, f"holds no plan: {error}") from error
    names = [found.trainable] if isinstance(found.trainable, str) else found.trainable
    texts = isinstance(names, tuple | list) and all(isinstance(name, str) for name in names)
    classes = found.classes is None or isinstance(found.classes, int)
    if not (texts and classes and isinstance(found.case, str)):
        raise _damaged(PLAN, "holds no plan")
    weights = found.head.weights or head_weights(model)
    return replace(found, head=replace(found.head, weights=weights))


def headed_at(model: ModelProto) -> str | None:
    """Return the value that a file's head reads by its plan, as long as both are there."""
    found = plan(model)
    weights = () if found is None else found.head.weights
    made = {name for node in model.graph.node for name in node.output if name}
    if not weights or not {t.name for t in model.graph.initializer}.issuperset(weights):
        return None
    return found.cut if found is not None and found.cut in made else None


def labels(model: ModelProto, count: int | None = None) -> list[str] | None:
    """Return the class names a file carries, by our key or those that exporters use.

    A foreign list counts only if its length is the number of classes.
    """
    entries = metadata(model)
    for key in LABEL_KEYS:
        if key not in entries:
            continue
        names = _names(entries[key])
        if names and (key == LABELS or count is None or len(names) == count):
            return names
    return None


COUNT_KEYS = ("nc", "num_classes", "num_labels", "classes")
"""Metadata keys under which exporters leave how many classes there are."""


def relabel(model: ModelProto, labels: list[str]) -> list[str]:
    """Put new class names in place of those an exporter left, in place, in the exporter's form.

    An entry whose form is not known is removed. Returns what was done, for people.
    """
    told: list[str] = []
    for key, text in metadata(model).items():
        if key == LABELS or key not in (*LABEL_KEYS, *COUNT_KEYS, "label2id"):
            continue
        new = _renamed(key, text, labels)
        if new == text or _names(text) == labels:
            continue
        for index in reversed(range(len(model.metadata_props))):
            entry = model.metadata_props[index]
            if entry.key != key:
                continue
            if new is None:
                del model.metadata_props[index]
            else:
                entry.value = new
        done = "removed: its form is not known" if new is None else "replaced by the new ones"
        told.append(f"metadata {key!r} held the old classes and was {done}")
    return told


def _renamed(key: str, text: str, labels: list[str]) -> str | None:
    """Return the new labels as an entry of the old one's form, or None where that is not known."""
    loads: tuple[tuple[Any, Any], ...] = ((json.loads, json.dumps), (ast.literal_eval, repr))
    for read, write in loads:
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, int) and key in COUNT_KEYS:
            return str(write(len(labels)))
        if isinstance(found, list | tuple):
            return str(write(type(found)(labels)))
        if not isinstance(found, dict):
            return None
        if key == "label2id":
            return str(write({label: code for code, label in enumerate(labels)}))
        as_text = any(isinstance(code, str) for code in found)
        return str(write({str(c) if as_text else c: label for c, label in enumerate(labels)}))
    for mark in ("\n", ","):
        if mark in text.strip():
            return None if any(mark in label for label in labels) else mark.join(labels)
    return None


def _names(text: str) -> list[str] | None:
    try:
        found = parse_json(text)
    except ValueError:
        try:
            found = ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return None  # nested too deeply, among others
    if isinstance(found, dict):
        try:
            found = [found[key] for key in sorted(found, key=int)]
        except (ValueError, TypeError):
            return None
    if isinstance(found, list | tuple) and all(isinstance(name, str | int) for name in found):
        return [str(name) for name in found]
    return None


def structure_hash(model: ModelProto) -> str:
    """Return the sha256 over all NodeProtos in order, the inputs, the outputs and the opsets.

    Each message is serialized deterministically and preceded by its length (little-endian, eight
    bytes); opsets go by domain.
    """
    digest = hashlib.sha256()
    opsets = sorted(model.opset_import, key=lambda item: item.domain)
    graph = model.graph
    for group in (graph.node, graph.input, graph.output, opsets):
        digest.update(len(group).to_bytes(8, "little"))
        for message in group:
            content = message.SerializeToString(deterministic=True)
            digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """Return the sha256 of a value's JSON (sorted keys, no blanks, utf-8)."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
