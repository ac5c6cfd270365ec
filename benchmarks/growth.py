"""How cost grows: 200, 1,000 and 4,000 nodes, and 250, 1,000 and 4,000 samples.

    python benchmarks/growth.py            # about five minutes; writes growth.json and growth.svg

nodes    Two generated graphs: residual blocks (MatMul, Add, Relu, Add), and blocks as exporters
         write attention (Shape, Gather, Concat, Reshape, Transpose). Weights are small, so that
         what is measured is the work per node. `inspect`, `cuts`, `operate` of everything with
         saving, `check` and conversion to torch; one step of training of the residual blocks.
samples  A folder of PNG files, 64x64, and a small convolutional network: `finetune` of the head
         from an empty cache, and `predict`.

Every measurement is a process of its own, the best of --repeat. Time is CPU-seconds without
imports; memory is anonymous (`RssAnon`), the most during the work less what it was before. Each is
divided by the number of units; `level` is that at 16 times the units over that at 4 times. Wanted:
level, so about 1: what is the same for any size brings it below, a quadratic part towards 4.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
NODES, SAMPLES = (200, 1000, 4000), (250, 1000, 4000)
OF_NODES = ("inspect", "cuts", "operate", "check", "to_torch")
OF_SAMPLES = ("finetune", "predict")
WIDTH = 16


def main() -> None:
    """Measure, print the table, write the figures and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "growth.json")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        kind, units, folder = arguments.measure
        print(json.dumps(MEASUREMENTS[kind](int(units), Path(folder))))
        return
    kinds = {f"blocks {step}": NODES for step in (*OF_NODES, "step")}
    kinds |= {f"attention {step}": NODES for step in OF_NODES}
    kinds |= dict.fromkeys(OF_SAMPLES, SAMPLES)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: version(name) for name in ("onnx-surgeon", "torch", "onnxruntime-gpu")},
        "rows": {},
    }
    print(f"{'':<20} {'units':>6} {'ms each':>8} {'kB each':>8}   level in time, in memory")
    for kind, sizes in kinds.items():
        runs = [measure(kind, units, arguments.repeat) for units in sizes]
        row = {"units": sizes, **{key: [run[key] for run in runs] for key in runs[0]}}
        row["level"] = {key: level(sizes, row[key]) for key in ("seconds", "anonymous")}
        result["rows"][kind] = row
        for place, units in enumerate(sizes):
            ends = "" if place < 2 else "   {seconds:.2f}, {anonymous:.2f}".format(**row["level"])
            print(
                f"{kind if not place else '':<20} {units:>6} "
                f"{1e3 * row['seconds'][place] / units:>8.3f} "
                f"{row['anonymous'][place] / 1e3 / units:>8.2f}{ends}",
                flush=True,
            )
    result["load"] = round(os.getloadavg()[0], 2)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    draw(result["rows"], arguments.out.with_suffix(".svg"))


def level(units: tuple[int, ...], costs: list[float]) -> float:
    """Return the cost per unit at the largest size ÷ that at the middle one."""
    each = [cost / count for cost, count in zip(costs, units, strict=True)]
    return each[-1] / each[-2]


def measure(kind: str, units: int, repeat: int) -> dict:
    """Run one measurement in processes of its own; return the best time and memory."""
    runs = []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory(prefix="surgeon-growth-") as folder:
            command = [sys.executable, __file__, "--measure", kind, str(units), folder]
            environment = {**os.environ, "SURGEON_CACHE": folder, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(done.stderr)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: min(run[key] for run in runs) for key in runs[0]}


def of_nodes(step: str, build):
    """Return the measurement of one step on graphs that `build` makes."""

    def run(nodes: int, folder: Path) -> dict:
        import onnx
        import onnx_graphsurgeon  # noqa: F401 - loaded before the clock starts
        import onnxruntime  # noqa: F401 - the same

        import surgeon
        from surgeon import operation
        from surgeon.torch_graph import module, preflight  # noqa: F401 - the same

        path, out = folder / "model.onnx", folder / "out.onnx"
        onnx.save(build(nodes), path)
        work = {
            "inspect": lambda: operation.inspect(path),
            "cuts": lambda: operation.cuts(path),
            "operate": lambda: surgeon.operate(path, case="large-similar", classes=3).save(out),
            "check": lambda: operation.check(path, case="large-similar"),
            "to_torch": lambda: surgeon.to_torch(path),
        }
        if step == "step":
            work[step] = steps_of(surgeon.to_torch(path))
        return watched(work[step])

    return run


