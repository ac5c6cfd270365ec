"""Quantised weights learn: the numbers of the file, gradients straight through, integers back."""

from __future__ import annotations

import copy
from dataclasses import replace

import networks as nw
import numpy as np
import onnx
import pytest
import torch
from classes import fit
from ml_dtypes import float8_e4m3fn, float8_e5m2, int2, int4, uint2, uint4
from onnx import numpy_helper, parser
from quantised import digits, quantised_network
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrize

import surgeon
from surgeon.errors import UnknownNameError, UnsupportedError
from surgeon.operation import check
from surgeon.runtime.observe import relative_error
from surgeon.torch_graph.module import to_module
from surgeon.train.settings import Checkpoint, FitSettings, Progress
from surgeon_models import get, sample_data

RANDOM = np.random.default_rng(0)


def model_of(text, opset=21, inputs="float[n, 8] x", outputs="float[n, k] y", **tensors):
    opsets = f'"": {opset}, "com.microsoft": 1'
    model = parser.parse_model(
        f"<ir_version: 10, opset_import: [{opsets}]> g ({inputs}) => ({outputs}) {{ {text} }}"
    )
    for name, value in tensors.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def integers(dtype, *shape, low=-128, high=127):
    return RANDOM.integers(low, high + 1, shape).astype(dtype)


def scales(*shape):
    return RANDOM.uniform(0.01, 0.1, shape).astype(np.float32)


PER_CHANNEL = model_of(
    """w = DequantizeLinear<axis = 1>(q, s, z) b = DequantizeLinear(bq, bs)
       m = MatMul(x, w) y = Add(m, b)""",
    q=integers(np.int8, 8, 6), s=scales(6), z=integers(np.int8, 6, low=-5, high=5),
    bq=np.array([2**30 + 1, -(2**31), 2**24 + 1, 5, 0, -7], np.int32), bs=np.float32(1e-9),
)  # fmt: skip
BLOCKED = model_of(
    "w = DequantizeLinear<axis = 0, block_size = 4>(q, s, z) y = MatMul(x, w)",
    q=integers(int4, 8, 6, low=-8, high=7), s=scales(2, 6),
    z=integers(int4, 2, 6, low=-2, high=2),
)  # fmt: skip
BY_HAND = model_of(
    "c = Cast<to = 1>(q) d = Sub(c, z) w = Mul(d, s) y = MatMul(x, w)",
    q=integers(np.uint8, 8, 6, low=0, high=255), s=scales(6), z=np.float32(128),
)  # fmt: skip
MOVED = model_of(
    "r = Reshape(q, shape) t = Transpose<perm = [1, 0]>(r) w = DequantizeLinear<axis = 1>(t, s)"
    " y = MatMul(x, w)",
    q=integers(np.int16, 48, low=-999, high=999), s=scales(6), shape=np.array([6, 8]),
)  # fmt: skip
HALF = model_of(
    "w = DequantizeLinear<axis = 1>(q, s) h = Cast<to = 10>(x) m = MatMul(h, w)"
    " y = Cast<to = 1>(m)",
    q=integers(np.int8, 8, 6), s=scales(6).astype(np.float16),
)  # fmt: skip
ALL = {
    "per channel": PER_CHANNEL, "blocked": BLOCKED, "by hand": BY_HAND, "moved": MOVED,
    "half": HALF,
}  # fmt: skip


def initializer(model, name):
    return next(t for t in model.graph.initializer if t.name == name)


def values(model, name):
    return numpy_helper.to_array(initializer(model, name))


# ── the module ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ALL)
def test_by_default_they_are_constants_and_if_asked_for_parameters_under_their_own_name(form):
    model = ALL[form]
    plain, module = surgeon.to_torch(model), surgeon.to_torch(model, quantized=True)
    floats = set(surgeon.load(model).roles())
    latent = set(surgeon.load(model).quantized())
    assert latent == ({"q", "bq"} if form == "per channel" else {"q"})
    assert list(plain.named_parameters()) == []
    assert set(plain.state_dict()) == floats
    assert {name for name, _ in module.named_parameters()} == latent
    assert set(module.state_dict()) == floats | latent
    assert all(p.dtype == torch.float32 for p in module.parameters())


@pytest.mark.parametrize("form", ALL)
def test_untouched_they_compute_the_same_bits_and_write_back_the_same_bytes(form):
    model = ALL[form]
    x = torch.eye(8)  # so that the order of the sums does not matter
    module = surgeon.to_torch(model, quantized=True)
    assert torch.equal(surgeon.to_torch(model)(x), module(x))
    with torch.no_grad():
        assert torch.equal(surgeon.to_torch(model)(x), module(x))
    for given in (module, module.state_dict(), surgeon.tensors(module)):
        assert surgeon.write_back(model, given).SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize("form", ALL)
