"""Devices and precisions: what is missing is refused, what ran out is recognised."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from surgeon.errors import EnvironmentLacksError, UsageError
from surgeon.train.device import (
    _glibc,
    arithmetic,
    autocast,
    check_precision,
    choose,
    is_out_of_memory,
    kept_memory,
    peak_memory,
)


def test_cpu_and_auto():
    assert choose("cpu") == torch.device("cpu")
    assert choose("auto").type in {"cpu", "cuda"}


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:x", "CPU", "cpu:0", "mps"])
def test_other_names_are_refused(name):
    with pytest.raises(UsageError):
        choose(name)


@pytest.mark.parametrize("name", ["cuda:99", "cuda"])
def test_a_missing_gpu_is_exit_3(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentLacksError) as caught:
        choose(name)
    assert caught.value.exit == 3
    assert name in str(caught.value)


def test_precision():
    cpu = torch.device("cpu")
    for name in ("float32", "bf16", "fp16"):
        check_precision(name, cpu)
    with pytest.raises(UsageError):
        check_precision("int8", cpu)
    x = torch.ones(2, 2)
    with autocast("float32", cpu):
        assert (x @ x).dtype == torch.float32
    with autocast("bf16", cpu):
        assert (x @ x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("FIND was unable to find an engine to execute this computation"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("out of memory"), False),
        (None, False),
    ],
)
def test_out_of_memory_is_recognised(error, expected):
    assert is_out_of_memory(error) is expected


def test_a_cause_counts():
    error = ValueError("node failed")
    error.__cause__ = MemoryError()
    assert is_out_of_memory(error)


KEPT = """
from pathlib import Path
import torch
from surgeon.train.device import kept_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

before = resident()
with kept_memory(torch.device("cpu")):
    for _ in range(3):
        torch.ones(64 << 18)  # 64 MiB, which glibc would map singly and return at once
    inside = resident()
print(inside - before, resident() - before)
"""


def test_memory_is_kept_for_a_while_and_given_back():
    """In a process of its own: here, other tests have left free memory behind."""
    if not Path("/proc/self/statm").exists() or not _glibc():
        pytest.skip("neither Linux nor glibc")
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    inside, after = map(int, done.stdout.split())
    assert inside > 48 << 20
    assert after < 16 << 20


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr("platform.libc_ver", lambda: ("musl", "1.2"))
    with kept_memory(torch.device("cpu")):
        assert torch.ones(3).sum() == 3


def test_peak_memory_counts_what_is_gone():
    before = peak_memory(torch.device("cpu"))
    if before is None:
        pytest.skip("the system does not tell")
    torch.ones((before + (64 << 20)) // 4)
    assert peak_memory(torch.device("cpu")) > before + (32 << 20)


@pytest.mark.gpu
def test_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert choose("cuda").type == "cuda"


def test_tf32_is_a_matter_of_training_passes(monkeypatch):
    """The switches are global: set for a while, and put back whatever happens."""
    seen = []
    gpu = torch.device("cuda", 0)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for exact, expected in ((False, ("high", True)), (True, ("highest", False))):
        with contextlib.suppress(ZeroDivisionError), arithmetic(gpu, exact=exact):
            seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
            raise ZeroDivisionError
        assert seen[-1] == expected
        assert before == (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    with arithmetic(torch.device("cpu"), exact=False):
        assert torch.get_float32_matmul_precision() == before[0]


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9"
)
def test_tf32_set_by_the_newer_names_is_read():
    done = subprocess.run([sys.executable, "-c", NEWER], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["high"]


NEWER = """
import torch
from surgeon.train.device import _products
torch.backends.cuda.matmul.fp32_precision = "tf32"
print(_products())
"""
