"""What every room's tests share: the small networks of `tests/fixtures/networks.py` by import.

And one claim that every `finetune` of every test is held to: the figures of its document are those
of the file it wrote, recomputed by plain ONNX Runtime.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parent / "fixtures"
if str(FIXTURES) not in sys.path:
    sys.path.insert(0, str(FIXTURES))


@pytest.fixture(autouse=True)
def figures_of_the_file(monkeypatch):
    """Recompute the metrics of every outcome whose samples and file are few and small."""
    import recomputed

    from surgeon import operation

    monkeypatch.setattr(operation, "Outcome", recomputed.checked(operation.Outcome))
