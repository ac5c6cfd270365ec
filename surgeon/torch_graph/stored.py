"""Stored weights as tensors, whether they lie in the message or in a file beside it.

`ops` never sees a file, and `graph` no torch: this is where the two meet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgeon.graph import external
from surgeon.ops import convert

if TYPE_CHECKING:
    from onnx import TensorProto


def as_tensor(stored: TensorProto) -> Any:
    """Return an initializer as a tensor with storage of its own (strings: a numpy object array).

    Raises:
        ModelError: its data do not fit its shape, or its file changed.
    """
    if external.is_external(stored):
        return convert.from_numpy(external.array(stored))
    return convert.tensor(stored)


__all__ = ["as_tensor"]
