"""What in a graph will not convert or train: every finding at once, before anything is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.errors import UnsupportedError
from surgeon.graph.schema import opsets
from surgeon.graph.walk import all_graphs, reads
from surgeon.graph.weights import non_finite
from surgeon.ops.registry import lookup
from surgeon.records import Finding

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from onnx import ModelProto, NodeProto


def examine(
    model: ModelProto, trainable: Collection[str] | None, roles: Mapping[str, str]
) -> list[Finding]:
    """Return the findings of a graph.

    Args:
        model: normalized or operated model.
        trainable: names of the initializers that will be trained; only nodes behind the first of
            them must convert. None = all parameters.
        roles: role of every float initializer.
    """
    parameters = [name for name, role in roles.items() if role == "parameter"]
    learning = set(parameters if trainable is None else trainable)
    findings = [_not_finite(name) for name in non_finite(model)]
    versions = opsets(model)
    for node in model.graph.node:
        if not learning.intersection(reads(node)):
            continue
        learning |= {name for name in node.output if name}
        for inner in _with_inner(node):
            finding = _convertible(inner, versions)
            if finding is not None:
                findings.append(finding)
    if trainable is None and not parameters:
        findings.append(
            Finding(
                "warning",
                "nothing-to-train",
                "no weight of this graph receives a gradient",
                "a new head can still be trained on what the graph computes",
            )
        )
    kinds = {node.op_type for node in model.graph.node}
    if "BatchNormalization" not in kinds and "Conv" in kinds:
        findings.append(
            Finding(
                "warning",
                "batch-normalization-folded",
                "the exporter folded BatchNormalization into Conv",
                "training everything needs smaller learning rates; the defaults account for it",
            )
        )
    return findings


def _with_inner(node: NodeProto) -> list[NodeProto]:
    found = [node]
    for item in node.attribute:
        for graph in (item.g, *item.graphs):
            found += [child for inner in all_graphs(graph) for child in inner.node]
    return found


def _convertible(node: NodeProto, versions: Mapping[str, int]) -> Finding | None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = versions.get(domain, 0)
    try:
        lookup(domain, node.op_type, version)
    except UnsupportedError as error:
        return Finding(
            "error",
            "unsupported-operator",
            error.message,
            error.remedy,
            node=node.name or node.output[0],
            operator=node.op_type,
            domain=domain or "ai.onnx",
            version=version or None,
        )
    return None


def _not_finite(name: str) -> Finding:
    return Finding(
        "error",
        "not-finite",
        f"initializer {name!r} holds NaN or infinity",
        "the file is damaged, or was exported from a diverged training",
        node=name,
    )
