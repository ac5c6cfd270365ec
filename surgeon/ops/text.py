"""Strings, which live on the host as numpy object arrays, and n-gram counts.

What must not enter: tensors of numbers but those counts.
"""

# ruff: noqa: ARG001 - the specification decides which parameters a function has

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from surgeon.errors import EnvironmentLacksError
from surgeon.ops.registry import op, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

Strings = np.ndarray[Any, Any]


@op("StringConcat")
def string_concat(X: Strings, Y: Strings) -> Strings:
    """Join strings pairwise, with broadcasting."""
    joined: Strings = np.asarray(X.astype(object) + Y.astype(object), dtype=object)
    return joined


@op("StringNormalizer")
def string_normalizer(
    X: Strings,
    *,
    case_change_action: str,
    is_case_sensitive: bool,
    locale: str | None,
    stopwords: list[str] | None,
) -> Strings:
    """Remove stop words and change case; nothing left gives one empty string."""
    changes: dict[str, Callable[[str], str]] = {
        "NONE": str,
        "LOWER": str.lower,
        "UPPER": str.upper,
    }
    change = changes.get(case_change_action)
    if change is None:
        refuse(f"case_change_action={case_change_action!r} is not in the specification")
    rows = X.reshape(1, -1) if X.ndim == 1 else X
    stop = set(stopwords or ())
    if not is_case_sensitive:
        stop = {word.lower() for word in stop}
    results = []
    for row in rows:
        kept = [w for w in row if (w if is_case_sensitive else w.lower()) not in stop]
        results.append([change(w) for w in kept] or [""])
    array = np.array(results, dtype=object)
    return array[0] if X.ndim == 1 else array


@op("StringSplit")
def string_split(
    X: Strings, *, delimiter: str | None, maxsplit: int | None
) -> tuple[Strings, Tensor]:
    """Split every string, filled up with empty ones; also return how many parts each has.

    An empty string has no part; without a delimiter, blanks part, as ONNX Runtime has it.
    """
    most = -1 if maxsplit is None else maxsplit
    parts = [_parts(str(text), delimiter, most) for text in X.flatten()]
    width = max((len(p) for p in parts), default=0)
    table = np.array([p + [""] * (width - len(p)) for p in parts], dtype=object)
    counts = torch.tensor([len(p) for p in parts], dtype=torch.int64)
    return table.reshape(*X.shape, width), counts.reshape(tuple(X.shape))


def _parts(text: str, delimiter: str | None, most: int) -> list[str]:
    if delimiter:
        return text.split(delimiter, most) if text else []
    text = text.strip(" ")
    if most == 0 or not text:
        return [text] if text else []
    return re.split(" +", text, maxsplit=max(most, 0))


@op("RegexFullMatch")
def regex_full_match(X: Strings, *, pattern: str | None) -> Tensor:
    """Tell which strings match a pattern as a whole."""
    compiled = re.compile(pattern or "")
    found = [compiled.fullmatch(str(text)) is not None for text in X.flatten()]
    return torch.tensor(found, dtype=torch.bool).reshape(tuple(X.shape))


@op("TfIdfVectorizer")
def tf_idf_vectorizer(
    X: Any,
    *,
    max_gram_length: int,
    max_skip_count: int,
    min_gram_length: int,
    mode: str,
    ngram_counts: list[int],
    ngram_indexes: list[int],
    pool_int64s: list[int] | None,
    pool_strings: list[str] | None,
    weights: list[float] | None,
) -> Tensor:
    """Count n-grams (with skips) of integers or strings: TF, IDF or TFIDF."""
    if mode not in {"TF", "IDF", "TFIDF"}:
        refuse(f"mode={mode!r} is not in the specification")
    pool: list[Any] = list(pool_int64s or pool_strings or ())
    grams: dict[tuple[Any, ...], int] = {}
    number = 0
    for i, start in enumerate(ngram_counts):
        end = ngram_counts[i + 1] if i + 1 < len(ngram_counts) else len(pool)
        for position in range(start, end, i + 1):
            if min_gram_length <= i + 1 <= max_gram_length:
                grams[tuple(pool[position : position + i + 1])] = number
            number += 1
    values = X.tolist()
    single = X.ndim == 1 if isinstance(X, np.ndarray) else X.dim() == 1
    rows = [values] if single else values
    width = max(ngram_indexes, default=-1) + 1
    table = torch.zeros(len(rows), width)
    for r, row in enumerate(rows):
        for length in range(min_gram_length, max_gram_length + 1):
            for skip in range(max_skip_count + 1 if length > 1 else 1):
                reach = (length - 1) * (skip + 1)
                for start in range(len(row) - reach):
                    gram = tuple(row[start + k * (skip + 1)] for k in range(length))
                    found = grams.get(gram)
                    if found is not None:
                        table[r, ngram_indexes[found]] += 1
    if mode != "TF":
        factor = torch.ones(width)
        for i, column in enumerate(ngram_indexes):
            factor[column] = 1.0 if weights is None else weights[i]
        table = (table > 0) * factor if mode == "IDF" else table * factor
    return table[0] if single else table


@op("ImageDecoder")
def image_decoder(encoded_stream: Tensor, *, pixel_format: str) -> Tensor:
    """Decode a picture file into [height, width, channels], uint8."""
    try:
        from PIL import Image
    except ImportError as error:
        raise EnvironmentLacksError(
            "decoding a picture inside the graph needs Pillow", remedy="pip install pillow"
        ) from error
    modes = {"RGB": "RGB", "BGR": "RGB", "Grayscale": "L"}
    if pixel_format not in modes:
        refuse(f"pixel_format={pixel_format!r} is not in the specification")
    with Image.open(io.BytesIO(encoded_stream.cpu().numpy().tobytes())) as image:
        pixels = np.array(image.convert(modes[pixel_format]))
    if pixel_format == "BGR":
        pixels = pixels[..., ::-1].copy()
    if pixel_format == "Grayscale":
        pixels = pixels[..., None]
    return torch.from_numpy(pixels).to(encoded_stream.device)
