"""Sequences and optionals: Python lists and None.

What must not enter: the tensors' arithmetic.
"""

# ruff: noqa: ARG001 - the specification decides which parameters a function has

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from surgeon.ops.registry import op

if TYPE_CHECKING:
    from collections.abc import Callable

    from surgeon.ops.host import Host


@op("SequenceConstruct")
def sequence_construct(*inputs: Tensor) -> list[Tensor]:
    """Make a sequence of tensors."""
    return list(inputs)


@op("SequenceEmpty")
def sequence_empty(*, dtype: int | None) -> list[Tensor]:
    """Make an empty sequence."""
    return []


@op("SequenceAt")
def sequence_at(input_sequence: list[Tensor], position: int) -> Tensor:
    """Return one element; negative positions count from the end."""
    return input_sequence[position]


@op("SequenceLength")
def sequence_length(input_sequence: list[Tensor]) -> Tensor:
    """Return the number of elements."""
    return torch.tensor(len(input_sequence), dtype=torch.int64)


@op("SequenceInsert")
def sequence_insert(
    input_sequence: list[Tensor], tensor: Tensor, position: int | None = None
) -> list[Tensor]:
    """Insert before a position, or at the end."""
    place = len(input_sequence) if position is None else position
    if place < 0:
        place += len(input_sequence)
    return [*input_sequence[:place], tensor, *input_sequence[place:]]


@op("SequenceErase")
def sequence_erase(input_sequence: list[Tensor], position: int | None = None) -> list[Tensor]:
    """Remove one element, the last where none is named."""
    place = -1 if position is None else position
    place %= len(input_sequence)
    return [*input_sequence[:place], *input_sequence[place + 1 :]]


@op("ConcatFromSequence")
def concat_from_sequence(input_sequence: list[Any], *, axis: int, new_axis: bool) -> Any:
    """Join the elements along an axis, or stack them along a new one."""
    if input_sequence and isinstance(input_sequence[0], np.ndarray):
        joined = (
            np.stack(input_sequence, axis) if new_axis else np.concatenate(input_sequence, axis)
        )
        return joined.astype(object)
    return torch.stack(input_sequence, axis) if new_axis else torch.cat(input_sequence, axis)


@op("SplitToSequence")
def split_to_sequence(
    input: Tensor, split: Host | None = None, *, axis: int, keepdims: bool
) -> list[Any]:
    """Cut a tensor along an axis: into ones, equal lengths (the last may differ), or given ones."""
    size = input.shape[axis]
    if split is None:
        lengths = [1] * size
    elif not split.shape:
        width = split.values[0]
        lengths = [min(width, size - start) for start in range(0, size, width)]
    else:
        lengths = list(split.values)
    if isinstance(input, np.ndarray):
        cuts = np.cumsum(lengths)[:-1]
        parts = np.split(input, cuts, axis)
        return [p.squeeze(axis) for p in parts] if split is None and not keepdims else parts
    pieces = list(torch.split(input, lengths, axis))
    return [p.squeeze(axis) for p in pieces] if split is None and not keepdims else pieces


@op("SequenceMap")
def sequence_map(
    input_sequence: list[Any], *additional_inputs: Any, body: Callable[..., list[Any]]
) -> tuple[list[Any], ...]:
    """Apply a subgraph to every element; other sequences go along, tensors stay."""
    rows = []
    for i, element in enumerate(input_sequence):
        others = [v[i] if isinstance(v, list) else v for v in additional_inputs]
        rows.append(body(element, *others))
    return tuple(list(column) for column in zip(*rows, strict=True))


@op("Optional")
def optional(input: Any = None, *, type: Any = None) -> Any:
    """Wrap a value, or make an empty optional."""
    return input


@op("OptionalHasElement")
def optional_has_element(input: Any = None) -> Tensor:
    """Tell whether there is a value."""
    return torch.tensor(input is not None)


@op("OptionalGetElement")
def optional_get_element(input: Any) -> Any:
    """Return the value of an optional."""
    if input is None:
        raise ValueError("the optional is empty")
    return input
