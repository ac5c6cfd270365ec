"""Every odd file loads, is cut and tuned with a passing proof, or is refused for a true reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import make
import networks as nw
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import surgeon
from surgeon.errors import ModelError, UnsupportedError

TUNED = [name for name in make.ODD if not name.startswith("opset_")]
INVALID_FOR_RUNTIME = {"unsorted_nodes"}
"""ONNX Runtime does not load these as they are; after normalization it does."""
CLASSES = 3


def data_for(model, n=24):
    """Random inputs, with labels that depend on them."""
    found = nw.feeds(surgeon.load(model).proto, batch=n, length=5, seed=1)
    rows = next(iter(found.values())).reshape(n, -1).astype(float)
    order = np.argsort(np.abs(rows[:, : rows.shape[1] // 2]).sum(axis=1), kind="stable")
    labels = np.empty(n, np.int64)
    labels[order] = np.arange(n) * CLASSES // n
    return found | {"labels": labels}


def content(model):
    return {tensor.name: tensor.SerializeToString() for tensor in model.graph.initializer}


def relative(a, b):
    return np.abs(a - b).max() / max(np.abs(b).max(), 1e-6)


@pytest.mark.parametrize("name", TUNED)
def test_it_loads_and_computes_the_same(name):
    model = make.ODD[name]()
    loaded = surgeon.load(model)
    inputs = nw.feeds(loaded.proto, batch=3)
    found = nw.run(loaded.proto, inputs)
    if name not in INVALID_FOR_RUNTIME:
        for output, wanted in nw.run(model, inputs).items():
            for a, b in zip(np.atleast_1d(found[output]), np.atleast_1d(wanted), strict=True):
                np.testing.assert_array_equal(a, b)
    else:
        with pytest.raises(Exception, match="topologically sorted"):
            nw.session(model)
    assert surgeon.inspect(model)["operators"]
    assert loaded.cuts()


@pytest.mark.parametrize("name", TUNED)
def test_torch_computes_the_same_and_writes_it_back_byte_for_byte(name):
    model = make.ODD[name]()
    loaded = surgeon.load(model)
    inputs = nw.feeds(loaded.proto, batch=3)
    module = surgeon.to_torch(model)
    roles = loaded.roles()
    assert [key for key, _ in module.named_parameters()] == [
        key for key, _ in module.named_parameters(remove_duplicate=False)
    ]
    assert {key for key, _ in module.named_parameters()} == {
        key for key, role in roles.items() if role == "parameter"
    }
    order = [info.name for info in loaded.inputs]
    values = module(*[torch.from_numpy(inputs[key]) for key in order])
    values = values if isinstance(values, tuple) else (values,)
    for value, wanted in zip(values, nw.run(loaded.proto, inputs).values(), strict=True):
        parts = zip(value, wanted, strict=True) if isinstance(value, list) else [(value, wanted)]
        assert all(relative(a.detach().numpy(), b) <= 1e-4 for a, b in parts)
    assert surgeon.write_back(model, module).SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize("case", ["small-similar", "small-different", "large-similar"])
@pytest.mark.parametrize("name", TUNED)
def test_it_is_cut_and_tuned_and_carries_a_proof(name, case, tmp_path):
    model = make.ODD[name]()
    path, out = tmp_path / "odd.onnx", tmp_path / "tuned.onnx"
    path.write_bytes(model.SerializeToString())
    patient = surgeon.operate(path, case=case, classes=CLASSES)
    outcome = surgeon.finetune(
        path, data_for(model), out, case=case, epochs=2, lr=0.02, device="cpu", threads=1
    )
    assert surgeon.verify(out, path).passed
    before, after = content(patient.proto), content(onnx.load(out))
    changed = {key for key in before if before[key] != after[key]}
    assert list(before) == list(after)
    assert changed == set(outcome.body["changed"])
    assert changed <= set(patient.trainable) | set(outcome.body["statistics"])
    assert {"surgeon.head.weight", "surgeon.head.bias"} <= changed
    assert list(outcome.model.proto.graph.node) == list(patient.proto.graph.node)
    if case == "large-similar":
        assert len(patient.trainable) > 2
        assert {entry["stage"] for entry in outcome.history} == {"head", "all"}
    else:
        assert len(patient.trainable) == 2


def test_every_oddity_is_what_it_says():
    """A builder that lost its oddity would prove nothing."""
    load = {name: build() for name, build in make.ODD.items()}
    names = content(load["odd_names"])
    assert all(name in names for name in make.ODD_NAMES)
    assert {";", ":", "/", " ", "{", '"'} <= set("".join(make.ODD_NAMES))
    branches = surgeon.load(load["same_names_in_subgraphs"]).parameters()
    assert sum(name.split("/")[-1] == "w" for name in branches) == 5
    assert sum(name.split("/")[-1] == "v" for name in branches) == 3
    tied = surgeon.load(load["tied_embedding_head"]).parameters()
    assert tied == ["embed.weight", "mix.weight"]
    chains = surgeon.load(load["identity_chains"])
    assert sorted(chains.parameters()) == ["fc.b", "fc.w", "layer.0.bias", "layer.0.weight"]
    listed = load["initializers_as_inputs"].graph
    assert {t.name for t in listed.initializer} < {v.name for v in listed.input}
    assert listed.input[0].name != surgeon.load(load["initializers_as_inputs"]).inputs[0].name
    empty = load["empty_optional_inputs"].graph
    assert sum(list(n.input).count("") for n in empty.node) >= 6
    assert sum(list(n.output).count("") for n in empty.node) >= 2
    assert len(load["local_functions"].functions) == 2
    assert surgeon.load(load["local_functions"]).parameters()[0] == "block.0.w"
    assert load["sequence_output"].graph.output[0].type.HasField("sequence_type")
    split = [n for n in load["thousand_way_split"].graph.node if n.op_type == "Split"]
    assert [len(node.output) for node in split] == [1000]


def test_a_graph_that_gives_nothing_but_a_sequence_is_cut_in_front_of_it():
    model = make.sequence_output()
    del model.graph.output[1:]
    outcome = surgeon.finetune(
        model, data_for(model), case="small-similar", device="cpu", threads=1
    )
    assert outcome.model.plan.cut == "wide"
    assert surgeon.verify(outcome.model).passed


@pytest.mark.parametrize("opset", range(1, 7))
def test_an_old_opset_converts_by_its_own_rules(opset):
    """ONNX Runtime has no such kernels; the same network of opset 7 says what is right."""
    model, twin = make.old_opset(opset), make.old_opset(7)
    inputs = nw.feeds(twin, batch=3)
    found = surgeon.to_torch(model)(torch.from_numpy(inputs["x"])).detach().numpy()
    assert relative(found, nw.run(twin, inputs)["y"]) <= 1e-5
    assert surgeon.inspect(model)["opsets"] == {"ai.onnx": opset}
    assert surgeon.load(model).cuts()
    module = surgeon.to_torch(model)
    assert surgeon.write_back(model, module).SerializeToString() == model.SerializeToString()


def refusal(opset):
    return pytest.raises(UnsupportedError, match=f"opset {opset}.* before opset 7.*no Gemm")


@pytest.mark.parametrize("case", ["small-similar", "large-similar"])
@pytest.mark.parametrize("opset", range(1, 7))
def test_an_old_opset_is_not_tuned_because_the_runtime_has_no_gemm_there(opset, case):
    model = make.old_opset(opset)
    with refusal(opset) as error:
        surgeon.finetune(model, data_for(model), case=case, device="cpu", threads=1)
    assert error.value.exit == 2
    assert error.value.where
    assert "opset 7 or later" in error.value.remedy
    if opset < 6:  # and it is cut only where the types of its values are known
        with refusal(opset):
            surgeon.operate(model, case=case, classes=CLASSES)
    else:
        onnx.checker.check_model(surgeon.operate(model, case=case, classes=CLASSES).proto)
    newer = surgeon.finetune(
        make.old_opset(7), data_for(model), case=case, epochs=1, device="cpu", threads=1
    )
    assert surgeon.verify(newer.model).passed
    # The reason is true: the head alone, of that opset, is what the runtime refuses.
    net = nw.Net(opset=opset, ir=3)
    net.node("Gemm", net.input("x", [2, 3]), net.weight("w", 3, 2), net.weight("b", 2), out="y",
             broadcast=1)  # fmt: skip
    with pytest.raises(Exception, match=r"Could not find an implementation for Gemm"):
        nw.session(net.model("y"))


def test_an_initializer_stated_twice_is_one():
    model = nw.mlp()
    model.graph.initializer.append(TensorProto.FromString(content(model)["w1"]))
    loaded = surgeon.load(model)
    assert [tensor.name for tensor in loaded.proto.graph.initializer] == ["w1", "b1", "w2", "b2"]
    assert ("initializer stated twice", 1) in [(c.what, c.count) for c in loaded.changes]
    outcome = surgeon.finetune(
        model, data_for(model), case="large-similar", epochs=1, device="cpu", threads=1
    )
    assert surgeon.verify(outcome.model).passed
    assert surgeon.write_back(model, surgeon.to_torch(model)) == model


def test_two_initializers_of_one_name_are_refused():
    model = nw.mlp()
    model.graph.initializer.append(numpy_helper.from_array(np.ones((8, 12), np.float32), "w1"))
    with pytest.raises(ModelError, match="one name and different values") as error:
        surgeon.load(model)
    assert error.value.where == "'w1'"
    assert error.value.remedy


def test_a_model_without_its_external_data_is_refused():
    model = nw.mlp()
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelError, match="another file") as error:
        surgeon.load(model)
    assert "'w1'" in error.value.where
    assert error.value.remedy


def test_samples_that_decide_for_each_other_pass_one_by_one():
    """An If whose condition sums over the batch: no sample has a value of its own."""
    model = make.same_names_in_subgraphs()
    node = next(node for node in model.graph.node if node.op_type == "Abs")
    node.op_type = "Neg"
    threshold = next(t for t in model.graph.initializer if t.name == "threshold")
    threshold.CopyFrom(numpy_helper.from_array(np.float32(0), "threshold"))
    data = data_for(model)
    outcome = surgeon.finetune(model, data, case="small-similar", device="cpu", threads=1)
    assert {
        value.type.tensor_type.shape.dim[0].dim_value for value in outcome.model.proto.graph.input
    } == {1}
    assert outcome.document()["frontier"]["one_by_one"]
    assert surgeon.verify(outcome.model).passed
    early = surgeon.finetune(model, data, case="small-similar", cut="h", device="cpu", threads=1)
    assert not early.document()["frontier"]["one_by_one"]


@pytest.mark.parametrize("wrong", [["N", 5, 1], ["N", 7]])
def test_a_wrongly_declared_output_does_not_matter(wrong):
    model = nw.mlp()
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", nw.F, wrong))
    patient = surgeon.operate(model, case="small-similar", classes=CLASSES)
    assert nw.run(patient.proto, nw.feeds(patient.proto, batch=4))["logits"].shape == (4, CLASSES)


def test_the_script_writes_all_of_them(tmp_path):
    script = Path(make.__file__)
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
    assert sorted(file.stem for file in tmp_path.iterdir()) == sorted(make.ODD)
    for name, build in make.ODD.items():
        assert (tmp_path / f"{name}.onnx").read_bytes() == build().SerializeToString()
