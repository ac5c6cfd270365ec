"""Eight bits, a simplified graph, a temperature: judged by data, proven, and still answering."""

from __future__ import annotations

import networks
import numpy as np
import onnx
import pytest
import tabular

import surgeon
from surgeon.errors import DataError, UnsupportedError, UsageError
from surgeon.graph import envelope


def drawn(count, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    x = random.standard_normal((count, 3, 12, 12)) + labels[:, None, None, None]
    return {"x": x.astype(np.float32), "labels": labels}


def products():
    """Return a net of products alone, as a transformer's layers are."""
    random = np.random.default_rng(0)
    weights = [("w0", (432, 32)), ("w1", (32, 32)), ("w2", (32, 3))]
    tensors = [
        onnx.numpy_helper.from_array(
            (random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32), name
        )
        for name, shape in weights
    ]
    node = onnx.helper.make_node
    nodes = [
        node("Flatten", ["x"], ["f"]),
        node("MatMul", ["f", "w0"], ["a"]), node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "w1"], ["c"]), node("Relu", ["c"], ["d"]),
        node("MatMul", ["d", "w2"], ["y"]),
    ]  # fmt: skip
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes, "products", [value("x", kind, ["N", 3, 12, 12])], [value("y", kind, ["N", 3])],
        tensors,
    )  # fmt: skip
    return onnx.helper.make_model(
        graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)]
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("precisions")
    nets = {"convnet": networks.convnet(opset=13), "products": products()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SURGEON_CACHE", str(root / "cache"))
        for name, net in nets.items():
            surgeon.finetune(
                net, drawn(60), root / f"{name}.onnx", case="small-similar", device="cpu"
            )
    return root


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("convnet", {"int8": drawn(60)}),
        ("convnet", {"int8": drawn(60), "probabilities": True, "batch": 2}),
        ("products", {"int8": drawn(60)}),
        ("products", {"int8_dynamic": True}),
    ],
)
def test_in_8_bits_it_says_the_same(files, tmp_path, name, settings):
    source, out = files / f"{name}.onnx", tmp_path / "out.onnx"
    body = surgeon.export(source, out, check=drawn(30, 1), **settings)
    compared, told = body["comparison"], body["quantised"]
    assert compared["agreement"] >= 0.9
    assert compared["quality_after"] >= compared["quality_before"] - 0.1
    assert compared["seconds_before"] > 0 < compared["seconds_after"]
    assert told["layers"] + len(told["floats"]) >= 1
    assert told["error"] <= max(told["bound"], 0.3)
    made = onnx.load(out)
    kinds = {one.data_type for one in made.graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    known = {one.name for one in (*made.graph.input, *made.graph.initializer)}
    for node in made.graph.node:
        assert known.issuperset(filter(None, node.input)), "not in topological order"
        known.update(node.output)
    assert envelope.get(made, envelope.PROOF)["exported"]["precision"] == "int8"
    assert surgeon.verify(out).passed
    inputs = {"x": drawn(30, 1)["x"]}
    again, before = surgeon.predict(out, inputs), surgeon.predict(source, inputs)
    assert np.mean(np.array(again.labels) == np.array(before.labels)) >= 0.9
    assert surgeon.inspect(out)["labels"] == surgeon.inspect(source)["labels"]


def test_weights_leave_room_for_processors_that_saturate(files, tmp_path):
    surgeon.export(files / "convnet.onnx", tmp_path / "out.onnx", int8=drawn(60))
    made = onnx.load(tmp_path / "out.onnx")
    weights = [
        onnx.numpy_helper.to_array(one).astype(int)
        for one in made.graph.initializer
        if one.data_type == onnx.TensorProto.INT8 and len(one.dims) > 1
    ]
    assert weights
    assert max(np.abs(one).max() for one in weights) * 2 * 255 < 2**15


def test_layers_that_lose_most_stay(files, tmp_path, monkeypatch):
    from surgeon.exporting import integers

    monkeypatch.setattr(integers, "BOUND", 1e-9)
    body = surgeon.export(files / "convnet.onnx", tmp_path / "out.onnx", int8=drawn(60))
    assert body["quantised"]["floats"]
    assert surgeon.verify(tmp_path / "out.onnx").passed


@pytest.mark.parametrize("level", ["basic", "extended"])
def test_a_simplified_graph_answers_alike(files, tmp_path, level):
    out = tmp_path / "out.onnx"
    body = surgeon.export(files / "convnet.onnx", out, optimize=level, probabilities=True)
    assert body["comparison"]["agreement"] == 1
    assert len(onnx.load(out).graph.node) <= len(onnx.load(files / "convnet.onnx").graph.node) + 1
    assert surgeon.verify(out).passed


def test_what_8_bits_cannot_be(files, tmp_path, monkeypatch):
    out = tmp_path / "out.onnx"
    with pytest.raises(UnsupportedError, match="convolves"):
        surgeon.export(files / "convnet.onnx", out, int8_dynamic=True)
    with pytest.raises(UsageError, match="exclude"):
        surgeon.export(files / "convnet.onnx", out, int8_dynamic=True, fp16=True)
    with pytest.raises(DataError, match="few"):
        surgeon.export(files / "convnet.onnx", out, int8=drawn(1))
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))
    surgeon.finetune(
        networks.convnet(opset=11), drawn(30), tmp_path / "old.onnx", case="small-similar",
        device="cpu",
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match="opset 11") as caught:
        surgeon.export(tmp_path / "old.onnx", out, int8=drawn(60))
    assert "--opset 13" in caught.value.remedy
    body = surgeon.export(tmp_path / "old.onnx", out, int8=drawn(60), opset=13)
    assert body["forms"] == ["opset=13", "int8"]
    assert surgeon.verify(out).passed


