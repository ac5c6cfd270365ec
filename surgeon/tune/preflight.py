"""What in a graph will not convert or train: every finding at once, before anything is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.errors import SurgeonError
from surgeon.graph.walk import reads
from surgeon.graph.weights import non_finite
from surgeon.records import Finding
from surgeon.tune.program import build, unconverted

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from onnx import ModelProto, NodeProto

    from surgeon.errors import UnsupportedError


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
    behind = []
    for node in model.graph.node:
        if learning.intersection(reads(node)):
            learning |= {name for name in node.output if name}
            behind.append(node)
    strange = [_not_converted(*one) for one in unconverted(model, behind)]
    if trainable is None and not any(unconverted(model, model.graph.node)):
        strange += _refused(model, roles)
    findings += strange
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


def _refused(model: ModelProto, roles: Mapping[str, str]) -> list[Finding]:
    """Return what converting the whole graph refuses: an option or attribute, not an operator."""
    try:
        build(model, roles)
    except SurgeonError as error:
        where = f" ({error.where})" if error.where else ""
        return [Finding("error", error.kind, error.message + where, error.remedy)]
    return []


def _not_converted(node: NodeProto, version: int | None, error: UnsupportedError) -> Finding:
    return Finding(
        "error",
        "unsupported-operator",
        error.message,
        error.remedy,
        node=node.name or next((name for name in node.output if name), node.op_type),
        operator=node.op_type,
        domain=node.domain or "ai.onnx",
        version=version,
    )


def _not_finite(name: str) -> Finding:
    return Finding(
        "error",
        "not-finite",
        f"initializer {name!r} holds NaN or infinity",
        "the file is damaged, or was exported from a diverged training",
        node=name,
    )
