"""Initializers: their roles, their exact bytes, their hashes, and putting tuned ones back.

An initializer's name is a weight's identity from file to file; this module is where that is kept.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Literal

import ml_dtypes
import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from surgeon.errors import ModelError, UnknownNameError, UsageError
from surgeon.graph import external
from surgeon.graph import quantized_weights as quantized
from surgeon.graph.external import PIECE, is_external
from surgeon.graph.schema import SETTING_SLOTS, STATISTICS_SLOTS, carries_gradient
from surgeon.graph.walk import FLOATS, all_graphs, captured, reads, subgraphs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from onnx import GraphProto

    from surgeon.graph.quantized_weights import QuantizedWeight

_PACKED = frozenset(
    {TensorProto.INT4, TensorProto.UINT4, TensorProto.INT2, TensorProto.UINT2,
     TensorProto.FLOAT4E2M1}
)  # fmt: skip
"""Element types of less than a byte."""

Role = Literal["parameter", "statistics", "setting", "constant"]


def initializers(model: ModelProto) -> dict[str, TensorProto]:
    """Return {name: tensor} of the top graph."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def roles(model: ModelProto) -> dict[str, Role]:
    """Say what every float initializer of a normalized model is.

    `parameter`: at least one differentiable use. `statistics`: BatchNormalization mean or variance.
    `setting`: a bound, scale, exponent, pad value or ratio. `constant`: any other (unused, or only
    where no gradient flows). Quantised weights are no floats: see `quantized_weights`.
    """
    by_hand = quantized.written_by_hand(model, quantized_weights(model).values())
    floats = [tensor.name for tensor in model.graph.initializer if tensor.data_type in FLOATS]
    learnable = _reached(model.graph, {value.name for value in model.graph.output})
    statistics: set[str] = set()
    settings: set[str] = set()
    for graph in all_graphs(model.graph):
        for node in graph.node:
            for table, names in ((STATISTICS_SLOTS, statistics), (SETTING_SLOTS, settings)):
                for slot in table.get(node.op_type, ()):
                    if slot < len(node.input):
                        names.add(node.input[slot])

    def role(name: str) -> Role:
        if name in by_hand:
            return "setting"
        if name in learnable:
            return "parameter"
        if name in statistics:
            return "statistics"
        return "setting" if name in settings else "constant"

    return {name: role(name) for name in floats}


def _reached(graph: GraphProto, outputs: set[str]) -> set[str]:
    """Return the values from which a gradient path leads to `outputs`."""
    reached = set(outputs)
    for node in reversed(graph.node):
        if not reached.intersection(name for name in node.output if name):
            continue
        for slot, name in enumerate(node.input):
            if name and carries_gradient(node, slot):
                reached.add(name)
        for _, inner in subgraphs(node):
            inside = _reached(inner, {value.name for value in inner.output})
            reached |= inside & captured(inner)
    return reached


def quantized_weights(model: ModelProto) -> dict[str, QuantizedWeight]:
    """Return the integer initializers that can learn as what they stand for, in graph order.

    They are no parameters by default: who trains them names them (`surgeon.torch_graph.module`).
    """
    found = quantized.find(model, to_array)
    if not found:
        return {}
    learnable = _reached(model.graph, {value.name for value in model.graph.output})
    return {name: weight for name, weight in found.items() if name in learnable}


def sizes(model: ModelProto) -> dict[str, int]:
    """Return {initializer: number of elements}."""
    return {t.name: int(np.prod(t.dims, dtype=np.int64)) for t in model.graph.initializer}


def dense(tensor: TensorProto) -> bytes | memoryview:
    """Return a tensor's little-endian dense bytes, whatever field or file stores it."""
    if is_external(tensor):
        return external.view(tensor).data
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    if tensor.data_type == TensorProto.STRING:
        return b"".join(struct.pack("<q", len(item)) + item for item in tensor.string_data)
    if not tensor.dims or all(tensor.dims):
        filled = TensorProto()
        filled.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)))
        return bytes(filled.raw_data)
    return b""


