"""Scales learn: the gradient of learned step sizes, above zero, the same numbers in the file."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper, parser

import surgeon
from surgeon.torch_graph.module import to_module
from surgeon.torch_graph.straight_through import Positive, let_scales_learn

RANDOM = np.random.default_rng(0)
TEXT = """<ir_version: 10, opset_import: ["": 17]> g (float[n, 8] x) => (float[n, 6] y) {
    c = QuantizeLinear(x, xs, xz) d = DequantizeLinear(c, xs, xz)
    w = DequantizeLinear<axis = 1>(q, ws, wz) y = MatMul(d, w) }"""


def model(text=TEXT, **changes):
    made = parser.parse_model(text)
    values = {
        "xs": np.float32(0.02), "xz": np.uint8(100),
        "q": RANDOM.integers(-90, 91, (8, 6)).astype(np.int8),
        "ws": RANDOM.uniform(0.01, 0.05, 6).astype(np.float32), "wz": np.zeros(6, np.int8),
    }  # fmt: skip
    for name, value in (values | changes).items():
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return made


def converted(proto, names=("q", "ws", "xs")):
    return to_module(proto, roles=surgeon.load(proto).roles(), quantized=names)


def test_scales_that_one_initializer_states_are_found():
    assert surgeon.load(model()).scales() == {"xs": ("x",), "ws": ("q",)}
    apart = TEXT.replace("DequantizeLinear(c, xs", "DequantizeLinear(c, xs2")
    assert surgeon.load(model(apart, xs2=np.float32(0.02))).scales() == {"ws": ("q",)}
    shown = TEXT.replace("(float[n, 6] y)", "(float[n, 6] y, uint8[n, 8] c)")
    assert set(surgeon.load(model(shown)).scales()) <= {"ws", "xs"}


def test_the_gradient_is_that_of_learned_step_sizes():
    proto = model()
    module, x = converted(proto), torch.linspace(-4, 4, 24).reshape(3, 8)
    module(x).sum().backward()
    found = dict(module.named_parameters())
    values = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    w = values["q"] * values["ws"]
    ratio = x.double().numpy() / 0.02
    whole = np.clip(np.round(ratio) + 100, 0, 255) - 100
    inside = (np.round(ratio) >= -100) & (np.round(ratio) <= 155)
    step = np.where(inside, whole - ratio, whole)
    np.testing.assert_allclose(
        found["xs"].grad.item(), (step @ w.astype("f8")).sum(), rtol=1e-3, atol=1e-2
    )
    # Weights lie on their steps: nothing is rounded away, so that none of it moves with the scale.
    assert float(found["ws"].grad.abs().max()) < 1e-2
    assert float(found["q"].grad.abs().min()) > 0


def test_what_was_learnt_is_what_the_file_computes():
    proto = model()
    module, x = converted(proto), torch.from_numpy(RANDOM.standard_normal((5, 8)).astype("f4"))
    with torch.no_grad():
        found = dict(module.named_parameters())
        found["xs"].mul_(1.3)
        found["ws"].mul_(torch.linspace(0.7, 1.4, 6))
        found["q"].add_(0.011)
    values = {name: one.numpy() for name, one in surgeon.tensors(module).items()}
    written = surgeon.write_back(proto, values)
    session = onnxruntime.InferenceSession(written.SerializeToString())
    (told,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(module(x).detach().numpy(), told, rtol=1e-5, atol=1e-5)
    assert not np.array_equal(values["q"], numpy_helper.to_array(proto.graph.initializer[2]))


def test_a_scale_begins_where_it_was_and_stays_above_zero():
    module = converted(model())
    before = surgeon.tensors(module)["xs"].clone()
    learning = let_scales_learn(module, ["xs", "ws"])
    assert torch.equal(surgeon.tensors(module)["xs"], before)
    found = dict(module.named_parameters())
    steps = [found[one] for ones in learning.values() for one in ones]
    assert all(not one.detach().any() for one in steps)
    optimizer = torch.optim.SGD(steps, 1e6)
    module(torch.ones(2, 8)).square().sum().backward()
    optimizer.step()
    assert float(surgeon.tensors(module)["xs"]) >= 0
    assert Positive(torch.tensor(0.5))(torch.tensor(-3.0)).item() == pytest.approx(0.5 * np.exp(-3))


def test_a_scale_that_is_not_named_stays():
    proto = model()
    module = converted(proto, names=("q",))
    assert set(dict(module.named_parameters())) == {"q"}
    onnx.checker.check_model(proto)
