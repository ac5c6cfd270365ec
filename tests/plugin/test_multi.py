"""The multi-depth case of `plugins/surgeon-multi`, as a third party's: several cuts, one Gemm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import networks as nw
import numpy as np
import onnx
import pytest

import surgeon
from surgeon.errors import UnknownNameError, UsageError
from surgeon.plugin import hookimpl
from surgeon.plugin.manager import load_plugins
from surgeon.records import Case, Context, CutPoint, Evidence, Head, Measurement, Plan
from surgeon_models import get

ROOT = Path(__file__).parents[2]
NAME = "small-different-multi"

pytestmark = pytest.mark.skipif(
    find_spec("surgeon_multi") is None, reason="`make` installs plugins/surgeon-multi"
)


def blobs(n=90, seed=0):
    """Pictures whose class is a bright corner, a bright stripe, or nothing."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    x = random.standard_normal((n, 3, 8, 8)).astype(np.float32)
    x[labels == 0, 0, :4, :4] += 1.5
    x[labels == 1, 1] += 0.7
    return {"x": x, "labels": labels}


def tensors(model):
    return {tensor.name: tensor for tensor in model.graph.initializer}


def pooled(model, inputs, names):
    values = nw.run(nw.with_outputs(model, *names), inputs, list(names))
    return [
        v.mean(axis=tuple(range(2, v.ndim))) if v.ndim > 2 else v for v in map(values.get, names)
    ]


def test_the_case_comes_from_its_own_distribution():
    found = load_plugins().offers(Case)[NAME]
    assert found.distribution == "surgeon-multi"
    assert found.offer.measures


def test_the_head_reads_what_the_original_computes_at_every_depth():
    model = nw.residual()
    patient = surgeon.operate(model, case=NAME, classes=3)
    names = [*patient.plan.head.taps, patient.plan.cut]
    assert len(names) > 2
    data = blobs(6)
    features = np.concatenate(pooled(model, {"x": data["x"]}, names), axis=1)
    held = tensors(patient.proto)
    weight, bias = (
        onnx.numpy_helper.to_array(held[f"surgeon.head.{n}"]) for n in ("weight", "bias")
    )
    assert weight.shape == (3, features.shape[1])
    logits = nw.run(patient.proto, {"x": data["x"]})["logits"]
    np.testing.assert_allclose(logits, features @ weight.T + bias, rtol=1e-4, atol=1e-5)
    added = [node.op_type for node in patient.proto.graph.node if "surgeon.head" in node.name]
    assert set(added) <= {"GlobalAveragePool", "Flatten", "Concat", "Gemm"}
    assert added.count("Concat") == added.count("Gemm") == 1
    assert patient.trainable == ["surgeon.head.weight", "surgeon.head.bias"]
    assert [value.name for value in patient.proto.graph.output] == ["logits"]
    assert onnx.checker.check_model(patient.proto, full_check=True) is None


def test_finetune_chooses_by_the_probe_and_keeps_what_it_promises(tmp_path):
    model, data, out = nw.residual(), blobs(), tmp_path / "out.onnx"
    outcome = surgeon.finetune(model, data, out, case=NAME, device="cpu")
    body = outcome.document()
    taps, cut = body["plan"]["head"]["taps"], body["plan"]["cut"]
    accuracy = {c["tensor"]: c["accuracy"] for c in body["advice"]["candidates"]}
    read = [*taps, cut]
    assert 1 < len(read) <= 3
    assert set(read) <= set(accuracy)
    assert min(accuracy[name] for name in read) >= max(
        [accuracy[name] for name in set(accuracy) - set(read)], default=0
    )
    (only,) = body["frontier"]["tensors"]  # pooled vectors alone are kept
    assert len(only["shape"]) == 2
    assert body["frontier"]["nodes_trained"] == 1
    assert set(body["changed"]) == {"surgeon.head.weight", "surgeon.head.bias"}
    verdict = surgeon.verify(out, source=model)
    assert verdict.passed, verdict.checks
    head = surgeon.load(out).plan.head
    assert head == Head(taps=tuple(taps), weights=head.weights)
    held = {"x": data["x"]}
    assert surgeon.predict(out, held).probabilities.shape == (90, 3)
    assert surgeon.evaluate(out, data)["metrics"]["accuracy"] > 0.6
    module = surgeon.to_torch(out)
    same = surgeon.write_back(out, module)
    assert same.SerializeToString(deterministic=True) == onnx.load(str(out)).SerializeToString(
        deterministic=True
    )
    again = surgeon.finetune(out, blobs(seed=1), device="cpu")  # goes on with its plan
    assert again.document()["case"] == NAME
    assert list(again.model.proto.graph.node) == list(outcome.model.proto.graph.node)


