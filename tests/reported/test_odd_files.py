"""Files that are not what they are called: links, pipes, pointers, web pages, deep JSON."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import networks as nw
import numpy as np
import onnx
import onnxruntime as ort
import pytest

import surgeon
from surgeon.cli.entry import main
from surgeon.errors import ModelError, SurgeonError, UsageError
from surgeon.graph import envelope, external
from surgeon.graph.encodings import parse_audio, parse_option, parse_text
from surgeon.graph.preprocess import parse_preprocess, parse_size
from surgeon.graph.reading import misnamed, parse_json, read_bytes, shown, what_lies_at

if TYPE_CHECKING:
    from pathlib import Path

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1787\n"
PAGE = "\ufeff<!DOCTYPE html>\n<html><head><title>404</title></head></html>"
DEEP = "[" * 100_000 + "]" * 100_000


def special(kind: str, path: Path) -> Path:
    """Make a named pipe, or a link to a device without an end."""
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    return path


def hub_cache(root: Path, *, beside: str = "blobs") -> Path:
    """Lay a model with external data out as a hub's cache does: links into a folder of blobs."""
    snapshot, blobs, elsewhere = root / "snapshots" / "rev", root / "blobs", root / beside
    for folder in (snapshot, blobs, elsewhere):
        folder.mkdir(parents=True, exist_ok=True)
    onnx.save(
        nw.convnet(), root / "m.onnx", save_as_external_data=True, location="m.onnx_data",
        size_threshold=0,
    )  # fmt: skip
    (root / "m.onnx").rename(blobs / "aaaa")
    (root / "m.onnx_data").rename(elsewhere / "bbbb")
    (snapshot / "m.onnx").symlink_to("../../blobs/aaaa")
    (snapshot / "m.onnx_data").symlink_to(f"../../{beside}/bbbb")
    return snapshot / "m.onnx"


@pytest.mark.parametrize("inline", [2**27, 0])
def test_a_model_in_a_hubs_cache_is_read_as_onnxruntime_reads_it(tmp_path, monkeypatch, inline):
    monkeypatch.setattr(external, "INLINE_TOTAL", inline)
    monkeypatch.setattr(external, "INLINE_TENSOR", min(inline, 32))
    path = hub_cache(tmp_path)
    ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model = surgeon.load(path)
    whole = surgeon.load(nw.convnet())
    feeds = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype("f4")
    got = surgeon.predict(model, feeds).probabilities
    np.testing.assert_allclose(got, surgeon.predict(whole, feeds).probabilities, rtol=1e-5)
    out = tmp_path / "out.onnx"
    model.save(out)
    assert out.is_file()
    assert not out.is_symlink()


def test_data_that_lie_elsewhere_are_refused_whatever_leads_there(tmp_path):
    with pytest.raises(ModelError, match="outside the model's folder"):
        surgeon.load(hub_cache(tmp_path, beside="elsewhere"))


