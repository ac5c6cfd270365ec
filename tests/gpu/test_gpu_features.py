"""Features of the frozen part on a device: both engines, against ONNX Runtime on the CPU."""

from __future__ import annotations

from dataclasses import replace

import frozen_parts
import networks
import numpy as np
import places
import pytest
import torch
from frozen_parts import differ, streamed
from places import named, runtime_has_gpu, skip_without_runtime

import surgeon
from surgeon.engines import choice as engines
from surgeon.engines.choice import Engines, engine_for
from surgeon.engines.conveyor import Arrivals, Conveyor, on
from surgeon.engines.engine import OnnxEngine, TorchEngine
from surgeon.job import frozen
from surgeon.runtime.extract import extract
from surgeon.runtime.features import Request
from surgeon.runtime.places import Device, choose_device
from surgeon.runtime.sessions import open_session
from surgeon.runtime.stream import Runner

PARTS = {
    "pictures": lambda folder: frozen_parts.mobilenet(folder, 21),
    "texts": frozen_parts.letters,
    "fixed batch": lambda _: frozen_parts.fixed(frozen_parts.rows(networks.residual()), 4),
    "arrays": lambda _: frozen_parts.rows(networks.vit()),
}
REDUCED = {"bf16": 5e-2, "fp16": 1e-2}


def engines_on(device, **options):
    """Return the choice of a device; on a CPU, which has none, the one that a GPU would have."""
    if device == "cuda":
        return engine_for(named(device), **options)
    return Engines(torch.device("cpu"), Device("cpu"), **options)


def belt_of(part, device, kind, *, batch=4, precision="float32"):
    """Return a conveyor with one engine."""
    if kind == "onnx":
        skip_without_runtime(device)
    chosen = engines_on(device, precision=precision)
    runner = Runner(part.frozen, part.samples, outputs=part.names, device=chosen.place)
    few = part.samples.read(np.arange(2))
    dtypes = {name: rows.dtype for name, rows in runner.run(few.feeds, len(few.indices)).items()}
    engine = OnnxEngine(runner.session, part.names)
    if kind == "torch":
        engine = TorchEngine(part.frozen, chosen.device, precision=precision)
    arrivals = Arrivals(runner, chosen.device, chosen.computing)
    return Conveyor(runner, engine, arrivals, batch=batch, dtypes=dtypes)


def on_the_cpu(part):
    runner = Runner(part.frozen, part.samples, outputs=part.names, device="cpu", threads=2)
    return streamed(runner, part.samples.n)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
@pytest.mark.parametrize("build", PARTS.values(), ids=PARTS)
def test_engines_give_the_features_of_the_cpu(build, kind, device, tmp_path):
    part = build(tmp_path / "data")
    belt = belt_of(part, device, kind)
    expected, lost = on_the_cpu(part)
    found, failures = streamed(belt, part.samples.n)
    assert belt.notes == list(belt.runner.session.notes)
    assert differ(found, expected) <= 1e-4
    assert failures == lost
    assert device in belt.providers[0].lower()


@pytest.mark.parametrize("precision", REDUCED)
def test_reduced_precision_stays_within_its_bound(precision, device):
    part = frozen_parts.rows(networks.convnet())
    found = streamed(belt_of(part, device, "torch", precision=precision), part.samples.n)[0]
    assert 0 < differ(found, on_the_cpu(part)[0]) <= REDUCED[precision]


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_many_batches_keep_their_order_and_their_memory(kind, device):
    """A batch's memory that were given away too early would show in its neighbours' rows."""
    part = frozen_parts.rows(networks.convnet(), count=600)
    belt = belt_of(part, device, kind, batch=16)
    assert differ(streamed(belt, 600)[0], on_the_cpu(part)[0]) <= 1e-4


