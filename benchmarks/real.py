"""Real data of every kind against the majority class and scikit-learn on raw features.

    python benchmarks/real.py              # all, or the names of some: files mail ...
    python benchmarks/real.py --write      # only the section of docs/benchmarks.md

Three stratified outer folds: of each, surgeon (`finetune` with a frozen case, then `predict`) and
the baseline learn from the same two thirds and predict the same unseen third. Surgeon holds a tenth
of its part out for validation. Everything goes in raw where surgeon reads it raw: e-mails as a CSV
table of texts, pictures as a folder of PNGs; files and series as the arrays the index makes of them
(`surgeon_models.encodings`). The baseline is logistic regression, its penalty chosen by
cross-validation inside the training folds. Errors are standard errors over samples; differences are
paired.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).parent / "results" / "real.json"
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- real.py writes from here -->", "<!-- to here -->"
FOLDS = 3
HELD = 0.1  # of surgeon's training samples, for validation
CASES = ("small-similar", "small-different")
SIZE = (128, 128)
FLOAT, INT8 = "efficientnet-lite0", "efficientnet-lite0-int8"
EARLY = "/_blocks.5/_project_conv/Conv_output_0"  # the int8 file's own early cut, in both
POINTS = 2.0  # that int8 may lose


@dataclass(frozen=True)
class Task:
    """One data set for one model.

    Attributes:
        data: what it is, for the table.
        model: name in the index.
        labels: class of each sample, [n].
        train: positions, scratch folder → `data` of finetune.
        inputs: positions, scratch folder → `inputs` of predict, in the order of the positions.
        baseline: name and raw features of the baseline ([n, features], or texts).
        options: more arguments for both verbs.
        cut: of `small-different`, where two networks are to be cut at the same place.
    """

    data: str
    model: str
    labels: np.ndarray
    train: Callable[[np.ndarray, Path], Any]
    inputs: Callable[[np.ndarray, Path], Any]
    baseline: tuple[str, Any]
    options: dict[str, Any]
    cut: str | None = None


def main() -> None:
    """Measure, print, write figures and page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--write", action="store_true", help="only write the page")
    arguments = parser.parse_args()
    rows = json.loads(RESULTS.read_text("utf-8"))["rows"] if RESULTS.exists() else {}
    for name in () if arguments.write else arguments.names or TASKS:
        rows[name] = compare(TASKS[name]())
        document = {
            "date": datetime.now(UTC).date().isoformat(),
            "load": round(os.getloadavg()[0], 2),
            "versions": {
                key: version(key) for key in ("onnx-surgeon", "onnxruntime-gpu", "scikit-learn")
            },
            "folds": FOLDS,
            "rows": {key: rows[key] for key in TASKS if key in rows},
            "int8": lost(rows),
        }
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    write_section(section(json.loads(RESULTS.read_text("utf-8"))))


def compare(task: Task) -> dict:
    """Cross-validate both cases and the baseline on one task."""
    from surgeon.data.splits import folds

    codes = np.unique(task.labels, return_inverse=True)[1]
    parts = folds(codes, FOLDS, seed=0)
    right = {key: np.zeros(len(codes)) for key in (*CASES, "baseline")}
    seconds = dict.fromkeys(right, 0.0)
    cuts = {}
    for train, held in parts:
        for case in CASES:
            begun = time.perf_counter()
            predicted, cuts[case] = tune_and_predict(task, case, train, held)
            seconds[case] += time.perf_counter() - begun
            right[case][held] = predicted == task.labels[held]
        begun = time.perf_counter()
        predicted = predict_by_baseline(task.baseline[1], codes, train, held)
        seconds["baseline"] += time.perf_counter() - begun
        right["baseline"][held] = predicted == codes[held]
    counts = np.bincount(codes)
    row = {
        "data": task.data,
        "model": task.model,
        "samples": len(codes),
        "classes": len(counts),
        "majority": float(counts.max() / len(codes)),
        "baseline": {"what": task.baseline[0]} | scored(right["baseline"]),
        "seconds": seconds,
    }
    for case in CASES:
        gained = right[case] - right["baseline"]
        row[case] = scored(right[case]) | {
            "cut": cuts[case],
            "difference": float(gained.mean()),
            "difference_error": standard_error(gained),
            "right": "".join(str(int(each)) for each in right[case]),
        }
    told = {key: f"{100 * row[key]['accuracy']:.1f}" for key in (*CASES, "baseline")}
    print(task.data, task.model, len(codes), f"{row['majority']:.3f}", told, seconds, flush=True)
    return row


def tune_and_predict(
    task: Task, case: str, train: np.ndarray, held: np.ndarray
) -> tuple[np.ndarray, str]:
    """Tune on one part, predict the labels of the other by the file that comes out."""
    import surgeon
    from surgeon_models import get

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        outcome = surgeon.finetune(
            get(task.model), task.train(train, folder), folder / "tuned.onnx", case=case,
            validation=HELD, device="cpu", cut=task.cut if case == CASES[1] else None,
            **task.options,
        )  # fmt: skip
        told = surgeon.predict(
            folder / "tuned.onnx", task.inputs(held, folder), device="cpu", **task.options
        )
    if told.failed or len(told.labels) != len(held):
        raise RuntimeError(f"{len(told.failed)} of {len(held)} samples were not predicted")
    return np.array(told.labels), outcome.document()["plan"]["cut"]


