"""surgeon-lora: low-rank updates of weights, folded into the same file; the rest stays as it is."""

from __future__ import annotations

from pathlib import Path

import networks as nw
import numpy as np
import onnx
import pytest
import torch
from quantised import digits, quantised_network

import surgeon
from surgeon.errors import UsageError
from surgeon.graph.adaptable import adaptable
from surgeon_lora.lora import LoRA

FORMS = {
    "Gemm of outputs first": ((12, 9), 0, "Gemm"),
    "Gemm of inputs first": ((9, 12), 1, "Gemm"),
    "MatMul of several": ((3, 9, 12), 2, "MatMul"),
    "Conv": ((12, 4, 3, 3), 0, "Conv"),
    "grouped Conv": ((12, 2, 3, 3), 0, "Conv"),
    "embedding": ((20, 9), 1, "Gather"),
}


def moved(adapter, seed=0):
    """Give an adapter numbers as training might."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return adapter


def rank_of(change, axis):
    flat = np.moveaxis(np.asarray(change, np.float64), axis, 0).reshape(change.shape[axis], -1)
    sizes = np.linalg.svd(flat, compute_uv=False)
    return int((sizes > 1e-4 * sizes[0]).sum()) if sizes[0] else 0


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_function_is_unchanged_at_the_start_and_the_change_has_the_rank(form, dora):
    shape, axis, operator = FORMS[form]
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    adapter = LoRA(weight, axis, operator, rank=3, dora=dora)
    for mode in (True, False):
        assert torch.equal(adapter.train(mode)(weight), weight)
    moved(adapter)
    learnt = adapter.eval()(weight)
    torch.testing.assert_close(adapter.train()(weight), learnt)
    assert learnt.shape == weight.shape
    if not dora:
        assert rank_of((learnt - weight).detach().numpy(), axis) == 3
    learnt.square().sum().backward()
    assert all(torch.isfinite(one.grad).all() for one in adapter.parameters())


def test_a_length_learns_apart_from_the_direction():
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    weight[2] = 0
    adapter = moved(LoRA(weight, 0, "Gemm", rank=2, dora=True)).eval()
    lengths = adapter(weight).norm(dim=1, keepdim=True)
    torch.testing.assert_close(lengths, adapter.magnitude.abs())


def test_scaling_rank_and_what_is_left_out():
    weight = torch.zeros(6, 40)
    plain, stable = (moved(LoRA(weight, 0, "Gemm", rank=4, rs=rs)) for rs in (False, True))
    stable.load_state_dict(plain.state_dict())
    torch.testing.assert_close(stable(weight), 2 * plain(weight))  # 16/√4 is twice 16/4
    assert LoRA(weight, 0, "Gemm", rank=64).lora_A.shape == (6, 40)
    torch.manual_seed(0)
    left = moved(LoRA(weight, 0, "Gemm", rank=4, dropout=0.5))
    assert 5 < int((left(weight) == 0).all(dim=0).sum()) < 35
    assert not (left.eval()(weight) == 0).all(dim=0).any()


def test_tokens_that_were_not_seen_keep_their_embedding():
    weight = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    adapter = LoRA(weight, 1, "Gather", rank=2)
    adapter(weight)[[3, 5]].sum().backward()
    with torch.no_grad():
        for one in adapter.parameters():
            one.sub_(one.grad, alpha=0.1)
    changed = (adapter.eval()(weight) != weight).any(dim=1).nonzero().flatten()
    assert changed.tolist() == [3, 5]


# ── whole runs ───────────────────────────────────────────────────────────────────────────────────


def grouped():
    net = nw.Net()
    x = net.input("x", ["N", 4, 8, 8])
    x = net.node("Relu", nw.conv(net, x, "c1", 8, 4, group=2))
    x = net.node("Relu", nw.conv(net, x, "own", 8, 8, group=8))
    x = net.node("Flatten", net.node("GlobalAveragePool", x), out="features")
    net.node("Gemm", x, net.weight("fc.w", 3, 8), net.weight("fc.b", 3), out="y", transB=1)
    return net.model("y", shape=["N", 3])


def data_for(model, n=24):
    feeds = nw.feeds(model, batch=n)
    labels = np.arange(n) % 3
    values = feeds[next(iter(feeds))]
    values += (
        labels.reshape(-1, *[1] * (values.ndim - 1)) * (1 if values.dtype == int else 0.7)
    ).astype(values.dtype)
    return {**feeds, "labels": labels}


def tuned(model, adapter, **options):
    given = {"case": "large-similar", "epochs": 4, "device": "cpu", "lr": 0.02} | options
    data = data_for(onnx.load(model) if isinstance(model, Path) else model)
    return surgeon.finetune(model, data, adapter=adapter, **given)


def arrays(proto):
    return {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}


NETWORKS = {
    "transformer": lambda: nw.transformer(layers=1), "convnet": nw.convnet, "grouped": grouped,
    "matmul": nw.matmul_add, "mlp": nw.mlp, "tied": nw.tied,
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_of_a_network_only_adapted_weights_change_and_by_no_more_than_the_rank(name, tmp_path):
    path, out = tmp_path / "model.onnx", tmp_path / "tuned.onnx"
    onnx.save(NETWORKS[name](), path)
    # A head that stays as it is cannot be solved: what is tuned is delivered.
    options = {"init": "pretrained", "freeze": "surgeon.head.*"}
    outcome = tuned(path, "lora:rank=2", out=out, **options)
    operated = surgeon.operate(path, "large-similar", 3, adapter="lora:rank=2", **options)
    before, after = arrays(operated.proto), arrays(outcome.model.proto)
    known = {one.name: one for one in adaptable(operated.proto, operated.parameters(), ())}
    changed = {one for one in before if not np.array_equal(before[one], after[one])}
    assert changed
    assert changed <= set(operated.trainable) <= set(known)
    for one in changed:
        assert rank_of(after[one] - before[one], known[one].axis) <= 2
    assert list(outcome.model.proto.graph.node) == list(operated.proto.graph.node)
    assert surgeon.verify(out, path).passed


def test_kernels_of_one_channel_each_are_adapted_where_they_are_named():
    plain = surgeon.operate(grouped(), "large-similar", 3, adapter="lora")
    named = surgeon.operate(grouped(), "large-similar", 3, adapter="lora:targets=own*")
    head = set(plain.plan.head.weights)
    assert set(plain.trainable) - head == {"c1.weight"}
    assert set(named.trainable) - head == {"own.weight"}


def test_the_frontier_goes_as_deep_as_the_deepest_adapted_weight_allows():
    whole = tuned(nw.vit(), "lora").document()["frontier"]
    last = tuned(nw.vit(), "lora:targets=mlp*").document()["frontier"]
    assert last["nodes_frozen"] > whole["nodes_frozen"]
    assert last["nodes_trained"] < whole["nodes_trained"]


@pytest.mark.parametrize("adapter", ["lora:rank=2,dropout=0.3", "lora:rank=2,dora=yes,rs=yes"])
def test_the_same_seed_gives_the_same_bits_and_another_gives_others(adapter):
    one, two, other = (tuned(nw.mlp(), adapter, seed=seed).model.proto for seed in (3, 3, 4))
    assert one == two
    assert one != other


@pytest.mark.parametrize(
    "setting", ["rank=0", "rank=2.5", "alpha=-1", "dropout=1", "dora=perhaps", "depth=3"]
)
def test_settings_that_cannot_be_meant_are_refused(setting):
    with pytest.raises(UsageError, match=setting.partition("=")[0]) as caught:
        surgeon.operate(nw.mlp(), "large-similar", 3, adapter=f"lora:{setting}")
    assert caught.value.remedy


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path):
    model, adapter = nw.convnet(), "lora:rank=2,dropout=0.2"
    whole = tuned(model, adapter, epochs=6, out=tmp_path / "whole.onnx")

    def interrupting(stage, done, total, **figures):
        if stage == "all" and figures.get("epoch") == 4:
            raise KeyboardInterrupt

    out = tmp_path / "out.onnx"
    broken = tuned(model, adapter, epochs=6, out=out, progress=interrupting)
    assert broken.document()["stopped"] == "interrupt"
    again = tuned(model, adapter, epochs=6, out=out, resume=True)
    assert again.document()["resumed"]
    assert arrays(again.model.proto).keys() == arrays(whole.model.proto).keys()
    for name, value in arrays(whole.model.proto).items():
        np.testing.assert_array_equal(arrays(again.model.proto)[name], value)


def test_integers_of_a_quantised_file_are_adapted_and_its_scales_stay(tmp_path):
    path = tmp_path / "quantised.onnx"
    onnx.save(quantised_network(tmp_path), path)
    pictures, labels = digits(300)
    given = {"x": pictures, "labels": labels}
    options = {"case": "large-similar", "epochs": 6, "lr": 0.02, "device": "cpu"}
    outcome = surgeon.finetune(path, given, adapter="lora:rank=4", **options)
    before, after = arrays(surgeon.load(path).proto), arrays(outcome.model.proto)
    changed = [
        one for one in before if one in after and not np.array_equal(before[one], after[one])
    ]
    assert set(changed) == {"c1.weight_quantized", "c2.weight_quantized"}
    assert all(after[one].dtype == np.int8 for one in changed)
    outcome.model.save(tmp_path / "tuned.onnx")
    assert surgeon.verify(tmp_path / "tuned.onnx", path).passed
