"""What `surgeon plugins check` tries detection on: a very small detector, pictures with boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import helper, numpy_helper, parser
from PIL import Image

from surgeon.records import Example

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

SIDE, CELL, CLASSES, COUNT = 64, 16, 5, 24
COLOURS = ((220, 30, 30), (30, 200, 30), (40, 40, 230))
NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
detector (float[N, 3, 64, 64] images) => (float[N, 9, 16] output0) {
    patches = Conv<strides = [16, 16]>(images, stem)
    seen = Relu(patches)
    where = Conv(seen, box_weight, box_bias)
    what = Conv(seen, class_weight, class_bias)
    both = Concat<axis = 1>(where, what)
    flat = Reshape(both, form)
    place, size, kinds = Split<axis = 1>(flat, parts)
    moved = Add(place, centres)
    middle = Mul(moved, cell)
    grown = Exp(size)
    sides = Mul(grown, cell)
    probable = Sigmoid(kinds)
    output0 = Concat<axis = 1>(middle, sides, probable)
}
"""


def boxes(folder: Path) -> Example:
    """Return a detector of one level, and pictures of squares in YOLO's folders."""
    random = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for number in range(COUNT):
        kind, size = number % 3, int(random.integers(12, 32))
        left, top = random.integers(0, SIDE - size, 2)
        pixels = random.integers(90, 160, (SIDE, SIDE, 3)).astype(np.uint8)
        pixels[top : top + size, left : left + size] = COLOURS[kind]
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        box = np.array([left + size / 2, top + size / 2, size, size]) / SIDE
        text = " ".join(f"{one:.6f}" for one in box)
        (folder / "labels" / f"{number}.txt").write_text(f"{kind} {text}\n", "utf-8")
    (folder / "data.yaml").write_text(
        "path: .\ntrain: images\nval: images\nnames: [red, green, blue]\n", "utf-8"
    )
    return Example(_detector(random), str(folder), task="detection")


def _detector(random: np.random.Generator) -> ModelProto:
    model = parser.parse_model(NETWORK)
    cells = np.arange(SIDE // CELL) + 0.5
    weights = {
        "stem": random.normal(0, 0.05, (8, 3, CELL, CELL)),
        "box_weight": random.normal(0, 0.1, (4, 8, 1, 1)), "box_bias": np.zeros(4),
        "class_weight": random.normal(0, 0.1, (CLASSES, 8, 1, 1)),
        "class_bias": np.full(CLASSES, -4.0), "cell": np.array(CELL),
        "centres": np.stack(np.meshgrid(cells, cells)).reshape(1, 2, -1),
    }  # fmt: skip
    model.graph.initializer.extend(
        numpy_helper.from_array(one.astype(np.float32), name) for name, one in weights.items()
    )
    for name, sizes in {"form": [0, 4 + CLASSES, -1], "parts": [2, 2, CLASSES]}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(sizes), name))
    said = {"author": "Ultralytics", "task": "detect", "names": str(dict(enumerate("abcde")))}
    helper.set_model_props(model, said)
    return model
