"""surgeon-batchnorm: layers put back behind convolutions, that change nothing, and fold again."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import surgeon
from surgeon.errors import UsageError
from surgeon_batchnorm.adapter import EPSILON, put_back


def mobile(batch="N", **options):
    """A stem, a block with a kernel per channel and squeeze and excitation, a 1×1 convolution."""
    net = nw.Net(**options)
    x = net.input("x", [batch, 3, 12, 12])
    x = net.node("Relu", nw.conv(net, x, "stem", 8, 3))
    x = net.node("Clip", nw.conv(net, x, "each", 8, 8, group=8))
    gate = net.node("Relu", nw.conv(net, net.node("GlobalAveragePool", x), "squeeze", 4, 8, 1))
    gate = net.node("Sigmoid", nw.conv(net, gate, "excite", 8, 4, 1))
    x = nw.conv(net, net.node("Mul", x, gate), "project", 6, 8, 1)
    x = net.node("Flatten", net.node("GlobalAveragePool", x), out="features")
    net.node("Gemm", x, net.weight("fc.weight", 4, 6), net.weight("fc.bias", 4), out="y", transB=1)
    return net.model("y", shape=[batch, 4])


def arrays(model):
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def floats(model):
    return tuple(name for name, value in arrays(model).items() if value.dtype.kind == "f")


def woven(model, *, scratch=False, batch=None, n=64, **settings):
    """Return what the adapter makes, and the batches that it saw."""
    feeds = [nw.feeds(model, batch=n // 2, seed=seed) for seed in (0, 1)]
    made = put_back(model, floats(model), lambda _: iter(feeds), scratch, batch, **settings)
    return made, feeds


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("network", [nw.convnet, nw.residual, mobile])
def test_nothing_changes_at_the_start(network, opset):
    model = network(opset=opset)
    made, _ = woven(model)
    kinds = [node.op_type for node in made.graph.graph.node]
    assert kinds.count("BatchNormalization") >= 2
    module = surgeon.to_torch(made.graph)
    feeds = nw.feeds(model, batch=7, seed=5)
    (wanted,) = nw.run(model, feeds).values()
    with torch.no_grad():
        found = module(*map(torch.from_numpy, feeds.values())).numpy()
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_scale_and_offset_are_those_of_the_values():
    model = mobile()
    made, feeds = woven(model)
    whole = {"x": np.concatenate([one["x"] for one in feeds])}
    values = arrays(made.graph)
    for node in model.graph.node:
        scale = f"{node.input[1]}.scale" if node.op_type == "Conv" else None
        if scale not in values:
            continue
        listening = nw.with_outputs(model, node.output[0])
        found = nw.run(listening, whole)[node.output[0]]
        mean, variance = found.mean((0, 2, 3)), found.var((0, 2, 3))
        np.testing.assert_allclose(values[f"{node.input[1]}.offset"], mean, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(values[scale] ** 2 - EPSILON, variance, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("scratch", [False, True])
@pytest.mark.parametrize("network", [nw.convnet, mobile])
def test_what_was_trained_folds_into_the_same_function(network, scratch):
    model = network()
    made, feeds = woven(model, scratch=scratch)
    module = surgeon.to_torch(made.graph).train()
    learns = {name for names in made.trainable.values() for name in names}
    parameters = [p for name, p in module.named_parameters() if name in learns]
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in learns)
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    for one in feeds * 3:
        module(torch.from_numpy(one["x"])).square().mean().backward()
        assert all(parameter.grad is not None for parameter in parameters)
        optimizer.step()
        optimizer.zero_grad()
    values = {name: value.numpy() for name, value in surgeon.tensors(module.eval()).items()}
    found = made.fold(values)
    assert set(floats(model)) <= set(found)
    tuned = onnx.ModelProto()
    tuned.CopyFrom(model)
    for tensor in tuned.graph.initializer:
        if tensor.name in floats(model):
            tensor.CopyFrom(numpy_helper.from_array(found[tensor.name], tensor.name))
    feeds = nw.feeds(model, batch=7, seed=5)
    (delivered,) = nw.run(tuned, feeds).values()
    with torch.no_grad():
        believed = module(torch.from_numpy(feeds["x"])).numpy()
    assert np.abs(delivered - believed).max() <= 1e-4 * np.abs(believed).max()
    assert np.abs(delivered - nw.run(model, feeds)["y"]).max() > 1e-3


def test_a_random_start_begins_as_new_layers_do():
    made, _ = woven(nw.convnet(), scratch=True)
    values = arrays(made.graph)
    for part, value in (("scale", 1), ("offset", 0), ("mean", 0), ("variance", 1)):
        assert (values[f"c1.weight.{part}"] == value).all()


def without(model, name):
    for node in model.graph.node:
        if name in node.input:
            del node.input[list(node.input).index(name)]
    return model


def test_what_gets_no_layer_is_said():
    made, _ = woven(mobile())
    layers = {n.input[1] for n in made.graph.graph.node if n.op_type == "BatchNormalization"}
    assert layers == {f"{name}.weight.scale" for name in ("stem", "each", "project")}
    assert any("3 of 5" in note and "2 see no places" in note for note in made.notes)
    assert made.trainable["stem.bias"] == ("stem.weight.scale", "stem.weight.offset")
    assert made.trainable["squeeze.bias"] == ("squeeze.bias",)
    made, _ = woven(without(nw.convnet(), "c1.bias"))
    assert any("1 of 2" in note and "no bias" in note for note in made.notes)
    made, _ = woven(nw.batchnorm())
    assert made.graph == nw.batchnorm()
    assert any("nothing to do" in note and "already" in note for note in made.notes)
    made, _ = woven(nw.mlp())
    assert any("nothing to do" in note for note in made.notes)
    model = nw.convnet()
    some = put_back(model, ("c2.weight", "c2.bias", "c1.weight"), lambda _: iter(()), True, None)
    assert any("1 of 2" in note and "not trained" in note for note in some.notes)


def test_targets_choose():
    made, _ = woven(mobile(), targets="st*|proj*", momentum=0.3)
    layers = [n for n in made.graph.graph.node if n.op_type == "BatchNormalization"]
    assert [layer.input[1] for layer in layers] == ["stem.weight.scale", "project.weight.scale"]
    momentum = next(item.f for item in layers[0].attribute if item.name == "momentum")
    assert momentum == pytest.approx(0.7)
    with pytest.raises(UsageError, match="nothing") as caught:
        woven(mobile(), targets="nothing*")
    assert "stem.weight" in caught.value.remedy


def test_one_sample_at_a_time_is_refused():
    with pytest.raises(UsageError, match="one sample"):
        woven(nw.convnet(batch=1), batch=1)


# ── through the verbs ───────────────────────────────────────────────────────────────────────────


def data(n=60):
    random = np.random.default_rng(0)
    labels = np.arange(n) % 3
    x = random.standard_normal((n, 3, 12, 12)).astype(np.float32)
    x[np.arange(n), labels] += 0.5
    return {"x": x, "labels": labels}


def tuned(model=None, **settings):
    given = {
        "case": "large-similar", "epochs": 3, "device": "cpu", "init": "random",
        "adapter": "batchnorm", **settings,
    }  # fmt: skip
    model = mobile() if model is None else model
    half = model.graph.input[0].type.tensor_type.elem_type == nw.F16
    samples = data()
    samples["x"] = samples["x"].astype(np.float16 if half else np.float32)
    return surgeon.finetune(model, samples, **given)


def test_the_file_keeps_its_structure_and_what_is_frozen(tmp_path):
    out = tmp_path / "out.onnx"
    outcome = tuned(out=out, train_from="@0.5", init="pretrained", lr=0.01)
    operated = surgeon.operate(mobile(), "large-similar", 3, train_from="@0.5")
    proto = onnx.load(out)
    assert list(proto.graph.node) == list(operated.proto.graph.node)
    before, after = arrays(operated.proto), arrays(proto)
    assert list(before) == list(after)
    assert "stem.weight" not in operated.trainable
    for name in before.keys() - set(operated.trainable):
        assert before[name].tobytes() == after[name].tobytes()
    assert surgeon.verify(out).passed
    body = outcome.document()
    assert set(body["changed"]) <= set(operated.trainable)
    assert body["plan"]["adapter"] == "batchnorm"
    assert any(text.startswith("batchnorm: put back behind") for text in body["warnings"])


def test_a_random_start_is_delivered_and_gives_what_was_trained(tmp_path):
    out = tmp_path / "out.onnx"
    outcome = tuned(out=out)  # the file is compared with the module before it takes its place
    assert outcome.document()["delivered"] == "tuned"
    assert surgeon.verify(out).passed
    assert {"stem.weight", "stem.bias", "squeeze.bias"} <= set(outcome.document()["changed"])


def test_the_seed_decides_the_bits_and_a_resumed_run_has_the_same(tmp_path):
    whole = tuned(epochs=4)
    out = tmp_path / "out.onnx"

    def progress(stage, *_, epoch=None, **__):
        if epoch == 3:
            raise KeyboardInterrupt

    assert tuned(out=out, epochs=4, progress=progress).document()["stopped"] == "interrupt"
    again = tuned(out=out, epochs=4, resume=True)
    assert again.document()["resumed"]["epoch"] >= 1
    assert again.model.proto.graph.initializer == whole.model.proto.graph.initializer
    other = tuned(epochs=4, seed=1)
    assert other.model.proto.graph.initializer != whole.model.proto.graph.initializer


def test_both_starts_race(tmp_path):
    body = tuned(init="race", epochs=5).document()
    assert body["race"]["random"] is not None
    assert sum(text.startswith("batchnorm:") for text in body["warnings"]) == 1


def test_half_precision_comes_back_in_half_precision():
    outcome = tuned(nw.convnet(dtype=nw.F16))
    values = arrays(outcome.model.proto)
    assert values["c1.weight"].dtype == np.float16
    assert np.isfinite(values["c1.weight"]).all()
    assert outcome.document()["delivered"] == "tuned"


def test_numbers_are_learnt_in_their_own_units():
    given = data()
    numbers = 500 + 100 * given["x"].mean((1, 2, 3))
    outcome = surgeon.finetune(
        mobile(), {"x": given["x"], "labels": numbers.astype(np.float32)}, case="large-similar",
        adapter="batchnorm", task="regression", init="random", epochs=3, device="cpu",
    )  # fmt: skip
    told = surgeon.predict(outcome.model, {"x": given["x"]}).document()["predictions"]
    found = np.array([row["values"][0] for row in told])
    assert 300 < found.mean() < 700


def mixing():
    """A network in which the samples of a batch change each other."""
    net = nw.Net()
    x = net.node("Relu", nw.conv(net, net.input("x", ["N", 3, 12, 12]), "stem", 8, 3))
    x = net.node("Sub", x, net.node("ReduceMean", x, axes=[0, 2, 3], keepdims=1))
    x = net.node("Flatten", net.node("GlobalAveragePool", x), out="features")
    net.node("Gemm", x, net.weight("fc.weight", 4, 8), net.weight("fc.bias", 4), out="y", transB=1)
    return net.model("y", shape=["N", 4])


def test_a_network_of_one_sample_a_pass_is_refused():
    with pytest.raises(UsageError, match="one sample"):
        tuned(mixing())
