"""Tokens, segmentation and embedding on real data, against baselines on raw features.

    python benchmarks/tasks_places.py            # all, or the names of some: pos names overlays …

Of each set, surgeon tunes on a training part (of which it holds some out to validate) by a frozen
and by a large case, and `evaluate` judges the files on a test part that nothing has seen. Beside
them: a baseline on raw features, and the frozen case's own kind of head, trained by scikit-learn or
torch on the same features of the same cut. Figures are of the test part.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import surgeon
import surgeon_models
from surgeon.tasks.base import Targets
from surgeon.tasks.find import find_task
from surgeon_models import datasets, encodings, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

RESULTS = Path(__file__).parent / "results" / "tasks_places.json"
SIZE = (96, 96)
EPOCHS = 2
"""Of the large case: what two busy cores take minutes for."""
Rows = list[dict[str, Any]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SETS)}")
    rows = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    for name in parser.parse_args().names or SETS:
        rows[name] = []
        for row in SETS[name]():
            rows[name].append(row)
            shown = " ".join(f"{k} {v:.3f}" for k, v in row.items() if isinstance(v, float))
            print(f"{name:10s} {row['what']:44s} {shown}", flush=True)
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def tuned(
    model: Path,
    train: Any,
    test: Any,
    folder: Path,
    keys: Iterable[str],
    *,
    frozen: str = "small-similar",
    **options: Any,
) -> Rows:
    """Tune by a frozen and by a large case; return figures of the test part, and the cut."""
    rows = []
    for case, own in ((frozen, {}), ("large-similar", {"epochs": EPOCHS})):
        begun, out = time.perf_counter(), folder / f"{case}.onnx"
        made = surgeon.finetune(model, train, out, case=case, device="cpu", **options, **own)
        seconds = time.perf_counter() - begun
        told = surgeon.evaluate(out, test, device="cpu")["metrics"]
        figures = {key: told[key] for key in keys}
        what = f"surgeon {case} ({made.delivered})"
        rows.append({"what": what, **figures, "seconds": seconds, "cut": made.model.plan.cut})
    return rows


def features(model: Path, cut: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Return what a network gives at a cut, by ONNX Runtime alone."""
    import onnx
    import onnxruntime

    proto = onnx.load(model)
    for value in proto.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_param = f"{value.name}.{axis}"
    del proto.graph.value_info[:], proto.graph.output[:]
    proto.graph.output.append(onnx.ValueInfoProto(name=cut))
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    parts = [
        session.run([cut], {name: values[at : at + 16] for name, values in feeds.items()})[0]
        for at in range(0, len(next(iter(feeds.values()))), 16)
    ]
    return np.concatenate(parts)


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────


def tokens(label: Callable[[list[str]], list[str]], key: str) -> Rows:
    """Tag words of Brown: training and test sentences are of different texts."""
    data = datasets.brown()
    words = [text.split(" ") for text in data.texts]
    tags = [label(one.split(" ")) for one in data.labels]
    texts = np.arange(len(words)) // 10  # ten sentences of a text lie together
    chosen = np.random.default_rng(0).permutation(texts.max() + 1)
    train, test = (np.flatnonzero(np.isin(texts, part)) for part in (chosen[:30], chosen[30:50]))
    model = surgeon_models.get("minilm-l3")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, which in (("train", train), ("test", test)):
            lines = [json.dumps({"tokens": words[i], "tags": tags[i]}) for i in which]
            (folder / f"{part}.jsonl").write_text("\n".join(lines), "utf-8")
        rows = tuned(
            model, folder / "train.jsonl", folder / "test.jsonl", folder, ("accuracy", "span_f1"),
            task="tokens", label_column="tags",
        )  # fmt: skip
    said = [
        commonest(train, test, words, tags),
        solved(model, rows[0]["cut"], train, test, words, tags),
    ]
    for what, answers in zip(
        ("commonest tag of the word", "scikit-learn, same features"), said, strict=True
    ):
        rows.append({"what": what, **judge_tags([tags[i] for i in test], answers)})
    return [{**row, "quality": row[key]} for row in rows]


