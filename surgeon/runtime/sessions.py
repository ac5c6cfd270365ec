"""ONNX Runtime sessions: providers asked for by name, and what was really got read back.

The only place that creates a session. ONNX Runtime falls back to the CPU in silence; here a GPU
that was asked for and not got is an error, and one that `auto` could not use is a note. What must
not enter: reading of data, and any change of the graph.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, TensorProto

from surgeon.errors import DataError, EnvironmentLacksError, ModelError
from surgeon.extras import need
from surgeon.graph import external
from surgeon.graph.files import ONE_FILE_LIMIT, weight_bytes
from surgeon.graph.strings import DOMAIN
from surgeon.graph.weights import to_array
from surgeon.runtime.places import (
    Device,
    _preload_libraries,
    check_installation,
    choose_device,
    runtime_version,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.records import Shape

# Weights of more bytes than this share of the free memory are not packed anew for speed.
_PACKED_SHARE = 0.4
_AS_BITS: dict[int, Any] = {TensorProto.BFLOAT16: np.uint16}
_AS_THEY_ARE = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BOOL,
     TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
     TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64}
)  # fmt: skip
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_OUT_OF_MEMORY = (
    "failed to allocate memory",
    "bad_alloc",
    "bad allocation",
    "out of memory",
    "alloc_failed",
    "available memory of",
)
_ORT_PREFIX = "[ONNXRuntimeError]"
_MISFIT = re.compile("invalid dimensions for input|Invalid rank for input|Unexpected input data")
_GPU_FAILURE = re.compile(r"(CUDA|CUDNN|CUBLAS) (failure|error)|CUDA driver|CUDA-capable")


class OutOfMemoryError(EnvironmentLacksError):
    """A run did not fit into memory; a smaller batch may."""

    kind = "memory"


@dataclass(frozen=True)
class Block:
    """A tensor that lies in the memory of a device, dense, the last axis running fastest.

    Whoever makes one keeps the memory until the run has ended.

    Attributes:
        address: of the first element.
        element: element type by its ONNX number.
        shape: sizes of its axes.
        kind: `cpu` or `cuda`.
        index: number of the device.
    """

    address: int
    element: int
    shape: tuple[int, ...]
    kind: str
    index: int = 0


@dataclass(frozen=True)
class Session:
    """A loaded graph.

    Attributes:
        providers: the execution providers it really has, best first.
        device: `cpu` or `cuda`, as got.
        notes: what the user should be told (a GPU that could not be used).
        inputs: name → (element type in lower case, shape) of the inputs that it takes.
        outputs: names, in order.
        threads: intra-op threads it was given; None = ONNX Runtime's own choice.
        index: number of the device.
        stream: address of the CUDA stream it was told to compute on, or None.
        on_host: inputs that it reads in the memory of the host, though it runs on a GPU.
        kept: weights that it reads where they lie, which must live as long as it does.
    """

    raw: Any = field(repr=False)
    providers: tuple[str, ...]
    device: str
    notes: tuple[str, ...]
    inputs: dict[str, tuple[str, Shape]]
    outputs: tuple[str, ...]
    threads: int | None = None
    index: int = 0
    stream: int | None = None
    on_host: frozenset[str] = frozenset()
    kept: tuple[Any, ...] = field(default=(), repr=False)

    def run(
        self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> list[NDArray[Any]]:
        """Run once; feeds that the graph does not take are left out. Safe from several threads.

        Returns:
            one array per name of `outputs` (None = every output, in order).

        Raises:
            OutOfMemoryError: memory ran out.
            DataError: the feeds do not fit the inputs.
            ModelError: ONNX Runtime refused to run the graph.
        """
        known = {name: value for name, value in feeds.items() if name in self.inputs}
        names = list(self.outputs if outputs is None else outputs)
        try:
            results: list[NDArray[Any]] = self.raw.run(names, known)
        except MemoryError:
            raise _out_of_memory("memory ran out") from None
        except Exception as error:  # noqa: BLE001 - its exceptions share no base class
            raise _run_error(error) from None
        return results

    def output_types(self) -> dict[str, int]:
        """Return {output: ONNX element type} of the outputs that are tensors."""
        found = {item.name: item.type for item in self.raw.get_outputs()}
        return {
            name: TensorProto.DataType.Value(_element(kind).upper())
            for name, kind in found.items()
            if kind.startswith("tensor(")
        }

    def run_bound(
        self, blocks: Mapping[str, Block], outputs: Sequence[str] | None = None
    ) -> list[Any]:
        """Run once on values that lie on the device; what comes out stays there, nothing is copied.

        On a GPU the inputs must be ready when the session's stream comes to them: made on it, or
        waited for. ONNX Runtime waits for its stream at the end of a run. That could be switched
        off, but operators that it keeps on the CPU would write into memory of the host that copies
        of the run before may still be reading; a batch takes a hundred times what the wait costs.

        Args:
            blocks: the inputs by name; others are left out.
            outputs: names; None = every output, in order.

        Returns:
            one object per output with `__dlpack__`, on the session's device. Its memory belongs to
            the session's pool: what reads it later does so on the session's stream.

        Raises:
            OutOfMemoryError, DataError, ModelError: as `run`.
        """
        names = list(self.outputs if outputs is None else outputs)
        missing = [name for name in self.inputs if name not in blocks]
        if missing:
            message = f"the graph inputs {', '.join(missing)} are not fed"
            raise DataError(message, remedy="give one block per graph input")
        try:
            binding = self.raw.io_binding()
            for name in self.inputs:
                block = blocks[name]
                place = block.kind, block.index, block.element, list(block.shape), block.address
                binding.bind_input(name, *place)
            for name in names:
                binding.bind_output(name, self.device, self.index)
            self.raw.run_with_iobinding(binding)
            found = binding.get_outputs_as_ortvaluevector()
            return [found[place] for place in range(len(found))]
        except MemoryError:
            raise _out_of_memory("memory ran out") from None
        except Exception as error:  # noqa: BLE001 - its exceptions share no base class
            raise _run_error(error) from None


def open_session(
    model: ModelProto | bytes | Path,
    *,
    device: str | Device = "auto",
    threads: int | None = None,
    spinning: bool = True,
    optimised: bool = True,
    exact: bool = False,
    where: str | None = None,
) -> Session:
    """Load a graph into ONNX Runtime.

    Args:
        model: a graph whose weights lie in it or in files that `surgeon.load` found, its bytes,
            or a path.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, or what `choose_device` returned.
        threads: intra-op threads; None = all cores.
        spinning: whether idle threads wait actively. Off where other work shares the cores.
        optimised: whether operators may be fused; else each computes as the graph has it.
        exact: whether products with weights of four bits keep float32; fused ones round what they
            multiply to eight bits, which a part of a graph may be and the whole not.
        where: what messages call the model.

    Raises:
        ModelError: ONNX Runtime does not load the graph (its own words are kept).
        OutOfMemoryError: it does not fit into memory.
        EnvironmentLacksError: CUDA was asked for and not got, or a broken installation.
    """
    check_installation()
    import onnxruntime

    where = where or (str(model) if isinstance(model, Path) else None)
    chosen = choose_device(device) if isinstance(device, str) else device
    options = _options(onnxruntime, threads, spinning=spinning, optimised=optimised, exact=exact)
    if isinstance(model, ModelProto) and any(node.domain == DOMAIN for node in model.graph.node):
        # The installed package's own library, never one that a file names.
        extensions = need("onnxruntime_extensions", "a file that makes tokens of texts itself")
        options.register_custom_ops_library(extensions.get_library_path())
    providers = _providers(onnxruntime, chosen, options)
    source, kept = _loadable(model, options, onnxruntime)

    def load(providers: list[Any]) -> Any:
        with quiet(onnxruntime):
            return onnxruntime.InferenceSession(
                source, options, providers=providers, enable_fallback=0
            )

    raw, failure = _loaded(load, providers, where, required=chosen.required)
    got = () if raw is None else tuple(raw.get_providers())
    notes = list(chosen.notes)
    if chosen.kind == "cuda" and _CUDA not in got:
        notes.append(_without_gpu(failure or _why_no_gpu(onnxruntime), required=chosen.required))
    return Session(
        raw=raw,
        providers=got,
        device="cuda" if _CUDA in got else "cpu",
        notes=tuple(notes),
        inputs={item.name: (_element(item.type), tuple(item.shape)) for item in raw.get_inputs()},
        outputs=tuple(item.name for item in raw.get_outputs()),
        threads=threads,
        index=chosen.index,
        stream=chosen.stream if _CUDA in got else None,
        on_host=_on_host(raw) if _CUDA in got else frozenset(),
        kept=kept,
    )


def _options(
    onnxruntime: Any, threads: int | None, *, spinning: bool, optimised: bool, exact: bool
) -> Any:
    """Return the options of a session; see `open_session`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, with the same words
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Its search for memory to use again takes time by the square of the nodes.
        options.enable_mem_reuse = False
    if exact:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(onnxruntime: Any, chosen: Device, options: Any) -> list[Any]:
    """Return the providers to ask for, best first; on a GPU `options` become those of one."""
    if chosen.kind != "cuda" or _CUDA not in onnxruntime.get_available_providers():
        return [_CPU]
    _preload_libraries()
    # TF32 keeps ten bits of mantissa: too few for parity with float32.
    settings = {"device_id": chosen.index, "use_tf32": "0"}
    # Since 1.20 neither times anything: this asks cuDNN's cheaper heuristic for every new
    # shape, the default its dearer one.
    settings["cudnn_conv_algo_search"] = "HEURISTIC"
    options.use_deterministic_compute = chosen.repeatable
    if chosen.stream is not None:
        # Whoever gives a stream has memory of its own on that GPU: no more than is needed.
        settings["user_compute_stream"] = str(chosen.stream)
        settings["arena_extend_strategy"] = "kSameAsRequested"
    return [(_CUDA, settings), _CPU]


