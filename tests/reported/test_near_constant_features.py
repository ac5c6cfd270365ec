"""Features with means far larger than their spread: no refusal, and nothing lost."""

from __future__ import annotations

import networks
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import surgeon
from surgeon.probe.solver import solve
from surgeon.runtime.observe import rounding_of_head


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))


def far(ratio, share, n=240, d=64, seed=0):
    """Samples, and the same in units of their spread; `share` of the features have far means."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    z = 0.6 * random.standard_normal((3, d))[labels] + random.standard_normal((n, d))
    ratios = np.where(random.random(d) < share, ratio, 1.0)
    spread = np.exp(0.3 * random.standard_normal(d))
    return ((z + ratios * np.sign(random.standard_normal(d))) * spread).astype("f"), z, labels


def passing(d):
    """A network whose features are its input."""
    net = networks.Net()
    x = net.node("Mul", net.input("x", ["N", d]), net.weight("scale", d, values=np.ones(d)))
    net.node("Gemm", x, net.weight("w", 5, d), net.weight("b", 5), out="y", transB=1)
    return net.model("y", shape=["N", 5])


@pytest.mark.parametrize("share", [1.0, 0.2])
@pytest.mark.parametrize("ratio", [500, 5_000, 15_000])
def test_far_means_are_tuned_as_well_as_near_ones(ratio, share):
    x, near, labels = far(ratio, share)
    seen, unseen = slice(0, 120), slice(120, None)
    outcome = surgeon.finetune(
        passing(64), {"x": x[seen], "labels": labels[seen]}, case="small-similar", device="cpu"
    )
    told = surgeon.predict(outcome.model, {"x": x[unseen]}).probabilities.argmax(1)
    alone = solve(near[seen], labels[seen], 3)
    expected = (near[unseen] @ alone.weight.T + alone.bias).argmax(1)
    assert (told == labels[unseen]).mean() >= (expected == labels[unseen]).mean() - 0.03
    parity = outcome.proof["parity"]
    assert parity["max_relative"] <= parity["bound"]
    assert surgeon.verify(outcome.model).passed


def test_the_bound_is_that_of_the_sums():
    """It holds for sums in any order, and is the usual one where nothing cancels."""
    random = np.random.default_rng(0)
    for ratio, usual in ((1, True), (15_000, False)):
        x, _, labels = far(ratio, 1.0)
        solution = solve(x, labels, 3)
        exact = x.astype(float) @ solution.weight.T.astype(float) + solution.bias
        bound = rounding_of_head(x, solution.weight, solution.bias)
        assert (bound < 1e-4) == usual
        for _ in range(3):
            order = random.permutation(x.shape[1])
            sums = np.cumsum(x[:, None, order] * solution.weight[None][:, :, order], axis=-1)
            off = np.abs(sums[:, :, -1] + solution.bias - exact).max()
            assert off <= bound * np.abs(exact).max()


def test_the_bias_makes_up_for_rounded_weights():
    x, _, labels = far(15_000, 1.0)
    solution = solve(x, labels, 3)
    logits = x.astype(float) @ solution.weight.T.astype(float) + solution.bias
    assert (logits.argmax(1) == labels).mean() > 0.9
    assert np.abs(logits.mean(0) - logits.mean()).max() < 1.0


def test_a_constant_feature_gets_no_weight():
    x, _, labels = far(1, 1.0)
    x[:, 5] = 1e6 + 1e-3 * np.arange(len(x))
    assert (solve(x, labels, 3).weight[:, 5] == 0).all()


def test_the_file_says_which_bound_holds():
    x, _, labels = far(15_000, 1.0)
    outcome = surgeon.finetune(
        passing(64), {"x": x, "labels": labels}, case="small-similar", device="cpu"
    )
    head = {t.name: numpy_helper.to_array(t) for t in outcome.model.proto.graph.initializer}
    assert isinstance(outcome.model.proto, onnx.ModelProto)
    lost = rounding_of_head(x, head["surgeon.head.weight"], head["surgeon.head.bias"])
    assert outcome.proof["parity"]["bound"] <= max(1e-4, 10 * lost)
