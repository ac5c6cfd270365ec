"""Libraries that are not always installed: which extra brings each, and how its absence is told.

What must not enter: an import of one of them.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

from surgeon.errors import EnvironmentLacksError

EXTRAS = {
    "tokenizers": "text",
    "onnxruntime_extensions": "extensions",
    "pyarrow": "tables",
    "datasets": "hub",
    "pillow_heif": "images",
    "pydicom": "images",
    "soundfile": "sounds",
    "av": "video",
    "kornia": "augment",
    "matplotlib": "report",
    "netron": "view",
    "tensorboard": "track",
    "mlflow": "track",
}
"""{module: extra of our distribution}."""


def lacking(module: str, what: str) -> EnvironmentLacksError:
    """Return the error that says what needs a library which is not installed, with its pip line.

    Args:
        module: what could not be imported.
        what: needs it, as the subject of a sentence.
    """
    top = module.partition(".")[0]
    package = f"'onnx-surgeon[{EXTRAS[top]}]'" if top in EXTRAS else top
    return EnvironmentLacksError(
        f"{what} needs the package {top!r}, which is not installed",
        where=module,
        remedy=f"pip install {package}",
    )


def need(module: str, what: str) -> Any:
    """Import a library of an extra.

    Args:
        module: its name.
        what: needs it, as the subject of a sentence.

    Raises:
        EnvironmentLacksError: it is not installed; says which extra brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise lacking(error.name or module, what) from error


def installed(module: str) -> bool:
    """Say whether a library can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except ValueError:  # what a test put in its place, None above all
        return False
