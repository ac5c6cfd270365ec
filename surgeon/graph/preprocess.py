"""How pictures become graph inputs: presets, the `--preprocess` option, the JSON kept in the file.

This room turns text into a `records.Preprocess` and back, checking every field. What must not
enter: reading of pictures (`surgeon.data`), and any default that the user did not ask for: what is
neither said nor fixed by the graph's input is an error that names the option.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from surgeon.errors import UnknownNameError, UsageError
from surgeon.graph import rule
from surgeon.graph.reading import parse_json, read_text, shown, what_lies_at
from surgeon.records import Preprocess, TensorInfo, as_json

if TYPE_CHECKING:
    from collections.abc import Mapping

METADATA_KEY = "surgeon.preprocess"
MOST_PIXELS = 2**26
"""Pixels of one picture: 8192x8192. More is a slip of the pen, and would not fit into memory."""

# value = (pixel · scale − mean) / std; layout and size come from the graph's input.
PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {
        "channels": "RGB",
        "scale": 1 / 255,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    },
    "minus-one-one": {"scale": 1 / 127.5, "mean": (1.0,), "std": (1.0,)},
    "zero-one": {"scale": 1 / 255, "mean": (0.0,), "std": (1.0,)},
    "raw": {"scale": 1.0, "mean": (0.0,), "std": (1.0,)},
    "efficientnet-lite": {"scale": 1.0, "mean": (127.0,), "std": (128.0,)},
    "caffe": {"channels": "BGR", "scale": 1.0, "mean": (104.0, 117.0, 123.0), "std": (1.0,)},
}
PRESETS["tf"] = PRESETS["minus-one-one"]

_CHOICES = {
    "layout": ("NCHW", "NHWC"),
    "channels": ("RGB", "BGR", "L"),
    "resize": ("bilinear", "bicubic", "nearest"),
    "fit": ("stretch", "crop"),
}
_KEYS = (
    *("preset", "layout", "channels", "size", "resize", "fit", "scale", "mean", "std", "bits"),
    *("draft", "embedded", "rule", "source"),
)
_VALUE_KEYS = {"scale", "mean", "std"}
_OPTION = "--preprocess"


def parse_preprocess(
    option: str | Path | Mapping[str, Any] | Preprocess,
    image_input: TensorInfo | None = None,
    size: str | int | tuple[int, int] | None = None,
    source: str = "option",
) -> Preprocess:
    """Read what stands behind `--preprocess`: a preset's name, a JSON object or a file holding one.

    Args:
        option: the text; the API may also give the object itself.
        image_input: the graph input the picture goes to; fills in layout, size and channels where
            its shape fixes them.
        size: what stands behind `--size` (`HxW`); overrides every other size.
        source: where the option came from (`option`, `metadata`, `index`, `measured`).

    Raises:
        UsageError: an unknown preset or key, a wrong type or value, a size or layout that neither
            the option nor the graph gives.
    """
    if isinstance(option, Preprocess):
        document: dict[str, Any] = as_json(option)
    elif isinstance(option, str) and option in PRESETS:
        document = {"preset": option}
    elif isinstance(option, str | Path):
        document = read_document(option)
    else:
        document = dict(option)
    return _build(document, image_input, parse_size(size), source)


def parse_size(size: str | int | tuple[int, int] | list[int] | None) -> tuple[int, int] | None:
    """Read `--size`: `HxW` or one number for a square, in pixels; None stays None.

    Raises:
        UsageError: not one or two positive integers.
    """
    if size is None:
        return None
    parts: list[Any] = size.lower().split("x") if isinstance(size, str) else _as_list(size)
    try:
        numbers = [_positive_integer(part) for part in parts]
    except (ValueError, TypeError, OverflowError):
        numbers = []
    if len(numbers) == 1:
        numbers *= 2
    if len(numbers) != 2:
        message = f"the size {str(size)[:40]!r} is not HxW in pixels"
        raise UsageError(message, where="--size", remedy="give for example --size 224x224")
    if numbers[0] * numbers[1] > MOST_PIXELS:
        raise UsageError(
            f"pictures of {numbers[0]}x{numbers[1]} have more than {MOST_PIXELS:,} pixels",
            where="--size",
            remedy="give the size that the network was made for, for example --size 224x224",
        )
    return numbers[0], numbers[1]


def to_json(preprocess: Preprocess) -> str:
    """Return the JSON text kept under `surgeon.preprocess`; keys sorted, so equal means equal."""
    return json.dumps(as_json(preprocess), sort_keys=True)


def from_json(text: str, image_input: TensorInfo | None = None) -> Preprocess:
    """Read the JSON text kept under `surgeon.preprocess`; `source` becomes `metadata`.

    Raises:
        UsageError: the text is not such a document.
    """
    try:
        document = parse_json(text)
    except ValueError as error:
        message = f"the file's {METADATA_KEY} is not JSON: {error}"
        raise UsageError(message, where=METADATA_KEY, remedy="give --preprocess") from None
    if not isinstance(document, dict):
        message = f"the file's {METADATA_KEY} is not a JSON object"
        raise UsageError(message, where=METADATA_KEY, remedy="give --preprocess")
    return _build(document, image_input, None, "metadata")


def missing_preprocess(where: str | None = None) -> UsageError:
    """Return the error for a picture model about whose preprocessing nothing is known."""
    names = ", ".join(PRESETS)
    return UsageError(
        "nothing says how pictures become values of this model",
        where=where,
        remedy=f"give --preprocess NAME (one of {names}), a JSON object or a file holding one",
    )


def infer_layout(image_input: TensorInfo | None) -> str | None:
    """Return NCHW or NHWC where the input's shape decides it, else None."""
    if image_input is None or image_input.shape is None or len(image_input.shape) != 4:
        return None
    first, last = image_input.shape[1] in {1, 3}, image_input.shape[3] in {1, 3}
    if first == last:
        return None
    return "NCHW" if first else "NHWC"