def commonest(train: Any, test: Any, words: Any, tags: Any) -> list[list[str]]:
    """Tag each word as it was tagged most often; an unknown one as words are."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for i in train:
        for word, tag in zip(words[i], tags[i], strict=True):
            seen[word][tag] += 1
            seen[""][tag] += 1
    best = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
    return [[best.get(word, best[""]) for word in words[i]] for i in test]


def solved(model: Path, cut: str, train: Any, test: Any, words: Any, tags: Any) -> list[list[str]]:
    """Solve the softmax by scikit-learn on the features of each word's first token."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.preprocessing import StandardScaler
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(text.tokenizer_file()))
    kept = []
    for part in (train, test):
        encoded = [tokenizer.encode(words[i], is_pretokenized=True) for i in part]
        longest = max(len(one.ids) for one in encoded)
        feeds = {
            name: np.array([getattr(one, own) + [0] * (longest - len(one.ids)) for one in encoded])
            for name, own in (("input_ids", "ids"), ("attention_mask", "attention_mask"))
        }
        found = features(model, cut, feeds)
        kept.append([found[row, firsts(one.word_ids)] for row, one in enumerate(encoded)])
    scaler = StandardScaler().fit(np.concatenate(kept[0]))
    answers = np.concatenate([tags[i] for i in train])
    fitted = LogisticRegressionCV(Cs=[0.01, 0.1], cv=2, max_iter=300, scoring="neg_log_loss")
    fitted.fit(scaler.transform(np.concatenate(kept[0])), answers)
    return [fitted.predict(scaler.transform(rows)).tolist() for rows in kept[1]]


def firsts(words: list[int | None]) -> list[int]:
    """Return the first token of each word."""
    return [at for at, word in enumerate(words) if word is not None and word != words[at - 1]]


def judge_tags(wanted: list[list[str]], said: list[list[str]]) -> dict[str, Any]:
    """Judge tags as the task does."""
    task = find_task("tokens")
    right = task.read(wanted, "wanted")
    codes = task.onto(task.read(said, "said"), right.names, ignore_unknown=True).values
    eye = np.eye(len(right.names))[np.maximum(codes, 0)] * (codes >= 0)[..., None]
    figures = task.score([(eye, right)]).figures
    return {key: figures[key] for key in ("accuracy", "span_f1")}


def names(tags: list[str]) -> list[str]:
    """Return proper nouns that follow each other as the span of one name."""
    inside = [tag == "PROPN" for tag in tags]
    return [
        ("I-NAME" if at and inside[at - 1] else "B-NAME") if one else "O"
        for at, one in enumerate(inside)
    ]


# ── segmentation ─────────────────────────────────────────────────────────────────────────────────


def segmentation(data: Any, train: np.ndarray, test: np.ndarray) -> Rows:
    """Segment pictures; the head is of the early cut, whose maps are finer."""
    pictures = data.images if data.images.ndim == 4 else np.repeat(data.images[..., None], 3, 3)
    x = ((pictures.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2).copy()
    model, labels = surgeon_models.get("mobilenetv2"), data.labels.astype(np.int64)
    parts = [{"input": x[rows], "labels": labels[rows]} for rows in (train, test)]
    with tempfile.TemporaryDirectory() as name:
        rows = tuned(
            model, *parts, Path(name), ("miou", "pixel_accuracy"), frozen="small-different",
            task="segmentation", size=SIZE,
        )  # fmt: skip
    classes = len(data.classes)
    front = [features(model, rows[0]["cut"], {"input": x[part]}) for part in (train, test)]
    said = conv_in_torch(*front, labels[train], classes)
    rows.append(
        {"what": "torch, same features and head", **judge_masks(said, labels[test], classes)}
    )
    said = of_pixels(x[train], x[test], labels[train], classes)
    rows.append(
        {"what": "logistic regression on 5×5 pixels", **judge_masks(said, labels[test], classes)}
    )
    return [{**row, "quality": row["miou"]} for row in rows]


def conv_in_torch(
    train: np.ndarray, test: np.ndarray, labels: np.ndarray, classes: int
) -> np.ndarray:
    """Train a 1×1 convolution and a resize by cross-entropy; return probabilities."""
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    scale = train.std((0, 2, 3), keepdims=True) + 1e-6
    x, y = torch.tensor(train / scale), torch.tensor(labels)
    layer = torch.nn.Conv2d(x.shape[1], classes, 1)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=1e-2)
    side = labels.shape[1:]
    for epoch in range(40):
        for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(
            32
        ):
            scores = functional.interpolate(layer(x[rows]), side, mode="bilinear")
            optimizer.zero_grad()
            functional.cross_entropy(scores, y[rows], ignore_index=255).backward()
            optimizer.step()
    with torch.no_grad():
        scores = functional.interpolate(layer(torch.tensor(test / scale)), side, mode="bilinear")
        return scores.softmax(1).numpy()


