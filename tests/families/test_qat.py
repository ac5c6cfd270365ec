"""Quantisation-aware training: what is put in, what learns, what ONNX Runtime makes of it."""

from __future__ import annotations

from collections import Counter

import networks as nw
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from quantised import digits, float_network, quantised_network

import surgeon
from surgeon.errors import DataError, ModelError, UnsupportedError, UsageError
from surgeon_qat.quantize import quantize
from surgeon_qat.ranges import Method, measure

ORDINARY = {"case": "large-similar", "epochs": 1, "batch": 32, "device": "cpu"}


def pictures(count=120):
    values, labels = digits(count)
    return {"x": values, "labels": labels}


def feeds_of(model, seeds=range(3), change=None):
    """Give what the core gives an adapter of files: inputs, and values that are asked for."""

    def feeds(count, values=()):
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        taken = {one.name for one in model.graph.input}
        asked = [name for name in values if name not in taken]
        there = {one.name for one in model.graph.output}
        extra = [onnx.ValueInfoProto(name=name) for name in asked if name not in there]
        shown.graph.output.extend(extra)
        session = onnxruntime.InferenceSession(shown.SerializeToString())
        for seed in list(seeds)[:count]:
            one = nw.feeds(model, batch=2, seed=seed)
            if change is not None:
                change(one)
            yield one | dict(zip(asked, session.run(asked, one) if asked else [], strict=True))

    return feeds


def rewritten(model, head=(), change=None, **settings):
    return quantize(model, feeds_of(model, change=change), head, **settings)


def operators(model):
    return Counter(node.op_type for node in model.graph.node)