def test_after_a_step_the_file_computes_what_the_module_computes(form):
    model = ALL[form]
    x = torch.randn(5, 8)
    module = surgeon.to_torch(model, quantized=True)
    module(x).square().mean().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            assert parameter.grad.isfinite().all()
            parameter.sub_(parameter.grad * 0.3 / parameter.grad.abs().max())
    tensors = surgeon.tensors(module)
    written = surgeon.write_back(model, module)
    onnx.checker.check_model(written)
    for name, _ in module.named_parameters():
        before, after = values(model, name), values(written, name)
        assert after.dtype == before.dtype
        assert np.array_equal(after.astype(np.int64), tensors[name].numpy().astype(np.int64))
        assert (after != before).any() or name == "bq"
    names = {name for name, _ in module.named_parameters()}
    for tensor in model.graph.initializer:  # scales and zero points too
        assert tensor.name in names or tensor == initializer(written, tensor.name)
    with torch.no_grad():
        found = module(x).numpy()
    bound = 1e-2 if form == "half" else 1e-5
    assert relative_error(found, nw.run(written, {"x": x.numpy()})["y"]) <= bound
    from_state = surgeon.write_back(model, module.state_dict())
    assert from_state.SerializeToString() == written.SerializeToString()


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (np.int8, -128, 127), (np.uint8, 0, 255), (np.int16, -32768, 32767),
        (np.uint16, 0, 65535), (int4, -8, 7), (uint4, 0, 15), (int2, -2, 1), (uint2, 0, 3),
        (np.int32, -(2**31), 2**31 - 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("exponent", [-40, -20, 0, 10])
def test_every_integer_of_every_type_comes_back(dtype, low, high, exponent):
    count = min(high - low + 1, 70000)
    whole = np.linspace(low, high, count).round().astype(np.int64)
    scale = np.float32(RANDOM.uniform(0.5, 2) * 10.0**exponent)
    model = model_of(
        "w = DequantizeLinear(q, s) y = Mul(x, w)", opset=25, inputs="float[k] x",
        outputs="float[k] y", q=whole.astype(dtype), s=scale,
    )  # fmt: skip
    module = to_module(model, roles={}, quantized=["q"])
    assert np.array_equal(surgeon.tensors(module)["q"].numpy().astype(np.int64), whole)
    ones = torch.ones(count)
    assert torch.equal(module(ones), to_module(model, roles={})(ones))


@pytest.mark.parametrize("dtype", [float8_e4m3fn, float8_e5m2])
def test_eight_bit_floats_too(dtype):
    model = model_of(
        "w = DequantizeLinear(q, s) y = MatMul(x, w)",
        q=RANDOM.standard_normal((8, 6)).astype(dtype), s=np.float32(0.3),
    )  # fmt: skip
    x = torch.randn(5, 8)
    module = surgeon.to_torch(model, quantized=True)
    assert torch.equal(module(x), surgeon.to_torch(model)(x))
    assert surgeon.write_back(model, module).SerializeToString() == model.SerializeToString()
    with torch.no_grad():
        dict(module.named_parameters())["q"].mul_(1.7)
    written = surgeon.write_back(model, module)
    assert values(written, "q").dtype == dtype
    assert relative_error(module(x).detach().numpy(), nw.run(written, {"x": x.numpy()})["y"]) < 1e-5


def test_a_channel_of_scale_zero_keeps_its_integers():
    model = model_of(
        "w = DequantizeLinear<axis = 1>(q, s) y = MatMul(x, w)",
        q=integers(np.int8, 8, 2), s=np.array([0, 0.1], np.float32),
    )  # fmt: skip
    module = surgeon.to_torch(model, quantized=True)
    module(torch.randn(5, 8)).sum().backward()
    (latent,) = module.parameters()
    assert not latent.grad[:, 0].any()
    with torch.no_grad():
        latent -= latent.grad
    written = surgeon.write_back(model, module)
    assert np.array_equal(values(written, "q")[:, 0], values(model, "q")[:, 0])
    assert not np.array_equal(values(written, "q")[:, 1], values(model, "q")[:, 1])


# ── gradients ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["per channel", "blocked", "by hand", "moved"])
def test_gradients_are_those_of_the_float_weight(form):
    model = ALL[form]
    x, step = torch.randn(5, 8), torch.randn(5, 6)
    module = surgeon.to_torch(model, quantized=True)
    (module(x) * step).sum().backward()
    weight = x.T @ step  # of y = x · w, by the textbook
    found = dict(module.named_parameters())["q"].grad
    if form == "moved":
        found = found.reshape(6, 8).T
    assert torch.allclose(found, weight, rtol=1e-4, atol=1e-4)


def test_what_saturates_gets_no_gradient_and_what_only_rounds_to_the_end_does():
    model = model_of(
        "w = DequantizeLinear(q, s) y = Mul(x, w)", inputs="float[5] x", outputs="float[5] y",
        q=np.array([0, 127, -128, 127, -128], np.int8), s=np.float32(0.5),
    )  # fmt: skip
    module = surgeon.to_torch(model, quantized=True)
    (latent,) = module.parameters()
    with torch.no_grad():
        latent.copy_(torch.tensor([1.3, 63.7, -64.2, 63.8, -64.3]))
    module(torch.ones(5)).sum().backward()
    assert latent.grad.tolist() == [1, 1, 1, 0, 0]
    assert surgeon.tensors(module)["q"].tolist() == [3, 127, -128, 127, -128]


def test_the_gradient_passes_features_quantised_moved_and_dequantised_by_another_name():
    text = """q = QuantizeLinear(x, s, z) p = MaxPool<kernel_shape = [2]>(q)
              t = Transpose<perm = [0, 2, 1]>(p) c = Concat<axis = 1>(t, t)
              d = DequantizeLinear(c, s2, z2) y = Mul(d, w)"""
    model = model_of(
        text, opset=17, inputs="float[n, 2, 4] x", outputs="float[n, 6, 2] y",
        s=np.float32(0.1), z=np.uint8(100), s2=np.float32(0.1), z2=np.uint8(100),
        w=np.ones(2, np.float32),
    )  # fmt: skip
    module = surgeon.to_torch(model)
    x = torch.randn(3, 2, 4) * 4
    x[0, 0] = torch.tensor([1.0, 99.0, -2.0, -99.0])
    with torch.no_grad():
        quiet = module(x)
    x.requires_grad_()
    y = module(x)
    assert torch.equal(y, quiet)
    assert np.array_equal(quiet.numpy(), nw.run(model, {"x": x.detach().numpy()})["y"])
    y.sum().backward()
    assert set(x.grad.unique().tolist()) == {0.0, 2.0, 4.0}
    assert x.grad[0, 0].tolist() == [0, 0, 2, 0]  # 99 and -99 saturate, 1 loses to 99


@pytest.mark.parametrize(
    "rest",
    [
        "y = QLinearAdd_(q)",
        "i = Cast<to = 6>(q) y = Cast<to = 1>(i)",
        "d = DequantizeLinear(q, s, z) e = Equal(q, z) f = Cast<to = 1>(e) y = Add(d, f)",
    ],
)
def test_integers_stay_integers_where_something_else_reads_them(rest):
    other = "y = com.microsoft.QLinearSigmoid(q, s, z, s, z)"
    model = model_of(
        f"q = QuantizeLinear(x, s, z) {rest.replace('y = QLinearAdd_(q)', other)}",
        opset=17, outputs="uint8[n, 8] y" if "QLinear" in rest else "float[n, 8] y",
        s=np.float32(0.1), z=np.uint8(100),
    )  # fmt: skip
    x = torch.randn(3, 8, requires_grad=True)
    found = surgeon.to_torch(model)(x).detach().numpy()
    assert np.array_equal(found, nw.run(model, {"x": x.detach().numpy()})["y"])


# ── as torch's tools see it ──────────────────────────────────────────────────────────────────────


def test_the_module_copies_loads_exports_and_compiles():
    module = surgeon.to_torch(PER_CHANNEL, quantized=True)
    x = torch.randn(5, 8)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    assert not torch.equal(twin(x), module(x))
    assert torch.equal(functional_call(twin, dict(module.named_parameters()), (x,)), module(x))
    twin.load_state_dict(module.state_dict(), strict=True)
    assert torch.equal(twin(x), module(x))
    assert torch.equal(torch.export.export(module, (x,)).module()(x), module(x))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    compiled(x).square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in module.parameters()]
    module.zero_grad()
    module(x).square().sum().backward()
    for found, parameter in zip(gradients, module.parameters(), strict=True):
        assert torch.allclose(found, parameter.grad)


