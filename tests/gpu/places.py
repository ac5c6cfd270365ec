"""Where tests of a GPU run what: ONNX Runtime may have none where torch has one."""

from __future__ import annotations

from functools import cache

import onnx.parser
import pytest

from surgeon.runtime.places import Device
from surgeon.runtime.sessions import open_session


@cache
def runtime_has_gpu() -> bool:
    """Tell whether ONNX Runtime computes on a GPU here: its list of providers promises more."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[3] x) => (float[3] y) { y = Relu(x) }'
    )
    return open_session(model, device=Device("cuda")).device == "cuda"


def named(device: str) -> str:
    """Return what to ask for: a GPU that is asked for by name has to do for ONNX Runtime, too."""
    return device if device == "cpu" or runtime_has_gpu() else "auto"


def skip_without_runtime(device: str) -> None:
    """Skip a test of ONNX Runtime on a device that it does not have."""
    if device != "cpu" and not runtime_has_gpu():
        pytest.skip("ONNX Runtime has no GPU here")
