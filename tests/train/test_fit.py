"""Training as a whole: bits, resumption, every way to end, every setting that changes a number."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from classes import fit
from torch import nn

from surgeon.errors import (
    DataError,
    EnvironmentLacksError,
    ModelError,
    UnknownNameError,
    UsageError,
)
from surgeon.torch_graph.module import to_module
from surgeon.train import compile as compile_room
from surgeon.train import optimizers, resume, room
from surgeon.train.device import is_out_of_memory
from surgeon.train.settings import Checkpoint, FitSettings, Progress
from surgeon.train.step import StopError

QUICK = FitSettings(device="cpu", epochs=3, batch=16, lr=0.01, patience=0)


class Samples:
    """Samples in memory; remembers what was asked for."""

    def __init__(self, x, labels):
        self.x, self.targets = x, labels
        self.loads = []

    @property
    def n(self):
        return len(self.targets)

    def load(self, indices):
        self.loads.append(indices.copy())
        return (self.x[torch.from_numpy(indices)],)


def samples(n=96, seed=0, classes=3, imbalance=None):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes if imbalance is None else np.repeat([0, 1], imbalance)
    centres = np.random.default_rng(7).standard_normal((classes, 1, 4, 4)) * 1.5
    x = centres[labels] + rng.standard_normal((len(labels), 1, 4, 4))
    return Samples(torch.from_numpy(x.astype(np.float32)), labels.astype(np.int64))


class Network(nn.Module):
    def __init__(self, classes=3, dropout=0.2):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(96, classes)

    def forward(self, x):
        return self.head(self.drop(torch.relu(self.norm(self.conv(x))).flatten(1)))


ALL = [name for name, _ in Network().named_parameters()]


def state(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def without_time(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_learns_and_repeats_bit_for_bit(optimizer):
    results = []
    for _ in range(2):
        module = Network()
        torch.manual_seed(
            np.random.default_rng().integers(2**31)
        )  # a foreign state must not matter
        settings = replace(QUICK, optimizer=optimizer, epochs=4)
        result = fit(module, samples(), samples(60, 1), trainable=ALL, settings=settings)
        results.append((state(module), without_time(result.history)))
        assert result.history[-1]["validation_quality"] > result.history[0]["validation_quality"]
        assert result.improved
        assert result.stopped is None
        assert result.steps == 4 * 6
        assert not module.training
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    other = Network()
    fit(other, samples(), samples(60, 1), trainable=ALL, settings=replace(QUICK, seed=1))
    assert not same(results[0][0], state(other))


def test_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    module = Network()
    torch.manual_seed(5)
    fit(module, samples(), samples(30, 1), trainable=ALL, settings=QUICK)
    assert torch.equal(torch.rand(3), expected)


def test_history_has_the_columns_of_the_contract():
    result = fit(Network(), samples(), samples(30, 1), trainable=ALL, settings=QUICK)
    for row in result.history:
        assert set(row) == {
            "stage", "epoch", "step", "loss", "validation_loss", "validation_quality", "lr",
            "seconds",
        }  # fmt: skip
    assert [row["epoch"] for row in result.history] == [0, 1, 2, 3]
    assert result.history[0]["loss"] is None
    assert result.best in result.history
    best = max(row["validation_quality"] for row in result.history)
    assert result.best["validation_quality"] == best


def test_one_exact_sgd_step():
    train = samples(30)
    module = Network(dropout=0.0).eval()
    twin = Network(dropout=0.0)
    settings = FitSettings(
        device="cpu", optimizer="sgd", lr=0.1, constant_rate=True, max_steps=1, batch=30,
        clip=None, lr_decay=1.0, keep="last",
    )  # fmt: skip
    result = fit(module, train, None, trainable=ALL, settings=settings, smoothing=0.0, weights=None)
    assert result.steps == 1
    twin.train()
    # The step sees the samples in the order of the permutation: sums in float32 depend on it.
    order = train.loads[0]
    loss = nn.functional.cross_entropy(twin(train.x[order]), torch.from_numpy(train.targets[order]))
    loss.backward()
    for name, parameter in twin.named_parameters():
        expected = parameter.detach() - 0.1 * parameter.grad
        torch.testing.assert_close(state(module)[name], expected, rtol=1e-6, atol=1e-7)
    assert not torch.equal(twin.head.weight, module.head.weight)


def test_frozen_parameters_do_not_move():
    module = Network()
    before = state(module)
    fit(module, samples(), samples(30, 1), trainable=["head.weight"], settings=QUICK)
    after = state(module)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "head.weight" in moved
    assert not moved & {"conv.weight", "conv.bias", "norm.weight", "norm.bias", "head.bias"}


def test_resumes_bit_for_bit(tmp_path):
    settings = replace(QUICK, epochs=4)
    straight = Network()
    expected = fit(straight, samples(), samples(60, 1), trainable=ALL, settings=settings)

    def interrupt(progress: Progress):
        if progress.epoch == 3 and progress.step == 14:
            raise KeyboardInterrupt

    module = Network()
    first = fit(
        module, samples(), samples(60, 1), trainable=ALL, settings=settings, progress=interrupt,
        checkpoint=Checkpoint(tmp_path),
    )  # fmt: skip
    assert first.stopped == "interrupt"
    assert first.epochs == 2
    assert module.head.weight.isfinite().all()
    resumed = Network()  # what was in memory is gone
    second = fit(
        resumed, samples(), samples(60, 1), trainable=ALL, settings=settings,
        checkpoint=Checkpoint(tmp_path, resume=True),
    )  # fmt: skip
    assert second.stopped is None
    assert second.steps == expected.steps
    assert without_time(second.history) == without_time(expected.history)
    assert same(state(straight), state(resumed))
    again = Network()
    third = fit(
        again, samples(), samples(60, 1), trainable=ALL, settings=settings,
        checkpoint=Checkpoint(tmp_path, resume=True),
    )  # fmt: skip
    assert third.steps == expected.steps
    assert same(state(straight), state(again))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    fit(
        Network(),
        samples(),
        samples(30, 1),
        trainable=ALL,
        settings=QUICK,
        checkpoint=Checkpoint(tmp_path),
    )
    for change in (
        {"settings": replace(QUICK, lr=0.5)},
        {"trainable": ["head.weight"]},
        {"train": samples(97)},
        {"smoothing": 0.2},
    ):
        arguments = {"train": samples(), "settings": QUICK, "trainable": ALL, **change}
        train = arguments.pop("train")
        with pytest.raises(UsageError, match="another run"):
            fit(
                Network(),
                train,
                samples(30, 1),
                checkpoint=Checkpoint(tmp_path, resume=True),
                **arguments,
            )


def test_resume_without_a_checkpoint_starts(tmp_path):
    result = fit(
        Network(), samples(), samples(30, 1), trainable=ALL, settings=QUICK,
        checkpoint=Checkpoint(tmp_path / "new", resume=True),
    )  # fmt: skip
    assert result.epochs == 3


class Poisoned(Network):
    """Its loss stops being a number at the given training step."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def forward(self, x):
        self.left -= self.training
        return super().forward(x) * (float("nan") if self.training and self.left < 0 else 1.0)


