"""The frozen cases against a floor and against loops that compute the backbone in every epoch.

    python benchmarks/frozen.py                          # MobileNetV2, about five minutes
    python benchmarks/frozen.py --model efficientnet-lite0
    python benchmarks/frozen.py --model vit-s16 --pictures 300 --repeat 3
    python benchmarks/frozen.py --repeat 1 --subset 32   # about a minute, rougher

A backbone at 224x224 on 2,000 pictures: the 1,892 RGB emoji (64x64 PNG) and the first 108 of
Fashion-MNIST (28x28 grey PNG), as ten classes. Small files decode fast, which favours the loops
that decode in every epoch. Needs the extra `bench` and the packages of the model index; `vit-s16`
is timm's with random weights, since speed does not ask for them.

Every measurement is a process of its own, started with an empty cache of surgeon and with the
pictures dropped from the page cache, and the measurements alternate.

features    `surgeon.finetune`, case small-similar: wall and CPU seconds of the frozen part, from
            hashing the files through loading ONNX Runtime to the written cache entry; then of the
            head; then, in a process of its own, of a hit.
bare        CPU-seconds of ONNX Runtime alone on one thread, over arrays decoded before, at the
            fastest of several batch sizes.
decoding    CPU-seconds of reading, resizing and normalizing alone, on one thread.
floor       (bare + decoding) ÷ cores: what a perfect overlap on all cores would take.
ceiling     of one core: multiply-adds per second of a large matrix product in float32, and bytes
            per second of a copy.
onnx2torch  the ONNX file converted to torch, frozen in eval, a new linear head on its output,
            AdamW, batch 32, pictures decoded in every epoch by a worker process. Seconds per
            picture on a subset, times the pictures of ten epochs; validation is not counted.
native      the same with the network's own torch code instead of the converted one.

--by-cpu replaces wall seconds by CPU-seconds ÷ cores throughout and gives the torch loops one
thread: as if all scaled to the cores without loss, which favours the loops. For a machine that does
other work, too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import types
import warnings
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

PICTURES, EPOCHS, BATCH, SIZE = 2000, 10, 32, (224, 224)
MODELS = ("mobilenetv2", "efficientnet-lite0", "vit-s16")
RESULTS = Path(__file__).parent / "results"
FLOOR_BOUND = 1.15


def main() -> None:
    """Run everything, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--pictures", type=int, default=PICTURES, help="of the data set")
    parser.add_argument("--repeat", type=int, default=5, help="of every measurement")
    parser.add_argument("--subset", type=int, default=64, help="pictures of the torch loops")
    parser.add_argument("--by-cpu", action="store_true", help="CPU-seconds ÷ cores, not wall")
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, folder = arguments.measure
        print(json.dumps(MEASUREMENTS[name](Path(folder), arguments)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_pictures(folder / "pictures", arguments.pictures)
        write_model(arguments.model, folder)
        taken: dict[str, list[dict]] = {name: [] for name in MEASUREMENTS}
        loads = [os.getloadavg()[0]]
        for _ in range(arguments.repeat):
            for name, results in taken.items():
                results.append(measure(name, folder, arguments))
                print(f"{name:<11} {results[-1]}", flush=True)
            loads.append(os.getloadavg()[0])
    result = summarize(taken, arguments, loads)
    suffix = "" if arguments.model == MODELS[0] else f"-{arguments.model}"
    out = arguments.out or RESULTS / f"frozen{suffix}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    show(result)


def measure(name: str, folder: Path, arguments: argparse.Namespace) -> dict:
    """Take one measurement in a process of its own, everything cold but where a hit is measured."""
    if name != "hit":
        subprocess.run(["rm", "-rf", str(folder / "cache")], check=True)
    for path in (folder / "pictures").rglob("*.png"):
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    command = [sys.executable, __file__, "--measure", name, str(folder)]
    command += ["--subset", str(arguments.subset), "--model", arguments.model]
    command += ["--by-cpu"] if arguments.by_cpu else []
    environment = {**os.environ, "SURGEON_CACHE": str(folder / "cache")}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


# ── what is measured, each in its own process ────────────────────────────────────────────────────


def measure_features(folder: Path, _: argparse.Namespace) -> dict:
    """Wall and CPU seconds of hashing, of the frozen part and of the head, in one `finetune`."""
    import surgeon
    from surgeon.data.samples import Samples
    from surgeon.job import frozen
    from surgeon.job import solve as probe

    spent: dict[str, tuple[float, float]] = {}

    def counted(name, function):
        def call(*positional, **named):
            begun, begun_cpu = time.perf_counter(), time.process_time()
            result = function(*positional, **named)
            spent[name] = time.perf_counter() - begun, time.process_time() - begun_cpu
            return result

        return call

    Samples.sha256.func = counted("hashing", Samples.sha256.func)
    frozen.extract = counted("extract", frozen.extract)
    probe.solve = counted("head", probe.solve)
    begun = time.perf_counter()
    outcome = surgeon.finetune(
        folder / "model.onnx",
        str(folder / "pictures"),
        case="small-similar",
        preprocess="imagenet",
    )
    body = outcome.document()
    return {
        "features": spent["hashing"][0] + spent["extract"][0],
        "features_cpu": spent["hashing"][1] + spent["extract"][1],
        "hashing": spent["hashing"][0],
        "head": spent["head"][0],
        "head_cpu": spent["head"][1],
        "total": time.perf_counter() - begun,
        "hit": body["frontier"]["cache"]["hit"],
        "test_accuracy": (body["metrics"]["test"] or body["metrics"]["validation"])["accuracy"],
    }


def measure_bare(folder: Path, _: argparse.Namespace) -> dict:
    """CPU-seconds of ONNX Runtime over arrays that were decoded before."""
    import onnxruntime

    samples = open_pictures(folder)
    pixels = samples.images(range(samples.n))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def run(count: int, batch: int) -> float:
        spent = 0.0
        for first in range(0, count, batch):
            values = samples.normalize(pixels[first : min(first + batch, count)])
            begun = time.process_time()
            session.run(None, {name: values})
            spent += time.process_time() - begun
        return spent

    trials = {batch: min(run(32, batch) for _ in range(2)) / 32 for batch in (1, 2, 4, 8, 32)}
    best = min(trials, key=lambda batch: trials[batch])
    return {"cpu": run(samples.n, best), "batch": best, "trials": trials}


def measure_decoding(folder: Path, _: argparse.Namespace) -> dict:
    """CPU-seconds of reading, resizing and normalizing on one thread."""
    samples = open_pictures(folder)
    begun = time.process_time()
    for first in range(0, samples.n, BATCH):
        samples.read(range(first, min(first + BATCH, samples.n)))
    return {"cpu": time.process_time() - begun}


def measure_ceiling(folder: Path, _: argparse.Namespace) -> dict:
    """What one core can do, and what the backbone asks of it."""
    import torch

    import surgeon

    torch.set_num_threads(1)

    def best(work) -> float:
        times = []
        for _ in range(5):
            begun = time.process_time()
            work()
            times.append(time.process_time() - begun)
        return min(times)

    left, right = torch.rand(2, 1024, 1024)
    place = torch.empty(1024, 1024)
    block = np.ones(2**25, np.float32)
    target = np.empty_like(block)
    macs = 1024**3 / best(lambda: torch.mm(left, right, out=place))
    moved = 2 * block.nbytes / best(lambda: np.copyto(target, block))
    needed = surgeon.load(folder / "model.onnx").anatomy()
    return {"macs_per_second": macs, "bytes_per_second": moved, "macs": needed.total}


def measure_onnx2torch(folder: Path, arguments: argparse.Namespace) -> dict:
    """Seconds per picture of a training loop on the converted file."""
    # It imports torchvision for detection operators, and torchvision does not load beside a torch
    # built for CPUs alone. No operator of this model needs it.
    vision, ops = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
    vision.ops, ops.roi_align = ops, None
    sys.modules |= {"torchvision": vision, "torchvision.ops": ops}
    import onnx2torch

    return train_frozen(onnx2torch.convert(str(folder / "model.onnx")), folder, arguments)


def measure_native(folder: Path, arguments: argparse.Namespace) -> dict:
    """Seconds per picture of a training loop on the network's own torch code."""
    return train_frozen(load_native(arguments.model, folder / "sources"), folder, arguments)


def train_frozen(backbone, folder: Path, arguments: argparse.Namespace) -> dict:
    """Train a linear head behind a frozen backbone for one epoch over some pictures."""
    import torch

    from surgeon.targets import ask_for

    if arguments.by_cpu:
        torch.set_num_threads(1)
    samples = open_pictures(folder)
    right = ask_for("classification", samples, None).targets
    codes = torch.from_numpy(right.values)
    chosen = np.random.default_rng(0).permutation(samples.n)[: arguments.subset + BATCH]
    parts = [chosen[first : first + BATCH] for first in range(0, len(chosen), BATCH)]

    class Loaded(torch.utils.data.Dataset):
        def __len__(self):
            return len(parts)

        def __getitem__(self, place):
            (values,) = samples.read(parts[place]).feeds.values()
            return torch.from_numpy(values), codes[torch.from_numpy(parts[place])]

    backbone.eval().requires_grad_(False)
    with torch.no_grad():
        width = backbone(torch.zeros(1, 3, *SIZE)).flatten(1).shape[1]
    head = torch.nn.Linear(width, len(right.names))
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    begun, begun_cpu, seen = 0.0, 0.0, 0
    loader = torch.utils.data.DataLoader(Loaded(), batch_size=None, num_workers=1)
    for step, (inputs, wanted) in enumerate(loader):
        with torch.no_grad():
            features = backbone(inputs).flatten(1)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(features), wanted).backward()
        optimizer.step()
        if step == 0:  # the first batch pays for starting up
            begun, begun_cpu = time.perf_counter(), time.process_time()
        else:
            seen += len(wanted)
    wall, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    # What the worker process decoded is measured by itself (`decoding`) and added there.
    return {"per_picture": wall / seen, "cpu_per_picture": cpu / seen, "pictures": seen}


MEASUREMENTS = {
    "features": measure_features,
    "hit": measure_features,
    "bare": measure_bare,
    "decoding": measure_decoding,
    "ceiling": measure_ceiling,
    "onnx2torch": measure_onnx2torch,
    "native": measure_native,
}


# ── what goes in ─────────────────────────────────────────────────────────────────────────────────


def write_pictures(folder: Path, count: int) -> None:
    """Write the first `count` of the 2,000 pictures, the clothes among them, as PNG files."""
    from surgeon_models import datasets

    emoji, clothes = datasets.emoji(), datasets.fashion_mnist("train")
    more = max(count * (PICTURES - len(emoji.images)) // PICTURES, 1)
    chosen = np.random.default_rng(0).permutation(len(emoji.images))[: count - more]
    datasets.write_folder(emoji.images[chosen], emoji.labels[chosen], folder, classes=emoji.classes)
    place = folder.with_name("more")
    datasets.write_folder(clothes.images[:more], ["clothes"] * more, place)
    (place / "clothes").rename(folder / "clothes")


def write_model(name: str, folder: Path) -> None:
    """Write `model.onnx`, and the packages that its torch code is in."""
    from surgeon_models import entry, get, packages

    if name != "vit-s16":
        (folder / "model.onnx").write_bytes(get(name).read_bytes())
        for source in entry(name).sources:
            packages.take(source, folder / "sources")
        return
    import torch

    axes = {"input": {0: "batch"}, "features": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            load_native(name, folder).eval(),
            (torch.zeros(2, 3, *SIZE),),
            folder / "model.onnx",
            dynamo=False,
            opset_version=17,
            input_names=list(axes)[:1],
            output_names=list(axes)[1:],
            dynamic_axes=axes,
        )


def load_native(name: str, sources: Path):
    """Build the network in torch, by its own code."""
    if name == "vit-s16":
        import torch

        torch.manual_seed(0)
        return import_timm().create_model("vit_small_patch16_224", num_classes=0)
    from surgeon_models import recipes

    return getattr(recipes, f"load_{name.replace('-', '_')}")(sources)


def import_timm() -> types.ModuleType:
    """Import timm, which imports torchvision, beside a torch built for CPUs alone, too."""
    from torch import library

    try:
        import torchvision  # noqa: F401 - whether it loads
    except RuntimeError:
        # Its compiled operators do not load beside this torch: declarations of two are enough.
        for name in ("nms", "qnms"):
            library.define(
                f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou) -> Tensor"
            )
    import timm

    return timm


def open_pictures(folder: Path):
    """Open the pictures for the model, by surgeon's own reader."""
    import surgeon
    from surgeon.data.read import open_data
    from surgeon.graph.preprocess import parse_preprocess

    inputs = surgeon.load(folder / "model.onnx").inputs
    preprocess = parse_preprocess("imagenet", inputs[0], SIZE)
    return open_data(str(folder / "pictures"), inputs, preprocess=preprocess)


# ── what comes out ───────────────────────────────────────────────────────────────────────────────


def summarize(taken: dict[str, list[dict]], arguments: argparse.Namespace, loads: list) -> dict:
    """Take medians and reckon the floor and the ratios."""

    def median(name: str, key: str) -> float:
        return statistics.median(result[key] for result in taken[name])

    cores = len(os.sched_getaffinity(0))
    features, head = median("features", "features"), median("features", "head")
    features_cpu = median("features", "features_cpu") / cores
    bare, decoding = median("bare", "cpu"), median("decoding", "cpu")
    floor = (bare + decoding) / cores
    pictures = arguments.pictures * EPOCHS
    loops = {name: median(name, "per_picture") * pictures for name in ("onnx2torch", "native")}
    by_wall = [r["features"] / floor for r in taken["features"]]
    if arguments.by_cpu:
        features, head = features_cpu, median("features", "head_cpu") / cores
        loops = {
            name: (median(name, "cpu_per_picture") * pictures + decoding * EPOCHS) / cores
            for name in loops
        }
    speed = median("ceiling", "macs") * arguments.pictures / bare
    packages = ("onnx-surgeon", "onnxruntime-gpu", "torch", "onnx", "onnx2torch", "pillow", "numpy")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"cores": cores, "processor": processor(), "python": platform.python_version()},
        "load": [round(load, 2) for load in loads],
        "versions": {name: version(name) for name in packages},
        "by": "CPU-seconds / cores" if arguments.by_cpu else "wall seconds",
        "model": arguments.model,
        "pictures": arguments.pictures,
        "epochs": EPOCHS,
        "repeat": arguments.repeat,
        "seconds": {
            "features": features,
            "hashing": median("features", "hashing"),
            "head": head,
            "hit": median("hit", "features"),
            "bare_cpu": bare,
            "decoding_cpu": decoding,
            "floor": floor,
            **loops,
        },
        "ceiling": {
            "macs_per_picture": median("ceiling", "macs"),
            "macs_per_second_bare": speed,
            "macs_per_second_matmul": median("ceiling", "macs_per_second"),
            "bytes_per_second_copy": median("ceiling", "bytes_per_second"),
        },
        "ratios": {
            "features_to_floor": features / floor,
            "features_to_floor_range": [min(by_wall), max(by_wall)],
            "features_to_floor_by_cpu": features_cpu / floor,
            **{f"{name}_to_features_and_head": s / (features + head) for name, s in loops.items()},
        },
        "wanted": {
            "features_to_floor": f"<= {FLOOR_BOUND}",
            "onnx2torch_to_features_and_head": ">= 20",
            "native_to_features_and_head": ">= 8",
        },
        "measurements": taken,
    }


