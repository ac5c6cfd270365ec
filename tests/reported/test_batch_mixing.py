"""Networks that mix the samples of a batch: features one by one, the file's batch fixed at 1."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import surgeon
from surgeon.graph.apart import doubtful_nodes

WIDTH = 8


def data(n=60, width=WIDTH, seed=1):
    random = np.random.default_rng(seed)
    means = random.standard_normal((3, width))
    codes = np.arange(n) % 3
    x = (means[codes] + 0.3 * random.standard_normal((n, width))).astype(np.float32)
    return {"x": x, "labels": np.array([f"c{code}" for code in codes])}


def mixing(kind, batch="N"):
    """A network in which samples change each other, each in another way."""
    net = nw.Net()
    x = net.input("x", [batch, WIDTH])
    h = net.node("MatMul", x, net.weight("w", WIDTH, 6), out="h")
    if kind == "mean":
        h = net.node("Sub", h, net.node("ReduceMean", h, axes=[0], keepdims=1))
    elif kind == "many":  # agrees in small batches: what is beyond the eighth sample weighs in
        late = net.node("Slice", h, net.ints("eight", 8), net.ints("end", 10**6), net.ints("a", 0))
        h = net.node("Add", h, net.node("ReduceSum", late, net.ints("axes", 0), keepdims=1))
    elif kind == "order":
        first = net.node("Slice", h, net.ints("zero", 0), net.ints("one", 1), net.ints("a", 0))
        h = net.node("Mul", h, first)
    elif kind == "count":
        size = net.node("Gather", net.node("Shape", h), net.ints("zero", 0))
        h = net.node("Mul", h, net.node("Cast", size, to=TensorProto.FLOAT))
    elif kind == "attention":  # over the batch
        scores = net.node("MatMul", h, net.node("Transpose", h, perm=[1, 0]))
        h = net.node("MatMul", net.node("Softmax", scores, axis=-1), h)
    f = net.node("Tanh", h, out="f")
    net.node("MatMul", f, net.weight("v", 6, 4), out="y")
    return net.model("y", shape=[batch, 4])


def session(model):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def batches(model):
    ends = [*model.graph.input, *model.graph.output]
    return {value.type.tensor_type.shape.dim[0].dim_value for value in ends}


def by_file(model, given, rows):
    """Accuracy of a file whose batch is 1, sample by sample."""
    run = session(model)
    logits = np.concatenate([run.run(None, {"x": given["x"][i : i + 1]})[0] for i in rows])
    return float((logits.argmax(1) == np.arange(len(given["x"]))[rows] % 3).mean())


@pytest.mark.parametrize("kind", ["mean", "many", "count", "attention"])
@pytest.mark.parametrize("case", ["small-similar", "large-similar"])
def test_the_batch_of_a_file_that_mixes_is_fixed_at_one(kind, case, tmp_path):
    given, out = data(), tmp_path / "o.onnx"
    extra = {"epochs": 1} if case.startswith("large") else {}
    done = surgeon.finetune(mixing(kind), given, out, case=case, device="cpu", threads=1, **extra)
    proto = onnx.load(out)
    assert batches(proto) == {1}
    assert any("fixed at 1" in warning for warning in done.document()["warnings"])
    assert surgeon.verify(out).passed
    told = surgeon.evaluate(out, given, threads=1)["metrics"]["accuracy"]
    assert told == pytest.approx(by_file(proto, given, range(60)))
    with pytest.raises(Exception, match=r"[Ii]nvalid dimensions"):
        session(proto).run(None, {"x": given["x"][:2]})


def test_what_reads_the_first_sample_only_is_made_to_read_each(tmp_path):
    """A Slice that ends at 1 was written for a batch of 1: freed, each sample is its own first."""
    given, out = data(), tmp_path / "o.onnx"
    surgeon.finetune(mixing("order"), given, out, case="small-similar", device="cpu", threads=1)
    run = session(onnx.load(out))
    together = run.run(None, {"x": given["x"]})[0]
    singles = [run.run(None, {"x": given["x"][i : i + 1]})[0] for i in range(len(together))]
    np.testing.assert_allclose(together, np.concatenate(singles), rtol=1e-3, atol=1e-4)


def test_a_network_that_mixes_many_and_not_two_is_tuned_truly(tmp_path):
    """What a pair does not show, a batch of the data's size does."""
    given = data(n=96)
    done = surgeon.finetune(
        mixing("many"), given, tmp_path / "o.onnx", case="small-similar", device="cpu", threads=1
    )
    assert done.document()["frontier"]["one_by_one"]