@pytest.mark.parametrize("step", [0, 9])
def test_nan_ends_with_the_best_weights(step):
    module = Poisoned(step)
    start = state(module)
    result = fit(module, samples(), samples(60, 1), trainable=ALL, settings=QUICK)
    assert result.stopped == "nan"
    assert result.steps == step
    assert all(tensor.isfinite().all() for tensor in state(module).values())
    assert result.improved == (step > 0)
    if step == 0:
        assert same(start, state(module))


def test_weights_that_blow_up_are_not_kept():
    module = Network()
    result = fit(
        module, samples(), samples(60, 1), trainable=ALL,
        settings=replace(QUICK, optimizer="sgd", lr=1e30, clip=None),
    )  # fmt: skip
    assert all(tensor.isfinite().all() for tensor in state(module).values())
    assert result.stopped == "nan"


def test_early_stop_gives_the_best_weights():
    # Random labels in validation: nothing learnt can help for long.
    train, validation = samples(48), samples(40, 1)
    validation.targets = np.random.default_rng(3).integers(0, 3, 40)
    module = Network()
    result = fit(
        module, train, validation, trainable=ALL,
        settings=replace(QUICK, epochs=60, patience=3, lr=0.05),
    )  # fmt: skip
    assert result.stopped == "early"
    assert result.epochs < 60
    logits = module(validation.x)
    accuracy = float((logits.argmax(1).numpy() == validation.targets).mean())
    assert accuracy == pytest.approx(result.best["validation_quality"])


