"""The page `docs/architectures.md`, made of what `benchmarks/architectures.py` measured."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from architectures import networks
from exports import EXPORTERS, OPSETS

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "architectures.md"
RESULTS: Final = ROOT / "benchmarks" / "results" / "architectures.json"

COLUMNS: Final = (
    "exporter", "opset", "BatchNormalization", "nodes", "parity", "after", "changed", "names",
    "compiled", "exported", "waits",
)  # fmt: skip

HEAD = """# Published networks

Written by `python benchmarks/architectures.py --write`, which takes long (`--resume` goes on with
what is there); a test fails where this page is not what was measured. `tests/ops/
test_architectures.py` repeats a part of it.

{networks} networks: {torchvision} of torchvision {torchvision_version}, {timm} of timm
{timm_version}, and BERT, GPT-2, LSTM and GRU written out in `tests/ops/architectures.py`; seeded
weights, batches of two, torch {torch_version}, ONNX Runtime {onnxruntime_version}. Each is exported
by both of torch's exporters, with BatchNormalization *folded* (their default) and *kept*
(TorchScript: mode preserved, no constants folded; dynamo: not optimized), at opsets 13, 17, 20 and
23. Where the dynamo exporter cannot write the opset it is asked for, it says so and writes 18.

- **parity**: largest difference from ONNX Runtime over the largest value, before and after one step
  of SGD (0.1) of every parameter; after it, ONNX Runtime runs the file written back.
- **changed**: parameters of more than one element that the step changed. Of Swin the dynamo
  exporter stores the numbers of shifted windows as floats (`val_…`), which the network's mask
  compares: their gradient is exactly zero, and they do not count as unchanged.
- **names**: the written file has every initializer of the exported one under its name, and the
  same nodes.
- **compiled**: `torch.compile(fullgraph=True)`, which allows no graph break: the relative error of
  the compiled module against the module. *exported*: the same of `torch.export`.
- **waits**: where one forward pass waits for its device (a number read, a tensor copied to or from
  it), found by running it on torch's `meta` device, which holds no data.

"""


def tried() -> list[tuple[str, str, int, str]]:
    """Return every combination, of every network one of each exporter first."""
    first = [("torchscript", 17, "kept"), ("dynamo", 20, "folded")]
    rest = [way for way in product(EXPORTERS, OPSETS, ("kept", "folded")) if way not in first]
    early = [(name, *way) for way in first for name in networks()]
    return early + [(name, *way) for name in networks() for way in rest]


def page(results: Mapping[str, Any]) -> str:
    """Return the page."""
    known = networks()
    rows = {row["key"]: row for row in results["rows"]}
    done = [row for row in rows.values() if "parity" in row]
    lines = [HEAD.format(**_counts(), **results["versions"]) + _summary(rows, done)]
    for name, network in known.items():
        lines.append(f"\n## {name}\n")
        about = f"{network.origin}, inputs {_sizes(network.inputs)}"
        lines.append(about + (f"; {network.note}.\n" if network.note else ".\n"))
        lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        for exporter, opset, kept in product(EXPORTERS, OPSETS, ("folded", "kept")):
            row = rows.get(f"{name}-{exporter}-{opset}-{kept}")
            if row is not None:
                lines.append(_line(exporter, opset, kept, row))
    return "\n".join(lines) + "\n"


def _counts() -> dict[str, int]:
    origins = [network.origin for network in networks().values()]
    return {
        "networks": len(origins),
        "torchvision": origins.count("torchvision"),
        "timm": origins.count("timm"),
    }


def _sizes(inputs: Any) -> str:
    return ", ".join("×".join(map(str, x.shape)) for x in inputs)


def _summary(rows: Mapping[str, Any], done: list[Any]) -> str:
    compiled = [row["compiled"] for row in done if row["compiled"] is not None]
    exported = [row["exported"] for row in done if row["exported"] is not None]
    learns = [row["changed"] + row["masks"] == row["weights"] for row in done]
    refused = sum("refused" in row for row in rows.values())
    facts = {
        "combinations": f"{len(rows)} measured of {len(tried())}",
        "refused by the exporter": refused,
        "files": len(rows) - refused,
        "convert": len(done),
        "agree with ONNX Runtime": _good([row["parity"] for row in done], 1e-4),
        "agree after the step": _good([row["after"] for row in done], 1e-4),
        "a step changes every weight": sum(learns),
        "every initializer keeps its name": sum(row["names"] for row in done),
        "compile without a graph break": f"{_good(compiled, 1e-5)}, of {len(compiled)} tried",
        "export to torch again": f"{_good(exported, 1e-5)}, of {len(exported)} tried",
        "a forward pass waits for nothing": sum(row["waits"] == [] for row in done),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in facts.items()), ""])


def _good(found: list[Any], bound: float) -> str:
    figures = [value for value in found if isinstance(value, float)]
    good = sum(value <= bound for value in figures)
    return f"{good}, worst {max(figures, default=0):.0e}"


def _line(exporter: str, opset: int, kept: str, row: Mapping[str, Any]) -> str:
    if "parity" not in row:
        reason = row.get("refused") or f"**{row['error']}**"
        return f"| {exporter} | {opset} | {kept} | {reason} |" + " |" * 7
    written = f"{opset}" if row["opset"] == opset else f"{opset} → {row['opset']}"
    cells = [
        exporter, written, f"{kept}: {row['norms']}", row["nodes"], f"{row['parity']:.0e}",
        f"{row['after']:.0e}", f"{row['changed']}/{row['weights']}",
        "kept" if row["names"] else "**lost**", _figure(row["compiled"]),
        _figure(row["exported"]), ", ".join(row["waits"]) or "none",
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def _figure(value: float | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.0e}"
