"""Where ONNX Runtime computes: devices, cores, and whether the installation is whole."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from surgeon.errors import EnvironmentLacksError, UsageError

_VARIANTS = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Device:
    """Where to run: `cpu` or `cuda` with its number, and what the user should know about it.

    `required` says that the user named it, so that nothing else will do. `stream` is the address of
    the CUDA stream that sessions compute on; None = each has one of its own. `repeatable` asks a
    GPU for the same bits every time, not for the fastest algorithm of the day.
    """

    kind: str
    index: int = 0
    required: bool = False
    notes: tuple[str, ...] = ()
    stream: int | None = None
    repeatable: bool = False


def check_installation() -> None:
    """Refuse an environment with two packages of ONNX Runtime that overwrite each other.

    Raises:
        EnvironmentLacksError: `onnxruntime` lies beside `onnxruntime-gpu`, or neither is there.
    """
    found = _installed_variants()
    if not found:
        remedy = "pip install onnxruntime-gpu, or onnxruntime where there is no GPU"
        raise EnvironmentLacksError("ONNX Runtime is not installed", remedy=remedy)
    if len(found) > 1:
        raise EnvironmentLacksError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
            where="this Python environment",
            remedy="pip uninstall -y onnxruntime onnxruntime-gpu\n         "
            "pip install --no-cache-dir onnxruntime-gpu",
        )


def choose_device(device: str = "auto") -> Device:
    """Decide where to run: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        UsageError: another word.
        EnvironmentLacksError: a GPU was asked for that this machine does not have.
    """
    word, _, number = str(device).partition(":")
    if word not in {"auto", "cpu", "cuda"} or (number and (word != "cuda" or not number.isdigit())):
        message = f"the device {device!r} is not auto, cpu, cuda or cuda:N"
        raise UsageError(message, where="--device", remedy="give one of these")
    if word == "cpu":
        return Device("cpu", required=True)
    count = count_cuda_devices()
    index = int(number or 0)
    if count == 0 and word == "auto":
        return Device("cpu")
    if index >= count:
        have = f"this machine has {count}" if count else "this machine has no CUDA device"
        remedy = "give --device cpu or --device auto"
        raise EnvironmentLacksError(
            f"device {device} was asked for, {have}", where="--device", remedy=remedy
        )
    return Device("cuda", index, required=word == "cuda")


def count_cuda_devices() -> int:
    """Return how many CUDA devices the driver shows; asks the driver itself, without a word."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def count_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def runtime_version() -> str:
    """Return the package of ONNX Runtime and its version, without importing it."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in _installed_variants())


@cache
def _installed_variants() -> tuple[str, ...]:
    """Return the packages in the folder that is imported from; two in one overwrite each other."""
    found: dict[Path, list[str]] = {}
    for name in _VARIANTS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            folder = Path(str(metadata.distribution(name).locate_file(""))).resolve()
            found.setdefault(folder, []).append(name)
    for entry in sys.path:
        folder = Path(entry).resolve()
        if folder in found:
            return tuple(found[folder])
    return tuple(next(iter(found.values()), ()))


@cache
def _preload_libraries() -> None:
    """Let ONNX Runtime find CUDA in torch's own wheels; it reports misses on stdout, kept away."""
    import onnxruntime

    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(OSError):
            preload()
