"""A network as torch's exporters write it: at a chosen opset, BatchNormalization folded or kept.

*Folded* is what the exporters do by default. *Kept*: the TorchScript exporter is told to preserve
the mode and to fold no constants, the dynamo exporter not to optimize.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from typing import TYPE_CHECKING, Final

import onnx
import torch
from architectures import build, networks

if TYPE_CHECKING:
    from collections.abc import Iterator

EXPORTERS: Final = ("torchscript", "dynamo")
OPSETS: Final = (13, 17, 20, 23)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what the exporters print, log and warn to themselves."""
    sink = io.StringIO()
    before = logging.root.manager.disable
    with (
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


@functools.lru_cache(maxsize=1)
def _traced(name: str) -> torch.export.ExportedProgram:
    """Return what the dynamo exporter translates; the same for every opset."""
    return torch.export.export(build(name), networks()[name].inputs)


def export(name: str, exporter: str, opset: int, *, kept: bool) -> onnx.ModelProto:
    """Export a network.

    The opset of the file may be higher than asked for: the dynamo exporter writes 18 and converts
    downwards where it can.
    """
    inputs = networks()[name].inputs
    with quiet():
        if exporter == "dynamo":
            program = torch.onnx.export(
                _traced(name), dynamo=True, opset_version=opset, optimize=not kept
            )
            assert program is not None
            return program.model_proto
        stream = io.BytesIO()
        mode = torch.onnx.TrainingMode.PRESERVE if kept else torch.onnx.TrainingMode.EVAL
        torch.onnx.export(
            build(name), inputs, stream, dynamo=False, opset_version=opset, training=mode,
            do_constant_folding=not kept,
        )  # fmt: skip
    return onnx.load_from_string(stream.getvalue())


def opset_of(proto: onnx.ModelProto) -> int:
    """Return the opset of ONNX's own domain that a file declares."""
    return next(o.version for o in proto.opset_import if o.domain in {"", "ai.onnx"})