class Scaled(nn.Module):
    def forward(self, weight):
        return weight * 0.5


def test_an_adapter_is_folded_into_the_integers():
    module = surgeon.to_torch(BY_HAND, quantized=True)
    before = surgeon.tensors(module)["q"].int() - 128
    parametrize.register_parametrization(module, "q", Scaled())
    after = surgeon.tensors(module)["q"]
    assert after.dtype == torch.uint8
    assert (after.int() - 128 - before * 0.5).abs().max() <= 0.5


# ── the job ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return quantised_network(tmp_path_factory.mktemp("qdq"))


def data(count=600):
    pictures, labels = digits(count)
    return {"x": pictures, "labels": labels}


def is_integer(tensor):
    return values_of(tensor).dtype.kind in "iu"


def values_of(tensor):
    return numpy_helper.to_array(tensor)


def test_a_file_of_the_quantiser_is_tuned_in_every_weight_and_proven(network, tmp_path):
    loaded = surgeon.load(network)
    quantised = set(loaded.quantized())
    assert len(quantised) == 6  # three int8 weights per channel, three int32 biases
    out = tmp_path / "tuned.onnx"
    outcome = surgeon.finetune(
        network, data(), out, case="large-similar", device="cpu", threads=1, epochs=24, lr=1e-2
    )
    body = outcome.document()
    kept = quantised - {name for name in quantised if name.startswith("fc.")}
    assert set(body["trainable"]) == kept | {"surgeon.head.weight", "surgeon.head.bias"}
    assert body["delivered"] == "tuned"
    assert kept <= set(body["changed"]) <= set(body["trainable"])
    rows = [row["validation_accuracy"] for row in body["history"]]
    assert body["metrics"]["validation"]["accuracy"] > rows[0] + 0.03  # the solved head alone
    patient = surgeon.operate(network, case="large-similar", classes=10)
    tuned = onnx.load(out)
    onnx.checker.check_model(tuned)
    assert list(tuned.graph.node) == list(patient.proto.graph.node)
    before = {t.name: t for t in patient.proto.graph.initializer}
    for tensor in tuned.graph.initializer:
        if tensor.name in body["changed"]:
            assert tensor.data_type == before[tensor.name].data_type
        else:  # every scale and every zero point
            assert tensor == before[tensor.name]
    parity = body["proof"]["parity"]
    assert parity["max_relative"] <= 1e-4
    assert parity["quantised"]["steps"] <= 1
    assert parity["quantised"]["values"] > 4 * 8 * 64
    assert surgeon.verify(out, source=network).passed
    verdict = surgeon.predict(out, {"x": data()["x"][:8]}, device="cpu", threads=1)
    assert verdict.failed == []


