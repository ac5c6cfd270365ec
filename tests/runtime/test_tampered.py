"""One thing of a tuned file changed at a time: `verify` is red, and says which thing it was."""

from __future__ import annotations

import base64
import json
import zlib

import networks as nw
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import surgeon
from surgeon.cli import main
from surgeon.errors import ModelError
from surgeon.graph import envelope
from surgeon.runtime import proof as proofs
from surgeon.runtime.proof import ARRAY_LIMIT, decode, encode


@pytest.fixture(scope="module")
def tuned():
    """Several labels with thresholds, statistics of classes left out; and all metadata there is."""
    source = nw.batchnorm()
    random = np.random.default_rng(0)
    data = nw.feeds(source, batch=40, seed=1) | {"labels": random.integers(0, 2, (40, 3)) == 1}
    model = surgeon.finetune(source, data, case="small-similar", device="cpu").model
    return model.proto


@pytest.fixture(scope="module")
def kept():
    """A classifier that keeps statistics of its classes."""
    source = nw.batchnorm()
    data = nw.feeds(source, batch=24, seed=1) | {"labels": np.arange(24) % 3}
    made = surgeon.finetune(
        source, data, case="small-similar", device="cpu", keep_statistics=True,
        preprocess=None,
    )  # fmt: skip
    return made.model.proto


def copied(proto):
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def red(proto):
    """Return {check: detail} of what fails."""
    verdict = surgeon.verify(proto)
    return {one.name: one.detail or "" for one in verdict.checks if not one.passed}


def edit(proto, key, change):
    document = envelope.get(proto, key)
    change(document)
    envelope.put(proto, key, document)


def test_every_weight(tuned):
    for place, tensor in enumerate(tuned.graph.initializer):
        file = copied(tuned)
        content = bytearray(tensor.raw_data)
        content[-1] ^= 1
        file.graph.initializer[place].raw_data = bytes(content)
        found = red(file)
        wanted = "tuned" if tensor.name.startswith("surgeon.head") else "frozen"
        assert f"changed: {tensor.name!r}" in found[wanted]
        assert not set(found) & ({"frozen", "tuned"} - {wanted})


def test_a_weight_more_or_less(tuned):
    file = copied(tuned)
    file.graph.initializer.add().CopyFrom(numpy_helper.from_array(np.float32([1, 2]), "extra"))
    assert "added: 'extra'" in red(file)["frozen"]
    surgeon_file = copied(file)
    (place,) = [i for i, t in enumerate(file.graph.initializer) if t.name == "extra"]
    proof = proofs.restated(file, envelope.plan(file), envelope.get(file, envelope.PROOF))
    envelope.put(surgeon_file, envelope.PROOF, proof)
    assert not red(surgeon_file)
    del surgeon_file.graph.initializer[place]
    assert "removed: 'extra'" in red(surgeon_file)["frozen"]


def test_every_node_input_output_and_opset(tuned):
    for place, node in enumerate(tuned.graph.node):
        file = copied(tuned)
        file.graph.node[place].doc_string = "another"
        assert repr(node.name or node.output[0]) in red(file)["structure"]
    file = copied(tuned)
    file.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "M"
    assert file.graph.input[0].name in red(file)["structure"]
    file = copied(tuned)
    file.opset_import[0].version += 1
    assert "ai.onnx" in red(file)["structure"]


def test_every_label(tuned):
    labels = envelope.get(tuned, envelope.LABELS)
    for place in range(len(labels)):
        file = copied(tuned)
        edit(file, envelope.LABELS, lambda found, at=place: found.__setitem__(at, "other"))
        assert f"changed: label {place} ('other')" in red(file)["labels"]
    file = copied(tuned)
    envelope.put(file, envelope.LABELS, [labels[1], labels[0], *labels[2:]])
    assert "label 0" in red(file)["labels"]
    assert "label 1" in red(file)["labels"]