def of_pixels(train: np.ndarray, test: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Solve a softmax on the 5×5 pixels around each; return probabilities."""
    from sklearn.linear_model import LogisticRegression

    def around(x: np.ndarray) -> np.ndarray:
        wide = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
        cells = np.lib.stride_tricks.sliding_window_view(wide, (5, 5), (2, 3))
        return cells.transpose(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1] * 25)

    told = np.flatnonzero(labels.ravel() < 255)
    some = np.random.default_rng(0).choice(told, min(20_000, len(told)), replace=False)
    fitted = LogisticRegression(max_iter=200).fit(around(train)[some], labels.ravel()[some])
    found = np.zeros((len(test) * test.shape[2] * test.shape[3], classes))
    found[:, fitted.classes_] = fitted.predict_proba(around(test))
    return found.reshape(len(test), *test.shape[2:], classes).transpose(0, 3, 1, 2)


def judge_masks(said: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, Any]:
    """Judge probabilities as the task does."""
    codes = np.where(labels == 255, -100, labels)
    targets = Targets(codes, tuple(map(str, range(classes))))
    figures = find_task("segmentation").score([(said, targets)]).figures
    return {key: figures[key] for key in ("miou", "pixel_accuracy")}


def mosaics() -> Rows:
    """Textures, whose lower halves no training picture shows."""
    return segmentation(datasets.masks("texture-mosaics"), np.arange(80), np.arange(160, 220))


def overlays() -> Rows:
    """Emoji on photographs; no emoji is in both parts."""
    order = np.random.default_rng(0).permutation(480)
    return segmentation(datasets.masks("emoji-overlays"), order[:160], order[160:240])


# ── embedding ────────────────────────────────────────────────────────────────────────────────────


def vendors() -> Rows:
    """Find another vendor's drawing of an emoji, of emoji that training never saw."""
    images, labels, _ = datasets.emoji_vendors()
    chosen = np.random.default_rng(0).permutation(600)
    wide = encodings.resize_pictures(images, (96, 96))
    x = ((np.asarray(wide, np.float32) - 127) / 128).transpose(0, 3, 1, 2).copy()
    train, test = (
        np.flatnonzero(np.isin(labels, part)) for part in (chosen[:150], chosen[300:400])
    )
    model, keys = surgeon_models.get("mobilenetv2"), ("recall_at_1", "map_at_10")
    groups = [str(label) for label in labels[train]]
    held = set(chosen[:30].tolist())  # validation, too, is of emoji that training never sees
    split = ["validation" if int(label) in held else "train" for label in labels[train]]
    parts = [
        {"input": x[train], "labels": np.array(groups), "split": np.array(split)},
        {"input": x[test], "labels": labels[test]},
    ]
    with tempfile.TemporaryDirectory() as name:
        rows = tuned(model, *parts, Path(name), keys, task="embedding", size=SIZE)
        for loss in ("supcon", "arcface"):
            out = Path(name) / f"{loss}.onnx"
            surgeon.finetune(
                model, parts[0], out, case="small-similar", device="cpu", task="embedding",
                loss=loss, batch=256, size=SIZE,
            )  # fmt: skip
            told = surgeon.evaluate(out, parts[1], device="cpu")["metrics"]
            rows.append(
                {
                    "what": f"surgeon small-similar --loss {loss} --batch 256",
                    **{key: told[key] for key in keys},
                }
            )
    front = [features(model, rows[0]["cut"], {"input": x[part]}) for part in (train, test)]
    front = [one.reshape(len(one), -1) for one in front]
    said = {
        "pixels as they are": x[test].reshape(len(test), -1),
        "features as they are, no head": front[1],
        "scikit-learn's LDA, same features": discriminant(*front, labels[train]),
    }
    for what, vectors in said.items():
        figures = find_task("embedding").score([(vectors, Targets(labels[test]))]).figures
        rows.append({"what": what, **{key: figures[key] for key in keys}})
    return [{**row, "quality": row["recall_at_1"]} for row in rows]


def discriminant(train: np.ndarray, test: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Project onto 64 discriminant directions of the training classes."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    fitted = LinearDiscriminantAnalysis("eigen", shrinkage="auto", n_components=64)
    return fitted.fit(train, labels).transform(test)


SETS: dict[str, Callable[[], Rows]] = {
    "pos": lambda: tokens(list, "accuracy"),
    "names": lambda: tokens(names, "span_f1"),
    "mosaics": mosaics,
    "overlays": overlays,
    "vendors": vendors,
}

if __name__ == "__main__":
    main()
