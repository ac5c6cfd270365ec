"""LoRA against tuning everything: accuracy, numbers that train, memory, time.

    python benchmarks/lora.py                        # a text and a picture network
    python benchmarks/lora.py --pairs minilm-l3/mail --seeds 3

Equal data, epochs, batches and seeds; judged on the same unseen samples. The difference is paired
over them, in points, ± one standard error. Each arm is delivered as `finetune` would: where tuning
gains nothing, the solved head. Memory is the peak of a process that trains that arm alone, all it
loads included. Adapters train at a rate of their own, 2e-3. Rows are written one by one.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RESULTS = Path(__file__).parent / "results" / "lora.json"
PAIRS = ("minilm-l3/mail", "mobilenetv2/digits")
HEAD = {"case": "small-similar"}
WHOLE = {"case": "large-similar", "init": "pretrained"}
ARMS = {
    "head": HEAD,
    "all": WHOLE,
    "lora": {**WHOLE, "adapter": "lora:rank=8", "lr": 2e-3},
    "lora, default rate": {**WHOLE, "adapter": "lora:rank=8"},
    "lora, rank 4": {**WHOLE, "adapter": "lora:rank=4", "lr": 2e-3},
    "lora, attention": {**WHOLE, "adapter": "lora:rank=8,targets=*attention*", "lr": 2e-3},
    "dora": {**WHOLE, "adapter": "lora:rank=8,dora=yes", "lr": 2e-3},
}
UNSEEN = 600
SIZES = {"digits": (64, 64), "emoji": (96, 96)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", default=PAIRS)
    parser.add_argument("--arms", nargs="+", default=["head", "all", "lora"], choices=list(ARMS))
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--one", nargs=3, metavar=("PAIR", "ARM", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        pair, arm, seed = given.one
        print(json.dumps(measure(pair, arm, int(seed), given.train, given.epochs)))
        return
    for pair in given.pairs:
        rows = [alone(pair, arm, seed, given) for arm in given.arms for seed in range(given.seeds)]
        row = summary(pair, rows, given)
        print(json.dumps(row, indent=1), flush=True)
        write(row)


def alone(pair: str, arm: str, seed: int, given: argparse.Namespace) -> dict:
    """Measure one arm in a process of its own, so that its memory is its own."""
    command = [
        sys.executable, __file__, "--one", pair, arm, str(seed),
        "--train", str(given.train), "--epochs", str(given.epochs),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row = json.loads(done.stdout.splitlines()[-1])
    print({key: value for key, value in row.items() if key != "right"}, flush=True)
    return row


def measure(pair: str, arm: str, seed: int, train: int, epochs: int) -> dict:
    """Train one arm on one draw and judge it on unseen samples."""
    import surgeon
    from surgeon_models import get

    model, name = pair.split("/")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        told = samples(name, train, seed, folder)
        kept = {"adapter_out": folder / "kept"} if "adapter" in ARMS[arm] else {}
        outcome = surgeon.finetune(
            get(model), told.train, device="cpu", seed=seed, epochs=epochs, augment="none",
            threads=1, **{**told.options, **ARMS[arm], **kept},
        )  # fmt: skip
        body = outcome.document()
        found = surgeon.predict(outcome.model, told.given, threads=1)
        right = np.asarray(found.labels, str) == told.labels
        return {
            "arm": arm,
            "seed": seed,
            "right": right.astype(int).tolist(),
            "trained": body["trained_parameters"],
            "delivered": body["delivered"],
            "seconds": body["seconds"]["train"],
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "kept": (folder / "kept").stat().st_size if kept else None,
            "bytes": Path(get(model)).stat().st_size,
        }


class Samples(NamedTuple):
    """Where training samples lie, what is judged, and how both are read."""

    train: Path
    given: Any
    labels: np.ndarray
    options: dict


def samples(name: str, train: int, seed: int, folder: Path) -> Samples:
    """Draw training samples and unseen ones, and write them as people have them."""
    from surgeon_models import datasets

    data = datasets.load(name)
    order = np.random.default_rng(seed).permutation(len(data.labels))
    parts = {"train": order[:train], "unseen": order[train : train + UNSEEN]}
    labels = np.asarray([data.classes[data.labels[row]] for row in parts["unseen"]])
    if hasattr(data, "texts"):
        for part, rows in parts.items():
            with (folder / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                table.writerow(["text", "label"])
                table.writerows([data.texts[row], data.classes[data.labels[row]]] for row in rows)
        options = {"max_length": 64}
        return Samples(folder / "train.csv", folder / "unseen.csv", labels, options)
    for part, rows in parts.items():
        datasets.write_folder(
            data.images[rows], data.labels[rows], folder / part, classes=data.classes
        )
    files = sorted((folder / "unseen").rglob("*.png"))
    labels = np.asarray([file.parent.name for file in files])
    return Samples(folder / "train", list(map(str, files)), labels, {"size": SIZES[name]})


def summary(pair: str, rows: list[dict], given: argparse.Namespace) -> dict:
    """Put the seeds of every arm together, and compare with tuning everything."""
    arms = {arm: [row for row in rows if row["arm"] == arm] for arm in given.arms}
    right = {arm: np.concatenate([row["right"] for row in ones]) for arm, ones in arms.items()}
    told = {}
    for arm, ones in arms.items():
        apart = 100.0 * (right[arm] - right["all"])
        told[arm] = {
            "accuracy": float(right[arm].mean()),
            "against_all": [float(apart.mean()), float(apart.std(ddof=1) / np.sqrt(len(apart)))],
            **{key: ones[0][key] for key in ("trained", "kept", "bytes")},
            **{key: float(np.mean([row[key] for row in ones])) for key in ("memory", "seconds")},
            "delivered": [row["delivered"] for row in ones],
        }
    settings = {"train": given.train, "epochs": given.epochs, "seeds": given.seeds}
    return {"pair": pair, **settings, "unseen": UNSEEN, "arms": told}


def write(row: dict) -> None:
    """Put a row in the place of the one before of the same pair."""
    rows = json.loads(RESULTS.read_text("utf-8"))["rows"] if RESULTS.exists() else []
    rows = [other for other in rows if other["pair"] != row["pair"]]
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {key: version(key) for key in ("onnx-surgeon", "surgeon-lora", "torch")},
        "rows": sorted([*rows, row], key=lambda one: one["pair"]),
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
