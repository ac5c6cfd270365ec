"""The rooms of the house, once: fences and the table of the rooms are made of this list.

`python tests/rooms.py --write` writes `.importlinter`, which `make check` enforces, and the table
in docs/architecture.md, with a picture of what rooms really import; `tests/test_rooms.py` finds
them stale. A folder or module of `surgeon/` that is not named here fails.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
FENCES, PAGE = HERE / ".importlinter", HERE / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: made by tests/rooms.py -->", "<!-- end of rooms -->"


@dataclass(frozen=True)
class Room:
    """A folder or module of `surgeon/`: what it does, and the libraries that it may import."""

    name: str
    does: str
    libraries: tuple[str, ...] = ()


# From the top down: a room imports those below it, whether for running or for type checking.
ROOMS = (
    Room("__main__", "`python -m surgeon`"),
    Room("cli", "one small file per verb", ("click", "rich")),
    Room("testing", "the conformance kit: what a plugin offers, tried on nine families"),
    Room("operation", "the verbs: the order of the steps"),
    Room("reporting", "one page that tells a run or a file"),
    Room("blending", "weights between two files of one structure"),
    Room("comparing", "two files side by side: what moved, and how far"),
    Room("exporting", "a file in other forms, proven against the one it was made from"),
    Room("clients", "what runs a file elsewhere: its side file, programs in other languages"),
    Room("conversion", "a whole network in torch, and tensors back into a network"),
    Room("own_weights", "weights of one's own training loop, proven"),
    Room("tracking", "who hears what a run tells: the caller's progress, trackers"),
    Room("documents", "the bodies of JSON documents"),
    Room("advice", "which case, cut and preprocessing suit the data, by measurement"),
    Room("job", "one tuning: decided, frozen part run, stages, race, guard, proof", ("torch",)),
    Room("predicting", "answers of a file to inputs, written as they come"),
    Room("answer_file", "a file of answers on its way: CSV, JSON-lines, Parquet"),
    Room("inputs", "what is predicted, opened whole or part by part"),
    Room("answering", "a classifier's answers to samples, by ONNX Runtime"),
    Room("vectors", "what a file without a head gives of samples, by ONNX Runtime"),
    Room("intake", "preprocessing found, samples opened and divided"),
    Room("targets", "the task of a run settled, answers of samples read by it"),
    Room("outcome", "what operations return"),
    Room("resumption", "what an interrupted run left, and whether it may be replaced"),
    Room("model", "a graph, its origin, its plan"),
    Room("shown", "how results show themselves in a few lines"),
    Room("engines", "the fast ways of a frozen part on a GPU", ("torch",)),
    Room("probe", "what is learnt without steps: the head solved, evidence, the guard", ("torch",)),
    Room(
        "train", "the loop: batches, steps, schedules, optimisers, checkpoints", ("torch", "kornia")
    ),
    Room(
        "torch_graph", "graph → torch module and back: program, fused steps, parameters", ("torch",)
    ),
    Room("runtime", "ONNX Runtime: sessions, streams, features, proof", ("onnxruntime",)),
    Room("ops", "what each ONNX operator means in torch; sees no file and no graph", ("torch",)),
    Room("media", "what a medium of one's own is made of"),
    Room("data", "samples, labels, splits; one file per medium"),
    Room("tasks", "what an answer is: read, judged, told; the protocol of a task, in numpy"),
    Room("graph", "ONNX in, ONNX out: gate, normalize, shapes, cuts, old head, frontier, weights"),
    Room("plugin", "hooks, loading, what plugins offer and its settings", ("pluggy",)),
    Room("starters", "what `plugins new` writes: a small distribution of each kind"),
    Room("schemas", "the form of every document"),
    Room("options", "every option once: default, values, verbs, what it means"),
    Room("events", "what a run tells while it goes on"),
    Room("records", "the nouns that travel"),
    Room("offers", "what plugins yield; they import it from `records`"),
    Room("extras", "which extra brings a library, and the words where it is missing"),
    Room("errors", "the error tree"),
    Room("version", "the version"),
)
FENCED = ("click", "rich", "pluggy", "torch", "kornia", "onnxruntime", "onnx_graphsurgeon")
PLUGINS = (
    "surgeon_cases",
    "surgeon_tasks",
    "surgeon_heads",
    "surgeon_losses",
    *(
        f"surgeon_{one}"
        for one in ("multi", "lora", "batchnorm", "qat", "distill", "track", "detect")
    ),
)
PUBLIC = ("records", "events", "plugin", "errors", "tasks", "media")
"""All that a plugin of ours may know."""
OBJECTIVES = ("surgeon_losses",)
"""Plugins that know what torch minimises, too."""
INDEPENDENT = {"ops": ("graph", "data")}
"""Rooms that do not see rooms below them."""
ALONE = {"onnx_graphsurgeon": "surgeon.graph.builder"}
"""Libraries that one file alone imports."""


def contract(key: str, **settings: object) -> str:
    """Return one contract in the form of import-linter's own file."""
    lines = [f"[importlinter:contract:{key}]"]
    for name, value in settings.items():
        if isinstance(value, tuple | list):
            lines += [f"{name} =", *(f"    {item}" for item in value)]
        else:
            lines.append(f"{name} = {value}")
    return "\n".join(lines) + "\n"


