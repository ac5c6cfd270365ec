"""The main job on small networks: into torch and back, and all four cases end to end."""

from __future__ import annotations

import json

import networks as nw
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import surgeon
from surgeon.errors import DataError, ModelError, SurgeonError, UnknownNameError, UsageError

CASES = ("small-similar", "small-different", "large-similar", "large-different")


def tensors(model):
    return {tensor.name: tensor for tensor in model.graph.initializer}


def data_for(model, n=24, classes=3):
    """Random inputs along the graph's own batch axes, with labels."""
    free = surgeon.load(model).anatomy().model
    return nw.feeds(free, batch=n, seed=1) | {"labels": np.arange(n) % classes}


def call(module, model, inputs):
    order = [value.name for value in model.graph.input]
    return module(*[torch.from_numpy(np.asarray(inputs[name])) for name in order])


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.abs(a - b).max() / max(np.abs(b).max(), 1e-6)


# ── in torch and back ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", nw.ZOO)
def test_torch_has_the_parameters_by_name_and_computes_the_same(name):
    model = nw.ZOO[name]()
    roles = surgeon.load(model).roles()
    module = surgeon.to_torch(model)
    assert not module.training
    wanted = {key for key, role in roles.items() if role == "parameter"}
    assert {key for key, _ in module.named_parameters()} == wanted
    assert set(module.state_dict()) == set(roles)
    assert set(surgeon.tensors(module)) == set(roles)
    inputs = nw.feeds(model)
    found = call(module, model, inputs)
    found = found if isinstance(found, tuple) else (found,)
    for value, wanted in zip(found, nw.run(model, inputs).values(), strict=True):
        assert relative(value.detach().numpy(), wanted) <= 1e-4
        assert tuple(value.shape) == wanted.shape


@pytest.mark.parametrize("dtype", [nw.F, nw.F16, nw.F64, nw.BF16])
@pytest.mark.parametrize("name", [n for n in nw.ZOO if n != "lstm_state"])
def test_writing_back_what_was_read_changes_no_byte(name, dtype):
    model = nw.ZOO[name](dtype=dtype)
    content = model.SerializeToString()
    module = surgeon.to_torch(model)
    for source in (surgeon.tensors(module), module.state_dict(), module):
        assert surgeon.write_back(model, source).SerializeToString() == content
    assert model.SerializeToString() == content


@pytest.mark.parametrize("name", nw.ZOO)
def test_one_step_changes_exactly_the_parameters(name):
    patient = surgeon.operate(nw.ZOO[name](), case="large-similar", classes=3)
    module = surgeon.to_torch(patient)
    inputs = nw.feeds(patient.proto, batch=6, seed=2)
    parameters = dict(module.named_parameters())
    optimiser = torch.optim.SGD(parameters.values(), lr=0.1)
    logits = call(module, patient.proto, inputs)
    torch.nn.functional.cross_entropy(logits, torch.arange(6) % 3).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters.values())
    moving = {key for key, p in parameters.items() if (p - 0.1 * p.grad != p).any()}
    optimiser.step()
    written = surgeon.write_back(patient, module)
    before, after = tensors(patient.proto), tensors(written)
    changed = {key for key in before if before[key] != after[key]}
    assert changed == moving
    assert set(patient.trainable) >= {k for k in changed if before[k].dims}
    assert list(written.graph.node) == list(patient.proto.graph.node)
    assert list(before) == list(after)
    logits = call(module, patient.proto, inputs)
    assert relative(logits.detach().numpy(), nw.run(written, inputs)["logits"]) <= 1e-4


def test_unknown_and_missing_names_raise():
    model = nw.mlp()
    found = surgeon.tensors(surgeon.to_torch(model))
    with pytest.raises(UnknownNameError, match="w9"):
        surgeon.write_back(model, found | {"w9": found["w1"]})
    del found["w1"]
    with pytest.raises(ModelError):
        surgeon.write_back(model, found)
    with pytest.raises(UsageError):
        surgeon.write_back(model, [1, 2])


def test_a_tied_weight_is_one_parameter():
    module = surgeon.to_torch(nw.tied())
    assert [key for key, _ in module.named_parameters()].count("shared") == 1
    assert "again" not in module.state_dict()


# ── all four cases ───────────────────────────────────────────────────────────────────────────────


def check_outcome(model, outcome, case, classes=3):
    """Check every invariant of a tuned file against the source and the operated graph."""
    patient = surgeon.operate(model, case=case, classes=classes)
    before, after = tensors(patient.proto), tensors(outcome.model.proto)
    assert list(outcome.model.proto.graph.node) == list(patient.proto.graph.node)
    assert list(outcome.model.proto.graph.input) == list(patient.proto.graph.input)
    assert list(before) == list(after)
    body = outcome.document()
    changed = {key for key in before if before[key] != after[key]}
    assert set(body["changed"]) == changed
    assert changed <= set(body["trainable"]) | set(body["statistics"])
    assert body["trainable"] == patient.trainable
    assert {"surgeon.head.weight", "surgeon.head.bias"} & changed
    parity = outcome.proof["parity"]
    assert parity["max_relative"] <= parity["bound"]
    verdict = surgeon.verify(outcome.model.proto, source=model)
    assert verdict.passed, [check for check in verdict.checks if not check.passed]
    assert {check.name for check in verdict.checks} == {
        *("frozen", "tuned", "structure", "labels", "preprocess", "golden", "source"),
        *("plan", "decoding", "metadata", "proof"),
    }
    onnx.checker.check_model(outcome.model.proto, full_check=True)
    json.dumps(body, allow_nan=False)
    return changed


