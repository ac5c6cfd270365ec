"""The Python API as printed, going on with files, third-party cases, and ends by force."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import networks
import numpy as np
import onnx
import onnx.backend.base
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from stranger import PREPROCESS, SURGEON, pictures, shell, vectors

import surgeon
from surgeon.errors import SurgeonError, UnknownNameError


def weights_of(proto):
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def test_the_six_lines(net, tmp_path):
    path = net("convnet")
    before = path.read_bytes()
    model = surgeon.load(path)
    assert model.labels is None
    cuts = model.cuts()
    assert [c.tensor for c in cuts]
    assert isinstance(model.proto, ModelProto)
    frozen = model.proto.SerializeToString()
    patient = surgeon.operate(model, case="small-similar", classes=3, cut=None)
    assert patient is not model
    assert patient.plan.case == "small-similar"
    assert set(patient.trainable) == {"surgeon.head.weight", "surgeon.head.bias"}
    operated = patient.proto.SerializeToString()
    data = pictures()
    kept = {key: value.copy() for key, value in data.items()}
    outcome = surgeon.finetune(patient, data, epochs=None, device="auto", seed=0)
    assert outcome.metrics["validation"]["accuracy"] > 0.8
    assert outcome.history
    assert outcome.proof["version"]
    assert outcome.model.labels == ["0", "1", "2"]
    outcome.model.save(tmp_path / "out.onnx")
    told = surgeon.predict(tmp_path / "out.onnx", {"x": data["x"]})
    assert told.probabilities.shape == (60, 3)
    assert len(told.labels) == 60
    assert set(told.labels) <= {"0", "1", "2"}
    verdict = surgeon.verify(tmp_path / "out.onnx", source=path)
    assert verdict.passed is True
    assert all(check.passed for check in verdict.checks)
    # nothing that went in was changed
    assert path.read_bytes() == before
    assert model.proto.SerializeToString() == frozen
    assert patient.proto.SerializeToString() == operated
    assert all(np.array_equal(kept[key], data[key]) for key in data)


@pytest.mark.parametrize("case", ["small-similar", "large-similar", "large-different"])
def test_the_seed_decides_every_bit(net, case):
    path, data = net("batchnorm"), pictures(90, side=8)
    settings = {"case": case, "epochs": 3}
    if case == "large-different":
        settings["init"] = "random"
    one, two = (surgeon.finetune(path, data, seed=3, **settings) for _ in range(2))
    assert one.model.proto.SerializeToString(
        deterministic=True
    ) == two.model.proto.SerializeToString(deterministic=True)
    three = surgeon.finetune(path, data, seed=4, **settings)
    assert three.model.proto != one.model.proto


def test_torch_there_and_back(net):
    for name in ("convnet", "batchnorm", "residual", "tied", "vit", "lstm_state", "nhwc"):
        model = networks.ZOO[name]()
        module = surgeon.to_torch(model)
        assert not module.training
        feeds = networks.feeds(model)
        with torch.no_grad():
            got = module(*(torch.from_numpy(value) for value in feeds.values()))
        assert isinstance(got, torch.Tensor)
        wanted = networks.run(model, feeds)[
            "y" if "y" in [o.name for o in model.graph.output] else model.graph.output[0].name
        ]
        assert np.abs(got.numpy() - wanted).max() <= 1e-4 * max(np.abs(wanted).max(), 1e-6)
        floats = {
            t.name for t in model.graph.initializer
            if t.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
        }  # fmt: skip
        assert set(module.state_dict()) == floats
        names = [n for n, _ in module.named_parameters()]
        assert set(names) <= floats
        assert not {n for n in names if n.endswith((".mean", ".var"))}
        tensors = surgeon.tensors(module)
        assert set(tensors) == floats
        for source in (tensors, module.state_dict(), module):
            same = surgeon.write_back(model, source)
            assert same.SerializeToString() == model.SerializeToString()


def test_every_form_of_source_for_to_torch(net):
    path = net("mlp")
    x = torch.randn(2, 8)
    results = [
        surgeon.to_torch(form)(x) for form in (path, str(path), onnx.load(path), surgeon.load(path))
    ]
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_two_outputs_are_a_tuple_in_order():
    got = surgeon.to_torch(networks.two_outputs())(torch.randn(2, 8))
    assert isinstance(got, tuple)
    assert [tuple(t.shape) for t in got] == [(2, 12), (2, 5)]


def test_write_back_refuses_wrong_names(net):
    model = onnx.load(net("mlp"))
    tensors = surgeon.tensors(surgeon.to_torch(model))
    with pytest.raises(SurgeonError):
        surgeon.write_back(model, tensors | {"w9": tensors["w1"]})
    with pytest.raises(SurgeonError):
        surgeon.write_back(model, {"w1": tensors["w1"]})
    with pytest.raises(SurgeonError):
        surgeon.write_back(model, tensors | {"w1": tensors["w1"].T})


def test_one_sgd_step_changes_what_is_trainable_and_nothing_else(net):
    for name in ("batchnorm", "residual", "tied", "vit"):
        patient = surgeon.operate(net(name), case="large-similar", classes=3)
        module = surgeon.to_torch(patient)
        torch.manual_seed(0)
        feeds = networks.feeds(patient.proto, batch=6)
        values = [torch.from_numpy(v) for v in feeds.values()]
        module.train()
        parameters = dict(module.named_parameters())
        assert set(patient.trainable) <= set(parameters)
        optimizer = torch.optim.SGD([parameters[n] for n in patient.trainable], lr=0.1)
        loss = torch.nn.functional.cross_entropy(module(*values), torch.arange(6) % 3)
        loss.backward()
        for parameter in patient.trainable:
            gradient = parameters[parameter].grad
            assert gradient is not None, parameter
            assert torch.isfinite(gradient).all()
        optimizer.step()
        after = surgeon.write_back(patient, module)
        old, new = weights_of(patient.proto), weights_of(after)
        changed = {n for n in old if old[n].tobytes() != new[n].tobytes()}
        statistics = {n for n in old if n.endswith((".mean", ".var"))}
        assert changed <= set(patient.trainable) | statistics
        assert "surgeon.head.weight" in changed
        assert after.graph.node == patient.proto.graph.node


def test_the_backend(net):
    backend = surgeon.onnx_backend
    assert issubclass(backend, onnx.backend.base.Backend)
    assert backend.supports_device("CPU")
    model = networks.mlp()
    feeds = networks.feeds(model)
    wanted = networks.run(model, feeds)["y"]
    got = backend.run_model(model, [feeds["x"]])[0]
    assert np.allclose(got, wanted, atol=1e-5)
    prepared = backend.prepare(model, "CPU")
    assert np.allclose(prepared.run([feeds["x"]])[0], wanted, atol=1e-5)
    node = helper.make_node("Relu", ["a"], ["b"])
    assert (backend.run_node(node, [np.array([-1.0, 2.0], np.float32)])[0] == [0, 2]).all()


def test_names_of_the_public_api():
    for name in (
        "load", "operate", "finetune", "to_torch", "tensors", "write_back", "predict", "verify",
        "onnx_backend",
    ):  # fmt: skip
        assert hasattr(surgeon, name)
        assert name in dir(surgeon)


def test_errors_are_one_tree(net):
    for call in (
        lambda: surgeon.load("nowhere.onnx"),
        lambda: surgeon.load(3),
        lambda: surgeon.operate(net(), case="small-simlar", classes=3),
        lambda: surgeon.operate(net(), case="small-similar", classes=0),
        lambda: surgeon.operate(net(), case="small-similar", classes=-3),
        lambda: surgeon.operate(net(), case="small-similar", classes=1.5),
        lambda: surgeon.operate(net(), case="small-similar", classes="many"),
        lambda: surgeon.operate(net(), case="small-similar", classes=True),
        lambda: surgeon.operate(net(), case="small-similar", classes=3, cut="nowhere"),
        lambda: surgeon.operate(net(), case="small-similar", classes=3, cut=0.5),
        lambda: surgeon.operate(net(), case=3, classes=3),
        lambda: surgeon.operate(net(), case="small-similar", classes=3, init="half"),
        lambda: surgeon.finetune(net(), vectors(), case="small-similar", epochs=-3),
        lambda: surgeon.finetune(net(), vectors(), case="large-similar", epochs=0),
        lambda: surgeon.finetune(net(), vectors(), case="large-similar", epochs="x"),
        lambda: surgeon.finetune(net(), vectors(), case="small-similar", device="tpu"),
        lambda: surgeon.finetune(net(), vectors(), case="small-similar", precision="int8"),
        lambda: surgeon.finetune(net(), vectors(), case="small-similar", seed=-1),
        lambda: surgeon.finetune(net(), vectors(), case="small-similar", batch=0),
        lambda: surgeon.finetune(net(), vectors(), case="large-similar", batch=-2),
        lambda: surgeon.finetune(net(), vectors(), case="large-similar", lr=float("nan")),
        lambda: surgeon.finetune(net(), vectors(), case="large-similar", budget=-1),
        lambda: surgeon.finetune(net(), vectors(), case="small-similar", validation=2.0),
        lambda: surgeon.finetune(net(), vectors(), case="small-similar", augment="wild"),
        lambda: surgeon.finetune(net(), vectors(), case="small-similar", threads=0),
        lambda: surgeon.finetune(net(), 3, case="small-similar"),
        lambda: surgeon.finetune(net(), None, case="small-similar"),
        lambda: surgeon.finetune(net(), vectors()),
        lambda: surgeon.predict(net(), {"z": np.zeros((2, 8), np.float32)}),
        lambda: surgeon.predict(net(), []),
        lambda: surgeon.verify(net()),
    ):
        with pytest.raises(SurgeonError):
            call()


def test_kinds_of_numpy_and_torch_are_welcome(net, tmp_path):
    patient = surgeon.operate(net(), case="small-similar", classes=np.int64(3))
    assert (patient.plan.classes, type(patient.plan.classes)) == (3, int)
    data = vectors()
    outcome = surgeon.finetune(patient, data, device=torch.device("cpu"), seed=np.int64(2))
    outcome.model.save(tmp_path / "t.onnx")
    one = surgeon.predict(tmp_path / "t.onnx", data["x"])
    assert np.array_equal(one.probabilities, surgeon.predict(outcome.model, data).probabilities)


def test_predict_takes_one_path_or_many(net, folder, tmp_path):
    place = folder()
    outcome = surgeon.finetune(net("convnet"), place, case="small-similar", preprocess=PREPROCESS)
    tuned = outcome.model.save(tmp_path / "t.onnx")
    files = sorted(place.rglob("*.png"))
    many = surgeon.predict(tuned, files)
    assert many.probabilities.shape == (36, 3)
    one = surgeon.predict(tuned, files[0])
    assert one.probabilities.shape == (1, 3)
    assert np.allclose(one.probabilities[0], many.probabilities[0], atol=1e-6)
    assert surgeon.predict(tuned, str(place)).probabilities.shape == (36, 3)
    assert surgeon.predict(outcome.model, str(files[0])).labels == one.labels


# ── going on ─────────────────────────────────────────────────────────────────────────────────────


def test_a_tuned_file_goes_on_by_its_plan(cli, net, npz, tmp_path):
    source, one, two = net("convnet"), tmp_path / "1.onnx", tmp_path / "2.onnx"
    data = npz(**pictures(90))
    first = cli("finetune", source, data, "--case", "large-similar", "--epochs", 2, "-o", one)
    arguments = ["--epochs", 2, "--lr", "0.02", "-o", two]
    again = cli("finetune", one, npz("b.npz", **pictures(90, seed=7)), *arguments)
    assert (again["case"], again["plan"]["cut"]) == ("large-similar", first["plan"]["cut"])
    assert again["labels"] == ["0", "1", "2"]
    assert onnx.load(one).graph.node == onnx.load(two).graph.node
    assert sorted(again["trainable"]) == sorted(first["trainable"])
    old, new = weights_of(onnx.load(one)), weights_of(onnx.load(two))
    changed = {n for n in old if old[n].tobytes() != new[n].tobytes()}
    assert set(again["changed"]) == changed
    assert cli("verify", two)["passed"] is True
    assert cli("verify", two, "--source", source)["passed"] is True


def test_a_frozen_case_goes_on(cli, net, npz, tmp_path):
    source, one, two = net("convnet"), tmp_path / "1.onnx", tmp_path / "2.onnx"
    cli("finetune", source, npz(**pictures(90)), "--case", "small-different", "-o", one)
    few = pictures(90)
    keep = few["labels"] < 2
    few = {key: value[keep] for key, value in few.items()}
    found = cli("finetune", one, npz("few.npz", **few), "-o", two)
    assert found["labels"] == ["0", "1", "2"]
    assert found["data"]["classes"]["2"] == 0
    assert found["case"] == "small-different"
    assert set(found["changed"]) == {"surgeon.head.weight", "surgeon.head.bias"}
    verdict = cli("verify", two, "--source", source)
    assert verdict["passed"] is True


def test_a_case_operates_anew_on_a_tuned_file(cli, net, npz, tmp_path):
    one, two = tmp_path / "1.onnx", tmp_path / "2.onnx"
    data = npz(**pictures(90))
    cli("finetune", net("convnet"), data, "--case", "large-similar", "--epochs", 1, "-o", one)
    five = npz("five.npz", **pictures(100, classes=5))
    found = cli("finetune", one, five, "--case", "small-similar", "-o", two)
    assert len(found["labels"]) == 5
    assert found["case"] == "small-similar"
    assert len(found["trainable"]) == 2
    model = onnx.load(two)
    assert [o.name for o in model.graph.output] == ["logits"]
    assert weights_of(model)[found["trainable"][0]].shape[0] == 5
    assert cli("verify", two, "--source", one)["passed"] is True


def test_operate_then_finetune(cli, net, npz, tmp_path):
    source, patient = net("convnet"), tmp_path / "p.onnx"
    straight, stepwise = tmp_path / "a.onnx", tmp_path / "b.onnx"
    data = npz(**pictures())
    for case in ("small-similar", "large-similar"):
        head = ["--case", case]
        cli("operate", source, *head, "--classes", 3, "--force", "-o", patient)
        two = cli("finetune", patient, data, "--epochs", 2, "--force", "-o", stepwise)
        one = cli("finetune", source, data, *head, "--epochs", 2, "--force", "-o", straight)
        assert two["case"] == case
        assert two["trainable"] == one["trainable"]
        for name, value in weights_of(onnx.load(straight)).items():
            assert value.tobytes() == weights_of(onnx.load(stepwise))[name].tobytes(), name
        assert cli("verify", stepwise, "--source", source)["passed"] is True


def test_operate_then_finetune_with_other_classes(refused, cli, net, npz, tmp_path):
    patient = tmp_path / "p.onnx"
    cli("operate", net("convnet"), "--case", "small-similar", "--classes", 4, "-o", patient)
    refused("finetune", patient, npz(**pictures()), "-o", tmp_path / "o.onnx", say="4")


def test_start_at_an_inner_tensor(cli, refused, net, npz, tmp_path):
    out = tmp_path / "tail.onnx"
    cli("operate", net("residual"), "--start", "b1.out", "-o", out)
    model = onnx.load(out)
    assert [i.name for i in model.graph.input] == ["b1.out"]
    full = onnx.load(net("residual"))
    feeds = networks.feeds(full)
    inner = networks.run(networks.with_outputs(full, "b1.out"), feeds, ["b1.out", "y"])
    tail = networks.run(model, {"b1.out": inner["b1.out"]})
    assert np.allclose(next(iter(tail.values())), inner["y"], atol=1e-5)
    refused(
        "operate", net("residual"), "--start", "b1.inner", "-o", tmp_path / "x.onnx", say="b1.inner"
    )
    both = ["--start", "stem", "--case", "small-similar", "--classes", 3]
    found = cli("operate", net("residual"), *both, "-o", tmp_path / "both.onnx")
    assert found["output"] == "logits"
    rows = np.random.default_rng(0).normal(size=(60, 6, 8, 8)).astype(np.float32)
    data = npz(stem=rows, labels=np.arange(60) % 3)
    cli("finetune", tmp_path / "both.onnx", data, "-o", tmp_path / "t.onnx")


# ── third parties ────────────────────────────────────────────────────────────────────────────────

PLUGIN = '''
"""Three cases written from the documentation alone."""
from surgeon.plugin import hookimpl
from surgeon.records import Case, Head, Plan, Stage


def last_third(context):
    names = [p.name for p in context.parameters if p.depth >= 0.5 and p.size > 1]
    kept = [n for n in names if context.old_head is None or n not in context.old_head.weights]
    return Plan(
        case="last-third", cut=context.late, trainable=tuple(kept), head=Head(pool="mean"),
        stages=(
            Stage("probe", "head", method="solve"),
            Stage("rest", "all", epochs=2, lr=0.01, method="adamw"),
        ),
        why="the last third",
    )


@hookimpl
def surgeon_cases():
    yield Case("last-third", "train the end", lambda evidence: 0.2, last_third)
    yield Case("half-way", "as in the docs", lambda evidence: 0.1,
               lambda context: Plan(case="half-way", cut="@0.5", trainable="head"))
    yield Case("wrong-type", "returns text", lambda evidence: 0.0, lambda context: "late")
    yield Case("wrong-name", "unknown weight", lambda evidence: 0.0,
               lambda context: Plan(trainable=("nowhere.weight",)))
    yield Case("wrong-word", "unknown word", lambda evidence: 0.0,
               lambda context: Plan(trainable="some"))
    yield Case("wrong-cut", "unknown cut", lambda evidence: 0.0,
               lambda context: Plan(cut="nowhere"))
    yield Case("wrong-pool", "unknown pool", lambda evidence: 0.0,
               lambda context: Plan(head=Head(pool="median")))
    yield Case("wrong-kind", "unknown head", lambda evidence: 0.0,
               lambda context: Plan(head=Head(kind="tree")))
    yield Case("wrong-stage", "unknown method", lambda evidence: 0.0,
               lambda context: Plan(stages=(Stage("a", "head", method="magic"),)))
    yield Case("wrong-trains", "a stage trains what the plan does not", lambda evidence: 0.0,
               lambda context: Plan(stages=(Stage("a", ("c1.weight",), method="adamw"),)))
    yield Case("raises", "divides by zero", lambda evidence: 0.0, lambda context: 1 / 0)
    yield Case("wrong-init", "unknown start", lambda evidence: 0.0,
               lambda context: Plan(init="zeros"))
    yield Case("wrong-fields", "types of nothing", lambda evidence: 0.0,
               lambda context: Plan(cut=3, trainable=7, stages=5, head=None))
    yield Case("adam-head", "the head by steps", lambda evidence: 0.0,
               lambda context: Plan(stages=(Stage("steps", "head", epochs=3, method="adamw"),)))
'''


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """Install the plugin the way pip does: a module and its dist-info on the path."""
    site = tmp_path / "site"
    info = site / "surgeon_third-1.2.dist-info"
    info.mkdir(parents=True)
    (site / "third_party_cases.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: surgeon-third\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[surgeon]\nthird = third_party_cases\n")
    monkeypatch.syspath_prepend(str(site))
    yield site
    sys.modules.pop("third_party_cases", None)


def test_a_third_party_appears_and_can_be_hidden(cli, third_party):
    found = {case["name"]: case for case in cli("cases")["cases"]}
    assert (found["last-third"]["distribution"], found["last-third"]["version"]) == (
        "surgeon-third",
        "1.2",
    )
    hidden = {case["name"] for case in cli("cases", "--no-plugins")["cases"]}
    assert "last-third" not in hidden
    assert "small-similar" in hidden


def test_a_third_party_trains_part_of_a_network(cli, net, npz, tmp_path, third_party):
    source, patient, out = net("residual"), tmp_path / "p.onnx", tmp_path / "o.onnx"
    cli("operate", source, "--case", "last-third", "--classes", 3, "-o", patient)
    data = npz(**pictures(90, side=8))
    found = cli("finetune", source, data, "--case", "last-third", "-o", out)
    head = {"surgeon.head.weight", "surgeon.head.bias"}
    trained = set(found["trainable"])
    assert head < trained
    assert "stem.weight" not in trained
    frontier = found["frontier"]
    assert frontier["nodes_frozen"] > 0
    assert frontier["nodes_trained"] > 1
    assert found["history"][0]["stage"] == "probe"
    assert {stage["name"] for stage in found["plan"]["stages"]} == {"probe", "rest"}
    assert onnx.load(patient).graph.node == onnx.load(out).graph.node
    old, new = weights_of(onnx.load(patient)), weights_of(onnx.load(out))
    changed = {n for n in old if old[n].tobytes() != new[n].tobytes()}
    assert changed == set(found["changed"])
    assert changed <= trained
    assert cli("verify", out, "--source", source)["passed"] is True
    again = cli("finetune", out, data, "-o", tmp_path / "again.onnx")
    assert set(again["trainable"]) == trained
    assert again["case"] == "last-third"
    hidden = cli("finetune", out, data, "--no-plugins", "-o", tmp_path / "b.onnx")
    assert hidden["case"] == "last-third"


def test_a_third_party_trains_the_head_by_steps(cli, net, npz, tmp_path, third_party):
    arguments = ["--case", "adam-head", "-o", tmp_path / "o.onnx"]
    found = cli("finetune", net("convnet"), npz(**pictures(90)), *arguments)
    assert set(found["changed"]) <= {"surgeon.head.weight", "surgeon.head.bias"}
    assert [row["stage"] for row in found["history"][:2]] == ["probe", "steps"]
    assert found["frontier"]["nodes_trained"] >= 1
    found = cli(
        "finetune", net("convnet"), npz(**pictures(90)), "--case", "half-way", "--force",
        "-o", tmp_path / "o.onnx",
    )  # fmt: skip
    assert 0.3 < found["plan"]["depth"] < 0.9


@pytest.mark.parametrize(
    "case",
    ["wrong-type", "wrong-name", "wrong-word", "wrong-cut", "wrong-pool", "wrong-kind",
     "wrong-stage", "wrong-trains", "raises", "wrong-init", "wrong-fields"],
)  # fmt: skip
def test_what_a_third_party_does_wrong_is_told(refused, net, npz, tmp_path, third_party, case):
    data = npz(**pictures())
    arguments = ["--case", case, "-o", tmp_path / "o.onnx"]
    error = refused("finetune", net("convnet"), data, *arguments)
    assert error["kind"] in ("plugin", "usage", "unknown-name", "unsupported", "model"), error


def test_a_broken_third_party_is_one_warning(call, third_party):
    (third_party / "third_party_cases.py").write_text("import nowhere_to_be_found")
    done = call("cases")
    assert done.code == 0
    lines = [line for line in done.err.splitlines() if "surgeon-third" in line]
    assert len(lines) == 1
    assert call("cases", "--no-plugins").err == ""


# ── ends by force ────────────────────────────────────────────────────────────────────────────────


def _interrupted(arguments, word, patience=600):
    """Start a run, wait until it says `word` on stderr, and press Ctrl-C."""
    child = subprocess.Popen(
        [str(SURGEON), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell's background job ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - one thread
    )
    said = []
    end = time.monotonic() + patience
    for line in child.stderr:
        said.append(line)
        if word in line or time.monotonic() > end:
            break
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=600)
    return child.returncode, out, "".join(said) + err


def test_control_c_delivers_the_best_so_far(net, npz, tmp_path, cli):
    out = tmp_path / "o.onnx"
    data = npz(**pictures(300, side=12))
    arguments = ["finetune", net("convnet"), data, "--case", "large-similar", "--epochs", 3000,
                 "--lr", "1e-5", "-o", out, "--json"]  # fmt: skip
    code, text, err = _interrupted(arguments, "loss")
    assert code == 130, (code, text, err)
    assert "Traceback" not in err
    document = json.loads(text)
    assert document["stopped"] == "interrupt"
    assert document["delivered"] in ("probe", "tuned")
    assert cli("verify", out)["passed"] is True
    left = {path.name for path in tmp_path.iterdir()} - {"convnet.onnx", "data.npz", "o.onnx"}
    assert left <= {"o.onnx.checkpoint"}


@pytest.mark.parametrize("stage", ["features", "solving the head"])
def test_control_c_before_anything_is_learnt_leaves_nothing(net, tmp_path, cache, stage):
    path, out = net("convnet"), tmp_path / "o.onnx"

    def stop(name, done, total, **figures):
        if name == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surgeon.finetune(path, pictures(), out, case="small-similar", progress=stop)
    assert [item.name for item in tmp_path.iterdir()] == ["convnet.onnx"]
    assert not [item for item in cache.rglob("*") if ".part" in item.name]
    outcome = surgeon.finetune(path, pictures(), out, case="small-similar")
    assert outcome.proof["parity"]["max_relative"] <= 1e-4


def test_an_interrupted_run_resumes_bit_for_bit(net, npz, tmp_path):
    path, data = net("batchnorm"), pictures(90, side=8)
    settings = {"case": "large-similar", "epochs": 5, "lr": 0.01}
    whole = surgeon.finetune(path, data, tmp_path / "whole.onnx", **settings)
    assert not (tmp_path / "whole.onnx.checkpoint").exists()
    out = tmp_path / "o.onnx"

    def stop(stage, done, total, **figures):
        if figures.get("epoch") == 3:
            raise KeyboardInterrupt

    part = surgeon.finetune(path, data, out, progress=stop, **settings)
    assert part.body["stopped"] == "interrupt"
    assert surgeon.verify(out).passed
    assert any("--resume" in note for note in part.body["warnings"]), part.body["warnings"]
    rest = surgeon.finetune(path, data, out, resume=True, force=True, **settings)
    assert rest.body["stopped"] is None
    old, new = weights_of(whole.model.proto), weights_of(rest.model.proto)
    assert all(old[name].tobytes() == new[name].tobytes() for name in old)
    assert not (tmp_path / "o.onnx.checkpoint").exists()


def test_a_checkpoint_of_other_settings_is_refused(net, npz, tmp_path):
    path, out = net("batchnorm"), tmp_path / "o.onnx"

    def stop(stage, done, total, **figures):
        if figures.get("epoch") == 3:
            raise KeyboardInterrupt

    settings = {"case": "large-similar", "epochs": 5, "lr": 0.01}
    data = pictures(90, side=8)
    surgeon.finetune(path, data, out, progress=stop, **settings)
    for changed in ({"lr": 0.02}, {"seed": 1}, {"epochs": 7}):
        with pytest.raises(SurgeonError):
            surgeon.finetune(path, data, out, resume=True, force=True, **settings | changed)
    other = pictures(90, side=8, seed=3)
    with pytest.raises(SurgeonError):
        surgeon.finetune(path, other, out, resume=True, force=True, **settings)


def test_a_random_start_of_the_head_alone_is_said(net):
    patient = surgeon.operate(net("convnet"), case="small-similar", classes=3, init="random")
    assert any("--init random" in note for note in patient.notes)
    old, new = weights_of(onnx.load(net("convnet"))), weights_of(patient.proto)
    assert all(old[name].tobytes() == new[name].tobytes() for name in old if name in new)


def test_a_full_disk(net, npz, tmp_path):
    """A file system of 64 kB, where the machine lets us mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        (place / "filler").write_bytes(b"x" * 40_000)
        wide = networks.Net()
        x = wide.input("x", ["N", 8])
        x = wide.node("Relu", wide.node("Gemm", x, wide.weight("w1", 8, 2000)))
        wide.node("Gemm", x, wide.weight("w2", 2000, 3), out="y")
        source = tmp_path / "wide.onnx"
        onnx.save(wide.model("y", shape=["N", 3]), source)
        for arguments in (
            ["finetune", source, npz(), "--case", "small-similar"],
            ["operate", source, "--case", "small-similar", "--classes", 3],
        ):
            done = shell(*arguments, "-o", place / "o.onnx", "--json")
            assert done.returncode == 3, (done.stdout, done.stderr)
            assert json.loads(done.stdout)["error"]["kind"] == "environment"
            assert [p.name for p in place.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_for_the_cache(net, npz, tmp_path, monkeypatch):
    place = tmp_path / "cache"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        monkeypatch.setenv("SURGEON_CACHE", str(place))
        data = npz(**vectors(2000))
        arguments = ["finetune", net(), data, "--case", "small-similar", "--json"]
        done = shell(*arguments, "-o", tmp_path / "o.onnx")
        assert done.returncode in (0, 3), (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        if done.returncode == 3:
            assert not (tmp_path / "o.onnx").exists()
        leftover = [p.name for p in place.rglob("*") if p.is_file() and p.stat().st_size > 4096]
        assert leftover == []
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_importing_costs_nothing():
    program = textwrap.dedent("""
        import sys, surgeon
        heavy = {"torch", "onnxruntime", "datasets", "sklearn", "onnx"} & set(sys.modules)
        assert not heavy, heavy
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_unknown_case_is_an_unknown_name(net):
    with pytest.raises(UnknownNameError) as caught:
        surgeon.operate(net(), case="large-simular", classes=3)
    assert "large-similar" in str(caught.value)
