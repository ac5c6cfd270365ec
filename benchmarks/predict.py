"""A million rows through `predict --out`: resident memory along the way, and the rate.

    python benchmarks/predict.py             # some minutes; writes benchmarks/results/predict.json

rows        A table of eight numbers (CSV), three classes: answers as CSV, and as Parquet.
vectors     The same table, 64 numbers a row in front of the head (`--cut`), as Parquet.
words       Lines of text, a label for each word, as JSON-lines.
paths       Lines of standard input that name a few small pictures again and again, as JSON-lines.

Each is a process of its own. Memory is the peak of the resident set (VmHWM), in MiB, read as the
rows go by; `growth` is what is added after the first tenth. Wanted: what an allocator keeps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RESULTS = Path(__file__).parent / "results"
WIDTH, HIDDEN = 8, 64
KINDS = {
    "rows to CSV": 1,
    "rows to Parquet": 1,
    "vectors to Parquet": 1,
    "words to JSON-lines": 0.1,
    "paths to JSON-lines": 0.1,
}
"""What is measured, and the share of the rows that it is measured with."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "predict.json")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        kind, count, folder = arguments.measure
        print(json.dumps(measure(kind, int(count), Path(folder))))
        return
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, arguments.rows)
        for kind in arguments.kinds:
            count = int(arguments.rows * KINDS[kind])
            asked = [sys.executable, __file__, "--measure", kind, str(count), name]
            done = subprocess.run(asked, stdout=subprocess.PIPE, check=True)
            found[kind] = told = json.loads(done.stdout)
            print(
                f"{kind}: {count:,} in {told['seconds']:.0f} s ({told['cpu_seconds']:.0f} s CPU), "
                f"{count / told['seconds']:,.0f} a second; peak {told['first']:.0f} MiB after a "
                f"tenth, {told['last']:.0f} at the end: {told['growth']:+.1f}",
                flush=True,
            )
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": {one: version(one) for one in ("onnxruntime-gpu", "numpy", "pyarrow")},
        "measured": found,
    }
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")


def prepare(folder: Path, rows: int) -> None:
    """Write two networks, the table and the pictures."""
    from PIL import Image

    random = np.random.default_rng(0)
    onnx.save(dense(random), folder / "rows.onnx")
    onnx.save(pooled(random), folder / "pictures.onnx")
    onnx.save(tagger(random), folder / "words.onnx")
    with (folder / "lines.txt").open("w") as file:
        for _ in range(rows // 10):
            file.write(" ".join(random.choice(["the", "cat", "sat"], 12)) + "\n")
    with (folder / "table.csv").open("w") as file:
        file.write(",".join(f"f{one}" for one in range(WIDTH)) + "\n")
        for start in range(0, rows, 10_000):
            part = random.normal(size=(min(10_000, rows - start), WIDTH))
            file.writelines(",".join(f"{cell:.4f}" for cell in row) + "\n" for row in part)
    for number in range(100):
        pixels = random.integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")


def dense(random: np.random.Generator) -> onnx.ModelProto:
    """Return a network of numbers with one hidden layer."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w2", "b2"], ["logits"]),
    ]
    weights = {
        "w1": random.normal(size=(WIDTH, HIDDEN)), "b1": np.zeros(HIDDEN),
        "w2": random.normal(size=(HIDDEN, 3)), "b2": np.zeros(3),
    }  # fmt: skip
    return made(nodes, ["N", WIDTH], weights)


def pooled(random: np.random.Generator) -> onnx.ModelProto:
    """Return a small network of pictures."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w2", "b2"], ["logits"]),
    ]
    weights = {
        "w1": random.normal(size=(8, 3, 3, 3)), "w2": random.normal(size=(8, 3)), "b2": np.zeros(3)
    }  # fmt: skip
    return made(nodes, ["N", 3, 16, 16], weights)


def tagger(random: np.random.Generator) -> onnx.ModelProto:
    """Return a network that gives each word one of three labels."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[UNK]": 0, "the": 1, "cat": 2, "sat": 3, "[PAD]": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    table = numpy_helper.from_array(random.normal(size=(5, 3)).astype(np.float32), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["logits"])],
        "tagger",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "length"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "length", 3])],
        [table],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    told = {
        "surgeon.plan": {"case": "small-similar", "task": "tokens", "outputs": 3},
        "surgeon.labels": ["B-X", "I-X", "O"],
        "surgeon.preprocess": {"kind": "text", "tokenizer": json.loads(tokenizer.to_str())},
    }
    helper.set_model_props(model, {name: json.dumps(value) for name, value in told.items()})
    return model


def made(nodes: list, shape: list, weights: dict) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"surgeon.labels": '["cat", "dog", "eel"]'})
    return model


def measure(kind: str, count: int, folder: Path) -> dict:
    """Predict, and read the peak of memory on the way."""
    import surgeon

    curve: list[tuple[int, float]] = []

    def told(_stage: str, done: float, _total: float | None = None, **_: object) -> None:
        if not curve or done >= curve[-1][0] + count // 50 or done >= count:
            curve.append((int(done), peak()))

    settings = {"out": folder / "answers.parquet", "force": True, "progress": told}
    started, used = time.perf_counter(), time.process_time()
    if kind == "paths to JSON-lines":
        names = folder / "paths.txt"
        with names.open("w") as file:
            file.writelines(f"{folder / f'{number % 100:02}.png'}\n" for number in range(count))
        os.dup2(os.open(names, os.O_RDONLY), 0)
        settings |= {"out": folder / "answers.jsonl", "preprocess": "zero-one"}
        surgeon.predict(folder / "pictures.onnx", ["-"], **settings)
    elif kind == "words to JSON-lines":
        settings |= {"out": folder / "answers.jsonl", "lines": True}
        surgeon.predict(folder / "words.onnx", folder / "lines.txt", **settings)
    else:
        settings |= {"out": folder / "answers.csv"} if kind == "rows to CSV" else {}
        settings |= {"cut": "active"} if kind == "vectors to Parquet" else {}
        surgeon.predict(folder / "rows.onnx", [folder / "table.csv"], **settings)
    first = next(mib for done, mib in curve if done >= count // 10)
    return {
        "rows": count,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - used,
        "rate": count / (time.perf_counter() - started),
        "first": first,
        "last": curve[-1][1],
        "growth": curve[-1][1] - first,
        "curve": curve,
    }


def peak() -> float:
    """Return the peak of the resident set, in MiB."""
    status = Path("/proc/self/status").read_text()
    return (
        int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
        / 1024
    )


if __name__ == "__main__":
    main()
