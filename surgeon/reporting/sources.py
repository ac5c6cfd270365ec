"""What a report is made of: documents that a verb printed, results, or what an ONNX file carries.

What must not enter: how anything looks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from surgeon.errors import DataError, UsageError
from surgeon.graph.reading import open_regular, parse_json
from surgeon.model import Model, load
from surgeon.records import as_json

KNOWN = {
    "finetune": ("history", "plan", "data", "metrics"),
    "evaluate": ("metrics", "confusion", "per_class"),
    "advise": ("candidates", "evidence", "why"),
    "inspect": ("operators", "opsets", "metadata"),
}
"""Verbs whose documents a report tells, with keys by which each is known."""
REMEDY = "give what `surgeon finetune`, `evaluate` or `advise` printed with --json, or an ONNX file"


def gather(source: Any) -> dict[str, dict[str, Any]]:
    """Return documents by their verbs.

    Args:
        source: one or several of paths, documents and results.

    Raises:
        DataError: one is no document of these verbs, or tells of a failure.
        UsageError: none was given, or two of one verb.
    """
    single = isinstance(source, str | os.PathLike | Mapping) or not isinstance(source, Iterable)
    found: dict[str, dict[str, Any]] = {}
    for one in [source] if single else source:
        verb, document = _read(one)
        if verb in found:
            raise UsageError(
                f"two documents of `{verb}`", where="report",
                remedy="one of each verb makes a page",
            )  # fmt: skip
        found[verb] = document
    if not found:
        raise UsageError("nothing to report", where="report", remedy=REMEDY)
    return found


def _read(source: Any) -> tuple[str, dict[str, Any]]:
    """Return a document and its verb."""
    if isinstance(source, str | os.PathLike):
        return _read_file(Path(source))
    if isinstance(source, Model):
        return "inspect", plain(_of_file(source))
    if not isinstance(source, Mapping):
        source = getattr(source, "document", dict)()
    return _known(plain(source), "report")


def _read_file(path: Path) -> tuple[str, dict[str, Any]]:
    """Read a file: JSON where it begins like that, else ONNX."""
    try:
        with open_regular(path) as stream:
            start = stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
            if not start.startswith((b"{", b"[")):
                return "inspect", plain(_of_file(load(path)))
            stream.seek(0)
            content = stream.read()
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror or error}", where=str(path), remedy=REMEDY
        ) from error
    try:
        found = parse_json(content.decode("utf-8-sig"))
    except ValueError as error:
        raise DataError(f"this is no JSON: {error}", where=str(path), remedy=REMEDY) from error
    return _known(found, str(path))


def _known(document: Any, where: str) -> tuple[str, dict[str, Any]]:
    """Return a document with its verb, if a report can tell it."""
    if not isinstance(document, dict):
        raise DataError("this is no document of surgeon", where=where, remedy=REMEDY)
    failure = document.get("error")
    if isinstance(failure, Mapping) and "message" in failure:
        raise DataError(
            f"the document tells of a failure: {failure['message']}", where=where,
            remedy="a report needs a run that came to its end",
        )  # fmt: skip
    verb = document.get("verb")
    fitting = [
        name for name, keys in KNOWN.items() if verb in (None, name) and document.keys() >= {*keys}
    ]
    if not fitting:
        what = f"a document of `{verb}`, which no report" if verb else "no document that a report"
        raise DataError(f"this is {what} tells", where=where, remedy=REMEDY)
    return fitting[0], document


def plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document as JSON would give it back."""
    text = json.dumps(as_json(dict(document)), default=_plain, allow_nan=False)
    found: dict[str, Any] = json.loads(text)
    return found


def _plain(value: Any) -> Any:
    return as_json(value.tolist()) if hasattr(value, "tolist") else str(value)


def _of_file(model: Model) -> dict[str, Any]:
    """Return what `inspect` says of a file, as far as a report tells it."""
    from surgeon.graph.describe import describe

    return {
        "path": model.where,
        "bytes": model.path.stat().st_size if model.path else model.proto.ByteSize(),
        "sha256": model.file_sha256,
        **describe(model.stored or model.proto, model.sketch()),
        "warnings": list(model.notes),
    }
