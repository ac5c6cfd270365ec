"""The rule in the file: everything else that decides what a picture, sound or text becomes.

::

    {"size": [224, 224], "resize": "bilinear", …, "rule": {"version": 1, "orientation": "exif", …}}

The options of a preprocessing say what differs between models. What is always done, and what others
do otherwise (transparency, turned pictures, antialiasing, rounding), is stated here, so that a
stranger can do the same in any language; docs/deploy/preprocessing.md says what each entry means. A
rule of another version, or that says anything else, is refused: pixels would be others. What must
not enter: reading of pictures, sounds and texts (`surgeon.data`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import UsageError
from surgeon.records import AudioEncoding, Preprocess, TextEncoding

if TYPE_CHECKING:
    from surgeon.records import Encoding

VERSION = 1
DRAFT = "jpeg at 1/2, 1/4 or 1/8 with both sides at least twice the longer side of size"
_FILTERS = {"bilinear": "triangle", "bicubic": "cubic a=-0.5", "nearest": "nearest"}
_LUMA = "L = (19595 R + 38470 G + 7471 B + 32768) >> 16"
_SOUNDS = {
    "channels": "mean",
    "integers": "value / 2^(bits - 1), 8 bits: value / 128 - 1",
    "resample": "polyphase, Kaiser beta 5, 10 samples of the slower rate to each side",
    "length": "cut behind, or zeros behind",
    "clip": [-1, 1],
}
_TEXTS = {
    "tokenizer": "tokenizer.json of the tokenizers library, with its special tokens",
    "truncation": "to max_length, else as the tokenizer says; on its side",
    "padding": "to length, else to the longest of the batch; on the tokenizer's side",
    "mask": "1 for tokens, 0 for padding",
}


def stated(how: Preprocess | Encoding) -> dict[str, Any]:
    """Return the rule that goes with a preprocessing."""
    if isinstance(how, TextEncoding):
        return {"version": VERSION, **_TEXTS}
    if isinstance(how, AudioEncoding):
        return {"version": VERSION, **_SOUNDS}
    blends = how.resize != "nearest"
    return {
        "version": VERSION,
        "frame": "first",
        "orientation": "exif",
        "profile": "ignored",
        "rgb16": "upper byte",
        "grey16": "floor((value * 255 + top // 2) / top), top = 2^bits - 1",
        "cmyk": "(255 - K) * (255 - C) / 255, rounded half up",
        "alpha": "over white, rounded half up",
        "color": _LUMA if how.channels == "L" else "RGB",
        "draft": DRAFT if how.draft and blends else "none",
        "filter": _FILTERS[how.resize],
        "antialias": blends,
        "passes": "horizontal, vertical",
        "rounding": "half up to uint8 after each pass" if blends else "none",
        "crop": "none"
        if how.fit == "stretch"
        else "sides floor(side * ratio + 1e-6), at least size; centre, margin / 2 half to even",
    }


def require(found: Any, how: Preprocess | Encoding, where: str = "surgeon.preprocess") -> None:
    """Refuse a rule that says anything but what would be done.

    Raises:
        UsageError: naming the version, or the entries.
    """
    remedy = "use a newer surgeon, or say it by --preprocess"
    if not isinstance(found, dict):
        raise UsageError("the rule of the preprocessing is no object", where=where, remedy=remedy)
    version = found.get("version")
    if version != VERSION or isinstance(version, bool):
        raise UsageError(
            f"the rule of the preprocessing has version {version!r:.20}, and {VERSION} is known",
            where=where,
            remedy=remedy,
        )
    known = stated(how)
    wrong = [key for key, value in found.items() if key not in known or known[key] != value]
    if wrong:
        told = ", ".join(f"{key} {found[key]!r:.60}" for key in wrong)
        raise UsageError(
            f"the rule of the preprocessing says what is not done here: {told}",
            where=where,
            remedy=remedy,
        )


def drafts(found: Any) -> bool:
    """Say whether a rule lets large JPEGs be decoded at a fraction; a file without one does."""
    return found is None or (isinstance(found, dict) and found.get("draft") == DRAFT)


def image_metadata(how: Preprocess) -> dict[str, str | None]:
    """Return the entries that the ONNX specification names for pictures; None = none fits.

    They tell what values the graph takes, which is less than the rule.
    """
    if how.embedded:
        return _entries("Rgb8", "NominalRange_0_255")
    ends = (np.multiply.outer((0, 255), how.scale) - np.array(how.mean)[:, None]) / np.array(
        how.std
    )[:, None]
    ranges = {(0, 255): "NominalRange_0_255", (0, 1): "Normalized_0_1", (-1, 1): "Normalized_1_1"}
    fits = [name for pair, name in ranges.items() if np.allclose(ends, pair, atol=1e-6)]
    formats = {"RGB": "Rgb8", "BGR": "Bgr8", "L": "Gray8"}
    return _entries(formats[how.channels], fits[0] if fits else None)


def _entries(pixels: str, span: str | None) -> dict[str, str | None]:
    return {
        "Image.BitmapPixelFormat": pixels,
        "Image.ColorSpaceGamma": "SRGB",
        "Image.NominalPixelRange": span,
    }
