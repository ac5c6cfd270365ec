"""Understanding a graph costs little, whatever it says, and depends on its arguments only."""

from __future__ import annotations

import time

import networks as nw
import numpy as np
import onnx
import pytest
from onnx import helper

import surgeon
from surgeon import operation
from surgeon.errors import ModelError
from surgeon.graph import shapes as graph_shapes
from surgeon.graph.fold import evaluate
from surgeon.runtime import settle


@pytest.fixture
def asked(monkeypatch):
    """Bytes of the inputs of every run that nobody asked for."""
    seen = []

    def observe(model, sizes, constants, known):
        seen.append(sum(4 * int(np.prod(size)) for size in sizes.values()))
        return original(model, sizes, constants, known)

    original = settle.observe_shapes
    monkeypatch.setattr(settle, "observe_shapes", observe)
    return seen


@pytest.mark.parametrize("rank", [4, 6, 9])
def test_open_dimensions_are_guessed_small(asked, rank):
    net = nw.Net()
    net.input("x", [f"a{axis}" for axis in range(rank)])
    net.input("y", [f"b{axis}" for axis in range(rank)])
    net.node("MatMul", "x", "y", out="z")
    body = operation.inspect(net.model("z"))
    assert len(body["inputs"][0]["shape"]) == rank
    assert all(size <= 2 * 4 * 2**23 for size in asked)


def test_a_range_that_no_machine_holds_is_not_made(asked):
    net = nw.Net()
    x = net.node("Gemm", net.input("x", ["N", 8]), net.weight("w", 8, 6), out="before")
    limits = [net.weight_int(name, value) for name, value in (("a", 0), ("b", 2**40), ("c", 1))]
    y = net.node("Cast", net.node("Range", *limits), to=nw.F)
    y = net.node("ReduceMax", y, keepdims=0)
    x = net.node("Add", x, y, out="features")
    net.node("Gemm", x, net.weight("fc", 6, 4), out="y")
    proto = net.model("y", shape=["N", 4])
    found = graph_shapes.infer(graph_shapes.skeleton(proto), {"x": (2, 8)})
    assert found["before"][1] == (2, 6)
    settle.settle(proto, {}, None, 1e-4)
    assert asked == []


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        ("ConstantOfShape", [[2**20, 2**20]]),
        ("Expand", [[1], [2**20, 2**20]]),
        ("Tile", [[[1, 2]], [2**20, 2**20]]),
        ("Range", [0, 2**40, 1]),
    ],
)
def test_folding_makes_nothing_large(op, inputs):
    names = [f"i{slot}" for slot in range(len(inputs))]
    node = helper.make_node(op, names, ["made"])
    feeds = {n: np.asarray(value, np.int64) for n, value in zip(names, inputs, strict=True)}
    assert evaluate(node, feeds, {"": 17}) is None


def test_folding_makes_what_is_small():
    node = helper.make_node("Range", ["a", "b", "c"], ["made"])
    feeds = {name: np.asarray(value) for name, value in (("a", 1), ("b", 7), ("c", 2))}
    assert evaluate(node, feeds, {"": 17})[0].tolist() == [1, 3, 5]


@pytest.mark.parametrize("equation", ["...a...,...b->ab", "a...b...,...->a"])
def test_an_einsum_that_means_nothing_ends(equation):
    net = nw.Net()
    x = net.node("Relu", net.input("x", ["N", 3, 4]), out="front")
    net.node("Einsum", x, net.weight("w", 3, 4), out="y", equation=equation)
    started = time.process_time()
    model = surgeon.load(net.model("y"))
    found = graph_shapes.infer(graph_shapes.skeleton(model.proto), {"x": (2, 3, 4)})
    assert found["front"][1] == (2, 3, 4)
    assert "y" not in found
    assert time.process_time() >= started  # it came back


def test_what_a_graph_is_understood_as_depends_on_the_constants():
    model = surgeon.load(nw.convnet())
    one = model.knowing({"a": np.ones(1)})
    assert model.anatomy() is model.knowing(None).anatomy()
    assert one.anatomy() is one.knowing({"a": np.ones(1)}).anatomy()
    assert one.anatomy() is not one.knowing({"a": np.zeros(1)}).anatomy()
    assert one.anatomy() is not model.anatomy()


