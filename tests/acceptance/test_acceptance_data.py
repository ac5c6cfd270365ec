"""The data conventions, through the command line and the public API."""

from __future__ import annotations

import csv
import json

import networks
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from stranger import PREPROCESS, paint, pictures, vectors

import surgeon


@pytest.fixture
def tune(cli, net, tmp_path):
    def run(model, data, *more, case="small-similar", **options):
        path = model if not isinstance(model, str) else net(model, **options)
        arguments = ["--case", case, "--force", "-o", tmp_path / "out.onnx", *more]
        return cli("finetune", path, data, *arguments)

    return run


# ── arrays ───────────────────────────────────────────────────────────────────────────────────────


def test_double_becomes_float_exactly_as_numpy_does(tune, npz):
    data = vectors()
    single = tune("mlp", npz(**data))
    data["x"] = data["x"].astype(np.float64)
    double = tune("mlp", npz(**data))
    assert single["proof"]["tuned"] == double["proof"]["tuned"]


def test_integers_of_any_width_reach_an_integer_input(tune, npz):
    random = np.random.default_rng(0)
    ids = random.integers(0, 20, (60, 6))
    mask = np.ones((60, 6))
    labels = (ids[:, 0] > 9).astype(int)
    results = set()
    for kind in (np.int64, np.int32, np.uint8, np.int16):
        arrays = {"input_ids": ids.astype(kind), "attention_mask": mask.astype(kind)}
        found = tune("transformer", npz(**arrays, labels=labels))
        results.add(found["proof"]["tuned"]["sha256"])
    assert len(results) == 1


def test_floats_do_not_become_integers(refused, net, npz, tmp_path):
    ids, mask = np.zeros((20, 6), np.float32), np.ones((20, 6), np.int64)
    data = npz(input_ids=ids, attention_mask=mask, labels=np.arange(20) % 2)
    out = ["--case", "small-similar", "-o", tmp_path / "o.onnx"]
    refused("finetune", net("transformer"), data, *out, say="input_ids")


def test_integers_out_of_range(refused, net, npz, tmp_path):
    small = networks.Net()
    x = small.input("x", ["N", 3], TensorProto.UINT8)
    x = small.node("Cast", x, to=TensorProto.FLOAT)
    small.node("MatMul", x, small.weight("w", 3, 2), out="y")
    path = tmp_path / "u8.onnx"
    onnx.save(small.model("y", shape=["N", 2]), path)
    data = npz(x=np.full((20, 3), 256), labels=np.arange(20) % 2)
    out = ["--case", "small-similar", "-o", tmp_path / "o.onnx"]
    refused("finetune", path, data, *out, say="256")


def test_a_split_that_the_data_brings(tune, npz):
    data = vectors(90)
    split = np.array(["train"] * 60 + ["validation"] * 18 + ["test"] * 12)
    found = tune("mlp", npz(**data, split=split))["data"]
    assert (found["train"], found["validation"], found["test"]) == (60, 18, 12)
    split = np.array(["train"] * 78 + ["test"] * 12)
    found = tune("mlp", npz(**data, split=split))["data"]
    assert found["test"] == 12
    assert found["validation"] > 0


def test_validation_from_a_path_and_by_fraction(tune, npz):
    more = npz("more.npz", **vectors(24, seed=4))
    found = tune("mlp", npz(**vectors(60)), "--validation", more)["data"]
    assert (found["train"], found["validation"]) == (60, 24)
    found = tune("mlp", npz(**vectors(100, classes=2)), "--validation", "0.4")["data"]
    assert (found["train"], found["validation"]) == (60, 40)


def test_batch_on_axis_one(tune, cli, npz, tmp_path):
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    x = random.normal(size=(7, 60, 6)).astype(np.float32)
    x[:, np.arange(60), labels] += 2
    for case in ("small-similar", "large-similar"):
        found = tune("lstm", npz(x=x, labels=labels), "--epochs", 2, case=case)
        assert found["data"]["samples"] == 60
    state = np.zeros((1, 60, 4), np.float32)
    found = tune("lstm_state", npz(x=x, h0=state, c0=state, labels=labels))
    assert found["data"]["samples"] == 60
    told = cli("predict", tmp_path / "out.onnx", npz("p.npz", x=x, h0=state, c0=state))
    assert len(told["predictions"]) == 60
    shared = npz("s.npz", x=x, h0=np.zeros((1, 4), np.float32), c0=state, labels=labels)
    assert cli("evaluate", tmp_path / "out.onnx", shared)["samples"] == 60


