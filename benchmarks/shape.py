"""How long and how wide the code is, room by room: lines, longest function, most parameters.

    python benchmarks/shape.py                    # this checkout
    python benchmarks/shape.py --tree ../before   # another one
    python benchmarks/shape.py --over             # and every file and function past its bound

A function's lines are those from `def` to its last one, the docstring among them; `self` and `cls`
are no parameters. `tests/test_rooms.py` holds the bounds.
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parents[1]
LINES, PARAMETERS, FILE = 80, 8, 600
"""Most lines of a function, parameters of one, and lines of a file."""


@dataclass(frozen=True)
class Function:
    """A function: its file below `surgeon/`, name with its class's, lines and parameters."""

    file: str
    name: str
    lines: int
    parameters: int

    @property
    def room(self) -> str:
        """Name of the folder or module of `surgeon/` it is in."""
        return room_of(self.file)

    def __str__(self) -> str:
        return f"{self.file}:{self.name}"


def room_of(file: str) -> str:
    """Return the room of a file below `surgeon/`."""
    return file.split("/", maxsplit=1)[0].removesuffix(".py")


def files_of(tree: Path) -> dict[str, str]:
    """Return {file below `surgeon/`: its text}."""
    house = tree / "surgeon"
    return {
        path.relative_to(house).as_posix(): path.read_text("utf-8")
        for path in sorted(house.rglob("*.py"))
    }


def functions_of(file: str, text: str) -> Iterator[Function]:
    """Yield the functions and methods of a file, nested ones too."""

    def visit(node: ast.AST, names: tuple[str, ...], *, method: bool) -> Iterator[Function]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                here = (*names, child.name)
                given = child.args
                count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
                count += (given.vararg is not None) + (given.kwarg is not None)
                static = any(getattr(d, "id", "") == "staticmethod" for d in child.decorator_list)
                lines = (child.end_lineno or child.lineno) - child.lineno + 1
                bound = method and not static
                yield Function(file, ".".join(here), lines, count - bound)
                yield from visit(child, here, method=False)
            elif isinstance(child, ast.ClassDef):
                yield from visit(child, (*names, child.name), method=True)
            else:
                yield from visit(child, names, method=method)

    return visit(ast.parse(text), (), method=False)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=Path, default=HERE, help="a checkout")
    parser.add_argument("--over", action="store_true", help="name what is past its bound")
    arguments = parser.parse_args()
    files = files_of(arguments.tree)
    lines: dict[str, int] = defaultdict(int)
    rooms: dict[str, list[Function]] = defaultdict(list)
    for file, text in files.items():
        lines[room_of(file)] += text.count("\n")
        rooms[room_of(file)] += functions_of(file, text)
    print(f"{'room':<13} {'lines':>6}  {'longest function':<50}  most parameters")
    for room in sorted(lines):
        print(f"{room:<13} {lines[room]:>6}", end="")
        if rooms[room]:
            long = max(rooms[room], key=lambda one: one.lines)
            wide = max(rooms[room], key=lambda one: one.parameters)
            print(f"  {long.lines:>4} {long!s:<45}  {wide.parameters:>3} {wide}", end="")
        print()
    print(f"{'all':<13} {sum(lines.values()):>6}")
    print(f"{'without ops':<13} {sum(lines.values()) - lines['ops']:>6}")
    if arguments.over:
        every = [one for room, found in rooms.items() if room != "ops" for one in found]
        print(f"\nfunctions over {LINES} lines or {PARAMETERS} parameters, files over {FILE} lines")
        for one in sorted(every, key=lambda one: (one.room, -one.lines)):
            if one.lines > LINES or one.parameters > PARAMETERS:
                print(f"{one.lines:>5} lines {one.parameters:>3} parameters  {one}")
        for file, text in files.items():
            if text.count("\n") > FILE and room_of(file) != "ops":
                print(f"{text.count(chr(10)):>5} lines                {file}")


if __name__ == "__main__":
    main()
