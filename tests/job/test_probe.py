"""Where the head is solved: on the GPU where it fits, on the CPU where it does not."""

from __future__ import annotations

import sys

import networks
import numpy as np
import pytest
import torch

import surgeon
from surgeon.job import solve as probe

SAID = "the head did not fit into the GPU's memory: solved on the CPU"


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    x = random.standard_normal((60, 3, 12, 12)) + labels[:, None, None, None]
    return {"x": x.astype(np.float32), "labels": labels}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tuned(data):
    return lambda: surgeon.finetune(networks.convnet(), data, case="small-similar", device="cpu")


@pytest.fixture
def narrow(monkeypatch):
    """A GPU whose memory runs out, in the words of torch or of its libraries."""
    real, asked = probe.solve, []

    def arrange(error):
        def solve(*arguments, device, **options):
            asked.append((str(device), sys.exc_info()[1]))
            if str(device) != "cpu":
                raise error
            return real(*arguments, device=device, **options)

        monkeypatch.setattr(probe, "solve", solve)
        monkeypatch.setattr(probe, "torch_device", lambda _: torch.device("cuda:0"))
        return asked

    return arrange


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")],
    ids=["torch", "library"],
)
def test_a_head_too_large_for_the_gpu_is_solved_on_the_cpu(error, tuned, narrow):
    expected = tuned()
    asked = narrow(error)
    outcome = tuned()
    # Solved again when the error is over: its frames hold the memory.
    assert asked == [("cuda:0", None), ("cpu", None)]
    assert outcome.document()["warnings"].count(SAID) == 1
    assert SAID not in expected.document()["warnings"]
    assert outcome.metrics == expected.metrics


def test_any_other_error_is_raised(tuned, narrow):
    asked = narrow(RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory"):
        tuned()
    assert len(asked) == 1


def test_a_cpu_without_memory_is_not_asked_twice(tuned, monkeypatch):
    asked = []

    def full(*_, device, **__):
        asked.append(device)
        raise MemoryError

    monkeypatch.setattr(probe, "solve", full)
    with pytest.raises(MemoryError):
        tuned()
    assert len(asked) == 1
