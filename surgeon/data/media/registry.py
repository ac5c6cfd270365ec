"""Which media there are, and which of them a folder or a file holds.

A medium is an entry: what its samples are called, the endings of its files, and the class that
reads them, a `SourceSamples` that says by itself which graph inputs it feeds (`takes`) and which
rule it needs (`rule`); or it is a further format of one, read by a function of its bytes. Ours
stand here; those of plugins are added by `offer`. What must not enter: reading of samples.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from surgeon.data.media.pictures import SUFFIXES as PICTURE_SUFFIXES
from surgeon.errors import PluginError, SurgeonError
from surgeon.plugin.calls import warn
from surgeon.records import Medium

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from surgeon.data.samples import Given, Samples
    from surgeon.data.sources import SourceSamples
    from surgeon.records import TensorInfo

_HERE = "surgeon.data.media"
PICTURES = Medium(
    "pictures", "decoded, resized, normalized", f"{_HERE}.pictures:ImageSamples", PICTURE_SUFFIXES
)
SERIES = Medium(
    "series", "values of steps in time", f"{_HERE}.series:SeriesSamples", (".npy", ".csv")
)
TEXTS = Medium("texts", "tokenized and padded", f"{_HERE}.texts:TextSamples", (".txt",))
SOUNDS = Medium(
    "sounds", "brought to one rate and length", f"{_HERE}.sounds:SoundSamples", (".wav", ".wave")
)
_OWN = (PICTURES, SERIES, TEXTS, SOUNDS)
_FORMATS = (
    Medium(
        "heic", "photographs of phones", f"{_HERE}.heic:read", (".heic", ".heif", ".hif"),
        of="pictures", needs="pillow_heif",
        marks=tuple((4, b"ftyp" + brand) for brand in (b"heic", b"heix", b"mif1", b"msf1")),
    ),
    Medium(
        "dicom", "medical pictures, in their window", f"{_HERE}.dicom:read", (".dcm", ".dicom"),
        of="pictures", needs="pydicom", marks=((128, b"DICM"),),
    ),
    Medium(
        "video", "the frame in the middle", f"{_HERE}.video:read",
        (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"), of="pictures", needs="av", named=True,
    ),
    Medium(
        "compressed-sound", "FLAC, Ogg, MP3", f"{_HERE}.compressed:read",
        (".flac", ".ogg", ".oga", ".opus", ".mp3"), of="sounds", needs="soundfile",
        marks=((0, b"fLaC"), (0, b"OggS"), (0, b"ID3")),
    ),
)  # fmt: skip
_OFFERED: dict[str, tuple[Medium, Callable[[], Any], str]] = {}
_SHOWN = 2


def forget() -> None:
    """Drop the media of plugins."""
    _OFFERED.clear()


def offer(medium: Medium, load: Callable[[], Any], whose: str = "a plugin") -> None:
    """Add a medium of a plugin; the same one again changes nothing.

    Args:
        medium: what it is called, and the endings of its files.
        load: imports its class.
        whose: the offer and its distribution, for errors.

    Raises:
        PluginError: its name or an ending is another's, or is none.
    """
    others = [one for one in (*media(), *formats()) if one is not medium and one != medium]
    taken = [one.name for one in others if one.name == medium.name]
    taken += [word for one in others for word in medium.suffixes if word in one.suffixes]
    odd = [word for word in medium.suffixes if word[:1] != "." or word != word.lower()]
    if taken or odd or not medium.suffixes:
        raise PluginError(
            f"{taken[0]!r} is taken by another medium"
            if taken
            else f"its endings are {medium.suffixes!r}, not such as ('.xyz',) in lower case",
            where=whose,
            remedy="tell its author; SURGEON_DISABLE_PLUGINS leaves its distribution out",
        )
    _OFFERED[medium.name] = medium, load, whose


def media() -> Iterator[Medium]:
    """Yield every medium in the order in which they are asked: those of plugins first."""
    yield from (medium for medium, _, _ in _OFFERED.values() if not medium.of)
    yield from _OWN


def formats(medium: Medium | None = None) -> Iterator[Medium]:
    """Yield further formats of a medium, or of all; those of plugins first."""
    for one in (*(found for found, _, _ in _OFFERED.values()), *_FORMATS):
        if one.of and (medium is None or one.of == medium.name):
            yield one


def reader_of(form: Medium) -> Callable[[bytes], Any]:
    """Return the function that reads a format."""
    if form.name in _OFFERED:
        found: Callable[[bytes], Any] = _OFFERED[form.name][1]()
        return found
    module, _, name = form.code.partition(":")
    own: Callable[[bytes], Any] = getattr(importlib.import_module(module), name)
    return own


def code_of(medium: Medium) -> type[SourceSamples]:
    """Return the class that reads a medium.

    Raises:
        PluginError: a plugin offers what is none.
    """
    if medium.name in _OFFERED:
        from surgeon.data.sources import SourceSamples

        _, load, whose = _OFFERED[medium.name]
        found = load()
        if not (isinstance(found, type) and issubclass(found, SourceSamples)):
            raise PluginError(
                f"{medium.code} is no subclass of surgeon.media.SourceSamples",
                where=whose,
                remedy="tell its author",
            )
        return found
    module, _, name = medium.code.partition(":")
    own: type[SourceSamples] = getattr(importlib.import_module(module), name)
    return own


def takes(medium: Medium, inputs: Sequence[TensorInfo], constants: Mapping[str, Any]) -> bool:
    """Say whether a medium feeds these graph inputs; a plugin's that cannot say so does not."""
    code = code_of(medium)
    if medium.name not in _OFFERED:
        return code.takes(inputs, constants)
    try:
        return bool(code.takes(inputs, constants))
    except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything
        whose = _OFFERED[medium.name][2]
        warn(f"{whose} cannot say which inputs it feeds: {type(error).__name__}: {error}")
        return False


def make(medium: Medium, given: Given, where: str | None) -> Samples:
    """Make samples of files, or bytes, of one medium.

    Raises:
        UsageError: nothing says by which rule their content becomes values.
        DataError: the graph's inputs do not take them.
        PluginError: the class of a plugin fails.
    """
    code = code_of(medium)
    if code.rule and not isinstance(given.rule, code.rule):
        raise code.missing(where)
    code = code.suited(given.rule)
    if medium.name not in _OFFERED:
        return code(given)
    try:
        return code(given)
    except SurgeonError:
        raise
    except Exception as error:
        raise PluginError(
            f"it cannot open data: {type(error).__name__}: {error}",
            where=_OFFERED[medium.name][2],
            remedy="tell its author; --traceback shows where it came from",
        ) from error


def examples(medium: Medium) -> str:
    """Return a few endings of its files, for a message."""
    more = ", ..." if len(medium.suffixes) > _SHOWN else ""
    return ", ".join(medium.suffixes[:_SHOWN]) + more


def is_of(path: Path, medium: Medium) -> bool:
    """Say whether a file is of this medium, by its ending."""
    return path.suffix.lower() in medium.suffixes or format_of(path, medium) is not None


def counts_in_folders(path: Path, medium: Medium) -> bool:
    """Say whether a file that nobody named is a sample of this medium, by its ending."""
    form = format_of(path, medium)
    return is_of(path, medium) and not (form is not None and form.named)


def format_of(path: Path, medium: Medium) -> Medium | None:
    """Return the further format of a medium that a file's ending says, or None."""
    suffix = path.suffix.lower()
    return next((one for one in formats(medium) if suffix in one.suffixes), None)
