"""Reads samples: pictures in folders, tables, `.npz` files, data sets of the `datasets` library.

Training, prediction and evaluation read data alike, so the room lies below both. It imports
`graph`, `records` and `errors` only. What must not enter: torch, onnxruntime, and any decision
about training.
"""

from __future__ import annotations

from surgeon.data.ahead import work_ahead
from surgeon.data.arrays import parse_constants
from surgeon.data.labels import check_trainable, encode_labels, sort_labels
from surgeon.data.read import data_kind, needs_preprocess, open_data, open_inputs
from surgeon.data.samples import Batch, Failure, JoinedSamples, Samples
from surgeon.data.splits import Splits, folds, split

__all__ = [
    "Batch",
    "Failure",
    "JoinedSamples",
    "Samples",
    "Splits",
    "check_trainable",
    "data_kind",
    "encode_labels",
    "folds",
    "needs_preprocess",
    "open_data",
    "open_inputs",
    "parse_constants",
    "sort_labels",
    "split",
    "work_ahead",
]
