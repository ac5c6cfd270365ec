"""What the model zoo adds to surgeon: what it knows of a file, and its verbs.

At import only the standard library, `surgeon.records` and `surgeon.plugin`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgeon.plugin import hookimpl

if TYPE_CHECKING:
    from onnx import ModelProto

    from surgeon.records import Known


@hookimpl
def surgeon_known(sha256: str, model: ModelProto) -> Known | None:
    """Return what the index says of a file, by its hash or by its structure and weights."""
    from surgeon.graph.weights import to_array
    from surgeon.records import Known
    from surgeon_models import folder, recognise

    entry = recognise(model, sha256, to_array)
    if entry is None:
        return None
    return Known(
        name=entry.name,
        preprocess=entry.preprocess,
        encoding=entry.encoding,
        labels=entry.labels,
        folders=(str(folder(entry.name)),),
    )


@hookimpl
def surgeon_commands(cli: Any) -> None:
    """Add `surgeon models` and `surgeon demo`."""
    cli.add("models", "surgeon_models.command:models", "Real pretrained models to begin with.")
    cli.add("demo", "surgeon_models.demo_command:demo", "All four cases side by side on real data.")
