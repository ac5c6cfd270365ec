"""JSON Schemas (draft 2020-12) of every document the command line writes, one file per verb.

They hold the outside contract: a missing key or a wrong type fails, further keys are allowed.
`error.json` describes the document of a failure, whichever the verb.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from surgeon.errors import UnknownNameError


def names() -> list[str]:
    """Return the documents that have a schema: verbs, `version` and `error`."""
    suffix = ".json"
    found = (file.name for file in files(__package__).iterdir())
    return sorted(name.removesuffix(suffix) for name in found if name.endswith(suffix))


def load(verb: str) -> dict[str, Any]:
    """Return the schema of a verb's document, or of the failure document (`error`).

    Raises:
        UnknownNameError: there is no document of that name.
    """
    if verb not in names():
        raise UnknownNameError("document", verb, names())
    text = files(__package__).joinpath(f"{verb}.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
