"""Cuts by their definition, computed a second time from what ONNX Runtime shows of the graph."""

from __future__ import annotations

from math import prod

import networks as nw
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import surgeon
from surgeon.errors import SurgeonError, UnknownNameError, UsageError
from surgeon.graph.cuts import keep_only, nearest, resolve, start_at
from surgeon.graph.normalize import normalize
from surgeon.records import CutPoint

NAMES = [name for name in nw.ZOO if name != "tied"]


def data_nodes(model):
    """Return the nodes that compute with what the inputs say, not only with their shapes."""
    carried = {value.name for value in model.graph.input}
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Shape", "Size") and carried.intersection(node.input):
            carried |= set(node.output)
            found.append(node)
    return found


def reachable(model, end, without=None):
    """Say whether a path of data leads from an input to `end`, not passing `without`.

    A mask says where to look and not what is there: its paths do not count.
    """
    carried = {value.name for value in model.graph.input} - {without, "attention_mask"}
    for node in data_nodes(model):
        if carried.intersection(node.input):
            carried |= set(node.output) - {without}
    return end in carried


def behind(model, value):
    """Return the data nodes needed to compute a value."""
    makers = {name: node for node in model.graph.node for name in node.output}
    todo, found = [value], set()
    while todo:
        node = makers.get(todo.pop())
        if node is not None and node.output[0] not in found:
            found.add(node.output[0])
            todo.extend(name for name in node.input if name)
    return [node for node in data_nodes(model) if node.output[0] in found]


def work(node, values):
    """Multiply-adds of one node, by the sizes ONNX Runtime gave its values."""
    size = sum(values[name].size for name in node.output if name in values)
    if node.op_type == "Conv":
        return size * prod(values[node.input[1]].shape[1:])
    if node.op_type in ("MatMul", "Gemm"):
        return size * values[node.input[0]].shape[-1]
    if node.op_type == "LSTM":
        steps = values[node.input[0]].shape
        return steps[0] * steps[1] * sum(values[name].size for name in node.input[1:3])
    return size


def everything(model, batch=1, length=64):
    inputs = nw.feeds(model, batch=batch, length=length)
    made = [name for node in model.graph.node for name in node.output if name]
    values = nw.run(nw.with_outputs(model, *made), inputs)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {**inputs, **weights, **values}


@pytest.mark.parametrize("name", NAMES)
def test_listed_cuts_are_the_values_every_path_passes(name):
    model = nw.ZOO[name]()
    anatomy = surgeon.load(model).anatomy()
    end = anatomy.end
    values = everything(anatomy.model)
    wide = everything(anatomy.model, batch=2)
    wanted = []
    for node in behind(anatomy.model, end):
        for value in node.output:
            carries = value in values and values[value].dtype == np.float32
            carries = carries and wide[value].shape != values[value].shape
            carries = carries and reachable(anatomy.model, value)
            if carries and (value == end or not reachable(anatomy.model, end, without=value)):
                wanted.append(value)
    assert [cut.tensor for cut in anatomy.cuts] == wanted


@pytest.mark.parametrize("name", NAMES)
def test_depth_is_multiply_adds_and_rises_to_one(name):
    model = nw.ZOO[name]()
    loaded = surgeon.load(model)
    anatomy = loaded.anatomy()
    length = 16 if name == "transformer" else 64
    values = everything(anatomy.model, length=length)
    total = sum(work(node, values) for node in behind(anatomy.model, anatomy.end))
    depths = [cut.depth for cut in loaded.cuts()]
    assert depths == sorted(depths)
    assert depths[-1] == 1.0
    assert all(depth == round(depth, 4) for depth in depths)
    for cut in loaded.cuts():
        done = sum(work(node, values) for node in behind(anatomy.model, cut.tensor))
        assert cut.depth == pytest.approx(done / total, abs=2e-4), cut.tensor
        assert cut.macs == pytest.approx(done, rel=1e-3)
    assert anatomy.total == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_truncation_computes_what_the_original_computed_there(name):
    model = nw.ZOO[name]()
    loaded = surgeon.load(model)
    anatomy = loaded.anatomy()
    for cut in loaded.cuts():
        short = keep_only(anatomy.model, [cut.tensor], anatomy.shapes)
        onnx.checker.check_model(short, full_check=True)
        assert [value.name for value in short.graph.output] == [cut.tensor]
        inputs = nw.feeds(anatomy.model, batch=3)
        wanted = nw.run(nw.with_outputs(anatomy.model, cut.tensor), inputs)[cut.tensor]
        got = nw.run(short, inputs)[cut.tensor]
        np.testing.assert_array_equal(got, wanted)
        kept = {node.output[0]: node for node in short.graph.node}
        originals = [n for n in anatomy.model.graph.node if n.output[0] in kept]
        assert list(short.graph.node) == originals
        assert got.shape[cut.batch_axis] == 3
        declared = [d if isinstance(d, int) else None for d in cut.shape]
        for axis, size in enumerate(declared):
            assert size is None or size == got.shape[axis]


