"""Quantisation-aware training against quantisation afterwards, both run by ONNX Runtime in int8.

    python benchmarks/qat.py                                        # two small networks, digits
    python benchmarks/qat.py --models mobilenetv2-ext --data emoji  # real ones, at 96 x 96

A network is trained in floats (the small ones from random weights), then made int8 from the same
file, with ranges of 128 training samples: by `onnxruntime.quantization.quantize_static`, and by
going on for some epochs with `--adapter qat`, scales fixed or learned. Beside them the float file
that goes on for as many epochs, and the same quantised afterwards: what `qat` gains over that one
it gains by rounding while it trains, not by training for longer. Weights of seven bits. Judged on
unseen pictures; differences are paired over all draws, ± one standard error. Written draw by draw.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from PIL import Image

import surgeon

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path(__file__).parent / "results" / "qat.json"
MODELS = ("plain", "separable")
DATA = ("digits",)
SMALL = 8
CALIBRATED = 128
WAYS = ("float", "after", "more", "more_after", "qat", "learned")
INT8 = ("more_after", "qat", "learned")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--unseen", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--side", type=int, default=96, help="of pictures for real models")
    parser.add_argument("--settings", default="", help="of the adapter: ranges=mse,bits=8")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--data", nargs="+", default=DATA)
    arguments = parser.parse_args()
    for model in arguments.models:
        for name in arguments.data:
            for row in compare(model, name, arguments):
                print(json.dumps(row), flush=True)
                write(row)


def write(row: dict) -> None:
    """Put a row in the place of the one before of the same model, data and settings."""
    key = "{model}, {data}, {settings}"
    rows = json.loads(RESULTS.read_text("utf-8"))["rows"] if RESULTS.exists() else []
    rows = [other for other in rows if key.format(**other) != key.format(**row)]
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {key: version(key) for key in ("onnx-surgeon", "onnxruntime-gpu", "torch")},
        "rows": sorted([*rows, row], key=key.format_map),
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def compare(model: str, name: str, arguments: argparse.Namespace) -> Iterator[dict]:
    """Tune, quantise in every way, judge all files on the same unseen pictures, draw by draw."""
    right: dict[str, list] = {}
    kernels, begun = {}, time.process_time()
    for draw in range(arguments.draws):
        for way, (found, ran) in one_draw(model, name, draw, arguments).items():
            right.setdefault(way, []).append(found)
            kernels[way] = ran
        told = {way: np.concatenate(found) for way, found in right.items()}
        yield {
            "model": model,
            "data": name,
            "settings": arguments.settings,
            "train": arguments.train,
            "unseen": arguments.unseen,
            "draws": draw + 1,
            "epochs": arguments.epochs,
            "side": SMALL if model in MODELS else arguments.side,
            "per_cent_right": {way: round(100 * float(one.mean()), 2) for way, one in told.items()},
            "to_float": {way: paired(told[way], told["float"]) for way in told if way != "float"},
            "qat_to_after": paired(told["qat"], told["after"]),
            "to_more": {way: paired(told[way], told["more"]) for way in INT8},
            "qat_to_more_after": paired(told["qat"], told["more_after"]),
            "learned_to_fixed": paired(told["learned"], told["qat"]),
            "kernels_of_8_bits": kernels,
            "cpu_seconds": round(time.process_time() - begun),
        }


def one_draw(model: str, name: str, draw: int, arguments: argparse.Namespace) -> dict:
    """Return {way: (which unseen pictures are right, operators that run in 8 bits)}."""
    small = model in MODELS
    side = SMALL if small else arguments.side
    proto = network(model) if small else real(model, side)
    known, unseen = pictures(name, draw, side, arguments.train, arguments.unseen)
    (given,) = (value.name for value in proto.graph.input)
    data = {given: known[0], "labels": known[1]}
    options = {"device": "cpu", "epochs": arguments.epochs, "seed": draw, "batch": 32}
    begins = {"case": "large-different", "init": "random", "epochs": 4 * arguments.epochs}
    first = {**options, **(begins if small else {"case": "large-similar"})}
    more = f",{arguments.settings}" if arguments.settings else ""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        files = {way: Path(scratch) / f"{way}.onnx" for way in WAYS}
        start = files["float"]

        def on(way: str, **adapter: str) -> None:
            surgeon.finetune(start, data, files[way], **options, **adapter)

        makes = {
            "float": lambda: surgeon.finetune(proto, data, start, **first),
            "after": lambda: afterwards(start, files["after"], given, known[0]),
            "more": lambda: on("more"),
            "more_after": lambda: afterwards(files["more"], files["more_after"], given, known[0]),
            "qat": lambda: on("qat", adapter=f"qat:scales=fixed{more}"),
            "learned": lambda: on("learned", adapter=f"qat:scales=learned{more}"),
        }
        for way, make in makes.items():
            make()
            found[way] = judged(files[way], given, unseen), eight_bits(files[way], scratch)
    return found


def network(name: str) -> onnx.ModelProto:
    """Return a small network of convolutions, plain ones or separable ones."""
    import io

    import torch
    from torch import nn

    def layer(into: int, out: int, stride: int) -> list[nn.Module]:
        if name == "plain":
            return [nn.Conv2d(into, out, 3, stride, 1), nn.ReLU()]
        deep = nn.Conv2d(into, into, 3, stride, 1, groups=into)
        return [deep, nn.ReLU6(), nn.Conv2d(into, out, 1), nn.ReLU6()]

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), *layer(16, 32, 2), *layer(32, 32, 1)]
    net = nn.Sequential(*layers, *layer(32, 48, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(nn.Linear(48, 10))
    file, shown = io.BytesIO(), torch.zeros(1, 3, SMALL, SMALL)
    torch.onnx.export(
        net.eval(), (shown,), file, dynamo=False, opset_version=17, input_names=["x"],
        output_names=["y"], dynamic_axes={"x": {0: "n"}},
    )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def real(name: str, side: int) -> onnx.ModelProto:
    """Return a model of the zoo."""
    from surgeon_models import get

    return smaller(surgeon.load(get(name)).proto, side)


def smaller(proto: onnx.ModelProto, side: int) -> onnx.ModelProto:
    """Declare smaller pictures: both networks average whatever maps they end in."""
    for axis in (2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = side
    del proto.graph.value_info[:]
    return proto


def pictures(name: str, draw: int, side: int, *counts: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return as many pictures and labels as asked for, draw by draw, as the networks take them."""
    from surgeon_models import datasets

    data = datasets.load(name)
    order, parts = np.random.default_rng(draw).permutation(len(data.labels)), []
    for count in counts:
        chosen, order = order[:count], order[count:]
        sized = [
            Image.fromarray(one).convert("RGB").resize((side, side)) for one in data.images[chosen]
        ]
        values = (
            np.stack([np.asarray(one, np.float32) for one in sized]).transpose(0, 3, 1, 2) / 255
        )
        mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
        values = (values - mean[:, None, None]) / std[:, None, None]
        parts.append((values.astype(np.float32), np.asarray(data.labels)[chosen]))
    return parts


