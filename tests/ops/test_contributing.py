"""The operator that CONTRIBUTING shows, added as it says: declared, sampled, differentiated."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from differentiable import learned
from onnx import helper
from test_against_runtime import test_a_sample_gives_what_is_right as check_forward
from test_gradients import test_gradient_is_right as check_gradient

import surgeon
from surgeon.errors import UnsupportedError
from surgeon.ops import registry

TEXT = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text("utf-8")
OPERATOR, SAMPLE = re.findall(r"```python\n(.*?)```", TEXT.split("## An option")[0], re.DOTALL)


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_declared", {k: dict(v) for k, v in registry._declared.items()})
    registry.lookup.cache_clear()
    (tmp_path / "their_operator.py").write_text(
        "import torch\nfrom torch import Tensor\nfrom surgeon.ops.registry import op\n\n"
        + OPERATOR,
        "utf-8",
    )
    (tmp_path / "their_sample.py").write_text(
        "import numpy as np\nfrom samples import f\nfrom samples_by_hand import hand\n\n"
        f"(sample,) = {SAMPLE}",
        "utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    registry.lookup.cache_clear()


def test_it_is_as_short_as_promised() -> None:
    assert len(OPERATOR.strip().splitlines()) <= 5
    assert len(SAMPLE.strip().splitlines()) == 1


def test_it_works(newcomer: None) -> None:
    sample = importlib.import_module("their_sample").sample
    node = helper.make_node("Snake", ["x"], ["y"], domain="org.example")
    with pytest.raises(UnsupportedError, match=r"org\.example Snake"):
        surgeon.onnx_backend.run_node(node, list(sample.inputs))
    registry.lookup.cache_clear()
    importlib.import_module("their_operator")
    check_forward(sample)
    assert learned(sample) == [0]
    check_gradient(sample)
    assert "Snake" in {line.name for line in registry.coverage()}
