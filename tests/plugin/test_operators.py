"""An operator of a domain of one's own: refused by name, converted once a plugin declares it."""

import sys
import textwrap

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import surgeon
from surgeon.errors import UnsupportedError
from surgeon.job import operate as surgery


def doubled():
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("Doubled", ["x"], ["d"], name="mine", domain="lab.example"),
            helper.make_node("MatMul", ["d", "w"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("lab.example", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


class Offering:
    def declare_operators(self, load):
        load("lab_operators:declare")


def test_a_foreign_operator_is_refused_with_its_domain_and_node_then_declared(
    tmp_path, monkeypatch
):
    model = doubled()
    with pytest.raises(UnsupportedError) as caught:
        surgeon.to_torch(model)
    assert "lab.example" in str(caught.value)
    assert "mine" in str(caught.value)
    (tmp_path / "lab_operators.py").write_text(
        textwrap.dedent("""
        from torch import Tensor

        from surgeon.ops.registry import op

        @op("Doubled", domain="lab.example")
        def declare(x: Tensor) -> Tensor:
            return x * 2
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(surgery, "loaded_plugins", lambda plugins: plugins or Offering())
    module = surgeon.to_torch(model)
    value = torch.arange(6.0).view(2, 3)
    assert torch.equal(module(value), value * 2)
    sys.modules.pop("lab_operators")
    assert isinstance(model, onnx.ModelProto)