def afterwards(path: Path, out: Path, given: str, values: np.ndarray) -> None:
    """Quantise a tuned file as ONNX Runtime does, with weights of seven bits as `qat` has.

    The head stays in floats, as with `qat`.
    """
    from onnxruntime import quantization

    rows = np.unique(np.linspace(0, len(values) - 1, CALIBRATED).astype(int))

    class Reader(quantization.CalibrationDataReader):
        left = iter([{given: values[row : row + 1]} for row in rows])

        def get_next(self) -> dict | None:
            return next(self.left, None)

    head = [
        node.name for node in onnx.load(path).graph.node
        if any(name.startswith("surgeon.head.") for name in node.input)
    ]  # fmt: skip
    quantization.quantize_static(
        path, out, Reader(), per_channel=True, reduce_range=True, nodes_to_exclude=head,
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip


def judged(path: Path, given: str, unseen: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return for every unseen picture whether a file is right."""
    session = onnxruntime.InferenceSession(path)
    labels = [int(one) for one in surgeon.load(path).labels]
    said = [labels[int(session.run(None, {given: one[None]})[0].argmax())] for one in unseen[0]]
    return np.asarray(said) == unseen[1]


def eight_bits(path: Path, scratch: str) -> int:
    """Return how many operators ONNX Runtime runs in 8 bits."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(Path(scratch) / "optimised.onnx")
    onnxruntime.InferenceSession(path, options)
    run = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    return sum(count for kind, count in run.items() if kind.startswith(("QLinear", "QGemm")))


def paired(one: np.ndarray, other: np.ndarray) -> list[float]:
    """Return the gain in points and its standard error."""
    gain = one.astype(float) - other
    return [
        round(100 * float(gain.mean()), 1),
        round(100 * float(gain.std(ddof=1)) / len(gain) ** 0.5, 1),
    ]


if __name__ == "__main__":
    main()