def test_a_scalar_is_the_same_for_every_sample(tune, npz):
    data = vectors()
    one = tune("scalar_input", npz(**data, temperature=np.float32(2)))
    two = tune("scalar_input", npz(**data), "--input", "temperature=2")
    assert one["proof"]["tuned"] == two["proof"]["tuned"]
    other = tune("scalar_input", npz(**data), "--input", "temperature=3")
    assert other["proof"]["tuned"] != one["proof"]["tuned"]


def test_an_unbatched_array_is_the_same_for_every_sample(tune, npz):
    data = pictures(60, side=6, x="image")
    found = tune("two_inputs", npz(**data, vector=np.ones(5, np.float32)))
    again = tune("two_inputs", npz(**data, vector=np.ones((60, 5), np.float32)))
    assert found["proof"]["tuned"] == again["proof"]["tuned"]
    constant = tune("two_inputs", npz(**data), "--input", "vector=[1,1,1,1,1]")
    assert constant["proof"]["tuned"] == found["proof"]["tuned"]


def _renamed(path, old, new):
    model = onnx.load(path)
    for value in model.graph.input:
        value.name = new if value.name == old else value.name
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            if name == old:
                node.input[slot] = new
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("name", ["labels", "split", "input:x"])
def test_inputs_with_reserved_names(tune, cli, net, npz, tmp_path, name):
    path = _renamed(net("mlp"), "x", name)
    data = vectors()
    key = name if name == "input:x" else f"input:{name}"
    found = tune(path, npz(**{key: data["x"], "labels": data["labels"]}))
    assert found["data"]["samples"] == 60
    assert cli("evaluate", tmp_path / "out.onnx", npz(**{key: data["x"], "labels": data["labels"]}))


def test_text_labels_and_booleans(tune, npz):
    data = vectors(60, classes=2)
    data["labels"] = np.array(["no", "yes"])[data["labels"]]
    assert tune("mlp", npz(**data))["labels"] == ["no", "yes"]
    data = vectors(60, classes=2)
    data["labels"] = data["labels"].astype(np.uint8)
    assert tune("mlp", npz(**data))["labels"] == ["0", "1"]


# ── tables ───────────────────────────────────────────────────────────────────────────────────────


def _write(path, rows):
    names = list(rows[0])
    if path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    else:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_tables_of_paths(tune, cli, tmp_path, suffix):
    rows = []
    for code, label in enumerate(("ant", "bee", "cat")):
        for item in range(10):
            paint(tmp_path / "pics" / f"{label}{item}.png", code, 100 * code + item)
            rows.append({"path": f"pics/{label}{item}.png", "label": label})
    table = _write(tmp_path / f"t{suffix}", rows)
    found = tune("convnet", table, "--preprocess", PREPROCESS)
    assert found["labels"] == ["ant", "bee", "cat"]
    assert found["data"]["samples"] == 30
    named = [{"file": row["path"], "kind": row["label"], "other": 1} for row in rows]
    table = _write(tmp_path / f"n{suffix}", named)
    arguments = ["--label-column", "kind", "--preprocess", PREPROCESS]
    assert tune("convnet", table, *arguments)["data"]["samples"] == 30
    assert cli("evaluate", tmp_path / "out.onnx", table, "--label-column", "kind")["samples"] == 30


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_tables_of_numbers(tune, npz, tmp_path, suffix):
    data = vectors()
    rows = [
        {f"f{i}": float(v) for i, v in enumerate(row)} | {"label": f"c{label}"}
        for row, label in zip(data["x"], data["labels"], strict=True)
    ]
    found = tune("mlp", _write(tmp_path / f"t{suffix}", rows))
    assert found["labels"] == ["c0", "c1", "c2"]
    data["labels"] = np.array([f"c{label}" for label in data["labels"]])
    assert tune("mlp", npz(**data))["proof"]["tuned"] == found["proof"]["tuned"]


def test_a_saved_data_set(tune, tmp_path):
    import datasets

    data = vectors()
    rows = {"x": data["x"].tolist(), "label": data["labels"].tolist()}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "saved"))
    assert tune("mlp", tmp_path / "saved")["data"]["samples"] == 60
    paths = []
    for code in range(3):
        for item in range(10):
            paint(tmp_path / "p" / f"{code}-{item}.png", code, 100 * code + item)
            paths.append(str(tmp_path / "p" / f"{code}-{item}.png"))
    whole = datasets.Dataset.from_dict({"image": paths, "label": [int(p[-7]) for p in paths]})
    names = datasets.ClassLabel(names=["red", "green", "blue"])
    whole = whole.cast_column("image", datasets.Image()).cast_column("label", names)
    parts = datasets.DatasetDict({"train": whole, "test": whole.select(range(0, 30, 3))})
    parts.save_to_disk(str(tmp_path / "parts"))
    found = tune("convnet", tmp_path / "parts", "--preprocess", PREPROCESS)
    assert found["data"]["test"] == 10
    assert set(found["labels"]) == {"red", "green", "blue"}


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────


