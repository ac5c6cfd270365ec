"""Adapters kept apart: the delivered file comes back bit for bit, and nothing else is accepted."""

from __future__ import annotations

import json

import jsonschema
import networks as nw
import numpy as np
import onnx
import pytest
import safetensors.numpy
from quantised import digits, quantised_network
from safetensors import safe_open

import surgeon
from surgeon import schemas
from surgeon.cli import main
from surgeon.errors import ModelError, OutputError, UnknownNameError, UsageError

ADAPTER = "lora:rank=2"


def data(model, n=40):
    (name,), rng = nw.feeds(model), np.random.default_rng(0)
    values = rng.standard_normal((n, *nw.feeds(model, batch=n)[name].shape[1:])).astype(np.float32)
    labels = np.arange(n) % 3
    values += labels.reshape(-1, *[1] * (values.ndim - 1)) * np.float32(0.8)
    return {name: values, "labels": labels}


def tune(model, values, folder, **options):
    given = {
        "case": "large-similar", "adapter": ADAPTER, "epochs": 5, "lr": 0.02, "device": "cpu",
        "out": folder / "tuned.onnx", "adapter_out": folder / "kept.safetensors",
    } | options  # fmt: skip
    return surgeon.finetune(model, values, **given)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Return a folder with a model, its tuned file and the adapter that was kept apart."""
    folder, model = tmp_path_factory.mktemp("kept"), nw.convnet()
    onnx.save(model, folder / "model.onnx")
    outcome = tune(folder / "model.onnx", data(model), folder)
    assert outcome.document()["delivered"] == "tuned"
    assert any("kept in" in told for told in outcome.document()["warnings"])
    return folder


def applied(folder, model="model.onnx", adapter="kept.safetensors", out="again.onnx", **options):
    surgeon.apply(folder / model, folder / adapter, folder / out, force=True, **options)
    return (folder / out).read_bytes()


def altered(folder, name, change):
    """Write the adapter with other tensors or another header."""
    with safe_open(folder / "kept.safetensors", "numpy") as file:
        header = dict(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - a method of safe_open, not of a dict
    header, tensors = change(header, tensors)
    (folder / name).write_bytes(safetensors.numpy.save(tensors, header))
    return folder / name


def test_the_delivered_file_comes_back_bit_for_bit(kept):
    assert applied(kept) == (kept / "tuned.onnx").read_bytes()
    assert surgeon.verify(kept / "again.onnx", kept / "model.onnx").passed


def test_the_head_and_the_numbers_of_the_adapter_are_all_that_is_kept(kept):
    with safe_open(kept / "kept.safetensors", "numpy") as file:
        names = set(file.keys())
    head = {f"tensor/surgeon.head.{one}" for one in ("weight", "bias")}
    numbers = {f"adapter/{one}.weight/lora_{side}" for one in ("c1", "c2") for side in "AB"}
    assert names == head | numbers | {"file"}


def test_several_adapters_live_on_one_file(kept, tmp_path):
    model = onnx.load(kept / "model.onnx")
    other = data(model)
    other["labels"] = other["labels"][::-1].copy()
    tune(kept / "model.onnx", other, tmp_path, adapter="lora:rank=1,dora=yes", seed=5)
    again = surgeon.apply(kept / "model.onnx", tmp_path / "kept.safetensors")
    assert again.proto.SerializeToString(deterministic=True) == onnx.load(
        tmp_path / "tuned.onnx"
    ).SerializeToString(deterministic=True)
    assert applied(kept) == (kept / "tuned.onnx").read_bytes()


@pytest.mark.parametrize("kind", ["half", "quantised", "statistics", "probe", "goes on"])
def test_every_form_of_weights_comes_back(kind, tmp_path):
    options, path = {}, tmp_path / "model.onnx"
    model = nw.convnet(dtype=nw.F16) if kind == "half" else nw.convnet()
    if kind == "quantised":
        model = quantised_network(tmp_path)
        values = dict(zip(("x", "labels"), digits(200), strict=True))
    elif kind == "statistics":
        model = nw.batchnorm()
    if kind != "quantised":
        values = data(model)
        (name,) = nw.feeds(model)
        values[name] = values[name].astype(np.float16 if kind == "half" else np.float32)
    onnx.save(model, path)
    if kind == "probe":
        options = {"lr": 1e-9, "epochs": 1}
    if kind == "goes on":
        tune(path, values, tmp_path, out=tmp_path / "first.onnx", adapter_out=None)
        path, options = tmp_path / "first.onnx", {"case": None}
    tune(path, values, tmp_path, **options)
    assert applied(tmp_path, path.name) == (tmp_path / "tuned.onnx").read_bytes()


def test_another_base_is_refused(kept, tmp_path):
    model = onnx.load(kept / "model.onnx")
    model.graph.initializer[0].raw_data = model.graph.initializer[1].raw_data.ljust(
        len(model.graph.initializer[0].raw_data), b"\0"
    )
    onnx.save(model, tmp_path / "other.onnx")
    for base in (tmp_path / "other.onnx", nw.mlp()):
        with pytest.raises(ModelError, match="another model") as caught:
            surgeon.apply(base, kept / "kept.safetensors")
        assert "sha256" in caught.value.remedy


def _header(key, value):
    def change(header, tensors):
        document = json.loads(header["surgeon.adapter"]) | {key: value}
        return {"surgeon.adapter": json.dumps(document)}, tensors

    return change


def _scaled(header, tensors):
    name = next(one for one in tensors if one.endswith("lora_A"))
    return header, tensors | {name: tensors[name] * 2}


def _shaped(header, tensors):
    name = next(one for one in tensors if one.endswith("lora_A"))
    return header, tensors | {name: tensors[name][:1]}


HARM = {
    "numbers": _scaled,
    "shapes": _shaped,
    "unknown names": lambda header, tensors: (header, tensors | {"adapter/x/lora_A": np.ones(1)}),
    "less": lambda header, tensors: (header, {"file": tensors["file"]}),
    "no header": lambda _, tensors: ({"else": "1"}, tensors),
    "no JSON": lambda _, tensors: ({"surgeon.adapter": "{"}, tensors),
    "another form": _header("version", 99),
    "size": _header("size", -1),
    "no version": lambda _, tensors: ({"surgeon.adapter": "{}"}, tensors),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_file_that_was_harmed_is_refused(kept, harm):
    path = altered(kept, "harmed.safetensors", HARM[harm])
    with pytest.raises(ModelError) as caught:
        surgeon.apply(kept / "model.onnx", path)
    assert str(path) in caught.value.where
    assert caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"{}"])
def test_what_is_no_safetensors_is_refused(kept, tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read"):
        surgeon.apply(kept / "model.onnx", tmp_path / "x.safetensors")
    with pytest.raises(ModelError):
        surgeon.apply(kept / "model.onnx", tmp_path / "absent.safetensors")


def test_without_its_plugin_an_adapter_is_refused(kept):
    from surgeon.plugin.manager import load_plugins

    with pytest.raises(UnknownNameError, match="lora"):
        applied(kept, plugins=load_plugins(disabled=["lora"]))


def test_what_cannot_be_kept_or_written_is_refused_before_training(kept, tmp_path):
    values = data(onnx.load(kept / "model.onnx"))
    with pytest.raises(UsageError, match="no adapter"):
        tune(kept / "model.onnx", values, tmp_path, adapter=None)
    with pytest.raises(OutputError):
        tune(kept / "model.onnx", values, kept, out=None)
    with pytest.raises(OutputError):
        surgeon.apply(kept / "model.onnx", kept / "kept.safetensors", kept / "tuned.onnx")


def test_the_verb_writes_the_file(kept, capsys):
    out, files = kept / "by_verb.onnx", [str(kept / "model.onnx"), str(kept / "kept.safetensors")]
    assert main(["apply", *files, "-o", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, schemas.load("apply"))
    assert document["adapter"] == ADAPTER
    assert out.read_bytes() == (kept / "tuned.onnx").read_bytes()
    assert main(["apply", *files]) == 2
