"""Samples through an engine: the same rows as a Runner gives, whatever way they take."""

from __future__ import annotations

import weakref

import frozen_parts
import networks
import numpy as np
import pytest
import torch
from frozen_parts import differ, streamed

from surgeon.data import open_data
from surgeon.engines.conveyor import Arrivals, Conveyor
from surgeon.engines.engine import OnnxEngine, TorchEngine
from surgeon.errors import DataError
from surgeon.graph.preprocess import parse_preprocess
from surgeon.records import Preprocess, TensorInfo
from surgeon.runtime.sessions import OutOfMemoryError
from surgeon.runtime.stream import Runner
from surgeon.train import batches
from surgeon.train.batches import normalized

CPU = torch.device("cpu")


def conveyor(part, kind="torch", batch=4, precision="float32"):
    runner = Runner(part.frozen, part.samples, outputs=part.names, device="cpu", threads=2)
    few = part.samples.read(np.arange(2))
    dtypes = {name: rows.dtype for name, rows in runner.run(few.feeds, len(few.indices)).items()}
    if kind == "torch":
        engine = TorchEngine(part.frozen, CPU, precision=precision)
    else:
        engine = OnnxEngine(runner.session, [n for n in part.names if n in runner.session.outputs])
    arrivals = Arrivals(runner, CPU, None)
    return runner, Conveyor(runner, engine, arrivals, batch=batch, dtypes=dtypes)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
@pytest.mark.parametrize(
    ("build", "batch"),
    [
        (lambda folder: frozen_parts.mobilenet(folder, 11), 4),
        (lambda folder: frozen_parts.mobilenet(folder, 11), 16),
        (frozen_parts.letters, 5),
        (lambda _: frozen_parts.fixed(frozen_parts.rows(networks.residual()), 4), 4),
        (lambda _: frozen_parts.rows(networks.convnet()), 6),
    ],
    ids=["pictures", "one batch of pictures", "texts", "fixed batch", "arrays"],
)
def test_every_engine_gives_the_rows_of_the_runner(build, batch, kind, tmp_path):
    part = build(tmp_path / "data")
    runner, belt = conveyor(part, kind, batch)
    expected, lost = streamed(runner, part.samples.n)
    found, failures = streamed(belt, part.samples.n)
    assert differ(found, expected) <= 1e-4
    assert failures == lost
    assert belt.notes == []


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 5e-2), ("fp16", 1e-2)])
def test_a_reduced_precision_gives_rows_of_the_same_type(precision, bound):
    part = frozen_parts.rows(networks.convnet())
    runner, belt = conveyor(part, precision=precision)
    found = streamed(belt, part.samples.n)[0]
    assert 0 < differ(found, streamed(runner, part.samples.n)[0]) <= bound


def test_samples_are_taken_in_the_order_asked_for(tmp_path):
    part = frozen_parts.mobilenet(tmp_path, 9, broken=(2, 3, 8))
    wanted = np.array([7, 0, 1, 7, 6, 4, 2])  # folder a first: 1, 6 and 4 are the broken ones
    runner, belt = conveyor(part, "onnx", 2)
    expected, lost = streamed(runner, 0, wanted)
    found, failures = streamed(belt, 0, wanted)
    assert (failures, lost) == ([1, 6, 4], [1, 6, 4])
    assert sorted(found["features"]) == [0, 1, 3, 6]
    assert differ(found, expected) <= 1e-4
    assert part.samples.failed.tolist() == [1, 4, 6]


def test_too_many_unreadable_pictures_end_it(tmp_path):
    part = frozen_parts.mobilenet(tmp_path, 8, broken=(4, 5))
    _, belt = conveyor(part, "onnx", 2)
    part.samples.failure_bound = 0.05
    with pytest.raises(DataError, match="cannot be read"):
        streamed(belt, part.samples.n)


def test_no_readable_picture_in_a_batch(tmp_path):
    part = frozen_parts.mobilenet(tmp_path, 6, broken=(4, 1))
    _, belt = conveyor(part, "onnx", 2)
    found, failures = streamed(belt, part.samples.n)
    assert sorted(found["features"]) == [0, 1, 4, 5]
    assert failures == [2, 3]


