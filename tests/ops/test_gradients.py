"""Gradients in double precision against finite differences, on every differentiable sample."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from differentiable import learned
from onnx import TensorProto, numpy_helper
from test_against_runtime import model_of
from versions import every

from surgeon.tune.module import to_module

if TYPE_CHECKING:
    from samples import Sample

CHECKED = [sample for sample in every() if learned(sample)]
FACTORS = {"Resize", "Upsample"}  # their scales stay in float32


def doubled(value: Any) -> Any:
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
        return torch.from_numpy(value)

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
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True, atol=1e-4)
