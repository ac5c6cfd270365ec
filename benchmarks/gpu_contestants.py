"""The processes of `gpu.py`: each does one thing, word by word, as it is told on standard input.

    python benchmarks/gpu_contestants.py ROLE MODEL --device cuda

A word is a line of JSON; so is an answer. Nothing touches the device or a file before the first
word. What must not enter: when something is measured, and what is made of the figures.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from frozen import import_timm
from full import installed

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / part) for part in ("", "plugins", "models")]  # a bare checkout will do

CLASSES, HEAD_CLASSES = 1000, 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SYNCHRONISING = (
    "cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaMemcpy", "cudaEventSynchronize",
    "cuStreamSynchronize", "cuCtxSynchronize", "cuEventSynchronize", "cudaMalloc", "cudaFree",
    "cudaHostAlloc", "cudaFreeHost",
)  # fmt: skip
BEGIN, END = "profiled steps begin", "profiled steps end"


@dataclass(frozen=True)
class Sizes:
    """How much is measured: on a GPU, or just enough to see that the script runs."""

    batch: int
    size: int
    pairs: int
    block_seconds: float
    most_steps: int
    warm: int
    pictures: int
    frozen_pictures: int
    feature_pairs: int
    epochs: int
    copy_bytes: int
    product: int
    repeats: int
    profiled: int


REAL = Sizes(256, 224, 15, 0.5, 40, 4, 2048, 4096, 5, 10, 2**32, 8192, 30, 10)
TINY = Sizes(4, 32, 3, 0.0, 2, 1, 16, 32, 2, 2, 2**22, 128, 2, 2)


def main() -> None:
    """Be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("model")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    serve(arguments.role, arguments.model, arguments)


def serve(role: str, model: str, arguments: argparse.Namespace) -> None:
    """Be a child: import what is needed, then do what is asked for."""
    warnings.simplefilter("ignore")
    # Answers have a channel of their own: libraries print what they like.
    Line.out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    sizes = TINY if arguments.quick else REAL
    device = torch.device(arguments.device)
    try:
        if "surgeon" in role:
            import surgeon.torch_graph.module  # noqa: F401 - before the clock runs
        elif role != "ceilings":
            import_timm()
        ROLES[role](model, device, sizes)
    except KeyboardInterrupt:
        pass
    except Exception as error:
        Line.tell({"error": f"{type(error).__name__}: {gist(error)}"})
        raise


def gist(error: BaseException) -> str:
    """Return the first line of an error."""
    return (str(error).strip().splitlines() or ["no text"])[0][:300]


class Line:
    """The line to the parent."""

    out: Any = None

    @staticmethod
    def tell(document: dict[str, Any]) -> None:
        print(json.dumps(document), file=Line.out, flush=True)

    @staticmethod
    def hear() -> dict[str, Any]:
        """Wait for the next word.

        Raises:
            KeyboardInterrupt: it is the last one.
        """
        text = sys.stdin.readline()
        said: dict[str, Any] = json.loads(text) if text.strip() else {"word": "end"}
        if said["word"] == "end":
            raise KeyboardInterrupt
        return said


# ── the chip ─────────────────────────────────────────────────────────────────────────────────────


