"""At 80 columns nothing is torn apart, and what the demo shows differs row by row."""

from __future__ import annotations

import io
import re

import pytest

from surgeon.cli.screen import Screen
from surgeon_models import demo
from surgeon_models.demo_command import show


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    return Screen(Terminal())


def lines(screen) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", screen.stream.getvalue()).splitlines()


def row(case, **changes):
    return {
        "case": case, "cut": "@0.3265", "tensor": "t", "init": "pretrained", "bytes": 13_600_000,
        "trained_parameters": 3_360_000, "images_seen": 10_790, "seconds": 123.4, "like": None,
        "accuracy": 0.955, "latency": 0.0189, "delivered": "tuned", **changes,
    }  # fmt: skip


def test_the_table_of_the_demo_fits(screen):
    show(screen, {"rows": [row(case) for case in demo.CASES]})
    written = lines(screen)
    assert max(map(len, written)) <= 80
    for case in demo.CASES:  # a whole row on one line
        (line,) = [text for text in written if text.startswith(case)]
        assert "@0.33" in line
        assert line.rstrip().endswith("ms")


def test_a_row_that_shows_what_another_shows_is_left_out_with_the_reason(screen):
    rows = [row("small-similar"), row("large-similar", delivered="probe", bytes=13_600_400)]
    rows[-1]["like"] = demo._like(rows)
    assert rows[-1]["like"] == "small-similar"
    rows.append(row("large-different", accuracy=0.966))
    assert demo._like(rows) is None
    show(screen, {"rows": rows})
    assert not any(line.startswith("large-similar") for line in lines(screen))


def test_facts_and_lines_are_wrapped_between_words(screen):
    words = " ".join(["word"] * 40)
    screen.facts({"name": words, "tensor": "t" * 120})
    screen.line(words)
    written = lines(screen)
    assert all(len(line) <= 80 for line in written if "word" in line)
    assert written[1].startswith(" " * 8 + "word")
    assert "t" * 120 in "".join(written)  # a name is never torn apart


def test_nothing_is_wrapped_where_there_is_no_terminal():
    plain = Screen(io.StringIO())
    plain.facts({"name": "word " * 40})
    assert len(plain.stream.getvalue().splitlines()) == 1


def test_columns_give_way_in_their_order_where_there_is_no_room(screen):
    name = "/backbone/layer4/layer4.1/conv2/Conv_output_0"
    columns = ("depth", "tensor", "shape", "parameters", "size", "")
    rows = [("@0.5000", name, "batch×512×7×7", "11.17 M", "44.7 MB", "late")]
    screen.table(columns, rows, gives_way=("size", "parameters"))
    written = lines(screen)
    assert any(name in line and "late" in line for line in written)  # on one line, in one piece
    assert "44.7 MB" not in "".join(written)
    assert "size" in written[-1]
    screen.stream.truncate(0)
    screen.table(columns[:2], [("@0.5000", "short")], gives_way=("tensor",))
    assert "short" in screen.stream.getvalue()