def predict_by_baseline(
    features: Any, codes: np.ndarray, train: np.ndarray, held: np.ndarray
) -> np.ndarray:
    """Fit logistic regression on the training part and predict the other."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    first = StandardScaler() if isinstance(features, np.ndarray) else TfidfVectorizer(min_df=2)
    values = features if isinstance(features, np.ndarray) else np.array(features, object)
    model = make_pipeline(first, LogisticRegressionCV(Cs=np.logspace(-4, 3, 5), cv=3, max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says so where max_iter was not enough
        model.fit(values[train], codes[train])
        return model.predict(values[held])


def scored(right: np.ndarray) -> dict:
    """Return the accuracy and its standard error."""
    return {"accuracy": float(right.mean()), "error": standard_error(right)}


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def lost(rows: dict) -> dict | None:
    """Return what int8 loses against float32, in points, per case, paired."""
    pair = [rows.get(key) for key in ("pictures", "pictures-int8")]
    if None in pair:
        return None
    result = {}
    for case in CASES:
        first, second = (np.array(list(row[case]["right"]), float) for row in pair)
        gained = second - first
        result[case] = {
            "difference": float(gained.mean()),
            "error": standard_error(gained),
            "holds": bool(100 * gained.mean() >= -POINTS),
        }
    return result


# ── the tasks ────────────────────────────────────────────────────────────────────────────────────


def share(labels: np.ndarray, count: int) -> np.ndarray:
    """Choose `count` samples, each class by its share, by a fixed seed."""
    from surgeon.data.splits import split

    if count >= len(labels):
        return np.arange(len(labels))
    return split(labels, fraction=count / len(labels), seed=0, hold_test=False).validation


def of_arrays(
    data: str, model: str, arrays: dict, labels: np.ndarray, baseline: tuple[str, Any]
) -> Task:
    """Make a task of arrays named like the model's inputs, all with the samples on axis 0."""

    def pick(rows: np.ndarray) -> dict:
        return {name: value[rows] for name, value in arrays.items()}

    def train(rows: np.ndarray, _: Path) -> dict:
        return pick(rows) | {"labels": labels[rows], "split": np.full(len(rows), "train")}

    return Task(data, model, labels, train, lambda rows, _: pick(rows), baseline, {})


def files() -> Task:
    """Take all files of 16 types as magika sees them."""
    from surgeon_models import datasets, encodings

    data = datasets.file_types()
    labels = np.array(data.classes)[data.labels]
    histograms = np.stack(
        [
            np.bincount(np.frombuffer(each, np.uint8), minlength=256) / len(each)
            for each in data.contents
        ]
    )
    features = {"bytes": encodings.bytes_features(data.contents)}
    return of_arrays(
        "files of 16 types", "magika", features, labels, ("byte histogram", histograms)
    )


def mail() -> Task:
    """Take 900 e-mails as raw texts, 128 tokens of each."""
    from surgeon_models import datasets

    data = datasets.mail()
    chosen = share(data.labels, 900)
    labels = np.array(data.classes)[data.labels[chosen]]
    texts = [data.texts[position] for position in chosen]

    def table(rows: np.ndarray, path: Path, *, labelled: bool) -> str:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "label", "split"] if labelled else ["text"])
            for row in rows:
                writer.writerow([texts[row], labels[row], "train"] if labelled else [texts[row]])
        return str(path)

    return Task(
        "e-mails, ham or spam", "minilm-l3", labels,
        lambda rows, folder: table(rows, folder / "train.csv", labelled=True),
        lambda rows, folder: table(rows, folder / "new.csv", labelled=False),
        ("TF-IDF of the whole texts", texts), {"max_length": 128},
    )  # fmt: skip


def of_series(data: str, model: str, name: str) -> Task:
    """Take a whole data set of one channel as the brain-wave models see it."""
    from surgeon_models import datasets, encodings

    given = datasets.series(name)
    values, labels = given.values[:, 0], np.array(given.classes)[given.labels]
    make = encodings.spindle_features if model == "eeg-spindle" else encodings.seizure_features
    return of_arrays(data, model, make(values), labels, ("raw series", values))


def sounds() -> Task:
    """Take all 124 sounds, speech or music, as mel spectra."""
    from surgeon_models import datasets, encodings

    given = datasets.sounds()
    labels = np.array(given.classes)[given.labels]
    values = given.values[:, 0].astype(np.float32) / 32768
    louder = np.clip(encodings.to_rate(values, datasets.SOUND_RATE, 16_000), -1, 1)
    features = encodings.mel_decibels(louder[:, :-160], 16_000, 321, 160, 120, 900)
    spectra = encodings.log_power(values, 512, 256).mean(axis=1)
    return of_arrays(
        "speech or music, 9 s", "dnsmos-p808", {"input_1": features}, labels,
        ("mean power spectrum", spectra),
    )  # fmt: skip


