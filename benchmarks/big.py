"""A generated model of several GB with external data: seconds and anonymous memory of every verb.

    python benchmarks/big.py                       # 6 GB, needs 14 GB of disk in --folder
    python benchmarks/big.py --size 2.2e9 --verbs inspect operate finetune predict verify

The model is a transformer whose weights are MatMul matrices, written as a stream: seeded noise,
scaled for every tensor, no holes. Each verb is a process of its own. `operate` and the write-back
alternate with `cp` of the model's files in the same folder; the page cache is left as it is, warm
for both, and neither waits for the disk to have written. Outputs are removed between runs.

Anonymous memory is `RssAnon` of /proc/PID/status, read every few milliseconds, the most of them;
pages of mapped files are not in it, since the system takes them back at will. What ONNX Runtime
allocates in `check`, `predict`, `finetune` and `verify` is in it: those verbs run the network.

Wanted: `inspect` < 2 s; `operate` < 1.3 times `cp`; these and the write-back < 400 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

RESULTS = Path(__file__).parent / "results" / "big.json"
MB = 1e6
WIDTH, HIDDEN, STEPS, CLASSES = 2048, 8192, 8, 1000
BLOCK = {
    "query": (WIDTH, WIDTH),
    "key": (WIDTH, WIDTH),
    "value": (WIDTH, WIDTH),
    "out": (WIDTH, WIDTH),
    "up": (WIDTH, HIDDEN),
    "down": (HIDDEN, WIDTH),
}
VERBS = ("inspect", "cuts", "operate", "write_back", "check", "predict", "finetune", "verify")
WRITE_BACK = """
import sys
import numpy as np
import surgeon
model = surgeon.load(sys.argv[1])
tensors = {"head.bias": np.ones(1000, np.float32)}
from surgeon.graph.weights import write_back
from surgeon.graph.files import save_model
save_model(write_back(model.proto, tensors, partial=True), sys.argv[2])
"""


def main() -> None:
    """Write the model, run the verbs, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=6e9, help="bytes of weights")
    parser.add_argument("--folder", type=Path, help="where to work; needs 2.2 times the size")
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=list(VERBS))
    parser.add_argument("--repeat", type=int, default=5, help="pairs of `cp` and the verb")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="surgeon-big-") as name:
        folder = Path(name)
        free = shutil.disk_usage(folder).free
        if free < 2.2 * arguments.size:
            sys.exit(f"{free / 1e9:.1f} GB are free in {folder}: too few; give --folder or --size")
        result = measure(folder, arguments)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")


def measure(folder: Path, arguments: argparse.Namespace) -> dict:
    """Run the verbs and return the results."""
    begun = time.perf_counter()
    model = folder / "big.onnx"
    written = generate(model, int(arguments.size))
    print(f"{written / 1e9:.2f} GB written in {time.perf_counter() - begun:.0f} s", flush=True)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "bytes": written,
        "versions": {name: version(name) for name in ("onnx-surgeon", "onnx", "onnxruntime-gpu")},
        "verbs": {},
    }
    data = samples(folder)
    out, copy = folder / "out.onnx", folder / "copy.onnx"
    surgeon = [Path(sys.executable).with_name("surgeon")]
    commands = {
        "inspect": [*surgeon, "inspect", model],
        "cuts": [*surgeon, "cuts", model],
        "operate": [*surgeon, "operate", model, "--case", "small-similar", "--classes", "5", "-o",
                    out],
        "write_back": [sys.executable, "-c", WRITE_BACK, model, out],
        "check": [*surgeon, "check", model, "--case", "small-similar"],
        "predict": [*surgeon, "predict", model, data],
        "finetune": [*surgeon, "finetune", model, data, "--case", "small-similar", "-o", out],
        "verify": [*surgeon, "verify", out, "--source", model],
    }  # fmt: skip
    for verb in VERBS:
        if verb not in arguments.verbs:
            continue
        writes = verb in ("operate", "write_back")
        repeat = arguments.repeat if writes else 3 if verb in ("inspect", "cuts") else 1
        runs, copies = [], []
        for _ in range(repeat):
            if writes:
                copies.append(copy_files(model, copy))
                remove(copy)
            if verb != "verify":
                remove(out)
            runs.append(run([str(word) for word in commands[verb]]))
        entry = {
            "seconds": statistics.median(item["seconds"] for item in runs),
            "cpu_seconds": statistics.median(item["cpu_seconds"] for item in runs),
            "anonymous": max(item["anonymous"] for item in runs),
            "runs": runs,
            "load": round(os.getloadavg()[0], 2),
        }
        if writes:
            ratios = [item["seconds"] / other for item, other in zip(runs, copies, strict=True)]
            entry |= {"copies": copies, "ratios": ratios, "ratio": statistics.median(ratios)}
        result["verbs"][verb] = entry
        ratio = f"  {entry['ratio']:.2f} × cp" if writes else ""
        print(
            f"{verb:<11} {entry['seconds']:8.2f} s ({entry['cpu_seconds']:.2f} CPU) "
            f"{entry['anonymous'] / MB:8.0f} MB{ratio}",
            flush=True,
        )
    return result


