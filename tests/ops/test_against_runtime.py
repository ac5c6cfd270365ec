"""Operator versions against ONNX Runtime, sample by sample."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from samples import SAMPLES, Sample

from surgeon.tune.backend import SurgeonBackend


def model_of(sample: Sample) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    names = [f"x{n}" if value is not None else "" for n, value in enumerate(sample.inputs)]
    outputs = [f"y{n}" for n in range(sample.outputs)]
    node = helper.make_node(
        sample.op, names, outputs, "node", domain=sample.domain, **sample.attributes
    )
    infos, initializers, feeds = [], [], []
    for n, (name, value) in enumerate(zip(names, sample.inputs, strict=True)):
        if value is None:
            continue
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        if n in sample.constant:
            initializers.append(onnx.numpy_helper.from_array(value, name))
        else:
            infos.append(helper.make_tensor_value_info(name, kind, value.shape))
            feeds.append(value)
    graph = helper.make_graph(
        [node],
        "g",
        infos,
        [helper.make_empty_tensor_value_info(o) for o in outputs],
        initializers,
    )
    opsets = [helper.make_opsetid("", sample.opset if not sample.domain else 17)]
    if sample.domain:
        opsets.append(helper.make_opsetid(sample.domain, sample.opset))
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), feeds


@pytest.mark.parametrize("sample", SAMPLES, ids=[s.name for s in SAMPLES])
def test_agrees_with_onnx_runtime(sample: Sample) -> None:
    model, feeds = model_of(sample)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [i.name for i in session.get_inputs()]
    expected = session.run(None, dict(zip(names, feeds, strict=True)))
    found = SurgeonBackend.run_model(model, feeds)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        if theirs.dtype.kind == "f" and theirs.size:
            bound = sample.rtol * max(float(np.abs(theirs).max()), 1e-6)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound)
        else:
            np.testing.assert_array_equal(ours, theirs)