@cache
def _pictures() -> tuple[np.ndarray, np.ndarray]:
    from surgeon_models import datasets

    data = datasets.emoji()
    chosen = share(data.labels, 600)
    return data.images[chosen], np.array(data.classes)[data.labels[chosen]]


def pictures(model: str) -> Task:
    """Take 600 emoji as PNG files, resized to 128 × 128."""
    from surgeon.data.splits import split
    from surgeon_models import datasets, encodings

    images, labels = _pictures()

    def train(rows: np.ndarray, folder: Path) -> str:
        codes = np.unique(labels[rows], return_inverse=True)[1]
        parts = split(codes, fraction=HELD, seed=0, hold_test=False)
        for name, part in (("train", parts.train), ("validation", parts.validation)):
            datasets.write_folder(images[rows[part]], labels[rows[part]], folder / "all" / name)
        return str(folder / "all")

    def inputs(rows: np.ndarray, folder: Path) -> list[str]:
        from PIL import Image

        paths = [folder / f"{position:04d}.png" for position in range(len(rows))]
        for path, row in zip(paths, rows, strict=True):
            Image.fromarray(images[row]).save(path, compress_level=1)
        return [str(path) for path in paths]

    pixels = encodings.resize_pictures(images, (24, 24)).reshape(len(images), -1)
    return Task(
        "emoji, 9 groups", model, labels, train, inputs, ("pixels, 24×24", pixels), {"size": SIZE},
        EARLY + ("_quantized" if model == INT8 else ""),
    )  # fmt: skip


TASKS: dict[str, Callable[[], Task]] = {
    "files": files,
    "mail": mail,
    "gestures": lambda: of_series("two gestures of a hand", "eeg-spindle", "gun-point"),
    "outlines": lambda: of_series("outlines of 3 arrow heads", "eeg-seizure", "arrow-head"),
    "appliances": lambda: of_series("power of 10 kinds of appliance", "eeg-seizure", "acsf1"),
    "sounds": sounds,
    "pictures": lambda: pictures(FLOAT),
    "pictures-int8": lambda: pictures(INT8),
}


# ── the page ─────────────────────────────────────────────────────────────────────────────────────

INTRODUCTION = """## Real data of every kind
`python benchmarks/real.py`, {date}. {folds} stratified outer folds; surgeon and the baseline
(logistic regression, penalty by cross-validation) learn from the same samples and predict the same
unseen ones, surgeon with the file that came out. It holds a tenth of its part out for validation. ±
one standard error over samples; differences to the baseline are paired.
"""


def section(document: dict) -> str:
    """Return the section of `docs/benchmarks.md` for the figures."""
    lines = [
        BEGIN,
        INTRODUCTION.format(date=document["date"], folds=document["folds"]),
        "| data | model | samples | majority | raw features | baseline | "
        + " | ".join(f"{case} | difference" for case in CASES)
        + " |",
        "|" + "---|" * (6 + 2 * len(CASES)),
    ]
    for row in document["rows"].values():
        cells = [row["data"], f"`{row['model']}`", f"{row['samples']:,}", percent(row["majority"])]
        cells += [row["baseline"]["what"], with_error(row["baseline"])]
        for case in CASES:
            one = row[case]
            cells.append(with_error(one))
            cells.append(points(one["difference"], one["difference_error"]))
        lines.append("| " + " | ".join(cells) + " |")
    if document["int8"]:
        told = [
            f"`{case}` {points(each['difference'], each['error'])} points"
            for case, each in document["int8"].items()
        ]
        wanted = f"wanted: not below −{POINTS:.0f}"
        lines += ["", f"int8 (QOperator) against float32, paired: {', '.join(told)} ({wanted})."]
        lines += ["`small-different` is cut at the same place in both, where int8 has it."]
    return "\n".join([*lines, END]) + "\n"


def write_section(text: str) -> None:
    """Put the section into the page, in place of the one there is, else behind everything."""
    page = PAGE.read_text("utf-8")
    if BEGIN in page:
        before, _, rest = page.partition(BEGIN)
        page = before + text + rest.partition(END + "\n")[2]
    else:
        page = page.rstrip("\n") + "\n\n" + text
    PAGE.write_text(page, "utf-8")


def percent(value: float) -> str:
    """Return a fraction in percent."""
    return f"{100 * value:.1f} %"


def with_error(score: dict) -> str:
    """Return an accuracy and its standard error in percent."""
    return f"{100 * score['accuracy']:.1f} ± {100 * score['error']:.1f} %"


def points(value: float, error: float) -> str:
    """Return a difference and its standard error in points."""
    return f"{100 * value:+.1f} ± {100 * error:.1f}".replace("-", "−")


if __name__ == "__main__":
    main()