@pytest.mark.parametrize("name", NAMES)
def test_cutting_twice_is_cutting_once(name):
    loaded = surgeon.load(nw.ZOO[name]())
    anatomy = loaded.anatomy()
    cuts = loaded.cuts()
    for first, second in zip(cuts[1:], cuts, strict=False):
        twice = keep_only(anatomy.model, [first.tensor], anatomy.shapes)
        twice = keep_only(twice, [second.tensor], anatomy.shapes)
        once = keep_only(anatomy.model, [second.tensor], anatomy.shapes)
        assert twice.SerializeToString() == once.SerializeToString()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("shuffle", "two_outputs")])
def test_cutting_at_the_output_changes_nothing(name):
    model = normalize(nw.ZOO[name]())[0]
    output = model.graph.output[0].name
    anatomy = surgeon.load(model).anatomy()
    assert keep_only(model, [output], anatomy.shapes) == model


def test_no_cut_lies_inside_a_residual_branch():
    listed = [cut.tensor for cut in surgeon.load(nw.residual()).cuts()]
    assert not {"b1.inner", "b1.branch", "b2.inner", "b2.branch"} & set(listed)
    assert {"stem", "b1.out", "b2.out", "pool", "features"} <= set(listed)


def test_a_mask_read_by_every_layer_leaves_a_cut_at_each():
    listed = [cut.tensor for cut in surgeon.load(nw.transformer(layers=3)).cuts()]
    assert {"layer.0.attended", "layer.1.attended", "layer.2.attended"} <= set(listed)
    assert "bias" not in listed


def test_values_behind_the_head_are_not_listed_but_can_be_named():
    loaded = surgeon.load(nw.matmul_add())
    assert loaded.cuts()[-1].tensor == "features"
    operated = surgeon.operate(loaded, case="small-similar", classes=3, cut="y")
    assert operated.plan.cut == "y"
    assert operated.plan.depth > 1


def test_a_value_inside_a_branch_can_be_named():
    operated = surgeon.operate(nw.residual(), case="small-similar", classes=3, cut="b1.inner")
    assert operated.plan.cut == "b1.inner"
    assert "b1.sum" not in {name for n in operated.proto.graph.node for name in n.output}


@pytest.mark.parametrize("name", NAMES)
def test_late_is_the_old_heads_input_and_early_is_nearest_a_third(name):
    loaded = surgeon.load(nw.ZOO[name]())
    late = surgeon.operate(loaded, case="small-similar", classes=3)
    early = surgeon.operate(loaded, case="small-different", classes=3)
    anatomy = loaded.anatomy()
    assert late.plan.cut == anatomy.end
    assert late.plan.depth == 1.0
    distances = [round(abs(cut.depth - 0.33), 9) for cut in loaded.cuts()]
    assert early.plan.cut == loaded.cuts()[distances.index(min(distances))].tensor