@pytest.mark.parametrize("location", ["../m.data", "/etc/passwd", "a/../../m.data"])
def test_a_location_that_leads_out_is_refused(tmp_path, location):
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "m.onnx"
    onnx.save(nw.convnet(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").write_bytes((tmp_path / "inner" / "m.data").read_bytes())
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside"):
        surgeon.load(path)


@pytest.mark.parametrize(
    ("content", "said"), [(POINTER, "Git LFS pointer"), (PAGE, "web page")], ids=["lfs", "html"]
)
def test_pointers_and_web_pages_are_recognised(tmp_path, content, said):
    path = tmp_path / "m.onnx"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=said):
        surgeon.load(path)
    onnx.save(nw.convnet(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=said):
        surgeon.load(path)
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        parse_text(tmp_path / "tokenizer.json")


def test_what_is_no_pointer_is_none():
    assert misnamed(nw.convnet().SerializeToString()) is None
    assert misnamed(b"") is None
    assert misnamed(b"a,label\n1,<html>\n") is None


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_has_no_end_is_not_read(tmp_path, kind):
    path = special(kind, tmp_path / "m.onnx")
    assert what_lies_at(path) not in {None, "a file"}
    with pytest.raises(OSError, match="not a regular file"):
        read_bytes(path)
    for open_it in (surgeon.load, parse_text, parse_option):
        with pytest.raises(SurgeonError, match="not a regular file"):
            open_it(path)


def test_external_data_without_an_end_are_not_read(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(nw.convnet(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    os.mkfifo(tmp_path / "m.data")
    with pytest.raises(ModelError, match="not a regular file"):
        surgeon.load(path)


def test_deep_json_is_an_error_and_no_recursion(tmp_path):
    for text in (DEEP, "[" * 500 + "]" * 500, '{"a":' * 3000 + "1" + "}" * 3000):
        with pytest.raises(ValueError, match="nested"):
            parse_json(text)
    assert parse_json(json.dumps([[[1]]] * 500)) == [[[1]]] * 500  # many brackets, not deep
    (tmp_path / "p.json").write_text(DEEP)
    for option in ('{"mean": ' + DEEP + "}", tmp_path / "p.json"):
        with pytest.raises(UsageError, match="nested"):
            parse_preprocess(option)
    with pytest.raises(UsageError, match="nested"):
        parse_text(tmp_path / "p.json")


@pytest.mark.parametrize("text", [DEEP, "(" * 5000, "-" * 90_000 + "1", "{" * 90_000])
def test_deep_metadata_are_damaged_or_passed_over(text):
    model = nw.convnet()
    model.metadata_props.add(key="names", value=text)
    assert envelope.labels(model) is None
    model.metadata_props.add(key=envelope.PREPROCESS, value=text)
    with pytest.raises(ModelError, match="is not JSON"):
        envelope.get(model, envelope.PREPROCESS)


@pytest.mark.parametrize(
    "document",
    [
        {"preset": ["imagenet"]},
        {"preset": "raw", "size": [[224], [224]]},
        {"preset": "raw", "size": [10**9, 10**9]},
        {"scale": 10**400},
        {"mean": [10**400], "std": 1},
        {"kind": ["text"]},
        {"kind": "audio", "rate": 10**400, "seconds": 1},
    ],
)
def test_values_that_cannot_be_meant_are_usage_errors(document):
    with pytest.raises(UsageError):
        parse_option(document)


@pytest.mark.parametrize("size", ["100000x100000", (10**12, 1), "9" * 5000, 10**400])
def test_absurd_sizes_are_refused(size):
    with pytest.raises(UsageError):
        parse_size(size)


@pytest.mark.parametrize(
    "option", ["99999999999,1", "16000,1e300", "1e400,1", (2**40, 1e-9), 16000, "9" * 5000 + ",1"]
)
def test_absurd_rates_are_refused(option):
    with pytest.raises(UsageError):
        parse_audio(option)


def test_documents_hold_no_half_of_a_character(tmp_path, capsys):
    path = tmp_path / os.fsdecode(b"\xff\\udcff.onnx")
    path.write_bytes(nw.convnet().SerializeToString())
    assert main(["inspect", str(path), "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["path"].endswith("/\\xff\\udcff.onnx")
    json.loads(out)["path"].encode()


@pytest.mark.parametrize("name", ["x" * 6000, "y/" * 3000])
def test_names_that_no_file_can_have_are_usage_errors(tmp_path, capsys, name):
    path = tmp_path / "m.onnx"
    path.write_bytes(nw.convnet().SerializeToString())
    given = ["--case", "small-similar", "-o", str(tmp_path / "o.onnx")]
    for arguments in (
        ["inspect", name],
        ["predict", str(path), name],
        ["finetune", str(path), name, *given],
        ["finetune", str(path), str(tmp_path), *given, "--validation", name],
        ["finetune", str(path), str(tmp_path), *given, "--preprocess", name],
    ):
        assert main(arguments) == 2
    assert "internal error" not in capsys.readouterr().err


def test_names_of_any_bytes_can_be_shown():
    assert shown("plain") == "plain"
    assert shown("größe") == "größe"
    assert shown(os.fsdecode(b"caf\xe9")) == "caf\\xe9"
    assert shown("\ud800").isascii()
