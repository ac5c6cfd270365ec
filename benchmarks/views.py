"""What augmented views do for a head solved on few pictures.

    python benchmarks/views.py            # a few minutes on two idle cores

EfficientNet-Lite0 at 96x96, case small-similar, ten training pictures a class: the head solved on
the pictures as they are, and with `--views` as they are and four times augmented. Test pictures, 60
a class, are untouched, and the same for all; differences are paired, ± one standard error over test
pictures. Two draws of training pictures each.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

MODEL, SIZE, TEST = "efficientnet-lite0", (96, 96), 60
RESULTS = Path(__file__).parent / "results" / "views.json"


def main() -> None:
    """Run every data set, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=10, help="training pictures a class")
    parser.add_argument("--views", type=int, default=5)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    from surgeon_models import datasets

    opened = {
        "digits": datasets.digits,
        "emoji, 9 groups": datasets.emoji,
        "Fashion-MNIST": lambda: datasets.fashion_mnist("train"),
    }
    rows = {name: compare(open_data(), arguments) for name, open_data in opened.items()}
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "load": os.getloadavg()[0],
        **{key: getattr(arguments, key) for key in ("each", "views", "draws")},
        "rows": rows,
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    for name, row in rows.items():
        told = [f"{strength} {of[0]:+.1f} ± {of[1]:.1f}" for strength, of in row["views"].items()]
        print(f"{name:<16} plain {row['plain']:.1f} %  " + "  ".join(told))


def compare(data, arguments: argparse.Namespace) -> dict:
    """Return the accuracy without views and the differences that views make, in points."""
    from surgeon_models import get

    model = get(MODEL)
    right: dict[str, list] = {"none": [], "light": [], "strong": []}
    for draw in range(arguments.draws):
        train, test = draw_pictures(np.asarray(data.labels), arguments.each, draw)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write(data, train, folder / "train")
            write(data, test, folder / "test")
            for strength, found in right.items():
                found.append(tune(model, folder, strength, arguments.views))
                print(f"  {strength:<7} {found[-1].mean():.3f}", flush=True)
    plain = np.concatenate(right.pop("none")).astype(float)
    differences = {name: np.concatenate(found) - plain for name, found in right.items()}
    return {
        "plain": 100 * plain.mean(),
        "views": {
            name: (100 * each.mean(), 100 * each.std() / len(each) ** 0.5)
            for name, each in differences.items()
        },
    }


def tune(model: Path, folder: Path, strength: str, views: int) -> np.ndarray:
    """Tune on the training pictures; which test pictures does the file get right?"""
    import surgeon

    out = folder / "tuned.onnx"
    varied = {} if strength == "none" else {"views": views, "augment": strength}
    surgeon.finetune(
        model, str(folder / "train"), out=out, force=True, case="small-similar", size=SIZE,
        validation=0.1, **varied,
    )  # fmt: skip
    found = surgeon.predict(out, str(folder / "test"))
    truth = [Path(name).parent.name for name in found.names]
    return np.array([a == b for a, b in zip(found.labels, truth, strict=True)])


def draw_pictures(labels: np.ndarray, each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw training and test pictures, as many of every class."""
    order = np.random.default_rng(seed).permutation(len(labels))
    train, test = [], []
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        train += rows[:each].tolist()
        test += rows[each : each + TEST].tolist()
    return np.array(train), np.array(test)


def write(data, rows: np.ndarray, folder: Path) -> None:
    """Write some pictures as PNG files, one folder per class."""
    from surgeon_models import datasets

    datasets.write_folder(data.images[rows], data.labels[rows], folder, classes=data.classes)


if __name__ == "__main__":
    main()
