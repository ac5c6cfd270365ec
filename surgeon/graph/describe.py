"""What a file is, as plain data: the body of `inspect`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from surgeon.graph import envelope
from surgeon.graph.kind import find_kind
from surgeon.graph.schema import opsets, type_name
from surgeon.graph.shapes import declared, input_infos
from surgeon.graph.walk import all_graphs
from surgeon.graph.weights import roles, sizes
from surgeon.records import as_json

if TYPE_CHECKING:
    from onnx import ModelProto

    from surgeon.graph.cuts import Anatomy


def describe(stored: ModelProto, anatomy: Anatomy) -> dict[str, Any]:
    """Return what a model is.

    Args:
        stored: the model as the file has it.
        anatomy: the normalized model, understood.
    """
    model = anatomy.model
    graph = stored.graph
    counts = Counter(
        f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        for inner in all_graphs(graph)
        for node in inner.node
    )
    role = roles(model)
    size = sizes(model)
    axes = anatomy.shapes.batch_axes
    outputs = []
    for value in graph.output:
        kind, shape = declared(value)
        outputs.append(
            {
                "name": value.name,
                "dtype": type_name(kind),
                "shape": None if shape is None else list(shape),
                "batch_axis": axes.get(value.name),
            }
        )
    head = anatomy.head
    labels = envelope.labels(stored, head.classes if head else None)
    found = find_kind(anatomy, None if labels is None else len(labels))
    return {
        "kind": found.name,
        "reason": found.reason,
        "ir_version": stored.ir_version,
        "producer": " ".join(filter(None, [stored.producer_name, stored.producer_version])) or None,
        "opsets": {key or "ai.onnx": version for key, version in opsets(stored).items()},
        "inputs": [as_json(info) for info in input_infos(stored)],
        "outputs": outputs,
        "nodes": len(graph.node),
        "operators": dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        "initializers": len(graph.initializer),
        "parameters": sum(size[name] for name, kind in role.items() if kind == "parameter"),
        "macs": sum(anatomy.work.values()) // anatomy.shapes.batches[0],
        "head": None
        if head is None
        else {
            "form": head.form,
            "input": head.input,
            "weights": list(head.weights),
            "classes": head.classes,
            "activation": head.activation,
        },
        "labels": labels,
        "metadata": envelope.metadata(stored),
        "surgeon": _ours(stored),
    }


def _ours(model: ModelProto) -> dict[str, Any] | None:
    plan = envelope.get(model, envelope.PLAN)
    if plan is None:
        return None
    return {
        "case": plan.get("case") or None,
        "plan": plan,
        "proof": envelope.get(model, envelope.PROOF),
    }