@pytest.mark.parametrize("key", [envelope.PLAN, envelope.DECODING])
def test_every_key_of_plan_and_thresholds(tuned, key):
    check = key.removeprefix("surgeon.")
    for name, value in envelope.get(tuned, key).items():
        for how in ("changed", "removed"):
            file = copied(tuned)

            def change(document, name=name, value=value, how=how):
                del document[name]
                if how == "changed":
                    document[name] = _other(value)

            edit(file, key, change)
            try:
                found = red(file)
            except ModelError as error:  # no plan is left: refused by its name
                found = {check: f"{how}: {name!r}"} if key in error.where else {}
            assert f"'{name}" in found[check]
    file = copied(tuned)
    edit(file, key, lambda document: document.update(more=1))
    assert "added: 'more'" in red(file)[check]
    envelope.put(file, key, None)
    assert "removed: " in red(file)[check]


def _other(value):
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return value[::-1] if value[::-1] != value else [*value, *value] or ["x"]
    if isinstance(value, dict):
        return value | {"x": 1}
    return "x" if value is None else value + 1


def test_a_threshold_is_moved_by_its_last_digit(tuned):
    assert envelope.get(tuned, envelope.DECODING)["thresholds"]
    file = copied(tuned)

    def change(document):
        document["thresholds"]["1"] = float(np.nextafter(document["thresholds"]["1"], 1))

    edit(file, envelope.DECODING, change)
    assert "changed: 'thresholds.1'" in red(file)["decoding"]


def test_preprocessing_statistics_and_other_metadata(kept):
    file = copied(kept)
    envelope.put(file, envelope.PREPROCESS, {"layout": "NCHW", "channels": "BGR"})
    assert "added: 'layout', 'channels'" in red(file)["preprocess"].replace(
        "'channels', 'layout'", "'layout', 'channels'"
    )
    file = copied(kept)
    edit(file, envelope.STATISTICS, lambda document: document["counts"].reverse())
    edit(file, envelope.STATISTICS, lambda document: document.update(counts=[9, 8, 7]))
    found = red(file)
    assert "statistics" in found
    assert "changed: 'surgeon.statistics'" in found["metadata"]
    for key in ("surgeon.more", "Image.BitmapPixelFormat"):
        file = copied(kept)
        file.metadata_props.add(key=key, value="Rgb8")
        assert f"added: {key!r}" in red(file)["metadata"]
    file = copied(kept)
    file.metadata_props.add(key="licence", value="CC0")  # anyone's own is none of ours
    assert not red(file)


def test_a_metadata_key_twice(kept):
    file = copied(kept)
    file.metadata_props.insert(0, onnx.StringStringEntryProto(key=envelope.LABELS, value="[]"))
    assert envelope.LABELS in red(file)["metadata"]


def test_every_key_of_the_proof(kept):
    proof = envelope.get(kept, envelope.PROOF)
    for name in set(proof) - {"version", "parts", "golden"}:
        file = copied(kept)
        edit(file, envelope.PROOF, lambda document, name=name: document.pop(name))
        assert f"removed: {name!r}" in red(file)["proof"]
    file = copied(kept)
    edit(file, envelope.PROOF, lambda document: document.update(source_sha256="0" * 64))
    assert "changed: 'source_sha256'" in red(file)["proof"]
    for group, stated in proof["parts"].items():
        file = copied(kept)
        edit(file, envelope.PROOF, lambda document, group=group: document["parts"].pop(group))
        assert bool(red(file)) is bool(stated), group
    file = copied(kept)
    edit(file, envelope.PROOF, lambda document: document.pop("parts"))
    assert {"frozen", "tuned", "proof"} <= set(red(file))


def test_golden_outputs_by_their_place(kept):
    count = len(envelope.get(kept, envelope.PROOF)["golden"])
    assert count >= 2
    for place in range(count):
        file = copied(kept)

        def change(document, place=place):
            entry = document["golden"][place]
            entry["logits"] = encode(np.nextafter(decode(entry["logits"]), np.float32(9)))

        edit(file, envelope.PROOF, change)
        assert f"golden {place}" in red(file)["proof"]
    file = copied(kept)
    edit(file, envelope.PROOF, lambda document: document["golden"].pop(0))
    assert "golden" in red(file)


