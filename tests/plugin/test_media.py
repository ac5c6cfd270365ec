"""Media are entries of one registry; a plugin's own, as CONTRIBUTING shows it, goes everywhere."""

from __future__ import annotations

import re
from pathlib import Path

import networks as nw
import numpy as np
import pytest

import surgeon
from surgeon.data import open_data, open_inputs
from surgeon.data.media import registry
from surgeon.errors import DataError
from surgeon.records import AudioEncoding, Preprocess, TensorInfo, TextEncoding

ROW = TensorInfo("x", "float", ("N", 3), 0)
GUIDE = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text("utf-8")
SECTION = GUIDE.split("## A medium\n")[1].split("\n## ")[0]
CODE, HOOK = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
EXAMPLE = (
    "from surgeon.plugin import hookimpl\nfrom surgeon.records import Medium\n"
    + CODE
    + HOOK.replace('"my_package.points:Points"', 'f"{__name__}:Points"')
)


@pytest.fixture
def points(monkeypatch, tmp_path):
    """Offer the guide's medium; return a maker of folders of it."""
    monkeypatch.setattr(registry, "_OFFERED", {})

    def folder(width, count=6):
        random = np.random.default_rng(0)
        for number in range(count):
            path = tmp_path / "points" / "ab"[number % 2] / f"{number:02d}.xyz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(" ".join(map(str, random.normal(size=width) + number % 2)))
        (tmp_path / "points" / "a" / "notes.md").write_text("none")
        return tmp_path / "points"

    return folder


def offered():
    names: dict = {"__name__": "points"}
    exec(EXAMPLE, names)
    (medium,) = names["surgeon_media"]()
    assert medium.code == "points:Points"
    registry.offer(medium, lambda: names["Points"])
    return names["Points"]


def test_a_medium_of_a_plugin_is_opened_by_its_ending(points):
    folder, kind = points(3), offered()
    samples = open_data(folder, [ROW])
    assert type(samples) is kind
    assert samples.answers == ["a", "a", "a", "b", "b", "b"]
    assert samples.ignored == 1
    assert samples.read([1, 3]).feeds["x"].shape == (2, 3)
    (folder / "b" / "01.xyz").write_text("one")
    found = open_inputs([folder / "b" / "01.xyz", folder / "a"], [ROW])
    assert [failure.reason for failure in found.read(range(found.n)).failures] == [
        "not three numbers"
    ]
    assert [reason for _, reason in found.passed_over] == ["its ending is none of points (.xyz)"]
    with pytest.raises(DataError):  # a model that does not take it
        open_data(folder, [TensorInfo("x", "float", ("N", 4), 0)])


def test_a_plugins_medium_goes_through_the_verbs(install, points):
    wide = EXAMPLE.replace("(3,)", "(8,)").replace("(3)", "(8)").replace("(0, 3)", "(0, 8)")
    install("their-dist", "points", wide)
    folder = points(8, 24)
    advice = surgeon.advise(nw.mlp(), folder)
    assert advice.evidence.samples == 24
    outcome = surgeon.finetune(nw.mlp(), folder, case="small-similar")
    assert outcome.document()["data"]["samples"] == 24
    assert len(surgeon.predict(outcome.model, folder).document()["predictions"]) == 24
    assert surgeon.evaluate(outcome.model, folder)["samples"] == 24


def test_ours_are_entries_like_any():
    own = list(registry.media())
    assert {medium.name: registry.code_of(medium).rule for medium in own} == {
        "pictures": Preprocess, "series": None, "texts": TextEncoding, "sounds": AudioEncoding,
    }  # fmt: skip
    suffixes = [suffix for medium in own for suffix in medium.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in suffixes)
