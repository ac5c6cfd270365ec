"""The operated file, line by line as the contract has it, on every form of network."""

from __future__ import annotations

import json

import networks as nw
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import surgeon
from surgeon.errors import SurgeonError, UnknownNameError, UsageError

CASES = ("small-similar", "small-different", "large-similar", "large-different")


def operate(model, case="small-similar", classes=7, **options):
    return surgeon.operate(model, case=case, classes=classes, **options)


def tensors(model):
    return {tensor.name: tensor for tensor in model.graph.initializer}


@pytest.mark.parametrize("name", nw.ZOO)
@pytest.mark.parametrize("case", CASES)
def test_an_operated_file_is_as_the_contract_says(name, case):
    model = nw.ZOO[name]()
    model.metadata_props.add(key="licence", value="CC0")
    model.producer_name, model.doc_string, model.domain = "someone", "a network", "org.someone"
    before = model.SerializeToString()
    source = surgeon.load(model)
    patient = operate(source, case)
    proto = patient.proto
    assert model.SerializeToString() == before
    assert source.proto.SerializeToString() == surgeon.load(model).proto.SerializeToString()
    onnx.checker.check_model(proto, full_check=True)
    # One output, new head.
    assert [value.name for value in proto.graph.output] == ["logits"]
    head = proto.graph.node[-1]
    assert (head.op_type, list(head.output)) == ("Gemm", ["logits"])
    assert {a.name: a.i for a in head.attribute} == {"transB": 1}
    assert list(head.input[1:]) == ["surgeon.head.weight", "surgeon.head.bias"]
    found = tensors(proto)
    features = found["surgeon.head.weight"].dims[1]
    assert list(found["surgeon.head.weight"].dims) == [7, features]
    assert list(found["surgeon.head.bias"].dims) == [7]
    assert not {"Softmax", "LogSoftmax"} & {n.op_type for n in proto.graph.node[-3:]}
    # It runs at any batch.
    for batch in (1, 5):
        inputs = nw.feeds(proto, batch=batch)
        assert nw.run(proto, inputs)["logits"].shape == (batch, 7)
    # Inputs keep name, type and order; what survives stays byte for byte.
    names = [value.name for value in model.graph.input]
    kept = [value.name for value in proto.graph.input]
    assert kept == [n for n in names if n in kept]
    studied = source.anatomy().model
    stated = {value.name: value for value in studied.graph.input}
    assert all(value == stated[value.name] for value in proto.graph.input)
    read = {n for node in proto.graph.node for n in node.input}
    assert set(kept) <= read
    count = len(proto.graph.node) - patient.added_nodes
    survivors = {node.output[0] for node in proto.graph.node[:count]}
    wanted = [node for node in studied.graph.node if node.output[0] in survivors]
    assert list(proto.graph.node[:count]) == wanted
    assert patient.removed_nodes == len(studied.graph.node) - count
    originals = tensors(studied)
    for tensor_name, tensor in found.items():
        if not tensor_name.startswith("surgeon."):
            assert tensor.SerializeToString() == originals[tensor_name].SerializeToString()
    # The envelope is kept, and the plan written.
    assert proto.opset_import == model.opset_import
    entries = {entry.key: entry.value for entry in proto.metadata_props}
    assert entries["licence"] == "CC0"
    assert (proto.producer_name, proto.doc_string) == ("someone", "a network")
    assert proto.domain == "org.someone"
    plan = json.loads(entries["surgeon.plan"])
    assert plan["case"] == case
    assert plan["classes"] == 7
    assert plan["cut"] == patient.plan.cut
    assert plan["trainable"] == patient.trainable
    assert "surgeon.labels" not in entries
    assert "surgeon.proof" not in entries
    # What is trained.
    if case.startswith("small"):
        assert patient.trainable == ["surgeon.head.weight", "surgeon.head.bias"]
    else:
        assert set(patient.trainable) == set(patient.parameters())
        assert {"surgeon.head.weight", "surgeon.head.bias"} <= set(patient.trainable)