def optimised(model, tmp_path):
    """Return the operators that ONNX Runtime runs in place of a file's."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    return operators(onnx.load(tmp_path / "optimised.onnx"))


def arrays(model):
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def weighted():
    """Return a network with one weight of every kind, each with the axis of its channels."""
    net = nw.Net(opset=17)
    x = net.input("x", ["N", 3, 8, 8])
    x = net.node("Conv", x, net.weight("conv", 4, 3, 3, 3), net.weight("conv.b", 4))
    x = net.node("ConvTranspose", x, net.weight("turned", 4, 5, 2, 2), net.weight("turned.b", 5))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    x = net.node("Gemm", x, net.weight("rows", 6, 5), net.weight("rows.b", 6), transB=1)
    x = net.node("Gemm", x, net.weight("columns", 6, 7), net.weight("columns.b", 7))
    net.node("MatMul", x, net.weight("product", 7, 2), out="y")
    axes = {"conv": 0, "turned": 1, "rows": 0, "columns": 1, "product": 1}
    return net.model("y", shape=["N", 2]), axes


def test_weights_are_rounded_per_channel_along_the_axis_of_their_operator():
    model, axes = weighted()
    made = rewritten(model)
    onnx.checker.check_model(made.model, full_check=True)
    before, after = arrays(model), arrays(made.model)
    by_weight = {node.input[0]: node for node in made.model.graph.node
                 if node.op_type == "DequantizeLinear"}  # fmt: skip
    assert made.instead == {name: (f"surgeon.{name}_quantized",) for name in axes}
    for name, axis in axes.items():
        stored, scale = after[f"surgeon.{name}_quantized"], after[f"surgeon.{name}_scale"]
        shape = [1] * before[name].ndim
        shape[axis] = before[name].shape[axis]
        assert scale.shape == (shape[axis],)
        assert next(one.i for one in by_weight[f"surgeon.{name}_quantized"].attribute) == axis
        assert stored.dtype == np.int8
        assert np.abs(stored.astype(int)).max() <= 64
        apart = np.abs(stored * scale.reshape(shape) - before[name])
        assert (apart <= 0.501 * scale.reshape(shape)).all()
    assert all(np.array_equal(after[name], before[name]) for name in before if name.endswith(".b"))


def test_onnx_runtime_runs_8_bit_kernels(tmp_path):
    model = float_network()
    made = rewritten(model, head=("fc.w", "fc.b"))
    run = optimised(made.model, tmp_path)
    assert run["QLinearConv"] == 2
    assert run["Conv"] == 0
    assert run["Gemm"] == 1  # the head
    feeds = nw.feeds(model, batch=4)
    (wanted,), (got,) = (
        onnxruntime.InferenceSession(one.SerializeToString()).run(None, feeds)
        for one in (model, made.model)
    )
    assert np.corrcoef(wanted.ravel(), got.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    ("method", "most"),
    [(Method("minmax", 100), 40.0), (Method("percentile", 99.0), 6.0), (Method("mse", 100), 39.0)],
)
def test_a_rare_number_does_not_stretch_a_range_that_is_clipped(method, most):
    numbers = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    numbers[0] = 40.0

    def feeds(count, names):
        for _ in range(count):
            yield dict.fromkeys(names, numbers)

    found, seen = measure(feeds, ["x"], 2, method)
    assert seen == 2
    assert 2 < found["x"].high <= most
    assert numbers.min() <= found["x"].low < -2


def test_sums_beside_constants_and_masks_in_front_of_a_softmax_stay_floats():
    model = nw.transformer(opset=17)
    made = rewritten(model).model
    makers = {name: node for node in made.graph.node for name in node.output}
    stored = set(arrays(model))
    for node in made.graph.node:
        if node.op_type == "Softmax":
            above = makers[node.input[0]]
            assert above.op_type in ("Add", "Div", "Mul", "Where", "DequantizeLinear")
        if node.op_type == "Add" and stored.intersection(node.input):
            readers = [one for one in made.graph.node if node.output[0] in one.input]
            assert node.output[0] in node.output
            assert readers


def test_a_whole_run_trains_int8_weights_and_keeps_all_else(tmp_path):
    model, out = float_network(), tmp_path / "tuned.onnx"
    outcome = surgeon.finetune(model, pictures(), out, adapter="qat", lr=0.003, **ORDINARY)
    document = outcome.document()
    plan, tuned = document["plan"], outcome.model.proto
    assert plan["adapter"] == "qat"
    assert sum(name.endswith("_quantized") for name in plan["trainable"]) == 2
    assert any("QuantizeLinear" in note for note in document["warnings"])
    assert document["proof"]["parity"]["quantised"]["steps"] <= 1
    onnx.checker.check_model(tuned, full_check=True)
    assert optimised(tuned, tmp_path)["QLinearConv"] == 2
    frozen = set(arrays(tuned)) - set(plan["trainable"])
    dry = surgeon.finetune(model, pictures(), adapter="qat", dry_run=True, lr=0.003, **ORDINARY)
    begun, ended = arrays(dry.model.proto), arrays(tuned)
    assert list(begun) == list(ended)
    assert all(np.array_equal(begun[name], ended[name]) for name in frozen)
    assert set(document["changed"]) <= set(plan["trainable"])
    assert surgeon.verify(out).passed
    assert surgeon.verify(out, surgeon.load(model)).passed
    again = surgeon.finetune(out, pictures(), epochs=1, device="cpu")
    assert again.model.trainable == plan["trainable"]
    assert operators(again.model.proto) == operators(tuned)


def test_the_same_seed_gives_the_same_bits():
    made = [
        surgeon.finetune(float_network(), pictures(), adapter="qat", **ORDINARY) for _ in range(2)
    ]
    assert made[0].model.proto == made[1].model.proto


def test_gradients_reach_every_int8_weight_and_every_bias():
    made = rewritten(float_network(), head=("fc.w", "fc.b"))
    module = surgeon.to_torch(made.model, quantized=True)
    module(torch.from_numpy(pictures(20)["x"])).square().sum().backward()
    wanted = {one for names in made.instead.values() for one in names} | {"fc.w", "fc.b"}
    named = dict(module.named_parameters())
    assert wanted <= set(named)
    assert all(float(one.grad.abs().sum()) > 0 for one in named.values())


def test_a_case_that_trains_the_head_alone_quantises_what_it_keeps():
    options = {"case": "small-similar", "device": "cpu"}
    outcome = surgeon.finetune(float_network(), pictures(), adapter="qat", **options)
    assert set(outcome.document()["changed"]) == {"surgeon.head.weight", "surgeon.head.bias"}
    assert operators(outcome.model.proto)["QuantizeLinear"] > 0


def test_a_tuned_float_file_becomes_int8_and_goes_on():
    begins = {**ORDINARY, "case": "large-different", "init": "random"}  # what it once began with
    first = surgeon.finetune(float_network(), pictures(), **begins)
    second = surgeon.finetune(first.model, pictures(), adapter="qat", epochs=1, device="cpu")
    assert operators(second.model.proto)["QuantizeLinear"] > 0
    assert second.model.plan.adapter == "qat"


def test_an_operated_file_is_rewritten_when_it_is_trained():
    operated = surgeon.operate(float_network(), "large-similar", 10, adapter="qat")
    assert operators(operated.proto)["QuantizeLinear"] == 0
    outcome = surgeon.finetune(operated, pictures(), epochs=1, device="cpu")
    assert operators(outcome.model.proto)["QuantizeLinear"] > 0


# ── scales ───────────────────────────────────────────────────────────────────────────────────────


def test_scales_of_what_is_trained_learn_where_that_is_asked_for(tmp_path):
    out, options = tmp_path / "tuned.onnx", {**ORDINARY, "lr": 0.003}
    outcome = surgeon.finetune(
        float_network(), pictures(), out, adapter="qat:scales=learned", **options
    )
    scales = set(outcome.model.scales()) & set(outcome.model.trainable)
    assert {"surgeon.c1.weight_scale", "surgeon.relu_1_scale"} <= scales
    assert "surgeon.x_scale" not in scales  # what nothing that trains leads to
    assert surgeon.verify(out).passed
    assert optimised(outcome.model.proto, tmp_path)["QLinearConv"] == 2
    again = surgeon.finetune(out, pictures(), epochs=1, device="cpu")
    assert again.model.trainable == outcome.model.trainable
    alone = surgeon.finetune(
        float_network(), pictures(), adapter="qat:scales=learned", case="small-similar",
        dry_run=True, device="cpu",
    )  # fmt: skip
    assert not set(alone.model.scales()) & set(alone.model.trainable)


def test_a_quantised_file_learns_its_scales_and_its_biases_are_floats(tmp_path):
    model = quantised_network(tmp_path)
    made = quantize(model, feeds_of(model), (), trainable(model), scales="learned")
    before, after = arrays(model), arrays(made.model)
    biases = [
        name for name in before if name.endswith(".bias_quantized") or name == "fc.b_quantized"
    ]
    assert biases
    assert all(after[one].dtype == np.float32 for name in biases for one in made.instead[name])
    assert made.also
    assert optimised(made.model, tmp_path)["QLinearConv"] == 2
    feeds = nw.feeds(model, batch=4)
    (wanted,), (got,) = (
        onnxruntime.InferenceSession(one.SerializeToString()).run(None, feeds)
        for one in (model, made.model)
    )
    np.testing.assert_allclose(got, wanted, atol=0.05 * np.abs(wanted).max())
    with pytest.raises(UnsupportedError, match="already"):
        rewritten(model)


def trainable(model):
    return tuple(surgeon.load(model).parameters())


# ── what cannot be quantised ─────────────────────────────────────────────────────────────────────


def test_a_value_that_is_always_zero_has_a_scale():
    net = nw.Net(opset=17)
    x = net.input("x", ["N", 8])
    dead = net.node("Relu", net.node("Gemm", x, net.weight("w", values=np.zeros((8, 6)))))
    net.node("Gemm", dead, net.weight("v", 6, 3), out="y")
    made = rewritten(net.model("y", shape=["N", 3])).model
    found = arrays(made)
    scales = [value for name, value in found.items() if name.endswith("_scale")]
    assert all((one > 0).all() and np.isfinite(one).all() for one in scales)


def test_nan_is_refused_and_a_mask_of_infinities_is_left_in_floats():
    def nan(one):
        one["x"][0] = np.nan

    with pytest.raises(DataError, match="NaN"):
        rewritten(float_network(), change=nan)
    net = nw.Net(opset=17)
    x = net.input("x", ["N", 8])
    x = net.node("Gemm", x, net.weight("w", 8, 6))
    mask = net.weight("mask", values=np.array([0, 0, 0, 0, 0, -np.inf]))
    x = net.node("Concat", x, net.node("Add", x, mask), axis=1)
    net.node("Gemm", x, net.weight("v", 12, 3), out="y")
    made = rewritten(net.model("y", shape=["N", 3])).model
    assert all(np.isfinite(value).all() for name, value in arrays(made).items() if name != "mask")


def half():
    return nw.mlp(dtype=nw.F16)


def old():
    return nw.mlp(opset=12)


def nothing():
    net = nw.Net(opset=17)
    net.node("Relu", net.input("x", ["N", 8]), out="y")
    return net.model("y", shape=["N", 8])


def taken():
    net = nw.Net(opset=17)
    x = net.node("Relu", net.input("x", ["N", 8]), out="x_scale")
    net.node("Gemm", x, net.weight("w", 8, 3), out="y")
    return net.model("y", shape=["N", 3])


@pytest.mark.parametrize(
    ("build", "error", "said"),
    [
        (half, UnsupportedError, "16 bits"),
        (old, UnsupportedError, "opset 12"),
        (nothing, UnsupportedError, "nothing to quantise"),
        (taken, ModelError, "x_scale"),
    ],
)
def test_a_file_that_cannot_be_quantised_is_refused_with_a_remedy(build, error, said):
    with pytest.raises(error, match=said) as caught:
        rewritten(build())
    assert caught.value.remedy


def test_an_older_opset_takes_one_scale_per_weight():
    made = rewritten(old(), per="tensor").model
    onnxruntime.InferenceSession(made.SerializeToString())
    assert made.opset_import[0].version == 12
    assert operators(made)["QuantizeLinear"] > 0


@pytest.mark.parametrize("text", ["qat:bits=9", "qat:ranges=all", "qat:samples=0", "qat:width=4"])
def test_settings_that_cannot_be_meant_are_refused(text):
    with pytest.raises(UsageError, match=r"bits|ranges|samples|width"):
        surgeon.finetune(float_network(), pictures(), adapter=text, **ORDINARY)


def test_a_random_start_is_refused():
    with pytest.raises(UnsupportedError, match="random"):
        surgeon.finetune(float_network(), pictures(), adapter="qat", init="random", **ORDINARY)


def test_fewer_samples_than_wanted_are_all_that_there_are():
    outcome = surgeon.finetune(
        float_network(), pictures(40), adapter="qat:samples=5000", dry_run=True, **ORDINARY
    )
    assert any("of 32 training samples" in note for note in outcome.document()["warnings"])
