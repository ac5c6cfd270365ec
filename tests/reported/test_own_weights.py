"""Weights of one's own loop become a whole file: labels, preprocessing, proof; or are refused."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch.nn.utils import parametrize

import surgeon
from surgeon.errors import CheckError, DataError, UnknownNameError, UsageError
from surgeon.graph import envelope


def samples(n=60):
    random = np.random.default_rng(0)
    labels = np.arange(n) % 3
    x = random.standard_normal((n, 3, 12, 12)).astype(np.float32)
    x[np.arange(n), labels] += 1.0
    return x, labels


def data():
    x, labels = samples()
    return {"x": x, "labels": np.array(["ant", "bee", "cat"])[labels]}


def learn(module, parameters, steps=12, rate=0.02):
    x, labels = (torch.from_numpy(part) for part in samples())
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    for _ in range(steps):
        torch.nn.functional.cross_entropy(module(x), labels).backward()
        optimizer.step()
        optimizer.zero_grad()


def trained(case, **settings):
    """Return an operated model and its module after a loop of one's own."""
    operated = surgeon.operate(nw.convnet(), case=case, classes=3, **settings)
    module = surgeon.to_torch(operated)
    wanted = set(operated.trainable)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in wanted)
    learn(module, [p for p in module.parameters() if p.requires_grad])
    return operated, module


def check_whole(proved, path):
    """Check that a file verifies, predicts and evaluates as one that `finetune` wrote."""
    proved.save(path)
    assert surgeon.verify(path).passed
    assert surgeon.load(path).labels == ["ant", "bee", "cat"]
    predicted = surgeon.predict(path, {"x": samples()[0]})
    assert set(predicted.labels) <= {"ant", "bee", "cat"}
    document = surgeon.evaluate(path, data())
    assert document["metrics"]["accuracy"] > 0.5
    assert {"frozen", "tuned", "parity", "golden"} <= set(proved.proof)


@pytest.mark.parametrize("case", ["small-similar", "large-similar"])
def test_a_loop_of_ones_own_gives_a_whole_file(tmp_path, case):
    source = tmp_path / "source.onnx"
    onnx.save(nw.convnet(), source)
    operated, module = trained(case)
    mine = operated.with_weights(module)
    assert mine.plan == operated.plan
    assert mine.proof is None
    proved = surgeon.prove(mine, data(), device="cpu")
    check_whole(proved, tmp_path / "mine.onnx")
    assert set(proved.document()["changed"]) <= {
        *operated.trainable,
        *proved.document()["statistics"],
    }
    assert proved.metrics["validation"]["samples"] == 12
    nodes = [node.SerializeToString() for node in operated.proto.graph.node]
    assert [node.SerializeToString() for node in proved.model.proto.graph.node] == nodes
    frozen = {
        t.name: t for t in operated.proto.graph.initializer if t.name not in operated.trainable
    }
    for tensor in proved.model.proto.graph.initializer:
        if tensor.name in frozen:
            assert tensor.SerializeToString() == frozen[tensor.name].SerializeToString()


def test_its_frozen_tensors_are_the_sources(tmp_path):
    source = tmp_path / "source.onnx"
    onnx.save(nw.convnet(), source)
    operated = surgeon.operate(source, "small-similar", 3)
    module = surgeon.to_torch(operated)
    learn(module, [p for n, p in module.named_parameters() if n in set(operated.trainable)])
    proved = surgeon.prove(operated.with_weights(module), data(), device="cpu")
    proved.save(tmp_path / "mine.onnx")
    assert surgeon.verify(tmp_path / "mine.onnx", source=source).passed
    assert proved.proof["source_sha256"] == surgeon.load(source).file_sha256


@pytest.mark.parametrize("form", ["module", "tensors", "state_dict", "some"])
def test_weights_come_in_every_form(form):
    operated, module = trained("small-similar")
    given = {
        "module": module,
        "tensors": surgeon.tensors(module),
        "state_dict": module.state_dict(),
        "some": {name: surgeon.tensors(module)[name].numpy() for name in operated.trainable},
    }[form]
    mine = operated.with_weights(given)
    values = surgeon.tensors(surgeon.to_torch(mine))
    assert all(
        torch.equal(values[name], tensor) for name, tensor in surgeon.tensors(module).items()
    )
    # what it was made from stays as it is
    assert mine.proto.graph.initializer != operated.proto.graph.initializer


def test_what_changed_and_may_not_is_refused_by_name():
    operated = surgeon.operate(nw.convnet(), "small-similar", 3)
    module = surgeon.to_torch(operated)
    learn(module, module.parameters())
    frozen = [name for name, _ in module.named_parameters() if name not in operated.trainable]
    with pytest.raises(CheckError) as caught:
        surgeon.prove(operated.with_weights(module), data())
    assert any(name in caught.value.where for name in frozen)


def test_moved_statistics_beside_frozen_weights_are_refused():
    model = nw.convnet()
    ones = {name: np.ones(8, np.float32) for name in ("bn.scale", "bn.bias", "bn.mean", "bn.var")}
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in ones.items())
    place = next(i for i, n in enumerate(model.graph.node) if n.op_type == "GlobalAveragePool")
    pool = model.graph.node[place]
    node = helper.make_node("BatchNormalization", [pool.input[0], *ones], ["normal"])
    pool.input[0] = "normal"
    model.graph.node.insert(place, node)
    operated = surgeon.operate(model, "small-similar", 3)
    statistics = [name for name, role in operated.roles().items() if role == "statistics"]
    moved = {name: surgeon.tensors(surgeon.to_torch(operated))[name] + 0.5 for name in statistics}
    with pytest.raises(CheckError) as caught:
        surgeon.prove(operated.with_weights(moved), data())
    assert statistics[0] in caught.value.where
    assert "eval()" in caught.value.remedy


