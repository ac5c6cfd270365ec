"""Products by oneDNN: the values and gradients of torch's own, for every layout in memory."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.autograd import forward_ad

from surgeon.ops import products
from surgeon.ops.products import multiply

LEFT = {
    "dense": lambda: torch.randn(64, 256),
    "batched": lambda: torch.randn(4, 16, 256),
    "transposed": lambda: torch.randn(256, 64).t(),
    "every second column": lambda: torch.randn(64, 512)[:, ::2],
    "one row seen everywhere": lambda: torch.randn(1, 256).expand(64, 256),
    "axes swapped": lambda: torch.randn(16, 4, 256).transpose(0, 1),
}
RIGHT = {
    "dense": lambda: torch.randn(256, 128),
    "transposed": lambda: torch.randn(128, 256).t(),
    "one column seen everywhere": lambda: torch.randn(256, 1).expand(256, 128),
    "every second column": lambda: torch.randn(256, 256)[:, ::2],
}
BIAS = {
    "none": lambda: None,
    "dense": lambda: torch.randn(128),
    "one number": lambda: torch.randn(1).expand(128),
    "every second": lambda: torch.randn(256)[::2],
}
LOSS = {
    "sum": torch.Tensor.sum,
    "square": lambda y: y.square().sum(),
    "part": lambda y: (y[..., ::2] * torch.arange(64)).sum(),
    "turned": lambda y: y.mT.cumsum(0).square().sum(),
}


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    """Take oneDNN on every machine that has it; count its calls."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    calls = []
    apply = products._Product.apply
    monkeypatch.setattr(products, "_is_faster", lambda: True)
    monkeypatch.setattr(products, "_LEAST", 0)
    monkeypatch.setattr(
        products._Product, "apply", lambda *arguments: calls.append(1) or apply(*arguments)
    )
    torch.manual_seed(0)
    return calls


def close(found, expected):
    torch.testing.assert_close(
        found, expected, rtol=1e-4, atol=1e-4 * max(1.0, float(expected.detach().abs().max()))
    )


@pytest.mark.parametrize("loss", LOSS)
@pytest.mark.parametrize("bias", BIAS)
@pytest.mark.parametrize("right", RIGHT)
@pytest.mark.parametrize("left", LEFT)
def test_values_and_gradients(left, right, bias, loss, taken):
    tensors = [LEFT[left](), RIGHT[right](), BIAS[bias]()]
    tensors = [None if t is None else t.requires_grad_() for t in tensors]
    learnt = [t for t in tensors if t is not None]
    x, w, b = tensors
    found, expected = multiply(x, w, b), x @ w + (0 if b is None else b)
    close(found, expected)
    assert bool(taken) == (bias in {"none", "dense"})  # oneDNN reads a bias as if it lay dense
    pairs = zip(
        torch.autograd.grad(LOSS[loss](found), learnt),
        torch.autograd.grad(LOSS[loss](expected), learnt),
        strict=True,
    )
    for got, wanted in pairs:
        close(got, wanted)


def test_second_derivatives():
    x, w = torch.randn(32, 64, requires_grad=True), torch.randn(64, 48, requires_grad=True)
    second = []
    for product in (multiply(x, w), x @ w):
        (first,) = torch.autograd.grad(product.pow(3).mean(), w, create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), (x, w)))
    for got, wanted in zip(*second, strict=True):
        close(got, wanted)


def test_the_same_bits_every_time():
    x, w = torch.randn(197, 384), torch.randn(384, 1536)
    assert torch.equal(multiply(x, w), multiply(x, w))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (torch.randn(3, 4).double(), torch.randn(4, 2).double()),
        (torch.randn(3, 4), torch.randn(5, 4, 2)),
        (torch.randn(4), torch.randn(4, 2)),
        (torch.randn(3, 4, device="meta"), torch.randn(4, 2, device="meta")),
        (torch.randn(3, 4).bfloat16(), torch.randn(4, 2).bfloat16()),
    ],
    ids=["float64", "batched right", "vector", "meta", "bf16"],
)
def test_what_else_there_is_goes_to_torch(left, right, taken):
    found = multiply(left, right)
    assert not taken
    assert found.shape == torch.matmul(left, right).shape
    if right.dim() == 2:
        bias = torch.ones(2, dtype=right.dtype, device=right.device)
        assert multiply(left, right, bias).shape == found.shape


def test_autocast_transforms_and_compilers_are_left_alone(taken):
    x, w = torch.randn(32, 64), torch.randn(64, 48)
    with torch.autocast("cpu", torch.bfloat16):
        assert multiply(x, w).dtype is torch.bfloat16
    close(torch.func.grad(lambda v: multiply(x, v).square().sum())(w), 2 * x.t() @ (x @ w))
    torch.func.vmap(lambda row: multiply(row[None], w))(x)
    exported = torch.export.export(Product(), (x, w))
    assert not taken
    close(exported.module()(x, w), x @ w)


def test_tracing_and_forward_derivatives_are_left_alone(taken):
    x, w = torch.randn(32, 64), torch.randn(64, 48)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about the future of its tracer
        traced = torch.jit.trace(Product(), (x, w), check_trace=False)
        with forward_ad.dual_level():
            moved = multiply(forward_ad.make_dual(x, torch.ones_like(x)), w)
            tangent = forward_ad.unpack_dual(moved).tangent
    assert not taken
    close(traced(x, w), x @ w)
    close(tangent, torch.ones_like(x) @ w)


def test_only_what_a_gradient_needs_is_kept():
    kept = []
    x, w = torch.randn(64, 256), torch.nn.Parameter(torch.randn(256, 128))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        multiply(x, w)
        multiply(x.requires_grad_(), w.detach())
        multiply(x, w)
    assert kept == [(64, 256), (256, 128), (64, 256), (256, 128)]


class Product(torch.nn.Module):
    """A module around one product."""

    def forward(self, left, right):
        return multiply(left, right)


def test_small_products_are_not_worth_it(monkeypatch, taken):
    monkeypatch.undo()
    monkeypatch.setattr(products, "_is_faster", lambda: True)
    assert not products._takes_onednn(torch.ones(8, 64), torch.ones(64, 64), None)
    assert products._takes_onednn(torch.ones(512, 64), torch.ones(64, 64), None)


@pytest.mark.parametrize(
    ("maker", "capability", "expected"),
    [
        ("vendor_id\t: AuthenticAMD", "AVX512", True),
        ("vendor_id\t: GenuineIntel", "AVX512", False),
        ("vendor_id\t: AuthenticAMD", "AVX2", False),
    ],
)
def test_where_it_is_taken(maker, capability, expected, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(products, "_maker", lambda: maker)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert products._is_faster.__wrapped__() is expected