def fences() -> str:
    """Return the whole configuration of import-linter."""
    roots = ("surgeon", "surgeon_models", *PLUGINS)
    parts = [
        "# Made by tests/rooms.py --write from its list of rooms; edit that list.\n"
        + contract("", root_packages=roots, include_external_packages="true").replace(
            "[importlinter:contract:]", "[importlinter]"
        ),
        contract(
            "rooms", name="Imports go down only, and every room is named", type="layers",
            containers=("surgeon",), layers=[room.name for room in ROOMS], exhaustive="true",
        ),
    ]  # fmt: skip
    for library in FENCED:
        outside = [f"surgeon.{room.name}" for room in ROOMS if library not in room.libraries]
        allowed = [room.name for room in ROOMS if library in room.libraries]
        only = ALONE.get(library, ", ".join(allowed))
        extra = {"ignore_imports": (f"{ALONE[library]} -> {library}",)} if library in ALONE else {}
        parts.append(
            contract(
                library, name=f"{library} only in {only}", type="forbidden",
                source_modules=[*outside, *PLUGINS[:2]], forbidden_modules=(library,),
                allow_indirect_imports="true", **extra,
            )
        )  # fmt: skip
    for room, unseen in INDEPENDENT.items():
        parts.append(
            contract(
                room, name=f"{room} does not see {' and '.join(unseen)}", type="forbidden",
                source_modules=(f"surgeon.{room}",),
                forbidden_modules=[f"surgeon.{one}" for one in unseen],
                allow_indirect_imports="true",
            )
        )  # fmt: skip
    parts.append(
        contract(
            "plugins", name="A plugin knows the nouns, errors, plugin and tasks, nothing else",
            type="forbidden", source_modules=PLUGINS, allow_indirect_imports="true",
            forbidden_modules=[f"surgeon.{r.name}" for r in ROOMS if r.name not in PUBLIC],
            ignore_imports=[f"{one}.** -> surgeon.train.objective" for one in OBJECTIVES],
        )
    )  # fmt: skip
    return "\n".join(parts)


def table() -> str:
    """Return the rooms as a table for people, from the top down."""
    rows = ["| room | what it does | may import |", "|---|---|---|"]
    alone = {module.split(".")[1]: lib for lib, module in ALONE.items()}
    for room in ROOMS:
        libraries = ", ".join(room.libraries)
        if room.name in alone:
            where = ALONE[alone[room.name]].split(".")[-1]
            libraries = f"{alone[room.name]} (`{where}.py` alone)"
        rows.append(f"| `{room.name}` | {room.does} | {libraries} |")
    return "\n".join(rows)


def imports(folder: Path = HERE / "surgeon") -> dict[str, set[str]]:
    """Return the rooms that each room imports, anywhere in its code, for type checking too."""
    found: dict[str, set[str]] = {room.name: set() for room in ROOMS}
    for file in sorted(folder.rglob("*.py")):
        room = file.relative_to(folder).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                within = node.module == "surgeon"
                named = [f"surgeon.{a.name}" for a in node.names] if within else [node.module]
            else:
                named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            others = {name.split(".")[1] for name in named if name.startswith("surgeon.")}
            if room in found:
                found[room] |= others & found.keys() - {room}
    return found


def picture(found: dict[str, set[str]]) -> str:
    """Return who imports whom, for mermaid: no arrow where other arrows lead there.

    Rooms that import neither a library nor a room but `errors` stand beneath all: left out.
    """
    below: dict[str, set[str]] = {}
    for room in reversed(ROOMS):
        below[room.name] = {under for one in found[room.name] for under in {one} | below[one]}
    base = {room.name for room in ROOMS if found[room.name] <= {"errors"} and not room.libraries}
    lines = ["```mermaid", "flowchart TD"]
    for room in ROOMS:
        direct = found[room.name] - base
        direct -= {under for one in direct for under in below[one]}
        if direct:
            to = " & ".join(_box(one.name) for one in ROOMS if one.name in direct)
            lines.append(f"    {_box(room.name)} --> {to}")
    return "\n".join([*lines, "```"])


def _box(name: str) -> str:
    """Return a room as mermaid takes it, where `graph` is a word of the language."""
    return {"graph": "graph_[graph]", "__main__": "main[__main__]"}.get(name, name)


def page(text: str) -> str:
    """Return the page with the table and the picture in their place."""
    head, rest = text.split(BEGIN)
    made = f"{table()}\n\n{picture(imports())}"
    return f"{head}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    if "--write" in sys.argv:
        FENCES.write_text(fences(), "utf-8")
        PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
    else:
        print(table(), picture(imports()), sep="\n\n")