def test_a_file_brings_no_bound_of_its_own(kept):
    """Even where whoever changed it made its proof anew."""
    file = copied(kept)
    proof = envelope.get(file, envelope.PROOF)
    proof["parity"]["bound"] = 1.0
    logits = decode(proof["golden"][0]["logits"])
    proof["golden"][0]["logits"] = encode(logits + np.float32(0.1) * np.abs(logits).max())
    envelope.put(file, envelope.PROOF, proofs.restated(file, envelope.plan(file), proof))
    verdict = surgeon.verify(file)
    check = next(one for one in verdict.checks if one.name == "golden")
    assert not check.passed
    assert check.bound == 1e-4
    assert "proof" not in red(file)


def test_a_proof_of_before_verifies_as_before(kept):
    file = copied(kept)
    edit(file, envelope.PROOF, lambda document: document.update(version=1, parts=None))
    edit(file, envelope.PROOF, lambda document: document.pop("parts"))
    assert not red(file)
    assert {one.name for one in surgeon.verify(file).checks} == {
        "frozen", "tuned", "structure", "labels", "preprocess", "statistics", "golden",
    }  # fmt: skip
    envelope.put(file, envelope.LABELS, ["a", "b", "c"])
    assert set(red(file)) == {"labels"}


@pytest.mark.parametrize("version", [None, 0, 3, "1", True, 1.0])
def test_versions_that_are_not_known(kept, version, tmp_path, capsys):
    file = copied(kept)
    edit(file, envelope.PROOF, lambda document: document.update(version=version))
    onnx.save(file, str(tmp_path / "file.onnx"))
    assert main(["verify", str(tmp_path / "file.onnx"), "--json"]) == 2
    told = json.loads(capsys.readouterr().out)["error"]["message"]
    assert "version" in told
    assert repr(version) in told


def bomb(size):
    """Return zeros as zlib packs them, without holding them."""
    packer, block = zlib.compressobj(1), bytes(1 << 20)
    found = [packer.compress(block) for _ in range(size >> 20)]
    return base64.b64encode(b"".join([*found, packer.flush()])).decode()


@pytest.mark.parametrize("shape", [[10 * 2**30], [4, 3], [2**40, 2**40], [-1], [True], "ab"])
def test_what_would_unpack_to_more_than_it_says_or_may(kept, shape):
    file, packed = copied(kept), bomb(8 << 20)
    stored = {"dtype": "float32", "shape": shape, "zlib_base64": packed}
    edit(file, envelope.PROOF, lambda document: document["golden"][0].update(logits=stored))
    assert red(file)["golden"].startswith("golden 0: ")


def test_what_would_unpack_to_more_than_any_array_may_take():
    packed = bomb(8 << 20)
    for stored in (
        {"dtype": "float32", "shape": [ARRAY_LIMIT], "zlib_base64": packed},
        {"dtype": "string", "shape": [1], "zlib_base64": bomb(65 << 20)},
    ):
        with pytest.raises(ModelError, match="MiB"):
            decode(stored)


@pytest.mark.parametrize("dtype", ["object", "f4,f4", "(9,)f4", "no such", 3, None])
def test_element_types_that_are_none(dtype):
    with pytest.raises(ModelError):
        decode(encode(np.float32([1])) | {"dtype": dtype})


def test_a_drawn_input_is_no_larger_than_it_may_be():
    network = nw.convnet()
    free = {f"{value.name}:{axis}": 1 << 20 for value in network.graph.input for axis in (2, 3)}
    for value in network.graph.input:
        for axis in (2, 3):
            value.type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    with pytest.raises(ModelError, match="MiB"):
        proofs.golden_feeds(network, {"seed": 0, "sizes": free})
