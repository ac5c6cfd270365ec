"""The proof holds on an untouched file, and every kind of tampering fails the check it should."""

from __future__ import annotations

import json

import networks as nw
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import surgeon
from surgeon.errors import ModelError
from surgeon.graph import envelope
from surgeon.graph.weights import hash_tensors, tuned_names
from surgeon.runtime.observe import Singles, relative_error
from surgeon.runtime.proof import decode, encode, seeded_input


def data_for(model, n=24):
    return nw.feeds(model, batch=n, seed=1) | {"labels": np.arange(n) % 3}


@pytest.fixture(scope="module")
def source():
    return nw.batchnorm()


@pytest.fixture(scope="module")
def tuned(source):
    """Only the head is tuned: the convolutions are frozen."""
    return surgeon.finetune(source, data_for(source), case="small-similar", device="cpu").model


@pytest.fixture
def file(tuned):
    copy = onnx.ModelProto()
    copy.CopyFrom(tuned.proto)
    return copy


def initializer(model, name):
    return next(t for t in model.graph.initializer if t.name == name)


def flip(model, name, bit=0):
    tensor = initializer(model, name)
    content = bytearray(tensor.raw_data)
    content[0] ^= 1 << bit
    tensor.raw_data = bytes(content)


def proof_of(model):
    return envelope.get(model, envelope.PROOF)


def failed(model, **options):
    verdict = surgeon.verify(model, **options)
    assert verdict.passed is not any(not check.passed for check in verdict.checks)
    return {check.name for check in verdict.checks if not check.passed}


def test_an_untouched_file_passes(file, source, tmp_path):
    assert failed(file) == set()
    assert failed(file, source=source) == set()
    path = tmp_path / "tuned.onnx"
    surgeon.load(file).save(path)
    onnx.save(source, str(tmp_path / "source.onnx"))
    verdict = surgeon.verify(path, source=tmp_path / "source.onnx")
    assert verdict.passed
    assert [check.name for check in verdict.checks] == [
        "frozen", "tuned", "structure", "labels", "preprocess", "plan", "decoding", "metadata",
        "proof", "golden", "source",
    ]  # fmt: skip
    json.dumps(verdict.document(), allow_nan=False)


def test_the_proof_is_the_document_of_the_contract(file, tuned, source):
    proof = proof_of(file)
    assert set(proof) == {
        "version", "source_sha256", "structure_sha256", "frozen", "tuned", "labels_sha256",
        "preprocess_sha256", "parity", "golden", "parts",
    }  # fmt: skip
    trains = {"surgeon.head.weight", "surgeon.head.bias"}
    groups = {
        "frozen": [t for t in file.graph.initializer if t.name not in trains],
        "tuned": [t for t in file.graph.initializer if t.name in trains],
    }
    for name, group in groups.items():
        assert proof[name] == {"count": len(group), "sha256": hash_tensors(group)}
    assert set(proof["parity"]) == {"samples", "max_relative", "bound"}
    assert proof["parity"]["bound"] == 1e-4
    assert proof["source_sha256"] == surgeon.load(source).source_sha256
    assert 2 <= len(proof["golden"]) <= 4
    assert all(set(entry) == {"inputs", "logits"} for entry in proof["golden"])
    assert len(json.dumps(proof)) < 1_500_000


FROZEN = ["l1.weight", "l1.bn.mean", "l2.bn.scale"]


@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_bit_flipped(file, source, name):
    flip(file, name)
    assert "frozen" in failed(file)
    assert {"frozen", "source"} <= failed(file, source=source)
    assert "tuned" not in failed(file)


@pytest.mark.parametrize("name", ["surgeon.head.weight", "surgeon.head.bias"])
def test_a_tuned_bit_flipped(file, name):
    flip(file, name)
    assert "tuned" in failed(file)
    assert "frozen" not in failed(file)


def test_an_exponent_bit_flipped_fails_the_golden_samples(file):
    tensor = initializer(file, "surgeon.head.weight")
    tensor.raw_data = (numpy_helper.to_array(tensor) * 3).tobytes()
    assert {"tuned", "golden"} <= failed(file)


def test_an_initializer_renamed_or_added(file):
    file.graph.initializer.add().CopyFrom(numpy_helper.from_array(np.float32([1, 2]), "extra"))
    assert "frozen" in failed(file)


def test_a_node_attribute_changed(file):
    node = next(n for n in file.graph.node if n.op_type == "BatchNormalization")
    node.attribute.add(name="epsilon", type=onnx.AttributeProto.FLOAT, f=1e-3)
    assert "structure" in failed(file)


def test_a_node_renamed_or_an_input_retyped_or_an_opset_raised(file, tuned):
    file.graph.node[0].name = "other"
    assert failed(file) == {"structure"}
    again = onnx.ModelProto()
    again.CopyFrom(tuned.proto)
    again.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "M"
    assert failed(again) == {"structure"}
    again.CopyFrom(tuned.proto)
    again.opset_import[0].version = 18
    assert failed(again) == {"structure"}


def test_labels_swapped(file):
    envelope.put(file, envelope.LABELS, ["1", "0", "2"])
    assert failed(file) == {"labels"}
    envelope.put(file, envelope.LABELS, None)
    assert failed(file) == {"labels"}


