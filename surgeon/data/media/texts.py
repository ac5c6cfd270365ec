"""Texts: tokenized once when opened, cut and padded to one length, fed as ids, mask and types.

Which graph input takes what is told by its name; what is unclear is an error. What must not enter:
guessing of a tokenizer, and any cleaning of the text (that is the tokenizer's own).

Decisions: texts are UTF-8; all texts of a data set are padded to its longest. Where the graph has
no mask, padding enters the result, so that the length of the training texts becomes part of the
rule that the file carries. Padding and truncation stand on the side that the tokenizer's file says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.data.alignment import REMEDY, label_spans, label_words, words_of
from surgeon.data.elements import numpy_dtype
from surgeon.data.samples import Batch, Failure, Samples
from surgeon.data.sources import (
    SourceSamples,
    UnreadableError,
    ValueSamples,
    describe_inputs,
)
from surgeon.errors import DataError, UsageError
from surgeon.extras import need
from surgeon.graph.encodings import missing_tokenizer
from surgeon.records import TensorInfo, TextEncoding, as_json
from surgeon.tasks.base import Piece

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from surgeon.data.samples import Given
    from surgeon.records import Encoding, Preprocess
    from surgeon.tasks.base import Answers

_INTEGERS = frozenset({"int64", "int32"})
_MASKS = _INTEGERS | {"bool", "float", "float16"}
_PADDING = ("[PAD]", "<pad>", "<PAD>", "[pad]", "<|pad|>", "<|endoftext|>")
_CHUNK = 1000  # texts tokenized at once


def text_inputs(
    inputs: Sequence[TensorInfo], constants: Mapping[str, Any]
) -> dict[str, TensorInfo] | None:
    """Say which graph inputs take a text: `ids`, and `mask` and `types` where there are any.

    All have shape [batch, sequence]. An integer input called like a mask takes the mask (it may be
    bool or float, too), one called like a type or segment the token types, the one that is left the
    ids. None where that is not clear; constants do not count.
    """
    found: dict[str, TensorInfo] = {}
    for info in inputs:
        if info.name in constants:
            continue
        role = _role(info.name)
        known = info.dtype in (_MASKS if role == "mask" else _INTEGERS)
        ranked = info.shape is None or len(info.shape) == 2
        if role in found or not known or not ranked or info.batch_axis not in {0, None}:
            return None
        found[role] = info
    return found if "ids" in found else None


def _role(name: str) -> str:
    lower = name.lower()
    if "mask" in lower:
        return "mask"
    return "types" if "type" in lower or "segment" in lower else "ids"


class TextSamples(SourceSamples):
    """Texts, from files or from a table, for the graph inputs that take tokens.

    Attributes:
        encoding: the rule, with the padded length where the graph needs it to be always the same.
    """

    rule = TextEncoding

    @classmethod
    def takes(cls, inputs: Sequence[TensorInfo], constants: Mapping[str, Any]) -> bool:
        """Say whether there is it is clear which inputs take texts."""
        return text_inputs(inputs, constants) is not None

    @classmethod
    def suited(cls, rule: Preprocess | Encoding | None) -> type[SourceSamples]:
        """Return the class that hands texts over as they are, where the graph has the tokenizer."""
        return WholeTexts if isinstance(rule, TextEncoding) and rule.embedded else cls

    @classmethod
    def missing(cls, where: str | None) -> UsageError:
        """Return the error where nothing says how texts become values."""
        return missing_tokenizer(where)

    def text(self, index: int) -> str:
        """Return a text.

        Raises:
            UnreadableError: there is none.
        """
        return _decode(self._content(index))

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        roles = text_inputs(self.inputs, self._constants)
        encoding = given.rule
        assert isinstance(encoding, TextEncoding)
        if roles is None:
            raise DataError(
                "which inputs take token ids, mask and token types is not clear",
                where=describe_inputs(self.inputs),
                remedy="give all others as constants: --input NAME=VALUE; "
                "or give the tokens themselves as an .npz",
            )
        self._roles = roles
        fixed = _fixed_length(roles)
        need("tokenizers", "reading text")
        tokenizer, self._pad, self._left, self._limit = _made_ready(encoding, fixed)
        self._cut: list[int] = []
        self._broken: dict[int, str] = {}
        self.words = given.words
        self._tokenizer = tokenizer
        self._tokens = self._tokenize(tokenizer)
        longest = max((len(ids) for ids, _ in self._tokens), default=0)
        self.encoding = encoding
        self._length = 0
        self._pad_to(fixed or encoding.length or max(longest, 1))

    def _own_notes(self) -> list[str]:
        """Lengths of the texts, how many were cut, and to what they are padded."""
        lengths = [len(ids) for ids, _ in self._tokens if len(ids)]
        if not lengths or (min(lengths) == self._length and not self._cut):
            return []
        told = f"texts have {min(lengths)} to {max(lengths)} tokens, padded to {self._length}"
        if self._cut:
            told += f"; {len(self._cut)} of {self.n} were cut to {self._limit}"
        return [told]

    def match(self, other: Samples) -> None:
        """Pad to the same length as other texts do."""
        if isinstance(other, TextSamples):
            longest = max(self._length, other._length)  # noqa: SLF001 - another of this class
            for samples in (self, other):
                samples._pad_to(longest)  # noqa: SLF001

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Lay tokens side by side, padded."""
        chosen = [int(index) for index in indices]
        failures = [
            Failure(index, self.names[index], self._broken[index])
            for index in chosen
            if index in self._broken
        ]
        self._note(failures)
        kept = [index for index in chosen if index not in self._broken]
        columns = {
            role: np.full((len(kept), self._length), fill, numpy_dtype(info.dtype))
            for (role, info), fill in zip(
                self._roles.items(), (self._filling(role) for role in self._roles), strict=True
            )
        }
        for row, index in enumerate(kept):
            ids, types = self._tokens[index]
            place = slice(self._length - len(ids), None) if self._left else slice(len(ids))
            for role, values in (("ids", ids), ("mask", 1), ("types", types)):
                if role in columns:
                    columns[role][row, place] = values
        named = {self._roles[role].name: values for role, values in columns.items()}
        feeds = self._complete(named, len(kept))
        return Batch(np.array(kept, np.int64), feeds, tuple(failures))

    def pieces(self, index: int) -> list[Piece | None] | None:
        """Return the word of the text that begins at each position; None where none begins.

        Words are those of the data where they say them, else of the tokenizer; places in the text
        are in characters.
        """
        if not len(self._tokens[index][0]):
            return [None] * self._length
        text = _decode(self._content(index))
        encoded = self._tokenizer.encode(text)
        found: list[Piece | None] = []
        if self.words is not None:
            spans = words_of(text, self.words[index])
            labels = label_words(range(len(spans)), spans, _places(text, encoded))
            found = [
                None if at is None else Piece(text[slice(*spans[at])], *spans[at]) for at in labels
            ]
            return self._padded(found)
        before = None
        for word in encoded.word_ids:
            piece = None
            if word is not None and word != before:
                start, end = encoded.word_to_chars(word) or (0, 0)
                piece = Piece(text[start:end], start, end)
            found.append(piece)
            before = word
        return self._padded(found)

    def configured(self) -> str:
        """Return the tokenizer's file with the cutting in it, and the padding to a fixed length."""
        assert isinstance(self.encoding, TextEncoding)
        length = _fixed_length(self._roles) or self.encoding.length
        if length is not None:
            known = self._tokenizer.id_to_token(self._pad[0] or 0)
            self._tokenizer.enable_padding(
                direction="left" if self._left else "right", pad_id=self._pad[0] or 0,
                pad_type_id=self._pad[1], pad_token=known or "", length=length,
            )  # fmt: skip
        text = str(self._tokenizer.to_str())
        self._tokenizer.no_padding()
        return text

    def _padded(self, row: list[Any]) -> list[Any]:
        """Return a row with None on the side of the padding."""
        rest = [None] * (self._length - len(row))
        return [*rest, *row] if self._left else [*row, *rest]

    def answers_along(self, kept: Sequence[str]) -> Answers | None:
        """Return a label for each token, None where there is none, as long as the padded texts."""
        answers = self.answers
        if "length" not in kept or answers is None or isinstance(answers, Mapping):
            return answers
        told: list[list[Any]] = []
        for start in range(0, self.n, _CHUNK):
            rows = [
                row for row in range(start, min(self.n, start + _CHUNK)) if row not in self._broken
            ]
            texts = [_decode(self._content(row)) for row in rows]
            encoded = dict(zip(rows, self._tokenizer.encode_batch(texts), strict=True))
            for row in range(start, min(self.n, start + _CHUNK)):
                labels: list[Any] = []
                if row in encoded:
                    labels = self._labels(row, answers[row], texts[rows.index(row)], encoded[row])
                told.append(self._padded(labels))
        return told

    def _labels(self, row: int, answer: Any, text: str, encoded: Any) -> list[Any]:
        """Return the label of each token of a text."""
        tokens = _places(text, encoded)
        words = None if self.words is None else self.words[row]
        answer = answer.tolist() if isinstance(answer, np.ndarray) else answer
        if not isinstance(answer, list | tuple):
            raise DataError(
                f"{str(answer)!r:.60} is no list of labels",
                where=self.answer_at(row),
                remedy=REMEDY,
            )
        try:
            if any(isinstance(one, Mapping) for one in answer) or (
                words is None and not len(answer)
            ):
                ids = encoded.word_ids
                later = [
                    at > 0 and one is not None and one == ids[at - 1] for at, one in enumerate(ids)
                ]
                return label_spans(answer, text, tokens, later)
            return label_words(answer, words_of(text, words), tokens)
        except DataError as error:
            where = self.answer_at(row)
            raise DataError(error.message, where=where, remedy=error.remedy) from None

    def _rule(self) -> dict[str, Any]:
        return {**as_json(self.encoding), "source": None, "padded": self._length}

    def _filling(self, role: str) -> int:
        return {"ids": self._pad[0] or 0, "types": self._pad[1], "mask": 0}[role]

    def _pad_to(self, length: int) -> None:
        """Set the padded length; it becomes part of the rule where padding enters the result."""
        self._length = length
        if "mask" in self._roles:
            return
        assert isinstance(self.encoding, TextEncoding)
        self.encoding = replace(self.encoding, length=self._length)
        uneven = any(len(ids) < self._length for ids, _ in self._tokens if len(ids))
        if self._pad[0] is None and uneven:
            raise DataError(
                "texts must be padded, and neither a mask nor a padding token is there",
                where=describe_inputs(self.inputs),
                remedy="set the padding in the tokenizer's file: Tokenizer.enable_padding",
            )

    def _tokenize(self, tokenizer: Tokenizer) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        nothing = np.zeros(0, np.int32)
        found = [(nothing, nothing)] * self.n
        for start in range(0, self.n, _CHUNK):
            readable = {}
            for index in range(start, min(self.n, start + _CHUNK)):
                try:
                    readable[index] = _decode(self._content(index))
                except UnreadableError as error:
                    self._broken[index] = str(error)
            encoded = tokenizer.encode_batch(list(readable.values()))
            for index, one in zip(readable, encoded, strict=True):
                if not one.ids:
                    self._broken[index] = "the text has no tokens"
                    continue
                found[index] = (np.array(one.ids, np.int32), np.array(one.type_ids, np.int32))
                if one.overflowing:
                    self._cut.append(index)
        return found


