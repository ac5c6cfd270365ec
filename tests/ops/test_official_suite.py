"""ONNX's own backend test runner over `surgeon.onnx_backend`, all its cases in shards.

The cases take seconds to make, so a worker makes them once and only where they run; hence one test
per shard and not one per case. `python benchmarks/conformance.py` prints the figures of all.
"""

from __future__ import annotations

import pytest
from official import DIFFERING, DRAWS, cases, tally

SHARDS = 8
APART = {*DRAWS, *DIFFERING}


def test_a_part_of_them_passes() -> None:
    names = [name for name in list(cases())[::12] if name not in APART]
    assert tally(names)[1] == {}


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_case_passes(shard: int) -> None:
    names = list(cases())[shard::SHARDS]
    counts, off = tally(names)
    assert {name: outcome for name, outcome in off.items() if name not in APART} == {}
    assert counts["passed"] == len([name for name in names if name not in APART])


@pytest.mark.slow
def test_the_cases_are_all_there() -> None:
    assert len(cases()) == 2033
    assert set(cases()) >= APART
    expanded = [name for name in cases() if name.endswith("_expanded_cpu")]
    assert len(expanded) > 300