SOURCES = {
    "fp16": {"fp16": True},
    "int8": {"int8": drawn(60)},
    "opset": {"opset": 18},
    "extended": {"optimize": "extended"},
    "int8 extended": {"int8": drawn(60), "optimize": "extended"},
    "probabilities": {"probabilities": True, "calibrate": drawn(60, 5)},
}


def changed(path, out, name):
    """Write a copy of a file whose tensor is another."""
    made = onnx.load(path)
    tensor = next(one for one in made.graph.initializer if one.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] = values.flat[0] + (40 if values.dtype.kind in "iu" else 0.5)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    onnx.save(made, out)
    return out


@pytest.mark.parametrize("name", SOURCES)
def test_an_export_is_compared_with_the_file_it_was_made_from(files, tmp_path, name):
    source, out = files / "convnet.onnx", tmp_path / "out.onnx"
    surgeon.export(source, out, **SOURCES[name])
    onnx.save(networks.convnet(opset=13), tmp_path / "original.onnx")
    for original in (source, tmp_path / "original.onnx"):
        told = surgeon.verify(out, source=original)
        assert told.passed, [one for one in told.checks if not one.passed]
        assert told.document()["exported"]["forms"]
    made = onnx.load(out)
    weight = next(
        one.name
        for one in made.graph.initializer
        if one.name.removesuffix("_quantized").startswith("c1") and len(one.dims) == 4
    )
    told = surgeon.verify(changed(out, tmp_path / "changed.onnx", weight), source=source)
    wrong = {one.name for one in told.checks if not one.passed}
    assert {"frozen", "source"} <= wrong


def test_a_temperature_makes_probabilities_honest(files, tmp_path):
    plain, cool = tmp_path / "plain.onnx", tmp_path / "cool.onnx"
    noisy = drawn(90, 7)
    noisy["labels"] = np.where(np.arange(90) % 4 == 0, 2, noisy["labels"])
    surgeon.export(files / "convnet.onnx", plain, probabilities=True)
    body = surgeon.export(files / "convnet.onnx", cool, probabilities=True, calibrate=noisy)
    assert body["temperature"] > 0
    made = onnx.load(cool)
    assert envelope.get(made, "surgeon.temperature") == body["temperature"]
    before, after = (surgeon.evaluate(path, noisy)["metrics"] for path in (plain, cool))
    assert after["loss"] < before["loss"]
    assert after["accuracy"] == before["accuracy"]
    assert surgeon.verify(cool).passed
    with pytest.raises(UsageError, match="probabilities"):
        surgeon.export(files / "convnet.onnx", tmp_path / "x.onnx", calibrate=noisy)


def test_thresholds_follow_the_temperature(tmp_path, monkeypatch):
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))
    several = drawn(60)
    several["labels"] = np.stack([several["labels"] > 0, several["labels"] > 1], 1)
    source, out = tmp_path / "several.onnx", tmp_path / "out.onnx"
    surgeon.finetune(
        networks.convnet(opset=13), several, source, case="small-similar", device="cpu"
    )
    hotter = {"x": several["x"], "labels": several["labels"] ^ (np.arange(60) % 3 == 0)[:, None]}
    body = surgeon.export(source, out, probabilities=True, calibrate=hotter, check=several)
    assert body["comparison"]["measure"] == "average_precision"
    inputs = {"x": several["x"]}
    told = [
        [one["labels"] for one in surgeon.predict(path, inputs).document()["predictions"]]
        for path in (source, out)
    ]
    assert told[0] == told[1]


def test_what_was_rounded_is_not_trained_further(files, tmp_path):
    for name in ("int8", "fp16", "extended"):
        surgeon.export(files / "convnet.onnx", tmp_path / f"{name}.onnx", **SOURCES[name])
        with pytest.raises(UsageError, match="exported") as caught:
            surgeon.finetune(tmp_path / f"{name}.onnx", drawn(30), device="cpu")
        assert "exported from" in caught.value.remedy
    surgeon.export(files / "convnet.onnx", tmp_path / "later.onnx", opset=18)
    again = surgeon.finetune(tmp_path / "later.onnx", drawn(30), device="cpu")
    assert again.document()["changed"]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("convnet", {"fp16": True, "optimize": "basic"}),
        ("convnet", {"int8": drawn(60)}),
        ("products", {"int8_dynamic": True}),
    ],
)
def test_what_is_rounded_is_not_rounded_again(files, tmp_path, name, settings):
    surgeon.export(files / f"{name}.onnx", tmp_path / "once.onnx", **settings)
    for again in ({"fp16": True}, {"int8": drawn(60)}, {"int8_dynamic": True}):
        with pytest.raises(UsageError, match="already"):
            surgeon.export(tmp_path / "once.onnx", tmp_path / "twice.onnx", **again)
    surgeon.export(tmp_path / "once.onnx", tmp_path / "twice.onnx", batch=2)


def test_differences_are_those_of_what_is_written(files, tmp_path):
    settings = {"int8": drawn(60), "probabilities": True}
    body = surgeon.export(files / "convnet.onnx", tmp_path / "out.onnx", **settings)
    scores = surgeon.export(files / "convnet.onnx", tmp_path / "s.onnx", int8=drawn(60))
    largest = [one["comparison"]["max_difference"] for one in (body, scores)]
    assert 0 < largest[0] <= 1
    assert largest[0] != largest[1]


def test_ranges_are_measured_on_tables_without_answers(tmp_path):
    onnx.save(tabular.network(), tmp_path / "net.onnx")
    tabular.write_csv(tmp_path / "plain.csv", tabular.values(60))
    body = surgeon.export(
        tmp_path / "net.onnx", tmp_path / "out.onnx", int8=str(tmp_path / "plain.csv")
    )
    assert body["quantised"]["samples"] == 60