class Slow(Samples):
    """Takes 0.02 s a batch, by a clock of its own: what else a machine does is not tested."""

    def __init__(self, x, labels, monkeypatch):
        super().__init__(x, labels)
        self.now = 0.0
        monkeypatch.setattr(
            "surgeon.train.clock.time", SimpleNamespace(perf_counter=lambda: self.now)
        )

    def load(self, indices):
        self.now += 0.02
        return super().load(indices)


def test_budget_ends_in_time_and_anneals(monkeypatch):
    train = samples(320)
    slow = Slow(train.x, train.targets, monkeypatch)
    rates = []
    result = fit(
        Network(), slow, samples(30, 1), trainable=ALL,
        settings=replace(QUICK, epochs=1000, budget_seconds=2.0),
        progress=lambda p: rates.append(p.lr),
    )  # fmt: skip
    assert result.stopped == "budget"
    assert 0.9 * 2 < result.seconds < 1.1 * 2
    assert max(rates) > 0.8 * 0.01
    assert rates[-1] < 0.1 * 0.01
    assert len(result.history) > 3  # judged in the middle of what would be a long run


def test_a_budget_judges_only_what_fits(monkeypatch):
    validation = samples(3000, 1)
    slow = Slow(validation.x, validation.targets, monkeypatch)
    result = fit(
        Network(), samples(), slow, trainable=ALL,
        settings=replace(QUICK, budget_seconds=1.0, epochs=1000),
    )  # fmt: skip
    assert 0 < result.validation_samples < 3000
    assert any("validating on" in note for note in result.notes)
    assert result.stopped == "budget"


def test_a_budget_leaves_time_for_a_slow_step_and_the_last_judgement(monkeypatch):
    """Steps of a twentieth of the budget, and judgements of the same, end inside it."""
    train, validation = samples(320), samples(16, 1)
    slow = Slow(train.x, train.targets, monkeypatch)

    class Judged(Samples):
        def load(self, indices):
            slow.now += 0.02
            return super().load(indices)

    result = fit(
        Network(), slow, Judged(validation.x, validation.targets), trainable=ALL,
        settings=replace(QUICK, epochs=1000, budget_seconds=0.4),
    )  # fmt: skip
    assert result.stopped == "budget"
    assert result.steps >= 1
    assert result.seconds <= 1.1 * 0.4


def test_a_judgement_longer_than_the_budget_leaves_one_step(monkeypatch):
    train, validation = samples(320), samples(16, 1)
    slow = Slow(train.x, train.targets, monkeypatch)

    class Judged(Samples):
        def load(self, indices):
            slow.now += 5.0
            return super().load(indices)

    result = fit(
        Network(), slow, Judged(validation.x, validation.targets), trainable=ALL,
        settings=replace(QUICK, epochs=1000, budget_seconds=0.4),
    )  # fmt: skip
    assert (result.stopped, result.steps) == ("budget", 1)


class Hungry(Network):
    """Runs out of memory when it is given more than a few samples at once."""

    def __init__(
        self, limit, words="DefaultCPUAllocator: not enough memory: you tried to allocate"
    ):
        super().__init__(dropout=0.0)
        self.norm = nn.Identity()  # statistics of a batch depend on the size of the passes
        self.limit, self.words = limit, words

    def forward(self, x):
        if len(x) > self.limit:
            raise RuntimeError(self.words)
        return super().forward(x)


def test_out_of_memory_halves_the_passes_not_the_batch():
    plain, hungry = Hungry(10**6), Hungry(5)
    names = [name for name, _ in plain.named_parameters()]
    settings = replace(QUICK, clip=None)
    told = []
    expected = fit(plain, samples(), samples(60, 1), trainable=names, settings=settings)
    result = fit(
        hungry, samples(), samples(60, 1), trainable=names, settings=settings,
        progress=lambda p: told.append(p.note) if p.note else None,
    )  # fmt: skip
    assert result.micro_batch == 4
    assert result.batch == 16
    assert result.steps == expected.steps
    assert "passes of 4 samples" in told[-1]
    for name, tensor in state(plain).items():
        torch.testing.assert_close(state(hungry)[name], tensor, rtol=1e-4, atol=1e-5)


def test_out_of_memory_at_one_sample_is_an_error():
    with pytest.raises(EnvironmentLacksError, match="one sample at a time"):
        fit(Hungry(0), samples(), samples(30, 1), trainable=["head.weight"], settings=QUICK)


