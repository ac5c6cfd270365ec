"""Two trees of this repository beside each other: is the second as fast as the first?

    git worktree add /tmp/before COMMIT
    python benchmarks/trees.py /tmp/before . --pairs 7        # some five minutes on two idle cores

Runs alternate, each a process of its own; the table gives the median of the first tree, of the
second, and the median of the ratios taken pair by pair.

help       CPU seconds of `surgeon --help`.
features   wall seconds of the frozen part of `small-similar` on 1,200 pictures with MobileNetV2 at
           224x224: hashing, decoding, ONNX Runtime, an empty cache (what `frozen.py` measures).
head       wall seconds of solving its head.
training   wall seconds of training in `large-similar` on 400 of these pictures, one epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from frozen import write_model, write_pictures

MODEL = "mobilenetv2"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trees", nargs=2, type=Path, metavar="TREE")
    parser.add_argument("--pairs", type=int, default=7)
    arguments = parser.parse_args()
    trees = [tree.resolve() for tree in arguments.trees]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_pictures(folder / "pictures", 1200)
        write_model(MODEL, folder)
        write_pictures(folder / "part" / "few", 400)
        taken: list[list[dict[str, float]]] = [[], []]
        for pair in range(arguments.pairs + 1):  # the first compiles bytecode
            for results, tree in zip(taken, trees, strict=True):
                found = measure(tree, folder)
                if pair:
                    results.append(found)
                print(tree, {name: round(value, 3) for name, value in found.items()}, flush=True)
    for name in taken[0][0]:
        first, second = ([one[name] for one in results] for results in taken)
        ratio = statistics.median(b / a for a, b in zip(first, second, strict=True))
        a, b = statistics.median(first), statistics.median(second)
        print(f"{name:<9} {a:8.3f} {b:8.3f}  ratio {ratio:.3f}")


def measure(tree: Path, folder: Path) -> dict[str, float]:
    """Take every measurement of one tree once."""
    paths = [tree, tree / "plugins", tree / "models"]
    told = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "SURGEON_CACHE": str(folder / "cache")}

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, command)], check=True, stdout=subprocess.PIPE, text=True,
            env=os.environ | told, cwd=tree,
        )  # fmt: skip
        return done.stdout

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run("-m", "surgeon", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    subprocess.run(["rm", "-rf", folder / "cache"], check=True)
    frozen = json.loads(
        run(tree / "benchmarks/frozen.py", "--measure", "features", folder).splitlines()[-1]
    )
    tuned = run(
        "-m", "surgeon", "finetune", folder / "model.onnx", folder / "part" / "few", "--case",
        "large-similar", "--epochs", "1", "--preprocess", "imagenet", "--augment", "none", "-q",
        "--json", "-o", folder / "out.onnx", "--force",
    )  # fmt: skip
    training = json.loads(tuned)["seconds"]["train"]
    return {
        "help": cpu, "features": frozen["features"], "head": frozen["head"], "training": training,
    }  # fmt: skip


if __name__ == "__main__":
    main()
