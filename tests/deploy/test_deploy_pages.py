"""The pages for each client hold the very programs that are written for a file."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from surgeon.clients import LANGUAGES

_spec = importlib.util.spec_from_file_location("pages", Path(__file__).with_name("pages.py"))
pages = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pages)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_page_holds_the_program_of_its_language(language):
    text = (pages.PAGES / f"{language}.md").read_text("utf-8")
    assert f"<!-- program: {language}" in text
    assert pages.filled(text) == text, "python tests/deploy/pages.py --write"
    assert f"({language}.md)" in (pages.PAGES / "README.md").read_text("utf-8")


def test_links_of_the_pages_lead_somewhere():
    for page in pages.PAGES.glob("*.md"):
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