def test_onnx_runtime_waits_for_values_that_are_still_computed(device):
    """Its inputs are made on the very stream that it computes on, or it waits for that one."""
    skip_without_runtime(device)
    model = networks.convnet()
    chosen = engines_on(device)
    place = chosen.device
    x = torch.from_numpy(networks.feeds(model, batch=8)["x"])
    expected = torch.from_numpy(networks.run(model, {"x": x.numpy()})["y"])
    for where, stream in (
        (chosen.place, chosen.computing),
        (chosen.place, None),
        (choose_device(device), None),
    ):
        engine = OnnxEngine(open_session(model, device=where))
        with on(stream):
            busy = torch.randn(1500, 1500, device=place)
            for _ in range(3 if device == "cpu" else 60):
                busy = torch.tanh(busy @ busy)
            values = x.to(place) + 0 * busy.sum()
            found = engine.run({"x": values})["y"].cpu()
        assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_choice_is_made_said_and_kept(precision, device, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "WORTH_MEASURING", 0.0)
    part = frozen_parts.rows(networks.residual(), count=64)

    def features():
        chosen = engines_on(device, precision=precision)
        return extract(
            part.frozen, part.names, part.samples, None,
            Request(cache_dir=tmp_path, device=chosen.place, faster=chosen,
                    key_parts=chosen.key_parts),
        )  # fmt: skip

    first = features()
    assert "samples/s" in first.notes[-1]
    assert f"torch in {precision}" in first.notes[-1]
    assert device in first.providers[0].lower()
    assert features().hit
    expected = on_the_cpu(part)[0]["features"]
    wanted = np.stack([expected[row] for row in range(64)])
    error = np.abs(first.array("features") - wanted).max() / np.abs(wanted).max()
    assert error <= (1e-4 if precision == "float32" else REDUCED[precision])


def test_the_frozen_cases_end_in_a_proven_file(device, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "WORTH_MEASURING", 0.0)
    if device == "cpu":
        monkeypatch.setattr(frozen, "engine_for", lambda *_, **__: engines_on("cpu"))
    random = np.random.default_rng(0)
    labels = np.arange(120) % 3
    x = random.standard_normal((120, 3, 12, 12)) + labels[:, None, None, None]
    data = {"x": x.astype(np.float32), "labels": labels}
    out = tmp_path / "tuned.onnx"
    outcome = surgeon.finetune(
        networks.convnet(), data, out, case="small-similar", device=named(device)
    )
    assert surgeon.verify(out, device="cpu").passed
    body = outcome.document()
    assert device in body["providers"][0].lower()
    assert body["device"].startswith(device)
    assert outcome.metrics["validation"]["accuracy"] > 0.5


def test_deterministic_features_repeat_bit_by_bit(device, tmp_path):
    part = frozen_parts.rows(networks.residual(), count=64)
    assert engine_for(named(device), deterministic=True) is None
    place = replace(choose_device(named(device)), repeatable=True)
    found = [
        np.array(
            extract(
                part.frozen,
                part.names,
                part.samples,
                None,
                Request(cache_dir=tmp_path / str(time), device=place),
            ).array("features")
        )
        for time in range(2)
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("has", [True, False])
def test_a_gpu_that_onnx_runtime_lacks_is_not_asked_of_it(has, monkeypatch):
    monkeypatch.setattr(places, "runtime_has_gpu", lambda: has)
    assert named("cpu") == "cpu"
    assert named("cuda") == ("cuda" if has else "auto")
    skip_without_runtime("cpu")
    if has:
        skip_without_runtime("cuda")
    else:
        with pytest.raises(pytest.skip.Exception, match="ONNX Runtime has no GPU"):
            skip_without_runtime("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_onnx_runtime_promises_is_not_believed():
    assert not runtime_has_gpu()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_out_of_memory_on_the_device_halves_the_batch():
    """Real memory that is not there: nearly all of the GPU is taken while the batch is searched."""
    part = frozen_parts.rows(networks.convnet(side=96), count=256)
    belt = belt_of(part, "cuda", "torch", batch=256)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(
        (torch.cuda.memory_reserved() + 60e6) / torch.cuda.mem_get_info()[1]
    )
    try:
        found = streamed(belt, 256)[0]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert belt.batch < 256
    assert any("halved" in note for note in belt.notes)
    assert differ(found, on_the_cpu(part)[0]) <= 1e-4
