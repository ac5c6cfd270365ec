"""Plugins as third parties install them."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a module as a distribution of its own, as pip would leave it on disk."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    modules = []

    def put(distribution, entry, content, *, version="1.0"):
        module = f"fixture_{distribution.replace('-', '_')}_{len(modules)}"
        modules.append(module)
        (site / f"{module}.py").write_text(content)
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        points = info / "entry_points.txt"
        text = points.read_text() if points.exists() else "[surgeon]\n"
        points.write_text(f"{text}{entry} = {module}\n")

    yield put
    for module in modules:
        sys.modules.pop(module, None)