def measure_ceilings(_: str, device: Any, sizes: Sizes) -> None:
    """What the chip can do, on random numbers."""
    import torch

    Line.hear()
    gpu = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if gpu else None
    found: dict[str, Any] = {"reason": None, "reasons": {}}
    found["device"] = {
        "name": properties.name if gpu else f"CPU, {os.cpu_count()} cores",
        "memory_bytes": properties.total_memory if gpu else None,
        "multiprocessors": properties.multi_processor_count if gpu else None,
        "capability": f"{properties.major}.{properties.minor}" if gpu else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    torch.manual_seed(0)

    def seconds(call: Any) -> float:
        """Return the median of repeated calls, by the device's own clock."""
        begun = time.perf_counter()
        while time.perf_counter() - begun < (0.3 if gpu else 0.0):  # until the clocks have risen
            call()
            if gpu:
                torch.cuda.synchronize(device)
        times = []
        for _ in range(sizes.repeats):
            if gpu:
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                call()
                end.record()
                end.synchronize()
                times.append(begin.elapsed_time(end) / 1e3)
            else:
                begun = time.perf_counter()
                call()
                times.append(time.perf_counter() - begun)
        return float(np.median(times))

    def copy() -> float:
        source = torch.randint(0, 256, (sizes.copy_bytes,), dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        moved = 2 * sizes.copy_bytes / seconds(lambda: target.copy_(source))
        if not torch.equal(source[-(2**20) :], target[-(2**20) :]):
            raise RuntimeError("the copy is not the same")
        return moved

    def product(dtype: Any, precision: str) -> float:
        torch.set_float32_matmul_precision(precision)
        n = sizes.product
        left, right = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        place = torch.empty(n, n, device=device, dtype=dtype)
        return 2 * n**3 / seconds(lambda: torch.mm(left, right, out=place))

    def pinned() -> float:
        if not gpu:
            raise RuntimeError("no GPU")
        source = torch.empty(sizes.copy_bytes // 4, dtype=torch.uint8, pin_memory=True).fill_(7)
        target = torch.empty_like(source, device=device)
        return source.numel() / seconds(lambda: target.copy_(source, non_blocking=True))

    measurements = {
        "copy_bytes": copy,
        "bf16_flops": lambda: product(torch.bfloat16, "high"),
        "tf32_flops": lambda: product(torch.float32, "high"),
        "float32_flops": lambda: product(torch.float32, "highest"),
        "pinned_bytes": pinned,
    }
    for name, measurement in measurements.items():
        try:
            found[name] = measurement()
        except RuntimeError as error:
            found[name], found["reasons"][name] = None, gist(error)
        if gpu:
            torch.cuda.empty_cache()
    Line.tell(found)
    Line.hear()


# ── the networks ─────────────────────────────────────────────────────────────────────────────────


def build(name: str, size: int, *, classes: int = CLASSES) -> Any:
    """Return timm's module with the same random weights and statistics every time."""
    import timm
    import torch

    torch.manual_seed(0)
    more = {"img_size": size} if name.startswith("vit") else {}
    module = timm.create_model(name, pretrained=False, num_classes=classes, **more)
    for part in module.modules():  # equal tensors would be exported as one
        for kind in ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(part, kind, None)
            if isinstance(tensor, torch.Tensor) and tensor.ndim == 1:
                tensor.data.add_(0.02 * torch.randn_like(tensor))
    return module.eval()


def export(name: str, _: Any, sizes: Sizes) -> None:
    """Write the files of a network and tell what a step has to compute and to move."""
    said = Line.hear()
    folder = Path(said["folder"])
    module = build(name, sizes.size)
    counted = count(module, sizes.size)
    write(module, folder / f"{name}.onnx", sizes.size, kept=True)
    if said["frozen"]:
        write(build(name, sizes.size, classes=0), folder / f"{name}-features.onnx", sizes.size)
    Line.tell(counted)
    Line.hear()


def write(module: Any, path: Path, size: int, *, kept: bool = False) -> None:
    """Export a module; kept = BatchNormalization stays a node of its own, for training."""
    import torch

    normalized = any(isinstance(part, torch.nn.BatchNorm2d) for part in module.modules())
    preserve = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    torch.onnx.export(
        module, (torch.randn(2, 3, size, size),), str(path), dynamo=False, opset_version=17,
        input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        **(preserve if kept and normalized else {}),
    )  # fmt: skip


def count(module: Any, size: int) -> dict[str, float]:
    """Return what training one picture takes at least, from the products of a forward pass.

    Products are convolutions, linear layers and attention. `flops` = 2 × multiply-adds, forward and
    for both gradients. `bytes`: each product and both gradients of it read two of factor, weight
    and result and write the third, in bf16. `bytes_once` is the same for any batch: the weights in
    these, the pictures' own bytes left out, and AdamW.
    """
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    total = {"macs": 0, "values": 0, "weights": 0}

    class Counting(TorchFunctionMode):
        def __torch_function__(self, function, _, given=(), named=None):
            result = function(*given, **(named or {}))
            if function in {functional.conv2d, functional.linear}:
                weight = given[1]
                total["macs"] += result.numel() * weight[0].numel()
                total["values"] += given[0].numel() + result.numel()
                total["weights"] += weight.numel()
            elif function is functional.scaled_dot_product_attention:
                query, key, value = given[:3]
                scores = query.numel() // query.shape[-1] * key.shape[-2]
                total["macs"] += scores * (query.shape[-1] + value.shape[-1])
                total["values"] += sum(t.numel() for t in (query, key, value, result))
            return result

    with torch.no_grad(), Counting():
        module(torch.zeros(1, 3, size, size))
    weights = sum(p.numel() for p in module.parameters())
    return {
        "macs": total["macs"],
        "parameters": weights,
        "flops": 3 * 2 * total["macs"],
        "bytes": 3 * 2 * total["values"],
        "bytes_once": 3 * 2 * total["weights"] + 28 * weights,
    }


def pictures(number: int, size: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random pictures [n, H, W, 3] in which a class shows, and their classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(number) % classes
    looks = rng.integers(0, 192, (classes, 4, 4, 3), np.uint8)
    looks = looks.repeat(-(-size // 4), 1).repeat(-(-size // 4), 2)[:, :size, :size]
    pixels = rng.integers(0, 256, (number, size, size, 3), np.uint8)
    pixels >>= 2
    for first in range(0, number, 256):
        pixels[first : first + 256] += looks[labels[first : first + 256]]
    return pixels, labels.astype(np.int64)


def memory_samples(file: Path, pixels: np.ndarray, labels: np.ndarray) -> Any:
    """Return pictures in memory as surgeon reads pictures: everything but the decoding."""
    import surgeon
    from surgeon.data.media.pictures import ImageSamples
    from surgeon.data.samples import Given
    from surgeon.graph.preprocess import parse_preprocess

    class MemoryPictures(ImageSamples):
        def _decode(self, index: int) -> Any:
            return pixels[index]

        def images(self, indices: Any) -> Any:
            return pixels[np.asarray(indices, np.int64)]

    inputs = surgeon.load(file).inputs
    return MemoryPictures(
        Given(
            inputs,
            [str(number) for number in range(len(pixels))],
            [str(label) for label in labels],
            sources=[picture.tobytes for picture in pixels],
            rule=parse_preprocess("imagenet", inputs[0], pixels.shape[1:3]),
        )
    )


def normalizer(device: Any) -> Any:
    """Return what turns bytes [n, H, W, 3] on a device into a network's input, channels last."""
    import torch

    mean = torch.tensor(MEAN, device=device) * 255
    std = torch.tensor(STD, device=device) * 255
    return lambda pixels: ((pixels.float() - mean) / std).permute(0, 3, 1, 2)


# ── training ─────────────────────────────────────────────────────────────────────────────────────


class Turn:
    """What a training loop calls after each of its steps: it counts, times, profiles and waits.

    The same for all contestants. A block is some steps that are not timed and some that are; the
    device has finished all work when the clock is read.
    """

    def __init__(self, device: Any, loaded: dict[str, Any]) -> None:
        self.device, self.loaded = device, loaded
        self.said: dict[str, Any] = {}
        self.profiler: Any = None
        self.caught: Any = None
        self.seen: list[Any] = []
        self.notes: list[str] = []

    def start(self, begun: float) -> None:
        """Begin with the steps that warm up; their seconds count from `begun`."""
        self.said = {"word": "warm", "count": self.loaded["warm"], "untimed": 0}
        self.number, self.begun = 0, begun

    def stepped(self) -> None:
        """Note a step; at the end of a block, answer and wait for the next word.

        Raises:
            KeyboardInterrupt: no more steps are wanted.
        """
        self.number += 1
        if self.number == self.said["untimed"]:
            self._begin()
        if self.number == self.said["untimed"] + self.said["count"]:
            self._finish()
            self._next()

    def _next(self) -> None:
        """Do what is asked for between steps, until steps are asked for."""
        import torch

        gpu = self.device.type == "cuda"
        while True:
            self.said = Line.hear()
            word = self.said["word"]
            if word == "rest":
                gc.collect()
                if gpu:
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats(self.device)
                Line.tell({})
            elif word == "peak":
                Line.tell({**memory(self.device), "notes": self.notes})
            else:
                break
        self.number = 0
        if word == "profile":
            from torch.profiler import ProfilerActivity, profile

            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
            self.profiler = profile(activities=kinds)
            self.profiler.start()

    def _begin(self) -> None:
        import torch

        word = self.said["word"]
        self._wait()
        if word == "profile":
            with torch.profiler.record_function(BEGIN):
                pass
        elif word == "waits":
            self.caught = warnings.catch_warnings(record=True)
            self.seen = self.caught.__enter__()
            warnings.simplefilter("always")
            if self.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
        self.begun = time.perf_counter()

    def _finish(self) -> None:
        import torch

        word = self.said["word"]
        if word == "profile":
            with torch.profiler.record_function(END):
                pass
        elif word == "waits":
            if self.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
            self.caught.__exit__(None, None, None)
        self._wait()
        seconds = time.perf_counter() - self.begun
        if word == "steps":
            Line.tell({"seconds": seconds})
        elif word == "warm":
            if self.device.type == "cuda":  # others warm up now, and memory is theirs
                torch.cuda.empty_cache()
            Line.tell({"seconds": seconds, "logits": self.loaded["logits"], "notes": self.notes})
        elif word == "waits":
            told = [w for w in self.seen if "synchroniz" in str(w.message).lower()]
            where = dict.fromkeys(f"{Path(w.filename).name}:{w.lineno}" for w in told)
            Line.tell({"where": list(where)})
        elif word == "profile":
            self.profiler.stop()
            Line.tell({"profile": self._profile()})
            self.profiler = None

    def _profile(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            self.profiler.export_chrome_trace(str(path))
            try:
                trace = json.loads(path.read_text("utf-8", errors="replace"))
            except ValueError as error:
                return {"reason": f"the trace cannot be read: {gist(error)}"}
        return analyse(trace, self.said["count"])

    def _wait(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def memory(device: Any) -> dict[str, int | None]:
    """Return the most bytes in tensors, and what is kept from the system for them."""
    import torch

    from surgeon.train.device import peak_memory

    reserved = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None
    return {"peak": peak_memory(device), "reserved": reserved}


def analyse(trace: dict[str, Any], steps: int) -> dict[str, Any]:
    """Read a trace of torch.profiler between the two marks.

    Returns:
        `calls`: how often each synchronising function of the runtime was called by the host, and
        `calls_seconds` in all; `without_kernel`: share of the time, from the first mark to the end
        of the last kernel, in which none ran (`without_kernel_or_copy` likewise).
    """
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    marks = {e["name"]: e for e in events
             if e["name"] in {BEGIN, END} and e.get("cat") == "user_annotation"}  # fmt: skip
    if len(marks) < 2:
        return {"reason": "the trace lacks the marks of its steps"}
    begin = float(marks[BEGIN]["ts"]) + float(marks[BEGIN].get("dur", 0))
    end = float(marks[END]["ts"])
    calls, waited = dict.fromkeys(SYNCHRONISING, 0), 0.0
    work: dict[str, list[tuple[float, float]]] = {"kernel": [], "copy": []}
    for event in events:
        kind, first = event.get("cat"), float(event["ts"])
        length = float(event.get("dur", 0))
        if kind in {"cuda_runtime", "cuda_driver"} and begin <= first <= end:
            # Versioned entry points count as what they are: cudaMemcpy_v3020, cudaMalloc_v3020.
            name = event["name"].partition("_v")[0]
            if name in calls:
                calls[name] += 1
                waited += length / 1e6
        elif kind == "kernel" and first >= begin:
            work["kernel"].append((first, first + length))
        elif kind in {"gpu_memcpy", "gpu_memset"} and first >= begin:
            work["copy"].append((first, first + length))
    if not work["kernel"]:
        return {"reason": "no kernel in the trace: not run on a GPU"}
    wall = max(last for _, last in work["kernel"]) - begin
    return {
        "reason": None,
        "steps": steps,
        "kernels_per_step": len(work["kernel"]) / steps,
        "calls": calls,
        "calls_seconds": waited,
        "seconds": wall / 1e6,
        "without_kernel": 1 - covered(work["kernel"], begin + wall) / wall,
        "without_kernel_or_copy": 1
        - covered([*work["kernel"], *work["copy"]], begin + wall) / wall,
    }


def covered(spans: list[tuple[float, float]], until: float) -> float:
    """Return the length of the union of spans, up to a point."""
    total, reached = 0.0, float("-inf")
    for first, last in sorted(spans):
        total += max(0.0, min(last, until) - max(first, reached))
        reached = max(reached, min(last, until))
    return total


def train_surgeon(model: str, device: Any, sizes: Sizes) -> None:
    """Train by surgeon's own loop, as `finetune` does, held after each block of steps."""
    import torch

    import surgeon
    from surgeon.graph.cuts import first_use
    from surgeon.train.batches import PictureBatches, Pictures
    from surgeon.train.loop import fit
    from surgeon.train.objective import CrossEntropy
    from surgeon.train.settings import FitSettings

    said = Line.hear()
    file = Path(said["folder"]) / f"{model}.onnx"
    pixels, _ = pictures(sizes.pictures, sizes.size, CLASSES)
    samples = memory_samples(file, pixels, np.arange(len(pixels)))
    module = surgeon.to_torch(file)
    names = [name for name, p in module.named_parameters() if p.numel() > 1]
    rows = np.arange(sizes.batch * 2000) % len(pixels)  # one epoch that does not end
    batches = PictureBatches(
        Pictures(samples), rows, np.arange(len(pixels)) % CLASSES, ["x"], "none"
    )
    with torch.no_grad():
        first = torch.from_numpy(pixels[:2])
        logits = module(*batches.prepare((first,)))
    turn = Turn(device, {"warm": sizes.warm, "logits": logits.flatten().tolist()})

    def report(progress: Any) -> None:
        if progress.note is not None:
            turn.notes.append(progress.note)
        elif progress.row is None:
            turn.stepped()

    settings = FitSettings(
        device=str(device), epochs=1, batch=sizes.batch, lr=1e-5,
        precision="bf16", compile="off" if sizes is TINY else "on",
        depths=first_use(surgeon.load(file).sketch()),
    )  # fmt: skip
    turn.start(time.perf_counter())
    fit(
        module, batches, None, objective=CrossEntropy(), trainable=names, settings=settings,
        progress=report,
    )  # fmt: skip


def train_native(model: str, device: Any, sizes: Sizes) -> None:
    """Train timm's module in a plain loop."""
    import torch
    from torch.nn import functional

    said = Line.hear()
    pixels, labels = pictures(sizes.pictures, sizes.size, CLASSES)
    module = build(model, sizes.size)
    with torch.no_grad():
        logits = module(normalizer("cpu")(torch.from_numpy(pixels[:2])))
    turn = Turn(device, {"warm": sizes.warm, "logits": logits.flatten().tolist()})
    turn.start(time.perf_counter())
    fast(device)
    module = module.train().to(device, memory_format=torch.channels_last)
    graphs = said.get("mode") == "reduce-overhead"
    if sizes is not TINY:
        module = torch.compile(module, mode="reduce-overhead" if graphs else None)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True)
    ready = lying_ready(pixels, labels, sizes.batch, device)
    for inputs, target in ahead(itertools.cycle(ready), device):
        if graphs:
            torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            logits = module(inputs)
        functional.cross_entropy(logits.float(), target).backward()
        optimizer.step()
        turn.stepped()


def fast(device: Any) -> None:
    """Let products and convolutions take their fastest way."""
    import torch

    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True


def lying_ready(pixels: np.ndarray, labels: np.ndarray, batch: int, device: Any) -> list[Any]:
    """Return batches of bytes and classes, in pinned memory where there is a GPU."""
    import torch

    tensors = [torch.from_numpy(pixels), torch.from_numpy(labels)]
    if device.type == "cuda":
        tensors = [tensor.pin_memory() for tensor in tensors]
    return list(zip(*(tensor.split(batch) for tensor in tensors), strict=True))


def ahead(batches: Any, device: Any) -> Any:
    """Move and normalise the next batch on a stream of its own while a step runs."""
    import torch

    if device.type == "cpu":
        normalized = normalizer(device)
        for pixels, target in batches:
            yield normalized(pixels), target
        return
    side = torch.cuda.Stream(device)
    with torch.cuda.stream(side):
        normalized = normalizer(device)

    def bring(pair: Any) -> Any:
        with torch.cuda.stream(side):
            moved = [tensor.to(device, non_blocking=True) for tensor in pair]
            return normalized(moved[0]), moved[1]

    batches = iter(batches)
    coming = bring(next(batches))
    while coming is not None:
        current = torch.cuda.current_stream(device)
        current.wait_stream(side)
        now = coming
        for tensor in now:
            tensor.record_stream(current)
        following = next(batches, None)
        coming = None if following is None else bring(following)
        yield now


# ── the frozen cases ─────────────────────────────────────────────────────────────────────────────


def frozen_surgeon(model: str, device: Any, sizes: Sizes) -> None:
    """Features and the head, by surgeon: the public path, and each of its engines by itself."""
    import surgeon
    from surgeon.engines.choice import engine_for
    from surgeon.probe.solver import solve
    from surgeon.runtime.extract import extract
    from surgeon.runtime.features import Request
    from surgeon.runtime.places import choose_device

    said = Line.hear()
    file = Path(said["folder"]) / f"{model}-features.onnx"
    pixels, labels = pictures(sizes.frozen_pictures, sizes.size, HEAD_CLASSES)
    proto = surgeon.load(file).proto
    # `auto`, as finetune: where ONNX Runtime has no GPU, torch computes there all the same.
    name = "cpu" if device.type == "cpu" else "auto"
    scratch = Path(tempfile.mkdtemp(dir=said["folder"]))
    numbers = itertools.count()

    def whole() -> dict[str, Any]:
        """Features in an empty cache and the head on them, engine chosen anew."""
        begun = time.perf_counter()
        samples = memory_samples(file, pixels, labels)
        engines = engine_for(name, precision="bf16")
        features = extract(
            proto, ["y"], samples, None,
            Request(
                cache_dir=scratch / str(next(numbers)), faster=engines,
                device=choose_device(name) if engines is None else engines.place,
                key_parts=() if engines is None else engines.key_parts,
            ),
        )  # fmt: skip
        values = np.array(features.array("y"))
        between = time.perf_counter()
        solved = solve(values, labels, HEAD_CLASSES, device=device)
        ended = time.perf_counter()
        right = (values @ solved.weight.T + solved.bias).argmax(1) == labels
        return {
            "seconds": ended - begun, "features": between - begun, "head": ended - between,
            "accuracy": float(right.mean()), "notes": list(features.notes),
            "providers": list(features.providers),
        }  # fmt: skip

    cold = whole()
    samples = memory_samples(file, pixels, labels)
    streams, told = by_engine(proto, samples, device, name, sizes)
    best = max(streams, key=lambda engine: told[engine]["images_per_second"])
    Line.tell({"seconds": cold["seconds"], "cold": cold, "engine": best, "engines": told})
    while True:
        word = Line.hear()["word"]
        begun = time.perf_counter()
        if word == "features":
            streams[best]()
            Line.tell({"seconds": time.perf_counter() - begun})
        elif word == "whole":
            Line.tell(whole())


def by_engine(
    proto: Any, samples: Any, device: Any, name: str, sizes: Sizes
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what streams all samples through each engine, and what there is to tell of each.

    From pictures in memory of the host to features there: images/s, and the largest relative error
    of some features against ONNX Runtime in float32; or the reason why an engine does not run.
    """
    from surgeon.engines.choice import engine_for
    from surgeon.engines.conveyor import Arrivals, Conveyor
    from surgeon.engines.engine import OnnxEngine, TorchEngine
    from surgeon.runtime.places import choose_device
    from surgeon.runtime.stream import Runner

    engines = engine_for(name, precision="bf16")
    place = choose_device(name) if engines is None else engines.place
    device = device if engines is None else engines.device
    runner = Runner(proto, samples, outputs=["y"], device=place, batch=sizes.batch)
    arrivals = Arrivals(runner, device, None if engines is None else engines.computing)
    some, everything = np.arange(min(8, samples.n)), np.arange(samples.n)
    expected = runner.run(samples.batch(some), len(some))["y"]
    streams, told = {}, {}

    def offer(called: str, make: Any) -> None:
        """Take an engine in that streams and gives the right features."""
        try:
            conveyor = Conveyor(
                runner, make(), arrivals, batch=sizes.batch, dtypes={"y": expected.dtype}
            )

            def stream() -> Any:
                values = np.empty((samples.n, *expected.shape[1:]), expected.dtype)
                for chunk in conveyor.stream(everything):
                    values[chunk.positions] = chunk.outputs["y"]
                return values

            begun = time.perf_counter()
            found = stream()[some]
            started = time.perf_counter() - begun
            begun = time.perf_counter()
            stream()
            seconds = time.perf_counter() - begun
        except Exception as error:  # noqa: BLE001 - the other engines remain
            told[called] = {"reason": gist(error)}
            return
        apart = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6))
        told[called] = {
            "reason": None, "images_per_second": samples.n / seconds, "differ_by": apart,
            "first_seconds": started,
        }  # fmt: skip
        if tuple(conveyor.providers) != tuple(conveyor.engine.providers):
            told[called]["reason"] = runner.notes[-1]
        elif not apart < 5e-2:
            told[called]["reason"] = f"features differ by {apart:.2g}"
        else:
            streams[called] = stream

    if device.type == "cuda" and installed("onnxruntime-gpu") is None:
        told["ONNX Runtime"] = {"reason": "onnxruntime-gpu is not installed"}
    elif runner.session.device != device.type:
        told["ONNX Runtime"] = {"reason": (runner.notes or ["has no GPU here"])[0]}
    else:
        offer("ONNX Runtime", lambda: OnnxEngine(runner.session, ["y"]))
    torches = {}
    for called, whole in (("torch, bf16", False), ("torch, wholly bf16", True)):
        torches[called] = TorchEngine(proto, device, precision="bf16", whole=whole)
        offer(called, lambda called=called: torches[called])
    running = [called for called in torches if called in streams]
    if sizes is not TINY:  # the faster form only: each takes half a minute to compile
        best = max(running, key=lambda called: told[called]["images_per_second"], default=None)
        offer(f"compiled {best or called}", torches[best or called].compiled)
    if not streams:
        raise RuntimeError("; ".join(f"{called}: {one['reason']}" for called, one in told.items()))
    return streams, told


def frozen_native(model: str, device: Any, sizes: Sizes) -> None:
    """The forward pass alone, and a loop that trains a head behind it, by torch."""
    import torch
    from torch.nn import functional

    said = Line.hear()
    assert said["word"] == "warm"
    pixels, labels = pictures(sizes.frozen_pictures, sizes.size, HEAD_CLASSES)
    begun = time.perf_counter()
    fast(device)
    module = build(model, sizes.size, classes=0).requires_grad_(False).to(device)
    module = module.to(torch.bfloat16).to(memory_format=torch.channels_last)
    if sizes is not TINY:
        module = torch.compile(module)
    ready = lying_ready(pixels, labels, sizes.batch, device)

    def forward(inputs: Any) -> Any:
        with torch.no_grad():
            return module(inputs.to(torch.bfloat16)).float()

    def features() -> Any:
        rows = [forward(inputs) for inputs, _ in ahead(ready, device)]
        return torch.cat(rows).cpu()

    def loop(epochs: int) -> float:
        """Return the accuracy on the pictures of the last epoch, as it went."""
        width = forward(next(iter(ahead(ready, device)))[0]).shape[1]
        head = torch.nn.Linear(width, HEAD_CLASSES, device=device)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, fused=True)
        right = torch.zeros((), device=device)
        for epoch in range(epochs):
            for inputs, target in ahead(ready, device):
                logits = head(forward(inputs))
                optimizer.zero_grad(set_to_none=True)
                functional.cross_entropy(logits, target).backward()
                optimizer.step()
                if epoch == epochs - 1:
                    right += (logits.argmax(1) == target).sum()
        return float(right) / len(labels)

    features()
    Line.tell({"seconds": time.perf_counter() - begun})
    while True:
        said = Line.hear()
        begun = time.perf_counter()
        accuracy = None
        if said["word"] == "features":
            features()
        else:
            accuracy = loop(said["epochs"])
        Line.tell({"seconds": time.perf_counter() - begun, "accuracy": accuracy})


ROLES = {
    "ceilings": measure_ceilings,
    "export": export,
    "surgeon": train_surgeon,
    "native": train_native,
    "surgeon-frozen": frozen_surgeon,
    "native-frozen": frozen_native,
}


if __name__ == "__main__":
    main()