def _loaded(
    load: Callable[[list[Any]], Any], providers: list[Any], where: str | None, *, required: bool
) -> tuple[Any, str | None]:
    """Load by these providers, on the CPU alone where the GPU fails and need not be; and why.

    Raises:
        OutOfMemoryError, ModelError: see `open_session`.
    """
    failure = None
    try:
        try:
            return load(providers), None
        except Exception as error:
            failure = _gpu_failure(error) if len(providers) > 1 else None
            if failure is None:
                raise
            return (None if required else load([_CPU])), failure
    except MemoryError:
        raise _out_of_memory("the model does not fit into memory", where) from None
    except Exception as error:  # noqa: BLE001 - its exceptions share no base class
        raise _load_error(error, where) from None


def _without_gpu(why: str, *, required: bool) -> str:
    """Say aloud, and return, that ONNX Runtime does without the GPU that was asked for.

    Raises:
        EnvironmentLacksError: it was asked for by name.
    """
    lacking = f"ONNX Runtime could not use the GPU: {why}"
    if required:
        remedy = "pip install onnxruntime-gpu with nvidia's CUDA packages, or --device cpu"
        raise EnvironmentLacksError(lacking, where="--device", remedy=remedy)
    note = f"{lacking}; what ONNX Runtime does runs on the CPU, many times slower"
    _say_aloud(note)
    return note


