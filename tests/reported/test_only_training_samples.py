"""What is chosen by looking at data looks at training samples only, however they are divided."""

from __future__ import annotations

import networks as nw
import numpy as np
import pytest
from PIL import Image

from surgeon import intake as inputs
from surgeon.advice import advise as advice
from surgeon.advice import detective
from surgeon.data import splits
from surgeon.graph.preprocess import parse_preprocess
from surgeon.model import load
from surgeon.options import Options, Surgery
from surgeon.probe import evidence
from surgeon.runtime.places import Device
from surgeon.targets import ask_for


class Looked(Exception):  # noqa: N818 - ends the work where all is known
    """Which samples were looked at."""


def folder(root, each=20):
    random = np.random.default_rng(0)
    for name in "ab":
        (root / name).mkdir(parents=True)
        for i in range(each):
            pixels = random.integers(0, 255, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return str(root)


def parts_of(model, data, validation, seed):
    how = parse_preprocess("raw", model.inputs[0])
    samples = inputs.open_samples(data, model, how, inputs.AS_THE_FILE_SAYS, {}, validation)
    asked = ask_for("classification", samples, None)
    return inputs.divide(samples, asked, validation, seed), samples, asked.targets.values


def options(validation):
    return Options.of({"seed": 3, "validation": validation})


def given(model, samples, validation):
    return inputs.Divided.of(
        model,
        samples,
        ask_for("classification", samples, None),
        options(validation),
        preprocess=None,
        constants={},
        device=Device("cpu"),
    )


@pytest.fixture
def forms(tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "TEST_FROM", 30)
    folder(tmp_path / "parts" / "Train")
    folder(tmp_path / "parts" / "Test", 5)
    return {
        "fraction": (folder(tmp_path / "all"), 0.3),
        "path": (str(tmp_path / "all"), folder(tmp_path / "held")),
        "folders": (str(tmp_path / "parts"), 0.2),
    }


@pytest.mark.parametrize("form", ["fraction", "path", "folders"])
def test_the_detective(forms, monkeypatch, form):
    def look(self, name, how, samples, chosen, codes, groups):
        raise Looked(chosen)

    monkeypatch.setattr(detective._Bench, "try_out", look)
    data, validation = forms[form]
    model = load(nw.convnet())
    with pytest.raises(Looked) as caught:
        detective.detect_preprocess(model, data, options(validation))
    parts, _, _ = parts_of(model, data, validation, 3)
    assert parts.test is not None
    assert len(caught.value.args[0])
    assert set(caught.value.args[0]) <= set(parts.train)


@pytest.mark.parametrize("form", ["fraction", "path", "folders"])
def test_advice(forms, monkeypatch, form):
    def look(anatomy, samples, looked, *_, **__):
        raise Looked(looked.indices)

    monkeypatch.setattr(evidence, "measure", look)
    data, validation = forms[form]
    model = load(nw.convnet())
    parts, samples, _ = parts_of(model, data, validation, 3)
    with pytest.raises(Looked) as caught:
        advice.choose(given(model, samples, validation), Surgery())
    assert set(caught.value.args[0]) <= set(parts.train)
