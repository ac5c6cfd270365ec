"""Media are entries of one registry; a plugin's own, as CONTRIBUTING shows it, goes everywhere."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import networks as nw
import numpy as np
import onnx
import pytest

import surgeon
from surgeon.cli import main
from surgeon.data import open_data, open_inputs
from surgeon.data.media import registry
from surgeon.errors import DataError, PluginError
from surgeon.media import ValueSamples
from surgeon.records import AudioEncoding, Medium, Preprocess, TensorInfo, TextEncoding

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


def test_a_table_may_name_files_of_a_plugins_medium(points):
    folder = points(3)
    offered()
    rows = [
        f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.rglob("*.xyz"))
    ]
    (folder / "table.csv").write_text("\n".join(["path,label", *rows]))
    samples = open_data(folder / "table.csv", [ROW])
    assert samples.read([0]).feeds["x"].shape == (1, 3)
    assert samples.answers == ["a", "a", "a", "b", "b", "b"]


@pytest.mark.parametrize(
    ("medium", "word"),
    [
        (Medium("pictures", "", "m:M", (".mine",)), "pictures"),
        (Medium("mine", "", "m:M", (".png",)), ".png"),
        (Medium("mine", "", "m:M", ("mine",)), "mine"),
        (Medium("mine", "", "m:M", (".MINE",)), ".MINE"),
        (Medium("mine", "", "m:M"), "endings"),
    ],
)
def test_a_medium_takes_no_other_ones_place(points, medium, word):
    with pytest.raises(PluginError, match=re.escape(word)) as caught:
        registry.offer(medium, lambda: None, "the medium of their-dist 1.0")
    assert "their-dist 1.0" in caught.value.where
    assert medium not in list(registry.media())


def test_a_medium_that_is_wrong_names_its_distribution_and_harms_no_other(points, caplog):
    folder, medium = points(3), Medium("mine", "", "m:M", (".xyz",))
    registry.offer(medium, lambda: print, "the medium of their-dist 1.0")
    with pytest.raises(PluginError, match="SourceSamples") as caught:
        open_data(folder, [ROW])
    assert "their-dist 1.0" in caught.value.where

    class Odd(ValueSamples):
        def takes(self, inputs, constants):
            return 1 / 0

    registry.offer(medium, lambda: Odd, "the medium of their-dist 1.0")
    with caplog.at_level(logging.WARNING), pytest.raises(DataError):
        open_data(folder, [ROW])
    assert "their-dist 1.0" in caplog.text

    class Failing(ValueSamples):
        @classmethod
        def takes(cls, inputs, constants):
            return True

    registry.offer(medium, lambda: Failing, "the medium of their-dist 1.0")
    with pytest.raises(PluginError, match="abstract"):
        open_data(folder, [ROW])


def test_what_a_plugins_code_raises_names_it_on_the_command_line(install, points, tmp_path, capsys):
    wide = EXAMPLE.replace("(3,)", "(8,)").replace("raise UnreadableError(", "raise KeyError(")
    install("their-dist", "points", wide.replace("reshape(3)", "reshape(99)"))
    onnx.save(nw.mlp(), tmp_path / "net.onnx")
    given = ["finetune", tmp_path / "net.onnx", points(8, 24), "--case", "small-similar"]
    assert main([*map(str, given), "-o", str(tmp_path / "out.onnx"), "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "plugin"
    assert "their-dist 1.0" in error["where"]