class WholeTexts(ValueSamples):
    """Texts as they are, for a graph that makes tokens of them itself."""

    rule = TextEncoding

    @classmethod
    def takes(cls, inputs: Sequence[TensorInfo], constants: Mapping[str, Any]) -> bool:
        """Say whether one text is all that the graph takes."""
        return [info.dtype for info in inputs if info.name not in constants] == ["string"]

    def __init__(self, given: Given) -> None:
        super().__init__(given)
        if not self.takes(self.inputs, self._constants):
            raise DataError(
                "the file says that it takes texts, and its graph does not",
                where=describe_inputs(self.inputs),
                remedy="give --tokenizer tokenizer.json",
            )
        (self._info,) = (info for info in self.inputs if info.name not in self._constants)

    def _value(self, index: int) -> NDArray[Any]:
        return np.array(_decode(self._content(index)), object)

    def _nothing(self) -> NDArray[Any]:
        return np.zeros(0, object)

    def _rule(self) -> dict[str, Any]:
        return {"texts": "as they are"}


def _places(text: str, encoded: Any) -> list[tuple[int, int]]:
    """Return where each token lies in a text, blanks in front of it left out."""
    return [(end - len(text[start:end].lstrip()), end) for start, end in encoded.offsets]


def _decode(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"not UTF-8: byte {error.start} is {content[error.start]:#04x}"
        raise UnreadableError(message) from None
    if not text.strip():
        message = "the text is empty"
        raise UnreadableError(message)
    return text


@lru_cache(maxsize=1)
def _made_ready(
    encoding: TextEncoding, fixed: int | None
) -> tuple[Tokenizer, tuple[int | None, int], bool, int | None]:
    """Return a tokenizer that cuts and does not pad, what it padded with, and its limit.

    Kept for the next texts by the same rule: a large one takes a second to load.
    """
    tokenizer = _load(encoding)
    padding, left = _padding(tokenizer), str((tokenizer.padding or {}).get("direction")).lower()
    limit = _limit(encoding, tokenizer, fixed)
    tokenizer.no_padding()
    if limit is None:
        tokenizer.no_truncation()
    else:
        side = str((tokenizer.truncation or {}).get("direction", "right")).lower()
        tokenizer.enable_truncation(limit, direction=side)
    return tokenizer, padding, left == "left", limit


def _load(encoding: TextEncoding) -> Tokenizer:
    library = need("tokenizers", "reading text")
    try:
        found: Tokenizer = library.Tokenizer.from_str(encoding.tokenizer)
    except Exception as error:  # noqa: BLE001 - the library raises plain exceptions
        raise UsageError(
            f"the tokenizer cannot be used: {error}",
            where="--tokenizer",
            remedy="give a tokenizer.json, as `Tokenizer.save` of the tokenizers library writes it",
        ) from None
    return found


def _limit(encoding: TextEncoding, tokenizer: Tokenizer, fixed: int | None) -> int | None:
    """Return how many tokens of a text are kept: by option or file, and what the graph takes."""
    own = encoding.max_length
    if own is None and tokenizer.truncation is not None:
        own = int(tokenizer.truncation["max_length"])
    limits = [number for number in (own, fixed, encoding.length) if number is not None]
    if not limits:
        return None
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    if min(limits) <= special:
        raise UsageError(
            f"{min(limits)} tokens leave no room for text: the tokenizer adds {special} of its own",
            where="--max-length",
            remedy=f"give {special + 1} or more",
        )
    return min(limits)


def _padding(tokenizer: Tokenizer) -> tuple[int | None, int]:
    """Return the id and the type that fill up short texts; no id where none is known."""
    if tokenizer.padding is not None:
        return int(tokenizer.padding["pad_id"]), int(tokenizer.padding["pad_type_id"])
    ids = (tokenizer.token_to_id(token) for token in _PADDING)
    return next((number for number in ids if number is not None), None), 0


def _fixed_length(roles: Mapping[str, TensorInfo]) -> int | None:
    lengths = {
        info.shape[1]
        for info in roles.values()
        if info.shape is not None and isinstance(info.shape[1], int)
    }
    if len(lengths) > 1:
        raise DataError(
            f"the token inputs have different lengths: {sorted(lengths, key=str)}",
            where=describe_inputs(list(roles.values())),
            remedy="give the tokens themselves as an .npz",
        )
    length = next(iter(lengths), None)
    return length if isinstance(length, int) else None
