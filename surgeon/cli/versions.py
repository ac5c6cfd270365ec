"""Versions of the libraries surgeon stands on, read from their metadata: nothing is imported."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from surgeon.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgeon.cli.screen import Screen

LIBRARIES = (
    "onnx",
    "onnx-graphsurgeon",
    "onnxruntime-gpu",
    "onnxruntime",
    "torch",
    "numpy",
    "scikit-learn",
    "safetensors",
    "pillow",
    "datasets",
    "kornia",
    "pluggy",
    "click",
    "rich",
)


def versions() -> dict[str, str | None]:
    """Return name → version, None for a library that is not installed."""
    return {"surgeon": __version__, "python": platform.python_version()} | {
        name: installed(name) for name in LIBRARIES
    }


def installed(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def show_versions(screen: Screen, body: Mapping[str, Any]) -> None:
    """One line per library that is there."""
    for name, number in body["versions"].items():
        if number is not None:
            screen.line(f"{name} {number}")
