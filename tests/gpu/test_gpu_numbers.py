"""Values and gradients on a device, against ONNX Runtime and float64 on the CPU."""

from __future__ import annotations

import networks
import numpy as np
import pytest
import torch
from onnx import TensorProto

import surgeon
from surgeon.train.device import autocast
from surgeon_models import get, names, sample_data

BUILDERS = [
    networks.convnet, networks.residual, networks.squeezenet, networks.batchnorm, networks.vit,
    networks.transformer, networks.lstm, networks.tied,
]  # fmt: skip
FLOAT32, HALF, GRADIENT = 1e-4, 1e-2, 1e-3
REDUCED = {"bf16": 5e-2, "fp16": 1e-2}
"""Largest relative error of logits under autocast: bf16 keeps 8 bits of mantissa, fp16 11."""

pytestmark = pytest.mark.usefixtures("full_precision")


def error(got, expected):
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    return np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-6)


def tuple_of(value):
    return value if isinstance(value, tuple) else (value,)


def on_device(module, arrays, device):
    return tuple_of(module.to(device)(*(torch.from_numpy(a).to(device) for a in arrays)))


@pytest.mark.parametrize("build", BUILDERS, ids=lambda b: b.__name__)
def test_values_are_those_of_onnx_runtime(build, device):
    model = build()
    inputs = networks.feeds(model)
    module = surgeon.to_torch(model)
    with torch.no_grad():
        found = on_device(module, list(inputs.values()), device)
    for got, expected in zip(found, networks.run(model, inputs).values(), strict=True):
        assert error(got.cpu(), expected) <= FLOAT32


@pytest.mark.gpu
@pytest.mark.parametrize("name", names())
def test_every_indexed_model_agrees(name):
    """The same on the CPU is tests/models/test_models_convert.py."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = surgeon.load(get(name))
    data = sample_data(name, samples=2)
    feeds = {info.name: data[info.name] for info in model.inputs}
    expected = networks.run(model.proto, feeds).values()
    with torch.no_grad():
        found = on_device(surgeon.to_torch(model), list(feeds.values()), "cuda")
    stored = {tensor.data_type for tensor in model.proto.graph.initializer}
    coarse = stored & {TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8}
    bound = HALF if coarse else FLOAT32
    if any(node.op_type == "QuantizeLinear" for node in model.proto.graph.node):
        bound = 5e-2  # one step of int8 where two values round to different neighbours
    for got, value in zip(found, expected, strict=True):
        assert error(got.cpu(), value) <= bound


def gradients(module, arrays, device, dtype):
    module = module.to(device, dtype)
    values = [
        torch.from_numpy(a).to(device, dtype if a.dtype == np.float32 else None) for a in arrays
    ]
    output = tuple_of(module(*values))[0]
    # A fixed weighting of all outputs, so that no gradient cancels by symmetry.
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64)
    (output * weights.to(output).view_as(output)).sum().backward()
    return {name: p.grad.double().cpu() for name, p in module.named_parameters()}


@pytest.mark.parametrize("build", BUILDERS, ids=lambda b: b.__name__)
def test_gradients_are_those_of_float64_on_the_cpu(build, device):
    model = build()
    arrays = list(networks.feeds(model).values())
    exact = gradients(surgeon.to_torch(model), arrays, "cpu", torch.float64)
    found = gradients(surgeon.to_torch(model), arrays, device, torch.float32)
    assert set(found) == set(exact)
    largest = max(float(value.abs().max()) for value in exact.values())
    for name, value in exact.items():
        # A scalar's gradient is one sum over all that it touched: it may cancel to nearly nothing.
        own = float(value.abs().max()) if value.numel() > 1 else largest
        bound = GRADIENT * max(own, 1e-3 * largest)
        assert float((found[name] - value).abs().max()) <= bound, name


@pytest.mark.parametrize("precision", REDUCED)
@pytest.mark.parametrize("build", [networks.convnet, networks.vit], ids=lambda b: b.__name__)
def test_reduced_precision_stays_within_its_bound(build, precision, device):
    model = build()
    arrays = list(networks.feeds(model, batch=4).values())
    module = surgeon.to_torch(model)
    with torch.no_grad():
        exact = on_device(module, arrays, device)[0]
        with autocast(precision, torch.device(device)):
            found = on_device(module, arrays, device)[0]
    measured = error(found.float().cpu(), exact.cpu())
    assert 0 < measured <= REDUCED[precision]
