"""Sounds: WAV files mixed to one channel, brought to a rate and a length, scaled to -1..1.

RIFF is read here, in forty lines, because what is there does not serve: the standard library's
`wave` knows no floating-point samples; scipy takes a truncated file with a Python warning, which
threads cannot catch; a library of its own (soundfile) would be one more binary to install for a
format that has not changed since 1994. Compressed sounds are a further format, with that library.
Resampling is scipy's. What must not enter: features of sounds (spectra, mel bands), and any rate or
length that nobody stated.

Decisions: channels are averaged; a sound is resampled by a polyphase filter (Kaiser window, scipy's
`resample_poly`), then cut behind or padded with silence behind; floating-point samples beyond -1..1
are clipped; a file that ends before its header says so is broken.
"""

from __future__ import annotations

import struct
from math import ceil, gcd
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.data.elements import numpy_dtype
from surgeon.data.media.formats import read_further
from surgeon.data.sources import UnreadableError, ValueSamples, broken, describe_inputs
from surgeon.errors import DataError, UsageError
from surgeon.graph.encodings import MOST_RATE, missing_audio
from surgeon.records import AudioEncoding, TensorInfo, as_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.data.samples import Given

_FLOATS = frozenset({"float", "float16", "double"})
_PCM, _IEEE, _EXTENSIBLE = 1, 3, 0xFFFE
_STREAMED = 0xFFFFFFFF  # the size that a writer leaves who could not go back to the header
_FILTER = 10  # resample_poly's filter reaches this many samples of the slower rate to each side


def sound_input(
    inputs: Sequence[TensorInfo], constants: Mapping[str, NDArray[Any]]
) -> TensorInfo | None:
    """Return the one graph input that takes sounds, or None where there is not exactly one.

    It is float, of shape [batch, samples] or [batch, 1, samples]; constants do not count.
    """
    open_inputs = [info for info in inputs if info.name not in constants]
    if len(open_inputs) != 1:
        return None
    info = open_inputs[0]
    if info.dtype not in _FLOATS or info.batch_axis not in {0, None} or info.shape is None:
        return None
    single = len(info.shape) == 3 and (info.shape[1] == 1 or not isinstance(info.shape[1], int))
    return info if len(info.shape) == 2 or single else None


class SoundSamples(ValueSamples):
    """Sounds, from WAV files or from bytes, for the one graph input that takes sounds."""

    rule = AudioEncoding

    @classmethod
    def takes(cls, inputs: Sequence[TensorInfo], constants: Mapping[str, Any]) -> bool:
        """Say whether there is exactly one input for sounds."""
        return sound_input(inputs, constants) is not None

    @classmethod
    def missing(cls, where: str | None) -> UsageError:
        """Return the error where nothing says how sounds become values."""
        return missing_audio(where)

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        info = sound_input(self.inputs, self._constants)
        encoding = given.rule
        assert isinstance(encoding, AudioEncoding)
        if info is None or info.shape is None:
            raise DataError(
                "the model does not take sounds: exactly one float input of shape "
                "[batch, samples] or [batch, 1, samples] is needed",
                where=describe_inputs(self.inputs),
                remedy="give the other inputs as constants (--input state=0 for zeros), "
                "or the values themselves as an .npz",
            )
        length = info.shape[-1]
        if isinstance(length, int) and length != encoding.samples:
            raise UsageError(
                f"--audio gives {encoding.samples} samples, the graph takes {length}",
                where=f"graph input {info.name!r}",
                remedy=f"give --audio {encoding.rate},{length / encoding.rate:.9g}",
            )
        self._info = info
        self.encoding = encoding
        self._audio = encoding
        self._shape = (1, encoding.samples) if len(info.shape) == 3 else (encoding.samples,)
        self._cut: set[int] = set()
        self._resampled: set[int] = set()

    def _own_notes(self) -> list[str]:
        """How many of the sounds that were read had to be resampled or cut."""
        told = []
        if self._resampled:
            told.append(f"{len(self._resampled)} resampled to {self._audio.rate} Hz")
        if self._cut:
            told.append(f"{len(self._cut)} cut to {self._audio.seconds:g} s")
        return [f"of {self.n} sounds, {', '.join(told)}"] if told else []

    def _value(self, index: int) -> NDArray[Any]:
        content = self._content(index)
        further = read_further("sounds", str(self.names[index]), content)
        rate, sound = read_wav(content) if further is None else further
        wanted = self._audio.samples
        if len(sound) * self._audio.rate > wanted * rate:
            self._cut.add(index)
        if rate != self._audio.rate:
            self._resampled.add(index)
            sound = resample(sound, rate, self._audio.rate, wanted)
        sound = np.clip(sound[:wanted], -1, 1)
        padded = np.pad(sound, (0, wanted - len(sound)))
        return padded.astype(numpy_dtype(self._info.dtype)).reshape(self._shape)

    def _nothing(self) -> NDArray[Any]:
        return np.zeros((0, *self._shape), numpy_dtype(self._info.dtype))

    def _rule(self) -> dict[str, Any]:
        return {**as_json(self._audio), "source": None}