def same_bytes(one: bytes | memoryview, other: bytes | memoryview) -> bool:
    """Say whether two runs of bytes are equal, a piece at a time, so that mapped ones stay so."""
    if len(one) != len(other):
        return False
    left, right = (np.asarray(memoryview(item)) for item in (one, other))
    return all(
        np.array_equal(left[start : start + PIECE], right[start : start + PIECE])
        for start in range(0, len(left), PIECE)
    )


def same_values(one: TensorProto, other: TensorProto) -> bool:
    """Say whether two tensors have the same type, shape and bytes."""
    if one.data_type != other.data_type or list(one.dims) != list(other.dims):
        return False
    return external.same_place(one, other) or same_bytes(dense(one), dense(other))


def changed_tensors(before: ModelProto, after: ModelProto) -> list[str]:
    """Return the initializers whose values differ."""
    tensors = {tensor.name: tensor for tensor in after.graph.initializer}
    return [t.name for t in before.graph.initializer if not same_values(t, tensors[t.name])]


def hash_tensors(tensors: Iterable[TensorProto]) -> str:
    """Return the sha256 of a tensor set.

    Over the tensors in name order (by code point): utf-8 name, NUL, element type number, number of
    dims and dims (each a little-endian int64), then the little-endian dense bytes.
    """
    digest = hashlib.sha256()
    for tensor in sorted(tensors, key=lambda item: item.name):
        digest.update(tensor.name.encode() + b"\0")
        numbers = (tensor.data_type, len(tensor.dims), *tensor.dims)
        digest.update(struct.pack(f"<{len(numbers)}q", *numbers))
        digest.update(dense(tensor))
    return digest.hexdigest()


def to_array(tensor: TensorProto) -> np.ndarray:
    """Return a tensor's values; bfloat16 and smaller floats come in their ml_dtypes type.

    Those of an external tensor are a read-only view of its file.
    """
    return external.array(tensor) if is_external(tensor) else numpy_helper.to_array(tensor)


def store(tensor: TensorProto, values: np.ndarray) -> None:
    """Put values into a TensorProto, keeping its name, type and the field that stores it.

    Raises:
        UsageError: the shape is not the tensor's.
    """
    if tuple(values.shape) != tuple(tensor.dims):
        raise UsageError(
            f"tensor {tensor.name!r} has shape {list(values.shape)}, the file has "
            f"{list(tensor.dims)}",
            remedy="a weight keeps its shape; change the graph by `operate`",
        )
    wanted = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    values = np.ascontiguousarray(values.astype(wanted, copy=False))
    if is_external(tensor):
        tensor.raw_data = numpy_helper.from_array(values).raw_data
        external.forget(tensor)
    elif tensor.HasField("raw_data"):
        tensor.raw_data = numpy_helper.from_array(values).raw_data
    elif tensor.data_type == TensorProto.FLOAT:
        tensor.float_data[:] = values.reshape(-1).tolist()
    elif tensor.data_type == TensorProto.DOUBLE:
        tensor.double_data[:] = values.reshape(-1).tolist()
    elif tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        tensor.int32_data[:] = values.reshape(-1).view(np.uint16).astype(np.int32).tolist()
    elif tensor.data_type in quantized.INTEGERS and tensor.data_type not in _PACKED:
        tensor.int32_data[:] = values.reshape(-1).astype(np.int32).tolist()
    else:
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def write_back(
    model: ModelProto, tensors: Mapping[str, np.ndarray], *, partial: bool = False
) -> ModelProto:
    """Return a copy of a normalized model with the named float initializers replaced.

    Nothing else changes: nodes, other initializers, metadata stay byte for byte; a tensor whose
    values are the stored ones stays byte for byte too. Quantised weights may be named: their
    integers are replaced, their scales stay.

    Args:
        model: normalized model.
        tensors: {initializer name: values in its shape}.
        partial: allow that some float initializers are not named (they stay).

    Raises:
        UnknownNameError: a name is no float initializer of the model, and no quantised weight.
        UsageError: values for a quantised weight that its type cannot hold.
        ModelError: float initializers are missing from `tensors` (unless `partial`).
    """
    result = ModelProto()
    result.CopyFrom(model)
    floats = {t.name: t for t in result.graph.initializer if t.data_type in FLOATS}
    known = dict(floats)
    if any(name not in floats for name in tensors):
        integers = quantized_weights(model)
        known |= {t.name: t for t in result.graph.initializer if t.name in integers}
    unknown = [name for name in tensors if name not in known]
    if unknown:
        raise UnknownNameError(
            "initializer", unknown[0], known, where=f"{len(unknown)} of {len(tensors)} names"
        )
    missing = [name for name in floats if name not in tensors]
    if missing and not partial:
        raise ModelError(
            f"{len(missing)} float initializers are missing from the tensors to write back",
            where=", ".join(missing[:5]) + (", …" if len(missing) > 5 else ""),
            remedy="pass every tensor of surgeon.tensors(module), or the module itself",
        )
    for name, values in tensors.items():
        tensor = known[name]
        array = np.asarray(values)
        if name not in floats:
            array = _fitting(tensor, array)
        if not same_bits(tensor, array):
            store(tensor, array)
    return result


