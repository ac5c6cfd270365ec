"""Without the extras the core works on pictures and arrays; what needs one names its pip line."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import networks as nw
import numpy as np
import pytest
from PIL import Image

import surgeon
from surgeon.errors import EnvironmentLacksError
from surgeon.extras import EXTRAS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bare(monkeypatch):
    """Let no library of an extra be importable."""
    for name in list(sys.modules):
        if name.partition(".")[0] in EXTRAS:
            monkeypatch.delitem(sys.modules, name)
    for name in EXTRAS:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def pictures(tmp_path):
    random = np.random.default_rng(0)
    for number in range(24):
        label = "ab"[number % 2]
        folder = tmp_path / "pictures" / label
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 120, (8, 8, 3), np.uint8) + np.uint8(130 * (label == "a"))
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "pictures"


def test_every_extra_is_declared_and_no_part_of_the_core():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for module, extra in EXTRAS.items():
        assert any(line.startswith(module) for line in extras[extra])
        assert not any(line.startswith(module) for line in project["dependencies"])
    (whole,) = extras["all"]
    assert set(EXTRAS.values()) <= set(whole.partition("[")[2].rstrip("]").split(","))


@pytest.mark.parametrize("case", ["small-similar", "large-similar"])
def test_pictures_are_trained_on_without_any(bare, pictures, case):
    how = '{"layout": "NCHW", "size": [8, 8], "scale": 0.00392}'
    outcome = surgeon.finetune(
        nw.residual(), pictures, case=case, epochs=1, preprocess=how, device="cpu"
    )
    body = outcome.document()
    assert body["data"]["samples"] == 24
    assert any("augment]" in line for line in body["warnings"]) is (case == "large-similar")


def test_arrays_are_trained_on_without_any(bare, tmp_path):
    labels = np.arange(40) % 2
    values = np.random.default_rng(0).normal(size=(40, 8)) + labels[:, None]
    np.savez(tmp_path / "data.npz", x=values.astype(np.float32), labels=labels)
    outcome = surgeon.finetune(
        nw.mlp(), tmp_path / "data.npz", case="large-similar", epochs=1, device="cpu"
    )
    assert outcome.document()["data"]["samples"] == 40


def needs_text(folder):
    from surgeon.data.media import texts
    from surgeon.records import TextEncoding

    texts._load(TextEncoding("{}"))


def needs_tables(folder):
    from surgeon.data import tables

    tables._read_parquet(folder / "data.parquet")


def needs_hub(folder):
    from surgeon.data import tables

    tables.load_hub("any/thing")


def needs_augment(folder):
    from surgeon.train import augment

    augment._operations.cache_clear()
    augment._operations("light", False, 8, 8)


def needs_report(folder):
    from surgeon.cli import advise

    advise.draw({"candidates": []}, folder / "plot.svg")


@pytest.mark.parametrize("use", [needs_text, needs_tables, needs_hub, needs_augment, needs_report])
def test_what_needs_an_extra_names_its_pip_line(bare, tmp_path, use):
    with pytest.raises(EnvironmentLacksError) as caught:
        use(tmp_path)
    extra = use.__name__.removeprefix("needs_")
    assert caught.value.exit == 3
    assert caught.value.remedy == f"pip install 'onnx-surgeon[{extra}]'"
