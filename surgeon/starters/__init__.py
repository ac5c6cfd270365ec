"""Distributions to begin a plugin with, one of each kind: small, whole, and to be written over.

The texts lie beside this file, `KIND/*.txt`, with `$name` and `$module` in the place of names. What
must not enter: code that runs.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from surgeon.errors import OutputError, UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Collection

HERE = Path(__file__).parent
KINDS = {
    "case": "surgeon finetune MODEL DATA --case $name -o tuned.onnx",
    "task": "surgeon finetune MODEL DATA --case small-similar --task $name -o tuned.onnx",
    "head": "surgeon finetune MODEL DATA --case small-similar --head $name -o tuned.onnx",
    "loss": "surgeon finetune MODEL DATA --case small-similar --loss $name -o tuned.onnx",
    "adapter": "surgeon finetune MODEL DATA --case large-similar --adapter $name -o tuned.onnx",
    "op": "surgeon ops",
    "data": "surgeon finetune MODEL $name:FILE --case small-similar -o tuned.onnx",
    "tracker": "surgeon finetune MODEL DATA --case small-similar --track $name -o tuned.onnx",
    "exporter": "surgeon plugins list",
    "check": "surgeon check MODEL",
}
"""{kind: how it is used}."""
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def write(
    name: str,
    kind: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    taken: Collection[str] = (),
) -> dict[str, Any]:
    """Write a distribution that offers something of a kind; return the body of `plugins new`.

    Args:
        name: of the distribution and of what it offers: lower case, words with hyphens between.
        kind: a key of `KINDS`.
        folder: where to; None = the name, here. It must not be there, or be empty.
        taken: names that others offer things by.

    Raises:
        UsageError: a name that cannot be one, or that is taken; a kind that there is not.
        OutputError: the folder is not empty, or cannot be written.
    """
    if kind not in KINDS:
        raise UsageError(
            f"there is no kind {kind!r}", where="--kind", remedy=f"one of {', '.join(KINDS)}"
        )
    module = _module(name)
    if name in taken:
        raise UsageError(
            f"something called {name!r} is offered already",
            where="NAME",
            remedy="choose another name; `surgeon plugins list` shows those that are taken",
        )
    target = Path(name if folder is None else folder)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise OutputError(
            "the folder is not empty" if target.is_dir() else "there is a file of this name",
            where=str(target),
            remedy="choose another with -o, or remove it",
        )
    words = {"name": name, "module": module, "kind": kind, "domain": f"org.example.{module}"}
    words["use"] = Template(KINDS[kind]).substitute(words)
    texts = {path.name.removesuffix(".txt"): path for path in sorted(HERE.glob("*.txt"))}
    for path in sorted((HERE / kind).glob("*.txt")):
        inside = path.name.removesuffix(".txt")
        texts[f"tests/test_{module}.py" if inside == "test.py" else f"{module}/{inside}"] = path
    try:
        for inside, path in texts.items():
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            text = Template(path.read_text("utf-8")).safe_substitute(words)
            (target / inside).write_text(text, "utf-8")
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}", where=str(target), remedy="choose another place"
        ) from error
    return {"path": str(target), "files": sorted(texts)}


def _module(name: str) -> str:
    """Return the name of a distribution as that of its module.

    Raises:
        UsageError: it cannot be one, or is taken.
    """
    module = name.replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(module):
        raise UsageError(
            f"{name!r} is no name of a plugin",
            where="NAME",
            remedy="lower case letters and digits, a letter first, words with hyphens between",
        )
    if importlib.util.find_spec(module) is not None:
        raise UsageError(
            f"there is a module {module!r} already",
            where="NAME",
            remedy="choose a name that nothing installed has",
        )
    return module
