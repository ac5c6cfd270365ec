"""LoRA against tuning everything: accuracy, numbers that train, memory, time.

    python benchmarks/lora.py                        # a text and a picture network
    python benchmarks/lora.py --pairs minilm-l3/mail --seeds 0 1

Equal data, epochs, batches and seeds; judged on the same unseen samples. The difference is paired
over them and pooled over seeds, in points, ± one standard error. Each arm is delivered as
`finetune` would: where tuning gains nothing, the solved head. Adapters train at the rate that LoRA
offers, 2e-3. Memory is that of a process that trains that arm alone: its peak, all it loads
included, and what the steps and the judging between them add to what was there before the first.
Runs are written one by one, beside those of other settings that are there already.
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
import threading
import time
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
    "lora": {**WHOLE, "adapter": "lora:rank=8"},
    "lora, rank 4": {**WHOLE, "adapter": "lora:rank=4"},
    "lora, rank 4, rate of weights": {**WHOLE, "adapter": "lora:rank=4", "lr": 3e-4},
    "lora, attention": {**WHOLE, "adapter": "lora:rank=8,targets=*attention*"},
    "dora": {**WHOLE, "adapter": "lora:rank=8,dora=yes"},
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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--one", nargs=3, metavar=("PAIR", "ARM", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        pair, arm, seed = given.one
        print(json.dumps(measure(pair, arm, int(seed), given.train, given.epochs)))
        return
    for pair in given.pairs:
        for seed in given.seeds:
            for arm in given.arms:
                write({"pair": pair, **alone(pair, arm, seed, given)})
    print(json.dumps(json.loads(RESULTS.read_text("utf-8"))["rows"], indent=1))


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
        watch = Watch()
        outcome = surgeon.finetune(
            get(model), told.train, device="cpu", seed=seed, epochs=epochs, augment="none",
            threads=1, progress=watch.told, **{**told.options, **ARMS[arm], **kept},
        )  # fmt: skip
        body = outcome.document()
        found = surgeon.predict(outcome.model, told.given, threads=1)
        right = np.asarray(found.labels, str) == told.labels
        return {
            "arm": arm,
            "seed": seed,
            "train": train,
            "epochs": epochs,
            "right": "".join(map(str, right.astype(int))),
            "trained": body["trained_parameters"],
            "delivered": body["delivered"],
            "seconds": body["seconds"]["train"],
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "memory_of_steps": watch.peak - watch.before,
            "kept": (folder / "kept").stat().st_size if kept else None,
            "bytes": Path(get(model)).stat().st_size,
        }


class Watch:
    """Watches the memory of this process between one word of training and the next."""

    def __init__(self) -> None:
        self.before = self.peak = self.highest = 0
        self.last = ""
        threading.Thread(target=self.look, daemon=True).start()

    def look(self) -> None:
        """Look, again and again."""
        while True:
            self.highest = max(self.highest, resident())
            time.sleep(0.005)

    def told(self, stage: str, *_: Any, **__: Any) -> None:
        """Hear where the run stands; what was highest since then counts if it trains."""
        if stage == self.last == "all":
            self.peak = max(self.peak, self.highest)
        elif stage == "all":
            self.before = resident()
        self.last, self.highest = stage, 0


def resident() -> int:
    """Return the bytes of this process that lie in memory."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize()


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


def summary(runs: list[dict]) -> list[dict]:
    """Put the seeds of every arm together, and compare with tuning everything."""
    found: dict = {}
    for run in sorted(runs, key=lambda one: one["seed"]):
        settings = tuple((key, run[key]) for key in ("pair", "train", "epochs"))
        found.setdefault(settings, {}).setdefault(run["arm"], {})[run["seed"]] = run
    return [
        {**dict(settings), "unseen": UNSEEN,
         "arms": {arm: together(ones, arms.get("all", {})) for arm, ones in arms.items()}}
        for settings, arms in found.items()
    ]  # fmt: skip


def together(ones: dict[int, dict], whole: dict[int, dict]) -> dict:
    """Return the figures of an arm, over its seeds; compared are those that both have."""
    both = [seed for seed in ones if seed in whole]
    rows = list(ones.values())
    told = {
        "seeds": list(ones),
        "accuracy": float(np.concatenate([right(row) for row in rows]).mean()),
        **{key: rows[0][key] for key in ("trained", "kept", "bytes")},
        "delivered": [row["delivered"] for row in rows],
    }
    for key in ("memory", "memory_of_steps", "seconds"):
        known = [row[key] for row in rows if row.get(key) is not None]
        told[key] = float(np.mean(known)) if known else None
    if both:
        apart = 100.0 * np.concatenate([right(ones[one]) - right(whole[one]) for one in both])
        told["against_all"] = [float(apart.mean()), float(apart.std(ddof=1) / len(apart) ** 0.5)]
    return told


def right(run: dict) -> np.ndarray:
    """Return for every unseen sample whether a run is right, 1 or 0."""
    return np.array(list(run["right"]), int)


def write(run: dict) -> None:
    """Put a run in the place of the one before of the same settings, and sum all up."""
    settings = ("pair", "train", "epochs", "arm", "seed")
    runs = json.loads(RESULTS.read_text("utf-8"))["runs"] if RESULTS.exists() else []
    runs = [one for one in runs if any(one[key] != run[key] for key in settings)] + [run]
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {key: version(key) for key in ("onnx-surgeon", "surgeon-lora", "torch")},
        "rows": summary(runs),
        "runs": runs,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def processor() -> str:
    """Return the processor's name as Linux has it."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    main()
