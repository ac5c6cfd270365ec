"""FLAC, Ogg (Vorbis, Opus) and MP3: decoded, and mixed to one channel as WAV is."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.data.sources import UnreadableError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read(content: bytes) -> tuple[int, NDArray[np.float32]]:
    """Return the rate in Hz, and the mean of the channels, [n]."""
    import soundfile

    found: tuple[NDArray[Any], int] = soundfile.read(
        io.BytesIO(content), dtype="float32", always_2d=True
    )
    samples, rate = found
    if not len(samples):
        raise UnreadableError("it has no sound")
    return int(rate), samples.mean(axis=1, dtype=np.float32)
