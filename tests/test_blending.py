"""Weights between two files of one structure: chosen by a number or by data, or refused."""

from __future__ import annotations

import json

import jsonschema
import networks as nw
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import surgeon
from surgeon import schemas
from surgeon.blending import blend
from surgeon.cli import main
from surgeon.errors import ModelError, OutputError, UsageError


def data(n=60, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    x = random.standard_normal((n, 3, 12, 12)).astype(np.float32)
    x[np.arange(n), labels] += 1.0
    return {"x": x, "labels": np.array(["ant", "bee", "cat"])[labels]}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A file whose head was solved, and the same network tuned whole."""
    folder = tmp_path_factory.mktemp("pair")
    operated = surgeon.operate(nw.convnet(), case="large-similar", classes=3)
    whole = surgeon.finetune(operated, data(), epochs=2, lr=0.02, device="cpu")
    start = surgeon.prove(operated, data(), device="cpu")
    start.save(folder / "start.onnx")
    whole.save(folder / "tuned.onnx")
    return folder / "start.onnx", folder / "tuned.onnx"


def values(path):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("alpha", [0, 0.25, 1])
def test_weights_lie_between(pair, alpha):
    blended = blend(*pair, alpha=alpha)
    first, second = map(values, pair)
    found = {t.name: numpy_helper.to_array(t) for t in blended.model.proto.graph.initializer}
    assert found.keys() == second.keys()
    for name, value in found.items():
        assert value.dtype == second[name].dtype
        wanted = (1 - alpha) * first[name] + alpha * second[name]
        np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-6)
        if alpha in (0, 1):
            assert np.array_equal(value, (first, second)[alpha][name])
    assert blended.alpha == alpha
    assert blended.tried == ()


def test_all_but_weights_is_the_seconds(pair, tmp_path):
    out = tmp_path / "between.onnx"
    assert blend(*pair, out=out).alpha == 0.5
    second, found = surgeon.load(pair[1]), surgeon.load(out)
    assert [n.SerializeToString() for n in found.proto.graph.node] == [
        n.SerializeToString() for n in second.proto.graph.node
    ]
    assert found.labels == second.labels == ["ant", "bee", "cat"]
    assert found.plan == second.plan
    assert found.proof is None
    with pytest.raises(OutputError):
        blend(*pair, out=out)


def test_data_choose_and_the_file_is_proven(pair, tmp_path):
    out = tmp_path / "between.onnx"
    blended = blend(*pair, data(), out, device="cpu")
    assert [row["alpha"] for row in blended.tried] == [step / 10 for step in range(11)]
    best = max(row["quality"] for row in blended.tried)
    assert best == next(r["quality"] for r in blended.tried if r["alpha"] == blended.alpha)
    assert surgeon.verify(out).passed
    ends = [surgeon.evaluate(path, data())["metrics"]["accuracy"] for path in pair]
    assert surgeon.evaluate(out, data())["metrics"]["accuracy"] >= min(ends)


def test_the_same_data_choose_alike(pair):
    one, other = (blend(*pair, data(), device="cpu", seed=3) for _ in range(2))
    assert one.model.proto.graph == other.model.proto.graph
    assert one.tried == other.tried


def test_a_plan_trains_what_differs(pair):
    head_only = surgeon.finetune(nw.convnet(), data(), case="small-similar", device="cpu")
    one = head_only.model
    other = surgeon.load(pair[1])
    blended = blend(other, one, data(), device="cpu")
    assert {"c1.weight", "c2.bias"} <= set(blended.model.trainable)


def test_the_command_writes_the_document(pair, tmp_path, capsys):
    out = tmp_path / "between.onnx"
    np.savez(tmp_path / "data.npz", **data())
    files = [str(path) for path in pair]
    assert main(["blend", *files, str(tmp_path / "data.npz"), "-o", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(schemas.load("blend")).validate(document)
    assert len(document["tried"]) == 11
    assert main(["blend", *files, "--alpha", "0.3", "-o", str(out), "--force", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["alpha"], document["tried"], document["out"]) == (0.3, [], str(out))
    assert main(["blend", *files]) == 2


def changed(change, network=nw.convnet):
    model = network()
    change(model)
    return model


def relu(model):
    model.graph.node[1].op_type = "Tanh"


def renamed(model):
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "other"


def shorter(model):
    del model.graph.node[-1:]
    model.graph.output[0].name = model.graph.node[-1].output[0]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: changed(relu), "node"),
        (lambda: changed(renamed), "other"),
        (lambda: changed(shorter), "nodes"),
        (nw.residual, "nodes"),
        (lambda: nw.convnet(dtype=nw.F16), "type"),
        (lambda: nw.convnet(opset=13), "opset"),
    ],
)  # fmt: skip
def test_another_structure_is_refused(other, said):
    with pytest.raises(ModelError, match=said) as caught:
        blend(nw.convnet(), other())
    assert caught.value.remedy


def test_other_labels_are_refused(pair):
    other = surgeon.finetune(
        nw.convnet(), {**data(), "labels": data()["x"].mean((1, 2, 3)).argsort() % 3},
        case="small-similar", device="cpu",
    )  # fmt: skip
    with pytest.raises(ModelError, match="labels"):
        blend(pair[0], other.model)


def quantised(start):
    net = nw.Net()
    net.weights.append(
        numpy_helper.from_array(np.arange(start, start + 40, dtype=np.int8).reshape(5, 8), "w")
    )
    net.weights.append(numpy_helper.from_array(np.float32(0.1), "scale"))
    weight = net.node("DequantizeLinear", "w", "scale")
    net.node("Gemm", net.input("x", ["N", 8]), weight, net.weight("b", 5), out="y", transB=1)
    return net.model("y", shape=["N", 5])


def test_quantised_weights_are_refused():
    with pytest.raises(ModelError, match="quantised"):
        blend(quantised(0), quantised(1))
    assert blend(quantised(0), quantised(0)).warnings == ("the files have the same weights",)


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan"), "half", True])
def test_a_share_that_is_none_is_refused(pair, alpha):
    with pytest.raises(UsageError, match="alpha"):
        blend(*pair, alpha=alpha)


def test_a_share_and_data_are_one_too_many(pair):
    with pytest.raises(UsageError, match="alpha"):
        blend(*pair, data(), alpha=0.5)


@pytest.fixture(scope="module")
def three(pair, tmp_path_factory):
    """Two files and one that is spoilt, which no soup should take."""
    spoilt = surgeon.load(pair[1]).proto
    copy = onnx.ModelProto()
    copy.CopyFrom(spoilt)
    random = np.random.default_rng(0)
    for tensor in copy.graph.initializer:
        noise = random.standard_normal(tuple(tensor.dims)).astype(np.float32) * 3
        tensor.CopyFrom(numpy_helper.from_array(noise, tensor.name))
    path = tmp_path_factory.mktemp("three") / "spoilt.onnx"
    onnx.save(copy, path)
    return path, *pair


def test_a_uniform_soup_is_the_mean(three):
    one, two, three_ = three
    blended = blend(one, two, also=[three_])
    assert (blended.alpha, blended.soup) == (None, "uniform")
    assert [row["weight"] for row in blended.members] == [pytest.approx(1 / 3)] * 3
    found = {t.name: numpy_helper.to_array(t) for t in blended.model.proto.graph.initializer}
    for name, value in found.items():
        wanted = np.mean([values(path)[name] for path in three], axis=0)
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)


def test_a_greedy_soup_is_no_worse_than_its_best_member(three, tmp_path):
    out = tmp_path / "soup.onnx"
    blended = blend(three[0], three[1], data(), out, also=[three[2]], device="cpu")
    assert blended.soup == "greedy"
    best = max(row["quality"] for row in blended.members)
    kept = [row["path"] for row in blended.members if row["weight"]]
    assert str(three[0]) not in kept
    assert sum(row["weight"] for row in blended.members) == pytest.approx(1)
    found = next(row for row in blended.tried if row["files"] == kept)
    assert found["quality"] >= best
    verdict = surgeon.verify(out)
    assert verdict.passed
    uniform = blend(three[0], three[1], data(), also=[three[2]], soup="uniform", device="cpu")
    assert all(row["weight"] for row in uniform.members)
    assert len(uniform.tried) == 4


def test_an_alpha_is_no_worse_than_either_end(pair):
    tried = {row["alpha"]: row["quality"] for row in blend(*pair, data(), device="cpu").tried}
    assert max(tried.values()) >= max(tried[0], tried[1])


def test_soups_that_cannot_be_are_refused(pair):
    for options, said in (
        ({"soup": "thick"}, "thick"),
        ({"soup": "greedy"}, "data"),
        ({"soup": "uniform", "alpha": 0.5}, "share"),
        ({"also": [pair[0]], "alpha": 0.5}, "share"),
    ):
        with pytest.raises(UsageError, match=said):
            blend(*pair, **options)
    with pytest.raises(ModelError, match="nodes"):
        blend(*pair, also=[nw.residual()])


def test_labels_in_another_order_are_refused_by_that_name(pair):
    swapped = onnx.load(pair[0])
    entry = next(one for one in swapped.metadata_props if one.key == "surgeon.labels")
    entry.value = json.dumps(["bee", "ant", "cat"])
    with pytest.raises(ModelError, match="another order"):
        blend(swapped, pair[1])


def test_the_command_tells_files_from_data(three, tmp_path, capsys):
    out, arrays = tmp_path / "soup.onnx", tmp_path / "data.npz"
    np.savez(arrays, **data())
    files = [str(path) for path in three]
    assert main(["blend", *files, str(arrays), "-o", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(schemas.load("blend")).validate(document)
    assert [one["path"] for one in document["members"]] == files
    again = ["-o", str(out), "--force"]
    assert main(["blend", *files[:2], "--soup", "uniform", *again]) == 0
    assert "uniform" in capsys.readouterr().out
    assert main(["blend", *files[:2], str(arrays), files[2], *again]) == 2
    assert main(["blend", *files, str(tmp_path / "absent.onnx"), *again]) == 2