def _fitting(tensor: TensorProto, values: np.ndarray) -> np.ndarray:
    """Return values for a quantised weight in its stored type, in which all of them must fit."""
    wanted = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if values.dtype == wanted:
        return values
    if tensor.data_type not in quantized.INTEGERS or values.dtype.kind not in "iu":
        raise UsageError(
            f"tensor {tensor.name!r} is stored as {wanted}, the values are {values.dtype}",
            remedy="give the integers, as surgeon.tensors(module) has them",
        )
    limits = ml_dtypes.iinfo(wanted)  # type: ignore[no-untyped-call]
    if values.size and not limits.min <= int(values.min()) <= int(values.max()) <= limits.max:
        raise UsageError(
            f"tensor {tensor.name!r} is stored as {wanted}, from {limits.min} to {limits.max}; the "
            f"values go from {values.min()} to {values.max()}",
            remedy="saturate them first",
        )
    return values.astype(wanted)


def same_bits(tensor: TensorProto, values: np.ndarray) -> bool:
    """Say whether values are bit for bit what the tensor stores."""
    if tuple(values.shape) != tuple(tensor.dims):
        return False
    wanted = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if values.dtype != wanted:
        return False
    if tensor.data_type in _PACKED:  # several to a byte in the file, one to a byte in an array
        return bool((values == to_array(tensor)).all())
    content = np.ascontiguousarray(values).reshape(-1)
    return same_bytes(content.view(np.uint8).data, dense(tensor))


def non_finite(model: ModelProto) -> list[str]:
    """Return the float initializers that hold NaN or infinity."""
    return [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type in FLOATS and not np.isfinite(to_array(tensor).astype(np.float64)).all()
    ]


def head_weights(model: ModelProto) -> tuple[str, ...]:
    """Return weight and bias of the Gemm that makes the output; empty where there is none."""
    stored = {tensor.name for tensor in model.graph.initializer}
    ends = {value.name for value in model.graph.output[:1]}
    for node in reversed(model.graph.node):
        if node.op_type == "Gemm" and node.output[0] in ends:
            names = tuple(node.input[1:3])
            return names if len(names) == 2 and stored.issuperset(names) else ()
    return ()


def head_input(model: ModelProto, weight: str) -> str | None:
    """Return the value that a head's weight is multiplied with; None where nothing is."""
    made = {weight}  # and what is made of it alone: a weight may be turned first
    stored = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if made.isdisjoint(node.input):
            continue
        features = [name for name in node.input if name and name not in made | stored]
        if features:
            return str(features[0])
        made.update(node.output)
    return None


def tuned_names(model: ModelProto, trainable: Sequence[str]) -> list[str]:
    """Return what training may change: the trainable initializers, and the statistics of every
    BatchNormalization whose scale or bias is among them.
    """  # noqa: D205 - one sentence
    trains = set(trainable)
    role = roles(model)
    moving: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "BatchNormalization" and trains.intersection(node.input[1:3]):
            moving |= {name for name in reads(node) if role.get(name) == "statistics"}
    return [t.name for t in model.graph.initializer if t.name in trains | moving]
