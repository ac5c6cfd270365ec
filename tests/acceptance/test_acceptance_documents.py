"""Documents say what they mean: numbers add up, names are the file's, so is the proof."""

from __future__ import annotations

import hashlib

import networks
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from stranger import PREPROCESS, paint, pictures, vectors


def weights_of(path):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def changed_between(before, after):
    old, new = weights_of(before), weights_of(after)
    assert old.keys() == new.keys()
    return {name for name in old if old[name].tobytes() != new[name].tobytes()}


def test_inspect(cli, net):
    path = net("convnet")
    found = cli("inspect", path)
    content = path.read_bytes()
    assert found["path"] == str(path)
    assert found["bytes"] == len(content)
    assert found["sha256"] == hashlib.sha256(content).hexdigest()
    assert found["opsets"] == {"": 17} or found["opsets"] == {"ai.onnx": 17}
    assert found["inputs"] == [
        {"name": "x", "dtype": "float", "shape": ["N", 3, 12, 12], "batch_axis": 0}
    ]
    (output,) = found["outputs"]
    assert (output["name"], output["shape"], output["batch_axis"]) == ("y", ["N", 4], 0)
    assert found["nodes"] == 8
    assert sum(found["operators"].values()) == 8
    assert found["operators"]["Conv"] == 2
    assert found["initializers"] == 6
    expected = sum(w.size for w in weights_of(path).values())
    assert found["parameters"] == expected
    conv = 12 * 12 * 6 * 3 * 9 + 6 * 6 * 8 * 6 * 9
    assert conv + 32 <= found["macs"] <= 1.2 * conv + 2000
    head = found["head"]
    assert head["form"] == "Gemm"
    assert (head["input"], head["classes"], head["activation"]) == ("features", 4, None)
    assert head["weights"] == ["fc.weight", "fc.bias"]
    assert (found["labels"], found["preprocess"], found["surgeon"]) == (None, None, None) or (
        found["surgeon"] in ({"case": None, "plan": None, "proof": None}, None, "0.1.0")
    )
    assert found["metadata"] == {}


def test_cuts(cli, net):
    found = cli("cuts", net("residual"))
    depths = [cut["depth"] for cut in found["cuts"]]
    assert depths == sorted(depths)
    assert all(0 <= d <= 1 and round(d, 4) == d for d in depths)
    names = [cut["tensor"] for cut in found["cuts"]]
    assert found["late"] in names
    assert found["early"] in names
    assert found["late"] == "features"
    near = min(depths, key=lambda d: (abs(d - 0.33), d))
    assert found["cuts"][names.index(found["early"])]["depth"] == near
    assert not {"b1.inner", "b1.branch", "b2.inner", "b2.branch"} & set(names)
    assert {"b1.sum", "b1.out", "b2.out", "pool"} <= set(names)
    late = found["cuts"][names.index("features")]
    assert late["depth"] == 1.0
    assert late["macs"] <= found["macs"]
    for key in ("parameters", "macs", "bytes"):
        column = [cut[key] for cut in found["cuts"]]
        assert column == sorted(column)
    assert late["bytes"] == 4 * late["parameters"]
    assert all(cut["batch_axis"] == 0 and cut["dtype"] == "float" for cut in found["cuts"])
    assert found["output"] == "y"


@pytest.mark.parametrize("name", sorted(networks.ZOO))
def test_late_and_early_are_listed(cli, net, name):
    found = cli("cuts", net(name))
    names = [cut["tensor"] for cut in found["cuts"]]
    assert {found["late"], found["early"]} <= set(names)
    depths = [cut["depth"] for cut in found["cuts"]]
    assert depths == sorted(depths)
    assert all(cut["dtype"] in ("float", "float16") for cut in found["cuts"])


def test_cases(cli):
    found = {case["name"]: case for case in cli("cases")["cases"]}
    assert {"small-similar", "small-different", "large-similar", "large-different"} <= set(found)
    own = found["small-similar"]
    assert own["distribution"] == "onnx-surgeon"
    assert own["summary"]
    assert own["version"]


def test_check(cli, net):
    found = cli("check", net("convnet"), "--case", "large-similar")
    assert (found["ok"], found["case"]) == (True, "large-similar")
    assert all(item["level"] == "warning" for item in found["findings"])


