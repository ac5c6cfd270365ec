"""A file in another form answers as before, and proves it."""

from __future__ import annotations

import sys

import networks
import numpy as np
import onnx
import pytest

import surgeon
from surgeon.errors import CheckError, OutputError, PluginError, UnsupportedError, UsageError
from surgeon.graph import envelope

FORMS = {
    "probabilities": {"probabilities": True},
    "half": {"fp16": True},
    "batch": {"batch": 4},
    "opset": {"opset": 18},
    "apart": {"external_data": True},
    "all": {
        "probabilities": True, "fp16": True, "batch": 2, "opset": 18, "external_data": True,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    labels = np.arange(40) % 3
    x = random.standard_normal((40, 3, 12, 12)) + labels[:, None, None, None]
    return {"x": x.astype(np.float32), "labels": labels}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SURGEON_CACHE", str(root / "cache"))
        surgeon.finetune(
            networks.convnet(), data, root / "tuned.onnx", case="small-similar", device="cpu"
        )
    return root / "tuned.onnx"


@pytest.mark.parametrize("name", FORMS)
def test_it_answers_as_before_and_proves_it(tuned, data, tmp_path, name):
    out = tmp_path / "out.onnx"
    body = surgeon.export(tuned, out, **FORMS[name])
    assert body["comparison"]["agreement"] == 1.0
    assert body["bytes"] == sum(one.stat().st_size for one in tmp_path.iterdir())
    assert surgeon.verify(out).passed
    before, after = surgeon.load(tuned), surgeon.load(out)
    for key in (envelope.LABELS, envelope.PLAN):
        assert envelope.get(after.proto, key) == envelope.get(before.proto, key)
    exported = after.proof["exported"]
    assert exported["forms"] == body["forms"]
    assert exported["from_sha256"] == before.file_sha256
    inputs = {"x": data["x"][:8]}
    told, again = surgeon.predict(tuned, inputs), surgeon.predict(out, inputs)
    assert again.labels == told.labels
    np.testing.assert_allclose(again.probabilities, told.probabilities, atol=5e-3)


def test_each_form_is_what_it_says(tuned, tmp_path):
    body = surgeon.export(tuned, tmp_path / "out.onnx", **FORMS["all"])
    made = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    assert made.graph.output[0].name == "probabilities"
    assert body["outputs"][0]["name"] == "probabilities"
    assert [one.version for one in made.opset_import if not one.domain] == [18]
    assert body["opset"] == 18
    assert body["inputs"][0]["shape"][0] == 2
    types = {one.data_type for one in made.graph.initializer if len(one.dims) > 1}
    assert types == {onnx.TensorProto.FLOAT16}
    assert made.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [one.endswith(".data") for one in body["files"]] == [False, True]


def test_a_changed_weight_is_seen(tuned, tmp_path):
    surgeon.export(tuned, tmp_path / "out.onnx", fp16=True)
    made = onnx.load(tmp_path / "out.onnx")
    weight = next(one for one in made.graph.initializer if one.name == "surgeon.head.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0] += 1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(made, tmp_path / "changed.onnx")
    wrong = {one.name for one in surgeon.verify(tmp_path / "changed.onnx").checks if not one.passed}
    assert "tuned" in wrong


def test_a_file_with_probabilities_is_not_trained_further(tuned, data, tmp_path):
    surgeon.export(tuned, tmp_path / "out.onnx", probabilities=True)
    with pytest.raises(UsageError, match="probabilities"):
        surgeon.finetune(tmp_path / "out.onnx", data, device="cpu")
    with pytest.raises(UsageError, match="Softmax"):
        surgeon.export(tmp_path / "out.onnx", tmp_path / "two.onnx", probabilities=True)


def test_values_are_no_probabilities(data, tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))
    numbers = {"x": data["x"], "labels": data["x"].mean((1, 2, 3))}
    surgeon.finetune(
        networks.convnet(), numbers, tmp_path / "r.onnx", case="small-similar", device="cpu"
    )
    with pytest.raises(UsageError, match="regression"):
        surgeon.export(tmp_path / "r.onnx", tmp_path / "out.onnx", probabilities=True)
    surgeon.export(tmp_path / "r.onnx", tmp_path / "out.onnx", fp16=True)
    assert surgeon.verify(tmp_path / "out.onnx").passed


def test_what_cannot_be_meant(tuned, tmp_path):
    out = tmp_path / "out.onnx"
    with pytest.raises(UsageError, match="form"):
        surgeon.export(tuned, out)
    with pytest.raises(UsageError, match="probabilities"):
        surgeon.export(tuned, out, calibrate="data")
    with pytest.raises(UnsupportedError, match="opset") as caught:
        surgeon.export(tuned, out, opset=999)
    assert ".h:" not in caught.value.message
    onnx.save(networks.convnet(), tmp_path / "net.onnx")
    with pytest.raises(UsageError, match="plan"):
        surgeon.export(tmp_path / "net.onnx", out, probabilities=True)
    assert not out.exists()
    out.write_bytes(b"mine")
    with pytest.raises(OutputError):
        surgeon.export(tuned, out, batch=2)
    assert out.read_bytes() == b"mine"
    surgeon.export(tuned, out, batch=2, force=True)
    with pytest.raises(UsageError, match="fixed at 2"):
        surgeon.export(out, tmp_path / "more.onnx", batch=4)


def test_a_form_that_answers_otherwise_is_not_written(tuned, tmp_path, monkeypatch):
    from surgeon.exporting import half

    def worse(model):
        made = onnx.ModelProto()
        made.CopyFrom(model)
        for one in made.graph.initializer:
            if one.name == "surgeon.head.bias":
                one.CopyFrom(onnx.numpy_helper.from_array(np.float32([9, 0, 0]), one.name))
        return made

    monkeypatch.setattr(half, "to_half", worse)
    with pytest.raises(CheckError, match="otherwise"):
        surgeon.export(tuned, tmp_path / "out.onnx", fp16=True)
    assert not list(tmp_path.iterdir())


HOOKS = """
from surgeon.plugin import hookimpl
from surgeon.records import Exporter

@hookimpl
def surgeon_exporters():
    yield Exporter("text", "the names of the weights", "fixture_exporters:text")
"""
CODE = """
def text(model, out, *, what: str = "names"):
    if what == "nothing":
        return [out]
    if what == "raise":
        raise OSError("no pencil")
    if what == "none":
        return None
    out.write_text("\\n".join(one.name for one in model.graph.initializer))
    return [out]
"""


def test_an_exporter_by_offer(tuned, tmp_path, install):
    install("their-exporters", "theirs", HOOKS, version="2.5")
    (tmp_path / "site" / "fixture_exporters.py").write_text(CODE)
    out = tmp_path / "out.txt"
    body = surgeon.export(tuned, out, probabilities=True, to="text")
    assert "surgeon.head.weight" in out.read_text().splitlines()
    assert body["files"] == [str(out)]
    assert body["forms"] == ["probabilities", "to=text"]
    for what in ("nothing", "raise", "none"):
        with pytest.raises(PluginError, match=r"'text'.*their-exporters 2\.5"):
            surgeon.export(tuned, tmp_path / what, to=f"text:what={what}")
    with pytest.raises(UsageError, match="colour"):
        surgeon.export(tuned, tmp_path / "x", to="text:colour=red")
    sys.modules.pop("fixture_exporters")