@pytest.mark.parametrize("name", ["mlp", "convnet", "residual", "batchnorm", "nhwc", "lstm"])
def test_samples_of_a_usual_network_are_known_to_stay_apart(name):
    anatomy = surgeon.load(getattr(nw, name)()).anatomy()
    assert doubtful_nodes(anatomy.model, anatomy.shapes) == []


@pytest.mark.parametrize("kind", ["mean", "many", "order", "attention"])
def test_operators_that_may_mix_are_doubted(kind):
    anatomy = surgeon.load(mixing(kind)).anatomy()
    assert doubtful_nodes(anatomy.model, anatomy.shapes)


def test_a_plain_network_keeps_its_open_batch(tmp_path):
    given, out = data(), tmp_path / "o.onnx"
    done = surgeon.finetune(
        mixing("none"), given, out, case="small-similar", device="cpu", threads=1
    )
    assert batches(onnx.load(out)) == {0}
    assert not done.document()["frontier"]["one_by_one"]


def test_a_fixed_batch_of_several_that_mixes_is_refused():
    with pytest.raises(surgeon.errors.CheckError, match="share a batch") as error:
        surgeon.finetune(mixing("mean", 4), data(), case="small-similar", device="cpu", threads=1)
    assert "batch of 1" in error.value.remedy


def dynamic(into, out, x, net, name, *, bias=True, zero=True):
    """What `quantize_dynamic` makes of a product."""
    random = np.random.default_rng(len(name))
    floats = random.standard_normal((into, out)) / np.sqrt(into)
    scale = np.float32(np.abs(floats).max() / 127)
    put = net.weights.append
    put(numpy_helper.from_array(np.round(floats / scale).astype(np.int8), name))
    put(numpy_helper.from_array(scale, f"{name}_scale"))
    put(numpy_helper.from_array(np.int8(0), f"{name}_zero"))
    q = net.node("DynamicQuantizeLinear", x, out=[f"{name}_q", f"{name}_s", f"{name}_z"])
    ends = [f"{name}_zero"] if zero else []
    product = net.node("MatMulInteger", q[0], name, q[2], *ends)
    factor = net.node("Mul", q[1], f"{name}_scale")
    y = net.node("Mul", net.node("Cast", product, to=TensorProto.FLOAT), factor)
    return net.node("Add", y, net.weight(f"{name}_b", out)) if bias else y


def dynamic_net(**options):
    net = nw.Net()
    x = net.input("x", ["N", WIDTH])
    f = net.node("Relu", dynamic(WIDTH, 6, x, net, "W", **options), out="f")
    y = dynamic(6, 4, f, net, "G", **options)
    net.nodes[-1].output[0] = "y" if y else ""
    return net.model("y", shape=["N", 4])


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"zero": False}])
def test_a_dynamically_quantised_network_is_tuned(options, tmp_path):
    model, given = dynamic_net(**options), data()
    assert surgeon.load(model).anatomy().late == "f"
    for case in ("small-similar", "large-similar"):
        out = tmp_path / f"{case}.onnx"
        done = surgeon.finetune(model, given, out, case=case, epochs=1, device="cpu", threads=1)
        assert batches(onnx.load(out)) == {1}
        assert done.metrics["validation"]["accuracy"] > 0.8
        assert surgeon.verify(out).passed


def test_its_old_head_is_found():
    head = surgeon.load(dynamic_net()).anatomy().head
    assert (head.form, head.input, head.classes) == ("MatMul+Add", "f", 4)
    assert set(head.weights) >= {"G", "G_b"}


def test_contrib_forms_of_it_are_found():
    net = nw.Net()
    f = net.node("Relu", net.input("x", ["N", WIDTH]), out="f")
    net.weights.append(numpy_helper.from_array(np.ones((WIDTH, 4), np.int8), "G"))
    net.node(
        "DynamicQuantizeMatMul",
        f,
        "G",
        net.weight("s", values=0.1),
        "",
        net.weight("b", 4),
        out="y",
        domain="com.microsoft",
    )
    model = net.model("y", shape=["N", 4])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    head = surgeon.load(model).anatomy().head
    assert (head.input, head.classes) == ("f", 4)
    done = surgeon.finetune(model, data(), case="small-similar", device="cpu", threads=1)
    assert done.model.plan.cut == "f"