def processor() -> str:
    """Return what the machine calls its processor."""
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def show(result: dict) -> None:
    """Print the table."""
    seconds, ratios, ceiling = result["seconds"], result["ratios"], result["ceiling"]
    cores = result["machine"]["cores"]
    least, most = ratios["features_to_floor_range"]
    to_floor = f"{ratios['features_to_floor']:.2f}  (<= {FLOOR_BOUND}; {least:.2f} to {most:.2f}"
    to_floor += f" by the wall, {ratios['features_to_floor_by_cpu']:.2f} by CPU time)"
    print(
        f"\n{result['date']}, {result['model']}, {result['pictures']} pictures, {cores} cores, "
        f"load {min(result['load'])}..{max(result['load'])}, medians of {result['repeat']}"
    )
    rows = [
        (f"frozen part, {result['by']}", seconds["features"], ""),
        ("  of it hashing the files", seconds["hashing"], ""),
        ("  bare ONNX Runtime, CPU", seconds["bare_cpu"], ""),
        ("  decoding, CPU", seconds["decoding_cpu"], ""),
        (f"  floor = (bare + decoding) / {cores}", seconds["floor"], ""),
        ("  frozen part / floor", None, to_floor),
        ("frozen part, from the cache", seconds["hit"], ""),
        ("head, to its optimum", seconds["head"], ""),
    ]
    for name, bound in (("onnx2torch", 20), ("native", 8)):
        ratio = ratios[f"{name}_to_features_and_head"]
        rows.append((f"ten epochs, {name}", seconds[name], f"{ratio:.1f}x  (>= {bound})"))
    for text, value, note in rows:
        print(f"{text:<38} {'' if value is None else f'{value:9.2f} s'} {note}".rstrip())
    bare, matmul = ceiling["macs_per_second_bare"] / 1e9, ceiling["macs_per_second_matmul"] / 1e9
    print(
        f"\nfloor: {ceiling['macs_per_picture'] / 1e6:.0f} M multiply-adds a picture at "
        f"{bare:.0f} G/s a core in ONNX Runtime; a large matrix product reaches {matmul:.0f} G/s, "
        f"a copy {ceiling['bytes_per_second_copy'] / 1e9:.0f} GB/s"
    )


if __name__ == "__main__":
    main()