FINETUNED = [
    "mlp", "convnet", "squeezenet", "batchnorm", "nhwc", "transformer", "vit", "lstm_state",
    "shuffle", "two_inputs", "scalar_input", "tied",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FINETUNED)
def test_finetune_keeps_every_invariant(name, case):
    model = nw.ZOO[name]()
    content = model.SerializeToString()
    data = data_for(model)
    outcome = surgeon.finetune(model, data, case=case, epochs=1, device="cpu", seed=0)
    assert model.SerializeToString() == content
    changed = check_outcome(model, outcome, case)
    if case.startswith("small"):
        assert changed == {"surgeon.head.weight", "surgeon.head.bias"}
    assert outcome.model.labels == ["0", "1", "2"]
    held = {k: v for k, v in data.items() if k != "labels"}
    prediction = surgeon.predict(outcome.model, held)
    assert prediction.probabilities.shape == (24, 3)
    np.testing.assert_allclose(prediction.probabilities.sum(1), 1, rtol=1e-6)
    report = surgeon.evaluate(outcome.model, data)
    assert report["samples"] == 24
    assert np.sum(report["confusion"]) == 24


@pytest.mark.parametrize("dtype", [nw.F16, nw.F64])
@pytest.mark.parametrize("case", ["small-similar", "large-similar"])
def test_finetune_in_other_element_types(case, dtype):
    model = nw.matmul_add(dtype=dtype)
    outcome = surgeon.finetune(model, data_for(model), case=case, epochs=2, device="cpu")
    check_outcome(model, outcome, case)
    kinds = {t.data_type for key, t in tensors(outcome.model.proto).items() if key in ("w1", "b1")}
    assert kinds == {dtype}


def test_the_same_seed_gives_the_same_file(tmp_path):
    model = nw.batchnorm()
    data = data_for(model)
    for case in ("small-similar", "large-different"):
        contents = set()
        for number in range(2):
            out = tmp_path / f"{case}-{number}.onnx"
            surgeon.finetune(model, data, out, case=case, epochs=2, device="cpu", seed=5)
            contents.add(out.read_bytes())
        assert len(contents) == 1


def test_a_random_start_trains_and_says_so():
    model = nw.batchnorm()
    outcome = surgeon.finetune(
        model, data_for(model), case="large-different", init="random", epochs=2, device="cpu"
    )
    assert outcome.document()["plan"]["init"] == "random"
    verdict = surgeon.verify(outcome.model.proto, source=model)
    assert verdict.passed, verdict.checks


