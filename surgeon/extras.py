"""Libraries that are not always installed: which extra brings each, and how its absence is told.

What must not enter: an import of one of them.
"""

from __future__ import annotations

from surgeon.errors import EnvironmentLacksError

EXTRAS = {
    "tokenizers": "text",
    "pyarrow": "tables",
    "datasets": "hub",
    "soundfile": "audio",
    "scipy": "audio",
    "kornia": "augment",
    "matplotlib": "plot",
    "netron": "view",
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