@pytest.mark.parametrize("name", nw.ZOO)
def test_the_value_cut_at_is_what_the_original_computes(name):
    model = nw.ZOO[name]()
    patient = operate(model)
    studied = surgeon.load(model).anatomy().model
    cut = patient.plan.cut
    inputs = nw.feeds(studied, batch=3)
    wanted = nw.run(nw.with_outputs(studied, cut), inputs)[cut]
    if cut in {o.name for o in patient.proto.graph.output}:
        pytest.skip("the cut is the head")
    got = nw.run(nw.with_outputs(patient.proto, cut), inputs)[cut]
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("name", "axes"),
    [("squeezenet", (2, 3)), ("conv_head", (2, 3)), ("convnet", None), ("nhwc", None)],
)
def test_spatial_values_are_pooled(name, axes):
    patient = operate(nw.ZOO[name]())
    cut = patient.plan.cut
    inputs = nw.feeds(patient.proto, batch=2)
    values = nw.run(nw.with_outputs(patient.proto, cut), inputs)
    pooled = values[cut].mean(axes) if axes else values[cut]
    found = {k: numpy_helper.to_array(t) for k, t in tensors(patient.proto).items()}
    wanted = pooled @ found["surgeon.head.weight"].T + found["surgeon.head.bias"]
    np.testing.assert_allclose(values["logits"], wanted, rtol=1e-5, atol=1e-6)


def test_channels_last_pictures_are_pooled_over_their_sides():
    patient = operate(nw.nhwc(), cut="rectified")
    values = nw.run(nw.with_outputs(patient.proto, "rectified"), nw.feeds(patient.proto))
    weight = numpy_helper.to_array(tensors(patient.proto)["surgeon.head.weight"])
    assert weight.shape == (7, 6)
    pooled = values["rectified"].mean((1, 2))
    np.testing.assert_allclose(values["logits"], pooled @ weight.T, rtol=1e-5, atol=1e-6)


def test_tokens_are_pooled_over_their_sequence_and_features_kept():
    patient = operate(nw.vit(), cut="block")
    values = nw.run(nw.with_outputs(patient.proto, "block"), nw.feeds(patient.proto))
    weight = numpy_helper.to_array(tensors(patient.proto)["surgeon.head.weight"])
    assert weight.shape == (7, 8)
    pooled = values["block"].mean(1)
    np.testing.assert_allclose(values["logits"], pooled @ weight.T, rtol=1e-5, atol=1e-6)


def test_masked_tokens_do_not_count():
    patient = operate(nw.transformer(), cut="hidden")
    inputs = nw.feeds(patient.proto, batch=3, length=6)
    inputs["attention_mask"][:] = [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]]
    values = nw.run(nw.with_outputs(patient.proto, "hidden"), inputs)
    mask = inputs["attention_mask"][..., None].astype(np.float32)
    pooled = (values["hidden"] * mask).sum(1) / mask.sum(1)
    weight = numpy_helper.to_array(tensors(patient.proto)["surgeon.head.weight"])
    np.testing.assert_allclose(values["logits"], pooled @ weight.T, rtol=1e-4, atol=1e-5)


def test_a_batch_on_axis_one_is_put_in_front():
    for cut, pooled in (("all", lambda v: v.mean((0, 1))), ("h", lambda v: v.mean(0))):
        patient = operate(nw.lstm(), cut=cut)
        values = nw.run(nw.with_outputs(patient.proto, cut), nw.feeds(patient.proto, batch=3))
        weight = numpy_helper.to_array(tensors(patient.proto)["surgeon.head.weight"])
        wanted = pooled(values[cut]) @ weight.T
        np.testing.assert_allclose(values["logits"], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "taken", ["surgeon.head.weight", "surgeon.head.bias", "logits", "surgeon.head.gemm"]
)
def test_a_taken_name_gets_a_number(taken):
    model = nw.mlp()
    for node in model.graph.node[:1]:
        if taken == "logits":
            node.output[0] = taken
            model.graph.node[1].input[0] = taken
        else:
            node.input[1] = taken
            model.graph.initializer[0].name = taken
    patient = operate(model, classes=3)
    onnx.checker.check_model(patient.proto, full_check=True)
    assert [value.name for value in patient.proto.graph.output] == ["logits"]
    assert nw.run(patient.proto, nw.feeds(patient.proto))["logits"].shape == (2, 3)
    if taken.startswith("surgeon.head.") and taken != "surgeon.head.gemm":
        assert f"{taken}.2" in patient.trainable
        assert taken not in patient.trainable
        again = operate(patient, classes=4)
        onnx.checker.check_model(again.proto, full_check=True)