def generate(path: Path, size: int) -> int:
    """Write a transformer of about `size` bytes of weights with its data beside it.

    Returns the bytes written.
    """
    data = path.with_name(path.name + ".data")
    noise = np.random.default_rng(0).standard_normal(WIDTH * HIDDEN).astype(np.float32)
    per_block = sum(4 * rows * columns for rows, columns in BLOCK.values())
    nodes, weights = [], []
    with data.open("wb") as stream:

        def weight(name: str, shape: tuple[int, ...]) -> str:
            count = int(np.prod(shape))
            tensor = weights.append(TensorProto(name=name, data_type=1, dims=shape)) or weights[-1]
            tensor.data_location = TensorProto.EXTERNAL
            scale = np.float32(0.5 / np.sqrt(shape[0]) * (1 + len(weights) % 7 / 10))
            for key, value in {
                "location": data.name, "offset": stream.tell(), "length": 4 * count,
            }.items():  # fmt: skip
                tensor.external_data.add(key=key, value=str(value))
            stream.write((noise[:count] * scale).data)
            return name

        def node(operator: str, *inputs: str, **attributes: object) -> str:
            name = f"v{len(nodes)}"
            nodes.append(helper.make_node(operator, inputs, [name], **attributes))
            return name

        value = "x"
        for number in range(max(1, round(size / per_block))):
            w = {key: weight(f"block{number}.{key}", shape) for key, shape in BLOCK.items()}
            query, key = node("MatMul", value, w["query"]), node("MatMul", value, w["key"])
            score = node("MatMul", query, node("Transpose", key, perm=[0, 2, 1]))
            share = node("Softmax", node("Mul", score, "scale"), axis=-1)
            mixed = node("MatMul", share, node("MatMul", value, w["value"]))
            value = node("Tanh", node("Add", value, node("MatMul", mixed, w["out"])))
            wide = node("Relu", node("MatMul", value, w["up"]))
            value = node("Tanh", node("Add", value, node("MatMul", wide, w["down"])))
        pooled = node("ReduceMean", value, axes=[1], keepdims=0)
        logits = node("MatMul", pooled, weight("head.weight", (WIDTH, CLASSES)))
        nodes.append(helper.make_node("Add", [logits, "head.bias"], ["logits"]))
    small = {"scale": np.float32(WIDTH**-0.5), "head.bias": np.zeros(CLASSES, np.float32)}
    weights += [numpy_helper.from_array(np.asarray(array), key) for key, array in small.items()]
    graph = helper.make_graph(
        nodes,
        "big",
        [helper.make_tensor_value_info("x", 1, ["N", STEPS, WIDTH])],
        [helper.make_tensor_value_info("logits", 1, ["N", CLASSES])],
        weights,
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path.stat().st_size + data.stat().st_size


def samples(folder: Path) -> Path:
    """Write samples of two kinds, which a good feature tells apart."""
    random = np.random.default_rng(1)
    labels = np.arange(24) % 2
    values = random.standard_normal((24, STEPS, WIDTH)).astype(np.float32)
    values[labels == 1, :, : WIDTH // 2] += 1
    path = folder / "data.npz"
    np.savez(path, x=values, labels=labels)
    return path


def copy_files(model: Path, copy: Path) -> float:
    """Copy the model's files by `cp`, one after the other; return seconds."""
    begun = time.perf_counter()
    for suffix in ("", ".data"):
        subprocess.run(["cp", f"{model}{suffix}", f"{copy}{suffix}"], check=True)
    return time.perf_counter() - begun


def remove(path: Path) -> None:
    """Remove a model's files."""
    for suffix in ("", ".data"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def run(command: list[str]) -> dict:
    """Run a command; return its seconds and the most anonymous memory it had, in bytes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        most = 0
        while process.poll() is None:
            most = max(most, anonymous(process.pid))
            time.sleep(0.005)
        seconds = time.perf_counter() - begun
        if process.returncode:
            said.seek(0)
            sys.exit(f"{command} failed:\n{said.read().decode()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu, "anonymous": most}


def anonymous(process: int) -> int:
    """Return the anonymous memory of a process, in bytes; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    main()
