"""The kinds of heads that come with surgeon: built at every opset, alike in torch, all trained."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest
import torch

import surgeon
from surgeon.errors import SurgeonError, UnsupportedError, UsageError

OPSETS = (7, 9, 11, 13, 17, 21)
POOLS = ("mean", "max", "gem")
POOLED = ("gemm", "mlp:hidden=5,dropout=0.3", "cosine:scale=4", "cosine:learned=no")


def tokens(opset, dtype=nw.F, length="T"):
    """A layer per token, under a mask, and the mean of all."""
    net = nw.Net(opset=opset, dtype=dtype)
    x = net.input("x", ["N", length, 3])
    net.input("attention_mask", ["N", length], nw.I64)
    x = net.node("MatMul", x, net.weight("w", 3, 6))
    x = net.node("Tanh", net.node("Add", x, net.weight("b", 6)), out="hidden")
    if opset < 18:
        x = net.node("ReduceMean", x, axes=[1], keepdims=0)
    else:
        x = net.node("ReduceMean", x, net.ints("one", 1), keepdims=0)
    net.node("Gemm", x, net.weight("w2", 6, 5), net.weight("b2", 5), out="y")
    return net.model("y", shape=["N", 5])


def maps(opset, sides=(16, 12)):
    """Two strided Convs, their maps called `fine` and `coarse`, and the mean."""
    net = nw.Net(opset=opset)
    x = net.input("x", ["N", 3, *sides])
    x = net.node("Relu", nw.conv(net, x, "c1", 4, 3, strides=[2, 2]), out="fine")
    x = net.node("Relu", nw.conv(net, x, "c2", 6, 4, strides=[2, 2]), out="coarse")
    x = net.node("Flatten", net.node("GlobalAveragePool", x), out="features")
    net.node("Gemm", x, net.weight("fc.w", 6, 5), net.weight("fc.b", 5), out="y")
    return net.model("y", shape=["N", 5])


def operated(model, head=None, task="auto", outputs=4, **more):
    return surgeon.operate(
        model, case="small-similar", classes=outputs, head=head, task=task, **more
    )


def given(model):
    picture = len(model.inputs[0].shape) == 4
    feeds = nw.feeds(model.proto, batch=3, length=16 if picture else 7)
    for name in feeds:
        if "mask" in name:
            feeds[name][:] = np.arange(7) < np.array([[7], [4], [2]])
    return feeds


def require_sound(model):
    """Legal, the same in ONNX Runtime and torch, and every weight of the head learns."""
    onnx.checker.check_model(model.proto, full_check=True)
    feeds = given(model)
    (said,) = nw.run(model.proto, feeds).values()
    module = surgeon.to_torch(model)
    answers = module(*(torch.from_numpy(feeds[info.name]) for info in model.inputs))
    assert np.abs(answers.detach().numpy() - said).max() <= 1e-5 * max(np.abs(said).max(), 1e-6)
    torch.manual_seed(0)
    (answers * torch.randn_like(answers)).sum().backward()
    weights = dict(module.named_parameters())
    for name in model.plan.head.weights:
        gradient = weights[name].grad
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name
    (declared,) = model.proto.graph.output
    dims = declared.type.tensor_type.shape.dim
    assert len(dims) == said.ndim
    assert all(d.dim_value in (0, n) for d, n in zip(dims, said.shape, strict=True))
    return said


@pytest.mark.parametrize("dtype", [nw.F, nw.F64], ids=["float32", "float64"])
@pytest.mark.parametrize("opset", OPSETS)
def test_heads_on_vectors_and_tokens(opset, dtype):
    vectors, texts = nw.mlp(opset=opset, dtype=dtype), tokens(opset, dtype)
    for head in POOLED:
        assert require_sound(operated(vectors, head)).shape == (3, 4)
    made = operated(vectors, task="embedding")
    assert made.plan.head.kind == "embed"
    lengths = np.linalg.norm(require_sound(made), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)
    for head in ("attention", "attention:queries=2", "gemm:pool=gem", "mlp:pool=max,hidden=3"):
        assert require_sound(operated(texts, head)).shape == (3, 4)
    made = operated(texts, task="tokens")
    assert made.plan.head.kind == "linear"
    assert require_sound(made).shape == (3, 7, 4)


@pytest.mark.parametrize("opset", [*OPSETS, 10, 18])
def test_heads_on_maps(opset):
    fixed, free = maps(opset), maps(opset, ("H", "W"))
    for head in ("conv", "conv:taps=fine,width=5", "conv:taps=@0.1+@0.5"):
        made = operated(fixed, head, "segmentation")
        assert require_sound(made).shape == (3, 4, 16, 12)
        assert made.plan.cut == "coarse"
        last = made.plan.head.weights[-2:]
        assert last == ("surgeon.head.weight", "surgeon.head.bias")
        if opset >= 11:
            assert require_sound(operated(free, head, "segmentation")).shape == (3, 4, 16, 16)
        else:
            with pytest.raises(UnsupportedError, match="opset 11"):
                operated(free, head, "segmentation")
    assert require_sound(operated(fixed, "attention")).shape == (3, 4)
    assert require_sound(operated(fixed, "cosine:pool=gem")).shape == (3, 4)


@pytest.mark.parametrize("head", ["attention", *(f"gemm:pool={p}" for p in (*POOLS, "last"))])
def test_what_the_mask_hides_says_nothing(head):
    made = operated(tokens(17), head)
    feeds = given(made)
    (before,) = nw.run(made.proto, feeds).values()
    hidden = feeds["attention_mask"] == 0
    feeds["x"][hidden] = 50.0
    (after,) = nw.run(made.proto, feeds).values()
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", [11, 21])
def test_the_last_token_is_the_last_that_the_mask_holds(opset):
    made = operated(tokens(opset, nw.F64), "gemm:pool=last")
    feeds = given(made)
    feeds["attention_mask"][1] = np.arange(7) >= 3  # padded in front
    held = {t.name: onnx.numpy_helper.to_array(t) for t in made.proto.graph.initializer}
    hidden = nw.run(nw.with_outputs(made.proto, "hidden"), feeds)["hidden"]
    wanted = hidden[np.arange(3), [6, 6, 1]] @ held["surgeon.head.weight"].T
    np.testing.assert_allclose(nw.run(made.proto, feeds)["logits"], wanted, atol=1e-12)


def test_the_generalised_mean():
    made = operated(maps(17), "gemm:pool=gem")
    assert made.plan.cut == "coarse"
    feeds = given(made)
    held = {t.name: onnx.numpy_helper.to_array(t) for t in made.proto.graph.initializer}
    coarse = nw.run(nw.with_outputs(made.proto, "coarse"), feeds)["coarse"]
    pooled = np.cbrt((np.maximum(coarse, 0) ** 3).mean((2, 3)))
    wanted = pooled @ held["surgeon.head.weight"].T + held["surgeon.head.bias"]
    np.testing.assert_allclose(nw.run(made.proto, feeds)["logits"], wanted, atol=1e-4)


def test_the_tokens_of_a_picture_are_laid_out_as_a_map():
    made = operated(nw.vit(), "conv", "segmentation", cut="normed")
    require_sound(made)
    dropped = [n for n in made.proto.graph.node if n.op_type == "Slice" and "head" in n.name]
    assert len(dropped) == 1  # the class token


@pytest.mark.parametrize("sides", [(24, 26), (23, 9), (5, 33)])
@pytest.mark.parametrize("opset", [7, 10, 13])
def test_maps_of_any_size_become_as_large_as_the_picture(sides, opset):
    made = operated(maps(opset, sides), "conv:taps=fine", "segmentation")
    assert require_sound(made).shape[2:] == sides


def test_a_map_that_is_pooled_in_part_is_none():
    model = maps(13)  # exporters of MobileNetV2 take the mean side by side
    for node in model.graph.node:
        if node.op_type == "GlobalAveragePool":
            node.op_type = "ReduceMean"
            node.attribute.append(onnx.helper.make_attribute("axes", [3]))
            node.attribute.append(onnx.helper.make_attribute("keepdims", 0))
    (weight,) = (t for t in model.graph.initializer if t.name == "fc.w")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.ones((24, 5), np.float32), "fc.w"))
    for head in ("attention", "gemm:pool=gem"):
        assert operated(model, head).plan.cut == "coarse"


def test_a_pool_wants_something_to_pool():
    with pytest.raises(UsageError, match="nothing to pool") as caught:
        operated(nw.residual(), "gemm:pool=max", cut="features")
    assert "b2.out" in caught.value.remedy


def test_vectors_of_length_one_are_solved_where_their_direction_counts():
    for head in ("gemm", "embed"):
        assert operated(nw.mlp(), head, "embedding").plan.head.solves
    plan = operated(nw.mlp(), "embed", "classification").plan
    assert not plan.head.solves
    assert {stage.method for stage in plan.stages} == {"adamw"}


def test_the_cut_moves_in_front_of_the_pool_unless_it_was_asked_for():
    assert operated(nw.residual(), "attention").plan.cut == "b2.out"
    assert operated(nw.residual(), "gemm").plan.cut == "features"
    with pytest.raises(UnsupportedError, match="height and width"):
        operated(nw.residual(), "conv", "segmentation", cut="features")


def test_a_head_gives_answers_of_the_tasks_form():
    with pytest.raises(UsageError, match="one answer per place of length") as caught:
        operated(tokens(17), "gemm", "tokens")
    assert "linear" in caught.value.remedy
    with pytest.raises(UsageError, match="one answer per sample"):
        operated(tokens(17), "linear")
    output = operated(nw.mlp(), "mlp", "regression", outputs=2).proto.graph.output[0]
    assert output.name == "values"


@pytest.mark.parametrize(
    "head",
    ["mlp:hidden=0", "mlp:dropout=1", "mlp:dropout=-0.1", "mlp:hidden=9999999999", "cosine:scale=0",
     "cosine:scale=nan", "attention:queries=0", "gemm:pool=median", "gemm:pool=mean,pool=max",
     "gemm:width=3", "mlp:hidden=many", "", "gemm:taps=nowhere", "forest"],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_its_name(head):
    with pytest.raises(SurgeonError) as caught:
        operated(nw.residual() if "queries" in head else nw.mlp(), head)
    told = f"{caught.value.message} {caught.value.where} {caught.value.remedy}"
    assert "head" in told or "nowhere" in told


def test_dropout_acts_while_torch_trains_and_only_then():
    module = surgeon.to_torch(operated(nw.mlp(), "mlp:dropout=0.5"))
    x = torch.randn(4, 8)
    assert torch.equal(module(x), module(x))
    module.train()
    assert not torch.equal(module(x), module(x))


def two_clouds(n=120):
    random = np.random.default_rng(0)
    labels = np.arange(n) % 2
    values = random.standard_normal((n, 8)) + 2.0 * labels[:, None]
    return {"x": values.astype(np.float32), "labels": labels}


@pytest.mark.parametrize("head", ["mlp:hidden=8", "cosine"])
def test_trained_by_steps_proven_and_gone_on_with(head, tmp_path):
    data = two_clouds()
    outcome = surgeon.finetune(
        nw.mlp(), data, case="small-similar", head=head, epochs=6, lr=0.02, device="cpu"
    )
    body = outcome.document()
    assert set(body["changed"]) == set(outcome.model.plan.head.weights)
    assert body["metrics"]["validation"]["accuracy"] > 0.85
    path = outcome.model.save(tmp_path / "tuned.onnx")
    assert surgeon.verify(path).passed
    again = surgeon.finetune(path, data, epochs=1, device="cpu").document()
    assert again["plan"]["head"] == body["plan"]["head"]


def test_attention_learns_which_token_counts(tmp_path):
    random = np.random.default_rng(0)
    ids = random.integers(2, 20, (160, 6))
    labels = np.arange(160) % 2
    ids[np.arange(160), random.integers(0, 6, 160)] = labels
    data = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": labels}
    outcome = surgeon.finetune(
        nw.transformer(), data, case="small-similar", head="attention:queries=2", epochs=10,
        lr=0.02, device="cpu",
    )  # fmt: skip
    assert outcome.model.plan.cut == "hidden"
    path = outcome.model.save(tmp_path / "tuned.onnx")
    assert surgeon.load(path).plan.head.weights == outcome.model.plan.head.weights
    assert surgeon.verify(path).passed


@pytest.mark.parametrize("task", ["segmentation", "tokens"])
def test_heads_per_place_are_trained_proven_and_known_again(task, tmp_path):
    random = np.random.default_rng(0)
    if task == "segmentation":
        x = random.standard_normal((30, 3, 16, 12)).astype(np.float32)
        model, head, case = maps(13), "conv:taps=fine,width=4", "large-similar"
        data = {"x": x, "labels": (x[:, 0] > 0).astype(np.int64)}
    else:
        ids = random.integers(0, 20, (40, 6))
        model, head, case = nw.transformer(), "linear", "small-similar"
        data = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": ids % 3}
    outcome = surgeon.finetune(
        model, data, case=case, task=task, head=head, epochs=2, device="cpu"
    )  # fmt: skip
    plan = outcome.model.plan
    assert set(outcome.document()["changed"]) <= set(plan.trainable)
    path = outcome.model.save(tmp_path / "tuned.onnx")
    assert surgeon.verify(path).passed
    assert surgeon.load(path).plan.head == plan.head