def test_other_errors_come_through_and_the_thread_ends():
    class Broken(Samples):
        def load(self, indices):
            raise DataError("image 7 cannot be read")

    import threading

    source = samples()
    with pytest.raises(DataError, match="image 7"):
        fit(
            Network(), Broken(source.x, source.targets), samples(30, 1), trainable=ALL,
            settings=QUICK,
        )  # fmt: skip
    assert not [t for t in threading.enumerate() if t.name.startswith("surgeon-load")]


def test_every_sample_once_an_epoch_in_a_new_order():
    train = samples(50)
    fit(Network(), train, samples(30, 1), trainable=ALL, settings=replace(QUICK, epochs=2))
    seen = np.concatenate(train.loads)
    np.testing.assert_array_equal(np.sort(seen[:50]), np.arange(50))
    np.testing.assert_array_equal(np.sort(seen[50:]), np.arange(50))
    assert not np.array_equal(seen[:50], seen[50:])
    assert min(len(chunk) for chunk in train.loads) >= 12  # no batch of a leftover few


def test_rates_fall_with_depth():
    module = Network()
    depths = {name: 0.5 for name in ALL if not name.startswith("head")}
    settings = replace(
        QUICK, optimizer="sgd", lr=0.1, constant_rate=True, max_steps=1, clip=None, keep="last"
    )
    moved = {}
    for decay in (1.0, 0.5):
        module = Network(dropout=0.0)
        before = state(module)
        fit(
            module, samples(), None, trainable=ALL,
            settings=replace(settings, lr_decay=decay, depths=depths),
        )  # fmt: skip
        after = state(module)
        moved[decay] = {name: float((after[name] - before[name]).norm()) for name in ALL}
    assert moved[0.5]["head.weight"] == pytest.approx(moved[1.0]["head.weight"], rel=1e-4)
    ratio = moved[0.5]["conv.weight"] / moved[1.0]["conv.weight"]
    assert ratio == pytest.approx(0.5**5, rel=1e-3)


def test_without_validation_the_training_loss_decides():
    result = fit(Network(), samples(), None, trainable=ALL, settings=QUICK)
    losses = [row["loss"] for row in result.history[1:]]
    assert result.best["loss"] == min(losses)
    assert result.validation_samples == 0


def test_augment_and_prepare_are_called_in_order():
    train, validation = samples(32), samples(20, 1)
    calls = []

    def augment(inputs, seed):
        calls.append(("augment", seed))
        return (inputs[0] + 0.01,)

    def prepare(inputs):
        calls.append(("prepare", None))
        return inputs

    train.augment, train.prepare, validation.prepare = augment, prepare, prepare
    validation.augment = None
    fit(Network(), train, validation, trainable=ALL, settings=replace(QUICK, epochs=1))
    assert [name for name, _ in calls] == ["prepare"] * 2 + ["augment", "prepare"] * 2 + [
        "prepare"
    ] * 2
    seeds = [seed for name, seed in calls if name == "augment"]
    assert len(set(seeds)) == 2


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_trains(precision):
    result = fit(
        Network(), samples(), samples(60, 1), trainable=ALL,
        settings=replace(QUICK, precision=precision, epochs=4),
    )  # fmt: skip
    assert result.stopped is None
    assert result.best["validation_quality"] > result.history[0]["validation_quality"]


def test_half_precision_weights_learn_through_float32_copies(tmp_path):
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.head = nn.Linear(16, 3).half()

        def forward(self, x):
            return self.head(x.flatten(1).half())

    # Steps far below float16's spacing still add up in the float32 copies.
    settings = replace(QUICK, lr=1e-5, epochs=40, keep="last", constant_rate=True)
    module = Half()
    before = state(module)
    names = ["head.weight", "head.bias"]
    result = fit(module, samples(), samples(60, 1), trainable=names, settings=settings)
    assert result.stopped is None
    assert module.head.weight.dtype == torch.float16
    moved = (module.head.weight.float() - before["head.weight"].float()).abs()
    assert moved.max() > 1e-4

    def interrupt(progress: Progress):
        if progress.epoch == 21:
            raise KeyboardInterrupt

    for report in (interrupt, None):
        resumed = Half()
        fit(
            resumed, samples(), samples(60, 1), trainable=names, settings=settings,
            checkpoint=Checkpoint(tmp_path, resume=True), progress=report,
        )  # fmt: skip
    assert same(state(module), state(resumed))


