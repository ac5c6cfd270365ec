"""More classes without the data of the old ones: which head is made of what the file carries?

    python benchmarks/extend.py

Google's emoji in 9 groups: 6 are learnt first, then their pictures are gone and 3 groups are added.
A third of the pictures judges, stratified; for each seed other groups come first. On the features
of two networks (cut late, 96x96), all heads from the same samples:

- `all data`: the head solved on the pictures of all 9 groups: what is lost is measured from here.
- `new data only`: solved on those of the 3 new groups.
- `discriminant`: what `finetune --extend` does, from statistics as the file stores them.
- `shrinkage S`: the same with another share of the diagonal in the covariance.
- `whole covariance`: the same from all numbers of the covariance, in double precision.
- `drawn`: old samples drawn from these Gaussians, the head solved on them and the new pictures.
- `random features M`: ridge regression on M random features (after RanPAC, arXiv 2307.02251); the
  penalty is chosen on the 6 groups. It carries M x M numbers.
- `each class`: a covariance of each class, correlation, shrunk (after FeCAM, arXiv 2309.14062); as
  a graph it is no Gemm.

`--files` runs the command itself: tuned on 6 with --keep-statistics, extended by 3 at once and one
by one; the files are judged by `evaluate`.
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
from head import SIZE, kept_features

MODELS, OLD, CLASSES = ("efficientnet-lite0", "mobilenetv2"), 6, 9
WIDTHS, SHARES = (1000, 2000), (0.1, 0.3, 0.5, 0.7, 0.9)
RESULTS = Path(__file__).parent / "results" / "extend.json"


def main() -> None:
    """Compare the heads, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--features", type=Path, help="folder where features are kept")
    parser.add_argument("--files", action="store_true", help="run the command, too")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = []
    for model in MODELS:
        features, labels = kept_features("emoji", model, arguments.features)
        for seed in range(arguments.seeds):
            for name, row in compared(features, labels, seed).items():
                rows.append({"model": model, "seed": seed, "head": name, **row})
                print(json.dumps(rows[-1]), flush=True)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {name: version(name) for name in ("onnx-surgeon", "scikit-learn", "torch")},
        "size": SIZE,
        "seeds": arguments.seeds,
        "rows": rows,
        "files": files(MODELS[0]) if arguments.files else None,
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print("| head | all | old | new | loss | bytes in the file |\n|---|---|---|---|---|---|")
    for name in dict.fromkeys(row["head"] for row in rows):
        mean = {
            key: float(np.mean([row[key] for row in rows if row["head"] == name]))
            for key in ("accuracy", "old", "new", "loss", "bytes")
        }
        shown = " | ".join(f"{mean[key]:.1%}" for key in ("accuracy", "old", "new"))
        print(f"| {name} | {shown} | {mean['loss']:.2f} | {mean['bytes']:,.0f} |")


def compared(features: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, dict]:
    """Return how good each head is on pictures that none has seen."""
    from surgeon.data.splits import split
    from surgeon.job.statistics import as_document, of_document
    from surgeon.probe.discriminant import Moments, fit
    from surgeon.probe.solver import solve

    codes = np.random.default_rng(seed).permutation(CLASSES)[labels]
    parts = split(codes, fraction=1 / 3, seed=seed, hold_test=False)
    x, y = features[parts.train], codes[parts.train]
    old = y < OLD
    judged = (features[parts.validation], codes[parts.validation])
    known = Moments.of(x[old], y[old], OLD)
    document = as_document(known)
    stored = len(json.dumps(document))
    numbers = 8 * (known.means.size + known.scatter.size)

    def linear(weight: np.ndarray, bias: np.ndarray, stored: int) -> dict:
        return figures(judged[0] @ weight.T + bias, judged[1], stored)

    whole = solve(x, y, CLASSES, seed=seed)
    alone = solve(x[~old], y[~old], CLASSES, seed=seed)
    shipped = fit(of_document(document).widened(CLASSES), x[~old], y[~old], seed=seed)
    exact = fit(known.widened(CLASSES), x[~old], y[~old], seed=seed)
    values, of = drawn(known, seed)
    solved = solve(np.concatenate([values, x[~old]]), np.concatenate([of, y[~old]]), CLASSES)
    found = {
        "all data": linear(whole.weight, whole.bias, 0),
        "new data only": linear(alone.weight, alone.bias, 0),
        "discriminant": linear(shipped.weight, shipped.bias, stored),
        "whole covariance": linear(exact.weight, exact.bias, numbers),
        "drawn": linear(solved.weight, solved.bias, numbers),
    }
    for width in WIDTHS:
        scores = random_features(x, y, judged[0], width, seed)
        found[f"random features {width}"] = figures(scores, judged[1], 8 * width * (width + OLD))
    together = of_document(document).widened(CLASSES) + Moments.of(x[~old], y[~old], CLASSES)
    for share in SHARES:
        found[f"shrinkage {share}"] = linear(*together.head(share), stored)
    scores = each_class(x, y, judged[0])
    found["each class"] = figures(scores, judged[1], 8 * OLD * known.scatter.size)
    return found


