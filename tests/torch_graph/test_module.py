"""The module: exact names, torch's own tools, training mode."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn.utils import parametrize

from surgeon.errors import ModelError, UnsupportedError
from surgeon.torch_graph.module import GraphModule, tensors, to_module

ODD_NAMES = [
    "plain",
    "a",
    "a.b",
    "a.b.weight",
    "deep..empty",
    "trailing.",
    ".leading",
    "..",
    "layer.training",
    "layer.forward.weight",
    "layer.type",
    "layer.type.weight",
    "layer._modules",
    "training",
    "forward",
    "weight:0",
    "/conv/w;1",
    '{"json": 1}',
    "with blank.w x",
]


def chain(names: list[str], opset: int = 17) -> onnx.ModelProto:
    """y = x + the sum of all weights, each of shape [2] and value 1, 2, 3, …."""
    nodes, last = [], "x"
    for number, name in enumerate(names):
        nodes.append(helper.make_node("Add", [last, name], [f"sum{number}"], f"add{number}"))
        last = f"sum{number}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", 2])],
        [
            numpy_helper.from_array(np.full(2, n + 1, np.float32), name)
            for n, name in enumerate(names)
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def parameters_of(names: list[str]) -> GraphModule:
    return to_module(chain(names), roles=dict.fromkeys(names, "parameter"))


CALLABLE_NAMES = [name for name in ODD_NAMES if name.strip(".") == name]
"""torch refuses an empty first or last component in functional_call."""


@pytest.fixture
def odd() -> GraphModule:
    return parameters_of(ODD_NAMES)


def test_names_are_exactly_the_initializers(odd: GraphModule) -> None:
    assert sorted(odd.state_dict()) == sorted(ODD_NAMES)
    assert sorted(name for name, _ in odd.named_parameters()) == sorted(ODD_NAMES)
    assert sorted(tensors(odd)) == sorted(ODD_NAMES)


def test_odd_names_are_read(odd: GraphModule) -> None:
    total = sum(range(1, len(ODD_NAMES) + 1))
    assert torch.equal(odd(torch.zeros(3, 2)), torch.full((3, 2), float(total)))


def test_strict_loading_reaches_every_name(odd: GraphModule) -> None:
    odd.load_state_dict({k: torch.zeros_like(v) for k, v in odd.state_dict().items()}, strict=True)
    assert odd(torch.ones(1, 2)).sum() == 2


def test_strict_loading_refuses_a_stranger(odd: GraphModule) -> None:
    with pytest.raises(RuntimeError, match=r"stranger"):
        odd.load_state_dict({**odd.state_dict(), "a.stranger": torch.zeros(2)}, strict=True)


def test_functional_call_replaces_every_name() -> None:
    odd = parameters_of(CALLABLE_NAMES)
    zeros = {k: torch.zeros(2) for k in odd.state_dict()}
    assert torch.func.functional_call(odd, zeros, (torch.ones(1, 2),)).sum() == 2
    assert odd(torch.ones(1, 2)).sum() != 2


def test_deepcopy_shares_nothing(odd: GraphModule) -> None:
    twin = copy.deepcopy(odd)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert twin(torch.ones(1, 2)).sum() == 2
    assert odd(torch.ones(1, 2)).sum() != 2


def test_training_mode_reaches_all(odd: GraphModule) -> None:
    assert odd.training is False
    odd.train()
    assert odd.training is True
    odd.eval()
    assert odd.training is False


def test_export_of_a_static_graph() -> None:
    # torch's own exported module cannot hold a name that is also a scope or an attribute
    odd = parameters_of(["plain", "layer.0.w", "weight:0", "/conv/w;1", "a b.w x"])
    example = (torch.ones(3, 2),)
    exported = torch.export.export(odd, example).module()
    assert torch.equal(exported(*example), odd(*example))


def test_compiles_without_a_break(odd: GraphModule) -> None:
    compiled = torch.compile(odd, fullgraph=True, backend="eager")
    example = torch.ones(3, 2)
    assert torch.equal(compiled(example), odd(example))


def test_an_adapter_applies_and_folds() -> None:
    class Half(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / 2

    module = parameters_of(["block.weight", "block.bias"])
    parametrize.register_parametrization(module.get_submodule("block"), "weight", Half())
    assert torch.equal(module(torch.zeros(1, 2)), torch.full((1, 2), 2.5))
    assert torch.equal(tensors(module)["block.weight"], torch.full((2,), 0.5))
    assert sorted(tensors(module)) == ["block.bias", "block.weight"]


def test_one_initializer_is_one_parameter() -> None:
    model = chain(["w"])
    model.graph.node.append(helper.make_node("Mul", ["sum0", "w"], ["y"]))
    model.graph.output[0].name = "y"
    module = to_module(model, roles={"w": "parameter"})
    module(torch.ones(1, 2)).sum().backward()
    (parameter,) = module.parameters()
    assert torch.equal(parameter.grad, torch.full((2,), 3.0))  # d/dw (1 + w)·w at w = 1


def test_dtypes_are_kept_bit_for_bit() -> None:
    model = chain(["w"])
    bits = np.array([0x7FC1, 0x8001], np.uint16)
    extra = onnx.TensorProto(name="half", data_type=TensorProto.BFLOAT16, dims=[2])
    extra.raw_data = bits.tobytes()
    model.graph.initializer.append(extra)
    integers = numpy_helper.from_array(np.array([1], np.int64), "integers")
    model.graph.initializer.append(integers)
    module = to_module(model, roles={"w": "parameter", "half": "constant"})
    assert sorted(module.state_dict()) == ["half", "w"]
    stored = module.state_dict()["half"]
    assert stored.dtype == torch.bfloat16
    assert (stored.view(torch.int16).numpy().view(np.uint16) == bits).all()


def normalising(opset: int = 15) -> onnx.ModelProto:
    names = ["scale", "bias", "mean", "var"]
    values = [np.array(v, np.float32) for v in ([2, 3], [1, 1], [0, 0], [1, 1])]
    graph = helper.make_graph(
        [
            helper.make_node("BatchNormalization", ["x", *names], ["n"], "bn", momentum=0.75),
            helper.make_node("Dropout", ["n"], ["y"], "drop"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(v, n) for n, v in zip(names, values, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


ROLES = {"scale": "parameter", "bias": "parameter", "mean": "statistics", "var": "statistics"}
DATA = torch.tensor([[1.0, 4.0], [3.0, 8.0]])


def test_running_statistics_move_as_onnx_states_it() -> None:
    module = to_module(normalising(), roles=ROLES).train()
    module(DATA)
    state = module.state_dict()
    assert torch.allclose(state["mean"], torch.tensor([0.5, 1.5]))  # 0.75 · 0 + 0.25 · mean
    assert torch.allclose(state["var"], torch.tensor([1.0, 1.75]))  # population variance 1 and 4


def test_a_frozen_layer_keeps_its_statistics() -> None:
    module = to_module(normalising(), roles=ROLES).train()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    module(DATA)
    assert torch.equal(module.state_dict()["mean"], torch.zeros(2))


def test_evaluation_is_deterministic_and_moves_nothing() -> None:
    module = to_module(normalising(), roles=ROLES)
    assert torch.allclose(module(DATA), DATA * torch.tensor([2.0, 3.0]) + 1, atol=1e-4)
    assert torch.equal(module.state_dict()["var"], torch.ones(2))


def test_dropout_is_governed_by_the_mode() -> None:
    module = to_module(normalising(), roles=ROLES).train()
    torch.manual_seed(0)
    assert (module(torch.randn(64, 2)) == 0).any()


def test_wrong_number_of_inputs_is_said() -> None:
    module = parameters_of(["w"])
    with pytest.raises(ModelError, match="2 inputs were given, the graph has 1"):
        module(torch.zeros(1, 2), torch.zeros(1, 2))


def test_a_failing_node_is_named_with_its_shapes() -> None:
    module = parameters_of(["w"])
    with pytest.raises(ModelError, match="Add-14 failed") as caught:
        module(torch.zeros(1, 3))
    assert "add0" in str(caught.value)
    assert "float32[1, 3]" in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_unknown_operator_names_domain_node_and_remedy() -> None:
    model = chain(["w"])
    model.graph.node.append(
        helper.make_node("Mystery", ["sum0"], ["y"], "where-it-is", domain="org.example")
    )
    model.opset_import.append(helper.make_opsetid("org.example", 3))
    model.graph.output[0].name = "y"
    with pytest.raises(UnsupportedError, match=r"org\.example Mystery \(opset 3\)") as caught:
        to_module(model, roles={"w": "parameter"})
    assert "where-it-is" in str(caught.value)
    assert "surgeon_ops" in str(caught.value)
