"""How long the command line takes to begin: `surgeon --help` and `surgeon inspect` of a ResNet-50.

    python benchmarks/startup.py           # about a minute

Runs alternate with `python -c pass`, each a process of its own; medians of CPU seconds, which other
work on the machine disturbs less than those of a clock. `python -c 'import click, pluggy'` is the
floor of a command line that uses both. Twice: with compiled bytecode, as after an installation or a
first run, and without, as where PYTHONDONTWRITEBYTECODE is set and the package is installed in
place. ResNet-50 is `light-resnet50` of the model index, 102 MB in one file, in the page cache.

Wanted: `--help` at most 0.12 s, `inspect` at most 0.6 s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "startup.json"
WANTED = {"surgeon --help": 0.12, "surgeon inspect ResNet-50": 0.6}


def main() -> None:
    """Measure, print the table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=21)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    from surgeon_models import get

    surgeon = str(Path(sys.executable).with_name("surgeon"))
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import click, pluggy'": [sys.executable, "-c", "import click, pluggy"],
        "surgeon --help": [surgeon, "--help"],
        "surgeon cases": [surgeon, "cases"],
        "python -c 'import onnx'": [sys.executable, "-c", "import onnx"],
        "surgeon inspect ResNet-50": [surgeon, "inspect", str(get("light-resnet50"))],
    }
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: version(name) for name in ("onnx-surgeon", "onnx", "click")},
        "repeat": arguments.repeat,
        "seconds": {},
    }
    with tempfile.TemporaryDirectory() as compiled:
        base = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        manners = {
            "bytecode": {**base, "PYTHONPYCACHEPREFIX": compiled},
            "no bytecode": {**base, "PYTHONDONTWRITEBYTECODE": "1"},
        }
        for manner, environment in manners.items():
            taken = {name: [] for name in commands}
            for number in range(arguments.repeat + 1):
                for name, command in commands.items():
                    seconds = cpu_seconds(command, environment)
                    if number:  # the first compiles, and fills the page cache
                        taken[name].append(seconds)
            result["seconds"][manner] = taken
    result["load"] = round(os.getloadavg()[0], 2)
    print(f"{'':<32} {'bytecode':>18}  {'no bytecode':>18}  wanted")
    for name in commands:
        shown = [spread(taken[name]) for taken in result["seconds"].values()]
        print(f"{name:<32} {shown[0]:>18}  {shown[1]:>18}  {WANTED.get(name, '')}")
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")


def cpu_seconds(command: list[str], environment: dict[str, str]) -> float:
    """Run a command and return the CPU seconds it took, the system's among them."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return used.ru_utime + used.ru_stime


def spread(seconds: list[float]) -> str:
    """Return median and quartiles, in seconds."""
    low, middle, high = statistics.quantiles(seconds, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


if __name__ == "__main__":
    main()