def read_wav(content: bytes) -> tuple[int, NDArray[np.float32]]:
    """Read a RIFF WAVE file: PCM of 8, 16, 24 or 32 bits, or IEEE floats of 32 or 64.

    Returns:
        The rate in Hz, and the mean of the channels as float32 [n]; integers are divided by their
        largest magnitude (8 bits: 128, around 128), floats are as they are.

    Raises:
        UnreadableError: no such file, truncated, empty, another encoding, or NaN in it.
    """
    form, data = _chunks(content)
    code, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", form)
    if code == _EXTENSIBLE and len(form) >= 26:
        (code,) = struct.unpack_from("<H", form, 24)
    if rate > MOST_RATE:
        message = f"its header says {rate:,} Hz, and no sound has more than {MOST_RATE:,}"
        raise UnreadableError(message)
    if not channels or not rate or align * 8 != channels * bits:
        message = f"its header is broken: {channels} channels, {rate} Hz, {bits} bits"
        raise UnreadableError(message)
    if not data or len(data) % align:
        raise UnreadableError("it has no sound" if not data else "it ends within a sample")
    samples = _samples(data, code, bits).reshape(-1, channels)
    if not np.isfinite(samples).all():
        message = "it holds NaN or infinity"
        raise UnreadableError(message)
    return rate, samples.mean(axis=1, dtype=np.float32)


def resample(
    sound: NDArray[np.float32], rate: int, new_rate: int, most: int
) -> NDArray[np.float32]:
    """Bring a sound [n] to another rate in Hz; at least `most` samples are right, if there are any.

    What lies too far behind to matter for the first `most` samples is left out.
    """
    from scipy.signal import resample_poly

    common = gcd(rate, new_rate)
    up, down = new_rate // common, rate // common
    reach = ceil(most * down / up) + 2 * (_FILTER * max(up, down) // up + 1)
    return np.asarray(resample_poly(sound[:reach], up, down), np.float32)


def _chunks(content: bytes) -> tuple[bytes, bytes]:
    """Return the format and the data of a WAVE file."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise broken(content, "not a RIFF WAVE file")
    form, position = b"", 12
    while position + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, position)
        body = content[position + 8 : position + 8 + size]
        if name == b"fmt ":
            form = body
        if name == b"data":
            if len(body) < size != _STREAMED:
                message = f"truncated: {len(body)} of {size} bytes of sound are there"
                raise UnreadableError(message)
            if len(form) < 16:
                break
            return form, body
        position += 8 + size + size % 2  # chunks begin at even places
    message = "its header is broken: no format or no data in it"
    raise UnreadableError(message)


def _samples(data: bytes, code: int, bits: int) -> NDArray[np.float32]:
    if code == _IEEE and bits in {32, 64}:
        found: NDArray[Any] = np.frombuffer(data, f"<f{bits // 8}")
        return found.astype(np.float32)
    if code == _PCM and bits == 8:
        return np.asarray(np.frombuffer(data, np.uint8) / 128 - 1, np.float32)
    if code == _PCM and bits == 24:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return np.asarray(wide.view("<i4").ravel() / 2**31, np.float32)
    if code == _PCM and bits in {16, 32}:
        whole: NDArray[Any] = np.frombuffer(data, f"<i{bits // 8}")
        return np.asarray(whole / 2 ** (bits - 1), np.float32)
    message = f"WAVE encoding {code:#x} of {bits} bits is not read; convert it to 16-bit PCM"
    raise UnreadableError(message)
