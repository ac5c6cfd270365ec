"""The solver's cost at thousands of classes of few samples: CPU seconds, memory, held-out accuracy.

    python benchmarks/classes.py 4000x2x64 20000x2x256

Sizes are classes x samples of each x features. Data: `easy`, normal clouds half as wide as their
centres lie apart in each direction; `hard`, features behind a rectifier whose directions differ in
size, with clouds that overlap. A fifth of the samples does not choose the penalty, as in
`finetune`. One thread.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

JUDGES = 2000


def main() -> None:
    """Solve each size on both kinds of data and print a line of figures."""
    from surgeon.probe.solver import solve

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", default=["1000x4x64", "4000x2x64"])
    parser.add_argument("--data", nargs="*", default=["easy", "hard"], choices=["easy", "hard"])
    arguments = parser.parse_args()
    for size in arguments.sizes:
        classes, each, width = (int(part) for part in size.split("x"))
        for kind in arguments.data:
            x, y = clouds(kind, classes, each + 1, width)
            learnt = classes * each
            held = np.random.default_rng(1).permutation(learnt) < learnt // 5
            begun = time.process_time()
            found = solve(x[:learnt], y[:learnt], classes, held=held, threads=1)
            seconds = time.process_time() - begun
            judges = learnt + np.random.default_rng(2).permutation(classes)[:JUDGES]
            told = (x[judges] @ found.weight.T + found.bias).argmax(axis=1)
            row = {
                "size": size, "data": kind, "cpu_seconds": round(seconds, 1),
                "mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "penalty": found.regularisation, "steps": found.iterations,
                "accuracy": float((told == y[judges]).mean()),
                "cross_validated": float((found.out_of_fold[held] == y[:learnt][held]).mean()),
            }  # fmt: skip
            print(json.dumps(row), flush=True)


def clouds(kind: str, classes: int, each: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features [n, width] and classes [n], each class in turn."""
    random = np.random.default_rng(0)
    labels = np.arange(classes * each) % classes
    centres = random.standard_normal((classes, width))
    noise = random.standard_normal((len(labels), width))
    if kind == "easy":
        return (centres[labels] + 0.5 * noise).astype(np.float32), labels
    sizes = 1 / np.sqrt(1 + np.arange(width))
    flatter = 1 / (1 + np.arange(width)) ** 0.3
    noise *= 0.7 * flatter * sizes.mean() / flatter.mean() * random.gamma(2, 0.5, (len(labels), 1))
    mixed = random.standard_normal((width, width)) / np.sqrt(width)
    seen = (centres * sizes)[labels] + noise
    return np.maximum(seen @ mixed + 0.05, 0).astype(np.float32), labels


if __name__ == "__main__":
    main()