def test_inputs_that_the_frozen_part_hands_through():
    part = frozen_parts.rows(networks.convnet())
    part.names.append("x")
    runner, belt = conveyor(part, "torch", 5)
    found = streamed(belt, part.samples.n)[0]
    assert set(found) == {"features", "x"}
    assert differ(found, streamed(runner, part.samples.n)[0]) <= 1e-4


class Narrow:
    """An engine that has memory for so many samples."""

    def __init__(self, engine, most):
        self.engine, self.most, self.sizes = engine, most, []
        self.name, self.providers = engine.name, engine.providers

    def run(self, values):
        size = len(next(iter(values.values())))
        self.sizes.append(size)
        if size > self.most:
            raise OutOfMemoryError("memory ran out", remedy="give a smaller --batch")
        return self.engine.run(values)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_out_of_memory_halves_the_batch_and_goes_on(most):
    part = frozen_parts.rows(networks.convnet())
    runner, belt = conveyor(part, batch=8)
    belt.engine = Narrow(belt.engine, most)
    found = streamed(belt, part.samples.n)[0]
    assert differ(found, streamed(runner, part.samples.n)[0]) <= 1e-4
    assert belt.batch == {1: 1, 2: 2, 5: 4}[most]
    assert all("halved" in note for note in belt.notes)
    assert len(belt.notes) == {1: 3, 2: 2, 5: 1}[most]


class Failing:
    """An engine that gives up in its third run."""

    def __init__(self, engine):
        self.engine, self.left = engine, 2
        self.name, self.providers = "failing", ("failing",)

    def run(self, values):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("no more\nof this")
        return self.engine.run(values)


def test_the_runner_goes_on_where_an_engine_fails(tmp_path):
    part = frozen_parts.mobilenet(tmp_path, 11, broken=(1, 6))
    runner, belt = conveyor(part, "onnx", 2)
    expected, lost = streamed(runner, part.samples.n)
    belt.engine = Failing(belt.engine)
    found, failures = streamed(belt, part.samples.n)
    assert differ(found, expected) <= 1e-4
    assert failures == lost
    assert belt.notes == ["failing failed, ONNX Runtime goes on: no more"]
    assert belt.providers[-1] == "CPUExecutionProvider"


def test_what_goes_on_has_the_memory_of_what_failed(monkeypatch):
    """Neither the batch that failed nor the one placed behind it is held while the Runner runs."""
    part = frozen_parts.rows(networks.convnet())
    runner, belt = conveyor(part, "onnx", 4)
    belt.engine = Failing(belt.engine)
    place, stream, held = belt.arrivals.place, runner.stream, []

    def remembered(*arguments):
        placed = place(*arguments)
        held.extend(weakref.ref(value) for value in placed.values.values())
        return placed

    def streaming(*arguments):
        left.append(sum(one() is not None for one in held))
        return stream(*arguments)

    left: list[int] = []
    monkeypatch.setattr(belt.arrivals, "place", remembered)
    monkeypatch.setattr(runner, "stream", streaming)
    streamed(belt, part.samples.n)
    assert len(held) == 4  # two that ran, the one that failed and the one behind it
    assert left == [0]


def constant(values):
    values.setflags(write=False)
    return values


@pytest.mark.parametrize(
    ("values", "copies"),
    [
        (np.ones((2, 4, 4, 3), np.uint8), 0),
        (np.ones((2, 5), np.float32), 0),
        (np.ones((5, 2), np.float32).T, 1),
        (constant(np.ones((2, 5), np.float32)), 1),
    ],
    ids=["pictures", "numbers", "turned", "constant"],
)
def test_what_a_gpu_fetches_is_copied_once(values, copies, monkeypatch):
    """Into pinned memory: here a copy that remembers what it was made of."""
    _, belt = conveyor(frozen_parts.rows(networks.convnet()))
    pinned = []

    def pin(self):
        pinned.append(self)
        return self.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    belt.arrivals.computing = object()
    held = belt.arrivals._held(values)
    np.testing.assert_array_equal(held.numpy(), values)
    assert [t.data_ptr() == values.ctypes.data for t in pinned] == [copies == 0]
    assert held.data_ptr() != values.ctypes.data
    belt.arrivals.computing = None
    assert belt.arrivals._held(values).data_ptr() != values.ctypes.data
    assert len(pinned) == 1


