"""The guide's first plugin, as docs/plugins.md has it: installed it works, and its test passes."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import networks as nw
import pytest

import surgeon

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugins.md"
GUIDE = PAGE.read_text("utf-8")
SECTION = GUIDE.split("## From nothing to a published case")[1].split("\n## ")[0]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write the files of the guide, beside what pip would write of them; return its test."""
    (settings,) = re.findall(r"```toml\n(.*?)```", SECTION, re.DOTALL)
    module, test = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    project = tomllib.loads(settings)["project"]
    info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = project["entry-points"]["surgeon"]
    lines = "\n".join(f"{name} = {value}" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[surgeon]\n{lines}\n")
    (tmp_path / "half_way.py").write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield test
    sys.modules.pop("half_way", None)


def test_the_first_plugin_of_the_guide_works(written, monkeypatch):
    monkeypatch.setenv("SURGEON_STRICT_PLUGINS", "1")
    names: dict = {}
    exec(written, names)
    names["test_it_cuts_at_half_the_depth"]()
    patient = surgeon.operate(nw.residual(), "half-way", classes=3)
    assert patient.plan.case == "half-way"
    assert 0 < patient.plan.depth < 1
    for name in re.findall(r"\]\(([\w./-]+\.md)", GUIDE):
        assert (PAGE.parent / name).exists()
