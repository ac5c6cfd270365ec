"""Shape arithmetic on the host: small arrays of Python numbers, and the operators on them.

Exported graphs compute shapes with tensors (Shape → Gather → Concat → Reshape). Done on a device
this would wait for it at every step, and would break `torch.compile(fullgraph=True)`; done with
Python numbers it does neither, and a symbolic size stays symbolic.
What must not enter: anything that touches tensor data, and any number that is not exact. Floats are
rounded to single precision after every operation, as ONNX Runtime does it.
"""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LIMIT: Final = 64
"""Elements up to which a constant takes part in shape arithmetic."""


class Host(NamedTuple):
    """A small array: values in row-major order, its shape, the dtype it stands for."""

    values: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype

    def tensor(self, device: torch.device | None = None) -> Tensor:
        """Return it as a tensor of its shape on a device.

        Elsewhere than on the CPU it is filled in there: numbers copied to a device are waited for.
        """
        if device is None or device.type == "cpu" or not self.values:
            made = torch.tensor(list(self.values), dtype=self.dtype, device=device)
            return made.reshape(self.shape)
        first, *others = self.values
        if all([value == first for value in others]):  # noqa: C419 - a tracer knows no generators
            return torch.full(self.shape, first, dtype=self.dtype, device=device)
        filled = [torch.full((), v, dtype=self.dtype, device=device) for v in self.values]
        return torch.stack(filled).reshape(self.shape)


EXACT: Final = frozenset({torch.int64, torch.int32, torch.bool, torch.float32})
"""Element types that are computed on the host; others become tensors."""


def of_tensor(value: Tensor) -> Host | None:
    """Return a small CPU tensor as a host array, or None where it does not qualify."""
    if value.numel() > LIMIT or value.dtype not in EXACT:
        return None
    return Host(tuple(value.flatten().tolist()), tuple(value.shape), value.dtype)


def single(value: float) -> float:
    """Round to single precision by Veltkamp's splitting, which a tracer can follow."""
    if not math.isfinite(value) or abs(value) > 1e30:
        return value
    spread = value * 536870913.0  # 2**29 + 1 leaves 24 of 53 bits
    return spread - (spread - value)


def elements(dims: Sequence[Any]) -> Any:
    """Return the product of some sizes, in a form that a tracer can follow."""
    total = 1
    for dim in dims:
        total = total * dim
    return total


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if dtype is torch.bool:
        return bool(value)
    if dtype is torch.float32:
        return single(float(value))
    return int(value)


def _broadcast(*arrays: Host) -> tuple[list[tuple[Any, ...]], tuple[int, ...]]:
    """Return the element tuples of several arrays under numpy broadcasting, and the shape."""
    first = arrays[0]
    if all([a.shape == first.shape for a in arrays]):  # noqa: C419 - a tracer knows no generators
        return list(zip(*(a.values for a in arrays), strict=True)), first.shape
    rank = max(len(a.shape) for a in arrays)
    shapes = [(1,) * (rank - len(a.shape)) + a.shape for a in arrays]
    shape = tuple([max(dims) if 0 not in dims else 0 for dims in zip(*shapes, strict=True)])
    rows = []
    for index in product(*(range(d) for d in shape)):
        row = []
        for array, own in zip(arrays, shapes, strict=True):
            offset = 0
            for i, d in zip(index, own, strict=True):
                offset = offset * d + (i if d != 1 else 0)
            row.append(array.values[offset])
        rows.append(tuple(row))
    return rows, shape


def _elementwise(function: Callable[..., Any], result: torch.dtype | None = None) -> Any:
    def run(*arrays: Host, **_: Any) -> Host:
        rows, shape = _broadcast(*arrays)
        dtype = result or arrays[0].dtype
        return Host(tuple(_cast(function(*row), dtype) for row in rows), shape, dtype)

    return run


def _strides(shape: Sequence[int]) -> list[int]:
    strides, step = [0] * len(shape), 1
    for axis in range(len(shape) - 1, -1, -1):
        strides[axis] = step
        step *= shape[axis]
    return strides


def _take(data: Host, axis: int, chosen: Sequence[int]) -> Host:
    """Select positions along one axis."""
    before = elements(data.shape[:axis])
    size = data.shape[axis]
    after = elements(data.shape[axis + 1 :])
    values = tuple(
        data.values[(b * size + c) * after + a]
        for b in range(before)
        for c in chosen
        for a in range(after)
    )
    shape = (*data.shape[:axis], len(chosen), *data.shape[axis + 1 :])
    return Host(values, shape, data.dtype)


