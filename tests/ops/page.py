"""The page `docs/ops.md`: what is converted, what shows it, and the figures of the official suite.

`make docs` writes it anew; `test_page.py` fails where it is stale.
"""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from architectures import networks
from differentiable import IN_A_GRAPH, WITHOUT, learned
from followed import paragraph
from official import DIFFERING, DRAWS
from versions import SHOWN_BY_SUITE, every, judged_at_neighbour, version

from surgeon.ops.registry import AUDITED, coverage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgeon.ops.registry import Coverage

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ops.md"

HEAD = """# Operators

Written by `make docs`; a test fails where it is stale. `surgeon ops` lists the same with lines,
`surgeon ops MODEL` for one file, `surgeon check MODEL` says what will not convert or train.

- **how**: *native* is written for torch; *function* follows the definition in the specification;
  *missing* is refused with its remedy. Every version up to opset {audited} was read and compared.
- **forward**: who says what is right. *runtime* = ONNX Runtime; *hand* = an expectation written out
  in numpy (opsets below 7, operators without a CPU kernel); *same* = ONNX Runtime, which does not
  know the version, at a neighbouring one that differs in its types only; *suite* = cases of the
  official suite.
- **gradient**: *yes* = compared with finite differences in float64 (float32 where the operator is
  defined in it).
"""


def figures(outcomes: Mapping[str, int]) -> str:
    """Return the paragraph on the official suite, of how many cases ended how."""
    total, passed = sum(outcomes.values()), outcomes.get("passed", 0)
    wrong = outcomes.get("wrong", 0) - len(DRAWS) - len(DIFFERING)
    others = {k: v for k, v in outcomes.items() if k not in {"passed", "wrong"} and v}
    rest = ", ".join(f"{count} {how}" for how, count in sorted(others.items())) or "none"
    return f"""## The official suite

ONNX's own runner (`onnx.backend.test`, onnx {onnx.__version__}) over `surgeon.onnx_backend`,
`expanded` variants included, by `python benchmarks/conformance.py`:

| cases | passed | wrong without an error | refused, crashed or skipped | drawn | followed |
|---|---|---|---|---|---|
| {total:,} | {passed:,} | {wrong} | {rest} | {len(DRAWS)} | {len(DIFFERING)} |

- *Drawn*: the six Bernoulli cases compare the draws of one generator with those of another.
  Their distribution and what their seeds do is tested instead (`tests/ops/test_random.py`).
- *Followed*: cases whose expectation ONNX Runtime does not meet; what it computes is what
  files compute where they are deployed, so it is followed. They are the first two lines below.
- The runner iterates over the elements of a sequence to compare them, which a tensor without axes
  does not allow (`test_loop16_seq_none`, after our result is there). The subclass in
  `tests/ops/official.py` compares such an element as the runner compares an output: shape, type,
  values. Nothing else of the runner is changed.
"""


def rows() -> list[str]:
    """Return a line of the table for every run of versions that are alike."""
    shown: dict[tuple[str, str, int], str] = {}
    checked = set(IN_A_GRAPH)
    for sample in every():
        key = version(sample)
        how = "hand" if sample.expected else "same" if judged_at_neighbour(sample) else ""
        shown[key] = "runtime" if not how or shown.get(key) == "runtime" else how
        if learned(sample):
            checked.add(key)

    def facts(line: Coverage) -> tuple[str, ...]:
        key = (line.domain, line.name, line.version)
        return (
            f"{line.domain}::{line.name}" if line.domain else line.name,
            line.status,
            Path(line.file).name if line.file else "",
            shown.get(key) or ("suite" if key in SHOWN_BY_SUITE else "**none**"),
            "yes" if key in checked else "",
        )

    lines = []
    for (name, status, file, forward, gradient), run in groupby(coverage(), facts):
        versions = " ".join(str(line.version or "any") for line in run)
        lines.append(f"| {name} | {versions} | {status} | {file} | {forward} | {gradient} |")
    return lines


def architectures() -> str:
    """Return the paragraph on whole networks."""
    return f"""## Whole networks

{len(networks())} networks: {", ".join(networks())}.
What every export of them gave stands in [architectures.md](architectures.md).
"""


def page(outcomes: Mapping[str, int]) -> str:
    """Return the whole page."""
    counts = Counter(line.status for line in coverage())
    total = sum(counts.values())
    summary = (
        f"{total} operator versions: {counts['native']} native, {counts['function']} by their "
        f"definition, {counts['missing']} missing."
    )
    without = "\n".join(f"- {reason}: {names}" for reason, names in WITHOUT.items())
    table = [
        "| operator | versions | how | file | forward | gradient |",
        "|---|---|---|---|---|---|",
        *rows(),
    ]
    return "\n".join(
        [
            HEAD.format(audited=AUDITED),
            summary,
            "",
            figures(outcomes),
            architectures(),
            paragraph(),
            "## Operator by operator",
            "",
            *table,
            "",
            "Every other version has its gradient checked but these, which have none:",
            "",
            without,
            "",
        ]
    )