def test_preprocessing_put_in(file):
    envelope.put(file, envelope.PREPROCESS, {"layout": "NCHW", "channels": "BGR"})
    assert failed(file) == {"preprocess"}


def test_golden_logits_changed(file):
    proof = proof_of(file)
    logits = decode(proof["golden"][0]["logits"])
    proof["golden"][0]["logits"] = encode(logits + np.float32(0.5))
    envelope.put(file, envelope.PROOF, proof)
    assert failed(file) == {"golden", "proof"}


def test_a_proof_that_says_an_earlier_version_to_hide_its_parts(file):
    envelope.put(file, envelope.PROOF, {**proof_of(file), "version": 1})
    assert failed(file) == {"proof"}


@pytest.mark.parametrize("damage", ["nan", "shape", "garbage", "missing", "none", "word"])
def test_golden_samples_damaged(file, damage):
    proof = proof_of(file)
    logits = decode(proof["golden"][0]["logits"])
    if damage == "nan":
        proof["golden"][0]["logits"] = encode(logits * np.float32("nan"))
    elif damage == "shape":
        proof["golden"][0]["logits"] = encode(logits[:, :2])
    elif damage == "garbage":
        proof["golden"][0]["logits"]["zlib_base64"] = "AAAA"
    elif damage == "missing":
        del proof["golden"][0]["inputs"]
    elif damage == "none":
        proof["golden"] = []
    else:
        proof["golden"] = "all of them"
    envelope.put(file, envelope.PROOF, proof)
    assert failed(file) == {"golden", "proof"}


@pytest.mark.parametrize("key", ["frozen", "tuned", "structure_sha256", "labels_sha256"])
def test_a_part_of_the_proof_taken_out(file, key):
    proof = proof_of(file)
    del proof[key]
    envelope.put(file, envelope.PROOF, proof)
    assert failed(file) == {key.removesuffix("_sha256"), "proof"}


def test_the_plan_claiming_more_was_trained(file):
    plan = envelope.get(file, envelope.PLAN)
    plan["trainable"] = [*plan["trainable"], "l1.weight"]
    envelope.put(file, envelope.PLAN, plan)
    assert failed(file) == {"frozen", "tuned", "plan"}


def test_the_wrong_source(file, source):
    other = nw.batchnorm(seed=9)
    assert failed(file, source=other) == {"source"}
    assert failed(file, source=nw.mlp()) == {"source"}
    near = onnx.ModelProto()
    near.CopyFrom(source)
    flip(near, "l2.weight")
    verdict = surgeon.verify(file, source=near)
    check = next(check for check in verdict.checks if check.name == "source")
    assert not check.passed
    assert "l2.weight" in check.detail


def test_a_file_without_a_proof_is_bad_input(source):
    for model in (source, surgeon.operate(source, case="small-similar", classes=3)):
        with pytest.raises(ModelError, match="no proof") as caught:
            surgeon.verify(model)
        assert caught.value.exit == 2


def test_a_proof_that_is_no_json_is_bad_input(file):
    entry = next(p for p in file.metadata_props if p.key == envelope.PROOF)
    entry.value = "{"
    with pytest.raises(ModelError):
        surgeon.verify(file)


def test_statistics_of_a_trained_normalization_count_as_tuned(source):
    patient = surgeon.operate(source, case="large-similar", classes=3)
    names = tuned_names(patient.proto, patient.trainable)
    assert {"l1.bn.mean", "l1.bn.var"} <= set(names)
    late = ["l2.bn.scale", "surgeon.head.weight", "surgeon.head.bias"]
    assert set(tuned_names(patient.proto, late)) == {*late, "l2.bn.mean", "l2.bn.var"}


def test_seeded_inputs_are_drawn_alike_and_fit_a_fixed_batch():
    model = nw.two_inputs()
    one, two = seeded_input(model, 0), seeded_input(model, 0)
    assert list(one) == ["vector", "image"]
    assert all(np.array_equal(one[key], two[key]) for key in one)
    assert not np.array_equal(one["image"], seeded_input(model, 1)["image"])
    assert seeded_input(nw.mlp(batch=3), 0)["x"].shape == (3, 8)


def test_arrays_survive_their_json():
    for values in (np.float32([[1, 2]]), np.int64(3), np.zeros((0, 2), np.float16)):
        again = decode(json.loads(json.dumps(encode(values))))
        np.testing.assert_array_equal(again, values)
        assert again.dtype == np.asarray(values).dtype


def test_relative_error_is_as_the_contract_defines_it():
    assert relative_error(np.float32([1, 2]), np.float32([1, 4])) == 0.5
    assert relative_error(np.zeros(2), np.zeros(2)) == 0
    assert relative_error(np.float32([1e-7]), np.float32([0])) == pytest.approx(0.1)
    assert relative_error(np.zeros(2), np.zeros(3)) == float("inf")
    assert np.isnan(relative_error(np.float32([np.nan]), np.float32([0])))


def test_a_freed_batch_is_proven_by_numbers():
    fixed, free = nw.mlp(batch=1), nw.mlp()
    singles = Singles(fixed, {"x": (1, 8)}, "y")
    holds, words = singles.agree(free)
    assert holds, words
    holds, words = singles.agree(nw.mlp(seed=3))
    assert not holds
