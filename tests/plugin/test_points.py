"""Entry points read from their files are those that importlib.metadata finds."""

from __future__ import annotations

import sys
import zipfile
from importlib import metadata

import pytest

from surgeon.plugin.manager import load_plugins
from surgeon.plugin.points import Point, entry_points

VERBS = """
from surgeon.plugin import hookimpl

@hookimpl
def surgeon_commands(cli):
    cli.add("theirs", "their:command", "what it does")
"""
CASES = """
raise RuntimeError("this is not asked for a help text")
"""


def by_metadata(group):
    found = metadata.entry_points(group=group)
    return sorted((one.name, one.value, one.dist.name, one.dist.version) for one in found)


@pytest.mark.parametrize("group", ["surgeon", "console_scripts", "pytest11", "no.such.group"])
def test_the_same_as_the_standard_library_finds(group):
    assert sorted(map(tuple, entry_points(group))) == by_metadata(group)


def test_the_first_distribution_of_a_name_on_the_path_counts(install, tmp_path, monkeypatch):
    install("two-parts", "first", VERBS, version="2.0")
    other = tmp_path / "other" / "Two_Parts-1.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Name: two-parts\nVersion: 1.0\n\nVersion: 9\n")
    (other / "entry_points.txt").write_text("; said by hand\n[surgeon]\nold = gone [extra]\n")
    monkeypatch.syspath_prepend(str(other.parent))
    found = [point for point in entry_points("surgeon") if point.distribution == "two-parts"]
    assert found == [Point("old", "gone [extra]", "two-parts", "1.0")]
    assert sorted(map(tuple, entry_points("surgeon"))) == by_metadata("surgeon")
    assert found[0].module == "gone"


def test_what_lies_in_an_archive_is_found_by_the_standard_library(tmp_path, monkeypatch):
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("packed-1.0.dist-info/METADATA", "Name: packed\nVersion: 1.0\n")
        archive.writestr("packed-1.0.dist-info/entry_points.txt", "[surgeon]\npacked = packed\n")
    monkeypatch.setattr(sys, "path", [str(path), *sys.path])
    assert Point("packed", "packed", "packed", "1.0") in entry_points("surgeon")


def test_an_attribute_is_loaded():
    assert Point("a", "os.path:join").load() is __import__("os").path.join
    assert Point("a", "json:decoder.JSONDecoder [extra]").load() is __import__("json").JSONDecoder


def test_a_help_text_asks_only_who_may_add_verbs(install):
    install("with-verbs", "verbs", VERBS)
    install("with-a-case", "case", CASES)
    install("with-all-of-another", "all", "from surgeon.plugin import *\n")
    found = load_plugins(verbs=True)
    assert found.warnings == ()
    named = {plugin.name for plugin in found.loaded}
    assert {"verbs", "all", "models"} <= named
    assert not {"case", "large-similar"} & named
    assert any("not asked" in line for line in load_plugins().warnings)
