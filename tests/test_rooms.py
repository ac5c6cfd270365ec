"""The fences and the picture of the rooms are those of the one list; functions keep their size."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import rooms
import shape


def test_the_fences_are_made_of_the_list():
    assert rooms.FENCES.read_text("utf-8") == rooms.fences(), "python tests/rooms.py --write"


def test_the_page_shows_the_list():
    text = rooms.PAGE.read_text("utf-8")
    assert rooms.page(text) == text, "python tests/rooms.py --write"


def named_in(file: Path) -> set[str]:
    """Return what a file defines: functions, classes and their methods, constants."""
    names = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            within = node.body if isinstance(node, ast.ClassDef) else []
            names |= {
                f"{node.name}.{one.name}" for one in within if isinstance(one, ast.FunctionDef)
            }
    return names


def test_what_the_page_says_where_to_look_is_there():
    section = rooms.PAGE.read_text("utf-8").split("## Where to look")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+\?) \| `(.+)` \| (.+) \|$", section, re.MULTILINE)
    assert len(rows) == section.count("\n|") - 2
    lost = {
        (question, file, name)
        for question, file, names in rows
        for name in re.findall(r"`([^`]+)`", names)
        if name not in named_in(rooms.HERE / file)
    }
    assert not lost


def test_modules_that_the_page_names_are_there():
    """`graph.cuts` is a module of a room, or what its one module defines."""
    house, lost = rooms.HERE / "surgeon", set()
    for room, name in re.findall(r"`([a-z_]+)\.([a-z_]+)`", rooms.PAGE.read_text("utf-8")):
        module = house / f"{room}.py"
        if module.is_file():
            defined = {one.rpartition(".")[2] for one in named_in(module)}
        else:
            defined = {path.stem for path in (house / room).glob("*")}
        if room in {one.name for one in rooms.ROOMS} and name not in defined:
            lost.add(f"{room}.{name}")
    assert not lost


def test_the_picture_leaves_out_arrows_that_others_imply():
    found = {room.name: set() for room in rooms.ROOMS}
    found |= {"cli": {"job", "graph", "errors"}, "job": {"graph"}, "graph": {"options", "plugin"}}
    drawn = rooms.picture(found).splitlines()[2:-1]
    assert [line.strip() for line in drawn] == [
        "cli --> job",
        "job --> graph_[graph]",
        "graph_[graph] --> plugin",
    ]


def test_what_rooms_import_is_found_anywhere_in_them():
    found = rooms.imports()
    assert {"job", "advice"} <= found["operation"]  # inside its functions
    assert "model" in found["intake"]  # for type checking
    assert found["errors"] == set()


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


def test_no_two_files_of_tests_have_one_name():
    named = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(named) == sorted(set(named))  # pytest refuses the second one
