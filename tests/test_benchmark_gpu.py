"""The GPU benchmark runs whole on a CPU, and reads traces and counts products as it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
QUICK = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--quick"]


@pytest.fixture
def contestants(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import gpu_contestants

    return gpu_contestants


# ── the whole of it ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_it_runs_on_a_cpu_and_says_that_the_figures_mean_nothing(tmp_path):
    out = tmp_path / "gpu.json"
    ran = subprocess.run(
        [*QUICK, "--out", str(out)],
        capture_output=True, text=True, timeout=3000, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "not run on a GPU" in ran.stdout
    found = json.loads(out.read_text("utf-8"))
    assert found["ran_on_gpu"] is False
    assert set(found["device"]) >= {"name", "driver", "cuda", "memory_bytes"}
    assert found["versions"]["torch"]
    assert found["ceilings"]["bf16_flops"] > 0
    assert found["ceilings"]["reasons"]["pinned_bytes"] == "no GPU"
    assert len(found["full"]) == 2
    for row in found["full"]:
        assert row["reason"] is None, row
        assert row["ratio"]["n"] == 3
        assert len(row["seconds"]["surgeon"]) == len(row["seconds"]["native"]) == 3
        assert row["logits_differ_by"] < 1e-3
        for side in ("surgeon", "native"):
            assert row[side]["images_per_second"] > 0
            assert row[side]["peak_bytes"] > 0
    (frozen,) = found["frozen"]
    assert frozen["reason"] is None, frozen
    assert min(frozen["images_per_second"].values()) > 0
    assert frozen["whole"]["ratio"] > 0
    assert set(frozen["engines"]) == {"ONNX Runtime", "torch, bf16", "torch, wholly bf16"}
    for engine in frozen["engines"].values():
        assert engine["reason"] is None, engine
        assert engine["differ_by"] < 5e-2
    for name in ("full", "frozen", "profile", "epoch"):
        assert found[name], f"no row in {name}"
        for row in found[name]:  # figures, or why there are none
            assert "reason" in row
    assert {row["reason"] for row in found["profile"]} == {
        "no kernel in the trace: not run on a GPU"
    }
    assert found["epoch"][0]["minutes"]["surgeon"] > 0


@pytest.mark.slow
def test_a_network_that_cannot_be_measured_is_a_row_with_the_reason(tmp_path):
    out = tmp_path / "gpu.json"
    ran = subprocess.run(
        [*QUICK, "--sections", "full", "--models", "no_such_network", "--out", str(out)],
        capture_output=True, text=True, timeout=3000, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    (row,) = json.loads(out.read_text("utf-8"))["full"]
    assert "no_such_network" in row["reason"]
    assert "no_such_network" in ran.stdout


def test_a_cpu_is_for_a_quick_look_only():
    ran = subprocess.run(
        QUICK[:-1],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "--quick" in ran.stderr


# ── traces ───────────────────────────────────────────────────────────────────────────────────────


def trace(contestants, *events):
    """Return a trace: the marks at 100 and 200 µs, and events (kind, name, begin, length)."""
    marks = [
        ("user_annotation", contestants.BEGIN, 90, 10),
        ("user_annotation", contestants.END, 200, 1),
    ]
    return {
        "traceEvents": [
            {"ph": "M", "name": "process_name"},
            *(
                {"ph": "X", "cat": kind, "name": name, "ts": begin, "dur": length}
                for kind, name, begin, length in (*marks, *events)
            ),
        ]
    }


def test_the_time_without_a_kernel_is_what_their_union_leaves(contestants):
    found = contestants.analyse(
        trace(
            contestants,
            ("kernel", "before", 50, 40),
            ("kernel", "a", 110, 40),
            ("kernel", "inside a, on another stream", 120, 10),
            ("kernel", "b", 140, 30),
            ("kernel", "c, launched in the steps", 250, 50),
            ("gpu_memcpy", "copy", 180, 20),
        ),
        steps=2,
    )
    assert found["reason"] is None
    assert found["seconds"] == pytest.approx(200e-6)
    assert found["kernels_per_step"] == 2
    assert found["without_kernel"] == pytest.approx(1 - (60 + 50) / 200)
    assert found["without_kernel_or_copy"] == pytest.approx(1 - (60 + 50 + 20) / 200)


def test_only_waiting_calls_inside_the_steps_count(contestants):
    found = contestants.analyse(
        trace(
            contestants,
            ("cuda_runtime", "cudaStreamSynchronize", 50, 5),
            ("cuda_runtime", "cudaStreamSynchronize", 150, 30),
            ("cuda_runtime", "cudaMemcpyAsync", 150, 5),
            ("cuda_runtime", "cudaLaunchKernel", 155, 5),
            ("cuda_driver", "cuEventSynchronize", 160, 10),
            ("cuda_runtime", "cudaDeviceSynchronize", 210, 5),
            ("kernel", "a", 110, 40),
        ),
        steps=1,
    )
    called = {name: count for name, count in found["calls"].items() if count}
    assert called == {"cudaStreamSynchronize": 1, "cuEventSynchronize": 1}
    assert found["calls_seconds"] == pytest.approx(40e-6)


def test_a_trace_without_kernels_or_marks_is_a_reason(contestants):
    assert "not run on a GPU" in contestants.analyse(trace(contestants), steps=1)["reason"]
    assert "marks" in contestants.analyse({"traceEvents": []}, steps=1)["reason"]


# ── what a step takes ────────────────────────────────────────────────────────────────────────────


def test_products_are_counted_by_hand(contestants):
    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
            self.linear = torch.nn.Linear(8, 24)

        def forward(self, x):
            y = self.convolution(x).flatten(2).transpose(1, 2)
            q, k, v = self.linear(y).chunk(3, -1)
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    found = contestants.count(Small(), 8)
    # 16 places with 8 channels; 27 numbers into each, 24 out of each in the linear layer.
    macs = 16 * 8 * 27 + 16 * 8 * 24 + 2 * 16 * 16 * 8
    values = (3 * 64 + 16 * 8) + (16 * 8 + 16 * 24) + (16 * 24 + 16 * 8)
    weights = 8 * 27 + 8 * 24
    assert found["macs"] == macs
    assert found["flops"] == 6 * macs
    assert found["bytes"] == 6 * values
    assert found["bytes_once"] == 6 * weights + 28 * (weights + 24)


def test_a_class_shows_in_its_pictures(contestants):
    pixels, labels = contestants.pictures(64, 10, 4)
    assert pixels.shape == (64, 10, 10, 3)
    means = pixels.astype(float).mean(axis=(1, 2, 3))
    assert max(means[labels == 1]) - min(means[labels == 1]) < 20
    assert labels.tolist()[:5] == [0, 1, 2, 3, 0]


# ── the order of things ──────────────────────────────────────────────────────────────────────────


class Told:
    """A contestant that answers at once, and remembers how long it was waited for."""

    role = "surgeon"
    mode = None

    def __init__(self, model, *, notes=(), later=()):
        self.model, self.failed, self.said, self.waited = model, None, [], []
        self.warmed = {"seconds": 1.0, "logits": [1.0, 2.0], "notes": list(notes)}
        self.later = [*notes, *later]
        self.blocks = 0

    def send(self, word, **_):
        self.said.append(word)

    def answer(self, seconds):
        self.waited.append(seconds)
        return self.warmed

    def ask(self, word, seconds, **_):
        answers = {"profile": {"profile": {"reason": "none"}}, "waits": {"where": []}}
        return answers.get(word, {"peak": 1, "reserved": None, "notes": self.later})

    def block(self, steps, *, untimed):
        self.blocks += 1
        return 0.01 * steps


@pytest.fixture
def benchmark_of(contestants, monkeypatch, tmp_path):
    import gpu

    def make(minutes):
        arguments = SimpleNamespace(
            device="cpu", quick=True, models=["net"], sections=["full"], anchor=False,
            minutes=minutes, pairs=3, together=None, out=tmp_path / "gpu.json",
        )  # fmt: skip
        monkeypatch.setattr(gpu, "chip", dict)
        benchmark = gpu.Benchmark(arguments, tmp_path)
        benchmark.result["counted"]["net"] = {"flops": 1.0, "bytes": 1.0, "bytes_once": 1.0}
        return benchmark, gpu

    return make


def test_slow_compiling_is_waited_for(benchmark_of):
    benchmark, _ = benchmark_of(minutes=10)
    ours, native = Told("net"), Told("net")
    benchmark.warm([(ours, native)], 0.3)
    assert [*ours.waited, *native.waited] == pytest.approx([300, 300], abs=5)
    benchmark.warm([(ours, native)], 0.97)  # what is left then must do for the rest
    assert ours.waited[1] == pytest.approx(558, abs=5)
    benchmark.begun -= 600
    benchmark.warm([(ours, native)], 0.3)
    assert ours.waited[2] == 30


NOTE = "memory ran out: passes of 128 samples from now on, 2 a step"


@pytest.mark.parametrize(("notes", "later"), [((NOTE,), ()), ((), (NOTE,))], ids=["first", "later"])
def test_smaller_passes_are_not_the_same_steps(notes, later, benchmark_of):
    benchmark, gpu = benchmark_of(minutes=1)
    ours = Told("net", notes=notes, later=later)
    with pytest.raises(gpu.ChildError, match="passes of 128"):
        benchmark.compare("net", ours, Told("net"), 1e12)
    assert (ours.blocks == 0) == bool(notes)  # what is known at the start is not measured
    row = benchmark.compare("net", Told("net", later=["compiled"]), Told("net"), 1e12)
    assert row["reason"] is None
    assert row["surgeon"]["notes"] == ["compiled"]
