"""Published networks × exporters × opsets × BatchNormalization: what converts, agrees, compiles.

    python benchmarks/architectures.py                        try all, print a line each
    python benchmarks/architectures.py --write                and write the results and the page
    python benchmarks/architectures.py --write --resume       go on with what was measured before
    python benchmarks/architectures.py --only vit,swin_t      some networks
    python benchmarks/architectures.py --backend inductor     compile by another backend

Compiling is tried at one opset of every exporter, folded and kept (TorchScript 17, dynamo 20),
exporting again at the kept one of TorchScript and the folded one of dynamo. All of it takes about
40 minutes of one core. Exits with 1 where something does not hold.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "ops"))

import torch  # noqa: E402 - after the path to the tests, whose rooms this is made of
from architectures import networks  # noqa: E402
from exports import export, opset_of, quiet  # noqa: E402
from measured import PAGE, RESULTS, page, tried  # noqa: E402
from trials import attempt, compiled, evaluated, relative, waits  # noqa: E402

COMPILED = {("torchscript", 17), ("dynamo", 20)}
EXPORTED = {("torchscript", 17, "kept"), ("dynamo", 20, "folded")}
LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxscript")


def measure(
    name: str, exporter: str, opset: int, kept: str, backend: str, known: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Try one export. A file that another opset asked for gave before, by content, is `known`."""
    try:
        proto = export(name, exporter, opset, kept=kept == "kept")
    except Exception as error:  # noqa: BLE001 - what an exporter refuses is a result
        return {"refused": brief(error)}
    content = hashlib.sha256()
    for part in (*proto.opset_import, *proto.graph.node, *proto.graph.initializer):
        content.update(part.SerializeToString(deterministic=True))
    digest = content.hexdigest()
    if digest in known:
        return known[digest] | {"compiled": None, "exported": None}
    row: dict[str, Any] = {}
    inputs = networks()[name].inputs
    try:
        with quiet():
            trial, module = attempt(proto, inputs)
    except Exception as error:  # noqa: BLE001 - what fails is a result, and the others go on
        return row | {"error": brief(error)}
    row |= {
        "opset": opset_of(proto),
        "norms": sum(node.op_type == "BatchNormalization" for node in proto.graph.node),
        "nodes": trial.nodes,
        "parity": trial.parity,
        "after": trial.parity_after,
        "weights": trial.weights,
        "changed": trial.weights - len(trial.unchanged),
        "masks": len(trial.masks) if networks()[name].masks else 0,
        "names": trial.names and trial.nodes_kept and trial.gradients,
        "compiled": None,
        "exported": None,
    }
    if (exporter, opset) in COMPILED:
        row["compiled"] = outcome(lambda: compiled(module, inputs, backend))
    if (exporter, opset, kept) in EXPORTED:
        row["exported"] = outcome(lambda: exported(module, inputs))
    try:
        row["waits"] = waits(module, inputs)
    except Exception as error:  # noqa: BLE001 - a value was read where there is none
        row["waits"] = [brief(error)]
    known[digest] = dict(row)  # in this run alone: the hash is one processor's
    return row


def brief(error: Exception) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def exported(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> float:
    """Export the converted module by `torch.export`; return its relative error."""
    program = torch.export.export(module, inputs)
    return relative(evaluated(program.module(), inputs), evaluated(module, inputs))


def outcome(run: Any) -> float | str:
    """Return a figure, or what failed."""
    try:
        with quiet():
            found: float = run()
    except Exception as error:  # noqa: BLE001 - a graph break is a result
        return brief(error)
    return found


def holds(row: dict[str, Any]) -> bool:
    """Tell whether nothing is wrong in a row; what the exporter refuses is not ours to hold."""
    return "refused" in row or (
        "error" not in row
        and max(row["parity"], row["after"]) <= 1e-4
        and row["changed"] + row["masks"] == row["weights"]
        and row["names"]
        and not row["waits"]
        and not isinstance(row["compiled"], str)
        and not isinstance(row["exported"], str)
    )


def versions() -> dict[str, str]:
    """Return the versions of what was measured with."""
    found = {f"{name}_version": version(name) for name in LIBRARIES}
    import onnxruntime

    return found | {"onnxruntime_version": onnxruntime.__version__}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write results and page")
    parser.add_argument("--resume", action="store_true", help="keep what was measured before")
    parser.add_argument("--only", default="", help="names of networks, separated by commas")
    parser.add_argument("--backend", default="eager", help="of torch.compile")
    options = parser.parse_args()
    rows: dict[str, Any] = {}
    known: dict[str, dict[str, Any]] = {}
    if options.resume and RESULTS.exists():
        rows = {row["key"]: row for row in json.loads(RESULTS.read_text("utf-8"))["rows"]}
    chosen = set(options.only.split(",")) if options.only else set(networks())
    for name, exporter, opset, kept in tried():
        key = f"{name}-{exporter}-{opset}-{kept}"
        if name not in chosen or key in rows:
            continue
        start = time.perf_counter()
        row = measure(name, exporter, opset, kept, options.backend, known) | {"key": key}
        rows[key] = row
        mark = "ok " if holds(row) else "BAD"
        print(f"{mark} {time.perf_counter() - start:5.1f} s {json.dumps(row)}", flush=True)
        if options.write:
            ordered = [rows["-".join(map(str, case))] for case in tried()
                       if "-".join(map(str, case)) in rows]  # fmt: skip
            results = {"versions": versions(), "rows": ordered}
            RESULTS.write_text(json.dumps(results, indent=0) + "\n", "utf-8")
            PAGE.write_text(page(results), "utf-8")
    bad = [key for key, row in rows.items() if not holds(row)]
    print(f"{len(rows)} exports, {len(bad)} with something that does not hold: {bad[:20]}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