def test_the_cut_is_the_deepest():
    model = nw.residual()
    whole = surgeon.operate(model, case=NAME, classes=3)
    short = surgeon.operate(model, case=NAME, classes=3, cut="b1.out")
    assert short.plan.cut == "b1.out"
    assert short.plan.head.taps
    assert set(short.plan.head.taps) < {*whole.plan.head.taps, whole.plan.cut}
    kept = {node.output[0] for node in short.proto.graph.node}
    assert not any(name.startswith("b2.") for name in kept)
    first = surgeon.operate(model, case=NAME, classes=3, cut=short.plan.head.taps[0])
    assert first.plan.head.taps == ()
    assert not any(node.op_type == "Concat" for node in first.proto.graph.node)


@pytest.mark.parametrize(
    "name", ["convnet", "squeezenet", "nhwc", "transformer", "vit", "lstm_state", "shuffle", "mlp",
             "two_outputs", "tied"],
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_maps_tokens_and_states_of_every_form(name):
    model = nw.ZOO[name]()
    free = surgeon.load(model).anatomy().model
    data = nw.feeds(free, batch=24, seed=1) | {"labels": np.arange(24) % 3}
    outcome = surgeon.finetune(model, data, case=NAME, device="cpu")
    assert surgeon.verify(outcome.model.proto, source=model).passed
    onnx.checker.check_model(outcome.model.proto, full_check=True)
    held = {key: value for key, value in data.items() if key != "labels"}
    assert surgeon.predict(outcome.model, held).probabilities.shape == (24, 3)


@pytest.mark.parametrize("dtype", [nw.F16, nw.F64])
def test_other_element_types(dtype):
    model = nw.matmul_add(dtype=dtype)
    data = nw.feeds(model, batch=24, seed=1) | {"labels": np.arange(24) % 3}
    outcome = surgeon.finetune(model, data, case=NAME, device="cpu")
    assert surgeon.verify(outcome.model.proto, source=model).passed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv2", "mobilenetv2-fp16", "efficientnet-lite0-int8"])
def test_real_models(name):
    path = get(name)
    model = surgeon.load(path)
    free = model.anatomy().model
    data = nw.feeds(free, batch=12, length=7, seed=1) | {"labels": np.arange(12) % 2}
    outcome = surgeon.finetune(path, data, case=NAME, device="cpu", validation=0.34)
    assert outcome.model.plan.head.taps
    verdict = surgeon.verify(outcome.model.proto, source=path)
    assert verdict.passed, [check for check in verdict.checks if not check.passed]


def context(**changes):
    cuts = tuple(
        CutPoint(f"t{n}", n / 10, ("N", 4, 2, 2), "float", 0, n, n, n) for n in range(1, 11)
    )
    given = Context(classes=3, cut=None, init=None, late="t10", early="t3", cuts=cuts, taps=cuts)
    return replace(given, **changes)


def test_the_depths_it_chooses():
    plan = load_plugins().offer(Case, NAME).offer.plan
    blind = plan(context())
    assert blind.cut == "t10"
    assert len(blind.head.taps) == 6
    seen = Evidence(
        measurements=tuple(
            Measurement(f"t{depth}", depth, quality)
            for depth, quality in ((0.2, 0.9), (0.4, 0.8), (0.5, 0.95), (0.8, 0.9), (1.0, 0.5))
        )
    )
    chosen = plan(context(evidence=seen))
    assert (chosen.cut, chosen.head.taps) == ("t8", ("t2", "t5", "t8"))
    assert plan(context(cut="t5")).cut == "t5"
    assert plan(context(taps=())).cut == "t10"  # no cut that a pooled head can read


def test_a_third_partys_plan_may_name_taps_by_depth_and_wrong_ones_are_refused():
    def operate(taps, cut="late"):
        class Tapping:
            @hookimpl
            def surgeon_cases(self):
                head = Head(taps=taps)
                yield Case(
                    "tapping", "", lambda _: 0.0,
                    lambda c: Plan(cut=cut, head=head, classes=c.classes),
                )  # fmt: skip

        plugins = load_plugins()
        plugins.manager.register(Tapping())
        return surgeon.operate(nw.residual(), case="tapping", classes=3, plugins=plugins)

    assert operate(("@0.1", "b1.sum", "@0.1")).plan.head.taps == ("conv_0", "b1.sum")
    with pytest.raises(UnknownNameError):
        operate(("nothing",))
    with pytest.raises(UsageError, match="taps"):
        operate((3,))


def test_it_installs_with_pip_and_runs_by_name(tmp_path):
    offline = ["--no-build-isolation", "--no-index"] if find_spec("hatchling") else []
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *offline]
    command += ["--disable-pip-version-check", "--target", str(site)]
    done = subprocess.run(
        [*command, str(ROOT / "plugins" / "surgeon-multi")], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    onnx.save(nw.residual(), str(tmp_path / "net.onnx"))
    np.savez(tmp_path / "data.npz", **blobs(40))
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from surgeon.cli import main; sys.exit(main())",
         "finetune", str(tmp_path / "net.onnx"), str(tmp_path / "data.npz"), "--case", NAME, "-o",
         str(tmp_path / "out.onnx"), "--json", "--device", "cpu"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["plan"]["head"]["taps"]
