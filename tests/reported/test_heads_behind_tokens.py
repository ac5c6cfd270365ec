"""Old heads that score every token, or whose scores are averaged, are found and replaced."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from encoders import WIDTH, Net, encode, feeds
from onnx import TensorProto, helper

import surgeon
from surgeon import operation

K = 3


def run(proto, inputs, *names):
    if names:
        proto = type(proto).FromString(proto.SerializeToString())
        known = {value.name for value in proto.graph.output}
        proto.graph.output.extend(helper.ValueInfoProto(name=n) for n in names if n not in known)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    needed = {item.name for item in session.get_inputs()}
    return session.run(list(names) or None, {k: v for k, v in inputs.items() if k in needed})


def last_place(net):
    """Return the place of the last token that is no padding, [n]."""
    seen = net.op("Cast", net.op("Greater", "input_ids", net.const(0, "i8")), to=TensorProto.INT64)
    count = net.op("ReduceSum", seen, net.const([1], "i8"), keepdims=0)
    return net.op("Sub", count, net.const(1, "i8"))


def places_of_samples(net):
    shape = net.op("Shape", "input_ids")
    n = net.op("Gather", shape, net.const(0, "i8"))
    return net.op("Range", net.const(0, "i8"), n, net.const(1, "i8"))


def gather_nd(net, scores):
    rows = net.op("Unsqueeze", places_of_samples(net), net.const([1], "i8"))
    last = net.op("Unsqueeze", last_place(net), net.const([1], "i8"))
    return net.op("GatherND", scores, net.op("Concat", rows, last, axis=-1))


def by_flat_index(net, scores):
    """As the older exporter writes scores[arange(n), last]."""
    length = net.op("Gather", net.op("Shape", scores), net.const(1, "i8"))
    index = net.op("Add", last_place(net), net.op("Mul", places_of_samples(net), length))
    flat = net.op("Flatten", scores, axis=2)
    width = net.op("Gather", net.op("Shape", scores), net.const([2], "i8"))
    rows = net.op("Gather", flat, index, axis=0)
    return net.op("Reshape", rows, net.op("Concat", net.const([-1], "i8"), width, axis=0))


def by_flat_constant(net, scores):
    """The same, where the exporter folded the number of classes into the shapes."""
    flat = net.op("Reshape", scores, net.const([-1, K], "i8"))
    length = net.op("Gather", net.op("Shape", "input_ids"), net.const(1, "i8"))
    index = net.op("Add", last_place(net), net.op("Mul", places_of_samples(net), length))
    return net.op("Gather", flat, index, axis=0)


def first_by_slice(net, scores):
    ends = [net.const([0], "i8"), net.const([1], "i8"), net.const([1], "i8")]
    return net.op("Squeeze", net.op("Slice", scores, *ends), net.const([1], "i8"))


def last_by_gather(net, scores):
    return net.op("Gather", scores, net.const(-1, "i8"), axis=1)


def turned(net, scores):
    """Time first, then the first step."""
    return net.op("Gather", net.op("Transpose", scores, perm=[1, 0, 2]), net.const(0, "i8"), axis=0)


PICKS = {
    "gather-nd": (gather_nd, "last"),
    "flat index": (by_flat_index, "last"),
    "flat constant": (by_flat_constant, "last"),
    "slice": (first_by_slice, 0),
    "gather": (last_by_gather, -1),
    "transposed": (turned, 0),
}


def scored(pick, *, bias="none", end=None, layers=2):
    """Build a decoder that scores every token and then picks."""
    net = Net()
    hidden, inputs = encode(net, "gpt", layers)
    if bias == "before":
        scores = net.linear(hidden, "score", WIDTH, K)
    else:
        scores = net.op("MatMul", hidden, net.weight("score.w", WIDTH, K))
    picked = pick(net, scores)
    if bias == "behind":
        picked = net.op("Add", picked, net.weight("score.b", K))
    if end:
        picked = net.op(end, picked, axis=1)
    return net.model(inputs, {picked: ["n", K]}), hidden


def gemm_input(proto):
    return next(n for n in proto.graph.node if n.op_type == "Gemm").input[0]


@pytest.mark.parametrize("bias", ["none", "before", "behind"])
@pytest.mark.parametrize("name", PICKS)
def test_the_token_that_was_scored_is_the_one_the_new_head_reads(name, bias):
    pick, place = PICKS[name]
    model, hidden = scored(pick, bias=bias, end="Softmax" if bias == "before" else None)
    patient = surgeon.operate(model, case="small-similar", classes=2)
    assert patient.plan.cut == hidden
    assert patient.plan.depth == 1
    assert patient.plan.head.pool == "token"
    inputs = feeds(model)
    truth = run(model, inputs, hidden)[0]
    at = np.full(4, place) if place != "last" else (inputs["input_ids"] > 0).sum(1) - 1
    found = run(patient.proto, inputs, gemm_input(patient.proto))[0]
    np.testing.assert_allclose(found, truth[np.arange(4), at], atol=1e-5)
    grown = patient.added_nodes - patient.removed_nodes
    assert grown == len(patient.proto.graph.node) - len(surgeon.load(model).proto.graph.node)


def test_the_old_weights_in_the_new_head_give_the_old_scores():
    model, _ = scored(gather_nd)
    patient = surgeon.operate(model, case="small-similar", classes=K)
    weights = {t.name: t for t in model.graph.initializer}
    proto = type(patient.proto).FromString(patient.proto.SerializeToString())
    old = np.frombuffer(weights["score.w"].raw_data, "f4").reshape(WIDTH, K)
    new = next(t for t in proto.graph.initializer if t.name == "surgeon.head.weight")
    new.raw_data = np.ascontiguousarray(old.T).tobytes()
    inputs = feeds(model)
    np.testing.assert_allclose(run(proto, inputs)[0], run(model, inputs)[0], atol=1e-5)


def test_a_tuned_decoder_learns_what_its_last_token_says(tmp_path):
    model, hidden = scored(gather_nd, layers=1)
    inputs = feeds(model, texts=160, seed=5)
    label = np.arange(160) % 5
    place = (inputs["input_ids"] > 0).sum(1) - 1
    inputs["input_ids"][np.arange(160), place] = 2 + 2 * label
    data = {**inputs, "labels": label}
    done = surgeon.finetune(model, data, tmp_path / "o.onnx", case="small-similar", threads=1)
    assert done.document()["plan"]["cut"] == hidden
    assert done.metrics["validation"]["accuracy"] == 1
    assert surgeon.verify(tmp_path / "o.onnx").passed


def averaged(join):
    """Build a network with two heads on two tokens, as DeiT with its teacher has."""
    net = Net()
    hidden, inputs = encode(net, "bert", 2)
    scores = []
    for place in (0, 1):
        token = net.op("Gather", hidden, net.const(place, "i8"), axis=1, name=f"token.{place}")
        scores.append(net.linear(token, f"head.{place}", WIDTH, K))
    if join == "add":
        out = net.op("Div", net.op("Add", *scores), net.const(2.0))
    elif join == "mean":
        out = net.op("Mean", *scores)
    else:
        rows = [net.op("Unsqueeze", score, net.const([1], "i8")) for score in scores]
        out = net.op("ReduceMean", net.op("Concat", *rows, axis=1), axes=[1], keepdims=0)
    return net.model(inputs, {out: ["n", K]})


@pytest.mark.parametrize("join", ["add", "mean", "stack"])
def test_heads_whose_scores_are_averaged_give_way_to_one_that_reads_them_all(join, tmp_path):
    model = averaged(join)
    assert operation.inspect(model)["head"]["classes"] == K
    patient = surgeon.operate(model, case="small-similar", classes=2)
    assert {patient.plan.cut, *patient.plan.head.taps} == {"token.0", "token.1"}
    assert any("averaged" in note for note in patient.notes)
    left = {tensor.name for tensor in patient.proto.graph.initializer}
    assert not left.intersection({"head.0.w", "head.1.w"})
    inputs = feeds(model, texts=96, length=2, seed=5)
    label = np.arange(96) % 2
    inputs["input_ids"][:, 1] = np.where(label, 3, 9)
    data = {**inputs, "labels": np.array(["three", "nine"])[1 - label]}
    done = surgeon.finetune(model, data, tmp_path / "o.onnx", case="small-similar", threads=1)
    assert done.metrics["validation"]["accuracy"] == 1


def test_a_residual_sum_is_no_average_of_heads():
    net = Net()
    hidden, inputs = encode(net, "bert", 1)
    x = net.op("Gather", hidden, net.const(0, "i8"), axis=1)
    first = net.linear(x, "one", WIDTH, WIDTH)
    out = net.op("Add", first, net.linear(net.op("Relu", first), "two", WIDTH, WIDTH))
    model = net.model(inputs, {out: ["n", WIDTH]})
    body = operation.inspect(model)
    assert body["head"] is None
    assert any("no classification head" in note for note in body["warnings"])
