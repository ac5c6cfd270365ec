"""Gives the architectures of the onnx package's test data weights one can compute with.

These files carry real architectures, but every weight is the constant 0.02, so that the output
does not depend on the input. Here each weight is drawn anew, seeded by its own name. Nothing was
trained: these models prove that an architecture is handled, never that it is any good.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from surgeon.errors import CheckError

if TYPE_CHECKING:
    from pathlib import Path

# What an input of an operator is filled with: a constant, or a draw with variance gain / fan-in.
_ROLES: dict[tuple[str, int], str | float] = {
    ("Conv", 1): "draw",
    ("Conv", 2): 0.0,
    ("Gemm", 1): "draw",
    ("Gemm", 2): 0.0,
    ("BatchNormalization", 1): 1.0,
    ("BatchNormalization", 2): 0.0,
    ("BatchNormalization", 3): 0.0,
    ("BatchNormalization", 4): 1.0,
    ("Mul", 0): 1.0,  # Caffe's Scale layer behind BatchNormalization: Mul, then Add
    ("Mul", 1): 1.0,
    ("Add", 0): 0.0,
    ("Add", 1): 0.0,
}

# He's 2 makes good for the half that a ReLU takes away, so it is due only where a ReLU follows. A
# branch that is summed with its shortcut gets half a unit: sixteen blocks of doubling would
# otherwise end in a Softmax that is 1 for one class, whatever the image.
_GAINS = {"Relu": 2.0, "Sum": 0.5}
_PASSING = frozenset({"BatchNormalization", "Mul", "Add"})


@dataclass(frozen=True)
class _Role:
    """A constant, or a draw: `axis` counts the weight's outputs, the rest is its fan-in."""

    constant: float | None = None
    axis: int = 0
    gain: float = 1.0


def fill(sources: Path, path: Path, *, file: str, seed: str) -> None:
    """Write a test architecture of the onnx package with seeded random weights.

    Weights made by ConstantOfShape become initializers of the same name, and stay listed among the
    graph's inputs in their old place, as old exporters wrote them. The order of nodes and inputs is
    kept. Drawn normal by numpy's PCG64, seeded with sha256 of `seed/tensor name`, with the variance
    of He et al. 2015, "Delving Deep into Rectifiers" (arXiv 1502.01852): gain / fan-in. Biases are
    0; BatchNormalization is 1, 0, 0, 1.

    Args:
        sources: folder with the files of the onnx package.
        path: the file to write.
        file: the architecture, relative to `sources`.
        seed: any text; a different one gives different weights.

    Raises:
        CheckError: a weight is used in a way this recipe does not know.
    """
    model = onnx.load(sources / file)
    graph = model.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {node.output[0]: node for node in graph.node if node.op_type == "ConstantOfShape"}
    roles = _find_roles(graph)

    for tensor in graph.initializer:
        if tensor.name in roles and tensor.data_type == onnx.TensorProto.FLOAT:
            values = _draw(roles[tensor.name], tuple(tensor.dims), f"{seed}/{tensor.name}")
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for name, node in shapes.items():
        tensor = initializers[node.input[0]]
        dims = tuple(int(size) for size in numpy_helper.to_array(tensor))
        if name not in roles:
            raise CheckError(f"nothing is known about the use of {name!r}", where=file)
        values = _draw(roles[name], dims, f"{seed}/{name}")
        for value in graph.input:
            if value.name == node.input[0]:
                value.CopyFrom(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims))
        tensor.CopyFrom(numpy_helper.from_array(values, name))
        graph.node.remove(node)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _find_roles(graph: onnx.GraphProto) -> dict[str, _Role]:
    """Map each weight to what it is filled with."""
    readers = {name: node for node in graph.node for name in node.input}
    # A weight may reach its operator through a change of shape that only adds or drops ones.
    origins = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type in {"Unsqueeze", "Reshape"}
    }
    roles: dict[str, _Role] = {}
    for node in graph.node:
        transposed = any(each.name == "transB" and each.i for each in node.attribute)
        axis = 0 if node.op_type == "Conv" else (-2 if transposed else -1)
        for position, name in enumerate(node.input):
            kind = _ROLES.get((node.op_type, position))
            if kind == "draw":
                roles[origins.get(name, name)] = _Role(axis=axis, gain=_find_gain(node, readers))
            elif isinstance(kind, float):
                roles[origins.get(name, name)] = _Role(constant=kind)
    return roles


def _find_gain(node: onnx.NodeProto, readers: dict[str, onnx.NodeProto]) -> float:
    reader = readers.get(node.output[0])
    while reader is not None and reader.op_type in _PASSING:
        reader = readers.get(reader.output[0])
    return 1.0 if reader is None else _GAINS.get(reader.op_type, 1.0)


def _draw(role: _Role, dims: tuple[int, ...], seed: str) -> np.ndarray:
    if role.constant is not None:
        return np.full(dims, role.constant, np.float32)
    number = int.from_bytes(sha256(seed.encode()).digest()[:16], "little")
    generator = np.random.Generator(np.random.PCG64(number))
    fan_in = np.prod(dims) // dims[role.axis]
    values: np.ndarray = generator.standard_normal(dims) * np.sqrt(role.gain / fan_in)
    return values.astype(np.float32)