def read_document(option: str | Path) -> dict[str, Any]:
    """Read a JSON object, or a file that holds one.

    Raises:
        UsageError: neither.
    """
    text = str(option)
    where = _OPTION
    if not text.lstrip().startswith("{"):
        if what_lies_at(text) is None:
            raise UnknownNameError("preprocessing", shown(text), PRESETS, where=_OPTION)
        where = text
        try:
            text = read_text(text)
        except (OSError, UnicodeDecodeError) as error:
            message = f"cannot read the preprocessing file: {error}"
            raise UsageError(message, where=where, remedy="give a readable JSON file") from None
    try:
        document = parse_json(text)
    except ValueError as error:
        message = f"the preprocessing is not JSON: {error}"
        raise UsageError(message, where=where, remedy="give one JSON object") from None
    if not isinstance(document, dict):
        message = "the preprocessing is not a JSON object"
        raise UsageError(message, where=where, remedy='for example {"preset": "imagenet"}')
    return document


def _build(
    document: Mapping[str, Any],
    image_input: TensorInfo | None,
    size: tuple[int, int] | None,
    source: str,
) -> Preprocess:
    values = {key: value for key, value in document.items() if value is not None}
    for key in values:
        if key not in _KEYS:
            raise UnknownNameError("preprocessing key", str(key), _KEYS[:-3], where=_OPTION)
    preset = values.pop("preset", None)
    if preset is not None:
        if not isinstance(preset, str) or preset not in PRESETS:
            raise UnknownNameError("preprocessing preset", str(preset), PRESETS, where=_OPTION)
        values = {**PRESETS[preset], **values}
    _require_values(values)
    for key, allowed in _CHOICES.items():
        if key in values and values[key] not in allowed:
            message = f"{key} is {values[key]!r}, not one of {', '.join(allowed)}"
            raise UsageError(message, where=_OPTION, remedy="correct the key")
    if _flag(values, "embedded", default=False):
        image_input = None  # its sizes are those of pictures as they come
    layout = values.get("layout") or infer_layout(image_input)
    if layout is None:
        raise UsageError(
            "the layout is neither given nor decided by the shape of the graph's input",
            where=_where(image_input),
            remedy='say it, for example --preprocess \'{"preset": "imagenet", "layout": "NCHW"}\'',
        )
    channels = _resolve_channels(values.get("channels"), layout, image_input)
    count = 1 if channels == "L" else 3
    std = _numbers(values.get("std", (1.0,)), "std", count)
    if any(number == 0 for number in std):
        raise UsageError("std holds a zero", where=_OPTION, remedy="every std must be non-zero")
    found = Preprocess(
        layout=cast("Literal['NCHW', 'NHWC']", layout),
        channels=cast("Literal['RGB', 'BGR', 'L']", channels),
        size=_resolve_size(size, values.get("size"), layout, image_input),
        resize=values.get("resize", "bilinear"),
        fit=values.get("fit", "stretch"),
        scale=_numbers(values.get("scale", 1.0), "scale", 1)[0],
        mean=_numbers(values.get("mean", (0.0,)), "mean", count),
        std=std,
        source=source,
        bits=_bits(values.get("bits")),
        draft=_flag(values, "draft", default=rule.drafts(values.get("rule"))),
        embedded=_flag(values, "embedded", default=False),
    )
    if "rule" in values:
        rule.require(values["rule"], found, METADATA_KEY if source == "metadata" else _OPTION)
    return found


