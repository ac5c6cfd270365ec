"""How the frozen part is best run: ONNX Runtime's options, samples a run, runs a block.

    python benchmarks/session.py            # about two minutes on an idle machine

CPU milliseconds a picture of 3x224x224 on one thread, medians of alternating rounds, so that other
work on the machine meets all choices alike. What is fixed in `surgeon/runtime` follows from it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

if TYPE_CHECKING:
    from collections.abc import Callable

MODELS = ("mobilenetv2", "efficientnet-lite0")
BATCHES, BLOCKS, PICTURES = (1, 2, 4, 8, 32), (1, 4, 8, 16), 128
RESULTS = Path(__file__).parent / "results" / "session.json"


def main() -> None:
    """Measure both models, print the tables, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    from surgeon_models import get

    document = {"date": datetime.now(UTC).date().isoformat(), "rounds": arguments.rounds}
    document["load"] = os.getloadavg()[0]
    for model in MODELS:
        path = get(model)
        found = {
            "options": alternate(of_options(path), arguments.rounds),
            "samples a run": alternate(of_batches(path), arguments.rounds),
        }
        with tempfile.TemporaryDirectory() as scratch:
            blocks = of_blocks(path, Path(scratch) / "pictures")
            found["runs a block"] = alternate(blocks, arguments.rounds)
        document[model] = found
        for what, row in found.items():
            told = "  ".join(f"{name} {each:.2f}" for name, each in row.items())
            print(f"{model}, {what}: {told}", flush=True)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


def alternate(choices: dict[str, tuple[Callable, int]], rounds: int) -> dict[str, float]:
    """Return CPU milliseconds a picture of every choice; each is called once to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in choices}
    for number in range(rounds + 1):
        for name, (work, pictures) in choices.items():
            begun = time.process_time()
            work()
            if number:
                taken[name].append(1e3 * (time.process_time() - begun) / pictures)
    return {name: statistics.median(times) for name, times in taken.items()}


def open_session(path: Path, change: Callable | None = None):
    """Open a session on one thread with one option changed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if change is not None:
        change(options)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def of_options(path: Path) -> dict[str, tuple[Callable, int]]:
    """Runs of two samples under every option."""
    extended = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    changes = {
        "as they are": None,
        "no arena": lambda options: setattr(options, "enable_cpu_mem_arena", False),
        "no memory pattern": lambda options: setattr(options, "enable_mem_pattern", False),
        "no buffer reuse": lambda options: setattr(options, "enable_mem_reuse", False),
        "denormals are zero": lambda options: options.add_session_config_entry(
            "session.set_denormal_as_zero", "1"
        ),
        "no layout optimisation": lambda options: setattr(
            options, "graph_optimization_level", extended
        ),
    }
    return {name: (runs(open_session(path, change), 2, 5), 10) for name, change in changes.items()}


def of_batches(path: Path) -> dict[str, tuple[Callable, int]]:
    """Runs of so many samples."""
    session = open_session(path)
    return {
        str(batch): (runs(session, batch, max(1, 8 // batch)), max(8, batch)) for batch in BATCHES
    }


def runs(session, batch: int, count: int) -> Callable[[], None]:
    """Return work that runs a session `count` times over random samples."""
    (info,) = session.get_inputs()
    values = np.random.default_rng(0).normal(size=(count, batch, 3, 224, 224)).astype(np.float32)

    def work() -> None:
        for each in values:
            session.run(None, {info.name: each})

    return work


def of_blocks(path: Path, folder: Path) -> dict[str, tuple[Callable, int]]:
    """Reading and running by surgeon's own runner, on one lane, with blocks of so many runs."""
    import onnx

    import surgeon
    from surgeon.data.read import open_data
    from surgeon.graph.preprocess import parse_preprocess
    from surgeon.runtime import stream
    from surgeon_models import datasets

    emoji = datasets.emoji()
    chosen = np.random.default_rng(0).permutation(len(emoji.images))[:PICTURES]
    datasets.write_folder(emoji.images[chosen], emoji.labels[chosen], folder, classes=emoji.classes)
    inputs = surgeon.load(path).inputs
    samples = open_data(
        str(folder), inputs, preprocess=parse_preprocess("imagenet", inputs[0], (224, 224))
    )
    runner = stream.Runner(onnx.load(path), samples, device="cpu", threads=1, batch=2)
    indices = np.arange(samples.n)

    def work(block: int) -> Callable[[], None]:
        def go() -> None:
            stream._BLOCK_RUNS, stream._BLOCK_SHARE = block, 1  # noqa: SLF001 - what is measured
            for _ in runner.stream(indices):
                pass

        return go

    return {str(block): (work(block), samples.n) for block in BLOCKS}


if __name__ == "__main__":
    main()
