"""Architectures, exported by both exporters at four opsets: parity, gradients, names, compiling."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from architectures import networks

import surgeon

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the exporters warn much

OPSETS = (13, 17, 20, 23)
NETWORKS = networks()
CASES = [
    (name, exporter, opset, kept)
    for name in NETWORKS
    for exporter in ("torchscript", "dynamo")
    for opset in OPSETS
    for kept in ((False, True) if exporter == "torchscript" and opset == 17 else (False,))
    if not (exporter == "torchscript" and opset > 20)  # the exporter's newest opset
]


def export(
    name: str, exporter: str, opset: int, kept: bool
) -> tuple[onnx.ModelProto, tuple[torch.Tensor, ...]]:
    torch.manual_seed(1)
    network, inputs = NETWORKS[name]()
    with torch.no_grad():  # statistics that matter, biases that keep a gate's units alive
        for key, tensor in network.state_dict().items():
            if key.endswith(("running_mean", "bias")):
                tensor.normal_(0.3, 0.1)
            elif key.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
    network.eval()
    stream = io.BytesIO()
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with quiet[0], quiet[1], warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            if exporter == "dynamo":
                program = torch.onnx.export(network, inputs, dynamo=True, opset_version=opset)
                return program.model_proto, inputs
            mode = torch.onnx.TrainingMode.PRESERVE if kept else torch.onnx.TrainingMode.EVAL
            torch.onnx.export(
                network, inputs, stream, dynamo=False, opset_version=opset, training=mode,
                do_constant_folding=not kept,
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)
    return onnx.load_from_string(stream.getvalue()), inputs


def feeds(
    session: onnxruntime.InferenceSession, inputs: tuple[torch.Tensor, ...]
) -> dict[str, Any]:
    return {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}


def of_runtime(proto: onnx.ModelProto, inputs: tuple[torch.Tensor, ...]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds(session, inputs))[0]


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6))


@pytest.mark.parametrize(("name", "exporter", "opset", "kept"), CASES)
def test_it_converts_trains_and_comes_back(
    name: str, exporter: str, opset: int, kept: bool
) -> None:
    proto, inputs = export(name, exporter, opset, kept)
    model = surgeon.load(proto)
    module = surgeon.to_torch(model)
    assert relative(module(*inputs).detach().numpy(), of_runtime(proto, inputs)) <= 1e-4

    parameters = dict(module.named_parameters())
    assert sorted(parameters) == sorted(
        k for k, role in model.roles().items() if role == "parameter"
    )
    before = {key: value.detach().clone() for key, value in parameters.items()}
    torch.manual_seed(2)
    output = module(*inputs)
    (output * torch.randn_like(output)).sum().backward()
    for key, value in parameters.items():
        assert value.grad is not None, key
        assert value.grad.isfinite().all(), key
    torch.optim.SGD(parameters.values(), lr=0.1).step()
    weights = {key: value for key, value in parameters.items() if value.numel() > 1}
    assert [key for key, value in weights.items() if torch.equal(value, before[key])] == []

    tuned = surgeon.write_back(model, module)
    assert [t.name for t in tuned.graph.initializer] == [
        t.name for t in model.proto.graph.initializer
    ]
    assert list(tuned.graph.node) == list(model.proto.graph.node)
    with torch.no_grad():
        found = module(*inputs).numpy()
    assert relative(found, of_runtime(tuned, inputs)) <= 1e-4


@pytest.mark.parametrize("name", ["convnext", "vit", "swin", "bert", "gpt-2", "lstm", "gru"])
def test_the_slope_is_that_of_onnx_runtime(name: str) -> None:
    """Smooth networks: a step of all weights changes ONNX Runtime's output as our gradient says."""
    proto, inputs = export(name, "torchscript", 17, kept=False)
    model = surgeon.load(proto)
    module = surgeon.to_torch(model)
    output = module(*inputs)
    weighting = torch.randn_like(output)
    (output * weighting).sum().backward()
    torch.manual_seed(3)
    weights = {k: v for k, v in module.named_parameters() if v.numel() > 1}
    way = {k: torch.randn_like(v) * v.detach().abs().mean() for k, v in weights.items()}
    slope = sum(float((way[k] * v.grad).sum()) for k, v in weights.items())
    assert abs(slope) > 0.1

    def loss(step: float) -> float:
        moved = surgeon.tensors(module) | {
            k: v.detach() + step * way[k] for k, v in weights.items()
        }
        found = of_runtime(surgeon.write_back(model, moved), inputs).astype(np.float64)
        return float((found * weighting.numpy()).sum())

    measured = (loss(1e-3) - loss(-1e-3)) / 2e-3
    assert abs(measured - slope) <= 0.02 * abs(slope) + 1e-2


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_compiles_without_a_graph_break(name: str, exporter: str) -> None:
    proto, inputs = export(name, exporter, 17 if exporter == "torchscript" else 20, kept=True)
    module = surgeon.to_torch(proto)
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), module(*inputs))
