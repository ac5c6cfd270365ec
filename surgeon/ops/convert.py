"""ONNX's element types, tensors and attributes as torch and Python values, and back, bit for bit.

What must not enter: the meaning of an operator, and files (a tensor with external data is read by
`surgeon.graph` first).

Element types torch lacks travel in a wider carrier, exactly: int4 and int2 in int8, uint4 and uint2
in uint8, float4 in float32. Strings travel as numpy object arrays.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from surgeon.errors import ModelError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

TORCH: Final[dict[int, torch.dtype]] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.COMPLEX64: torch.complex64,
    TensorProto.COMPLEX128: torch.complex128,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    TensorProto.FLOAT8E8M0: torch.float8_e8m0fnu,
}
"""Element types that torch has itself."""

CARRIERS: Final[dict[int, torch.dtype]] = {
    TensorProto.UINT4: torch.uint8,
    TensorProto.INT4: torch.int8,
    TensorProto.UINT2: torch.uint8,
    TensorProto.INT2: torch.int8,
    TensorProto.FLOAT4E2M1: torch.float32,
}
"""Element types that travel in a wider one."""

ONNX: Final[dict[torch.dtype, int]] = {dtype: number for number, dtype in TORCH.items()}

WEIGHT_TYPES: Final = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
)
"""Element types of initializers that are parameters or buffers of a module."""

_BITS: Final = {
    torch.bfloat16: (torch.int16, ml_dtypes.bfloat16),
    torch.float8_e4m3fn: (torch.uint8, ml_dtypes.float8_e4m3fn),
    torch.float8_e4m3fnuz: (torch.uint8, ml_dtypes.float8_e4m3fnuz),
    torch.float8_e5m2: (torch.uint8, ml_dtypes.float8_e5m2),
    torch.float8_e5m2fnuz: (torch.uint8, ml_dtypes.float8_e5m2fnuz),
    torch.float8_e8m0fnu: (torch.uint8, ml_dtypes.float8_e8m0fnu),
}
"""Types numpy knows through ml_dtypes only: the integer type their bits travel in."""

_FROM_ML: Final = {np.dtype(ml): (bits, dtype) for dtype, (bits, ml) in _BITS.items()}

_SMALL: Final = {
    np.dtype(ml_dtypes.int4): np.int8,
    np.dtype(ml_dtypes.uint4): np.uint8,
    np.dtype(ml_dtypes.int2): np.int8,
    np.dtype(ml_dtypes.uint2): np.uint8,
    np.dtype(ml_dtypes.float4_e2m1fn): np.float32,
}


class Fill(NamedTuple):
    """A one-element tensor attribute as a number of the host and its dtype."""

    value: Any
    dtype: torch.dtype


def torch_dtype(number: int) -> torch.dtype:
    """Return the dtype in which an ONNX element type travels.

    Raises:
        UnsupportedError: torch has no such type and no carrier is known (strings, undefined).
    """
    dtype = TORCH.get(number) or CARRIERS.get(number)
    if dtype is None:
        raise UnsupportedError(f"element type {number} is not a tensor type here")
    return dtype


def from_numpy(array: np.ndarray[Any, Any]) -> Any:
    """Return a tensor with the same bits (a copy); strings stay a numpy object array."""
    array = np.asarray(array)
    if array.dtype in _FROM_ML:
        bits, dtype = _FROM_ML[array.dtype]
        as_integers = np.array(array, order="C").view(np.int16 if bits is torch.int16 else np.uint8)
        return torch.from_numpy(as_integers).view(dtype)
    if array.dtype in _SMALL:
        return torch.from_numpy(array.astype(_SMALL[array.dtype]))
    if array.dtype.kind in "OUS":
        return array.astype(object)
    return torch.from_numpy(np.array(array, order="C"))


def to_numpy(tensor: Any, number: int = 0) -> np.ndarray[Any, Any]:
    """Return a tensor's values as numpy, detached, from any device.

    Args:
        tensor: tensor, or numpy array of strings, which is returned as it is.
        number: the ONNX element type, needed only where the tensor is a carrier.
    """
    if isinstance(tensor, np.ndarray):
        return tensor
    tensor = tensor.detach().cpu().resolve_conj().contiguous()
    if tensor.dtype in _BITS:
        bits, ml = _BITS[tensor.dtype]
        return tensor.view(bits).numpy().view(ml)  # type: ignore[no-any-return]
    array: np.ndarray[Any, Any] = tensor.numpy()
    if number in CARRIERS:
        return array.astype(onnx.helper.tensor_dtype_to_np_dtype(number))
    return array


def tensor(proto: TensorProto) -> Any:
    """Return a TensorProto as a tensor with storage of its own (strings: a numpy object array).

    Raises:
        ModelError: its data lie in an external file that was not loaded, or do not fit its shape.
    """
    name = proto.name or "attribute"
    if proto.data_location == TensorProto.EXTERNAL and not proto.raw_data:
        raise ModelError(
            "a tensor's external data were not loaded",
            where=name,
            remedy="load the file with surgeon.load, which reads them",
        )
    dtype = TORCH.get(proto.data_type)
    try:
        if dtype is not None and proto.raw_data and np.little_endian:
            shape = tuple(proto.dims)
            raw = bytearray(proto.raw_data)
            if len(raw) != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{len(raw)} bytes for shape {shape} of {dtype}")  # noqa: TRY301 - one handler words every failure
            return torch.frombuffer(raw, dtype=dtype).reshape(shape)
        return from_numpy(numpy_helper.to_array(proto)).reshape(tuple(proto.dims))
    except (ValueError, TypeError) as error:
        raise ModelError(f"a tensor cannot be read: {error}", where=name) from error


def sparse_tensor(proto: onnx.SparseTensorProto) -> Tensor:
    """Return a sparse tensor as a dense one."""
    values = tensor(proto.values)
    indices = tensor(proto.indices)
    shape = tuple(proto.dims)
    dense = torch.zeros(math.prod(shape), dtype=values.dtype)
    if indices.dim() == 2:
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        indices = (indices * torch.tensor(strides)).sum(1)
    dense[indices] = values
    return dense.reshape(shape)


_FITTING: Final = {
    **dict.fromkeys(("bool", "dtype", "int"), (onnx.AttributeProto.INT,)),
    **dict.fromkeys(("float", "number"), (onnx.AttributeProto.FLOAT, onnx.AttributeProto.INT)),
    "floats": (onnx.AttributeProto.FLOATS,),
    "ints": (onnx.AttributeProto.INTS,),
    "str": (onnx.AttributeProto.STRING,),
    "strings": (onnx.AttributeProto.STRINGS,),
    "fill": (onnx.AttributeProto.TENSOR,),
}
"""Types of attributes that each kind of parameter takes; the kinds that are not here take any."""


def attribute(
    proto: onnx.AttributeProto,
    kind: str = "any",
    subgraph: Callable[[onnx.GraphProto], Any] | None = None,
) -> Any:
    """Return an attribute as the value a parameter of some kind wants.

    Args:
        proto: the attribute.
        kind: kind of the parameter, see `surgeon.ops.registry`.
        subgraph: makes something callable of a graph.

    Raises:
        ModelError: the attribute's type does not fit what the operator takes.
        UnsupportedError: its type is not converted.
    """
    types = onnx.AttributeProto
    value: Any
    if kind in _FITTING and proto.type not in _FITTING[kind]:
        wanted = types.AttributeType.Name(_FITTING[kind][0])
        raise ModelError(
            f"attribute {proto.name!r} is {types.AttributeType.Name(proto.type)}, not {wanted}",
            remedy="the file is not valid for the opset it declares",
        )
    if proto.type == types.INT:
        value = proto.i
        if kind == "bool":
            return bool(value)
        if kind == "dtype":
            return torch_dtype(value)
        return float(value) if kind in {"float", "number"} else value
    if proto.type == types.FLOAT:
        return proto.f
    if proto.type == types.STRING:
        return proto.s.decode("utf-8", "surrogateescape")
    if proto.type == types.INTS:
        return list(proto.ints)
    if proto.type == types.FLOATS:
        return list(proto.floats)
    if proto.type == types.STRINGS:
        return [s.decode("utf-8", "surrogateescape") for s in proto.strings]
    if proto.type == types.TENSOR:
        value = tensor(proto.t)
        if kind == "fill":
            return Fill(value.flatten()[0].item(), value.dtype)
        return value
    if proto.type == types.SPARSE_TENSOR:
        return sparse_tensor(proto.sparse_tensor)
    if proto.type == types.GRAPH and subgraph is not None:
        return subgraph(proto.g)
    if proto.type == types.TYPE_PROTO:
        return proto.tp
    raise UnsupportedError(f"attribute {proto.name!r} has a type that is not converted")


def is_autocast(tensor: Tensor) -> bool:
    """Tell whether torch chooses the types that operators compute in, on this tensor's device."""
    kind = tensor.device.type
    known = kind in {"cpu", "cuda"} and tensor.is_floating_point()
    return known and torch.is_autocast_enabled(kind)
