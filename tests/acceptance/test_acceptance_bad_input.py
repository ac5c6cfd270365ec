"""Every item of bad input: one clear error, the contract's exit code, nothing half-written."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import zipfile

import networks
import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image
from stranger import PREPROCESS, listing, paint, pictures, shell, vectors


def _png():
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    return stream.getvalue()


def _zip():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.txt", "hello")
    return stream.getvalue()


FILES = {
    "empty": b"",
    "png": _png(),
    "text": b"hello, this is a text file\n" * 20,
    "pickle": pickle.dumps({"weights": [1.0] * 50}),
    "zip": _zip(),
    "zeros": b"\0" * 500,
    "random": bytes(range(256)) * 4,
    "truncated": networks.convnet().SerializeToString()[:-700],
    "truncated-early": networks.convnet().SerializeToString()[:60],
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("verb", ["inspect", "cuts", "check", "operate", "finetune", "verify"])
def test_files_that_are_no_model(refused, tmp_path, npz, name, verb):
    file = tmp_path / "bad.onnx"
    file.write_bytes(FILES[name])
    extra = {
        "operate": ["--case", "small-similar", "--classes", 3, "-o", tmp_path / "out.onnx"],
        "finetune": [npz(), "--case", "small-similar", "-o", tmp_path / "out.onnx"],
    }.get(verb, [])
    refused(verb, file, *extra, kind="model", say="bad.onnx")


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_files_that_are_no_model_to_use(refused, tmp_path, npz, verb):
    file = tmp_path / "bad.onnx"
    file.write_bytes(FILES["truncated"])
    refused(verb, file, npz(), kind="model")


def test_a_model_that_is_not_there(refused, tmp_path, npz):
    for verb, extra in (
        ("inspect", []),
        ("verify", []),
        ("evaluate", [npz()]),
        ("predict", [npz()]),
    ):
        refused(verb, tmp_path / "nowhere.onnx", *extra, say="nowhere.onnx")
        refused(verb, tmp_path, *extra, say="folder")


# ── graphs that ONNX Runtime refuses ─────────────────────────────────────────────────────────────


def _with_unknown(place):
    """An operator nobody knows, behind the old head, in front of the cut, or between."""
    model = networks.mlp()
    graph = model.graph
    if place == "front":
        node = helper.make_node("Frobnicate", ["x"], ["fx"], name="frob")
        graph.node[0].input[0] = "fx"
        graph.node.insert(0, node)
    else:
        graph.node[-1].output[0] = "scores"
        graph.node.append(helper.make_node("Frobnicate", ["scores"], ["y"], name="frob"))
    return model


@pytest.mark.parametrize("case", ["small-similar", "large-similar"])
def test_an_unknown_operator_in_front(refused, tmp_path, npz, case):
    file = tmp_path / "odd.onnx"
    onnx.save(_with_unknown("front"), file)
    out = ["-o", tmp_path / "out.onnx"]
    refused("finetune", file, npz(), "--case", case, *out, say="Frobnicate")


def test_an_unknown_operator_is_found_by_check(cli, tmp_path):
    file = tmp_path / "odd.onnx"
    onnx.save(_with_unknown("front"), file)
    found = cli("check", file, code=1)
    assert found["ok"] is False
    assert any("Frobnicate" in json.dumps(item) for item in found["findings"])


def test_an_unknown_operator_behind_a_cut_by_name_is_dropped(cli, tmp_path, npz):
    file = tmp_path / "odd.onnx"
    onnx.save(_with_unknown("behind"), file)
    out = tmp_path / "out.onnx"
    features = networks.mlp().graph.node[1].output[0]
    cli("finetune", file, npz(), "--case", "small-similar", "--cut", features, "-o", out)
    assert all(node.op_type != "Frobnicate" for node in onnx.load(out).graph.node)


# ── external data ────────────────────────────────────────────────────────────────────────────────


def _external(tmp_path):
    inside = tmp_path / "model"
    inside.mkdir()
    file = inside / "m.onnx"
    onnx.save_model(
        networks.convnet(), file, save_as_external_data=True, location="m.data", size_threshold=0
    )
    return file


def _relocate(file, location):
    model = onnx.load(file, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str(location)
    file.write_bytes(model.SerializeToString())


def test_external_data_missing(refused, tmp_path):
    file = _external(tmp_path)
    (file.parent / "m.data").unlink()
    refused("inspect", file, kind="model", say="m.data")


def test_external_data_too_short(refused, tmp_path):
    file = _external(tmp_path)
    data = file.parent / "m.data"
    data.write_bytes(data.read_bytes()[:-100])
    refused("inspect", file, kind="model", say="m.data")


@pytest.mark.parametrize("absolute", [True, False])
def test_external_data_outside_its_folder(refused, tmp_path, absolute):
    file = _external(tmp_path)
    (file.parent / "m.data").rename(tmp_path / "m.data")
    _relocate(file, tmp_path / "m.data" if absolute else "../m.data")
    refused("inspect", file, kind="model", say="outside")


def test_external_data_through_a_link_outside(refused, tmp_path):
    file = _external(tmp_path)
    (file.parent / "m.data").rename(tmp_path / "m.data")
    (file.parent / "m.data").symlink_to(tmp_path / "m.data")
    refused("inspect", file, kind="model", say="outside")


# ── data ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def tune(refused, net, tmp_path):
    """Finetune a small vector network; it must be refused."""

    def run(data, *more, model="mlp", case="small-similar", **expect):
        out = tmp_path / "out.onnx"
        return refused(
            "finetune", net(model), data, "--case", case, "-o", out, *more, **expect
        )  # fmt: skip

    return run


def test_no_data(tune, tmp_path):
    tune(tmp_path / "nowhere", say="nowhere")
    (tmp_path / "hollow").mkdir()
    tune(tmp_path / "hollow", "--preprocess", PREPROCESS, model="convnet", say="hollow")
    tune(tmp_path / "hollow", say="take pictures")
    (tmp_path / "empty.npz").write_bytes(b"")
    tune(tmp_path / "empty.npz", say="npz")
    (tmp_path / "empty.csv").write_bytes(b"")
    tune(tmp_path / "empty.csv", say="empty.csv")


def test_folders_without_pictures(tune, tmp_path):
    for label in ("a", "b"):
        place = tmp_path / "texts" / label
        place.mkdir(parents=True)
        (place / "readme.txt").write_text("no picture")
    tune(tmp_path / "texts", "--preprocess", PREPROCESS, model="convnet", say="texts")


def test_one_class_and_lonely_classes(tune, npz, folder):
    data = vectors()
    tune(npz(x=data["x"], labels=np.zeros(60, int)), say="same label")
    labels = data["labels"].copy()
    labels[0] = 7
    assert "'7'" in tune(npz(x=data["x"], labels=labels), say="single sample")["message"]
    place = folder(classes=("only",))
    tune(place, "--preprocess", PREPROCESS, model="convnet", say="only")


BAD_ARRAYS = {
    "no input": ({"z": np.zeros((60, 8), np.float32)}, "z"),
    "no labels": ({"labels": None}, "label"),
    "rank": ({"x": np.zeros((60, 8, 1), np.float32)}, "shape"),
    "width": ({"x": np.zeros((60, 9), np.float32)}, "shape"),
    "length": ({"x": np.zeros((59, 8), np.float32)}, "60"),
    "labels length": ({"labels": np.zeros(61, int)}, "61"),
    "labels shape": ({"labels": np.zeros((60, 1), int)}, "labels"),
    "int for float": ({"x": np.zeros((60, 8), np.int64)}, "int64"),
    "half for float": ({"x": np.zeros((60, 8), np.float16)}, "float16"),
    "objects": ({"x": np.array([[object()] * 8] * 60)}, "object"),
    "object labels": ({"labels": np.array([object()] * 60)}, "object"),
    "too large": ({"x": np.full((60, 8), 1e300)}, "float32"),
    "NaN labels": ({"labels": np.array([np.nan] + [1.0, 2.0] * 29 + [1.0])}, "NaN"),
    "no samples": ({"x": np.zeros((0, 8), np.float32), "labels": np.zeros(0, int)}, "sample"),
    "split word": ({"split": np.array(["train"] * 59 + ["tset"])}, "tset"),
    "split length": ({"split": np.array(["train"] * 59)}, "59"),
    "unknown extra": ({"wieghts": np.zeros(60)}, "wieghts"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_that_do_not_fit(tune, npz, name):
    changes, word = BAD_ARRAYS[name]
    arrays = {key: value for key, value in (vectors() | changes).items() if value is not None}
    tune(npz(**arrays), kind="data", say=word)


def test_nan_in_the_values_is_named_with_its_place(tune, npz):
    data = vectors()
    data["x"][17, 3] = np.nan
    assert "17" in tune(npz(**data), kind="data", say="NaN")["message"]


@pytest.mark.parametrize("case", ["small-similar", "large-similar"])
def test_infinity_in_the_values_is_named_with_its_sample(tune, npz, case):
    data = vectors()
    data["x"][17, 3] = np.inf
    tune(npz(**data), case=case, kind="data", say="row 17")


def test_a_frozen_part_that_gives_nan(refused, npz, tmp_path):
    odd = networks.Net()
    x = odd.node("Log", odd.input("x", ["N", 8]), out="logs")
    odd.node("Gemm", x, odd.weight("w", 8, 3), out="y")
    file = tmp_path / "log.onnx"
    onnx.save(odd.model("y", shape=["N", 3]), file)
    arguments = ["--case", "small-similar", "-o", tmp_path / "o.onnx"]
    refused("finetune", file, npz(), *arguments, kind="data", say="NaN")


def test_corrupt_pictures_are_named_and_counted(cli, refused, net, folder, tmp_path):
    place = folder(per_class=30)
    broken = place / "bee" / "03.png"
    broken.write_bytes(broken.read_bytes()[:80])
    (place / "bee" / "notes.txt").write_text("no picture")
    (place / "bee" / ".hidden.png").write_bytes(b"x")
    settings = ["--preprocess", PREPROCESS, "--case", "small-similar"]
    found = cli("finetune", net("convnet"), place, *settings, "-o", tmp_path / "o.onnx")
    data = found["data"]
    assert [item["path"].endswith("03.png") for item in data["skipped"]] == [True]
    assert data["skipped"][0]["reason"]
    assert data["train"] + data["validation"] + data["test"] + len(data["skipped"]) == 90
    told = [w for w in found["warnings"] if "1" in w and ("skip" in w or "read" in w)]
    assert told, found["warnings"]
    for item in range(5):
        (place / "ant" / f"{item:02}.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    refused("finetune", net("convnet"), place, *settings, "-o", tmp_path / "p.onnx", say=".png")


def test_every_picture_corrupt(tune, tmp_path):
    for label in ("a", "b"):
        place = tmp_path / "bad" / label
        place.mkdir(parents=True)
        for item in range(5):
            (place / f"{item}.jpg").write_bytes(b"broken")
    tune(tmp_path / "bad", "--preprocess", PREPROCESS, model="convnet", kind="data")


def test_a_missing_preprocess(tune, folder):
    tune(folder(), model="convnet", say="--preprocess")


def test_preprocess_that_cannot_be_meant(tune, folder, tmp_path):
    place = folder()
    tune(place, "--preprocess", "nonsense", model="convnet", say="nonsense")
    tune(place, "--preprocess", "{broken", model="convnet", say="JSON")
    tune(place, "--preprocess", '{"std": [0]}', model="convnet", say="std")
    tune(place, "--preprocess", '{"colour": 1}', model="convnet", say="colour")
    (tmp_path / "p.json").write_text("[]")
    tune(place, "--preprocess", tmp_path / "p.json", model="convnet")


def test_a_size_the_model_cannot_take(tune, folder):
    place = folder()
    tune(place, "--preprocess", PREPROCESS, "--size", "24x24", model="vit", say="--size")


def test_tables_that_do_not_fit(tune, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("a,b\n1,2\n3,4\n")
    tune(table, say="label")
    tune(table, "--label-column", "lable", say="lable")
    rows = "\n".join(",".join(["1"] * 7 + ["oops", str(n % 2)]) for n in range(20))
    table.write_text("a,b,c,d,e,f,g,h,label\n" + rows)
    tune(table, say="oops")
    table.write_text("a,b,label\n" + "\n".join(f"1,2,{n % 2}" for n in range(20)))
    tune(table, say="2")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 broken")
    tune(tmp_path / "t.parquet", say="t.parquet")
    (tmp_path / "t.jsonl").write_text('{"a": 1, "label": 0}\n{broken\n')
    tune(tmp_path / "t.jsonl", say="t.jsonl")


def test_labels_the_file_does_not_know(cli, refused, net, npz, tmp_path):
    tuned = tmp_path / "tuned.onnx"
    cli("finetune", net(), npz(), "--case", "small-similar", "-o", tuned)
    other = vectors()
    other["labels"] = other["labels"] + 1
    more = npz("more.npz", **other)
    refused("evaluate", tuned, more, say="'3'")
    refused("finetune", tuned, more, "-o", tmp_path / "again.onnx", say="'3'")
    found = cli("evaluate", tuned, more, "--ignore-unknown")
    assert found["samples"] == 40
    other["labels"] = other["labels"] + 100
    refused("evaluate", tuned, npz("none.npz", **other), "--ignore-unknown", say="label")


# ── names, numbers, outputs ──────────────────────────────────────────────────────────────────────


def test_unknown_names_are_answered_with_the_nearest(refused, net, npz, tmp_path):
    file, out = net("convnet"), ["-o", tmp_path / "o.onnx"]
    error = refused("operate", file, "--case", "small-simlar", "--classes", 3, *out)
    assert "small-similar" in error["remedy"]
    error = refused("finetune", file, npz(**pictures()), "--case", "big-similar", *out)
    assert "similar" in error["remedy"]
    cut = ["--case", "small-similar", "--classes", 3, "--cut"]
    assert "features" in refused("operate", file, *cut, "feature", *out)["remedy"]
    refused("operate", file, *cut, "@2", *out, say="@2")
    refused("operate", file, *cut, "@", *out, say="@")
    refused("operate", file, *cut, "c1.weight", *out, say="c1.weight")
    refused("operate", file, "--start", "feetures", *out, say="features")
    refused("check", file, "--case", "small-simlar", say="small-similar")
    constant = ["--input", "tmperature=1"]
    scalar = net("scalar_input")
    refused(
        "finetune", scalar, npz(), "--case", "small-similar", *constant, *out, say="temperature"
    )


@pytest.mark.parametrize(
    "option",
    [
        ("--epochs", "-3"), ("--epochs", "0"), ("--epochs", "1.5"), ("--epochs", "abc"),
        ("--batch", "0"), ("--batch", "-1"), ("--lr", "0"), ("--lr", "-1"), ("--lr", "nan"),
        ("--seed", "-1"), ("--seed", "x"), ("--budget", "0"), ("--budget", "-5"),
        ("--validation", "0"), ("--validation", "1.5"), ("--threads", "0"), ("--size", "0x0"),
        ("--precision", "int8"), ("--init", "half"), ("--device", "gpu"), ("--cache-limit", "-1"),
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_meant(tune, npz, option):
    tune(npz(), *option, say=option[0])


def test_classes_that_cannot_be_meant(refused, net, npz, tmp_path):
    file, out = net(), ["-o", tmp_path / "o.onnx"]
    for number in ("0", "-2", "1.5", "abc"):
        refused("operate", file, "--case", "small-similar", "--classes", number, *out)
    refused("operate", file, "--case", "small-similar", *out, say="--classes")
    refused("finetune", file, npz(), "--case", "small-similar", "--classes", 4, *out, say="3")


@pytest.mark.parametrize("verb", ["operate", "finetune"])
def test_outputs_that_cannot_be_written(refused, cli, net, npz, tmp_path, verb):
    head = [
        net(),
        *([npz()] if verb == "finetune" else ["--classes", 3]),
        "--case",
        "small-similar",
    ]
    old = tmp_path / "old.onnx"
    old.write_bytes(b"precious")
    refused(verb, *head, "-o", old, kind="output", say="--force")
    refused(verb, *head, "-o", tmp_path, kind="output", say="folder")
    refused(verb, *head, "-o", tmp_path, "--force", kind="output", say="folder")
    refused(verb, *head, "-o", tmp_path / "no" / "o.onnx", kind="output", say="folder")
    refused(verb, *head, "-o", old / "o.onnx", kind="output")
    cli(verb, *head, "-o", old, "--force")
    assert onnx.load(old).graph.output[0].name == "logits"


def test_a_failure_after_force_leaves_the_old_file(refused, net, npz, tmp_path, monkeypatch):
    old = tmp_path / "old.onnx"
    old.write_bytes(b"precious")
    file, data = net(), npz()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    arguments = ["--case", "small-similar", "-o", old, "--force"]
    refused("finetune", file, data, *arguments, code=3, say="disk")
    refused("operate", file, "--classes", 3, *arguments, code=3, say="disk")
    assert old.read_bytes() == b"precious"


def test_the_output_may_replace_its_own_source(cli, net, npz, tmp_path):
    file = net()
    cli("finetune", file, npz(), "--case", "small-similar", "-o", file, "--force")
    assert cli("verify", file)["passed"] is True


def test_no_proof_to_verify(refused, net, cli, tmp_path):
    file = net()
    refused("verify", file, say="proof")
    out = tmp_path / "operated.onnx"
    cli("operate", file, "--case", "small-similar", "--classes", 3, "-o", out)
    refused("verify", out, say="proof")


def test_no_case_and_no_plan(refused, net, npz, tmp_path):
    refused("finetune", net(), npz(), "-o", tmp_path / "o.onnx", say="--case")


def test_resume_without_a_checkpoint(call, net, npz, tmp_path):
    """Nothing to go on with: it starts anew or says so; it never crashes."""
    arguments = ["--case", "large-similar", "--epochs", 1, "--resume", "-o", tmp_path / "o.onnx"]
    done = call("finetune", net(), npz(), *arguments)
    assert done.code in (0, 2)
    assert "checkpoint" in done.err
    assert "Traceback" not in done.err


def test_a_gpu_that_is_not_there(refused, net, npz, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    data, out = npz(), ["-o", tmp_path / "o.onnx"]
    for device in ("cuda", "cuda:0", "cuda:7"):
        for case in ("small-similar", "large-similar"):
            refused(
                "finetune", net(), data, "--case", case, "--device", device, *out,
                code=3, kind="environment", say="cuda",
            )  # fmt: skip


def test_a_gpu_that_is_not_there_for_using(refused, cli, net, npz, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    tuned, data = tmp_path / "t.onnx", npz()
    cli("finetune", net(), data, "--case", "small-similar", "-o", tuned)
    for verb, more in (("evaluate", [data]), ("predict", [data]), ("verify", [])):
        refused(verb, tuned, *more, "--device", "cuda", code=3, say="cuda")


# ── what goes wrong in training ──────────────────────────────────────────────────────────────────


def test_a_loss_that_is_not_a_number(cli, net, npz, tmp_path):
    out = tmp_path / "o.onnx"
    data = npz(**pictures())
    arguments = ["--case", "large-similar", "--epochs", 8, "--lr", "1e20", "-o", out]
    found = cli("finetune", net("convnet"), data, *arguments, code=1)
    assert found["stopped"] == "nan"
    assert found["delivered"] in ("probe", "tuned", "start")
    assert any("NaN" in w or "not a number" in w for w in found["warnings"]), found["warnings"]
    assert cli("verify", out)["passed"] is True
    assert sorted(p.name for p in tmp_path.iterdir()) == ["convnet.onnx", "data.npz", "o.onnx"]


def test_out_of_memory_halves_the_batch_and_says_so(cli, net, npz, tmp_path, monkeypatch):
    import torch
    from torch.nn import functional

    real = functional.cross_entropy

    def short(logits, *args, **kwargs):
        if torch.is_grad_enabled() and len(logits) > 4:
            raise torch.OutOfMemoryError("out of memory")
        return real(logits, *args, **kwargs)

    monkeypatch.setattr(functional, "cross_entropy", short)
    out = tmp_path / "o.onnx"
    arguments = ["--case", "large-similar", "--epochs", 2, "--batch", 16, "-o", out]
    found = cli("finetune", net("convnet"), npz(**pictures()), *arguments)
    assert any("memory" in w and "4" in w for w in found["warnings"]), found["warnings"]


def test_out_of_memory_at_one_sample(refused, net, npz, tmp_path, monkeypatch):
    import torch
    from torch.nn import functional

    def none(*args, **kwargs):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(functional, "cross_entropy", none)
    arguments = ["--case", "large-similar", "--epochs", 2, "-o", tmp_path / "o.onnx"]
    refused("finetune", net("convnet"), npz(**pictures()), *arguments, code=3, say="memory")


def test_bf16_on_the_cpu(cli, net, npz, tmp_path):
    out = tmp_path / "o.onnx"
    arguments = ["--case", "large-similar", "--epochs", 2, "--precision", "bf16", "-o", out]
    found = cli("finetune", net("convnet"), npz(**pictures()), *arguments)
    assert found["precision"] == "bf16"
    assert found["proof"]["parity"]["max_relative"] <= 1e-4


def test_a_folder_that_is_a_picture(refused, cli, net, folder, tmp_path):
    place, tuned = folder(), tmp_path / "t.onnx"
    arguments = ["--case", "small-similar", "--preprocess", PREPROCESS, "-o", tuned]
    cli("finetune", net("convnet"), place, *arguments)
    paint(tmp_path / "one.png", 0, 5)
    refused("evaluate", tuned, tmp_path / "one.png")
    refused("predict", tuned, tmp_path / "gone.png", say="gone.png")
    (tmp_path / "bad.png").write_bytes(b"broken")
    found = cli("predict", tuned, tmp_path / "one.png", tmp_path / "bad.png")
    assert [item["input"].endswith("bad.png") for item in found["failed"]] == [True]
    assert len(found["predictions"]) == 1


def test_the_same_through_a_process_of_its_own(tmp_path, npz, net):
    (tmp_path / "bad.onnx").write_bytes(b"text")
    before = listing(tmp_path)
    done = shell("inspect", tmp_path / "bad.onnx", "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["exit"]) == (2, 2)
    done = shell("inspect", tmp_path / "bad.onnx")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "to do:" in done.stderr
    assert listing(tmp_path) == before
