"""Gradients in double precision against finite differences, on the samples of every family."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from samples import SAMPLES, Sample
from test_against_runtime import model_of

from surgeon.tune.module import to_module

STEPS = {
    "ArgMax", "ArgMin", "Cast", "Ceil", "DequantizeLinear", "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul", "EyeLike", "Floor", "Hardmax", "IsInf", "MatMulNBits",
    "MelWeightMatrix", "NonMaxSuppression", "NonZero", "QGemm", "QLinearAdd",
    "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearConv", "QLinearMatMul", "QLinearMul",
    "QuantizeLinear", "Range", "Shape", "Size", "Unique", "DeformConv",
}  # fmt: skip
"""Operators without a gradient, or (DeformConv) with kinks everywhere in a random offset."""

ONLY_DATA = {"MaxRoiPool", "Resize", "RoiAlign", "Upsample"}
"""Operators of which only the first input is differentiable."""


def in_double(sample: Sample) -> Sample:
    inputs = tuple(
        value.astype(np.float64)
        if value is not None
        and value.dtype == np.float32
        and (number == 0 or sample.op not in {"Resize", "Upsample"})
        else value
        for number, value in enumerate(sample.inputs)
    )
    return replace(sample, inputs=inputs)


def check(sample: Sample) -> bool:
    model, feeds = model_of(in_double(sample))
    if not model.graph.input:
        return False
    module = to_module(model, roles={})
    values = [torch.from_numpy(feed) for feed in feeds]
    learn = [
        n
        for n, value in enumerate(values)
        if value.dtype == torch.float64 and value.numel() and (n == 0 or sample.op not in ONLY_DATA)
    ]
    if not learn:
        return False

    def function(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        arguments: list[Any] = list(values)
        for n, value in zip(learn, given, strict=True):
            arguments[n] = value
        found = module(*arguments)
        found = found if isinstance(found, tuple) else (found,)
        return tuple(v for v in found if v is not None and v.requires_grad)

    inputs = [values[n].requires_grad_() for n in learn]
    assert function(*inputs), "no gradient flows"
    return torch.autograd.gradcheck(function, inputs, fast_mode=True, atol=1e-4)


CHECKED = [s for s in SAMPLES if s.op not in STEPS and s.domain != "ai.onnx.ml"]


@pytest.mark.parametrize("sample", CHECKED, ids=[s.name for s in CHECKED])
def test_gradient_is_right(sample: Sample) -> None:
    if sample.op == "Pow" and sample.inputs[0].dtype.kind == "i":
        pytest.skip("an integer power has no gradient")
    check(sample)
