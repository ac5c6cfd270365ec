"""Does an early-cut student gain by a teacher: the whole network, tuned on the same few labels?

    python benchmarks/distill.py                          # MobileNetV2, digits and emoji
    python benchmarks/distill.py --data emoji --draws 3

Few pictures have a label (`--labelled`), many have none, 600 are unseen by all. The teacher is
`small-similar` on the labelled ones; students are cut at `--cut` and train what lies behind
`--train-from` (default: the head alone). Arms: the student alone; taught on the labelled pictures;
given the teacher's answers to the unlabelled ones as their labels; taught on all of them
(`distill:weight=1`, so that those labels play no part); and, where more than the head trains,
taught by the original network's features. Differences are paired over the unseen pictures, ± one
standard error. Rows are written one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "distill.json"
SIZES = {"digits": (64, 64), "emoji": (96, 96)}
UNSEEN = 600
ARMS = ("taught", "answers", "more", "features")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labelled", type=int, default=200)
    parser.add_argument("--unlabelled", type=int, default=900)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--model", default="mobilenetv2")
    parser.add_argument("--cut", default="@0.33")
    parser.add_argument("--train-from", help="default: the head alone trains")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--weight", type=float, default=0.5)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--validation", type=float, default=0.1)
    parser.add_argument("--teacher", default="small-similar", help="the case that makes it")
    parser.add_argument("--first", type=int, default=0, help="number of the first draw")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--data", nargs="+", default=list(SIZES), choices=list(SIZES))
    arguments = parser.parse_args()
    for name in arguments.data:
        row = compare(name, arguments)
        print(json.dumps(row), flush=True)
        write(row)


def write(row: dict) -> None:
    """Put a row in the place of the one before of the same settings."""
    key = "{model}, {data}, {labelled}, {cut}, {train_from}"
    rows = json.loads(RESULTS.read_text("utf-8"))["rows"] if RESULTS.exists() else []
    rows = [other for other in rows if key.format(**other) != key.format(**row)]
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {key: version(key) for key in ("onnx-surgeon", "surgeon-distill", "torch")},
        "unseen": UNSEEN,
        "rows": sorted([*rows, row], key=key.format_map),
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def compare(name: str, arguments: argparse.Namespace) -> dict:
    """Train every arm on the same draws and judge it on the same unseen pictures."""
    right: dict[str, list[np.ndarray]] = {}
    delivered: dict[str, list[str]] = {}
    started = time.process_time()
    for draw in range(arguments.first, arguments.first + arguments.draws):
        with tempfile.TemporaryDirectory() as scratch:
            for arm, (correct, kind) in arms(name, draw, Path(scratch), arguments):
                right.setdefault(arm, []).append(correct)
                delivered.setdefault(arm, []).append(kind)
    judged = {arm: np.concatenate(values) for arm, values in right.items()}
    return {
        "data": name,
        **{key: value for key, value in vars(arguments).items() if key != "data"},
        "load": round(os.getloadavg()[0], 2),
        "cpu_seconds": round(time.process_time() - started),
        "accuracy": {arm: float(values.mean()) for arm, values in judged.items()},
        "gain": {
            arm: [float(d.mean()), float(d.std(ddof=1) / np.sqrt(len(d)))]
            for arm, values in judged.items()
            if arm not in ("alone", "teacher") and len(d := values - judged["alone"])
        },
        "delivered": delivered,
    }


def arms(name: str, draw: int, scratch: Path, arguments: argparse.Namespace):
    """Give each arm's name, which unseen pictures it had right, and what was delivered."""
    import surgeon
    from surgeon_models import datasets, get

    data, size = datasets.load(name), SIZES[name]
    order = np.random.default_rng(draw).permutation(len(data.labels))
    ends = np.cumsum([UNSEEN, arguments.labelled, arguments.unlabelled])
    for part, chosen in zip(("unseen", "few", "pool"), np.split(order, ends)[:3], strict=True):
        datasets.write_folder(
            data.images[chosen], data.labels[chosen], scratch / part, classes=data.classes
        )
    files = sorted((scratch / "unseen").rglob("*.png"))
    told = [file.parent.name for file in files]
    common = {"size": size, "validation": arguments.validation, "device": "cpu", "seed": draw}

    def judge(outcome) -> tuple[np.ndarray, str]:
        said = surgeon.predict(outcome.model, [str(file) for file in files]).labels
        correct = np.asarray([a == b for a, b in zip(said, told, strict=True)], float)
        return correct, outcome.body["delivered"]

    def student(folder: str, loss: str | None = None):
        case = "large-different" if arguments.train_from else "small-different"
        return judge(
            surgeon.finetune(
                get(arguments.model), scratch / folder, case=case, cut=arguments.cut, loss=loss,
                train_from=arguments.train_from, epochs=arguments.epochs, lr=arguments.lr, **common,
            )
        )  # fmt: skip

    teacher = scratch / "teacher.onnx"
    taught = f"distill:teacher={teacher},temperature={arguments.temperature}"
    blended = f"{taught},weight={arguments.weight}"
    yield (
        "teacher",
        judge(
            surgeon.finetune(
                get(arguments.model), scratch / "few", teacher, case=arguments.teacher, **common
            )
        ),
    )
    yield "alone", student("few")
    if "taught" in arguments.arms:
        yield "taught", student("few", blended)
    if {"answers", "more"} & {*arguments.arms}:
        pool = sorted((scratch / "pool").rglob("*.png"))
        shutil.copytree(scratch / "few", scratch / "all")
        answers = surgeon.predict(teacher, [str(file) for file in pool]).labels
        for number, (file, label) in enumerate(zip(pool, answers, strict=True)):
            (scratch / "all" / label).mkdir(exist_ok=True)
            shutil.copy(file, scratch / "all" / label / f"pool-{number}.png")
    if "answers" in arguments.arms:
        yield "its answers to more", student("all")
    if "more" in arguments.arms:
        yield "taught on more", student("all", f"{taught},weight=1")
    if "features" in arguments.arms and arguments.train_from:
        hint = "distill:teacher=original,features=late"
        yield "taught by the original's features", student("few", hint)


if __name__ == "__main__":
    main()