def test_weight_only_integers_are_tuned_too(tmp_path):
    model = model_of(
        """w = DequantizeLinear<axis = 0, block_size = 16>(q, s) h = MatMul(x, w) r = Relu(h)
           v = DequantizeLinear<axis = 1>(p, t) y = MatMul(r, v)""",
        inputs="float[n, 64] x", outputs="float[n, 10] y",
        q=integers(int4, 64, 32, low=-8, high=7), s=scales(4, 32),
        p=integers(np.int8, 32, 10), t=scales(10),
    )  # fmt: skip
    pictures, labels = digits(300)
    given = {"x": pictures.reshape(len(pictures), -1), "labels": labels}
    out = tmp_path / "tuned.onnx"
    outcome = surgeon.finetune(
        model, given, out, case="large-similar", device="cpu", threads=1, epochs=6, lr=1e-2
    )
    body = outcome.document()
    assert "q" in body["changed"]
    assert "quantised" not in body["proof"]["parity"]  # nothing rounds between the weights
    assert values(onnx.load(out), "q").dtype == int4
    assert initializer(onnx.load(out), "s") == initializer(model, "s")
    assert surgeon.verify(out, source=model).passed
    again = surgeon.finetune(out, given, case=None, device="cpu", threads=1, epochs=1)
    assert set(again.document()["trainable"]) == set(body["trainable"])


def test_a_case_that_freezes_the_network_leaves_its_integers_alone(network):
    outcome = surgeon.finetune(network, data(200), case="small-similar", device="cpu", threads=1)
    body = outcome.document()
    assert body["trainable"] == ["surgeon.head.weight", "surgeon.head.bias"]
    assert body["changed"] == body["trainable"]