def test_hidden_and_other_files_are_ignored_with_a_count(tune, folder):
    place = folder()
    (place / "ant" / ".DS_Store").write_bytes(b"x")
    (place / "bee" / "notes.txt").write_text("x")
    (place / ".git").mkdir()
    found = tune("convnet", place, "--preprocess", PREPROCESS)
    assert found["data"]["samples"] == 36
    assert found["data"]["skipped"] == []
    assert found["data"]["ignored"] == 2


def _logits(path, value):
    return networks.run(onnx.load(path), {"x": value}, ["logits"])["logits"]


def test_exif_orientation_and_modes_mean_the_same_picture(tune, cli, folder, tmp_path):
    tune("convnet", folder(), "--preprocess", PREPROCESS)
    tuned = tmp_path / "out.onnx"
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (12, 12, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "plain.png")
    exif = Image.Exif()
    exif[274] = 6  # shown turned by 90 degrees clockwise
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    picture.convert("RGBA").save(tmp_path / "alpha.png")
    names = ["plain.png", "turned.png", "alpha.png"]
    told = cli("predict", tuned, *(tmp_path / name for name in names))["predictions"]
    rows = [row["probabilities"] for row in told]
    assert rows[0] == rows[1] == rows[2]
    value = ((pixels.astype(np.float32) - 127) / 64).transpose(2, 0, 1)[None]
    logits = _logits(tuned, value)[0].astype(np.float64)
    expected = np.exp(logits - logits.max())
    assert np.allclose(rows[0], expected / expected.sum(), atol=1e-5)


def test_sixteen_bits_are_scaled_not_clipped(tune, cli, folder, tmp_path):
    tune("convnet", folder(), "--preprocess", PREPROCESS)
    grey = np.random.default_rng(1).integers(0, 255, (12, 12)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "eight.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    told = cli("predict", tmp_path / "out.onnx", tmp_path / "eight.png", tmp_path / "sixteen.png")
    one, two = (row["probabilities"] for row in told["predictions"])
    assert np.allclose(one, two, atol=1e-6)


def test_preprocess_option_forms_and_size(tune, folder, tmp_path):
    place = folder()
    file = tmp_path / "pre.json"
    file.write_text(PREPROCESS)
    results = {
        tune("convnet", place, "--preprocess", form)["proof"]["tuned"]["sha256"]
        for form in (PREPROCESS, file)
    }
    assert len(results) == 1
    assert tune("convnet", place, "--preprocess", "imagenet")["proof"]
    free = tune("convnet", place, "--preprocess", PREPROCESS, "--size", "16x20", side=None)
    assert free["proof"]["parity"]["max_relative"] <= 1e-4
    fixed = tune("convnet", place, "--preprocess", PREPROCESS, "--size", "20x20")
    assert any("20x20" in w for w in fixed["warnings"]), fixed["warnings"]


def test_preprocess_travels_with_the_file(tune, cli, folder, tmp_path):
    place = folder()
    tune("convnet", place, "--preprocess", PREPROCESS)
    tuned = tmp_path / "out.onnx"
    assert cli("evaluate", tuned, place)["metrics"]["accuracy"] > 0.8
    changed = json.dumps(json.loads(PREPROCESS) | {"mean": [0], "channels": "BGR"})
    other = cli("evaluate", tuned, place, "--preprocess", changed)
    assert other["metrics"]["loss"] != cli("evaluate", tuned, place)["metrics"]["loss"]


# ── the same in Python ───────────────────────────────────────────────────────────────────────────


def test_arrays_in_the_api(npz, net):
    data, path = vectors(), net()
    one = surgeon.finetune(path, data, case="small-similar")
    two = surgeon.finetune(path, npz(**data), case="small-similar")
    assert one.model.proto == two.model.proto
    with pytest.raises(surgeon.errors.DataError if hasattr(surgeon, "errors") else Exception):
        surgeon.finetune(path, {"x": data["x"]}, case="small-similar")


def test_string_inputs(tune, npz, tmp_path):
    """A model that takes text is at least looked at without harm."""
    nodes = [
        helper.make_node("StringNormalizer", ["s"], ["t"], case_change_action="LOWER"),
    ]
    value = helper.make_tensor_value_info("s", TensorProto.STRING, [1])
    out = helper.make_tensor_value_info("t", TensorProto.STRING, [1])
    graph = helper.make_graph(nodes, "g", [value], [out])
    path = tmp_path / "s.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    assert surgeon.load(path).proto.graph.node
