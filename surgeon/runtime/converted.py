"""Tensors of an exported file beside those they were made from: equal, or rounded by no more than
their precision rounds.

What must not enter: what is proven of a file that training wrote.
"""  # noqa: D205 - one sentence

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from surgeon.graph.precision import HALVES
from surgeon.graph.weights import initializers, same_values, to_array, tuned_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.records import Plan

QUANTISED = "_quantized"
"""What ONNX Runtime's quantiser puts behind the name of a weight."""
HALF_STEP, HALF_DIGIT, LEAST = 0.501, 2.0**-11, 1e-7
"""Rounding: of integers in steps, of half precision relative to the value, of nearly nothing."""


@dataclass(frozen=True)
class Beside:
    """What a comparison of tensors found.

    Attributes:
        equal: byte for byte.
        rounded: within what their precision rounds.
        own: names that the export made.
        wrong: names whose values are others, or that are in neither.
    """

    equal: int
    rounded: int
    own: tuple[str, ...]
    wrong: tuple[str, ...]


def judge(
    model: ModelProto,
    plan: Plan,
    source: ModelProto,
    proof: Mapping[str, Any],
    source_sha256: str | None,
) -> tuple[bool, int, str]:
    """Return whether the tensors are the source's, how many are not, and words for people."""
    exported = proof["exported"]
    parent = source_sha256 is not None and source_sha256 == exported.get("from_sha256")
    found = compare(model, plan, source, exported, parent=parent)
    named = parent or source_sha256 in (None, proof.get("source_sha256"))
    detail = (
        f"{found.equal} tensors equal, {found.rounded} within the rounding of "
        f"{exported.get('precision')}"
    )
    if parent:
        detail += ", of the file it was exported from"
    if found.own:
        detail += f"; {len(found.own)} are the export's own"
    if found.wrong:
        detail += f"; {len(found.wrong)} differ: {', '.join(found.wrong[:5])}"
    if not named:
        detail += "; not a file the proof names (sha256 differs)"
    passed = not found.wrong and (named or found.equal + found.rounded > 0)
    return passed, len(found.wrong), detail


def compare(
    model: ModelProto, plan: Plan, source: ModelProto, exported: Mapping[str, Any], *, parent: bool
) -> Beside:
    """Compare the tensors of an exported file with those of the source.

    Args:
        model: the exported file.
        plan: of training; what it trained is compared with the parent alone.
        source: the original, or the file it was exported from (`parent`).
        exported: what the proof says of the export.
        parent: whether the source is that file.
    """
    here, there = initializers(model), initializers(source)
    tuned = set() if parent else {*plan.trainable, *tuned_names(source, plan.trainable)}
    made = {str(name) for name in exported.get("made") or ()}
    equal, rounded = 0, 0
    own: list[str] = []
    wrong: list[str] = []
    for name, tensor in here.items():
        base = name.removesuffix(QUANTISED)
        if base in tuned or name in tuned:
            continue
        original = there.get(name) or there.get(base)
        if original is None:
            known = name in made or name.startswith("surgeon.") or name in plan.head.weights
            (own if known else wrong).append(name)
        elif same_values(original, tensor):
            equal += 1
        elif tensor.data_type == TensorProto.INT32 and not list(_steps(here, tensor)):
            own.append(name)  # a bias of an operator on integers: its step is that of a product
        elif _within(here, tensor, to_array(original)):
            rounded += 1
        else:
            wrong.append(name)
    return Beside(equal, rounded, tuple(own), tuple(wrong))


def _within(here: Mapping[str, TensorProto], tensor: TensorProto, wanted: NDArray[Any]) -> bool:
    """Say whether a tensor is another one, rounded to half precision or to integers."""
    wanted = np.asarray(wanted, np.float64)
    if tensor.data_type in HALVES:
        off = np.abs(to_array(tensor).astype(np.float64) - wanted)
        return bool((off <= HALF_DIGIT * np.abs(wanted) + LEAST).all())
    return any(
        values.shape == shaped.shape
        and bool((np.abs(values - shaped) <= HALF_STEP * scale + LEAST).all())
        for values, scale in _steps(here, tensor)
        for shaped in (wanted, wanted.T)  # a Gemm that became a product has its weight turned round
    )


def _steps(
    here: Mapping[str, TensorProto], tensor: TensorProto
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Give what integers stand for and the size of their steps, for each axis that scales fit."""
    base = tensor.name.removesuffix(QUANTISED)
    names = (base, tensor.name)
    scale = next((here[f"{one}_scale"] for one in names if f"{one}_scale" in here), None)
    zero = next((here[f"{one}_zero_point"] for one in names if f"{one}_zero_point" in here), None)
    if base == tensor.name or scale is None:
        return
    values = to_array(tensor).astype(np.float64)
    step = np.abs(np.asarray(to_array(scale), np.float64)).ravel()
    start = np.zeros(1) if zero is None else np.asarray(to_array(zero), np.float64).ravel()
    for axis, size in enumerate(values.shape or (1,)):
        if step.size in (1, size) and start.size in (1, step.size):
            shape = [1] * values.ndim
            if step.size > 1:
                shape[axis] = size
            ones = [1] * values.ndim
            here_starts = start.reshape(shape if start.size > 1 else ones)
            steps = step.reshape(shape)
            yield (values - here_starts) * steps, steps