def test_progress_tells_where_it_stands():
    seen: list[Progress] = []
    fit(Network(), samples(), samples(30, 1), trainable=ALL, settings=QUICK, progress=seen.append)
    shares = [p.share for p in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert seen[-1].seconds_left == 0
    assert [p.row["epoch"] for p in seen if p.row] == [0, 1, 2, 3]
    assert seen[-1].steps == seen[-1].step == 18
    assert seen[-1].samples_per_second > 0


@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"batch": -1}, {"lr": 0.0}, {"lr": float("nan")}, {"budget_seconds": 0.0},
     {"lr_decay": 0.0}, {"patience": -1}, {"precision": "int8"},
     {"accumulate": 0}, {"compile": "maybe"}, {"memory": "none"}],
)  # fmt: skip
def test_settings_that_cannot_be_meant(change):
    with pytest.raises(UsageError):
        fit(Network(), samples(), None, trainable=ALL, settings=replace(QUICK, **change))


def test_names_and_data_that_are_not_there():
    with pytest.raises(UnknownNameError, match="weigth"):
        fit(Network(), samples(), None, trainable=["head.weigth"], settings=QUICK)
    with pytest.raises(UsageError, match="nothing is trainable"):
        fit(Network(), samples(), None, trainable=[], settings=QUICK)
    empty = Samples(torch.zeros(0, 1, 4, 4), np.zeros(0, np.int64))
    with pytest.raises(DataError):
        fit(Network(), empty, None, trainable=ALL, settings=QUICK)


def test_a_stop_is_no_error_to_the_memory_check():
    assert not is_out_of_memory(StopError("nan"))


# ── passes: accumulated, in less memory, compiled ────────────────────────────────────────────────


def plain_network():
    module = Network(dropout=0.0)
    module.norm = nn.Identity()  # statistics of a batch depend on the size of the passes
    return module


def test_accumulated_passes_equal_a_larger_batch():
    results = []
    for batch, accumulate in ((16, 1), (4, 4)):
        train, module = samples(), plain_network()
        names = [name for name, _ in module.named_parameters()]
        result = fit(
            module, train, samples(60, 1), trainable=names,
            settings=replace(QUICK, batch=batch, accumulate=accumulate),
        )  # fmt: skip
        results.append((state(module), result, [len(chunk) for chunk in train.loads]))
    (one, first, whole), (four, second, parts) = results
    assert (first.batch, first.micro_batch, second.batch, second.micro_batch) == (16, 16, 16, 4)
    assert first.steps == second.steps
    assert max(whole) == 16
    assert max(parts) == 4
    for name, tensor in one.items():
        torch.testing.assert_close(four[name], tensor, rtol=1e-4, atol=1e-5)


def test_less_memory_gives_the_same_bits():
    results = []
    for memory in ("normal", "low"):
        module = converted()
        names = [name for name, _ in module.named_parameters()]
        fit(
            module, samples(), samples(30, 1), trainable=names,
            settings=replace(QUICK, memory=memory, epochs=2),
        )  # fmt: skip
        results.append(state(module))
    assert same(*results)
    assert not same(results[0], state(converted()))