def test_a_graph_whose_own_output_is_called_logits():
    model = nw.mlp()
    model.graph.node[-1].output[0] = "logits"
    model.graph.output[0].name = "logits"
    for cut in (None, "logits"):
        patient = operate(model, classes=3, cut=cut)
        onnx.checker.check_model(patient.proto, full_check=True)
        assert nw.run(patient.proto, nw.feeds(patient.proto))["logits"].shape == (2, 3)
        assert [n.op_type for n in patient.proto.graph.node].count("Gemm") == (3 if cut else 2)


def test_operating_an_operated_file_replaces_its_head():
    first = operate(nw.residual(), "large-similar", 5)
    second = operate(first, "small-similar", 3)
    direct = operate(nw.residual(), "small-similar", 3)
    assert second.plan.cut == "features"
    strip = {"surgeon.plan"}
    assert [p for p in second.proto.metadata_props if p.key not in strip] == [
        p for p in direct.proto.metadata_props if p.key not in strip
    ]
    assert list(second.proto.graph.node) == list(direct.proto.graph.node)
    assert sorted(tensors(second.proto)) == sorted(tensors(direct.proto))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("init", [None, "random"])
def test_the_same_seed_gives_the_same_bytes(case, init):
    def content(seed):
        return operate(nw.batchnorm(), case, seed=seed, init=init).proto.SerializeToString(
            deterministic=True
        )

    assert content(3) == content(3)
    assert content(3) != content(4)


def test_a_random_start_draws_every_trained_weight_and_keeps_what_is_frozen():
    model = nw.batchnorm()
    patient = operate(model, "large-different", init="random")
    before, after = tensors(model), tensors(patient.proto)
    assert patient.plan.init == "random"
    for name in ("l1.weight", "l2.weight"):
        assert before[name] != after[name]
    assert np.all(np.isfinite(nw.run(patient.proto, nw.feeds(patient.proto))["logits"]))
    np.testing.assert_array_equal(numpy_helper.to_array(after["l1.bn.scale"]), 1)
    np.testing.assert_array_equal(numpy_helper.to_array(after["l1.bn.mean"]), 0)
    frozen = operate(model, "small-similar", init="random")
    for name, tensor in tensors(frozen.proto).items():
        if name in before:
            assert tensor == before[name]


def test_other_outputs_are_dropped_and_named_in_the_plan():
    patient = operate(nw.two_outputs())
    assert [value.name for value in patient.proto.graph.output] == ["logits"]
    plan = json.loads({p.key: p.value for p in patient.proto.metadata_props}["surgeon.plan"])
    assert "features" in plan["dropped_outputs"]
    assert any("features" in note for note in patient.notes)


def test_inputs_no_longer_needed_are_dropped():
    patient = operate(nw.two_inputs(), cut="vector_features")
    assert [value.name for value in patient.proto.graph.input] == ["vector"]
    patient = operate(nw.two_inputs(), cut="image_features")
    assert [value.name for value in patient.proto.graph.input] == ["image"]
    patient = operate(nw.two_inputs())
    assert [value.name for value in patient.proto.graph.input] == ["vector", "image"]


def test_a_scalar_input_stays_a_scalar():
    patient = operate(nw.scalar_input())
    shapes = {v.name: len(v.type.tensor_type.shape.dim) for v in patient.proto.graph.input}
    assert shapes == {"x": 2, "temperature": 0}


