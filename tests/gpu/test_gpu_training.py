"""Training on a device: the four cases, repetition bit by bit, stopping here and resuming there."""

from __future__ import annotations

from dataclasses import replace

import networks
import pytest
import torch
from classes import fit
from patterns import Batches, pictures
from places import named

import surgeon
from surgeon.torch_graph.module import tensors
from surgeon.train import loop
from surgeon.train.settings import Checkpoint, FitSettings
from surgeon.train.step import Step

CASES = ["small-similar", "small-different", "large-similar", "large-different"]
SETTINGS = FitSettings(epochs=4, batch=16, lr=0.01, patience=0, keep="last")
REPEATS = replace(SETTINGS, deterministic=True)


def patient():
    return surgeon.operate(networks.convnet(), case="large-similar", classes=3)


def trained(device, settings=SETTINGS, **options):
    model = patient()
    module = surgeon.to_torch(model)
    result = fit(
        module, Batches(pictures()), Batches(pictures(45, seed=1)), trainable=model.trainable,
        settings=replace(settings, device=device), **options,
    )  # fmt: skip
    return result, {name: value.cpu() for name, value in tensors(module).items()}


@pytest.mark.parametrize("case", CASES)
def test_every_case_ends_in_a_proven_file(case, device, tmp_path):
    out = tmp_path / "tuned.onnx"
    init = "random" if case == "large-different" else None
    outcome = surgeon.finetune(
        networks.convnet(), pictures(150), out, case=case, init=init, epochs=15,
        device=named(device),
    )  # fmt: skip
    assert out.is_file()
    assert surgeon.verify(out, device="cpu").passed
    assert outcome.metrics["validation"]["accuracy"] > 0.5
    assert set(outcome.document()["changed"]) <= set(
        outcome.document()["trainable"] + outcome.document()["statistics"]
    )
    assert outcome.document()["device"].startswith(device)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_trains(precision, device):
    result, _ = trained(device, replace(SETTINGS, precision=precision, epochs=8))
    losses = [row["validation_loss"] for row in result.history]
    assert losses[-1] < losses[0]
    assert result.stopped is None


def test_the_same_seed_gives_the_same_bits(device):
    first, weights = trained(device, REPEATS)
    second, again = trained(device, REPEATS)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert [row["loss"] for row in first.history] == [row["loss"] for row in second.history]


def stop_in_the_third_epoch(device, folder):
    """Train until Ctrl-C."""
    train_epoch = loop._Fit._train_epoch

    def stopped(*arguments, **options):
        if arguments[1] == 2:
            raise KeyboardInterrupt
        return train_epoch(*arguments, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop._Fit, "_train_epoch", stopped)
        result, _ = trained(device, REPEATS, checkpoint=Checkpoint(folder))
    assert result.stopped == "interrupt"
    assert result.history[-1]["epoch"] == 2


def resume(device, folder):
    """Train what is left; return the weights."""
    result, weights = trained(device, REPEATS, checkpoint=Checkpoint(folder, resume=True))
    assert result.stopped is None
    assert result.steps > result.history[2]["step"]
    assert result.history[-1]["epoch"] == SETTINGS.epochs
    return weights


def close(found, expected):
    """Compare weights after the same steps, their sums in another order."""
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-2, atol=1e-3), name


def test_a_stopped_run_resumes_bit_for_bit(device, tmp_path):
    _, uninterrupted = trained(device, REPEATS)
    stop_in_the_third_epoch(device, tmp_path)
    weights = resume(device, tmp_path)
    for name, value in uninterrupted.items():
        assert torch.equal(weights[name], value), name


def test_a_stopped_run_resumes_on_the_cpu(device, tmp_path, exact):
    _, uninterrupted = trained(device, REPEATS)
    stop_in_the_third_epoch(device, tmp_path)
    close(resume("cpu", tmp_path), uninterrupted)


@pytest.mark.gpu
def test_a_run_from_the_cpu_resumes_on_the_gpu(tmp_path, exact):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    _, uninterrupted = trained("cpu", REPEATS)
    stop_in_the_third_epoch("cpu", tmp_path)
    close(resume("cuda", tmp_path), uninterrupted)


@pytest.mark.gpu
def test_no_step_waits_for_the_device():
    """A synchronising call inside a step raises under torch's own detector."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    step = Step.take

    def strict(*arguments, **options):
        try:
            torch.cuda.set_sync_debug_mode("error")
            return step(*arguments, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Step, "take", strict)
        result, _ = trained("cuda", replace(SETTINGS, epochs=2))
    assert result.steps > 0
