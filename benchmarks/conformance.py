"""ONNX's official backend suite over `surgeon.onnx_backend`: passed, refused, wrong.

    python benchmarks/conformance.py            print the figures
    python benchmarks/conformance.py --write    and write docs/ops.md anew (`make docs`)

Exits with 1 where a case does not pass that should.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "ops"))

import official
from page import PAGE, page


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/ops.md anew")
    write = parser.parse_args().write
    counts, off = official.tally(official.cases())
    for name, (outcome, reason) in sorted(off.items()):
        text = "drawn numbers" if name in official.DRAWS else " ".join(reason.split())[:200]
        print(f"{outcome:<8} {name}: {text}")
    total = sum(counts.values())
    wrong = counts["wrong"] - len(official.DRAWS)
    print(
        f"{total} cases: {counts['passed']} passed, {wrong} wrong without an error, "
        f"{len(official.DRAWS)} of drawn numbers, "
        f"{total - counts['passed'] - counts['wrong']} refused, crashed or skipped"
    )
    if write:
        PAGE.write_text(page(counts), "utf-8")
        print(f"wrote {PAGE.name}")
    return 0 if set(off) <= official.DRAWS else 1


if __name__ == "__main__":
    sys.exit(main())