@pytest.mark.parametrize("name", [n for n in nw.ZOO if n != "shuffle"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_batch_is_freed_with_a_proof(name, batch):
    model = nw.ZOO[name](batch=batch)
    patient = operate(model)
    assert any("proven" in note for note in patient.notes)
    for size in (1, 5):
        inputs = nw.feeds(patient.proto, batch=size)
        assert nw.run(patient.proto, inputs)["logits"].shape == (size, 7)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_in_reshape_targets_is_freed(batch):
    patient = operate(nw.shuffle(batch=batch))
    names = [t.name for t in patient.proto.graph.initializer]
    assert "split" not in names
    dims = patient.proto.graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param
    for size in (1, 5):
        inputs = nw.feeds(patient.proto, batch=size)
        assert nw.run(patient.proto, inputs)["logits"].shape == (size, 7)


def mixing(batch=2):
    """Samples that see each other, so that no other batch computes the same."""
    net = nw.Net()
    x = net.input("x", [batch, 4])
    x = net.node("MatMul", net.node("MatMul", x, net.weight("w", 4, 6)), net.weight("v", 6, 6))
    net.node("Sub", x, net.node("ReduceMean", x, axes=[0], keepdims=1), out="centred")
    net.node("Gemm", "centred", net.weight("fc", 6, 3), out="y")
    return net.model("y", shape=[batch, 3])


def expanding(batch=2):
    """A class token written out for a batch of two: no other batch runs."""
    net = nw.Net()
    x = net.input("x", [batch, 4])
    x = net.node("Concat", x, net.weight("token", batch, 4), axis=1, out="joined")
    net.node("Gemm", x, net.weight("fc", 8, 3), out="y")
    return net.model("y", shape=[batch, 3])


@pytest.mark.parametrize("build", [mixing, expanding])
def test_a_batch_that_cannot_be_proven_free_stays_fixed_and_this_is_said(build):
    model = build()
    patient = operate(model)
    assert any("stays fixed at 2" in note for note in patient.notes)
    onnx.checker.check_model(patient.proto, full_check=True)
    assert list(patient.proto.graph.input) == list(model.graph.input)
    logits = nw.run(patient.proto, nw.feeds(patient.proto))["logits"]
    assert logits.shape == (2, 7)
    assert [d.dim_value for d in patient.proto.graph.output[0].type.tensor_type.shape.dim] == [2, 7]


@pytest.mark.parametrize("name", nw.ZOO)
@pytest.mark.parametrize("dtype", [nw.F16, nw.F64, nw.BF16])
def test_other_element_types(name, dtype):
    if name == "lstm_state":
        pytest.skip("its state inputs are float32 by construction")
    model = nw.ZOO[name](dtype=dtype)
    try:
        nw.session(model)
        runs = True
    except Exception as error:  # noqa: BLE001 - ONNX Runtime lacks kernels for the odd ones
        runs = False
        if name == "shuffle":
            pytest.skip(f"a fixed batch is proven by running: {error}")
    patient = operate(model)
    output = patient.proto.graph.output[0].type.tensor_type.elem_type
    assert output == (TensorProto.DOUBLE if dtype == nw.F64 else TensorProto.FLOAT)
    assert tensors(patient.proto)["surgeon.head.weight"].data_type == output
    frozen = {k: t for k, t in tensors(patient.proto).items() if not k.startswith("surgeon.")}
    source = tensors(surgeon.load(model).anatomy().model)
    assert all(tensor == source[key] for key, tensor in frozen.items())
    if dtype != nw.BF16:
        onnx.checker.check_model(patient.proto, full_check=True)
    if runs and (dtype, name) != (nw.F64, "lstm"):
        logits = nw.run(patient.proto, nw.feeds(patient.proto, batch=5))["logits"]
        assert logits.shape == (5, 7)
        assert logits.dtype == (np.float64 if dtype == nw.F64 else np.float32)


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 18, 20, 22, 24])
def test_every_opset_is_kept(opset):
    patient = operate(nw.squeezenet(opset=opset, ir=10))
    assert [item.version for item in patient.proto.opset_import] == [opset]
    onnx.checker.check_model(patient.proto, full_check=True)
    inputs = nw.feeds(patient.proto, batch=5)
    assert nw.run(patient.proto, inputs)["logits"].shape == (5, 7)


