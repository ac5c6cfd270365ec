"""One head on several depths against heads on one: does `small-different-multi` pay?

    python benchmarks/multi.py                          # two models × two data sets
    python benchmarks/multi.py --models mobilenetv2 --data emoji

Few samples (`--train`, 200 and 600 of each data set), judged on 600 unseen ones. Compared, all with
a solved head on frozen weights: `small-similar` (the late cut), `small-different` (its own early
cut), `small-different` at the best single cut by the probe (as `advise` measures it), and
`small-different-multi`. Everything is chosen on the training samples. Two draws; differences are
paired over the unseen samples, ± one standard error. Rows are written one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "multi.json"
MODELS = ("mobilenetv2", "efficientnet-lite0")
DATA = {"digits": (64, 64), "emoji": (96, 96)}
ARMS = ("small-similar", "small-different", "best single cut", "small-different-multi")
UNSEEN = 600


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, nargs="+", default=[200, 600])
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    for model in arguments.models:
        for name in arguments.data:
            for samples in arguments.train:
                row = compare(model, name, samples, arguments)
                print(json.dumps(row), flush=True)
                write(row)


def write(row: dict) -> None:
    """Put a row in the place of the one before of the same model, data and size."""
    key = "{model}, {data}, {train}"
    rows = json.loads(RESULTS.read_text("utf-8"))["rows"] if RESULTS.exists() else []
    rows = [other for other in rows if key.format(**other) != key.format(**row)]
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {key: version(key) for key in ("onnx-surgeon", "surgeon-multi", "torch")},
        "unseen": UNSEEN,
        "rows": sorted([*rows, row], key=key.format_map),
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def compare(model: str, name: str, samples: int, arguments: argparse.Namespace) -> dict:
    """Train every arm on the same draws and judge it on the same unseen pictures."""
    from surgeon_models import datasets

    data = datasets.load(name)
    right: dict[str, list[np.ndarray]] = {arm: [] for arm in ARMS}
    depths: dict[str, list] = {arm: [] for arm in ARMS}
    for draw in range(arguments.draws):
        order = np.random.default_rng(draw).permutation(len(data.labels))
        with tempfile.TemporaryDirectory() as scratch:
            parts = {"train": order[:samples], "unseen": order[samples : samples + UNSEEN]}
            for part, chosen in parts.items():
                datasets.write_folder(
                    data.images[chosen], data.labels[chosen], Path(scratch) / part,
                    classes=data.classes,
                )  # fmt: skip
            for arm in ARMS:
                correct, depth = judge(model, arm, Path(scratch), DATA[name], arguments.threads)
                right[arm].append(correct)
                depths[arm].append(depth)
    judged = {arm: np.concatenate(values) for arm, values in right.items()}
    return {
        "model": model,
        "data": name,
        "train": samples,
        "draws": arguments.draws,
        "accuracy": {arm: float(values.mean()) for arm, values in judged.items()},
        "gain": {
            arm: [float(d.mean()), float(d.std(ddof=1) / np.sqrt(len(d)))]
            for arm in ARMS[:-1]
            if len(d := judged[ARMS[-1]] - judged[arm])
        },
        "depths": depths,
    }


def judge(
    model: str, arm: str, folder: Path, size: tuple[int, int], threads: int | None
) -> tuple[np.ndarray, list[float]]:
    """Return for each unseen picture whether it was right, and the depths that were read."""
    import surgeon
    from surgeon_models import get

    case, cut = arm, None
    if arm == "best single cut":
        advice = surgeon.advise(get(model), folder / "train", size=size, threads=threads)
        best = max(advice.candidates, key=lambda item: item.accuracy)
        case, cut = "small-different", best.cut.tensor
    outcome = surgeon.finetune(
        get(model), folder / "train", case=case, cut=cut, size=size, validation=0.1,
        threads=threads, device="cpu",
    )  # fmt: skip
    plan = outcome.model.plan
    known = {item.tensor: item.depth for item in surgeon.load(get(model)).cuts()}
    read = [*(known.get(tap, 0.0) for tap in plan.head.taps), plan.depth]
    files = sorted((folder / "unseen").rglob("*.png"))
    found = surgeon.predict(outcome.model, [str(file) for file in files], threads=threads)
    told = [file.parent.name for file in files]
    return np.asarray([a == b for a, b in zip(found.labels, told, strict=True)], float), read


if __name__ == "__main__":
    main()