def converted():
    """Convolution, BatchNormalization that learns, Dropout, residual sums: a converted graph."""
    from onnx import TensorProto, helper, numpy_helper

    from surgeon.graph.weights import roles

    rng = np.random.default_rng(0)

    def tensor(name, *shape):
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 3, name)

    nodes = [helper.make_node("Conv", ["x", "stem"], ["v0"], pads=[1, 1, 1, 1])]
    weights = [tensor("stem", 6, 1, 3, 3), tensor("head", 96, 3)]
    for k in range(6):
        nodes += [
            helper.make_node("Conv", [f"v{k}", f"w{k}"], [f"c{k}"], pads=[1, 1, 1, 1]),
            helper.make_node(
                "BatchNormalization", [f"c{k}", f"s{k}", f"b{k}", f"m{k}", f"var{k}"], [f"n{k}"]
            ),
            helper.make_node("Add", [f"n{k}", f"v{k}"], [f"a{k}"]),
            helper.make_node("Relu", [f"a{k}"], [f"r{k}"]),
            helper.make_node("Dropout", [f"r{k}"], [f"v{k + 1}"]),
        ]  # fmt: skip
        weights += [tensor(f"w{k}", 6, 6, 3, 3), tensor(f"s{k}", 6), tensor(f"b{k}", 6)]
        weights += [tensor(f"m{k}", 6)]
        weights += [numpy_helper.from_array(np.full(6, 0.5 + k, np.float32), f"var{k}")]
    nodes += [
        helper.make_node("Flatten", ["v6"], ["f"]),
        helper.make_node("MatMul", ["f", "head"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [info("x", TensorProto.FLOAT, ["n", 1, 4, 4])],
        [info("y", TensorProto.FLOAT, None)], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return to_module(model, roles=roles(model))


MEASURE = """
import sys, torch, surgeon
from surgeon.train.device import peak_memory
module = surgeon.to_torch(sys.argv[1]).train()
if sys.argv[2] == "low":
    module.save_memory()
x = torch.randn(8, 3, 128, 128)
before = peak_memory(torch.device("cpu"))
module(x).sum().backward()
print(peak_memory(torch.device("cpu")) - before)
"""


@pytest.mark.slow
def test_less_memory_is_less(tmp_path):
    import subprocess
    import sys

    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for k in range(90):
        nodes += [
            helper.make_node("Conv", [last, f"w{k}"], [f"c{k}"], pads=[1, 1, 1, 1]),
            helper.make_node("Sigmoid", [f"c{k}"], [f"v{k}"]),
        ]
        shape = (16, 3 if k == 0 else 16, 3, 3)
        values = rng.standard_normal(shape).astype(np.float32) / 12
        weights.append(numpy_helper.from_array(values, f"w{k}"))
        last = f"v{k}"
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [info("x", TensorProto.FLOAT, ["n", 3, 128, 128])],
        [info(last, TensorProto.FLOAT, None)], weights,
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    peaks = {}
    for memory in ("normal", "low"):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path), memory],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        peaks[memory] = int(done.stdout.split()[-1])
    print(peaks)
    assert peaks["low"] < 0.6 * peaks["normal"]


def test_moments_of_8_bits_learn_and_resume_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(optimizers, "SMALL", 32)  # else all of this network's stay in float32

    def interrupt(progress: Progress):
        if progress.epoch == 2 and progress.step == 9:
            raise KeyboardInterrupt

    settings = replace(QUICK, memory="lowest", patience=0)
    whole = converted()
    names = [name for name, _ in whole.named_parameters()]
    validation = samples(60, 1)
    done = fit(whole, samples(), validation, trainable=names, settings=settings)
    assert done.history[-1]["validation_loss"] < done.history[0]["validation_loss"]
    for report in (interrupt, None):
        module = converted()
        result = fit(
            module, samples(), validation, trainable=names, settings=settings, progress=report,
            checkpoint=Checkpoint(tmp_path, resume=True),
        )  # fmt: skip
    assert result.stopped is None
    assert same(state(whole), state(module))
    plain = converted()
    fit(plain, samples(), validation, trainable=names, settings=QUICK)
    assert not same(state(whole), state(plain))


def test_less_memory_needs_a_converted_graph():
    with pytest.raises(UsageError, match="Network cannot be trained in less memory"):
        fit(Network(), samples(), None, trainable=ALL, settings=replace(QUICK, memory="low"))


@pytest.fixture
def eager_compiler(monkeypatch):
    """torch.compile without a C++ compiler, counted; set `.broken` to let it fail."""
    genuine = torch.compile

    class Compiler:
        calls, broken = 0, False

        def __call__(self, module, **_):
            self.calls += 1
            if self.broken:
                raise RuntimeError("no working C++ compiler\nand a long story")
            return genuine(module, backend="eager")

    compiler = Compiler()
    monkeypatch.setattr(torch, "compile", compiler)
    return compiler


def fitted(**changes):
    module = Network()
    result = fit(
        module, samples(), samples(30, 1), trainable=ALL, settings=replace(QUICK, **changes)
    )
    return module, result


def test_compiled_passes_learn_the_same(eager_compiler):
    plain, expected = fitted(compile="off")
    assert eager_compiler.calls == 0
    compiled, result = fitted(compile="on")
    assert eager_compiler.calls == 1
    assert result.compiled
    assert not expected.compiled
    assert any("compiled in" in note for note in result.notes)
    # The trial leaves no trace: weights, statistics and random numbers are those of a plain run.
    for name, tensor in state(plain).items():
        torch.testing.assert_close(state(compiled)[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_compiler_that_fails_is_told_and_done_without(eager_compiler):
    eager_compiler.broken = True
    module, result = fitted(compile="on")
    assert not result.compiled
    assert any("no working C++ compiler" in note for note in result.notes)
    assert same(state(module), state(fitted(compile="off")[0]))


def test_compiling_waits_for_a_run_that_pays(eager_compiler, monkeypatch):
    _, short = fitted(compile="auto")
    assert not short.compiled
    assert eager_compiler.calls == 0
    monkeypatch.setitem(compile_room.FORMS, "cpu", (compile_room.Form("compiled", 0.0),))
    _, long = fitted(compile="auto")
    assert eager_compiler.calls == 1
    assert any("compiled in" in note for note in long.notes)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, while it compiles
def test_a_compiled_run_draws_the_same_random_numbers():
    """Whether the passes are compiled may be a clock's choice: it moves last digits, no more.

    Told by the training loss. The gradient of a bias before BatchNormalization is rounding alone,
    AdamW makes whole steps of it, and running means follow late: the validation loss shows that.
    """
    (_, plain), (_, compiled) = (fitted(compile=form) for form in ("off", "on"))
    if not compiled.compiled:
        pytest.skip("; ".join(compiled.notes))
    assert compiled.epochs == plain.epochs
    for one, other in zip(plain.history[1:], compiled.history[1:], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_an_interrupted_run_goes_on_compiled_as_it_was(eager_compiler, tmp_path):
    def interrupt(progress: Progress):
        if progress.epoch == 2 and progress.step == 9:
            raise KeyboardInterrupt

    settings = replace(QUICK, compile="on")
    for report in (interrupt, None):
        result = fit(
            Network(), samples(), samples(30, 1), trainable=ALL, settings=settings,
            progress=report, checkpoint=Checkpoint(tmp_path, resume=True),
        )  # fmt: skip
        assert result.compiled
    assert eager_compiler.calls == 2
    assert result.stopped is None


def test_peak_memory_is_reported():
    _, result = fitted()
    assert result.peak_memory is None or result.peak_memory > 10**7


def test_an_interrupt_that_python_drops_ends_the_fit_all_the_same(monkeypatch):
    """In a finalizer KeyboardInterrupt is printed and forgotten; the fit remembers it."""

    class Dropped:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):  # the handler runs between two instructions, in here
                pass

    pressed = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs

    def press(row: Progress):
        if row.step == 4 and not pressed:
            pressed.append(True)
            Dropped()

    dropped = []
    monkeypatch.setattr(sys, "unraisablehook", lambda said: dropped.append(said.exc_type))
    try:
        result = fit(
            Network(), samples(), samples(30, 1), trainable=ALL, settings=QUICK, progress=press
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert dropped == [KeyboardInterrupt]
    assert (result.stopped, result.steps) == ("interrupt", 5)


@pytest.mark.parametrize("clip", [0.05, None])
def test_the_steps_are_those_of_torch_in_a_plain_loop(clip):
    """AdamW with clipping, nowhere looking at a number, against code that looks at each."""
    train, module, twin = samples(64), Network(dropout=0.0), Network(dropout=0.0)
    settings = FitSettings(
        device="cpu", lr=0.01, constant_rate=True, epochs=2, batch=16, clip=clip,
        lr_decay=1.0, keep="last", weight_decay=0.0, patience=0,
    )  # fmt: skip
    # Behind it a normalization takes the mean away: its gradient is rounding, which Adam enlarges.
    names = [name for name in ALL if name != "conv.bias"]
    result = fit(
        module, train, None, trainable=names, settings=settings, smoothing=0.0, weights=None
    )
    assert result.steps == 8
    twin.conv.bias.requires_grad_(requires_grad=False)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.0)
    twin.train()
    norms = []
    for indices in train.loads:
        optimizer.zero_grad()
        target = torch.from_numpy(train.targets[indices])
        nn.functional.cross_entropy(twin(train.x[torch.from_numpy(indices)]), target).backward()
        norms.append(float(nn.utils.clip_grad_norm_(twin.parameters(), clip or 1e9)))
        optimizer.step()
    assert clip is None or min(norms) > clip
    for name, value in state(twin).items():
        torch.testing.assert_close(state(module)[name], value, rtol=1e-4, atol=1e-5)


class Overflowing(Network):
    """Its gradient, though not its loss, is infinite in the n-th training pass."""

    def __init__(self, at):
        super().__init__()
        self.at, self.passes = at, 0

    def forward(self, x):
        logits = super().forward(x)
        if self.training:
            self.passes += 1
            if self.passes == self.at:
                logits.register_hook(lambda gradient: gradient * float("inf"))
        return logits


def test_a_gradient_that_is_not_finite_ends_the_fit():
    module = Overflowing(at=3)
    start = state(module)
    result = fit(module, samples(), samples(30, 1), trainable=ALL, settings=QUICK)
    assert (result.stopped, result.steps) == ("nan", 2)
    assert same(start, state(module))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_skipped_step_leaves_weights_and_moments(optimizer):
    """What the fused optimisers do with `found_inf` is relied upon."""
    module = Network(dropout=0.0).eval()
    made = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    fused = made(module.parameters(), lr=0.1, fused=True)
    for skipped in (0.0, 1.0):
        before = state(module)
        module(samples(4).x).sum().backward()
        fused.found_inf = torch.tensor(skipped)
        fused.step()
        assert same(before, state(module)) is bool(skipped)
    steps = {float(s["step"]) for s in fused.state.values() if "step" in s}
    assert steps == ({1.0} if optimizer == "adamw" else set())


def test_passes_shrink_until_the_memory_of_the_device_has_room(monkeypatch):
    shares = iter([0.0, 2.0, 1.0, 0.5])  # asked whether it can be known, then after each trial
    monkeypatch.setattr(room, "memory_share", lambda _: next(shares))
    result = fit(Network(), samples(), samples(30, 1), trainable=ALL, settings=QUICK)
    assert next(shares, None) is None
    assert (result.batch, result.micro_batch) == (16, 4)
    assert sum("memory nearly full" in note for note in result.notes) == 2


def test_the_trial_of_memory_leaves_no_trace(monkeypatch):
    plain, tried = Network(), Network()
    fit(plain, samples(), samples(30, 1), trainable=ALL, settings=QUICK)
    monkeypatch.setattr(room, "memory_share", lambda _: 0.5)
    fit(tried, samples(), samples(30, 1), trainable=ALL, settings=QUICK)
    assert same(state(plain), state(tried))


def test_a_run_of_another_device_chooses_its_form_anew(eager_compiler, tmp_path):
    def interrupt(progress: Progress):
        if progress.epoch == 2 and progress.step == 9:
            raise KeyboardInterrupt

    settings = replace(QUICK, compile="on")
    with pytest.MonkeyPatch.context() as patched:
        save = resume.checkpoint.save
        patched.setattr(
            resume.checkpoint, "save",
            lambda folder, tensors, kept: save(
                folder, tensors, {**kept, "step": {**kept["step"], "device": "cuda"}}
            ),
        )  # fmt: skip
        fit(
            Network(), samples(), samples(30, 1), trainable=ALL, settings=settings,
            progress=interrupt, checkpoint=Checkpoint(tmp_path),
        )  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        resumed = []
        patched.setattr(compile_room.Passes, "resume", lambda *_: resumed.append(True))
        result = fit(
            Network(), samples(), samples(30, 1), trainable=ALL, settings=settings,
            checkpoint=Checkpoint(tmp_path, resume=True),
        )  # fmt: skip
    assert resumed == []
    assert result.stopped is None


def test_what_cannot_repeat_is_refused(monkeypatch):
    class Unrepeatable(Network):
        def forward(self, x):
            raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation")

    with pytest.raises(UsageError, match=r"cannot repeat bit for bit.*cumsum"):
        fit(
            Unrepeatable(), samples(), None, trainable=ALL,
            settings=replace(QUICK, deterministic=True),
        )  # fmt: skip
    with pytest.raises(RuntimeError):
        fit(Unrepeatable(), samples(), None, trainable=ALL, settings=QUICK)


def test_a_refusal_inside_a_step_is_told_the_same(monkeypatch):
    class Wrapped(Network):
        def forward(self, x):
            cause = RuntimeError("cumsum_cuda_kernel does not have a deterministic form")
            raise ModelError("CumSum failed", where="node 'sum'") from cause

    with pytest.raises(UsageError, match="cannot repeat bit for bit"):
        fit(
            Wrapped(), samples(), None, trainable=ALL,
            settings=replace(QUICK, deterministic=True),
        )  # fmt: skip
    with pytest.raises(ModelError):
        fit(Wrapped(), samples(), None, trainable=ALL, settings=QUICK)


def test_only_a_measured_choice_is_left_out_of_a_repeatable_run(eager_compiler, monkeypatch):
    monkeypatch.setitem(compile_room.FORMS, "cpu", (compile_room.Form("compiled", 0.0),))
    fitted(compile="auto", deterministic=True)
    assert eager_compiler.calls == 0
    _, result = fitted(compile="on", deterministic=True)
    assert result.compiled
