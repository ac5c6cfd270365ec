"""`--fp16`: a graph that computes in half precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.exporting.given import FLOAT16
from surgeon.graph import forms
from surgeon.runtime.halves import to_half

if TYPE_CHECKING:
    import onnx

    from surgeon.exporting.given import Given


def make(made: onnx.ModelProto, given: Given) -> onnx.ModelProto:
    """Return the graph in half precision; inputs and outputs keep their types."""
    given.precision = FLOAT16
    return forms.like(to_half(made), made)