@cache
def _say_aloud(text: str) -> None:
    """Say something once per process, whether or not a document takes up a session's notes."""
    logging.getLogger("surgeon.runtime").warning("%s", text)


def _why_no_gpu(onnxruntime: Any) -> str:
    """Say why there is no CUDA provider, by the words of the system's loader where it has any."""
    if _CUDA not in onnxruntime.get_available_providers():
        return f"this build ({runtime_version()}) has no CUDA provider; onnxruntime-gpu has"
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        for name in ("shared", "cuda"):  # the second takes symbols from the first
            library = folder / f"libonnxruntime_providers_{name}.so"
            if library.is_file():
                ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except OSError as error:
        return f"{error} (CUDA 13 and cuDNN 9 are needed)"
    return "CUDA 13 and cuDNN 9 are needed"


def _gpu_failure(error: Exception) -> str | None:
    """Return the words of an error that says that the GPU, not the model, is at fault, or None."""
    text = _gist(error)
    if _is_out_of_memory(text) or not _GPU_FAILURE.search(text):
        return None
    return text


def _on_host(raw: Any) -> frozenset[str]:
    """Return the inputs of a session on a GPU that are read in the memory of the host."""
    places = zip(raw.get_inputs(), raw.get_input_memory_infos(), strict=True)
    return frozenset(
        item.name for item, info in places if re.search("cpu|pinned", str(info.name), re.IGNORECASE)
    )


