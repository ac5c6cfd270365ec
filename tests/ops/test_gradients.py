"""Gradients in double precision against finite differences, on every differentiable sample."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from differentiable import IN_A_GRAPH, SINGLE, WITHOUT, learned
from onnx import TensorProto, numpy_helper, parser
from samples import Maybe
from test_against_runtime import model_of
from versions import every, version

from surgeon.ops.registry import coverage
from surgeon.torch_graph.module import to_module

if TYPE_CHECKING:
    from samples import Sample

CHECKED = [sample for sample in every() if learned(sample)]
ONE_BY_ONE = 400  # elements
FACTORS = {"Resize", "Upsample"}  # their scales stay in float32


def doubled(value: Any) -> Any:
    if isinstance(value, Maybe):
        return Maybe(doubled(value.value))
    if isinstance(value, list):
        return [doubled(item) for item in value]
    real = isinstance(value, np.ndarray) and value.dtype == np.float32
    return value.astype(np.float64) if real else value


def graph_doubled(graph: onnx.GraphProto) -> onnx.GraphProto:
    """Return a subgraph with double where it had float."""
    made = onnx.GraphProto.FromString(graph.SerializeToString())
    for info in (*made.input, *made.output, *made.value_info):
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in made.node:
        for attribute in node.attribute:
            if attribute.t.data_type == TensorProto.FLOAT:
                array = numpy_helper.to_array(attribute.t).astype(np.float64)
                attribute.t.CopyFrom(numpy_helper.from_array(array))
    return made


def in_double(sample: Sample) -> Sample:
    inputs = tuple(
        value if number and sample.op in FACTORS else doubled(value)
        for number, value in enumerate(sample.inputs)
    )
    attributes = {
        name: graph_doubled(value) if isinstance(value, onnx.GraphProto) else value
        for name, value in sample.attributes.items()
    }
    return replace(sample, inputs=inputs, attributes=attributes)


def tensors(values: Any) -> list[torch.Tensor]:
    """Flatten nested sequences."""
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in tensors(value)]
    return [values] if isinstance(values, torch.Tensor) else []


@pytest.mark.parametrize("sample", CHECKED, ids=[s.name for s in CHECKED])
def test_gradient_is_right(sample: Sample) -> None:
    sample = in_double(sample)
    model, _ = model_of(sample)
    module = to_module(model, roles={})
    positions = [
        n for n, v in enumerate(sample.inputs) if v is not None and n not in sample.constant
    ]
    wanted = learned(sample)

    def as_tensors(value: Any) -> Any:
        if isinstance(value, list):
            return [as_tensors(item) for item in value]
        return torch.from_numpy(value.value if isinstance(value, Maybe) else value)

    values = {n: as_tensors(sample.inputs[n]) for n in positions}
    leaves = [tensor.requires_grad_() for n in wanted for tensor in tensors(values[n])]

    def function(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rest = iter(given)
        arguments = [
            ([next(rest) for _ in value] if isinstance(value, list) else next(rest))
            if n in wanted
            else value
            for n, value in values.items()
        ]
        return tuple(v for v in tensors(module(*arguments)) if v.requires_grad)

    assert function(*leaves), "no gradient flows"
    # All directions one by one where there are few, one random direction else.
    fast = sum(leaf.numel() for leaf in leaves) > ONE_BY_ONE
    coarse = {"eps": 1e-2, "atol": 1e-2, "rtol": 1e-2} if sample.op in SINGLE else {"atol": 1e-4}
    assert torch.autograd.gradcheck(function, leaves, fast_mode=fast, **coarse)


def graph_of(text: str, version: int, domain: str = "") -> torch.nn.Module:
    opsets = f'["" : {17 if domain else version}' + (
        f', "{domain}" : {version}]' if domain else "]"
    )
    model = parser.parse_model(f"<ir_version: 8, opset_import: {opsets}> {text}")
    return to_module(model, roles={})


BRANCHES = """g (bool c, double[3] x) => (double[3] y) {
    y = If (c) <then_branch = t () => (double[3] a) { a = Mul(x, x) },
                else_branch = e () => (double[3] b) { b = Tanh(x) }>
}"""
DERIVATIVE = """g (double[3] x, double[3] w) => (double[3] d) {
    s = Mul(x, w)
    y = Tanh(s)
    d = ai.onnx.preview.training.Gradient <xs = ["x"], y = "y", zs = ["w"]> (x, w)
}"""


@pytest.mark.parametrize("since", [v for _, name, v in IN_A_GRAPH if name == "If"])
@pytest.mark.parametrize("chosen", [True, False])
def test_the_chosen_branch_has_its_gradient(since: int, chosen: bool) -> None:
    module = graph_of(BRANCHES, max(since, 7))  # below 7, Mul does not broadcast
    x = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: module(torch.tensor(chosen), x), [x])


def test_a_gradient_has_a_gradient() -> None:
    module = graph_of(DERIVATIVE, 1, "ai.onnx.preview.training")
    values = [torch.rand(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(module, values)


def test_every_version_has_its_gradient_checked_or_a_reason() -> None:
    checked = {version(sample) for sample in CHECKED} | set(IN_A_GRAPH)
    reasons = " ".join(WITHOUT.values()).split()
    open_ = {
        (line.domain, line.name, line.version)
        for line in coverage()
        if (line.domain, line.name, line.version) not in checked
        and not {line.name, f"{line.domain}::{line.name}"} & set(reasons)
    }
    assert open_ == set()
    known = {name for line in coverage() for name in (line.name, f"{line.domain}::{line.name}")}
    assert [name for name in reasons if name not in known] == []