EXPECTED = {
    "mlp": ("Gemm", "relu_1", ("w2", "b2"), 5, None),
    "matmul_add": ("MatMul+Add", "features", ("w2", "b2"), 5, "Softmax"),
    "convnet": ("Gemm", "features", ("fc.weight", "fc.bias"), 4, None),
    "squeezenet": ("Conv", "fire", ("classes.weight", "classes.bias"), 5, "Softmax"),
    "conv_head": ("Conv", "pooled", ("classifier.weight", "classifier.bias"), 5, None),
    "batchnorm_last": None,
    "nhwc": ("MatMul+Add", "pooled", ("fc/w:0", "fc/b:0"), 2, "Softmax"),
    "transformer": ("Gemm", "first", ("cls.w", "cls.b"), 3, None),
    "two_outputs": ("Gemm", "relu_1", ("w2", "b2"), 5, "Softmax"),
    "lstm": ("Gemm", "last", ("fc.w", "fc.b"), 3, None),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_old_heads_in_every_form(name):
    head = surgeon.load(nw.ZOO[name]()).anatomy().head
    found = head and (head.form, head.input, head.weights, head.classes, head.activation)
    assert found == EXPECTED[name]


def test_a_depth_takes_the_nearest_listed_cut_and_a_tie_the_earlier():
    def cut(tensor, depth):
        return CutPoint(tensor, depth, ("N",), "float", 0, 0, 0, 0)

    for low, high in ((0.2, 0.4), (0.1, 0.3), (0.7, 0.9), (0.12, 0.34), (0.3333, 0.6667)):
        cuts = [cut("a", low), cut("b", high)]
        assert nearest(cuts, round((low + high) / 2, 6)).tensor == "a"
    same = [cut("a", 0.5), cut("b", 0.5), cut("c", 0.6)]
    assert nearest(same, 0.5).tensor == "a"
    assert nearest(same, 0.56).tensor == "c"
    anatomy = surgeon.load(nw.residual()).anatomy()
    assert resolve(anatomy, "@0") == "conv_0"
    assert resolve(anatomy, "@1") == anatomy.end
    assert resolve(anatomy, "@1.0") == anatomy.end
    assert resolve(anatomy, "@0.55") == "b1.sum"
    assert resolve(anatomy, "late") == anatomy.end


def test_a_name_comes_before_a_depth_or_a_word():
    model = nw.residual()
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, value in enumerate(names):
                names[index] = {"b1.out": "@0.9", "b1.inner": "early"}.get(value, value)
    anatomy = surgeon.load(model).anatomy()
    assert resolve(anatomy, "@0.9") == "@0.9"
    assert resolve(anatomy, "early") == "early"


@pytest.mark.parametrize(
    "cut", ["@1.5", "@", "@abc", "@-0.1", "@1e-1", "@ 0.5", "@nan", "@.", "@2"]
)
def test_a_depth_that_is_none_is_a_usage_error(cut):
    with pytest.raises(UsageError, match="no depth"):
        surgeon.operate(nw.mlp(), case="small-similar", classes=2, cut=cut)


def test_an_unknown_cut_names_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        surgeon.operate(nw.residual(), case="small-similar", classes=2, cut="b1.uot")
    assert "b1.out" in str(caught.value)
    assert caught.value.exit == 2


@pytest.mark.parametrize("cut", ["shape_1", "batch_size", "cls_token", "position", ""])
def test_what_is_no_float_of_the_samples_cannot_be_cut_at(cut):
    with pytest.raises(UsageError):
        surgeon.operate(nw.vit(), case="small-similar", classes=2, cut=cut)


def test_a_float_without_the_batch_axis_cannot_be_cut_at():
    net = nw.Net()
    x = net.input("x", ["N", 4])
    total = net.node("ReduceMean", x, axes=[0], keepdims=0, out="total")
    x = net.node("Add", x, total)
    net.node("Gemm", x, net.weight("w", 4, 3), out="y")
    with pytest.raises(UsageError, match="batch"):
        surgeon.operate(net.model("y"), case="small-similar", classes=2, cut="total")


def test_a_graph_that_ignores_its_inputs_is_refused():
    net = nw.Net()
    net.input("x", ["N", 4])
    net.node("Identity", net.weight("w", 3, 3), out="a")
    net.node("Relu", "a", out="y")
    with pytest.raises(SurgeonError) as caught:
        surgeon.operate(net.model("y"), case="small-similar", classes=2)
    assert caught.value.exit == 2


def test_start_needs_a_tensor_that_separates_the_graph():
    anatomy = surgeon.load(nw.residual()).anatomy()
    for cut in anatomy.cuts:
        rest = start_at(anatomy.model, cut.tensor, anatomy.shapes)
        onnx.checker.check_model(rest, full_check=True)
        assert [value.name for value in rest.graph.input] == [cut.tensor]
        inputs = nw.feeds(anatomy.model)
        values = nw.run(nw.with_outputs(anatomy.model, cut.tensor), inputs)
        got = nw.run(rest, {cut.tensor: values[cut.tensor]})
        np.testing.assert_array_equal(got["y"], values["y"])
    with pytest.raises(UsageError, match="does not separate"):
        start_at(anatomy.model, "b1.branch", anatomy.shapes)
    with pytest.raises(UnknownNameError):
        start_at(anatomy.model, "absent", anatomy.shapes)


def test_an_unknown_operator_is_observed_by_running_the_graph():
    net = nw.Net()
    x = net.input("x", ["N", 4])
    x = net.node("Gelu", x, domain="com.microsoft", out="gelu")
    x = net.node("MatMul", x, net.weight("w", 4, 6), out="product")
    net.node("Gemm", x, net.weight("v", 6, 3), out="y")
    loaded = surgeon.load(net.model("y", shape=["N", 3]))
    assert [cut.tensor for cut in loaded.cuts()] == ["gelu", "product"]
    assert loaded.cuts()[0].shape == ("N", 4)


def test_counts_of_a_cut_are_those_of_the_truncated_file():
    loaded = surgeon.load(nw.residual())
    for cut in loaded.cuts():
        short = keep_only(loaded.proto, [cut.tensor], loaded.anatomy().shapes)
        floats = [t for t in short.graph.initializer if t.data_type == TensorProto.FLOAT]
        assert cut.parameters == sum(prod(t.dims) for t in floats)
        assert cut.bytes == sum(len(t.raw_data) for t in short.graph.initializer)
        assert cut.dtype == "float"


def test_output_of_a_sequence_type_does_not_hide_the_scores():
    """Scikit-learn exports end in a label and a ZipMap; the float output counts."""
    model = nw.mlp()
    model.graph.node.append(helper.make_node("ArgMax", ["y"], ["label"], axis=1))
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["N", 1])
    model.graph.output.insert(0, label)
    anatomy = surgeon.load(model).anatomy()
    assert anatomy.end == "relu_1"
    assert anatomy.head.form == "Gemm"