def figures(scores: np.ndarray, codes: np.ndarray, stored: int) -> dict:
    """Return accuracies and loss; scores are scaled by the factor that is best here."""
    right, old = scores.argmax(axis=1) == codes, codes < OLD
    above = scores - scores.max(axis=1, keepdims=True)
    losses = []
    for factor in 2.0 ** np.arange(-8, 9):
        told = np.log(np.exp(factor * above).sum(axis=1)) - factor * above[range(len(codes)), codes]
        losses.append(told.mean())
    return {
        "accuracy": right.mean(), "old": right[old].mean(), "new": right[~old].mean(),
        "loss": min(losses), "bytes": stored,
    }  # fmt: skip


def drawn(known, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return samples drawn from the Gaussians that moments describe, as many as there were."""
    values, axes = np.linalg.eigh(known.scatter / known.counts.sum())
    random = np.random.default_rng(seed)
    codes = np.repeat(np.arange(OLD), known.counts.astype(int))
    apart = (
        random.normal(size=(len(codes), len(values))) @ (axes * np.sqrt(np.maximum(values, 0))).T
    )
    return (known.means[codes] + apart).astype(np.float32), codes


def random_features(
    x: np.ndarray, y: np.ndarray, judged: np.ndarray, width: int, seed: int
) -> np.ndarray:
    """Return scores by ridge regression on random features, its penalty chosen on old classes."""
    from surgeon.data.splits import split

    drawn = np.random.default_rng(seed).normal(size=(x.shape[1], width))
    values, targets = np.maximum(x @ drawn, 0), np.eye(CLASSES)[y]

    def solved(rows: np.ndarray, penalty: float) -> np.ndarray:
        gram = values[rows].T @ values[rows]
        gram[np.diag_indices(width)] += penalty * np.trace(gram) / width
        return np.linalg.solve(gram, values[rows].T @ targets[rows])

    old = np.flatnonzero(y < OLD)
    parts = split(y[old], fraction=0.2, seed=seed, hold_test=False)
    learnt, judges = old[parts.train], old[parts.validation]
    penalties = 10.0 ** np.arange(-4, 2)
    right = [
        ((values[judges] @ solved(learnt, one)).argmax(axis=1) == y[judges]).mean()
        for one in penalties
    ]
    weight = solved(np.arange(len(y)), penalties[int(np.argmax(right))])
    return np.maximum(judged @ drawn, 0) @ weight


def each_class(x: np.ndarray, y: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Return minus Mahalanobis distances, by a correlation of each class, shrunk; lengths are 1."""
    unit = judged / np.linalg.norm(judged, axis=1, keepdims=True)
    scores = []
    for code in range(CLASSES):
        values = x[y == code].astype(np.float64)
        covariance = np.cov(values.T)
        variance = np.trace(covariance) / len(covariance)
        beside = (covariance.sum() - np.trace(covariance)) / (covariance.size - len(covariance))
        covariance += beside
        covariance[np.diag_indices(len(covariance))] += variance - beside
        spread = np.sqrt(np.diag(covariance))
        mean = values.mean(axis=0)
        apart = unit - mean / np.linalg.norm(mean)
        inverse = np.linalg.inv(covariance / np.outer(spread, spread))
        scores.append(-((apart @ inverse) * apart).sum(axis=1))
    return np.array(scores).T


def files(name: str) -> dict:
    """Return accuracies of files: of one that knows all data, and of extended ones."""
    import surgeon
    from surgeon_models import datasets, get

    data = datasets.emoji()
    codes = np.asarray(data.labels)
    random = np.random.default_rng(0)
    chosen = random.permutation(len(codes))[:1300]
    test, train = chosen[:430], chosen[430:]
    rank = random.permutation(CLASSES)[codes]
    settings = {"size": SIZE, "device": "cpu", "force": True}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def write(rows: np.ndarray, to: str) -> str:
            labels = data.labels[rows]
            datasets.write_folder(data.images[rows], labels, folder / to, classes=data.classes)
            return str(folder / to)

        judges = write(test, "test")
        order = {data.classes[code]: int(rank[codes == code][0]) for code in set(codes.tolist())}

        def judge(path: Path) -> dict:
            body = surgeon.evaluate(path, judges, device="cpu")
            recall = {
                part: [
                    one
                    for one in body["per_class"]
                    if (order[one["label"]] < OLD) == (part == "old")
                ]
                for part in ("old", "new")
            }
            found = {
                part: sum(one["recall"] * one["support"] for one in rows)
                / sum(one["support"] for one in rows)
                for part, rows in recall.items()
            }
            return {"accuracy": body["metrics"]["accuracy"], **found, "bytes": path.stat().st_size}

        whole, six, nine = (folder / f"{one}.onnx" for one in ("whole", "six", "nine"))
        case = {**settings, "case": "small-similar"}
        surgeon.finetune(get(name), write(train, "all"), whole, **case)
        first = write(train[rank[train] < OLD], "first")
        surgeon.finetune(get(name), first, six, **case, keep_statistics=True)
        surgeon.finetune(
            six, write(train[rank[train] >= OLD], "rest"), nine, extend=True, **settings
        )
        steps = six
        for code in range(OLD, CLASSES):
            more = write(train[rank[train] == code], f"more-{code}")
            out = folder / f"to-{code}.onnx"
            surgeon.finetune(steps, more, out, extend=True, **settings)
            steps = out
        both = folder / "both.onnx"
        surgeon.finetune(six, str(folder / "rest"), both, extend=True, old_data=first, **settings)
        return {
            "all data": judge(whole), "extended": judge(nine), "one by one": judge(steps),
            "with old data": judge(both),
        }  # fmt: skip


if __name__ == "__main__":
    main()
