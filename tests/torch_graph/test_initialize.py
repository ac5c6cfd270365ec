"""A start from scratch: drawn as the scheme says, alive after the scaling, and able to learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from classes import fit
from onnx import TensorProto, helper, numpy_helper

from surgeon.errors import UnknownNameError
from surgeon.graph.initialization import Rule, scheme
from surgeon.torch_graph.initialize import draw, observe, randomize
from surgeon.torch_graph.module import to_module
from surgeon.train.settings import FitSettings

DEPTH = 24


def deep(features=16, classes=4):
    """A plain network without normalization, its stored weights all 0.02."""
    nodes, weights = [], {}
    value = "x"
    for layer in range(DEPTH):
        weights[f"conv{layer}.weight"] = np.full((features, features if layer else 3, 3, 3), 0.02)
        weights[f"conv{layer}.bias"] = np.full(features, 0.02)
        nodes += [
            helper.make_node(
                "Conv", [value, f"conv{layer}.weight", f"conv{layer}.bias"], [f"c{layer}"],
                pads=[1, 1, 1, 1],
            ),
            helper.make_node("Tanh" if layer % 2 else "Relu", [f"c{layer}"], [f"r{layer}"]),
        ]  # fmt: skip
        value = f"r{layer}"
    weights["t.weight"] = np.full((features, features), 0.02)
    weights["head.weight"] = np.full((classes, features), 0.02)
    weights["head.bias"] = np.zeros(classes)
    weights["scale"] = np.array(3.0)
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Transpose", ["t.weight"], ["tt"]),
        helper.make_node("MatMul", ["f", "tt"], ["g"]),
        helper.make_node("Mul", ["g", "scale"], ["h"]),
        helper.make_node("Gemm", ["h", "head.weight", "head.bias"], ["y"], transB=1),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "deep",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", classes])],
            [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
    )


def converted(model):
    roles = {tensor.name: "parameter" for tensor in model.graph.initializer}
    return to_module(model, roles=roles)


@pytest.fixture
def inputs():
    return (torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


def spreads(module, inputs):
    found = {}

    def seen(step, values):
        if "Conv" in step.operator or "MatMul" in step.operator:
            found[step.node] = float(values[step.outputs[0]].std())

    observe(module, inputs, seen)
    return found


def test_every_layer_has_unit_variance(inputs):
    model = deep()
    module = converted(model)
    names = [tensor.name for tensor in model.graph.initializer]
    done = randomize(module, scheme(model), names, seed=1, inputs=inputs)
    assert len(done.scaled) == DEPTH + 1  # all but the head
    assert done.kept == ("scale",)
    assert module.state_dict()["scale"] == 3
    for spread in spreads(module, inputs).values():
        assert spread == pytest.approx(1, rel=1e-3)
    assert float(module(*inputs).detach().std()) < 10


def test_is_a_function_of_the_seed(inputs):
    model = deep()
    names = [tensor.name for tensor in model.graph.initializer]
    states = []
    for seed, order in ((1, names), (1, names[::-1]), (2, names)):
        module = converted(model)
        randomize(module, scheme(model), order, seed=seed, inputs=inputs)
        states.append(module.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in names)
    assert not torch.equal(states[0]["conv0.weight"], states[2]["conv0.weight"])


def test_only_what_was_named_changes(inputs):
    model = deep()
    module = converted(model)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    randomize(module, scheme(model), ["conv3.weight", "conv3.bias"], inputs=inputs)
    changed = {n for n, t in module.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {"conv3.weight", "conv3.bias"}
    with pytest.raises(UnknownNameError, match="weigth"):
        randomize(module, scheme(model), ["conv3.weigth"])


def test_observing_changes_nothing(inputs):
    module = converted(deep())
    expected = module(*inputs)
    outputs = []
    observe(module, inputs, lambda step, values: outputs.append(values[step.outputs[0]]))
    assert torch.equal(outputs[-1], expected)


def test_dead_layers_are_left_alone():
    model = deep()
    module = converted(model)
    names = [tensor.name for tensor in model.graph.initializer]
    randomize(module, scheme(model), names, inputs=(torch.zeros(4, 3, 8, 8),))
    assert all(tensor.isfinite().all() for tensor in module.state_dict().values())


def test_draws():
    normal = draw(Rule("normal", "Conv", 1, std=0.1), (200, 50), seed=0, name="w")
    assert normal.dtype == np.float32
    assert normal.std() == pytest.approx(0.1, rel=0.05)
    assert abs(normal.mean()) < 0.01
    again = draw(Rule("normal", "Conv", 1, std=0.1), (200, 50), seed=0, name="other")
    assert not np.array_equal(normal, again)
    recurrent = draw(Rule("orthogonal", "LSTM", 2, gates=4), (2, 20, 5), seed=0, name="r")
    for square in recurrent.reshape(8, 5, 5):
        np.testing.assert_allclose(square @ square.T, np.eye(5), atol=1e-5)
    bias = draw(Rule("forget", "LSTM", 3), (2, 40), seed=0, name="b")
    assert (bias[:, 10:15] == 1).all()
    assert bias.sum() == 10
    assert (draw(Rule("constant", "PRelu", 1, value=0.25), (3, 1), seed=0, name="s") == 0.25).all()


class Blobs:
    def __init__(self, n, seed):
        self.targets = (np.arange(n) % 4).astype(np.int64)
        rng = np.random.default_rng(seed)
        centres = np.random.default_rng(9).standard_normal((4, 3, 8, 8))
        x = centres[self.targets] + 0.5 * rng.standard_normal((n, 3, 8, 8))
        self.x = torch.from_numpy(x.astype(np.float32))

    @property
    def n(self):
        return len(self.targets)

    def load(self, indices):
        return (self.x[torch.from_numpy(indices)],)


def test_a_deep_plain_network_learns_from_scratch():
    model = deep()
    module = converted(model)
    train, validation = Blobs(256, 0), Blobs(80, 1)
    names = [name for name, p in module.named_parameters() if p.numel() > 1]
    randomize(module, scheme(model), names, seed=0, inputs=train.load(np.arange(32)))
    result = fit(
        module, train, validation, trainable=names,
        settings=FitSettings(device="cpu", epochs=6, scratch=True),
    )  # fmt: skip
    assert result.best["validation_quality"] > 0.8
