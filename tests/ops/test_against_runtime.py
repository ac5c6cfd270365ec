"""Operator versions against ONNX Runtime, or a hand-written expectation, sample by sample."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TypeProto, helper
from samples import Maybe
from samples_by_hand import Drawn
from versions import every, judged_at_neighbour

from surgeon.torch_graph.backend import SurgeonBackend

if TYPE_CHECKING:
    from samples import Sample

CARRIER = 17  # the opset of ai.onnx beside a sample of another domain


def kind_of(value: Any) -> TypeProto:
    """Return the type of an input: a tensor, a sequence of them, or a map."""
    if isinstance(value, Maybe):
        return helper.make_optional_type_proto(kind_of(value.value))
    if isinstance(value, list):
        return helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, None))
    if isinstance(value, dict):
        key, item = (np.array([v]) for v in next(iter(value.items())))
        numbers = [
            8 if a.dtype.kind == "U" else {"i": 7, "f": 1}[a.dtype.kind] for a in (key, item)
        ]
        return helper.make_map_type_proto(numbers[0], helper.make_tensor_type_proto(numbers[1], []))
    number = 8 if value.dtype == object else helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_type_proto(number, value.shape)


def model_of(sample: Sample) -> tuple[onnx.ModelProto, list[Any]]:
    names = [f"x{n}" if value is not None else "" for n, value in enumerate(sample.inputs)]
    outputs = [f"y{n}" for n in range(sample.outputs)]
    node = helper.make_node(
        sample.op, names, outputs, "node", domain=sample.domain, **sample.attributes
    )
    infos, initializers, feeds = [], [], []
    for n, (name, value) in enumerate(zip(names, sample.inputs, strict=True)):
        if value is None:
            continue
        if n in sample.constant:
            initializers.append(onnx.numpy_helper.from_array(value, name))
        else:
            infos.append(helper.make_value_info(name, kind_of(value)))
            feeds.append(value.value if isinstance(value, Maybe) else value)
    graph = helper.make_graph(
        [node],
        "g",
        infos,
        [helper.make_empty_tensor_value_info(o) for o in outputs],
        initializers,
    )
    opsets = [helper.make_opsetid("", CARRIER if sample.domain else sample.opset)]
    if sample.domain:
        opsets.append(helper.make_opsetid(sample.domain, sample.opset))
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), feeds


def of_runtime(sample: Sample) -> list[Any]:
    model, feeds = model_of(sample)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [i.name for i in session.get_inputs()]
    return list(session.run(None, dict(zip(names, feeds, strict=True))))


def expected_of(sample: Sample) -> list[Any]:
    if sample.expected is not None:
        found = sample.expected(*sample.inputs)
        return list(found) if isinstance(found, tuple) else [found]
    if judged_at_neighbour(sample):
        return of_runtime(replace(sample, opset=sample.origin, origin=None))
    return of_runtime(sample)


def same(ours: Any, theirs: Any, rtol: float) -> None:
    if isinstance(theirs, Drawn):
        theirs.check(ours)
    elif theirs is None or isinstance(theirs, dict):
        if theirs and isinstance(next(iter(theirs.values())), float):
            assert list(ours) == list(theirs)
            same(np.array([*ours.values()]), np.array([*theirs.values()]), rtol)
        else:
            assert ours == theirs
    elif isinstance(theirs, list):
        assert isinstance(ours, list)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other, rtol)
    else:
        theirs = np.asarray(theirs)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        if theirs.dtype.kind == "f" and theirs.size:
            finite = theirs[np.isfinite(theirs)]
            bound = rtol * max(float(np.abs(finite).max(initial=0)), 1e-6)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound)
        else:
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("sample", every(), ids=[s.name for s in every()])
def test_a_sample_gives_what_is_right(sample: Sample) -> None:
    model, feeds = model_of(sample)
    found = SurgeonBackend.run_model(model, feeds)
    for ours, theirs in zip(found, expected_of(sample), strict=True):
        same(ours, theirs, sample.rtol)
