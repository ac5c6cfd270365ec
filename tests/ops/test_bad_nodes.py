"""A node that is not valid is an error of ours that names it, whatever is wrong with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

import surgeon
from surgeon.errors import SurgeonError

WHEN_CONVERTED = {
    "an attribute of another type": ("Softmax", [(2, 3)], {"axis": 1.5}),
    "text for a number": ("Softmax", [(2, 3)], {"axis": "last"}),
    "one number for several": ("MaxPool", [(1, 1, 4, 4)], {"kernel_shape": 2}),
    "an attribute out of place": ("Relu", [(2, 3)], {"axis": 1}),
    "a missing attribute": ("Concat", [(2, 3), (2, 3)], {}),
    "too few inputs": ("Add", [(2, 3)], {}),
    "too many inputs": ("Relu", [(2, 3), (2, 3)], {}),
}
WHEN_RUN = {
    "a word nobody knows": ("Pad", [(2, 3), [0, 0, 1, 1]], {"mode": "sideways"}),
    "padding nobody knows": ("Conv", [(1, 2, 5, 5), (3, 2, 3, 3)], {"auto_pad": "SOME"}),
    "a mode nobody knows": ("Gelu", [(2, 3)], {"approximate": "roughly"}),
    "a type that is none": ("Cast", [(2, 3)], {"to": 99}),
    "an axis out of range": ("Softmax", [(2, 3)], {"axis": 5}),
    "a permutation of other axes": ("Transpose", [(2, 3)], {"perm": [0, 2, 1]}),
    "matrices that do not fit": ("MatMul", [(2, 3), (4, 5)], {}),
    "channels that do not fit": ("Conv", [(1, 2, 5, 5), (3, 4, 3, 3)], {}),
    "a kernel larger than its input": ("Conv", [(1, 2, 2, 2), (3, 2, 5, 5)], {}),
    "shapes that do not broadcast": ("Add", [(2, 3), (4,)], {}),
    "elements that do not fit": ("Reshape", [(2, 3), [4, 2]], {}),
    "an index out of range": ("Gather", [(2, 3), [7]], {"axis": 0}),
    "parts that do not fit": ("Concat", [(2, 3), (4, 5)], {"axis": 0}),
    "sizes that do not add up": ("Split", [(2, 3), [1, 1]], {"axis": 1}),
    "a scale of another size": ("LayerNormalization", [(2, 3), (4,)], {}),
    "weights of another size": ("BatchNormalization", [(1, 2, 4, 4), *[(3,)] * 4], {}),
}


def network(op: str, inputs: list[Any], attributes: dict[str, Any]) -> tuple[Any, torch.Tensor]:
    """Return a model whose second node is broken, and its first input."""
    weights = [
        numpy_helper.from_array(
            np.ones(shape, np.float32) if isinstance(shape, tuple) else np.array(shape), f"w{n}"
        )
        for n, shape in enumerate(inputs[1:])
    ]
    broken = helper.make_node(
        op, ["a", *[w.name for w in weights]], ["y"], "the-broken-one", **attributes
    )
    first = helper.make_node("Abs", ["x"], ["a"], "first")
    x, y = (helper.make_tensor_value_info(name, 1, None) for name in ("x", "y"))
    graph = helper.make_graph([first, broken], "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return model, torch.ones(inputs[0])


@pytest.mark.parametrize("what", WHEN_CONVERTED)
def test_it_is_found_when_the_file_is_converted(what: str) -> None:
    model, _ = network(*WHEN_CONVERTED[what])
    with pytest.raises(SurgeonError) as caught:
        surgeon.to_torch(model)
    assert "'the-broken-one'" in (caught.value.where or "")


@pytest.mark.parametrize("what", WHEN_RUN)
def test_it_is_found_when_the_node_runs(what: str) -> None:
    model, x = network(*WHEN_RUN[what])
    with pytest.raises(SurgeonError) as caught:
        surgeon.to_torch(model)(x)
    assert "'the-broken-one'" in (caught.value.where or "")