@pytest.mark.parametrize("case", ["small-similar", "small-different", "large-similar"])
def test_operate(cli, net, tmp_path, case):
    source, out = net("residual"), tmp_path / "o.onnx"
    found = cli("operate", source, "--case", case, "--classes", 7, "-o", out)
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    names = [t.name for t in model.graph.initializer]
    assert found["out"] == str(out)
    assert set(found["trainable"]) | set(found["frozen"]) == set(names)
    assert not set(found["trainable"]) & set(found["frozen"])
    head = {"surgeon.head.weight", "surgeon.head.bias"}
    assert head <= set(found["trainable"])
    if case.startswith("small"):
        assert set(found["trainable"]) == head
    else:
        assert set(found["trainable"]) == set(names)
    assert found["output"] == "logits"
    assert [o.name for o in model.graph.output] == ["logits"]
    dims = [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    assert dims == ["N", 7]
    kept = len(onnx.load(source).graph.node) - found["removed_nodes"]
    assert kept + found["added_nodes"] == len(model.graph.node)
    plan = found["plan"]
    assert (plan["case"], plan["classes"], plan["init"]) == (case, 7, "pretrained")
    before = weights_of(source)
    for name, value in weights_of(out).items():
        if name not in head:
            assert value.tobytes() == before[name].tobytes()
    assert weights_of(out)["surgeon.head.weight"].shape[0] == 7
    assert all(node.op_type != "Softmax" for node in model.graph.node)
    keys = {entry.key for entry in model.metadata_props}
    assert "surgeon.plan" in keys
    assert not keys & {"surgeon.proof"}


def test_operate_dry_run_writes_nothing(cli, net, tmp_path):
    source = net("residual")
    found = cli("operate", source, "--case", "large-similar", "--classes", 3, "--dry-run")
    assert found["out"] is None
    assert [p.name for p in tmp_path.iterdir()] == ["residual.onnx"]


def test_dropped_outputs_are_named(cli, net, tmp_path):
    out = ["-o", tmp_path / "o.onnx"]
    found = cli("operate", net("two_outputs"), "--case", "small-similar", "--classes", 3, *out)
    assert "features" in str(found["plan"])
    assert [i.name for i in onnx.load(tmp_path / "o.onnx").graph.input] == ["x"]


def test_inputs_no_longer_needed_are_dropped(cli, net, tmp_path):
    arguments = ["--case", "small-similar", "--classes", 3, "-o", tmp_path / "o.onnx"]
    cli("operate", net("two_inputs"), *arguments, "--cut", "image_features")
    assert [i.name for i in onnx.load(tmp_path / "o.onnx").graph.input] == ["image"]
    cli("operate", net("two_inputs"), *arguments, "--force")
    assert [i.name for i in onnx.load(tmp_path / "o.onnx").graph.input] == ["vector", "image"]


def test_metadata_of_the_source_is_kept(cli, net, tmp_path):
    path = net("mlp")
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = "license", "MIT"
    model.doc_string, model.producer_name, model.domain = "about it", "someone", "org.else"
    onnx.save(model, path)
    out = tmp_path / "o.onnx"
    cli("operate", path, "--case", "small-similar", "--classes", 3, "-o", out)
    after = onnx.load(out)
    assert {e.key: e.value for e in after.metadata_props}["license"] == "MIT"
    assert (after.doc_string, after.producer_name, after.domain) == (
        "about it",
        "someone",
        "org.else",
    )
    assert after.opset_import == model.opset_import


def test_head_names_that_clash(cli, net, npz, tmp_path):
    path, one, two = net("mlp"), tmp_path / "1.onnx", tmp_path / "2.onnx"
    cli("finetune", path, npz(), "--case", "small-similar", "-o", one)
    arguments = ["--case", "large-similar", "--cut", "logits", "--classes", 2, "-o", two]
    found = cli("operate", one, *arguments)
    names = {t.name for t in onnx.load(two).graph.initializer}
    assert {"surgeon.head.weight", "surgeon.head.weight.2", "surgeon.head.bias.2"} <= names
    assert found["output"] == "logits.2" or onnx.load(two).graph.output[0].name == "logits"


# ── finetune ─────────────────────────────────────────────────────────────────────────────────────


def check_finetune(found, patient, out, total):
    """What holds of every finetune document."""
    tuned = onnx.load(out)
    onnx.checker.check_model(tuned, full_check=True)
    assert found["out"] == str(out)
    assert found["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert onnx.load(patient).graph.node == tuned.graph.node
    changed = changed_between(patient, out)
    assert set(found["changed"]) == changed
    assert changed <= set(found["trainable"]) | set(found["statistics"])
    assert found["plan"]["trainable"] == found["trainable"]
    weights = weights_of(out)
    assert found["trained_parameters"] == sum(weights[name].size for name in found["trainable"])
    data = found["data"]
    assert data["samples"] == total
    assert data["train"] + data["validation"] + data["test"] == total
    assert sum(data["classes"].values()) == total
    assert list(data["classes"]) == found["labels"]
    metrics = found["metrics"]
    for part in ("train", "validation", "test"):
        if metrics[part] is not None and not (part == "train" and data["train"] > 1000):
            assert metrics[part]["samples"] == data[part]
            assert 0 <= metrics[part]["accuracy"] <= 1
            assert 0 <= metrics[part]["macro_f1"] <= 1
            assert metrics[part]["loss"] >= 0
    seconds = found["seconds"]
    assert seconds["features"] + seconds["train"] + seconds["write"] <= seconds["total"] + 0.01
    assert found["proof"]["parity"]["max_relative"] <= found["proof"]["parity"]["bound"]
    assert found["delivered"] in ("tuned", "probe", "start")
    assert found["providers"]
    frontier = found["frontier"]
    assert frontier["nodes_frozen"] + frontier["nodes_trained"] == len(tuned.graph.node)
    keys = {"stage", "epoch", "step", "loss", "validation_loss", "validation_accuracy", "lr"}
    assert all(keys | {"seconds"} <= set(row) for row in found["history"])
    assert found["history"]


CASES = ["small-similar", "small-different", "large-similar", "large-different"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["convnet", "batchnorm"])
def test_finetune(cli, net, npz, tmp_path, case, name):
    side = 12 if name == "convnet" else 8
    source, data = net(name), npz(**pictures(150, side=side))
    patient, out = tmp_path / "patient.onnx", tmp_path / "out.onnx"
    cli("operate", source, "--case", case, "--classes", 3, "-o", patient)
    found = cli("finetune", source, data, "--case", case, "--epochs", 2, "-o", out)
    check_finetune(found, patient, out, 150)
    assert (found["case"], found["plan"]["case"], found["plan"]["init"]) == (
        case,
        case,
        "pretrained",
    )
    assert found["labels"] == ["0", "1", "2"]
    assert (found["device"], found["precision"], found["seed"]) == ("cpu", "float32", 0)
    head = {"surgeon.head.weight", "surgeon.head.bias"}
    frontier = found["frontier"]
    if case.startswith("small"):
        assert set(found["trainable"]) == head
        assert set(found["changed"]) == head
        assert found["statistics"] == []
        assert frontier["nodes_trained"] == 1
        (tensor,) = frontier["tensors"]
        assert tensor["dtype"] == "float"
        assert frontier["cache"]["bytes"] >= 150 * 4 * tensor["shape"][-1]
        assert frontier["cache"]["hit"] is False
    else:
        assert head < set(found["trainable"])
        bn = {n for n in weights_of(out) if n.endswith((".mean", ".var"))}
        assert set(found["statistics"]) == bn
        assert not bn & set(found["trainable"])
        assert frontier["cache"] is None
        assert frontier["nodes_frozen"] == 0
    assert found["metrics"]["validation"]["accuracy"] > 0.8
    verdict = cli("verify", out, "--source", source)
    assert verdict["passed"] is True
    names = [check["name"] for check in verdict["checks"]]
    assert set(names) >= {
        "frozen",
        "tuned",
        "structure",
        "labels",
        "preprocess",
        "golden",
        "source",
    }
    assert "source" not in [check["name"] for check in cli("verify", out)["checks"]]


def test_the_cache_is_used_again_and_never_when_stale(cli, net, npz, tmp_path):
    source, data = net("convnet"), npz(**pictures())
    arguments = ["--case", "small-similar", "--force", "-o", tmp_path / "o.onnx"]
    first = cli("finetune", source, data, *arguments)
    again = cli("finetune", source, data, *arguments)
    assert (first["frontier"]["cache"]["hit"], again["frontier"]["cache"]["hit"]) == (False, True)
    assert first["sha256"] == again["sha256"]
    other = cli("finetune", source, npz(**pictures(seed=5)), *arguments)
    assert other["frontier"]["cache"]["hit"] is False
    assert other["data"]["sha256"] != first["data"]["sha256"]


def test_five_hundred_samples_get_a_test_split(cli, net, npz, tmp_path):
    found = cli(
        "finetune", net(), npz(**vectors(500)), "--case", "small-similar", "-o", tmp_path / "o"
    )
    assert found["data"]["test"] > 0
    assert found["metrics"]["test"]["samples"] == found["data"]["test"]
    found = cli(
        "finetune", net(), npz(**vectors(499)), "--case", "small-similar", "-o", tmp_path / "p"
    )
    assert (found["data"]["test"], found["metrics"]["test"]) == (0, None)


def test_labels_sort_numerically_only_if_all_are_integers(cli, net, npz, tmp_path):
    data = vectors(90)
    for number, (labels, expected) in enumerate(
        (
            ([2, 10, 9], ["2", "9", "10"]),
            (["10", "9", "-3"], ["-3", "9", "10"]),
            (["10", "9", "a"], ["10", "9", "a"]),
            (["b", "B", "é"], ["B", "b", "é"]),
        )
    ):
        data["labels"] = np.array(labels)[np.arange(90) % 3]
        arguments = ["--case", "small-similar", "-o", tmp_path / f"{number}.onnx"]
        found = cli("finetune", net(), npz(**data), *arguments)
        assert found["labels"] == expected


def test_dry_run(cli, net, npz, tmp_path):
    source, data = net("convnet"), npz(**pictures())
    before = sorted(p.name for p in tmp_path.iterdir())
    arguments = ["--case", "large-similar", "--dry-run", "-o", tmp_path / "o.onnx"]
    found = cli("finetune", source, data, *arguments)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert found["sha256"] is None
    assert found["trainable"]
    assert found["changed"] == []


# ── using it ─────────────────────────────────────────────────────────────────────────────────────


def test_evaluate_and_predict_agree(cli, net, npz, tmp_path):
    tuned, data = tmp_path / "t.onnx", vectors(120, classes=4)
    cli("finetune", net(), npz(**data), "--case", "small-similar", "-o", tuned)
    other = vectors(80, classes=4, seed=9)
    held = npz("held.npz", **other)
    found, told = cli("evaluate", tuned, held), cli("predict", tuned, held)
    assert found["labels"] == told["labels"] == ["0", "1", "2", "3"]
    confusion = np.array(found["confusion"])
    assert confusion.shape == (4, 4)
    assert confusion.sum() == found["samples"] == 80
    truth = other["labels"]
    predicted = np.array([int(row["label"]) for row in told["predictions"]])
    expected = np.zeros((4, 4), int)
    np.add.at(expected, (truth, predicted), 1)
    assert (confusion == expected).all()
    metrics = found["metrics"]
    assert metrics["accuracy"] == pytest.approx(np.trace(confusion) / 80)
    for code, row in enumerate(found["per_class"]):
        assert row["label"] == str(code)
        assert row["support"] == confusion[code].sum()
        assert row["recall"] == pytest.approx(confusion[code, code] / confusion[code].sum())
        assert row["precision"] == pytest.approx(confusion[code, code] / confusion[:, code].sum())
    assert metrics["macro_f1"] == pytest.approx(np.mean([row["f1"] for row in found["per_class"]]))
    assert metrics["top5"] is None
    chances = np.array([row["probabilities"] for row in told["predictions"]])
    assert chances.shape == (80, 4)
    assert np.allclose(chances.sum(1), 1, atol=1e-6)
    loss = -np.log(chances[np.arange(80), truth]).mean()
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4)
    for row in told["predictions"]:
        best = int(np.argmax(row["probabilities"]))
        assert (row["index"], row["label"]) == (best, found["labels"][best])
        assert row["probability"] == max(row["probabilities"])
    assert told["failed"] == []
    session = networks.session(onnx.load(tuned))
    logits = session.run(["logits"], {"x": other["x"]})[0]
    assert (logits.argmax(1) == predicted).all()


def test_top5_with_more_than_five_classes(cli, net, npz, tmp_path):
    tuned, data = tmp_path / "t.onnx", npz(**vectors(140, classes=7))
    cli("finetune", net(), data, "--case", "small-similar", "-o", tuned)
    metrics = cli("evaluate", tuned, data)["metrics"]
    assert metrics["accuracy"] <= metrics["top5"] <= 1


def test_inspect_of_a_tuned_file(cli, net, folder, tmp_path):
    tuned = tmp_path / "t.onnx"
    arguments = ["--case", "small-similar", "--preprocess", PREPROCESS, "-o", tuned]
    cli("finetune", net("convnet"), folder(), *arguments)
    found = cli("inspect", tuned)
    assert found["labels"] == ["ant", "bee", "cat"]
    assert found["preprocess"]["mean"] in ([127.0], [127.0] * 3)
    assert found["preprocess"]["source"]
    assert found["surgeon"]["case"] == "small-similar"
    assert found["surgeon"]["plan"]["classes"] == 3
    assert found["surgeon"]["proof"]["version"]
    assert found["head"]["classes"] == 3
    assert {k for k in found["metadata"] if k.startswith("surgeon.")} <= {
        "surgeon.plan", "surgeon.labels", "surgeon.preprocess", "surgeon.proof",
    }  # fmt: skip


PROOF_KEYS = {
    "version", "source_sha256", "structure_sha256", "frozen", "tuned", "labels_sha256",
    "preprocess_sha256", "parity", "golden",
}  # fmt: skip


def test_the_proof(cli, net, npz, tmp_path):
    source, out = net("convnet"), tmp_path / "t.onnx"
    found = cli("finetune", source, npz(**pictures()), "--case", "small-similar", "-o", out)
    proof = found["proof"]
    assert set(proof) >= PROOF_KEYS
    assert proof["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    model = onnx.load(out)
    count = len(model.graph.initializer)
    assert proof["tuned"]["count"] == 2
    assert proof["frozen"]["count"] == count - 2
    assert len(proof["golden"]) == 2
    for option, least, most in (("--no-golden-samples", 2, 2), ("--golden-samples", 3, 4)):
        arguments = ["--case", "small-similar", option, "-o", tmp_path / f"{option}.onnx"]
        found = cli("finetune", source, npz(**pictures()), *arguments)
        assert least <= len(found["proof"]["golden"]) <= most


def _tamper(path, what):
    model = onnx.load(path)
    graph = model.graph
    if what in ("frozen", "tuned"):
        name = {"frozen": "c1.weight", "tuned": "surgeon.head.bias"}[what]
        tensor = next(t for t in graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values.flat[0] += 1e-3
        tensor.CopyFrom(numpy_helper.from_array(values, name))
    elif what == "structure":
        graph.node[0].name = "renamed"
    elif what == "labels":
        entry = next(e for e in model.metadata_props if e.key == "surgeon.labels")
        entry.value = entry.value.replace("1", "7")
    elif what == "preprocess":
        entry = model.metadata_props.add()
        entry.key, entry.value = "surgeon.preprocess", '{"size": [9, 9], "layout": "NCHW"}'
    onnx.save(model, path)


@pytest.mark.parametrize("what", ["frozen", "tuned", "structure", "labels", "preprocess"])
def test_verify_sees_what_was_changed(cli, net, npz, tmp_path, what):
    out = tmp_path / "t.onnx"
    cli("finetune", net("convnet"), npz(**pictures()), "--case", "small-similar", "-o", out)
    _tamper(out, what)
    found = cli("verify", out, code=1)
    assert found["passed"] is False
    failed = {check["name"] for check in found["checks"] if not check["passed"]}
    assert what in failed
    if what in ("structure", "labels", "preprocess"):
        assert failed == {what}


def test_verify_against_a_wrong_source(cli, net, npz, tmp_path):
    out = tmp_path / "t.onnx"
    cli("finetune", net("convnet"), npz(**pictures()), "--case", "small-similar", "-o", out)
    other = net("convnet", "other.onnx", seed=5)
    found = cli("verify", out, "--source", other, code=1)
    assert [c["name"] for c in found["checks"] if not c["passed"]] == ["source"]


def test_a_broken_proof(call, net, npz, cli, tmp_path):
    out = tmp_path / "t.onnx"
    cli("finetune", net("convnet"), npz(**pictures()), "--case", "small-similar", "-o", out)
    good = onnx.load(out)
    for text in ("{", "[]", "{}", '{"version": 1}', '{"version": 99}', '{"frozen": 3}', "null"):
        model = onnx.ModelProto()
        model.CopyFrom(good)
        next(e for e in model.metadata_props if e.key == "surgeon.proof").value = text
        onnx.save(model, out)
        done = call("verify", out)
        assert done.code in (1, 2), (text, done)
        assert "internal error" not in done.err, (text, done.err)
    for key in ("plan", "labels", "preprocess"):
        for text in ("{", "[1]", "3", '{"case": 3, "trainable": 4}', "null"):
            model = onnx.ModelProto()
            model.CopyFrom(good)
            entry = next((e for e in model.metadata_props if e.key == f"surgeon.{key}"), None)
            entry = entry or model.metadata_props.add()
            entry.key, entry.value = f"surgeon.{key}", text
            onnx.save(model, out)
            for verb in ("inspect", "verify", "cuts"):
                done = call(verb, out)
                assert "internal error" not in done.err, (verb, key, text, done.err)


def test_half_precision(cli, net, npz, tmp_path):
    source, data = net("convnet", dtype=TensorProto.FLOAT16), pictures(90)
    data["x"] = data["x"].astype(np.float16)
    arrays = npz(**data)
    for case in ("small-similar", "large-similar"):
        patient, out = tmp_path / f"{case}.p.onnx", tmp_path / f"{case}.onnx"
        cli("operate", source, "--case", case, "--classes", 3, "-o", patient)
        found = cli("finetune", source, arrays, "--case", case, "--epochs", 2, "-o", out)
        check_finetune(found, patient, out, 90)
        assert found["proof"]["parity"]["bound"] == 1e-2
        kinds = {t.name: t.data_type for t in onnx.load(out).graph.initializer}
        assert all(
            kind == TensorProto.FLOAT16 for name, kind in kinds.items() if "surgeon" not in name
        )
        assert cli("verify", out)["passed"] is True
        assert cli("evaluate", out, arrays)["metrics"]["accuracy"] > 0.8


def test_tied_weights_stay_one(cli, net, npz, tmp_path):
    source, patient, out = net("tied"), tmp_path / "p.onnx", tmp_path / "t.onnx"
    cli("operate", source, "--case", "large-similar", "--classes", 3, "-o", patient)
    arguments = ["--case", "large-similar", "--epochs", 3, "--lr", "0.02", "-o", out]
    found = cli("finetune", source, npz(), *arguments)
    check_finetune(found, patient, out, 60)
    assert found["trainable"].count("shared") == 1
    assert sum(name == "shared" for name in weights_of(out)) == 1


def test_random_start(cli, net, npz, tmp_path):
    source, data = net("batchnorm"), npz(**pictures(240, side=8))
    patient, out = tmp_path / "p.onnx", tmp_path / "t.onnx"
    start = ["--case", "large-different", "--init", "random"]
    cli("operate", source, *start, "--classes", 3, "-o", patient)
    old, new = weights_of(source), weights_of(patient)
    for name in ("l1.weight", "l2.weight"):
        assert not np.array_equal(old[name], new[name])
    assert np.array_equal(new["l1.bn.mean"], np.zeros(6))
    assert np.array_equal(new["l1.bn.var"], np.ones(6))
    found = cli("finetune", source, data, *start, "--epochs", 15, "-o", out)
    check_finetune(found, patient, out, 240)
    assert found["plan"]["init"] == "random"
    assert found["metrics"]["validation"]["accuracy"] > 0.8
    assert cli("verify", out)["passed"] is True


def test_a_picture_in_every_mode(cli, net, tmp_path):
    place = tmp_path / "modes"
    for code, label in enumerate(("a", "b", "c")):
        for number, (mode, suffix) in enumerate(
            (("RGB", "png"), ("RGBA", "png"), ("L", "png"), ("CMYK", "jpg"), ("I;16", "png"),
             ("P", "gif"), ("RGB", "bmp"), ("RGB", "webp"), ("RGB", "JPG"), ("1", "png"))
        ):  # fmt: skip
            paint(place / label / f"{number}.{suffix}", code, 100 * code + number, mode)
    out = tmp_path / "o.onnx"
    arguments = ["--case", "small-similar", "--preprocess", PREPROCESS, "-o", out]
    found = cli("finetune", net("convnet"), place, *arguments)
    assert found["data"]["skipped"] == []
    assert found["data"]["samples"] == 30
    told = cli("predict", out, place / "a" / "4.png", place / "a" / "3.jpg", place / "b")
    assert len(told["predictions"]) == 12
