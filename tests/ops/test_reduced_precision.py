"""Under autocast operators stay in the types of torch's own modules: no pass in float32 more."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from surgeon.ops.linear import gemm
from surgeon.ops.normalization import batch_normalization, layer_normalization
from surgeon.ops.products import multiply
from surgeon.torch_graph.fuse import attend, multiply_turned


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def half(request):
    torch.manual_seed(0)
    with torch.autocast("cpu", request.param):
        yield request.param


def normalized(x, module, *, training):
    return batch_normalization(
        x, module.weight, module.bias, module.running_mean, module.running_var,
        epsilon=module.eps, momentum=1 - module.momentum, training_mode=False, training=training,
    )  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
def test_batch_normalization_is_one_pass_in_half_precision(half, training):
    x = torch.randn(8, 5, 6, 6).to(half)
    ours, native = nn.BatchNorm2d(5), nn.BatchNorm2d(5)
    with torch.no_grad():
        for module in (ours, native):
            module.running_mean += torch.linspace(-1, 1, 5)
            module.weight += torch.linspace(0, 1, 5)
    native.train(training)
    found, expected = normalized(x, ours, training=training), native(x)
    assert found.dtype == expected.dtype == half
    assert type(found.grad_fn) is type(expected.grad_fn)
    assert torch.equal(found, expected)
    torch.testing.assert_close(ours.running_mean, native.running_mean)


def test_layer_normalization(half):
    x, scale, bias = torch.randn(4, 7, 16).to(half), torch.rand(16), torch.rand(16)
    found = layer_normalization(x, scale, bias, axis=-1, epsilon=1e-5, stash_type=1, outputs=1)
    expected = functional.layer_norm(x, [16], scale, bias, 1e-5)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_a_bias_in_float32_does_not_widen_a_product(half):
    x, weight, bias = torch.randn(3, 8, 64).to(half), torch.randn(64, 32), torch.randn(32)
    expected = functional.linear(x, weight.T, bias)
    assert expected.dtype == half
    for found in (multiply(x, weight, bias), multiply_turned(x, weight.T, bias)):
        assert found.dtype == half
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=5e-2)
    flat = gemm(x[0], weight, bias, alpha=1.0, beta=1.0, transA=False, transB=False)
    assert flat.dtype == half


def test_a_mask_in_float32_does_not_keep_attention_from_its_kernel(half, monkeypatch):
    called = []
    kernel = functional.scaled_dot_product_attention

    def counted(*arguments, **options):
        called.append(1)
        return kernel(*arguments, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    q, k, v = (torch.randn(2, 3, 5, 16).to(half) for _ in range(3))
    mask = torch.zeros(1, 1, 5, 5)
    found = attend(q, k.mT, v, mask, 1.0, 1.0, factor=0.25)
    assert called
    assert found.dtype == half
    with torch.autocast("cpu", enabled=False):
        exact = ((q.float() @ k.float().mT) * 0.25).softmax(-1) @ v.float()
    torch.testing.assert_close(found.float(), exact, rtol=5e-2, atol=5e-2)