def test_names_and_shapes_that_are_not_the_models_are_refused():
    operated = surgeon.operate(nw.convnet(), "small-similar", 3)
    with pytest.raises(UnknownNameError):
        operated.with_weights({"no.such": np.zeros(3, np.float32)})
    with pytest.raises(UsageError):
        operated.with_weights({"surgeon.head.bias": np.zeros(4, np.float32)})
    with pytest.raises(UsageError):
        operated.with_weights(3)


class LoRA(torch.nn.Module):
    def __init__(self, weight, rank=2):
        super().__init__()
        self.a = torch.nn.Parameter(torch.randn(rank, weight[0].numel()) * 0.02)
        self.b = torch.nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, weight):
        return weight + (self.b @ self.a).view_as(weight)


def test_adapters_are_folded_into_the_weights_they_stand_for(tmp_path):
    torch.manual_seed(0)
    operated = surgeon.operate(nw.convnet(), "large-similar", 3)
    module = surgeon.to_torch(operated).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in surgeon.tensors(module).items()}
    adapted = [name for name in operated.trainable if before[name].ndim > 1]
    for name in adapted:
        parametrize.register_parametrization(*module.site(name), LoRA(before[name]))
    learn(module, [p for p in module.parameters() if p.requires_grad], steps=40)
    with pytest.raises(UsageError) as caught:
        operated.with_weights(module.state_dict())
    assert "surgeon.tensors" in caught.value.remedy
    proved = surgeon.prove(operated.with_weights(module), data(), device="cpu")
    check_whole(proved, tmp_path / "mine.onnx")
    assert set(proved.document()["changed"]) == set(adapted)
    after = surgeon.tensors(surgeon.to_torch(proved.model))
    for name in adapted:
        change = (after[name] - before[name]).flatten(1)
        assert torch.linalg.matrix_rank(change, tol=1e-5) <= 2


def test_every_weight_has_a_site():
    module = surgeon.to_torch(nw.residual())
    for name, tensor in surgeon.tensors(module).items():
        scope, leaf = module.site(name)
        assert torch.equal(getattr(scope, leaf), tensor)
    with pytest.raises(UnknownNameError):
        module.site("no.such")


def test_a_network_that_was_not_operated_on_trains_what_changed(tmp_path):
    source = tmp_path / "source.onnx"
    onnx.save(
        nw.convnet(classes=3) if "classes" in nw.convnet.__code__.co_varnames else nw.convnet(),
        source,
    )
    original = surgeon.load(source)
    outputs = original.proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    names = ["ant", "bee", "cat", "dog"][:outputs]
    module = surgeon.to_torch(original)
    last = original.learnable()[-2:]
    learn(module, [p for n, p in module.named_parameters() if n in last])
    proved = surgeon.prove(original.with_weights(module), data(), labels=names, device="cpu")
    assert set(proved.model.trainable) == set(proved.document()["changed"]) <= set(last)
    proved.save(tmp_path / "mine.onnx")
    assert surgeon.verify(tmp_path / "mine.onnx", source=source).passed
    assert surgeon.load(tmp_path / "mine.onnx").labels == names


def test_a_file_written_back_by_hand_is_proved_against_its_source(tmp_path):
    operated, module = trained("small-similar")
    path = tmp_path / "bare.onnx"
    onnx.save(surgeon.write_back(operated, module), path)
    unknown = surgeon.prove(path, data(), device="cpu")
    assert any("what changed is not known" in text for text in unknown.document()["warnings"])
    for source in (operated, nw.convnet()):
        proved = surgeon.prove(path, data(), source=source, device="cpu")
        assert set(proved.document()["changed"]) == set(operated.trainable)
        check_whole(proved, tmp_path / f"{source is operated}.onnx")
    learn(module.requires_grad_(), module.parameters())
    with pytest.raises(CheckError):
        surgeon.prove(surgeon.write_back(operated, module), data(), source=operated)


def test_labels_that_are_not_the_outputs_are_refused():
    operated, module = trained("small-similar")
    mine = operated.with_weights(module)
    x, labels = samples()
    with pytest.raises(DataError):
        surgeon.prove(mine, {"x": x, "labels": labels % 2})
    with pytest.raises(DataError):
        surgeon.prove(mine, data(), labels=["ant", "bee", "dog"])
    proved = surgeon.prove(mine, data(), labels=["cat", "bee", "ant"], device="cpu")
    assert proved.model.labels == ["cat", "bee", "ant"]


def test_new_weights_drop_the_old_proof_and_training_goes_on_from_them(tmp_path):
    operated, module = trained("small-similar")
    proved = surgeon.prove(operated.with_weights(module), data(), device="cpu")
    again = proved.model.with_weights({"surgeon.head.bias": np.ones(3, np.float32)})
    assert envelope.PROOF not in envelope.metadata(again.proto)
    assert again.labels == ["ant", "bee", "cat"]
    outcome = surgeon.finetune(again, data(), out=tmp_path / "on.onnx", device="cpu")
    assert surgeon.verify(tmp_path / "on.onnx").passed
    assert outcome.delivered
