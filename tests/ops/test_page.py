"""`docs/ops.md` says what is so, and every operator version is shown by something."""

from __future__ import annotations

import warnings

import onnx
import pytest
from official import DIFFERING, DRAWS, cases
from onnx.backend.test.loader import load_model_tests
from page import PAGE, figures, page
from versions import SHOWN_BY_SUITE, every, version

from surgeon.ops.registry import coverage, covering
from surgeon.torch_graph.coverage import operators

SUITE = {
    "passed": 2024,
    "wrong": len(DRAWS) + len(DIFFERING),
}  # what test_official_suite.py proves, case by case


def test_the_page_is_not_stale() -> None:
    assert PAGE.read_text("utf-8") == page(SUITE), "write it anew: make docs"


def test_every_version_has_a_sample() -> None:
    shown = {version(sample) for sample in every()}
    without = {
        (line.domain, line.name, line.version)
        for line in coverage()
        if line.status != "missing" and (line.domain, line.name, line.version) not in shown
    }
    assert without == set(SHOWN_BY_SUITE)


@pytest.mark.slow
def test_the_rest_is_shown_by_the_suite() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = [case.model for case in load_model_tests(kind="node") if case.model is not None]
        for case in load_model_tests(kind="simple"):
            models += [onnx.load(f"{case.model_dir}/model.onnx")] if case.model_dir else []
    seen = set()
    for model in models:
        for node, opset in operators(model, model.graph.node):
            line = covering(node.domain, node.op_type, opset or 1)
            seen.add((line.domain, line.name, line.version))
    assert set(SHOWN_BY_SUITE) <= seen


@pytest.mark.slow
def test_the_figures_count_every_case() -> None:
    assert sum(SUITE.values()) == len(cases())
    assert figures(SUITE) in PAGE.read_text("utf-8")
