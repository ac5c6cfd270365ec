"""What stands at a Python prompt is a few lines, whatever the size of what it shows."""

from __future__ import annotations

import networks as nw
import numpy as np
import pytest

import surgeon


@pytest.fixture(scope="module")
def outcome():
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    x = random.standard_normal((60, 3, 12, 12)).astype(np.float32)
    x[np.arange(60), labels] += 1.0
    data = {"x": x, "labels": labels}
    return surgeon.finetune(nw.convnet(), data, case="small-similar", device="cpu"), data


def few(text: str) -> bool:
    lines = text.splitlines()
    return 1 <= len(lines) <= 14 and max(map(len, lines)) <= 140


def test_results_show_themselves_in_a_few_lines(outcome):
    tuned, data = outcome
    source = surgeon.load(nw.convnet())
    advice = surgeon.advise(nw.convnet(), data, device="cpu")
    predicted = surgeon.predict(tuned.model, {"x": data["x"]})
    verdict = surgeon.verify(tuned.model.proto)
    for result in (source, tuned.model, tuned, advice, predicted, verdict):
        assert few(repr(result)), repr(result)
        assert repr(result).startswith("<surgeon.")
        assert str(result) == repr(result)
    assert "12, 12" in repr(source)
    assert "small-similar" in repr(tuned.model)
    assert "accuracy" in repr(tuned)
    assert "passed" in repr(verdict)
    assert "60" in repr(predicted)


def test_many_labels_inputs_and_warnings_stay_a_few_lines():
    from dataclasses import replace

    from surgeon.graph import envelope

    model = surgeon.load(nw.convnet())
    envelope.put(model.proto, envelope.LABELS, [f"class {i} " + "x" * 99 for i in range(20_000)])
    assert few(repr(model))
    planned = surgeon.operate(model, "large-similar", 3)
    assert few(repr(replace(planned, notes=("note\n" * 99,) * 99)))


def test_a_dry_run_shows_itself_too(outcome):
    _, data = outcome
    assert few(repr(surgeon.finetune(nw.convnet(), data, case="large-similar", dry_run=True)))
