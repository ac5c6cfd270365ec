"""Reads samples: pictures in folders, tables, `.npz` files, data sets of the `datasets` library.

Training, prediction and evaluation read data alike, so the room lies below both. It imports
`graph`, `records` and `errors` only. What must not enter: torch, onnxruntime, and any decision
about training. Names are loaded when they are first used: looking at a model reads no data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what the table below names, for type checkers
    from surgeon.data.ahead import work_ahead
    from surgeon.data.constants import parse_constants
    from surgeon.data.read import data_kind, needs_preprocess, open_data, open_inputs
    from surgeon.data.samples import Batch, Failure, JoinedSamples, Samples
    from surgeon.data.splits import Splits, folds, split

_MODULES = {
    "Batch": "samples",
    "Failure": "samples",
    "JoinedSamples": "samples",
    "Samples": "samples",
    "Splits": "splits",
    "data_kind": "read",
    "folds": "splits",
    "needs_preprocess": "read",
    "open_data": "read",
    "open_inputs": "read",
    "parse_constants": "constants",
    "split": "splits",
    "work_ahead": "ahead",
}

__all__ = [
    "Batch",
    "Failure",
    "JoinedSamples",
    "Samples",
    "Splits",
    "data_kind",
    "folds",
    "needs_preprocess",
    "open_data",
    "open_inputs",
    "parse_constants",
    "split",
    "work_ahead",
]


def __getattr__(name: str) -> Any:
    """Load a name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'surgeon.data' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"surgeon.data.{_MODULES[name]}"), name)
