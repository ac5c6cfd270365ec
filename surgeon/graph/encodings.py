"""How texts and sounds become graph inputs: the options, the JSON kept in the file.

The counterpart of `preprocess` for what is no picture. The JSON stands under the same metadata key
and says its `kind`; a document without one, or of kind `image`, is a picture's. What must not
enter: tokenizing and reading (`surgeon.data`), and any default that the user did not ask for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from surgeon.errors import UnknownNameError, UsageError
from surgeon.graph import rule as stated_rule
from surgeon.graph.preprocess import PRESETS, parse_preprocess, read_document
from surgeon.graph.reading import misnamed, parse_json, read_bytes
from surgeon.records import AudioEncoding, Encoding, Preprocess, TextEncoding, as_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from surgeon.records import TensorInfo

KINDS = ("image", "text", "audio")
_KEYS = {
    "text": ("tokenizer", "max_length", "length", "embedded", "rule"),
    "audio": ("rate", "seconds", "rule"),
}
_AUDIO_REMEDY = "give RATE,SECONDS, for example --audio 16000,1.5"
PACKED = "zlib_base64"
"""Key of the packed tokenizer: its JSON in UTF-8, compressed by zlib, in base64."""
MOST_RATE = 1_000_000
"""Hz; recorders of bats reach half of it."""
_LARGEST = 2**28  # bytes of a tokenizer; those of 250,000 tokens have 17 million
_LIMIT = 2**26  # samples of one sound: more than an hour at 16 kHz


def parse_option(
    option: str | Path | Mapping[str, Any] | Preprocess | Encoding,
    image_input: TensorInfo | None = None,
    size: str | int | tuple[int, int] | None = None,
    source: str = "option",
) -> Preprocess | Encoding:
    """Read what stands behind `--preprocess` or in a file's metadata, of whatever kind.

    Raises:
        UsageError: as `parse_preprocess`, `parse_text` and `parse_audio`; or an unknown kind.
    """
    if isinstance(option, TextEncoding | AudioEncoding):
        return option
    if not isinstance(option, Preprocess) and not (isinstance(option, str) and option in PRESETS):
        document = dict(option) if isinstance(option, Mapping) else read_document(option)
        kind = document.pop("kind", None) or "image"
        if kind not in KINDS:
            raise UnknownNameError("kind of preprocessing", str(kind), KINDS, where="--preprocess")
        if kind != "image":
            return _parse_document(kind, document, source)
        option = document
    return parse_preprocess(option, image_input, size, source=source)


def parse_text(
    tokenizer: str | Path | Mapping[str, Any],
    max_length: int | None = None,
    *,
    length: int | None = None,
    source: str = "option",
) -> TextEncoding:
    """Read what stands behind `--tokenizer`: a file of the `tokenizers` library, or its object.

    Args:
        tokenizer: the file's path; the API may also give the JSON object itself.
        max_length: tokens kept of each text.
        length: tokens every text is padded to.
        source: where it came from.

    Raises:
        UsageError: no such file, not a tokenizer's JSON, or a length below 1.
    """
    where = "--tokenizer"
    if isinstance(tokenizer, Mapping):
        document: Any = tokenizer
    else:
        where = str(tokenizer)
        remedy = "give a tokenizer.json, as `Tokenizer.save` of the tokenizers library writes it"
        try:
            content = read_bytes(tokenizer)
            wrong = misnamed(content)
            if wrong is not None:
                raise UsageError(
                    f"the tokenizer's file is {wrong[0]}", where=where, remedy=wrong[1]
                )
            document = parse_json(content)
        except (OSError, ValueError) as error:
            message = f"the tokenizer's file cannot be read: {error}"
            raise UsageError(message, where=where, remedy=remedy) from None
    if not isinstance(document, Mapping) or not isinstance(document.get("model"), Mapping):
        raise UsageError(
            "this is not the file of a tokenizer: it has no `model`",
            where=where,
            remedy="give a tokenizer.json (a vocabulary or tokenizer_config.json alone is not one)",
        )
    for option, number in (("--max-length", max_length), ("length", length)):
        if number is not None and (
            isinstance(number, bool) or not isinstance(number, int) or number < 1
        ):
            raise UsageError(f"{option} is {number!r}", where=option, remedy="give 1 or more")
    text = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return TextEncoding(text, max_length, length, source)


def parse_audio(
    option: str | Sequence[float] | AudioEncoding, source: str = "option"
) -> AudioEncoding:
    """Read what stands behind `--audio`: `RATE,SECONDS`, or the two numbers.

    Raises:
        UsageError: not two positive numbers, a rate that is not whole, or less than one sample.
    """
    if isinstance(option, AudioEncoding):
        return option
    try:
        parts: list[Any] = option.split(",") if isinstance(option, str) else list(option)
        rate, seconds = (float(part) for part in parts)
    except (TypeError, ValueError, OverflowError):
        message = f"--audio is {str(option)[:40]!r}, not RATE,SECONDS"
        raise UsageError(message, where="--audio", remedy=_AUDIO_REMEDY) from None
    good = math.isfinite(rate * seconds) and rate.is_integer() and 1 <= rate <= MOST_RATE
    if not good or not 1 <= round(rate * seconds) < _LIMIT:
        message = f"a rate of {rate:g} Hz and {seconds:g} s make no sound"
        raise UsageError(message, where="--audio", remedy=_AUDIO_REMEDY)
    return AudioEncoding(int(rate), seconds, source)


def from_index(rule: Mapping[str, Any], folders: Sequence[Path]) -> Encoding | None:
    """Turn what the model index says of a model's texts or sounds into a rule.

    Args:
        rule: the index's `encoding`; kinds that are no text and no plain sound give None.
        folders: where its tokenizer may lie: the first that holds it counts.
    """
    if rule.get("kind") == "text" and "tokenizer" in rule:
        for folder in folders:
            path = folder / str(rule["tokenizer"])
            if path.is_file():
                return parse_text(path, rule.get("max_length"), source="index")
        return None
    if rule.get("kind") == "audio" and "samples" in rule:
        return AudioEncoding(int(rule["rate"]), rule["samples"] / rule["rate"], "index")
    return None


def with_max_length(found: Preprocess | Encoding | None, max_length: int) -> TextEncoding:
    """Let `--max-length` override what a file says; a padded length goes with it.

    Raises:
        UsageError: there is no tokenizer to go with it.
    """
    if not isinstance(found, TextEncoding):
        raise UsageError(
            "--max-length is for texts, and there is no tokenizer",
            where="--max-length",
            remedy="add --tokenizer tokenizer.json",
        )
    return parse_text(json.loads(found.tokenizer), max_length, source=found.source or "option")


def as_document(rule: Preprocess | Encoding, *, brief: bool = False) -> dict[str, Any]:
    """Return the JSON object kept under `surgeon.preprocess`.

    Args:
        rule: pictures' documents have no `kind`; those of texts hold the whole tokenizer, packed.
        brief: what a person wants to know of the tokenizer instead of the tokenizer.
    """
    document: dict[str, Any] = {**as_json(rule), "rule": stated_rule.stated(rule)}
    if not document.get("embedded"):
        document.pop("embedded", None)
    if isinstance(rule, Preprocess):
        del document["draft"]  # the rule says it
        return document
    if isinstance(rule, AudioEncoding):
        return {"kind": "audio", **document}
    document["tokenizer"] = _gist(rule) if brief else {PACKED: _packed(rule.tokenizer)}
    return {"kind": "text", **document}


def tokenizer_bytes(rule: TextEncoding) -> int:
    """Return how much of a file the tokenizer takes."""
    return len(_packed(rule.tokenizer))


def _packed(text: str) -> str:
    data = text.encode("utf-8", "surrogatepass")
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _unpacked(tokenizer: Any) -> Any:
    """Return the tokenizer's object; files of earlier versions hold it as it is.

    Raises:
        UsageError: it is damaged.
    """
    if not isinstance(tokenizer, dict) or tokenizer.keys() != {PACKED}:
        return tokenizer
    try:
        held = zlib.decompressobj()
        data = held.decompress(base64.b64decode(tokenizer[PACKED], validate=True), _LARGEST)
        if not held.eof:
            raise ValueError("it is cut off, or larger than any tokenizer")  # noqa: TRY301 - as those of base64 and zlib
        return parse_json(data.decode("utf-8", "surrogatepass"))
    except (ValueError, TypeError, zlib.error, binascii.Error) as error:
        message = f"the file's tokenizer cannot be unpacked: {error}"
        raise UsageError(message, where="surgeon.preprocess", remedy="give --tokenizer") from None


def missing_tokenizer(where: str | None = None) -> UsageError:
    """Return the error for texts about whose tokens nothing is known."""
    return UsageError(
        "nothing says how texts become tokens of this model",
        where=where,
        remedy="give --tokenizer tokenizer.json (and --max-length N)",
    )


def missing_audio(where: str | None = None) -> UsageError:
    """Return the error for sounds about whose rate and length nothing is known."""
    return UsageError(
        "nothing says at which rate and length sounds go into this model",
        where=where,
        remedy=_AUDIO_REMEDY,
    )


def _parse_document(kind: str, document: dict[str, Any], source: str) -> Encoding:
    values = {key: value for key, value in document.items() if value is not None}
    values.pop("source", None)
    for key in values:
        if key not in _KEYS[kind]:
            raise UnknownNameError(f"key of {kind}", str(key), _KEYS[kind], where="--preprocess")
    needed = ("tokenizer",) if kind == "text" else ("rate", "seconds")
    missing = [key for key in needed if key not in values]
    if missing:
        message = f"the preprocessing of kind {kind} lacks {', '.join(missing)}"
        raise UsageError(message, where="--preprocess", remedy="add it")
    if kind == "audio":
        found: Encoding = parse_audio((values["rate"], values["seconds"]), source)
    else:
        tokenizer, length = _unpacked(values["tokenizer"]), values.get("length")
        found = parse_text(tokenizer, values.get("max_length"), length=length, source=source)
        found = replace(found, embedded=values.get("embedded") is True)
    if "rule" in values:
        stated_rule.require(values["rule"], found)
    return found


def _gist(rule: TextEncoding) -> dict[str, Any]:
    tokenizer = json.loads(rule.tokenizer)
    return {
        "model": tokenizer["model"].get("type"),
        "tokens": len(tokenizer["model"].get("vocab") or ()),
        "bytes": tokenizer_bytes(rule),
        "sha256": hashlib.sha256(rule.tokenizer.encode("utf-8", "replace")).hexdigest(),
    }
