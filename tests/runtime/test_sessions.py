from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from surgeon.errors import DataError, EnvironmentLacksError, ModelError, UsageError
from surgeon.runtime import places, sessions
from surgeon.runtime.places import choose_device
from surgeon.runtime.sessions import OutOfMemoryError, open_session

no_gpu = pytest.mark.skipif(places.count_cuda_devices() > 0, reason="there is a GPU")


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


@pytest.fixture
def one_gpu(monkeypatch):
    """A machine whose driver shows a GPU; returns what sessions are asked to run on."""
    import onnxruntime

    real, asked = onnxruntime.InferenceSession, []

    def on_cpu(source, options, *, providers, **_):
        asked.append(providers)
        return real(source, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(places, "count_cuda_devices", lambda: 1)
    monkeypatch.setattr(places, "_preload_libraries", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", on_cpu)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )  # fmt: skip
    sessions._say_aloud.cache_clear()
    return asked


def test_a_gpu_that_does_not_start_is_never_silent(relu, one_gpu, caplog):
    """With a driver but no usable CUDA provider, ONNX Runtime falls back without a word."""
    session = open_session(relu, device="auto")
    assert session.device == "cpu"
    assert "could not use the GPU" in session.notes[0]
    assert "runs on the CPU" in session.notes[0]
    open_session(relu, device="auto")
    assert [record.getMessage() for record in caplog.records] == list(session.notes)
    with pytest.raises(EnvironmentLacksError, match="could not use the GPU") as caught:
        open_session(relu, device="cuda")
    assert caught.value.exit == 3
    assert open_session(relu, device="cpu").notes == ()


def test_a_build_without_cuda_says_so(relu, one_gpu, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    session = open_session(relu, device="auto")
    assert one_gpu == [["CPUExecutionProvider"]]  # what it lacks is not asked for
    assert "has no CUDA provider" in session.notes[0]
    with pytest.raises(EnvironmentLacksError, match="has no CUDA provider") as caught:
        open_session(relu, device="cuda:0")
    assert caught.value.exit == 3


@pytest.mark.skipif(sys.platform != "linux", reason="shared objects")
def test_the_loader_says_what_is_missing(monkeypatch, tmp_path):
    import onnxruntime

    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(b"no library")
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    said = sessions._why_no_gpu(onnxruntime)
    assert "libonnxruntime_providers_cuda.so" in said
    assert "CUDA 13" in said


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("CUDA failure 100: no CUDA-capable device is detected", None),
        ("CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED", None),
        ("CUDA failure 2: out of memory", OutOfMemoryError),
        ("Could not find an implementation for Thing(1)", ModelError),
    ],
)
def test_a_gpu_that_breaks_is_told_from_a_model_that_does(words, kind, relu, one_gpu, monkeypatch):
    import onnxruntime

    working = onnxruntime.InferenceSession

    def broken(source, options, *, providers, **more):
        if len(providers) > 1:
            raise RuntimeError(f"[ONNXRuntimeError] : 1 : FAIL : {words}")
        return working(source, options, providers=providers, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", broken)
    if kind is None:
        session = open_session(relu, device="auto")
        assert session.device == "cpu"
        assert words in session.notes[0]
    with pytest.raises(kind or EnvironmentLacksError, match=re.escape(words.split(":")[0])):
        open_session(relu, device="cuda")


def test_a_session_may_be_told_which_stream_to_compute_on(relu, one_gpu):
    open_session(relu, device=places.Device("cuda", 0, stream=4096))
    open_session(relu, device=places.Device("cuda", 0))
    first, second = (providers[0][1] for providers in one_gpu)
    assert first["user_compute_stream"] == "4096"
    assert second == {"device_id": 0, "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


@pytest.mark.parametrize("repeatable", [True, False])
def test_a_session_may_be_told_to_repeat_bit_by_bit(repeatable, relu, one_gpu, monkeypatch):
    import onnxruntime

    made = []

    class Options(onnxruntime.SessionOptions):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    open_session(relu, device=places.Device("cuda", 0, repeatable=repeatable))
    assert [options.use_deterministic_compute for options in made] == [repeatable]
    assert one_gpu[0][0][1]["cudnn_conv_algo_search"] == "HEURISTIC"


def test_the_right_inputs_are_fed_from_the_host():
    class Place:
        def __init__(self, name):
            self.name = name

    class Raw:
        def get_inputs(self):
            return [Place("x"), Place("shape"), Place("pinned")]

        def get_input_memory_infos(self):
            return [Place("Cuda"), Place("Cpu"), Place("CudaPinned")]

    assert sessions._on_host(Raw()) == {"shape", "pinned"}


def block(array):
    element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return sessions.Block(array.ctypes.data, element, array.shape, "cpu")


def test_values_that_lie_on_the_device_are_run_where_they_are(build):
    model = build(
        "g (float[N,3] x, int64[N] i) => (float[N,3] y, int64[N] j) { y = Relu(x) j = Neg(i) }"
    )
    session = open_session(model, device="cpu")
    x, i = np.random.default_rng(0).standard_normal((4, 3), np.float32), np.arange(4)
    feeds = {"x": block(x), "i": block(i), "unused": block(x)}
    y, j = (np.from_dlpack(value) for value in session.run_bound(feeds))
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(j, -i)
    (only,) = session.run_bound(feeds, ["j"])
    del session
    np.testing.assert_array_equal(np.from_dlpack(only), -i)


def test_values_on_the_device_that_do_not_fit(relu):
    session = open_session(relu, device="cpu")
    with pytest.raises(DataError, match="graph inputs x are not fed"):
        session.run_bound({})
    for wrong in (np.zeros((1, 4), np.float32), np.zeros((1, 3), np.float64)):
        with pytest.raises(DataError, match="does not fit"):
            session.run_bound({"x": block(wrong)})


def test_memory_that_runs_out_on_the_device_is_told_apart(build):
    model = build(
        "g (int64[2] s) => (float[A,B] y) { y = ConstantOfShape <value = float[1] {1.0}> (s) }"
    )
    with pytest.raises(OutOfMemoryError):
        open_session(model, device="cpu").run_bound({"s": block(np.array([1 << 22, 1 << 22]))})


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
    monkeypatch.setattr(places, "_installed_variants", lambda: ("onnxruntime", "onnxruntime-gpu"))
    with pytest.raises(EnvironmentLacksError) as caught:
        open_session(relu, device="cpu")
    assert caught.value.remedy.count("pip") == 2
    monkeypatch.setattr(places, "_installed_variants", tuple)
    with pytest.raises(EnvironmentLacksError, match="not installed"):
        open_session(relu, device="cpu")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders of installed packages, the first in front, and nothing else."""

    def install(place, name):
        described = tmp_path / place / f"{name.replace('-', '_')}-1.0.dist-info"
        described.mkdir(parents=True)
        (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")

    monkeypatch.setattr(sys, "path", [str(tmp_path / "front"), str(tmp_path / "behind")])
    places._installed_variants.cache_clear()
    yield install
    places._installed_variants.cache_clear()


@pytest.mark.parametrize("front", ["onnxruntime", "onnxruntime-gpu"])
def test_a_package_in_front_of_another_does_not_overwrite_it(front, folders):
    folders("front", front)
    folders("behind", "onnxruntime")
    folders("behind", "onnxruntime-gpu")
    places.check_installation()
    assert places._installed_variants() == (front,)
    assert places.runtime_version() == f"{front} 1.0"


def test_two_packages_in_one_folder_overwrite_each_other(folders):
    folders("behind", "onnxruntime")
    folders("behind", "onnxruntime-gpu")
    with pytest.raises(EnvironmentLacksError, match="overwrite each other"):
        places.check_installation()


def test_no_package_in_any_folder(folders):
    with pytest.raises(EnvironmentLacksError, match="not installed"):
        places.check_installation()


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
