"""What in a graph will not convert or train: every finding at once, before anything is run."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Final

from surgeon.errors import SurgeonError
from surgeon.graph.quantized_weights import INTEGERS
from surgeon.graph.walk import all_graphs, reads
from surgeon.graph.weights import non_finite, quantized_weights
from surgeon.records import Finding
from surgeon.torch_graph.build import build, carried
from surgeon.torch_graph.coverage import unconverted

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from onnx import ModelProto, NodeProto

    from surgeon.errors import UnsupportedError


_PRODUCTS: Final = frozenset(
    {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "QGemm", "QAttention"}
)  # fmt: skip


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
    quantised = quantized_weights(model)
    parameters = [name for name, role in roles.items() if role == "parameter"] + list(quantised)
    learning = set(parameters if trainable is None else trainable)
    findings = [_not_finite(name) for name in non_finite(model)]
    behind = []
    for node in model.graph.node:
        if learning.intersection(reads(node)):
            learning |= {name for name in node.output if name}
            behind.append(node)
    strange = [_not_converted(*one) for one in unconverted(model, behind)]
    if trainable is None and not any(unconverted(model, model.graph.node)):
        strange += _refused(model, roles, quantised)
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
    fixed = _integer_products(model)
    if fixed:
        names = ", ".join(sorted({node.op_type for node in fixed}))
        findings.append(
            Finding(
                "warning",
                "integer-products",
                f"{len(fixed)} nodes compute with integer weights ({names}): no gradient passes "
                "them, and what lies in front of them keeps its weights",
                "train a head, or quantise to QuantizeLinear and DequantizeLinear (QDQ) instead",
            )
        )
    passing = carried(model.graph)
    ends = [n for n in behind if n.op_type == "QuantizeLinear" and n.output[0] not in passing]
    if ends:
        findings.append(
            Finding(
                "warning",
                "gradient-ends",
                f"behind {len(ends)} QuantizeLinear nodes an operator takes integers: no gradient "
                "passes, and weights in front of them stay as they are",
                "quantise to QuantizeLinear and DequantizeLinear (QDQ) around float operators",
                node=ends[-1].name or ends[-1].output[0],
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


def _integer_products(model: ModelProto) -> list[NodeProto]:
    """Return the nodes that multiply by integer initializers themselves."""
    weights = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type in INTEGERS and prod(tensor.dims) > 1
    }
    return [
        node
        for graph in all_graphs(model.graph)
        for node in graph.node
        if node.op_type in _PRODUCTS and weights.intersection(node.input)
    ]


def _refused(
    model: ModelProto, roles: Mapping[str, str], quantised: Collection[str]
) -> list[Finding]:
    """Return what converting the whole graph refuses: an option or attribute, not an operator."""
    try:
        build(model, roles, quantised)
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