def separable(n=60, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    x = random.standard_normal((n, 8)).astype(np.float32)
    x[:, 0] += 4 * labels
    return {"x": x, "labels": labels}


def test_options_of_training_by_steps_are_named_where_there_are_none():
    model = nw.convnet()
    options = {"precision": "bf16", "memory": "low", "compile": "on", "accumulate": 2}
    found = surgeon.finetune(
        model, data_for(model), case="small-similar", device="cpu", **options
    ).document()["warnings"]
    said = (
        "no effect of --precision bf16, --memory low, --compile on, --accumulate 2: only the head"
    )
    assert any(note.startswith(said) for note in found)
    plain = surgeon.finetune(model, data_for(model), case="small-similar", device="cpu")
    assert not any("no effect" in note for note in plain.document()["warnings"])


def test_a_race_that_leads_nowhere_says_so():
    model = nw.convnet()
    data = data_for(model) | {"split": np.repeat(["train", "validation"], 12)}
    body = surgeon.finetune(
        model, data, case="large-different", init="race", epochs=1, lr=1e-12, device="cpu"
    ).document()
    assert body["delivered"] == "probe"
    assert any("did not improve on what it started from" in note for note in body["warnings"])


def test_a_tuned_file_can_be_trained_on_by_its_own_plan(tmp_path):
    model = nw.mlp()
    path = tmp_path / "tuned.onnx"
    first = surgeon.finetune(model, separable(), path, case="large-similar", epochs=2, device="cpu")
    assert first.document()["out"] == str(path)
    second = surgeon.finetune(path, separable(seed=1), epochs=2, device="cpu")
    assert second.document()["case"] == "large-similar"
    assert second.model.labels == ["0", "1"]
    assert list(second.model.proto.graph.node) == list(first.model.proto.graph.node)
    assert second.proof["source_sha256"] == first.proof["source_sha256"]
    assert surgeon.verify(second.model.proto, source=model).passed
    third = surgeon.finetune(path, separable(seed=1), case="small-similar", device="cpu")
    assert third.document()["case"] == "small-similar"
    assert surgeon.verify(third.model.proto).passed
    other = separable() | {"labels": np.arange(60) % 3}
    with pytest.raises(DataError):
        surgeon.finetune(path, other, device="cpu")


def test_an_operated_model_is_trained_by_its_plan_and_not_changed():
    patient = surgeon.operate(nw.mlp(), case="small-similar", classes=2)
    content = patient.proto.SerializeToString()
    outcome = surgeon.finetune(patient, separable(), device="cpu")
    assert patient.proto.SerializeToString() == content
    assert outcome.metrics["validation"]["accuracy"] > 0.8
    assert outcome.document()["case"] == "small-similar"
    with pytest.raises(SurgeonError):
        surgeon.finetune(patient, data_for(nw.mlp()), device="cpu")


def test_foreign_labels_of_the_source_do_not_stand_in_the_way():
    model = nw.mlp()
    model.metadata_props.add(key="names", value='["cat", "dog"]')
    patient = surgeon.operate(model, case="small-similar", classes=2)
    outcome = surgeon.finetune(patient, separable(), device="cpu")
    assert outcome.model.labels == ["0", "1"]


def test_npz_and_dict_are_the_same_data(tmp_path):
    data = separable()
    np.savez(tmp_path / "data.npz", **data)
    one = surgeon.finetune(nw.mlp(), data, case="small-similar", device="cpu")
    two = surgeon.finetune(nw.mlp(), tmp_path / "data.npz", case="small-similar", device="cpu")
    assert one.model.proto.graph.initializer == two.model.proto.graph.initializer


def test_constant_inputs_are_the_same_for_every_sample():
    data = separable()
    whole = surgeon.finetune(
        nw.scalar_input(), data | {"temperature": np.float32(2.0)}, case="large-similar",
        epochs=1, device="cpu",
    )  # fmt: skip
    given = surgeon.finetune(
        nw.scalar_input(), data, case="large-similar", inputs=["temperature=2.0"], epochs=1,
        device="cpu",
    )  # fmt: skip
    assert whole.model.proto.graph.initializer == given.model.proto.graph.initializer


@pytest.mark.parametrize(
    "case",
    [
        "small-similar",
        "large-similar",
    ],
)
def test_a_batch_that_stays_fixed_is_trained_and_served_at_that_batch(case):
    net = nw.Net()
    x = net.input("x", [2, 8])
    token = net.weight("token", values=np.ones((2, 2)))
    x = net.node("Einsum", x, token, equation="bi,bj->bij")
    x = net.node("Flatten", x, out="joined")
    net.node("Gemm", x, net.weight("fc", 16, 3), out="y")
    model = net.model("y", shape=[2, 3])
    outcome = surgeon.finetune(model, separable(), case=case, epochs=1, device="cpu")
    assert any("stays fixed" in note for note in outcome.document()["warnings"])
    verdict = surgeon.verify(outcome.model.proto, source=model)
    assert verdict.passed, verdict.checks
    prediction = surgeon.predict(outcome.model, {"x": separable()["x"][:5]})
    assert prediction.probabilities.shape == (5, 2)


def test_dry_run_decides_and_writes_nothing(tmp_path):
    out = tmp_path / "out.onnx"
    outcome = surgeon.finetune(
        nw.convnet(), data_for(nw.convnet()), out, case="small-similar", device="cpu", dry_run=True
    )
    assert not list(tmp_path.iterdir())
    body = outcome.document()
    assert body["delivered"] is None
    assert body["frontier"]["nodes_frozen"] > 0


def test_what_cannot_be_meant_is_a_usage_error(tmp_path):
    data = separable()
    with pytest.raises(UsageError):
        surgeon.finetune(nw.mlp(), data, device="cpu")
    with pytest.raises(UsageError, match="classes"):
        surgeon.finetune(nw.mlp(), data, case="small-similar", classes=3, device="cpu")
    alone = data | {"labels": np.zeros(60, np.int64)}
    with pytest.raises(DataError):
        surgeon.finetune(nw.mlp(), alone, case="small-similar", device="cpu")
    out = tmp_path / "out.onnx"
    out.write_bytes(b"mine")
    with pytest.raises(SurgeonError, match="exists"):
        surgeon.finetune(nw.mlp(), data, out, case="small-similar", device="cpu")
    assert out.read_bytes() == b"mine"


def test_the_documents_of_looking():
    model = nw.nhwc()
    model.metadata_props.add(key="names", value='["safe", "not"]')
    found = surgeon.inspect(model)
    assert found["inputs"] == [
        {"name": "image", "dtype": "float", "shape": ["N", 8, 8, 3], "batch_axis": 0}
    ]
    assert found["outputs"][0]["shape"] == ["N", 2]
    assert found["labels"] == ["safe", "not"]
    assert found["head"]["form"] == "MatMul+Add"
    assert found["operators"]["Transpose"] == 2
    assert found["parameters"] == sum(
        numpy_helper.to_array(t).size for t in model.graph.initializer
    )
    assert found["surgeon"] is None
    patient = surgeon.operate(model, case="small-similar", classes=2)
    assert surgeon.inspect(patient)["surgeon"]["case"] == "small-similar"
