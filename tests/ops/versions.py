"""The same sample again at every other version of its operator that takes it.

Many versions of an operator differ in nothing but the types they allow. `derived` runs a sample
there, so that a version that says the same is tested like one that says something new.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnx import helper
from samples import SAMPLES, Maybe
from samples_by_hand import BY_HAND

from surgeon.ops.registry import covering, schemas

if TYPE_CHECKING:
    from collections.abc import Iterable

    from samples import Sample

Version = tuple[str, str, int]

SHOWN_BY_SUITE: dict[Version, str] = {
    ("ai.onnx.preview.training", "Gradient", 1): "is about the graph around it",
}
"""Versions without a sample; `test_samples.py` proves that the suite has a case of each."""


def version(sample: Sample) -> Version:
    """Return domain, operator and since_version that a sample shows."""
    found = covering(sample.domain, sample.op, sample.opset)
    return found.domain, found.name, found.version


def _fits(sample: Sample, schema: Any) -> bool:
    """Tell whether a version takes a sample's attributes and its inputs, by number and type."""
    given = len(sample.inputs)
    if given < schema.min_input or given > schema.max_input:
        return False
    if not schema.min_output <= sample.outputs <= schema.max_output:
        return False
    if not set(sample.attributes) <= set(schema.attributes):
        return False
    if any(a.required and name not in sample.attributes for name, a in schema.attributes.items()):
        return False
    for number, value in enumerate(sample.inputs):
        formal = schema.inputs[min(number, len(schema.inputs) - 1)]
        if value is None:
            continue
        if isinstance(value, Maybe):
            return False
        if isinstance(value, list):
            if "seq(tensor(float))" not in formal.types:
                return False
            continue
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        name = helper.tensor_dtype_to_string(kind).removeprefix("TensorProto.").lower()
        if f"tensor({name})" not in formal.types:
            return False
    return True


RUNTIME_OPSETS = range(7, 27)  # of ai.onnx, as ONNX Runtime 1.31 takes them
WITHOUT_KERNEL = {("GlobalLpPool", 22), ("MaxRoiPool", 22), ("RoiAlign", 22)}


def judged_at_neighbour(sample: Sample) -> bool:
    """Tell whether ONNX Runtime cannot run a derived sample and runs the one it was made of.

    The versions it does not know differ from their neighbours in the types they allow only.
    """
    if sample.origin is None:
        return False
    if sample.domain:
        return sample.opset == 5  # which deprecates the operators of trees
    return sample.opset not in RUNTIME_OPSETS or (sample.op, sample.opset) in WITHOUT_KERNEL


def derived(samples: Iterable[Sample]) -> list[Sample]:
    """Return a sample for every version that has none, made of one that fits, where one does."""
    by_operator: dict[tuple[str, str], list[Sample]] = {}
    shown: set[Version] = set()
    for sample in samples:
        if not sample.only and sample.origin is None:
            by_operator.setdefault((sample.domain, sample.op), []).append(sample)
        shown.add(version(sample))
    made = []
    for (domain, name), candidates in by_operator.items():
        for since, schema in schemas().get((domain, name), {}).items():
            if (domain, name, since) in shown or schema.deprecated:
                continue
            fitting = [sample for sample in candidates if _fits(sample, schema)]
            if fitting:
                nearest = min(fitting, key=lambda s: (s.opset < since, abs(s.opset - since)))
                made.append(replace(nearest, opset=since, origin=nearest.opset))
    return made


@functools.cache
def every() -> tuple[Sample, ...]:
    """Return all samples: those judged by ONNX Runtime, those by hand, the derived ones."""
    written = [*SAMPLES, *BY_HAND]
    return (*written, *derived(written))
