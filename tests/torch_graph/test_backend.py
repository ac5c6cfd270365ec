"""The standard backend interface: a class that the official runner takes, and its four methods."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test.runner import Runner

import surgeon
from surgeon.errors import UsageError

X = np.array([[-1.0, 2.0]], np.float32)


@pytest.fixture
def model():
    x, y, z = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2]) for n in "xyz")
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["y"], ["z"])]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y, z]))


def test_it_is_a_backend_as_onnx_means_it(model) -> None:
    assert issubclass(surgeon.onnx_backend, Backend)
    prepared = surgeon.onnx_backend.prepare(model, "CPU")
    assert isinstance(prepared, BackendRep)
    outputs = prepared.run([X])
    np.testing.assert_array_equal(outputs[0], [[0, 2]])
    np.testing.assert_array_equal(outputs.z, [[0, -2]])


def test_inputs_by_position_by_name_or_alone(model) -> None:
    for given in ([X], {"x": X}, X):
        np.testing.assert_array_equal(surgeon.onnx_backend.run_model(model, given)[0], [[0, 2]])


def test_a_node_alone_runs_in_the_version_asked_for() -> None:
    node = helper.make_node("Softmax", ["x"], ["y"], axis=1)
    x = np.zeros((1, 2, 2), np.float32)
    (flattened,) = surgeon.onnx_backend.run_node(node, [x], opset_version=11)
    (alone,) = surgeon.onnx_backend.run_node(node, [x])
    np.testing.assert_allclose(flattened, 0.25)
    np.testing.assert_allclose(alone, 0.5)


def test_devices(model) -> None:
    assert surgeon.onnx_backend.supports_device("CPU")
    assert not surgeon.onnx_backend.supports_device("TPU")
    with pytest.raises(UsageError, match="TPU"):
        surgeon.onnx_backend.prepare(model, "TPU")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the library, while it makes its cases
def test_the_official_runner_takes_it() -> None:
    suite = Runner(surgeon.onnx_backend, __name__).include("test_relu_cpu$").test_cases
    suite["OnnxBackendNodeModelTest"]("test_relu_cpu").debug()