def test_an_output_without_its_batch_axis_is_refused():
    part = frozen_parts.rows(networks.convnet())
    runner, belt = conveyor(part)

    class Wrong:
        name, providers = "wrong", ("wrong",)

        def run(self, values):
            return {"features": belt_engine.run(values)["features"][:1]}

    belt_engine, belt.engine = belt.engine, Wrong()
    found = streamed(belt, part.samples.n)[0]
    assert "has shape [1, 8] for 4 samples" in belt.notes[0]
    assert differ(found, streamed(runner, part.samples.n)[0]) == 0.0


def test_leaving_early_ends_the_threads(tmp_path):
    import threading

    part = frozen_parts.mobilenet(tmp_path, 12)
    _, belt = conveyor(part, "onnx", 2)
    stream = belt.stream(np.arange(12))
    next(stream)
    stream.close()
    lanes = [thread for thread in threading.enumerate() if "surgeon-lane" in thread.name]
    for lane in lanes:
        lane.join(60)
    assert not [lane for lane in lanes if lane.is_alive()]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", ["RGB", "BGR", "L"])
@pytest.mark.parametrize("dtype", ["float", "float16", "uint8"])
def test_the_device_normalizes_as_the_samples_do(layout, channels, dtype, tmp_path):
    frozen_parts.photographs(tmp_path / "p", 4)
    count = 1 if channels == "L" else 3
    shape = (count, 8, 6) if layout == "NCHW" else (8, 6, count)
    info = TensorInfo("x", dtype, ("N", *shape), 0)
    rule = {"size": [8, 6], "layout": layout, "channels": channels, "scale": 1}
    if dtype != "uint8":
        rule |= {"scale": 1 / 255, "mean": [0.4, 0.5, 0.6][:count], "std": [0.2, 0.3, 0.25][:count]}
    samples = open_data(tmp_path / "p", [info], preprocess=parse_preprocess(rule, info))
    expected = samples.batch(range(4))["x"]
    pixels = torch.from_numpy(samples.images(range(4)))
    wanted = {"float": torch.float32, "float16": torch.float16, "uint8": torch.uint8}[dtype]
    found = normalized(pixels, samples.preprocess, wanted)
    assert found.dtype == wanted
    step = 0 if dtype == "uint8" else 1e-6 if dtype == "float" else 2e-3
    np.testing.assert_allclose(found.numpy(), expected, atol=step, rtol=step)


class OnGpu(torch.Tensor):
    """A tensor that says that it lies on a GPU."""

    is_cuda = True


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", ["RGB", "BGR", "L"])
def test_a_gpu_normalizes_in_one_kernel(dtype, layout, channels, monkeypatch):
    count = 1 if channels == "L" else 3
    rule = Preprocess(
        layout=layout, channels=channels, size=(8, 6), scale=1 / 255,
        mean=(0.485, 0.456, 0.406)[:count], std=(0.229, 0.224, 0.225)[:count],
    )  # fmt: skip
    pixels = torch.arange(2 * 8 * 6 * count).remainder(256).to(torch.uint8).view(2, 8, 6, count)
    calls, addcmul = [], torch.addcmul

    def counted(*arguments):
        calls.append(arguments)
        return addcmul(*arguments)

    monkeypatch.setattr(batches.torch, "addcmul", counted)
    expected = normalized(pixels, rule, dtype)
    assert calls == []  # on a CPU nothing changes
    found = normalized(pixels.as_subclass(OnGpu), rule, dtype).as_subclass(torch.Tensor)
    assert len(calls) == int(dtype != torch.uint8)  # whole numbers are rounded: as they always were
    assert (found.dtype, found.shape, found.stride()) == (
        expected.dtype, expected.shape, expected.stride(),
    )  # fmt: skip
    step = {torch.float32: 2e-6, torch.float16: 2e-3, torch.uint8: 0}[dtype]
    torch.testing.assert_close(found, expected, rtol=step, atol=step)


def test_one_number_stands_for_all_channels_on_a_gpu_too():
    pixels = torch.arange(48, dtype=torch.uint8).view(1, 4, 4, 3)
    rule = Preprocess(size=(4, 4), scale=1 / 255, mean=(0.4, 0.5, 0.6), std=(0.25,))
    found = normalized(pixels.as_subclass(OnGpu), rule).as_subclass(torch.Tensor)
    torch.testing.assert_close(found, normalized(pixels, rule), rtol=2e-6, atol=2e-6)
