"""MobileNetV2 from random weights: folded as exported, with BatchNormalization back, and in torch.

    python benchmarks/batchnorm.py                      # three seeds, some ten minutes of a core
    python benchmarks/batchnorm.py --train 4000 --epochs 8 --size 64 --seeds 0 1

Fashion-MNIST (surgeon-models), as many pictures to train on, judged on 1,000 unseen ones. Compared,
with one budget (epochs, batches of 32, AdamW with a peak rate of 1e-3 that falls by a cosine):
`folded`, the exported file by `finetune --init random`; `batchnorm`, the same with
`--adapter batchnorm`; `torch`, the package's own module with BatchNormalization in a plain loop.
Rows are written one by one, beside those that are there already of other seeds and settings.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "batchnorm.json"
SETTINGS = ("train", "epochs", "size")
ARMS = ("folded", "batchnorm", "torch")
UNSEEN, BATCH, RATE, DECAY = 1000, 32, 1e-3, 0.01


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for arm in arguments.arms:
            begun = time.process_time()
            accuracy = judge(arm, seed, arguments)
            row = {key: getattr(arguments, key) for key in SETTINGS}
            row |= {"arm": arm, "seed": seed, "accuracy": accuracy}
            row["cpu_seconds"] = round(time.process_time() - begun)
            print(json.dumps(row), flush=True)
            write(row)
    alike = [row for row in read() if all(row[key] == getattr(arguments, key) for key in SETTINGS)]
    known = {arm: {row["seed"]: row["accuracy"] for row in alike if row["arm"] == arm}
             for arm in ARMS}  # fmt: skip
    for arm, of in (*((arm, None) for arm in ARMS), ("batchnorm", "torch"), ("folded", "torch")):
        less = dict.fromkeys(known[arm], 0.0) if of is None else known[of]
        found = [100 * (value - less[seed]) for seed, value in known[arm].items() if seed in less]
        if len(found) > 1:
            error = np.std(found, ddof=1) / len(found) ** 0.5
            said = f"{arm} - {of}" if of else arm
            print(f"{said}: {np.mean(found):.1f} ± {error:.1f} ({len(found)} seeds)")


def read() -> list[dict]:
    """Return the rows that are there."""
    return json.loads(RESULTS.read_text("utf-8"))["rows"] if RESULTS.exists() else []


def write(row: dict) -> None:
    """Put a row in the place of the one before of the same arm, seed and settings."""
    same = (*SETTINGS, "arm", "seed")
    rows = [other for other in read() if any(other[key] != row[key] for key in same)]
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {key: version(key) for key in ("onnx-surgeon", "surgeon-batchnorm", "torch")},
        "unseen": UNSEEN,
        "rows": [*rows, row],
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def judge(arm: str, seed: int, arguments: argparse.Namespace) -> float:
    """Train one arm and return its accuracy on the unseen pictures; the seed draws both."""
    from surgeon_models import datasets

    data = datasets.load("fashion-mnist")
    order = np.random.default_rng(seed).permutation(len(data.labels))
    train, unseen = order[: arguments.train], order[arguments.train :][:UNSEEN]
    if arm == "torch":
        return plain(data, train, unseen, seed, arguments)
    import surgeon
    from surgeon_models import get

    with tempfile.TemporaryDirectory() as scratch:
        folders = {"train": train, "unseen": unseen}
        for name, chosen in folders.items():
            datasets.write_folder(
                data.images[chosen], data.labels[chosen], Path(scratch) / name,
                classes=data.classes,
            )  # fmt: skip
        outcome = surgeon.finetune(
            get("mobilenetv2"), Path(scratch) / "train", case="large-different", init="random",
            adapter="batchnorm" if arm == "batchnorm" else None, epochs=arguments.epochs,
            size=(arguments.size, arguments.size), validation=0.1, augment="none", lr=RATE,
            batch=BATCH, seed=seed, device="cpu", threads=arguments.threads,
        )  # fmt: skip
        told = surgeon.evaluate(
            outcome.model, Path(scratch) / "unseen", threads=arguments.threads, device="cpu"
        )
    return float(told["metrics"]["accuracy"])


def plain(data, train, unseen, seed: int, arguments: argparse.Namespace) -> float:
    """Train the package's module in a plain loop of torch, on nine tenths as the others do."""
    import torch

    from surgeon_models import index, packages, recipes

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(seed)
    model = network(index, packages, recipes)
    x, y = pixels(data, train, arguments.size), torch.from_numpy(data.labels[train].astype("int64"))
    x, y = x[: int(0.9 * len(x))], y[: int(0.9 * len(y))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    steps = arguments.epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps, pct_start=0.05, cycle_momentum=False
    )
    model.train()
    for _ in range(arguments.epochs):
        for rows in torch.randperm(len(x)).chunk(-(-len(x) // BATCH)):
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    model.eval()
    with torch.no_grad():
        found = [model(some).argmax(1) for some in pixels(data, unseen, arguments.size).split(100)]
    return float((torch.cat(found).numpy() == data.labels[unseen]).mean())


def network(index, packages, recipes):
    """Return the module with a new head and new weights: He's, and BatchNormalization 1 and 0."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        for source in index.find("mobilenetv2").sources:
            packages.take(source, Path(folder))
        backbone = recipes.load_mobilenetv2(Path(folder))
    for module in backbone.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.reset_parameters()
    return torch.nn.Sequential(backbone, torch.nn.Linear(1280, 10))


def pixels(data, rows, size: int):
    """Return pictures as the file's preprocessing makes them."""
    import torch
    from PIL import Image

    mean, std = (np.array(v) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    found = [
        np.asarray(Image.fromarray(data.images[row]).convert("RGB").resize((size, size), 2))
        for row in rows
    ]
    values = (np.stack(found) / 255 - mean) / std
    return torch.from_numpy(values.transpose(0, 3, 1, 2).astype(np.float32))


if __name__ == "__main__":
    main()