def test_check_finds_nothing_wrong_and_a_start_at_random_is_refused(network):
    kinds = [item["kind"] for item in check(network)["findings"]]
    assert "nothing-to-train" not in kinds
    assert "integer-products" not in kinds
    with pytest.raises(UnsupportedError, match="cannot start at random"):
        surgeon.operate(network, case="large-different", classes=3, init="random")
    # Nothing but the head starts anew here.
    surgeon.operate(network, case="small-different", classes=3, init="random")


def test_check_says_that_quantised_operators_do_not_learn():
    model = model_of(
        "q = QuantizeLinear(x, s, z) m = QLinearMatMul(q, s, z, w, s, z, s, z)"
        " y = DequantizeLinear(m, s, z)",
        w=integers(np.uint8, 8, 6, low=0, high=255), s=np.float32(0.1), z=np.uint8(3),
    )  # fmt: skip
    found = [f for f in check(model)["findings"] if f["level"] == "warning"]
    assert [f["kind"] for f in found] == ["nothing-to-train", "integer-products"]
    assert "1 nodes compute with integer weights (QLinearMatMul)" in found[1]["message"]


def test_check_names_the_place_where_the_gradient_ends():
    model = model_of(
        "m = MatMul(x, w) q = QuantizeLinear(m, s, z)"
        " g = com.microsoft.QLinearSigmoid(q, s, z, s, z) y = DequantizeLinear(g, s, z)",
        w=scales(8, 6), s=np.float32(0.1), z=np.uint8(3),
    )  # fmt: skip
    found = check(model)["findings"]
    told = [(f["kind"], f["node"]) for f in found if f["kind"] != "no-head"]
    assert told == [("gradient-ends", "q")]


class Samples:
    """Digits in memory, as the loop wants them."""

    def __init__(self, first, last):
        pictures, labels = digits(last)
        self.x, self.targets = torch.from_numpy(pictures[first:]), labels[first:]

    @property
    def n(self):
        return len(self.targets)

    def load(self, indices):
        return (self.x[torch.from_numpy(indices)],)


def test_a_run_that_is_resumed_ends_in_the_same_bits(network, tmp_path):
    patient = surgeon.operate(network, case="large-similar", classes=10)
    settings = FitSettings(epochs=3, batch=32, device="cpu")

    def run(**options):
        module = to_module(patient.proto, roles=patient.roles(), quantized=patient.trainable)
        result = fit(
            module, Samples(0, 128), Samples(128, 192), trainable=patient.trainable,
            settings=replace(settings), **options,
        )  # fmt: skip
        return module, result

    def interrupt(progress: Progress):
        if progress.epoch == 2 and progress.step == 6:
            raise KeyboardInterrupt

    straight, _ = run()
    _, broken = run(progress=interrupt, checkpoint=Checkpoint(tmp_path))
    assert broken.stopped == "interrupt"
    resumed, _ = run(checkpoint=Checkpoint(tmp_path, resume=True))
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_only_the_named_ones_learn(network):
    loaded = surgeon.load(network)
    some = next(iter(loaded.quantized()))
    module = to_module(loaded.proto, roles=loaded.roles(), quantized=[some])
    assert [name for name, _ in module.named_parameters()] == [some]
    with pytest.raises(UnknownNameError):
        fit(module, Samples(0, 32), None, trainable=["c2.weight_scale"])


@pytest.mark.slow
def test_a_real_network_in_eight_bits_is_tuned_wholly(tmp_path):
    """EfficientNet-Lite0 in QDQ form, on emoji: every int8 weight and int32 bias may move."""
    path = get("efficientnet-lite0-qdq")
    out = tmp_path / "tuned.onnx"
    outcome = surgeon.finetune(
        path, sample_data("efficientnet-lite0-qdq", samples=24), out, case="large-similar",
        device="cpu", threads=2, validation=0.34, epochs=2,
    )  # fmt: skip
    body = outcome.document()
    assert len(body["trainable"]) == 100
    source, tuned = onnx.load(path), onnx.load(out)
    before = {t.name: t for t in source.graph.initializer}
    changed = set(body["changed"])
    for tensor in tuned.graph.initializer:
        if tensor.name in before and tensor.name not in changed:
            assert tensor == before[tensor.name]
        assert tensor.name not in changed or not tensor.name.endswith(("_scale", "_zero_point"))
    parity = body["proof"]["parity"]
    assert parity["max_relative"] <= 1e-4
    assert parity["quantised"]["differing"] <= 1e-5 * parity["quantised"]["values"]
    assert surgeon.verify(out, source=path).passed
    assert body["delivered"] != "tuned" or any(is_integer(before[n]) for n in changed & set(before))
    print(body["delivered"], len(changed), parity, body["metrics"])
