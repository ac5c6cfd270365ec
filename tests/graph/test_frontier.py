"""Whatever is frozen: the part in front, then the part behind, compute what the whole computes."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest

import surgeon
from surgeon.graph.frontier import split

NAMES = [name for name in nw.ZOO if name != "shuffle"]


def compose(front, inputs, batch=None):
    """Run the frozen part (sample by sample if `batch` says so), then the trained part."""
    values = dict(inputs)
    if front.frozen is not None:
        values |= nw.run(front.frozen, inputs)
    given = {tensor.name: values[tensor.name] for tensor in front.tensors}
    assert [value.name for value in front.trained.graph.input] == list(given)
    return nw.run(front.trained, given)["logits"]


def choices(parameters, seed):
    random = np.random.default_rng(seed)
    third = parameters[-len(parameters) // 3 :]
    yield "all", parameters
    yield "head", ["surgeon.head.weight", "surgeon.head.bias"]
    yield "last third", third
    yield "one", [parameters[0]]
    for number in range(3):
        count = int(random.integers(1, len(parameters) + 1))
        yield f"random {number}", list(random.choice(parameters, count, replace=False))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_frozen_then_trained_is_the_whole(name, keep):
    patient = surgeon.operate(nw.ZOO[name](), case="large-similar", classes=5)
    shapes = patient.anatomy().shapes
    inputs = nw.feeds(patient.proto, batch=4)
    wanted = nw.run(patient.proto, inputs)["logits"]
    originals = {t.name: t for t in patient.proto.graph.initializer}
    for what, trainable in choices(patient.parameters(), 7):
        front = split(patient.proto, trainable, shapes, keep_weightless=keep)
        np.testing.assert_array_equal(compose(front, inputs), wanted, err_msg=what)
        onnx.checker.check_model(front.trained)
        behind = {t.name: t for t in front.trained.graph.initializer}
        assert set(trainable) <= set(behind)
        assert all(originals[key] == tensor for key, tensor in behind.items())
        if front.frozen is not None:
            onnx.checker.check_model(front.frozen)
            # What is trained is nowhere in front.
            assert not set(trainable) & {t.name for t in front.frozen.graph.initializer}
            assert front.nodes_frozen == len(front.frozen.graph.node) > 0
        assert front.nodes_trained == len(front.trained.graph.node)
        assert front.nodes_frozen + front.nodes_trained >= len(patient.proto.graph.node)
        for tensor in front.tensors:
            assert tensor.batch_axis is not None or not tensor.shape


def test_the_head_alone_caches_pooled_vectors():
    patient = surgeon.operate(nw.conv_head(), case="small-similar", classes=5)
    front = split(patient.proto, patient.trainable, patient.anatomy().shapes)
    assert [n.op_type for n in front.trained.graph.node] == ["Gemm"]
    assert [t.shape for t in front.tensors] == [("N", 6)]


def test_everything_trained_has_no_frozen_part():
    patient = surgeon.operate(nw.convnet(), case="large-similar", classes=5)
    front = split(patient.proto, patient.trainable, patient.anatomy().shapes)
    assert front.frozen is None
    assert [t.name for t in front.tensors] == ["x"]


def test_a_front_without_weights_joins_the_trained_part_if_asked():
    patient = surgeon.operate(nw.nhwc(), case="large-similar", classes=5)
    shapes = patient.anatomy().shapes
    assert split(patient.proto, patient.trainable, shapes).nodes_frozen == 1
    front = split(patient.proto, patient.trainable, shapes, keep_weightless=False)
    assert front.frozen is None
    assert [t.name for t in front.tensors] == ["image"]


def test_a_tied_weight_counts_at_its_first_use():
    patient = surgeon.operate(nw.tied(), case="large-similar", classes=5)
    front = split(patient.proto, ["shared"], patient.anatomy().shapes)
    assert front.frozen is None
    assert [t.name for t in front.trained.graph.initializer].count("shared") == 1


def test_a_mask_crosses_in_its_own_type():
    patient = surgeon.operate(nw.transformer(), case="large-similar", classes=5)
    late = [n for n in patient.parameters() if n.startswith(("layer.1", "final", "surgeon"))]
    front = split(patient.proto, late, patient.anatomy().shapes)
    assert front.frozen is not None
    kinds = {t.name: t.dtype for t in front.tensors}
    assert "layer.0.out" in kinds
    assert set(kinds.values()) <= {"float", "int64"}


def test_the_shape_of_a_frozen_value_is_repeated_behind():
    net = nw.Net()
    x = net.input("x", ["N", 4, 3])
    x = net.node("MatMul", x, net.weight("front", 3, 6), out="frozen")
    size = net.node("Shape", x, out="shape")
    y = net.node("MatMul", x, net.weight("behind", 6, 6))
    y = net.node("Reshape", y, net.ints("flat", 0, -1))
    y = net.node("Reshape", y, size, out="back")
    net.node("MatMul", y, net.weight("last", 6, 2), out="y")
    patient = surgeon.operate(net.model("y"), case="large-similar", classes=3, cut="back")
    trainable = ["behind", *[n for n in patient.parameters() if n.startswith("surgeon")]]
    front = split(patient.proto, trainable, patient.anatomy().shapes)
    assert [t.name for t in front.tensors] == ["frozen"]
    assert "Shape" in {n.op_type for n in front.trained.graph.node}
    inputs = nw.feeds(patient.proto, batch=4)
    wanted = nw.run(patient.proto, inputs)["logits"]
    np.testing.assert_array_equal(compose(front, inputs), wanted)


def test_what_is_random_does_not_move_the_frontier():
    """Where it has an effect the graph is refused before anything is split."""
    net = nw.Net()
    x = net.node("MatMul", net.input("x", ["N", 4]), net.weight("w", 4, 4), out="before")
    noise = net.node("RandomNormalLike", x, out="noise", scale=0.0)
    x = net.node("Add", x, noise, out="after")
    net.node("MatMul", x, net.weight("v", 4, 2), out="y")
    patient = surgeon.operate(net.model("y"), case="small-similar", classes=3)
    front = split(patient.proto, patient.trainable, patient.anatomy().shapes)
    assert [t.name for t in front.tensors] == ["after"]


def test_a_trained_weight_inside_control_flow_puts_the_node_behind():
    then = "then () => (float[N,2] t) <float[2,2] w = {1,2,3,4}> { t = MatMul(h, w) }"
    other = "other () => (float[N,2] o) <float[2,2] v = {4,3,2,1}> { o = MatMul(h, v) }"
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[N,2] y) '
        "<float[2,2] f = {1,1,0,1}, float zero = {0}> "
        "{ h = MatMul(x, f) s = ReduceSum<keepdims=0>(h) flag = Greater(s, zero) "
        f"y = If (flag) <then_branch = {then}, else_branch = {other}> }}"
    )
    patient = surgeon.operate(model, case="large-similar", classes=3)
    assert {"w", "v", "f"} <= set(patient.trainable)
    front = split(patient.proto, ["w", *patient.trainable[-2:]], patient.anatomy().shapes)
    assert "If" in {n.op_type for n in front.trained.graph.node}
    for seed in range(4):
        inputs = nw.feeds(patient.proto, batch=3, seed=seed)
        wanted = nw.run(patient.proto, inputs)["logits"]
        np.testing.assert_array_equal(compose(front, inputs), wanted)
