from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from surgeon.errors import DataError, EnvironmentLacksError, ModelError, UsageError
from surgeon.runtime import sessions
from surgeon.runtime.sessions import OutOfMemoryError, choose_device, open_session

no_gpu = pytest.mark.skipif(sessions.count_cuda_devices() > 0, reason="there is a GPU")


@pytest.fixture
def relu(build):
    return build("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")


def test_a_session_says_what_it_is(relu):
    session = open_session(relu, device="cpu", threads=1)
    assert session.providers == ("CPUExecutionProvider",)
    assert session.inputs == {"x": ("float", ("N", 3))}
    assert (session.outputs, session.device, session.notes) == (("y",), "cpu", ())
    x = np.array([[-1, 0, 2]], np.float32)
    (y,) = session.run({"x": x, "unused": x})
    assert y.tolist() == [[0, 0, 2]]


def test_bytes_and_paths_load_alike(relu, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(relu, path)
    for source in (relu.SerializeToString(), path):
        assert open_session(source, device="cpu").outputs == ("y",)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:1", "", "auto:0"])
def test_devices_that_cannot_be_meant(device):
    with pytest.raises(UsageError):
        choose_device(device)


@no_gpu
def test_a_missing_gpu_is_an_error_only_when_it_was_named(relu):
    for device in ("cuda", "cuda:0", "cuda:7"):
        with pytest.raises(EnvironmentLacksError) as caught:
            open_session(relu, device=device)
        assert caught.value.exit == 3
    session = open_session(relu, device="auto")
    assert session.device == "cpu"
    assert session.notes == ()  # nothing was asked for that is missing


def test_a_gpu_that_does_not_start_is_never_silent(relu, monkeypatch):
    """With a driver but no usable CUDA provider, ONNX Runtime falls back without a word."""
    import onnxruntime

    real = onnxruntime.InferenceSession
    on_cpu = lambda source, options, **_: real(source, options, providers=["CPUExecutionProvider"])  # noqa: E731
    monkeypatch.setattr(sessions, "count_cuda_devices", lambda: 1)
    monkeypatch.setattr(sessions, "_preload_libraries", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", on_cpu)
    session = open_session(relu, device="auto")
    assert session.device == "cpu"
    assert "could not use the GPU" in session.notes[0]
    with pytest.raises(EnvironmentLacksError, match="could not use the GPU"):
        open_session(relu, device="cuda")


def test_nothing_is_written_to_the_terminal(relu, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(relu, path)
    code = (
        "import sys; from pathlib import Path; from surgeon.runtime.sessions import *\n"
        "open_session(Path(sys.argv[1]), device='auto')\n"
        "try: open_session(b'broken', device='cpu')\n"
        "except Exception as error: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_models_that_do_not_load(build):
    missing = build("g (float[N] x) => (float[N] y) { y = com.nowhere.Thing(x) }")
    missing.opset_import.add(domain="com.nowhere", version=1)
    for model, word in ((b"not a model", "protobuf"), (missing, "Thing")):
        with pytest.raises(ModelError, match=word) as caught:
            open_session(model, device="cpu", where="model.onnx")
        assert caught.value.where == "model.onnx"
        assert "[ONNXRuntimeError]" not in caught.value.message


def test_feeds_that_do_not_fit(relu):
    session = open_session(relu, device="cpu")
    for feeds in (
        {"x": np.zeros((1, 4), np.float32)},
        {"x": np.zeros((1, 3), np.float64)},
        {},
    ):
        with pytest.raises(DataError, match="does not fit"):
            session.run(feeds)


def test_a_graph_that_fails_while_it_runs(build):
    model = build(
        "g (float[N] x, int64[1] s) => (float[M,P] y) "
        "<int64[1] five = {5}> { t = Concat <axis=0> (s, five) y = Reshape(x, t) }"
    )
    session = open_session(model, device="cpu")
    with pytest.raises(ModelError, match="failed to run"):
        session.run({"x": np.zeros(7, np.float32), "s": np.array([2])})


def test_memory_that_runs_out_is_told_apart(build):
    model = build(
        "g (int64[2] s) => (float[A,B] y) { y = ConstantOfShape <value = float[1] {1.0}> (s) }"
    )
    session = open_session(model, device="cpu")
    with pytest.raises(OutOfMemoryError) as caught:
        session.run({"s": np.array([1 << 22, 1 << 22])})
    assert caught.value.exit == 3


def test_two_packages_of_the_runtime_are_refused(monkeypatch, relu):
    monkeypatch.setattr(sessions, "_installed_variants", lambda: ("onnxruntime", "onnxruntime-gpu"))
    with pytest.raises(EnvironmentLacksError) as caught:
        open_session(relu, device="cpu")
    assert caught.value.remedy.count("pip") == 2
    monkeypatch.setattr(sessions, "_installed_variants", tuple)
    with pytest.raises(EnvironmentLacksError, match="not installed"):
        open_session(relu, device="cpu")


def test_weights_past_two_gigabytes_are_handed_over_apart(build, monkeypatch):
    weight = np.random.default_rng(0).random((300, 200), np.float32)
    model = build("g (float[N,300] x) => (float[N,200] y) { z = MatMul(x, w) y = Add(z, b) }")
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(200, np.float32), "b"))
    model.producer_name = "test"
    before = model.SerializeToString(deterministic=True)
    monkeypatch.setattr(sessions, "ONE_FILE_LIMIT", 1000)
    session = open_session(model, device="cpu")
    x = np.random.default_rng(1).random((2, 300), np.float32)
    np.testing.assert_allclose(session.run({"x": x})[0], x @ weight + 1, rtol=1e-5)
    assert model.SerializeToString(deterministic=True) == before
