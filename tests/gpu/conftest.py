"""Every test of this room takes `device`: the CPU always, and a GPU under `pytest -m gpu`.

So what a GPU is held to is seen to hold on the CPU first, with the same code and bounds.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from surgeon.train import step
from surgeon.train.device import arithmetic


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
            ],
        ),
    ]
)
def device(request):
    return request.param


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    """Keep the feature cache of every test to itself."""
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def full_precision():
    """Float32 means float32 inside: TF32 keeps ten bits of mantissa, too few for parity."""

    @contextmanager
    def scope():
        before = torch.get_float32_matmul_precision()
        convolutions = torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
            torch.backends.cudnn.allow_tf32 = convolutions

    with scope():
        yield


@pytest.fixture
def exact(monkeypatch):
    """Train in full float32: TF32 is what a GPU would do by itself, and a CPU cannot."""
    monkeypatch.setattr(step, "arithmetic", lambda device, exact: arithmetic(device, exact=True))
