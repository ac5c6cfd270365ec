"""Files exported in training mode, and the figures of what is delivered."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import surgeon
from surgeon import operation
from surgeon.errors import CheckError, UnsupportedError
from surgeon.job import deliver, measure

WIDTH = 6


def data(n=60):
    random = np.random.default_rng(0)
    means = random.standard_normal((3, WIDTH))
    codes = np.arange(n) % 3
    x = (means[codes] + 0.3 * random.standard_normal((n, WIDTH))).astype(np.float32)
    return {"x": x, "labels": np.array([f"c{code}" for code in codes])}


def flag(net, name, value):
    net.weights.append(numpy_helper.from_array(np.array(value), name))
    return name


def network(kind, opset=17):
    """A network with something in its middle that only training is for."""
    net = nw.Net(opset=opset)
    h = net.node("MatMul", net.input("x", ["N", WIDTH]), net.weight("w", WIDTH, WIDTH), out="h")
    if kind == "bn":
        sides = [net.weight(n, values=np.ones(WIDTH)) for n in ("s", "b", "m", "v")]
        if opset >= 14:
            h, *_ = net.node(
                "BatchNormalization", h, *sides, out=["r", "m1", "v1"], training_mode=1
            )
        else:
            h, *_ = net.node("BatchNormalization", h, *sides, out=["r", "m1", "v1", "m2", "v2"])
    elif kind.startswith("dropout"):
        ratio = 0.0 if kind == "dropout off" else 0.5
        h = net.node("Dropout", h, net.weight("ratio", values=ratio), flag(net, "t", True))
    elif kind == "random":
        h = net.node("Add", h, net.node("RandomNormalLike", h, seed=3.0))
    elif kind == "random off":
        h = net.node(
            "Add",
            h,
            net.node("Mul", net.node("RandomNormalLike", h), net.weight("nil", values=0.0)),
        )
    elif kind == "bernoulli":
        h = net.node("Mul", h, net.node("Bernoulli", net.node("Sigmoid", h)))
    elif kind == "if":
        body = onnx.parser.parse_graph(
            "then () => (float[N,6] t) { n = RandomUniformLike(h) t = Add(h, n) }"
        )
        other = onnx.parser.parse_graph("other () => (float[N,6] o) { o = Abs(h) }")
        total = net.node("ReduceSum", net.node("Abs", h), keepdims=0)
        high = net.node("Greater", total, net.weight("none", values=-1.0))
        h = net.node("If", high, then_branch=body, else_branch=other)
    h = net.node("Tanh", net.node("MatMul", h, net.weight("w2", WIDTH, 5)), out="f")
    net.node("MatMul", h, net.weight("last", 5, 10), out="y")
    return net.model("y", shape=["N", 10])


@pytest.mark.parametrize("case", ["small-similar", "small-different", "large-similar"])
@pytest.mark.parametrize(
    ("kind", "opset", "operator", "remedy"),
    [
        ("bn", 17, "BatchNormalization", "training_mode = 0"),
        ("bn", 9, "BatchNormalization", "training_mode = 0"),
        ("dropout", 17, "Dropout", "training_mode to false"),
        ("random", 17, "RandomNormalLike", "constant"),
        ("bernoulli", 17, "Bernoulli", "constant"),
        ("if", 17, "RandomUniformLike", "constant"),
    ],
)
def test_what_only_training_is_for_is_refused(kind, opset, operator, remedy, case, tmp_path):
    out = tmp_path / "o.onnx"
    cut = {"cut": "f"} if case == "small-different" else {}
    with pytest.raises(UnsupportedError, match=operator) as error:
        surgeon.finetune(network(kind, opset), data(), out, case=case, threads=1, **cut)
    assert remedy in error.value.remedy
    assert "evaluation mode" in error.value.remedy
    assert error.value.where
    assert not out.exists()


def test_check_says_so():
    findings = operation.check(network("bn"), case="small-similar")["findings"]
    assert [f["kind"] for f in findings if f["level"] == "error"] == ["unsteady"]


@pytest.mark.parametrize("kind", ["dropout off", "random off"])
def test_what_has_no_effect_is_not(kind, tmp_path):
    """The head is solved on what it reads, behind the node, and the file gives those figures."""
    out = tmp_path / "o.onnx"
    done = surgeon.finetune(network(kind), data(), out, case="small-similar", threads=1)
    assert [t["name"] for t in done.document()["frontier"]["tensors"]] == ["f"]
    assert surgeon.verify(out).passed


@pytest.mark.parametrize("case", ["small-similar", "large-similar"])
@pytest.mark.parametrize("written", [True, False])
def test_a_file_that_is_not_what_was_trained_is_not_delivered(case, written, tmp_path, monkeypatch):
    """Weights that are lost on the way to the file: nothing is written, the old file stays."""
    out = tmp_path / "o.onnx"
    out.write_bytes(b"before")
    real = deliver.write_back

    def lossy(proto, tensors, **options):
        made = real(proto, tensors, **options)
        weight = next(t for t in made.graph.initializer if t.name == "surgeon.head.weight")
        weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
        return made

    monkeypatch.setattr(deliver, "write_back", lossy)
    with pytest.raises(CheckError, match="other logits"):
        surgeon.finetune(
            network("none"), data(), out if written else None, case=case, threads=1, force=True,
            epochs=2,
        )  # fmt: skip
    assert out.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".onnx"] == ["o.onnx"]


def test_figures_are_those_of_the_written_file(tmp_path, monkeypatch):
    ran = []
    real = measure.open_runner

    def noticed(run, model, *arguments, **options):
        ran.append(model)
        return real(run, model, *arguments, **options)

    monkeypatch.setattr(measure, "open_runner", noticed)
    out = tmp_path / "o.onnx"
    surgeon.finetune(network("none"), data(), out, case="small-similar", threads=1)
    assert len(ran) == 1
    assert ran[0].name == out.name  # where it was before it took its place