def steps_of(network):
    """Return what does ten steps of training."""
    import torch

    optimiser = torch.optim.SGD(network.parameters(), lr=1e-6)
    values = torch.randn(4, WIDTH)

    def train() -> None:
        for _ in range(10):
            optimiser.zero_grad()
            network(values).square().mean().backward()
            optimiser.step()

    return train


def of_samples(step: str):
    """Return the measurement of one step on a folder of so many pictures."""

    def run(samples: int, folder: Path) -> dict:
        import onnx
        import onnxruntime  # noqa: F401 - loaded before the clock starts
        import sklearn.linear_model  # noqa: F401 - the same

        import surgeon
        from surgeon.job import stages  # noqa: F401 - the same

        onnx.save(convnet(), folder / "model.onnx")
        write_pictures(folder / "pictures", samples)
        preprocess = {"layout": "NCHW", "channels": "RGB", "size": [64, 64], "scale": 1 / 255}
        work = {
            "finetune": lambda: surgeon.finetune(
                folder / "model.onnx", folder / "pictures", case="small-similar", threads=1,
                preprocess=preprocess,
            ),
            "predict": lambda: surgeon.predict(
                folder / "model.onnx", [folder / "pictures"], preprocess=preprocess, threads=1
            ),
        }  # fmt: skip
        return watched(work[step])

    return run


