"""The fences and the picture of the rooms are those of the one list; functions keep their size."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import rooms
import shape


def test_the_fences_are_made_of_the_list():
    assert rooms.FENCES.read_text("utf-8") == rooms.fences(), "python tests/rooms.py --write"


def test_the_page_shows_the_list():
    text = rooms.PAGE.read_text("utf-8")
    assert rooms.page(text) == text, "python tests/rooms.py --write"


def test_every_room_is_named_and_none_that_is_not_there():
    house = rooms.HERE / "surgeon"
    there = {path.stem for path in house.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {room.name for room in rooms.ROOMS} == there - {"__init__", "__pycache__"}


def test_functions_outside_ops_keep_their_size():
    """The keywords of public verbs, a line each, are as many as people need options."""
    public = {
        str(value.value).split(":")[1]
        for node in ast.walk(ast.parse((rooms.HERE / "surgeon" / "__init__.py").read_text("utf-8")))
        if isinstance(node, ast.Dict)
        for value in node.values
        if isinstance(value, ast.Constant)
    }
    over = [
        f"{one}: {one.lines} lines"
        for file, text in shape.files_of(rooms.HERE).items()
        if shape.room_of(file) != "ops"
        for one in shape.functions_of(file, text)
        if one.lines - (one.parameters if one.name in public else 0) > shape.LINES
    ]
    assert not over


def test_files_outside_ops_keep_their_size():
    over = [
        file
        for file, text in shape.files_of(rooms.HERE).items()
        if shape.room_of(file) != "ops"
        if text.count("\n") > shape.FILE
    ]
    assert not over


def test_what_is_counted():
    text = (
        "class A:\n"
        "    def f(self, a, /, b, *c, d, **e):\n"
        "        def inner(x): pass\n"
        "        return inner\n"
        "    @staticmethod\n"
        "    def g(a): pass\n"
    )
    found = {one.name: (one.lines, one.parameters) for one in shape.functions_of("a.py", text)}
    assert found == {"A.f": (3, 5), "A.f.inner": (1, 1), "A.g": (1, 1)}