def _gather(data: Host, indices: Host, *, axis: int = 0) -> Host:
    axis %= len(data.shape)
    size = data.shape[axis]
    taken = _take(data, axis, [i + size if i < 0 else i for i in indices.values])
    return taken._replace(shape=(*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))


def _concat(*inputs: Host, axis: int = 1) -> Host:
    first = inputs[0]
    axis %= len(first.shape)
    before = elements(first.shape[:axis])
    values: list[Any] = []
    for b in range(before):
        for array in inputs:
            block = elements(array.shape[axis:])
            values.extend(array.values[b * block : (b + 1) * block])
    total = sum([array.shape[axis] for array in inputs])
    return Host(tuple(values), (*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype)


def _squeeze(data: Host, axes: Host | list[int] | None = None) -> Host:
    if axes is None:
        return data._replace(shape=tuple(d for d in data.shape if d != 1))
    rank = len(data.shape)
    gone = {a % rank for a in _integers(axes)}
    return data._replace(shape=tuple(d for i, d in enumerate(data.shape) if i not in gone))


def _unsqueeze(data: Host, axes: Host | list[int]) -> Host:
    wanted = _integers(axes)
    rank = len(data.shape) + len(wanted)
    new = {a % rank for a in wanted}
    old = iter(data.shape)
    return data._replace(shape=tuple(1 if i in new else next(old) for i in range(rank)))


def _integers(value: Host | list[int]) -> list[int]:
    return list(value.values) if isinstance(value, Host) else list(value)


def _slice(
    data: Host,
    starts: Host | list[int],
    ends: Host | list[int],
    axes: Host | list[int] | None = None,
    steps: Host | list[int] | None = None,
) -> Host:
    begin, end = _integers(starts), _integers(ends)
    along = _integers(axes) if axes is not None else list(range(len(begin)))
    stride = _integers(steps) if steps is not None else [1] * len(begin)
    for axis, b, e, s in zip(along, begin, end, stride, strict=True):
        position = axis % len(data.shape)
        size = data.shape[position]
        data = _take(data, position, range(size)[slice_of(b, e, s, size)])
    return data


def slice_of(start: int, end: int, step: int, size: int) -> slice:
    """Return the Python slice of an ONNX one.

    An end far below zero with a negative step means: down to and with the first element.
    """
    if step < 0 and end < -size:
        return slice(start, None, step)
    return slice(start, end, step)


def _reshape(data: Host, shape: Host | list[int], *, allowzero: bool = False) -> Host:
    wanted = _integers(shape)
    if not allowzero:
        wanted = [data.shape[i] if d == 0 else d for i, d in enumerate(wanted)]
    if -1 in wanted:
        known = elements([d for d in wanted if d != -1])
        wanted[wanted.index(-1)] = len(data.values) // known if known else 0
    return data._replace(shape=tuple(wanted))


def _expand(data: Host, shape: Host) -> Host | None:
    if elements(shape.values) > LIMIT:
        return None
    ones = Host((1,) * elements(shape.values), tuple(shape.values), torch.int64)
    rows, full = _broadcast(data, ones)
    return Host(tuple(row[0] for row in rows), full, data.dtype)


def _constant_of_shape(input: Host, *, value: Any = None) -> Host | None:
    if len(input.values) != 1 or type(input.values[0]) is not int or input.values[0] > 8:
        return None
    number, dtype = (0.0, torch.float32) if value is None else value
    if dtype not in EXACT:
        return None
    return Host((number,) * input.values[0], (input.values[0],), dtype)


def _split(input: Host, split: Host | list[int] | None = None, *, axis: int = 0, outputs: int = 1,
           num_outputs: int | None = None) -> tuple[Host, ...]:  # fmt: skip
    axis %= len(input.shape)
    size = input.shape[axis]
    count = num_outputs or outputs
    if split is None:
        width = -(-size // count)
        sizes = [min(width, size - i * width) for i in range(count)]
    else:
        sizes = _integers(split)
    parts, start = [], 0
    for length in sizes:
        parts.append(_take(input, axis, range(start, start + length)))
        start += length
    return tuple(parts)


def _reduce(function: Callable[[Sequence[Any]], Any]) -> Any:
    def run(
        data: Host,
        axes: Host | list[int] | None = None,
        *,
        keepdims: bool = True,
        noop_with_empty_axes: bool = False,
    ) -> Host | None:
        rank = len(data.shape)
        wanted = [] if axes is None else [a % rank for a in _integers(axes)]
        if not wanted and noop_with_empty_axes:
            return data
        if rank > 1 and wanted and len(wanted) != rank:
            return None
        shape = (1,) * rank if keepdims else ()
        return Host((_cast(function(data.values), data.dtype),), shape, data.dtype)

    return run


def _divide(a: Any, b: Any) -> Any:
    if isinstance(a, float) or isinstance(b, float):
        return a / b if b else math.copysign(math.inf, a) if a else math.nan
    return a // b if (a >= 0) == (b > 0) else -(-a // b)  # ONNX truncates towards zero


def _transpose(data: Host, *, perm: list[int] | None = None) -> Host:
    order = perm or list(range(len(data.shape)))[::-1]
    strides = _strides(data.shape)
    shape = tuple(data.shape[p] for p in order)
    values = tuple(
        data.values[sum([i * strides[p] for i, p in zip(index, order, strict=True)])]
        for index in product(*(range(d) for d in shape))
    )
    return Host(values, shape, data.dtype)


def _convert(input: Host, *, to: int, **_: Any) -> Host | None:
    dtype = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool}.get(to)
    if dtype is None or (dtype is torch.int32 and any(abs(v) >= 2**31 for v in input.values)):
        return None
    return Host(tuple(_cast(v, dtype) for v in input.values), input.shape, dtype)


OPERATORS: Final[dict[str, Callable[..., Any]]] = {
    "Identity": lambda input: input,  # noqa: A006 - the specification's name
    "Shape": lambda data, start=0, end=None: Host(
        tuple(data.shape[start:end]), (len(data.shape[start:end]),), torch.int64
    ),
    "Size": lambda data: Host((len(data.values),), (), torch.int64),
    "Gather": _gather,
    "Concat": _concat,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Reshape": _reshape,
    "Flatten": lambda input, axis=1: input._replace(  # noqa: A006 - the specification's name
        shape=(elements(input.shape[:axis]), elements(input.shape[axis:]))
    ),
    "Expand": _expand,
    "Transpose": _transpose,
    "ConstantOfShape": _constant_of_shape,
    "Split": _split,
    "Cast": _convert,
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Div": _elementwise(_divide),
    "Neg": _elementwise(lambda a: -a),
    "Abs": _elementwise(abs),
    "Floor": _elementwise(math.floor),
    "Ceil": _elementwise(math.ceil),
    "Sqrt": _elementwise(lambda a: a**0.5),
    "Min": _elementwise(lambda *v: min(v)),
    "Max": _elementwise(lambda *v: max(v)),
    "Equal": _elementwise(lambda a, b: a == b, torch.bool),
    "Greater": _elementwise(lambda a, b: a > b, torch.bool),
    "GreaterOrEqual": _elementwise(lambda a, b: a >= b, torch.bool),
    "Less": _elementwise(lambda a, b: a < b, torch.bool),
    "LessOrEqual": _elementwise(lambda a, b: a <= b, torch.bool),
    "And": _elementwise(lambda a, b: a and b, torch.bool),
    "Or": _elementwise(lambda a, b: a or b, torch.bool),
    "Not": _elementwise(lambda a: not a, torch.bool),
    "ReduceProd": _reduce(elements),
    "ReduceSum": _reduce(sum),
    "ReduceMax": _reduce(max),
    "ReduceMin": _reduce(min),
}
"""Operators of ai.onnx on host arrays: same calling convention, None = do it with tensors."""


def _where(condition: Host, X: Host, Y: Host) -> Host:
    rows, shape = _broadcast(condition, X, Y)
    return Host(tuple(x if c else y for c, x, y in rows), shape, X.dtype)


def _mod(A: Host, B: Host, *, fmod: bool = False) -> Host | None:
    if fmod or A.dtype is torch.float32:
        return None
    return _elementwise(lambda a, b: a % b)(A, B)  # type: ignore[no-any-return]


OPERATORS["Where"] = _where
OPERATORS["Mod"] = _mod
