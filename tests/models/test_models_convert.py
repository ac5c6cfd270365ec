"""Every model of the index converts whole, and computes what ONNX Runtime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import surgeon
import surgeon_models
from surgeon.runtime.saturation import saturates

DTYPES = {"float": np.float32, "float16": np.float16, "int64": np.int64, "int32": np.int32}
FREE = 64
"""Size of a free dimension behind the first, which is 1."""


WANTED = {("silero-vad", "input"): 512, ("silero-vad", "state"): 1}
BOUNDS = {
    "mobilenetv2-fp16": 1e-2,
    "efficientnet-lite0-qdq": 5e-2,  # a sum that rounds the other way moves a level of 1/255
}


def example(info: Any, name: str, random: np.random.Generator) -> np.ndarray:
    shape = [
        dim
        if isinstance(dim, int) and dim > 0
        else (WANTED.get((name, info.name), FREE) if axis else 1)
        for axis, dim in enumerate(info.shape)
    ]
    dtype = DTYPES[info.type.removeprefix("tensor(").removesuffix(")")]
    if np.issubdtype(dtype, np.integer):
        constant = {"sr": 16000}.get(info.name, 1)
        return np.full(shape, constant, dtype)
    return random.uniform(0, 1, shape).astype(dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", surgeon_models.names())
def test_it_converts_whole_and_agrees(name: str) -> None:
    path = surgeon_models.get(name)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if "int8" in name and saturates():
        pytest.skip("this processor has no VNNI: ONNX Runtime cuts sums of 8-bit products off")
    if "int8" in name or "qdq" in name:  # the optimiser's fusions round differently
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    feeds = {info.name: example(info, name, random) for info in session.get_inputs()}
    expected = session.run(None, feeds)

    module = surgeon.to_torch(path)
    assert list(feeds) == list(module.input_names)
    with torch.no_grad():
        found = module(*(torch.from_numpy(value) for value in feeds.values()))
    found = found if isinstance(found, tuple) else (found,)
    bound = BOUNDS.get(name, 1e-4)
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, list):  # of maps: the probabilities of a classic model
            rows = [np.array([*row.values()]) for row in (*one, *other)]
            np.testing.assert_allclose(rows[: len(one)], rows[len(one) :], atol=1e-5)
            continue
        ours, theirs = one.numpy().astype(np.float64), other.astype(np.float64)
        assert ours.shape == theirs.shape
        apart = np.abs(ours - theirs).max()
        # ONNX Runtime's Sigmoid is exact to 1e-6 only, which counts where all of an output is less.
        assert apart <= max(bound * np.abs(theirs).max(), 1e-6)
