"""Seconds to convert an ONNX file to a torch module, against other converters, in one run.

    python benchmarks/conversion.py                  print a line per graph
    python benchmarks/conversion.py --write          and keep results/conversion.json
    python benchmarks/conversion.py --runs 15        more runs (9 unless told)

Runs alternate, so that what else the machine does meets all alike; the median counts, and beside it
the ratio to the faster of the others that *succeed*: that convert, and whose module gives what ONNX
Runtime gives to 1e-4. From the proto in memory to the module; `surgeon` includes normalisation.
`pip install -e '.[bench]'` brings the others; one that is not installed is left out and named.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import platform
import statistics
import sys
import time
import warnings
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "ops"))

import numpy as np  # noqa: E402 - after the path to the tests, two rooms of which serve here
import onnx  # noqa: E402
import torch  # noqa: E402
from architectures import timm, torchvision  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from trials import of_runtime, relative  # noqa: E402

import surgeon  # noqa: E402
import surgeon_models  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = ROOT / "benchmarks" / "results" / "conversion.json"
PEERS = {"onnx2torch": "convert", "onnx2pytorch": "ConvertModel"}
PICTURE = (1, 3, 224, 224)


def long_graph(nodes: int = 3600) -> onnx.ModelProto:
    """Return a chain of Add and Relu, with a weight for every Add."""
    random = np.random.default_rng(0)
    steps, weights, last = [], [], "x"
    for number in range(nodes // 2):
        name = f"layer{number}.weight"
        weights.append(numpy_helper.from_array(random.normal(size=8).astype("f"), name))
        steps.append(helper.make_node("Add", [last, name], [f"a{number}"], f"add{number}"))
        steps.append(helper.make_node("Relu", [f"a{number}"], [f"r{number}"], f"relu{number}"))
        last = f"r{number}"
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8]) for n in ("x", last))
    graph = helper.make_graph(steps, "long", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def vision_transformer() -> onnx.ModelProto:
    """Return ViT-B/16 as timm has it, with random weights."""
    torch.manual_seed(0)
    network = timm().create_model("vit_base_patch16_224", pretrained=False).eval()
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, torch.randn(PICTURE), stream, dynamo=False, opset_version=17)
    return onnx.load_from_string(stream.getvalue())


def converters() -> dict[str, Callable[[onnx.ModelProto], Any]]:
    """Return how each installed converter is called."""
    torchvision()  # both others import it
    found: dict[str, Callable[[onnx.ModelProto], Any]] = {"surgeon": surgeon.to_torch}
    for name, function in PEERS.items():
        try:
            found[name] = getattr(importlib.import_module(name), function)
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return found


def copied(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy: some converters write into what they are given."""
    twin = onnx.ModelProto()
    twin.CopyFrom(proto)
    return twin


def judged(convert: Callable[[onnx.ModelProto], Any], proto: onnx.ModelProto, x: Any) -> str:
    """Return `ok`, or why a converter does not succeed on a graph."""
    try:
        module = convert(copied(proto)).eval()
        with torch.no_grad():
            found = module(x)
    except Exception as error:  # noqa: BLE001 - another project's failure is a result
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    found = found[0] if isinstance(found, list | tuple) else found
    apart = relative(found.numpy(), of_runtime(proto, [x]))
    return "ok" if apart <= 1e-4 else f"wrong by {apart:.1e}"


def measure(proto: onnx.ModelProto, shape: tuple[int, ...], runs: int) -> dict[str, Any]:
    """Time every converter on one graph."""
    ways = converters()
    torch.manual_seed(0)
    x = torch.randn(shape)
    verdicts = {way: judged(convert, proto, x) for way, convert in ways.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(runs):
        for way in list(ways) if number % 2 else list(reversed(ways)):
            given = copied(proto)
            start = time.perf_counter()
            try:
                ways[way](given)
            except Exception:  # noqa: BLE001 - judged above
                continue
            seconds[way].append(time.perf_counter() - start)
    medians = {way: statistics.median(times) for way, times in seconds.items() if times}
    rivals = [medians[way] for way in PEERS if verdicts.get(way) == "ok"]
    return {
        "nodes": len(proto.graph.node),
        "verdicts": verdicts,
        "median": medians,
        "seconds": seconds,
        "ratio": medians["surgeon"] / min(rivals) if rivals else None,
    }


def versions() -> dict[str, str | None]:
    """Return the versions of the converters and of torch."""
    found: dict[str, str | None] = {}
    for name in ("torch", "onnx", *PEERS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep the results")
    parser.add_argument("--runs", type=int, default=9, help="of every converter on every graph")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    graphs = {
        "ResNet-50": (onnx.load(surgeon_models.get("light-resnet50")), PICTURE),
        "ViT-B/16": (vision_transformer(), PICTURE),
        "3,600 nodes": (long_graph(), (1, 8)),
    }
    names = list(converters())
    print(f"| graph | {' | '.join(names)} | ratio |\n|---|{'---|' * (len(names) + 1)}")
    results = {}
    for name, (proto, shape) in graphs.items():
        row = results[name] = measure(proto, shape, options.runs)
        cells = []
        for way in names:
            taken = f"{row['median'][way]:.3f} s" if way in row["median"] else "fails"
            verdict = row["verdicts"][way]
            cells.append(taken if verdict == "ok" else f"{taken} ({verdict})")
        ratio = "no other succeeds" if row["ratio"] is None else f"{row['ratio']:.2f}"
        print(f"| {name} | {' | '.join(cells)} | {ratio} |", flush=True)
    if options.write:
        document = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
            "load": [load, os.getloadavg()[0]],
            "versions": versions(),
            "threads": torch.get_num_threads(),
            "graphs": results,
        }
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    slower = [name for name, row in results.items() if row["ratio"] and row["ratio"] > 1]
    print(f"slower than the faster of the others on: {', '.join(slower) or 'none'}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
