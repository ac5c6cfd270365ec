"""DICOM: stored values are rescaled, seen through the file's first window, and become 8 bits.

Decisions: a file without a window is seen over all values that it could store, never over those
found, which differ between pictures; of several frames the first is taken; MONOCHROME1 is inverted.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read(content: bytes) -> Image.Image:
    """Return the picture, grey or RGB."""
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut

    said = pydicom.dcmread(io.BytesIO(content), force=True)
    values: NDArray[Any] = said.pixel_array
    if int(said.get("NumberOfFrames") or 1) > 1:
        values = values[0]
    if values.ndim == 3:
        return Image.fromarray((values >> max(int(said.BitsStored) - 8, 0)).astype(np.uint8))
    share = _seen(np.asarray(apply_modality_lut(values, said), np.float64), said)
    if said.PhotometricInterpretation == "MONOCHROME1":
        share = 1 - share
    return Image.fromarray(np.floor(share * 255 + 0.5).astype(np.uint8))


def _seen(values: NDArray[np.float64], said: Any) -> NDArray[np.float64]:
    """Return values through the window, 0..1 (DICOM PS3.3, C.11.2.1.2)."""
    centre, width = _first(said.get("WindowCenter")), _first(said.get("WindowWidth"))
    if centre is None or width is None:
        signed, bits = int(said.get("PixelRepresentation") or 0), int(said.BitsStored)
        ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
        slope, base = _first(said.get("RescaleSlope")), _first(said.get("RescaleIntercept"))
        low, high = sorted(ends * (1 if slope is None else slope) + (base or 0))
        return np.asarray(np.clip((values - low) / (high - low), 0, 1))
    function = said.get("VOILUTFunction") or "LINEAR"
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)))
    if function == "LINEAR":
        centre, width = centre - 0.5, max(width - 1, 1e-9)
    return np.asarray(np.clip((values - centre) / width + 0.5, 0, 1))


def _first(value: Any) -> float | None:
    try:
        return float(value[0])
    except TypeError:
        return None if value is None else float(value)
    except IndexError:
        return None