def test_rewriting_ends_where_a_place_stays_wrong(monkeypatch):
    """A shuffle that does not fit its input, beside a long chain: every place is tried once."""
    net = nw.Net()
    x = nw.conv(net, net.input("x", [1, 4, 1, 6]), "c1", 8, 4)
    x = net.node("Reshape", x, net.ints("split", 1, 2, 4, 6, 6), out="split_out")
    for _ in range(300):
        net.node("Identity", net.nodes[-1].output[0])
    x = net.node("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = net.node("Reshape", x, net.ints("join", 1, 8, 6, 6))
    x = net.node("Flatten", net.node("GlobalAveragePool", x), out="features")
    net.node("Gemm", x, net.weight("fc", 8, 4), out="y")
    rounds = []
    original = graph_shapes.infer

    def infer(*arguments):
        rounds.append(1)
        return original(*arguments)

    monkeypatch.setattr("surgeon.graph.rebatch.infer", infer)
    assert "stays fixed at 1" in surgeon.load(net.model("y", shape=[1, 4])).batch_note
    assert len(rounds) < 12


@pytest.mark.parametrize(
    ("shape", "perm"),
    [([3, 16, 16], None), ([3, "H", "W"], None), ([16, 16, 3], [2, 0, 1])],
)
def test_an_input_of_one_sample_has_no_batch_axis(shape, perm):
    net = nw.Net()
    x = net.input("x", shape)
    x = net.node("Transpose", x, perm=perm) if perm else x
    x = net.node("Div", x, net.weight("scale", values=0.3))
    x = nw.conv(net, net.node("Unsqueeze", x, net.ints("axis", 0)), "c1", 6, 3)
    x = net.node("Flatten", net.node("GlobalAveragePool", x), out="features")
    net.node("Gemm", x, net.weight("fc", 6, 4), out="y")
    model = surgeon.load(net.model("y", shape=[1, 4]))
    assert model.inputs[0].batch_axis is None
    assert any("one sample" in note for note in operation.inspect(model)["warnings"])
    with pytest.raises(ModelError, match="batch axis") as error:
        surgeon.operate(model, case="small-similar", classes=3)
    assert "batch" in error.value.remedy


def test_a_recurrent_input_keeps_its_batch_behind_a_new_time_axis():
    net = nw.Net()
    x = net.node("Unsqueeze", net.input("x", [4, 3]), net.ints("axis", 0))
    weights = [net.weight("W", 1, 24, 3), net.weight("R", 1, 24, 6)]
    net.node("LSTM", x, *weights, out=["Y", "last"], hidden_size=6)
    x = net.node("Squeeze", "last", net.ints("zero", 0), out="features")
    net.node("Gemm", x, net.weight("fc", 6, 4), out="y")
    assert surgeon.load(net.model("y", shape=[4, 4])).inputs[0].batch_axis == 0


def test_the_late_cut_is_one_that_carries_the_batch():
    """A head that reads the mean of all samples: the last value with a sample axis is the cut."""
    net = nw.Net()
    x = net.node("Relu", nw.conv(net, net.input("x", ["N", 3, 8, 8]), "c1", 6, 3), out="kept")
    x = net.node("Reshape", x, net.ints("rows", -1, 384), out="rows_out")
    x = net.node("ReduceMean", x, axes=[0], keepdims=0, out="mean")
    net.node("MatMul", x, net.weight("fc", 384, 4), out="y")
    model = net.model("y", shape=[4])
    body = operation.cuts(model)
    assert body["late"] == "rows_out"
    assert any("late cut" in note for note in body["warnings"])
    patient = surgeon.operate(model, case="small-similar", classes=3)
    assert patient.plan.cut == "rows_out"
    onnx.checker.check_model(patient.proto, full_check=True)


def test_the_late_cut_is_one_whose_features_can_be_counted():
    """All pixels of pictures of any size in a row: the pictures themselves can be pooled."""
    net = nw.Net()
    x = net.node("Relu", nw.conv(net, net.input("x", ["N", 3, "H", "W"]), "c1", 6, 3), out="kept")
    net.node("Flatten", x, out="row")
    model = net.model("row", shape=["N", "k"])
    body = operation.cuts(model)
    assert body["late"] == "kept"
    assert any("no fixed number of features" in note for note in body["warnings"])
    assert surgeon.operate(model, case="small-similar", classes=3).plan.cut == "kept"


def test_the_early_cut_is_one_whose_features_can_be_counted():
    """A wave of any length has one channel until the first convolution."""
    net = nw.Net()
    x = net.node("Unsqueeze", net.input("x", ["N", "T"]), net.ints("axis", 1), out="wave")
    for number in range(6):
        x = net.node("Mul", x, net.weight(f"gain{number}", values=2.0))
    x = net.node("Conv", x, net.weight("w", 4, 1, 3), out="counted")
    x = net.node("Flatten", net.node("GlobalAveragePool", x), out="features")
    net.node("Gemm", x, net.weight("fc", 4, 3), out="y")
    model = net.model("y", shape=["N", 3])
    assert operation.cuts(model)["early"] == "counted"
    assert surgeon.operate(model, case="small-different", classes=3).plan.cut == "counted"
