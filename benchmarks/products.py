"""Products of matrices on a CPU: torch's call of MKL against `surgeon.ops.products`.

    python benchmarks/products.py              # half a minute on an idle machine

Forward and backward pass of x [rows, k] · w [k, m] + b, in turn, one step each; the table has the
medians and the median ratio. Shapes: the products of ViT-S/16 and BERT-base, a large classifier.
Where `surgeon.ops.products` takes MKL itself (Intel's processors, no AVX-512), the ratio is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from surgeon.ops import products

RESULTS = Path(__file__).parent / "results" / "products.json"
SHAPES = [
    (16 * 197, 384, 1152), (16 * 197, 384, 1536), (16 * 197, 1536, 384), (8 * 128, 768, 3072),
    (64, 2048, 1000), (256, 512, 512),
]  # fmt: skip


def main() -> None:
    """Time every shape by both ways, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--by-cpu", action="store_true", help="CPU seconds: on a busy machine")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.by_cpu else time.perf_counter
    rows = [measure(shape, arguments.pairs, clock) for shape in SHAPES]
    print(
        "| rows, k, m | MKL, ms | surgeon, ms | ratio | Gmultiply-adds/s |\n|---|---|---|---|---|"
    )
    for row in rows:
        n, k, m = row["shape"]
        print(
            f"| {n}, {k}, {m} | {1e3 * row['mkl']:.2f} | {1e3 * row['surgeon']:.2f} "
            f"| {row['ratio']:.2f} | {3e-9 * n * k * m / row['surgeon']:.0f} |"
        )
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        "torch": torch.__version__, "threads": arguments.threads, "by_cpu": arguments.by_cpu,
        "load": os.getloadavg()[0], "rows": rows,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(document, indent=2) + "\n", "utf-8")


def measure(shape: tuple[int, int, int], pairs: int, clock) -> dict:
    """Return the median seconds of both ways, and the median of their ratios."""
    n, k, m = shape
    torch.manual_seed(0)
    x, w, b = (torch.randn(*s, requires_grad=True) for s in ((n, k), (k, m), (m,)))
    seen = torch.randn(n, m)
    ways = {
        "mkl": lambda: torch.addmm(b, x, w),
        "surgeon": lambda: products.multiply(x, w, b),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(pairs + 1):
        for name in list(ways) if number % 2 else list(reversed(ways)):
            begun = clock()
            torch.autograd.grad(ways[name](), (x, w, b), seen)
            if number:
                taken[name].append(clock() - begun)
    ratios = np.divide(taken["surgeon"], taken["mkl"])
    medians = {name: float(np.median(seconds)) for name, seconds in taken.items()}
    return {"shape": shape, "ratio": float(np.median(ratios)), **medians}


if __name__ == "__main__":
    main()
