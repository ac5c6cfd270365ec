"""Reads time series out of sktime's text format (`.ts`), and sounds out of WAV files.

Reading only: what comes out is what the file says, in its order. Resampling and features are in
`encodings`.
"""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING

import numpy as np

from surgeon.errors import CheckError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_REMARKS = ("#", "@", "%")


def read_series(paths: Sequence[Path]) -> tuple[np.ndarray, list[str]]:
    """Read labelled series of equal length.

    Each line is one sample: channels separated by `:`, values by `,`, the label last.

    Args:
        paths: files of one data set, training part first.

    Returns:
        values float32 [n, channels, length] and n labels.
    """
    values, labels = [], []
    for path in paths:
        for line in path.read_text("utf-8").splitlines():
            if not line.strip() or line.startswith(_REMARKS):
                continue
            *channels, label = line.strip().split(":")
            values.append([[float(value) for value in one.split(",")] for one in channels])
            labels.append(label.strip())
    return np.array(values, np.float32), labels


def read_windows(paths: Sequence[Path], rate: int, length: int) -> np.ndarray:
    """Read sounds, one behind the other, and cut them into windows.

    Args:
        paths: WAV files of 16 bits and one channel.
        rate: samples per second that the files must have.
        length: samples of one window; a shorter rest is dropped.

    Returns:
        int16 [n, length].

    Raises:
        CheckError: a file has another form.
    """
    parts = []
    for path in paths:
        with wave.open(str(path)) as sound:
            if (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) != (rate, 1, 2):
                raise CheckError(
                    f"not {rate} Hz, one channel, 16 bits",
                    where=path.name,
                    remedy="update surgeon",
                )
            parts.append(np.frombuffer(sound.readframes(sound.getnframes()), "<i2"))
    whole = np.concatenate(parts).astype(np.int16)
    count = len(whole) // length
    return np.asarray(whole[: count * length].reshape(count, length))
