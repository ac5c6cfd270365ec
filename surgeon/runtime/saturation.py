"""Products of 8-bit integers that ONNX Runtime computes inexactly on this processor.

x86 processors without VNNI multiply uint8 by int8 in pairs whose sum is cut off at 16 bits:
255 · 127 + 255 · 127 becomes 32,767. What must not enter: torch.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from surgeon.graph.walk import label
from surgeon.runtime.sessions import open_session

if TYPE_CHECKING:
    from onnx import ModelProto

SAFE = 64
"""Two weights no larger than this never reach 16 bits: 2 · 255 · 64 = 32,640."""


@cache
def saturates() -> bool:
    """Return whether sums of uint8 · int8 are cut off here, by trying it."""
    weight = numpy_helper.from_array(np.full((64, 16), 127, np.int8), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "trial",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 16])],
        [weight],
    )
    opset = [helper.make_opsetid("", 13)]
    session = open_session(
        helper.make_model(graph, opset_imports=opset, ir_version=8), device="cpu", threads=1
    )
    (made,) = session.run({"x": np.full((1, 64), 255, np.uint8)})
    return bool((made != 64 * 255 * 127).any())


def saturating(model: ModelProto) -> list[str]:
    """Return the nodes whose products may be cut off here, as messages call them.

    They read an int8 weight with values beyond `SAFE` as it is. What is dequantised first is
    computed in floats, as long as ONNX Runtime computes the operators as written.
    """
    wide = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.INT8
        and len(tensor.dims) > 1
        and np.abs(numpy_helper.to_array(tensor).astype(np.int16)).max(initial=0) > SAFE
    }
    nodes = [
        label(node)
        for node in model.graph.node
        if node.op_type != "DequantizeLinear" and wide.intersection(node.input)
    ]
    return nodes if nodes and saturates() else []
