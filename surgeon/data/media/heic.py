"""HEIC, HEIF: what phones photograph in. Turned upright by the file itself."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def read(content: bytes) -> Image.Image:
    """Return the first picture."""
    import pillow_heif

    found: Image.Image = pillow_heif.open_heif(io.BytesIO(content)).to_pillow()
    return found