def watched(work) -> dict:
    """Do the work; return its CPU-seconds and by how much anonymous memory grew at most."""
    before, most, ended = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.003):
            most = max(most, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.process_time()
    kept = work()
    seconds = time.process_time() - begun
    most = max(most, anonymous())
    ended.set()
    watcher.join()
    del kept
    return {"seconds": seconds, "anonymous": max(most - before, 0)}


def anonymous() -> int:
    """Return the anonymous memory of this process, in bytes."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def blocks(nodes: int):
    """Return residual blocks of four nodes each."""
    from onnx import helper

    made, weights = [], {}
    value = "x"
    for number in range(nodes // 4):
        weights |= {f"b{number}.w": matrix(number), f"b{number}.b": np.zeros(WIDTH, np.float32)}
        made += [
            helper.make_node("MatMul", [value, f"b{number}.w"], [f"m{number}"]),
            helper.make_node("Add", [f"m{number}", f"b{number}.b"], [f"a{number}"]),
            helper.make_node("Relu", [f"a{number}"], [f"r{number}"]),
            helper.make_node("Add", [f"r{number}", value], [f"v{number}"]),
        ]
        value = f"v{number}"
    return finished(made, weights, value, ["N", WIDTH])


def attention(nodes: int):
    """Return blocks that reshape by shapes computed in the graph, thirteen nodes each."""
    from onnx import helper

    node = helper.make_node
    integers = {"zero": 0, "one": 1, "axis": [0], "heads": [2], "each": [WIDTH // 2]}
    weights = {key: np.asarray(value, np.int64) for key, value in integers.items()}
    made = []
    value = "x"
    for n in range(nodes // 13):
        weights[f"b{n}.w"] = matrix(n)
        made += [
            node("MatMul", [value, f"b{n}.w"], [f"m{n}"]),
            node("Shape", [f"m{n}"], [f"shape{n}"]),
            node("Gather", [f"shape{n}", "zero"], [f"batch{n}"], axis=0),
            node("Unsqueeze", [f"batch{n}", "axis"], [f"batches{n}"]),
            node("Gather", [f"shape{n}", "one"], [f"length{n}"], axis=0),
            node("Unsqueeze", [f"length{n}", "axis"], [f"lengths{n}"]),
            node("Concat", [f"batches{n}", f"lengths{n}", "heads", "each"], [f"split{n}"], axis=0),
            node("Reshape", [f"m{n}", f"split{n}"], [f"heads{n}"]),
            node("Transpose", [f"heads{n}"], [f"turned{n}"], perm=[0, 2, 1, 3]),
            node("Transpose", [f"turned{n}"], [f"back{n}"], perm=[0, 2, 1, 3]),
            node("Reshape", [f"back{n}", f"shape{n}"], [f"joined{n}"]),
            node("Add", [f"joined{n}", value], [f"sum{n}"]),
            node("Relu", [f"sum{n}"], [f"v{n}"]),
        ]
        value = f"v{n}"
    made.append(node("ReduceMean", [value], ["pooled"], axes=[1], keepdims=0))
    return finished(made, weights, "pooled", ["N", 6, WIDTH])


def convnet():
    """Return a small network of convolutions on pictures of 64x64."""
    from onnx import helper

    random = np.random.default_rng(0)
    made, weights = [], {}
    value, channels = "x", 3
    for n, wide in enumerate((16, 32, WIDTH)):
        weights[f"c{n}"] = random.standard_normal((wide, channels, 3, 3)).astype(np.float32) / 8
        made += [
            helper.make_node("Conv", [value, f"c{n}"], [f"h{n}"], strides=[2, 2], pads=[1] * 4),
            helper.make_node("Relu", [f"h{n}"], [f"v{n}"]),
        ]
        value, channels = f"v{n}", wide
    made += [
        helper.make_node("GlobalAveragePool", [value], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
    ]
    return finished(made, weights, "flat", ["N", 3, 64, 64])


def finished(nodes: list, weights: dict, value: str, shape: list):
    """Return the model of these nodes with a classifier behind them."""
    from onnx import helper, numpy_helper

    weights["head.w"] = matrix(0)[:, :10]
    nodes.append(helper.make_node("MatMul", [value, "head.w"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "growth",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, ["N", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def matrix(seed: int) -> np.ndarray:
    """Return a seeded square matrix that keeps the size of what it multiplies."""
    return np.random.default_rng(seed).standard_normal((WIDTH, WIDTH)).astype(np.float32) / 16


def write_pictures(folder: Path, samples: int) -> None:
    """Write PNG files of four classes that differ in colour."""
    from PIL import Image

    random = np.random.default_rng(0)
    for label in range(4):
        (folder / str(label)).mkdir(parents=True)
    for number in range(samples):
        pixels = random.integers(0, 160, (64, 64, 3), np.uint8)
        if number % 4:
            pixels[:, :, number % 4 - 1] += 80
        Image.fromarray(pixels).save(folder / str(number % 4) / f"{number}.png", compress_level=1)


def draw(rows: dict, path: Path) -> None:
    """Draw cost over units on two logarithmic axes; a slope of one is level."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5))
    for name, row in rows.items():
        style = "--" if name in OF_SAMPLES else "-"
        axes[0].plot(row["units"], row["seconds"], style, marker=".", label=name)
        axes[1].plot(
            row["units"], [max(item, 1e4) / 1e6 for item in row["anonymous"]], style, marker="."
        )
    for axis, title in zip(axes, ("CPU-seconds", "MB of anonymous memory"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="nodes, or samples (dashed)", title=title)
        low, high = axis.get_ylim()
        for start in np.geomspace(low / 16, high, 9):
            axis.plot((200, 4000), (start, 20 * start), color="0.9", zorder=0, linewidth=0.8)
        axis.set_ylim(low, high)
    axes[0].legend(fontsize=7, ncols=2)
    figure.text(0.5, 0.005, "grey: cost in proportion", ha="center", fontsize=8, color="0.5")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


MEASUREMENTS = {
    **{f"blocks {step}": of_nodes(step, blocks) for step in (*OF_NODES, "step")},
    **{f"attention {step}": of_nodes(step, attention) for step in OF_NODES},
    **{step: of_samples(step) for step in OF_SAMPLES},
}


if __name__ == "__main__":
    main()