def _flag(values: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = values.get(key, default)
    if not isinstance(value, bool):
        message = f"{key} is {value!r:.40}, neither true nor false"
        raise UsageError(message, where=_OPTION, remedy="correct the key")
    return value


def _bits(value: Any) -> int | None:
    if value is not None and (type(value) is not int or not 9 <= value <= 16):
        message = f"bits is {value!r}: grey values of more than 8 bits have 9 to 16"
        raise UsageError(message, where=_OPTION, remedy='for example "bits": 12')
    return value


def _require_values(values: Mapping[str, Any]) -> None:
    """Refuse a document that leaves open what range the values have."""
    if not _VALUE_KEYS & values.keys():
        raise UsageError(
            "the preprocessing says nothing about the values: none of scale, mean, std is given",
            where=_OPTION,
            remedy='add them, or {"preset": "raw"} for pixels 0..255 as they are',
        )
    if "scale" in values:
        return
    given = [
        number
        for key in ("mean", "std")
        for number in _as_list(values.get(key, ()))
        if _is_finite(number)
    ]
    if given and all(abs(number) <= 1 for number in given) and any(given):
        # (pixel − 0.485) / 0.229 with pixels 0..255 is nearly always a forgotten 1/255.
        raise UsageError(
            "mean and std are within 0..1, but scale is not given, and pixels are 0..255",
            where=_OPTION,
            remedy='say "scale": 0.00392156862745098 (1/255), or "scale": 1 if that is meant',
        )


def _resolve_channels(given: str | None, layout: str, image_input: TensorInfo | None) -> str:
    fixed = None
    if image_input is not None and image_input.shape is not None and len(image_input.shape) == 4:
        fixed = image_input.shape[1 if layout == "NCHW" else 3]
    if given is None:
        return "L" if fixed == 1 else "RGB"
    count = 1 if given == "L" else 3
    if isinstance(fixed, int) and fixed != count:
        message = f"the preprocessing gives {count} channels ({given}), the graph takes {fixed}"
        raise UsageError(message, where=_where(image_input), remedy="correct layout or channels")
    return given


def _resolve_size(
    option: tuple[int, int] | None, given: Any, layout: str, image_input: TensorInfo | None
) -> tuple[int, int]:
    if option is not None:
        return option
    if given is not None:
        if isinstance(given, float | bool) or not isinstance(given, int | str | list | tuple):
            message = f"size is {given!r}, not [height, width]"
            raise UsageError(message, where=_OPTION, remedy='for example "size": [224, 224]')
        parsed = parse_size(given if isinstance(given, int | str) else list(given))
        if parsed is not None:
            return parsed
    if image_input is not None and image_input.shape is not None and len(image_input.shape) == 4:
        start = 2 if layout == "NCHW" else 1
        height, width = image_input.shape[start], image_input.shape[start + 1]
        if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
            return height, width
    raise UsageError(
        "the size of the pictures is not given, and the graph's input leaves it open",
        where=_where(image_input),
        remedy="give --size HxW, for example --size 224x224",
    )


def _numbers(value: Any, key: str, count: int) -> tuple[float, ...]:
    numbers = _as_list(value)
    if not all(map(_is_finite, numbers)) or len(numbers) not in {1, count}:
        expected = "one number" if count == 1 else f"one number or {count}"
        message = f"{key} is {value!r}, expected {expected}"
        raise UsageError(message, where=_OPTION, remedy="one finite number for each channel")
    return tuple(float(number) for number in numbers)


def _is_finite(number: Any) -> bool:
    if not isinstance(number, int | float) or isinstance(number, bool):
        return False
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond floats
        return False


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _positive_integer(value: Any) -> int:
    if isinstance(value, bool | float) or int(value) < 1:
        raise ValueError(value)
    return int(value)


def _where(image_input: TensorInfo | None) -> str:
    if image_input is None:
        return _OPTION
    shape = "unknown" if image_input.shape is None else list(image_input.shape)
    return f"{_OPTION}, graph input {image_input.name!r} of shape {shape}"