@pytest.mark.parametrize("opset", [13, 18, 24])
def test_sequences_at_every_opset(opset):
    patient = operate(nw.lstm(opset=opset, ir=10), cut="all")
    onnx.checker.check_model(patient.proto, full_check=True)
    assert nw.run(patient.proto, nw.feeds(patient.proto, batch=5))["logits"].shape == (5, 7)


@pytest.mark.parametrize("opset", [1, 5, 6])
def test_gemm_before_opset_seven_is_told_to_broadcast(opset):
    net = nw.Net(opset=opset, ir=3)
    x = net.node("Relu", net.input("x", ["N", 4]))
    net.node("Gemm", x, net.weight("w", 4, 3), net.weight("b", 3), out="y", broadcast=1)
    model = net.model("y", shape=["N", 3])
    for t in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    patient = operate(model, cut="y")
    onnx.checker.check_model(patient.proto)
    assert {a.name: a.i for a in patient.proto.graph.node[-1].attribute} == {
        "broadcast": 1,
        "transB": 1,
    }


def test_start_drops_what_lies_in_front():
    model = nw.residual()
    whole = operate(model, seed=1)
    patient = operate(model, start="stem", seed=1)
    onnx.checker.check_model(patient.proto, full_check=True)
    assert [value.name for value in patient.proto.graph.input] == ["stem"]
    inputs = nw.feeds(model)
    values = nw.run(nw.with_outputs(whole.proto, "stem"), inputs)
    got = nw.run(patient.proto, {"stem": values["stem"]})
    np.testing.assert_array_equal(got["logits"], values["logits"])
    assert not any(name.startswith("stem") for name in tensors(patient.proto))
    alone = surgeon.operate(model, start="b1.out")
    assert [value.name for value in alone.proto.graph.output] == ["y"]
    assert [value.name for value in alone.proto.graph.input] == ["b1.out"]
    with pytest.raises(UsageError, match="does not separate"):
        operate(model, start="b1.branch")


@pytest.mark.parametrize("classes", [0, -1, None])
def test_classes_must_be_one_or_more(classes):
    with pytest.raises(UsageError, match="classes"):
        operate(nw.mlp(), classes=classes)


def test_one_class_is_allowed():
    patient = operate(nw.mlp(), classes=1)
    assert nw.run(patient.proto, nw.feeds(patient.proto))["logits"].shape == (2, 1)
    assert patient.trainable == ["surgeon.head.weight", "surgeon.head.bias"]


def test_an_unknown_case_names_the_nearest():
    with pytest.raises(UnknownNameError) as caught:
        operate(nw.mlp(), "small-similer")
    assert "small-similar" in str(caught.value)
    with pytest.raises(UsageError):
        surgeon.operate(nw.mlp(), classes=3)
    with pytest.raises(UsageError, match="init"):
        operate(nw.mlp(), init="zeros")


def test_the_width_of_a_head_must_be_known():
    net = nw.Net()
    x = net.input("x", ["N", "features"])
    net.node("Relu", x, out="y")
    with pytest.raises(SurgeonError) as caught:
        operate(net.model("y", shape=["N", "features"]))
    assert caught.value.exit == 2


def test_labels_of_the_old_head_do_not_become_the_new_ones():
    model = nw.mlp()
    model.metadata_props.add(key="names", value=json.dumps(list("abcde")))
    assert surgeon.load(model).labels == list("abcde")
    patient = operate(model, classes=5)
    assert patient.labels is None
    assert {p.key: p.value for p in patient.proto.metadata_props}["names"]


def test_a_saved_file_loads_as_the_same_model(tmp_path):
    patient = operate(nw.transformer(), "large-similar")
    path = patient.save(tmp_path / "operated.onnx")
    again = surgeon.load(path)
    assert again.proto == patient.proto
    assert again.changes == ()
    assert again.plan == patient.plan
    assert again.trainable == patient.trainable
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(SurgeonError, match="exists"):
        patient.save(path)
    patient.save(path, force=True)
