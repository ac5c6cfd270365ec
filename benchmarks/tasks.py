"""Several labels and numbers on real data: surgeon, the same head of scikit-learn, raw features.

    python benchmarks/tasks.py             # all, or the names of some: drawn-share ...
    python benchmarks/tasks.py --write     # only the section of docs/benchmarks.md

A third of each set is held out, copies and mixtures of one original together. On the rest learn
`small-similar` (the head solved on frozen features), `large-similar` with a small budget, the same
head in scikit-learn on the features that the tuned file itself gives (`LogisticRegressionCV` of
every label, `RidgeCV`), and the same two on raw features: pixels, words, a mean spectrum. Figures
are scikit-learn's own for all of them: mean average precision, R². Errors are standard errors of
2,000 bootstrap samples of the held-out part. The sets are small, so that all takes some minutes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).parent / "results" / "tasks.json"
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- tasks.py writes from here -->", "<!-- to here: tasks.py -->"
BUDGET = 45.0
SIDE = 128
LETTERS = 48  # tokens of a sentence


@dataclass(frozen=True)
class Task:
    """One data set for one model.

    Attributes:
        data: what it is, for the table.
        model: name in the index.
        targets: [n, labels] of 0 and 1, or [n] numbers.
        feeds: positions → what the graph takes, by input.
        raw: what the baseline reads, and its features [n, k] or texts.
        groups: [n] numbers of what may not be torn apart; every third is held out.
        write: positions and folder → `data` of finetune, `inputs` of predict; None = `feeds`.
        options: more arguments of finetune.
        labels: names of the labels.
    """

    data: str
    model: str
    targets: np.ndarray
    feeds: Callable[[np.ndarray], dict[str, np.ndarray]]
    raw: tuple[str, Any]
    groups: np.ndarray
    write: Callable[[np.ndarray, Path], tuple[Any, Any]] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()


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
            "cores": len(os.sched_getaffinity(0)),
            "load": round(os.getloadavg()[0], 2),
            "versions": {
                key: version(key) for key in ("onnx-surgeon", "onnxruntime-gpu", "scikit-learn")
            },
            "budget": BUDGET,
            "rows": {key: rows[key] for key in TASKS if key in rows},
        }
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    write_section(section(json.loads(RESULTS.read_text("utf-8"))))


def compare(task: Task) -> dict[str, Any]:
    """Judge all ways of learning on the part that none of them has seen."""
    train, held = (np.flatnonzero((task.groups % 3 == 0) == apart) for apart in (False, True))
    answers, seconds, delivered = {}, {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for case, budget in (("small-similar", None), ("large-similar", BUDGET)):
            begun, path = time.perf_counter(), Path(scratch) / f"{case}.onnx"
            answers[case], delivered[case] = tuned(task, case, budget, train, held, path)
            seconds[case] = time.perf_counter() - begun
        features = at_head(Path(scratch) / "small-similar.onnx", task)
    answers["scikit-learn"] = learnt(features, task.targets, train, held)
    answers["raw"] = learnt(task.raw[1], task.targets, train, held)
    right = task.targets[held]
    row = {
        "data": task.data, "model": task.model, "samples": len(task.targets), "held": len(held),
        "labels": list(task.labels), "raw": task.raw[0],
        "quality": "R²" if task.targets.ndim == 1 else "average precision",
        "scores": {name: judged(right, said) for name, said in answers.items()},
        "seconds": seconds, "delivered": delivered,
    }  # fmt: skip
    print(task.data, task.model, len(task.targets), row["scores"], seconds, delivered, flush=True)
    return row


def tuned(
    task: Task, case: str, budget: float | None, train: np.ndarray, held: np.ndarray, path: Path
) -> tuple[np.ndarray, str]:
    """Tune on one part, return what the file says of the other and whose weights it has."""
    import surgeon
    from surgeon_models import get

    data: Any = task.feeds(train) | {"labels": labelled(task, train), "groups": task.groups[train]}
    inputs: Any = task.feeds(held)
    if task.write is not None:
        data, inputs = task.write(train, path.parent)[0], task.write(held, path.parent)[1]
    outcome = surgeon.finetune(
        get(task.model), data, path, case=case, budget=budget, device="cpu", force=True,
        **task.options,
    )  # fmt: skip
    told = surgeon.predict(path, inputs, device="cpu")
    said = told.values[:, 0] if task.targets.ndim == 1 else told.probabilities
    return np.asarray(said, float), str(outcome.delivered)


def labelled(task: Task, rows: np.ndarray) -> np.ndarray:
    """Return the answers as arrays tell them."""
    found = task.targets[rows]
    return found.astype(bool) if found.ndim > 1 else found.astype(np.float32)


def at_head(path: Path, task: Task) -> np.ndarray:
    """Return what the head of a tuned file reads, of all samples."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    node = next(one for one in model.graph.node if "surgeon.head.weight" in one.input)
    model.graph.output.append(onnx.ValueInfoProto(name=node.input[0]))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    every = np.arange(len(task.targets))
    parts = [
        session.run([node.input[0]], task.feeds(rows))[0]
        for rows in np.array_split(every, max(len(every) // 16, 1))
    ]
    return np.concatenate(parts)


def learnt(features: Any, targets: np.ndarray, train: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Fit scikit-learn's linear models on one part, return what they say of the other."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegressionCV, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    texts = not isinstance(features, np.ndarray)
    values = np.array(features, object) if texts else features
    steps = [TfidfVectorizer(min_df=2) if texts else StandardScaler()]
    columns = targets[:, None] if targets.ndim == 1 else targets
    said = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says so where its steps were not enough
        for column in columns.T:
            last = (
                RidgeCV(np.logspace(-3, 6, 19)) if targets.ndim == 1
                else LogisticRegressionCV(Cs=np.logspace(-4, 1, 6), cv=3, max_iter=200)
            )  # fmt: skip
            model = make_pipeline(*steps, last).fit(values[train], column[train])
            told = model.predict if targets.ndim == 1 else model.predict_proba
            said.append(told(values[held]).reshape(len(held), -1)[:, -1])
    return said[0] if targets.ndim == 1 else np.stack(said, axis=1)


def judged(right: np.ndarray, said: np.ndarray) -> dict[str, float]:
    """Return a figure and its standard error."""
    from sklearn.metrics import average_precision_score, r2_score

    def figure(rows: np.ndarray) -> float:
        if right.ndim == 1:
            return float(r2_score(right[rows], said[rows]))
        seen = right[rows].any(axis=0)
        return float(average_precision_score(right[rows][:, seen], said[rows][:, seen]))

    random, every = np.random.default_rng(0), np.arange(len(right))
    again = [figure(random.integers(0, len(every), len(every))) for _ in range(2000)]
    return {"quality": figure(every), "error": float(np.std(again))}


# ── the sets ─────────────────────────────────────────────────────────────────────────────────────


def _normal(images: np.ndarray) -> np.ndarray:
    """Return pictures as efficientnet-lite0 takes them."""
    values: np.ndarray = ((images.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)
    return values


def of_pictures(
    data: str, images: np.ndarray, targets: np.ndarray, groups: np.ndarray, labels: tuple[str, ...]
) -> Task:
    """Make a task of pictures in files beside a table that tells the answers of each."""
    from PIL import Image

    def cell(row: int) -> str:
        if targets.ndim == 1:
            return repr(float(targets[row]))
        return "|".join(name for name, has in zip(labels, targets[row], strict=True) if has)

    def write(rows: np.ndarray, folder: Path) -> tuple[str, list[str]]:
        paths = [folder / f"{row:04d}.png" for row in rows]
        table = folder / f"from-{rows[0]}.csv"
        with table.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["path", "label", "group"])
            for path, row in zip(paths, rows, strict=True):
                Image.fromarray(images[row]).save(path, compress_level=1)
                writer.writerow([path.name, cell(row), groups[row]])
        return str(table), [str(path) for path in paths]

    small = images.reshape(len(images), SIDE // 8, 8, SIDE // 8, 8, 3).mean(axis=(2, 4))
    task = "regression" if targets.ndim == 1 else "multi-label"
    return Task(
        data, "efficientnet-lite0", targets, lambda rows: {"input": _normal(images[rows])},
        ("16 × 16 pixels", small.reshape(len(images), -1)), groups, write,
        {"size": (SIDE, SIDE), "task": task, "label_column": "label", "group_column": "group"},
        labels,
    )  # fmt: skip


def emoji_groups(samples: int = 450) -> Task:
    """Draw one to four emoji on each picture: which of six groups are among them?"""
    from surgeon_models import datasets

    source, random = datasets.emoji(), np.random.default_rng(0)
    groups = (1, 3, 4, 5, 6, 8)
    names = tuple(source.classes[group] for group in groups)
    images = np.full((samples, SIDE, SIDE, 3), 255, np.uint8)
    targets = np.zeros((samples, len(groups)), int)
    third = np.arange(len(source.labels)) % 3 == 0  # what is held out shows emoji never seen before
    for row in range(samples):
        corners = random.permutation(4)[: random.integers(1, 5)]
        for corner in corners:
            place = random.integers(len(groups))
            drawn = random.choice(
                np.flatnonzero((source.labels == groups[place]) & (third == (row % 3 == 0)))
            )
            y, x = (64 * int(at) for at in divmod(int(corner), 2))
            images[row, y : y + 64, x : x + 64] = source.images[drawn]
            targets[row, place] = 1
    every = np.arange(samples)
    return of_pictures("emoji, which groups are on a picture", images, targets, every, names)


def drawn_share(samples: int = 480) -> Task:
    """Take emoji drawn on textures: which share of the picture do they cover?"""
    from PIL import Image

    from surgeon_models import datasets

    source = datasets.load("emoji-overlays")
    chosen = np.random.default_rng(0).permutation(len(source.images))[:samples]
    images = np.stack(
        [np.asarray(Image.fromarray(one).resize((SIDE, SIDE))) for one in source.images[chosen]]
    )
    share = (source.labels[chosen] > 0).mean(axis=(1, 2))
    return of_pictures("emoji on textures, the share they cover", images, share, chosen, ())


def _sentences(samples: int) -> tuple[list[str], list[list[str]], Callable[..., Any]]:
    """Return sentences of the Brown corpus, the tag of each word, and tokens by position."""
    from tokenizers import Tokenizer

    from surgeon_models import datasets, get

    source = datasets.load("brown")
    chosen = np.random.default_rng(0).permutation(len(source.texts))[:samples]
    texts, tags = ([part[row] for row in chosen] for part in (source.texts, source.labels))
    tokenizer = Tokenizer.from_file(str(Path(get("minilm-l3")).parent / "tokenizer.json"))
    tokenizer.enable_truncation(LETTERS)
    tokenizer.enable_padding(length=LETTERS)
    coded = tokenizer.encode_batch(texts)
    ids = np.array([one.ids for one in coded], np.int64)
    mask = np.array([one.attention_mask for one in coded], np.int64)
    return texts, [one.split() for one in tags], lambda rows: {
        "input_ids": ids[rows], "attention_mask": mask[rows],
    }  # fmt: skip


def parts_of_speech(samples: int = 720) -> Task:
    """Take sentences of the Brown corpus: which of five parts of speech occur in them?"""
    texts, tags, feeds = _sentences(samples)
    kinds = ("ADV", "CONJ", "NUM", "PRON", "PROPN")
    targets = np.array([[kind in one for kind in kinds] for one in tags], int)
    return Task(
        "sentences, which parts of speech occur", "minilm-l3", targets, feeds,
        ("TF-IDF of words", texts), np.arange(samples), None, {"task": "multi-label"}, kinds,
    )  # fmt: skip


def nouns(samples: int = 720) -> Task:
    """Take sentences of the Brown corpus: which share of their words are nouns and names?"""
    texts, tags, feeds = _sentences(samples)
    targets = np.array([np.mean([tag in ("NOUN", "PROPN") for tag in one]) for one in tags])
    return Task(
        "sentences, the share of nouns", "minilm-l3", targets, feeds, ("TF-IDF of words", texts),
        np.arange(samples), None, {"task": "regression"},
    )  # fmt: skip


def noise(each: int = 2) -> Task:
    """Mix speech and music with noise: how many decibels is the sound above it?"""
    from surgeon_models import datasets, encodings

    source, random = datasets.sounds(), np.random.default_rng(0)
    values = np.repeat(source.values[:, 0].astype(np.float32) / 32768, each, axis=0)
    decibels = random.uniform(0, 30, len(values))
    power = np.sqrt((values**2).mean(axis=1) / 10 ** (decibels / 10))
    mixed = values + power[:, None] * random.standard_normal(values.shape).astype(np.float32)
    louder = np.clip(encodings.to_rate(mixed, datasets.SOUND_RATE, 16_000), -1, 1)
    features = encodings.mel_decibels(louder[:, :-160], 16_000, 321, 160, 120, 900)
    spectra = encodings.log_power(mixed, 512, 256).mean(axis=1)
    return Task(
        "sounds, decibels above noise", "dnsmos-p808", decibels,
        lambda rows: {"input_1": features[rows]}, ("mean power spectrum", spectra),
        np.repeat(np.arange(len(source.values)), each), None, {"task": "regression"},
    )  # fmt: skip


TASKS: dict[str, Callable[[], Task]] = {
    "emoji-groups": emoji_groups,
    "parts-of-speech": parts_of_speech,
    "drawn-share": drawn_share,
    "nouns": nouns,
    "noise": noise,
}


# ── the page ─────────────────────────────────────────────────────────────────────────────────────


def section(document: dict[str, Any]) -> list[str]:
    """Return the lines of the table."""
    how = f"{document['date']}, {document['cores']} cores, load {document['load']}"
    columns = ("data", "model", "samples", "", "raw features", "`small-similar`",
               "scikit-learn, same features", "`large-similar`")  # fmt: skip
    lines = [
        f"{how}; budget of `large-similar` {document['budget']:.0f} s.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for row in document["rows"].values():
        cells = {
            name: f"{one['quality']:.3f} ± {one['error']:.3f}"
            for name, one in row["scores"].items()
        }
        large = f"{cells['large-similar']} ({row['delivered']['large-similar']})"
        lines.append(
            f"| {row['data']} | `{row['model']}` | {row['samples']} | {row['quality']} "
            f"| {cells['raw']}, {row['raw']} | {cells['small-similar']} | {cells['scikit-learn']} "
            f"| {large} |"
        )
    return lines


def write_section(lines: list[str]) -> None:
    """Put the lines between the marks of the page."""
    text = PAGE.read_text("utf-8")
    head, rest = text.split(BEGIN)
    PAGE.write_text("\n".join([head + BEGIN, *lines, END]) + rest.split(END)[1], "utf-8")


if __name__ == "__main__":
    main()
