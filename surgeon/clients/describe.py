"""The side file: what a client must know of an ONNX file, as JSON beside it.

For those that cannot read metadata, as JavaScript. What must not enter: finding it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgeon.records import TextEncoding, as_json
from surgeon.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgeon.clients.facts import Facts


def describe(
    facts: Facts, sha256: str, preprocess: Mapping[str, Any] | None, tokenizer: str | None
) -> dict[str, Any]:
    """Return the document of the side file.

    Args:
        facts: of the file.
        sha256: of its bytes.
        preprocess: what it says of that, whole.
        tokenizer: name of the tokenizer's file, where there is one.
    """
    rule = None if preprocess is None else dict(preprocess)
    if isinstance(facts.rule, TextEncoding) and rule is not None:
        rule.pop("tokenizer", None)
    thresholds = facts.thresholds
    probable = facts.kind in {"classification", "multi-label"}
    return {
        "surgeon": __version__,
        "file": facts.file,
        "sha256": sha256,
        "task": facts.task,
        "labels": None if facts.labels is None else list(facts.labels),
        "medium": facts.medium,
        "preprocess": rule,
        "embedded": facts.embedded,
        "tokenizer": tokenizer,
        "inputs": [as_json(one) for one in facts.inputs],
        "outputs": [as_json(one) for one in facts.outputs],
        "decoding": {
            "output": facts.output,
            "kind": facts.kind,
            "apply": facts.apply,
            "probabilities": probable and facts.apply == "nothing",
            "temperature": 1.0 if probable and facts.apply in {"softmax", "sigmoid"} else None,
            "thresholds": None
            if thresholds is None or facts.labels is None
            else dict(zip(facts.labels, thresholds, strict=True)),
            "stored": facts.stored,
        },
        "example": facts.example,
    }
