"""Where to train, and in which precision: chosen once, refused aloud where it is missing.

The one place that asks torch for its devices. What must not enter: moving data, training.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
import warnings
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import torch

from surgeon.errors import EnvironmentLacksError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

Precision = Literal["float32", "bf16", "fp16"]

#: What torch's libraries say: the CPU's allocator, CUDA's, cuBLAS, and cuDNN, which tries one
#: engine after the other and names none.
_NO_MEMORY: Final = (
    "not enough memory",
    "can't allocate memory",
    "out of memory",
    "alloc_failed",
    "unable to find an engine",
    "unable to find a valid cudnn algorithm",
)
_REDUCED: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose(name: str = "auto") -> torch.device:
    """Return the device called `auto`, `cpu`, `cuda` or `cuda:N`; `auto` is a GPU where one works.

    Raises:
        EnvironmentLacksError: a GPU was asked for by name and torch cannot use it.
        UsageError: a name of another form.

    """
    form = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", name)
    if form is None:
        raise UsageError(
            f"unknown device {name!r}", where="--device", remedy="give auto, cpu, cuda or cuda:N"
        )
    if name == "cpu":
        return torch.device("cpu")
    count = _gpus()
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    number = int(form.group(1) or 0)
    if number >= count:
        build = "" if torch.version.cuda else " (this torch is built for the CPU only)"
        raise EnvironmentLacksError(
            f"{name} was asked for, and torch {torch.__version__} sees {count} CUDA devices{build}",
            where="--device",
            remedy="install a CUDA build of torch and a driver it accepts, or use --device cpu",
        )
    return torch.device("cuda", number)


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a precision that does not exist, or that the device cannot compute in.

    Raises:
        UsageError: an unknown precision.
        EnvironmentLacksError: bf16 on a GPU without it.

    """
    if precision not in {"float32", *_REDUCED}:
        raise UsageError(
            f"unknown precision {precision!r}",
            where="--precision",
            remedy="give float32, bf16 or fp16",
        )
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise EnvironmentLacksError(
            f"{torch.cuda.get_device_name(device)} does not compute in bf16",
            where="--precision",
            remedy="use --precision fp16 or float32",
        )


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which operators run in the reduced precision; float32 is no context."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_REDUCED[precision])


@contextmanager
def arithmetic(device: torch.device, *, exact: bool) -> Iterator[None]:
    """Let products of float32 on a GPU run in TF32, or not; a CPU has no such choice.

    TF32 keeps ten bits of each factor's mantissa and adds in float32. Training does not notice it;
    what is compared with ONNX Runtime does.
    """
    if device.type != "cuda":
        yield
        return
    products = _products()
    convolutions = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest" if exact else "high")
    torch.backends.cudnn.allow_tf32 = not exact
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def _products() -> str:
    """Return how products of float32 are computed, by whichever of torch's two names it was set."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # set by the names that torch 2.9 brought, which do not mix with the old
        tf32: bool = torch.backends.cuda.matmul.fp32_precision == "tf32"
        return "high" if tf32 else "highest"


@contextmanager
def prepared(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """Make a GPU the current one, and choose between its fastest and its repeatable algorithms.

    On a CPU all algorithms in use repeat. An operator that has no repeatable form on a GPU raises
    when it runs.
    """
    if device.type != "cuda":
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
    )
    if deterministic:
        # cuBLAS repeats with a workspace of fixed size only; torch looks for the word.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    try:
        with torch.cuda.device(device):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before[2:]


def has_no_repeatable_form(error: BaseException) -> bool:
    """Tell whether torch refused an operator because it has no deterministic algorithm."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RuntimeError) and "deterministic" in str(cause):
            return True
        cause = cause.__cause__
    return False


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Let the C library keep what tensors on the CPU free, until the end of the context.

    By default glibc returns every large block to the system and takes it again, page by page, in
    every step: up to a fifth of a step's time on the CPU. Other C libraries are left alone, and so
    is a GPU, for which torch keeps memory itself.
    """
    library = _glibc() if device.type == "cpu" else None
    if library is None:
        yield
        return
    for option, value in _KEEP:
        library.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in _RETURN:
            library.mallopt(option, value)
        library.malloc_trim(0)


# Of malloc.h: M_MMAP_MAX (blocks mapped singly), M_TRIM_THRESHOLD, M_TOP_PAD (bytes).
_MMAP_MAX, _TRIM, _PAD = -4, -1, -2
_KEEP: Final = ((_MMAP_MAX, 0), (_TRIM, -1), (_PAD, 64 << 20))
# What glibc's own adaptation ends at once blocks of 32 MiB were freed.
_RETURN: Final = ((_MMAP_MAX, 65536), (_TRIM, 64 << 20), (_PAD, 128 << 10))


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def peak_memory(device: torch.device) -> int | None:
    """Return the most bytes in use so far: of this process on a CPU, of its tensors on a GPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():  # of this program; `ru_maxrss` remembers the process that started it
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def start_peak(device: torch.device) -> None:
    """Begin to watch the peak of a GPU's memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def memory_share(device: torch.device) -> float | None:
    """Return what share of a GPU's memory the peak takes; None on a CPU.

    Of what this process can have: what is free, and what torch holds already.
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    available = free + torch.cuda.memory_reserved(device)
    return int(torch.cuda.max_memory_allocated(device)) / max(int(available), 1)


def seed_all(seed: int, device: torch.device) -> None:
    """Seed what random operators on a device draw from.

    On a GPU the CPU's generator is left alone: augmentation draws from it in another thread.
    """
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    else:
        torch.manual_seed(seed)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Tell whether an error, or one that caused it, says that memory ran out.

    The CPU allocator raises a plain RuntimeError, so its words have to be read.
    """
    while error is not None:
        words = str(error).lower()
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or (
            isinstance(error, RuntimeError) and any(phrase in words for phrase in _NO_MEMORY)
        ):
            return True
        error = error.__cause__
    return False


def _gpus() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an old driver warns; the count says it better
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