@contextlib.contextmanager
def quiet(onnxruntime: Any) -> Iterator[None]:
    """Silence the process-wide logger while a session is made; errors still raise."""
    onnxruntime.set_default_logger_severity(4)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(2)


def _loadable(
    model: ModelProto | bytes | Path, options: Any, onnxruntime: Any
) -> tuple[bytes | str, tuple[Any, ...]]:
    """Return what ONNX Runtime loads, and the weights that it was given apart from it.

    Weights that lie in another file are handed over as views of it: no temporary file is written,
    and nothing is copied. So are those of a graph that is past protobuf's 2 GB.
    """
    if isinstance(model, bytes):
        return model, ()
    if isinstance(model, Path):
        return str(model), ()
    size = weight_bytes(model)
    if _free_memory() * _PACKED_SHARE < size:
        options.add_session_config_entry("session.disable_prepacking", "1")
    apart = size > ONE_FILE_LIMIT

    def outside(tensor: TensorProto) -> bool:
        large = external.is_external(tensor) or (
            apart and external.dense_size(tensor) > external.INLINE_TENSOR
        )
        return large and (tensor.data_type in _AS_THEY_ARE or tensor.data_type in _AS_BITS)

    if not apart and not any(map(external.is_external, model.graph.initializer)):
        return model.SerializeToString(), ()
    light, pairs = external.light_copy(model, outside)
    names, values = [], []
    for entry, tensor in pairs:
        external.point(entry, "weights", 0, external.dense_size(tensor))
        array = to_array(tensor)
        names.append(entry.name)
        values.append(_handed_over(array, tensor.data_type, onnxruntime))
    options.add_external_initializers(names, [value for _, value in values])
    return external.loaded(light, but=set(names)).SerializeToString(), tuple(values)


def _handed_over(array: NDArray[Any], kind: int, onnxruntime: Any) -> tuple[Any, Any]:
    """Return (memory, ONNX Runtime's view of it); the memory must outlive the view."""
    array = np.require(array, requirements=["C_CONTIGUOUS", "ALIGNED"])
    if kind not in _AS_BITS:
        return array, onnxruntime.OrtValue.ortvalue_from_numpy(array)
    bits = array.view(_AS_BITS[kind])
    return bits, onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, kind)


def _free_memory() -> int:
    """Return the bytes of memory that are available; very many where that is not known."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 60


def _load_error(error: Exception, where: str | None) -> ModelError | EnvironmentLacksError:
    text = _gist(error)
    if _is_out_of_memory(text):
        return _out_of_memory(text, where)
    return ModelError(
        f"ONNX Runtime does not load the model: {text}",
        where=where,
        remedy="check the file with onnx.checker, or take another export of the model",
    )


def _run_error(error: Exception) -> DataError | ModelError | EnvironmentLacksError:
    text = _gist(error)
    if _is_out_of_memory(text):
        return _out_of_memory(text)
    # A run on bound values raises one kind of error for everything.
    misfit = type(error).__name__ in {"InvalidArgument", "ValueError", "TypeError"}
    if misfit or _MISFIT.search(text):
        remedy = "compare the data with the inputs that surgeon inspect shows"
        return DataError(f"the data does not fit the model: {text}", remedy=remedy)
    remedy = "the model may not support this input size or batch; try --batch 1"
    return ModelError(f"ONNX Runtime failed to run the model: {text}", remedy=remedy)


def _out_of_memory(text: str, where: str | None = None) -> OutOfMemoryError:
    return OutOfMemoryError(text, where=where, remedy="give a smaller --batch or --size")


def _is_out_of_memory(text: str) -> bool:
    lowered = text.lower()
    return any(mark in lowered for mark in _OUT_OF_MEMORY)


def _gist(error: Exception) -> str:
    """Return ONNX Runtime's message without its prefix and its own source paths."""
    text = " ".join(str(error).split())
    if text.startswith(_ORT_PREFIX):
        # "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : what happened"
        text = text.split(" : ", 3)[-1]
    if text.startswith("/"):
        text = text.partition(" ")[2]
    return text[:500]


def _element(kind: str) -> str:
    # "tensor(float)" → "float"; sequences keep their spelling.
    return kind[7:-1] if kind.startswith("tensor(") else kind
