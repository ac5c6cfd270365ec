"""Every indexed model through the main job, and the page that says how it went."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

import surgeon
from surgeon_models import get, names, sample_data

ROOT = Path(__file__).parent.parent
SMALL_MACS, SMALL_PARAMETERS = 1_500_000_000, 30_000_000  # what the slow tier tunes wholly
REASONS = ("skipped", "refused", "failed")


def load_benchmark():
    spec = importlib.util.spec_from_file_location("models_benchmark", ROOT / "benchmarks/models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bench = load_benchmark()


# ── the page ─────────────────────────────────────────────────────────────────────────────────────


def test_the_page_is_what_the_figures_give():
    written = (ROOT / "docs/models.md").read_text("utf-8")
    assert written == bench.page(bench.load()), "run: python benchmarks/models.py --write"


def test_every_indexed_model_is_on_the_page_in_every_column():
    rows = bench.load()["models"]
    assert list(rows) == names()
    for name, row in rows.items():
        assert set(row) == set(bench.COLUMNS), name
        assert all(bench.cell(row, key) for key in bench.COLUMNS), name


def test_both_frozen_cases_work_on_every_model_and_nothing_failed():
    for name, row in bench.load()["models"].items():
        for key in bench.COLUMNS:
            assert "failed" not in row[key], f"{name} {key}: {row[key]}"
        for key in ("inspect", "cuts", *bench.FROZEN):
            assert not set(REASONS) & set(row[key]), f"{name} {key}: {row[key]}"


def test_a_reason_stands_in_its_cell_and_breaks_no_table():
    row = {"convert": {"refused": "Foo-1 | is not\nconverted", "where": "node 'x'"}}
    assert bench.cell(row, "convert") == "**refused**: Foo-1 \\| is not converted (node 'x')"


# ── the main job ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", params=names())
def model(request):
    """One model, few samples of its kind, all cases one after another on the same worker."""
    name = request.param
    loaded = surgeon.load(get(name))
    samples = 4 if loaded.anatomy().total > bench.HEAVY_MACS else 12
    return name, loaded, sample_data(name, samples=samples)


@pytest.mark.slow
@pytest.mark.parametrize("case", bench.CASES)
def test_every_indexed_model_ends_in_a_file_that_runs_and_proves(model, case, tmp_path):
    name, loaded, data = model
    if case == "large-similar":
        macs = loaded.anatomy().total
        parameters = sum(np.prod(t.dims) for t in loaded.proto.graph.initializer)
        if macs > SMALL_MACS or parameters > SMALL_PARAMETERS:
            pytest.skip(f"{macs / 1e9:.1f} GMAC, {parameters / 1e6:.0f} M: docs/models.md has it")
    out = tmp_path / "tuned.onnx"
    outcome = surgeon.finetune(
        get(name), data, out, case=case, device="cpu", threads=1, validation=0.34,
        epochs=1 if case == "large-similar" else None,
    )  # fmt: skip
    inputs = {key: value for key, value in data.items() if key != "labels"}
    predicted = surgeon.predict(out, inputs, device="cpu", threads=1)
    assert predicted.failed == []
    assert set(predicted.labels) <= {str(label) for label in data["labels"]}
    assert len(predicted.labels) == len(data["labels"])
    assert np.isfinite(predicted.probabilities).all()
    verdict = surgeon.verify(out, source=get(name), device="cpu")
    assert verdict.passed, [check for check in verdict.checks if not check.passed]
    body = outcome.document()
    assert set(body["changed"]) <= set(body["trainable"]) | set(body["statistics"])
    same, other = bench.compare_frozen(get(name), onnx.load(out), set(body["changed"]))
    assert other == []
    if case in bench.FROZEN and name != "iris-logreg":  # its weights are attributes
        assert same > 0
