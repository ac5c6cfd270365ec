"""What `surgeon plugins check` tries qlora on: a network whose weights are MatMulNBits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import helper, numpy_helper

from surgeon.records import Example

if TYPE_CHECKING:
    from pathlib import Path

COUNT, WIDE, BLOCK = 48, 32, 16


def packed(folder: Path) -> Example:  # noqa: ARG001 - no file is needed
    """Return two layers of 4 bits and a float one behind them, with numbers to tell apart."""
    random, value, nodes, tensors = np.random.default_rng(0), "x", [], []
    for layer in ("first", "second"):
        arrays = {
            "packed": random.integers(0, 256, (WIDE, WIDE // BLOCK, BLOCK // 2), np.uint8),
            "scales": random.uniform(0.02, 0.06, WIDE * (WIDE // BLOCK)).astype(np.float32),
        }
        tensors += [numpy_helper.from_array(one, f"{layer}.{key}") for key, one in arrays.items()]
        nodes.append(
            helper.make_node(
                "MatMulNBits", [value, *(f"{layer}.{key}" for key in arrays)], [layer], layer,
                domain="com.microsoft", K=WIDE, N=WIDE, bits=4, block_size=BLOCK,
            )
        )  # fmt: skip
        value = f"{layer}.active"
        nodes.append(helper.make_node("Relu", [layer], [value]))
    weight = random.normal(0, 0.2, (WIDE, 4)).astype(np.float32)
    tensors.append(numpy_helper.from_array(weight, "weight"))
    nodes.append(helper.make_node("MatMul", [value, "weight"], ["y"]))
    given, said = (
        helper.make_tensor_value_info(name, 1, ["N", size])
        for name, size in (("x", WIDE), ("y", 4))
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "example", [given], [said], tensors)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    codes = np.arange(COUNT) % 3
    numbers = random.normal(0, 1, (COUNT, WIDE)) + codes[:, None] / 2
    return Example(model, {"x": numbers.astype(np.float32), "labels": codes})
