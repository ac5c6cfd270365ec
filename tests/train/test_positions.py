"""What tokens, masks and vectors minimise, through the loop and by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import networks as nw
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

import surgeon
from surgeon.train.loop import fit
from surgeon.train.objective import UNKNOWN, CrossEntropy
from surgeon.train.positions import EntropyDice, PositionEntropy, dice
from surgeon.train.settings import Checkpoint, FitSettings
from surgeon_losses.embedding import ArcFace, SupCon, supcon

QUICK = FitSettings(device="cpu", epochs=12, lr=0.02, patience=0, batch=32)


def network(*nodes, inputs, outputs, **weights):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **(node[3] if node[3:] else {})) for node in nodes], "g",
        [info("x", TensorProto.FLOAT, inputs)], [info("y", TensorProto.FLOAT, outputs)],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def of_positions(rng):
    model = network(
        ("MatMul", ["x", "w"], ["a"]), ("Add", ["a", "b"], ["y"]),
        inputs=["n", 6, 8], outputs=["n", 6, 3], w=rng.normal(size=(8, 3)), b=np.zeros(3),
    )  # fmt: skip
    x = rng.normal(size=(120, 6, 8)).astype(np.float32)
    targets = (x @ rng.normal(size=(8, 3))).argmax(-1)
    targets[:, 4:] = UNKNOWN
    return model, x, targets, PositionEntropy.of(targets, 3)


def of_pixels(rng):
    model = network(
        ("Conv", ["x", "w", "b"], ["y"]),
        inputs=["n", 4, 8, 8], outputs=["n", 3, 8, 8], w=rng.normal(size=(3, 4, 1, 1)),
        b=np.zeros(3),
    )  # fmt: skip
    x = rng.normal(size=(60, 4, 8, 8)).astype(np.float32)
    targets = np.einsum("nchw,kc->nkhw", x, rng.normal(size=(3, 4))).argmax(1).astype(np.int16)
    targets[:, :2] = UNKNOWN
    return model, x, targets, EntropyDice.of(targets, 3)


def of_vectors(kind):
    def made(rng):
        model = network(
            ("MatMul", ["x", "w"], ["a"]), ("LpNormalization", ["a"], ["y"], {"axis": 1}),
            inputs=["n", 8], outputs=["n", 4], w=rng.normal(size=(8, 4)),
        )  # fmt: skip
        targets = np.arange(200) % 10
        x = rng.normal(size=(10, 8))[targets] + 0.8 * rng.normal(size=(200, 8))
        order = rng.permutation(200)
        x, targets = x[order].astype(np.float32), targets[order]
        return model, x, targets, kind.of(targets, 4)

    return made


def fitted(made, **options):
    model, x, targets, objective = made(np.random.default_rng(1))
    k, module = len(x) // 4, surgeon.to_torch(model)
    train, judged = (
        SimpleNamespace(
            n=len(targets[rows]), targets=targets[rows],
            load=lambda some, rows=rows: (torch.from_numpy(x[rows][some]),),
        )
        for rows in (slice(k, None), slice(None, k))
    )  # fmt: skip
    settings = options.pop("settings", QUICK)
    result = fit(
        module, train, judged, objective=objective, settings=settings,
        trainable=[name for name, _ in module.named_parameters()], **options,
    )  # fmt: skip
    return model, x, module, result, objective


@pytest.mark.parametrize(
    "made", [of_positions, of_pixels, of_vectors(SupCon), of_vectors(ArcFace)],
    ids=["tokens", "pixels", "supcon", "arcface"],
)  # fmt: skip
def test_it_is_learnt_and_written_back(made):
    model, x, module, result, _ = fitted(made)
    start, best = result.history[0], result.best
    assert best["validation_loss"] < start["validation_loss"]
    assert best["validation_quality"] > start["validation_quality"]
    written = surgeon.write_back(model, surgeon.tensors(module))
    found = nw.run(written, {"x": x[:8]})["y"]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), module(torch.from_numpy(x[:8])))


def test_class_directions_are_learnt_beside_the_network_and_resumed(tmp_path):
    """A run that is broken off and goes on ends where one without a break does, bit for bit."""
    few = replace(QUICK, epochs=4)
    whole = fitted(of_vectors(ArcFace), settings=few)
    drawn = ArcFace.of(np.arange(10), 4).weight
    assert not torch.equal(whole[4].weight, drawn)

    def broken_off(progress):
        if progress.epoch == 3:
            raise KeyboardInterrupt

    fitted(of_vectors(ArcFace), settings=few, checkpoint=Checkpoint(tmp_path), progress=broken_off)
    again = fitted(of_vectors(ArcFace), settings=few, checkpoint=Checkpoint(tmp_path, resume=True))
    assert again[3].resumed
    assert torch.equal(again[4].weight, whole[4].weight)
    for one, other in zip(again[2].parameters(), whole[2].parameters(), strict=True):
        assert torch.equal(one, other)


def test_dice_is_that_of_the_classes_a_sample_has():
    rng = np.random.default_rng(0)
    outputs = torch.from_numpy(rng.normal(size=(3, 4, 5, 6)))
    targets = torch.from_numpy(rng.integers(0, 3, (3, 5, 6)))
    targets[0, :2] = UNKNOWN
    targets[2] = UNKNOWN
    found = dice(outputs, targets, smooth=0)
    said = outputs.softmax(1).numpy()
    for sample in (0, 1):
        told = targets[sample].numpy() >= 0
        each = []
        for code in range(3):
            right = targets[sample].numpy() == code
            both = (said[sample, code] * right).sum()
            each.append(2 * both / ((said[sample, code] * told).sum() + right.sum()))
        assert float(found[sample]) == pytest.approx(1 - np.mean(each))
    assert float(found[2]) == 0


def test_masks_count_by_their_pixels_whatever_the_passes():
    rng = np.random.default_rng(0)
    outputs = torch.from_numpy(rng.normal(size=(4, 3, 5, 6)))
    targets = torch.from_numpy(rng.integers(0, 3, (4, 5, 6)))
    targets[0, :2] = UNKNOWN
    objective = EntropyDice()
    whole = objective.loss(outputs, targets)
    parts = sum(objective.loss(outputs[[i]], targets[[i]]) for i in range(4))
    torch.testing.assert_close(whole, parts)
    right = functional.one_hot(targets.clamp(min=0), 3).movedim(-1, 1) * 20.0
    entropy, overlap, judged = objective.judge(right, targets)
    assert (float(overlap), int(judged)) == (108, 108)
    assert float(entropy) == pytest.approx(0, abs=1e-3)
    assert objective.total(targets.numpy().astype(np.int16)) == 108


def test_pairs_are_compared_by_the_formula_of_the_paper():
    rng = np.random.default_rng(0)
    vectors, codes = rng.normal(size=(7, 4)), np.array([0, 0, 0, 1, 1, 2, -100])
    found = supcon(torch.from_numpy(vectors), torch.from_numpy(codes), temperature=0.5)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = unit @ unit.T / 0.5
    for i in range(5):
        others = [a for a in range(6) if a != i]
        alike = [p for p in others if codes[p] == codes[i]]
        total = np.log(np.exp(near[i, others]).sum())
        assert float(found[i]) == pytest.approx(
            np.mean([total - near[i, p] for p in alike]), rel=1e-4
        )
    assert found[5:].tolist() == [0, 0]


def test_a_batch_without_pairs_teaches_nothing_and_is_no_number_of_its_own():
    outputs = torch.randn(3, 4, requires_grad=True)
    for codes in ([0, 1, 2], [-100] * 3):
        objective = SupCon()
        loss = objective.loss(outputs, torch.tensor(codes)) / objective.total(np.array(codes))
        (gradient,) = torch.autograd.grad(loss, outputs)
        assert loss.item() == 0
        assert torch.equal(gradient, torch.zeros_like(outputs))
        assert int(objective.judge(outputs, torch.tensor(codes))[2]) == 0


def test_the_margin_makes_the_own_class_look_farther():
    objective = ArcFace(3, 4, margin=0.0, scale=10.0)
    outputs, codes = torch.randn(5, 4), torch.tensor([0, 1, 2, 2, -100])
    cosine = functional.normalize(outputs) @ objective.weight.T
    plain = CrossEntropy().loss(10 * cosine, codes)
    torch.testing.assert_close(objective.loss(outputs, codes), plain, rtol=1e-3, atol=1e-3)
    assert objective.total(codes.numpy()) == 4
    wider = ArcFace(3, 4, margin=0.5, scale=10.0)
    assert wider.loss(outputs, codes) > plain
    opposite = -wider.weight[:1].detach().requires_grad_()
    loss = wider.loss(opposite + 1e-3, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(loss, opposite)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("kind", [SupCon, ArcFace])
def test_an_objective_of_vectors_tells_its_settings(kind):
    codes = np.arange(6)
    assert repr(kind.of(codes, 4)) == repr(kind.of(codes, 4))
    setting = {SupCon: {"temperature": 0.2}, ArcFace: {"margin": 0.1}}[kind]
    assert repr(kind.of(codes, 4, **setting)) != repr(kind.of(codes, 4))


def test_arcface_begins_with_its_classes_where_their_vectors_are():
    objective = ArcFace(3, 4)
    before = objective.weight.detach().clone()
    vectors = torch.eye(4)[[0, 0, 1, 3]] * 2
    objective.begin(vectors, torch.tensor([0, 0, 2, -100]))
    torch.testing.assert_close(objective.weight.detach()[[0, 2]], torch.eye(4)[[0, 1]])
    torch.testing.assert_close(objective.weight.detach()[1], before[1])  # of which none is known
