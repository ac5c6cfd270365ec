"""A whole network in torch, and tensors back into a network: no data, no plan, no training."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx

from surgeon.graph.weights import changed_tensors, write_back
from surgeon.job.operate import load_operators
from surgeon.model import Model, load

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    Source = str | os.PathLike[str] | onnx.ModelProto | Model


def to_torch(source: Source, *, quantized: bool = False) -> Any:
    """Convert a whole network to a torch module in evaluation mode, on the CPU, dtypes as stored.

    It takes positional tensors in graph-input order (a list for a sequence, None for an absent
    optional) and returns a tensor, or a tuple in output order. Parameters keep their ONNX names.

    Args:
        source: path, ModelProto or Model.
        quantized: whether quantised weights become parameters too, under the names of their
            integers: float32, what those stand for. A run rounds them to integers, gradients pass
            straight through; `surgeon.tensors` gives the integers.

    Raises:
        UnsupportedError: an operator, version or form that is not converted; with its node.
    """
    from surgeon.torch_graph.module import to_module

    with _uncollected():
        model = load(source, hashed=False)
        load_operators(model.proto, None)
        names = model.quantized() if quantized else ()
        return to_module(model.proto, roles=model.roles(), quantized=names)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the collector of cycles away from work that makes many objects and no garbage.

    It would walk over all that torch has in memory, again and again: half a large graph's time.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def write_tensors(source: Source, tensors: Any) -> onnx.ModelProto:
    """Put tensors back into a network: a new ModelProto, nothing else changed.

    Args:
        source: the network the module was made from.
        tensors: `surgeon.tensors(module)`, `module.state_dict()`, or the module itself.

    A quantised weight is given as integers, or in floats as what they stand for (a `state_dict`).

    Raises:
        UnknownNameError: a name that is no float initializer and no quantised weight.
        UsageError: integers that the stored type cannot hold.
        ModelError: float initializers are missing.
    """
    from surgeon.torch_graph.arrays import as_initializers

    model = load(source, hashed=False)
    result = write_back(model.proto, as_initializers(model.proto, model.quantized(), tensors))
    if model.stored is not None and not changed_tensors(model.proto, result):
        unchanged = onnx.ModelProto()
        unchanged.CopyFrom(model.stored)
        return unchanged
    return result
