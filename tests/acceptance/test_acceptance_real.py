"""The matrix of the issue: real networks, the four cases, real pictures, every promise."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import surgeon_models
from surgeon.records import Preprocess, as_json
from surgeon_models import datasets

pytestmark = pytest.mark.slow

CASES = ["small-similar", "small-different", "large-similar", "large-different"]
REAL = [
    "efficientnet-lite0",
    "efficientnet-lite0-op8",
    "efficientnet-lite0-op23",
    "mobilenetv2",
    "mobilenetv2-bn",
    "mobilenetv2-fp16",
    "mobilenetv2-ext",
    "opennsfw",
]
RANDOM = ["light-resnet50", "light-densenet121", "light-shufflenet"]
PER_CLASS = 8


@pytest.fixture(scope="module")
def models():
    """Fetch models and data into the user's own cache, before a test turns it aside."""
    return {name: surgeon_models.get(name) for name in [*REAL, *RANDOM]}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three groups of emoji, eight of each."""
    emoji = datasets.emoji()
    place = tmp_path_factory.mktemp("emoji") / "three"
    codes = np.asarray(emoji.labels)
    chosen = [np.flatnonzero(codes == code)[:PER_CLASS] for code in range(3)]
    rows = np.concatenate(chosen)
    datasets.write_folder(np.asarray(emoji.images)[rows], codes[rows], place)
    return place


def weights_of(path):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def check(cli, source, data, case, tmp_path, *more):
    patient, out = tmp_path / "patient.onnx", tmp_path / "out.onnx"
    cli("operate", source, "--case", case, "--classes", 3, "-o", patient)
    arguments = ["--case", case, "--epochs", 1, "--lr", "1e-3", "--batch", 6, "--threads", 2]
    found = cli("finetune", source, data, *arguments, "--augment", "none", *more, "-o", out)
    before, after = onnx.load(patient), onnx.load(out)
    assert before.graph.node == after.graph.node
    assert before.opset_import == after.opset_import == onnx.load(source).opset_import
    half = any(t.data_type == TensorProto.FLOAT16 for t in after.graph.initializer)
    parity = found["proof"]["parity"]
    assert parity["bound"] == (1e-2 if half else 1e-4)
    assert parity["max_relative"] <= parity["bound"]
    old, new = weights_of(patient), weights_of(out)
    assert old.keys() == new.keys()
    changed = {name for name in old if old[name].tobytes() != new[name].tobytes()}
    assert changed == set(found["changed"])
    assert changed <= set(found["trainable"]) | set(found["statistics"])
    head = {"surgeon.head.weight", "surgeon.head.bias"}
    if case.startswith("small"):
        assert set(found["trainable"]) == head
    else:
        assert len(found["trainable"]) > len(head)
    for part in ("validation", "train"):
        assert 0 <= found["metrics"][part]["accuracy"] <= 1
    verdict = cli("verify", out, "--source", source)
    assert verdict["passed"] is True
    again = cli("evaluate", out, data)
    assert again["samples"] == 3 * PER_CLASS
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", REAL)
def test_real_pictures(cli, models, photos, tmp_path, name, case):
    entry = surgeon_models.entry(name)
    settings = entry.preprocess
    document = as_json(settings) if isinstance(settings, Preprocess) else dict(settings)
    wanted = json.dumps({key: value for key, value in document.items() if value is not None})
    found = check(cli, models[name], photos, case, tmp_path, "--preprocess", wanted)
    assert found["data"]["samples"] == 3 * PER_CLASS


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", RANDOM)
def test_generated_data(cli, models, tmp_path, name, case):
    random = np.random.default_rng(0)
    graph = onnx.load(models[name], load_external_data=False).graph
    weights = {t.name for t in graph.initializer}
    (value,) = [value for value in graph.input if value.name not in weights]
    labels = np.arange(3 * PER_CLASS) % 3
    blobs = random.normal(size=(len(labels), 3, 8, 8)).astype(np.float32)
    blobs[np.arange(len(labels)), labels] += 1
    blobs = blobs.repeat(28, axis=2).repeat(28, axis=3)
    np.savez(tmp_path / "d.npz", **{value.name: blobs, "labels": labels})
    check(cli, models[name], tmp_path / "d.npz", case, tmp_path)
