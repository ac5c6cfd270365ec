"""What `surgeon plugins check` tries the loss on: a teacher whose classes have names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from surgeon.records import Example

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

NAMES = ("one", "two", "three")
COUNT, SIDE = 48, 8


def taught(folder: Path) -> Example:
    """Return a student of convolutions, and a linear teacher that lies in the folder."""
    random = np.random.default_rng(0)
    teacher = _model(
        ["Flatten pixels -> flat", "Gemm flat weight bias -> y"],
        weight=random.normal(0, 0.1, (3 * SIDE**2, len(NAMES))), bias=np.zeros(len(NAMES)),
    )  # fmt: skip
    helper.set_model_props(teacher, {"surgeon.labels": str(list(NAMES)).replace("'", '"')})
    onnx.save(teacher, folder / "teacher.onnx")
    student = _model(
        ["Conv pixels kernel -> map", "Relu map -> active", "GlobalAveragePool active -> pool",
         "Flatten pool -> features", "Gemm features weight bias -> y"],
        kernel=random.normal(0, 0.3, (8, 3, 3, 3)), weight=random.normal(0, 0.3, (8, 5)),
        bias=np.zeros(5),
    )  # fmt: skip
    data = {
        "pixels": random.normal(0, 1, (COUNT, 3, SIDE, SIDE)).astype(np.float32),
        "labels": np.array(NAMES)[np.arange(COUNT) % len(NAMES)],
    }
    return Example(student, data, f"teacher={folder / 'teacher.onnx'}", "classification")


def _model(lines: list[str], **weights: np.ndarray) -> ModelProto:
    """Return a network of `operator inputs -> output` lines."""
    nodes = [helper.make_node(line.split()[0], line.split()[1:-2], line.split()[-1:])
             for line in lines]  # fmt: skip
    tensors = [numpy_helper.from_array(one.astype(np.float32), name)
               for name, one in weights.items()]  # fmt: skip
    size: list[str | int] = ["N", 3, SIDE, SIDE]
    classes: list[str | int] = ["N", len(weights["bias"])]
    given = helper.make_tensor_value_info("pixels", 1, size)
    said = helper.make_tensor_value_info("y", 1, classes)
    graph = helper.make_graph(nodes, "example", [given], [said], tensors)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)
