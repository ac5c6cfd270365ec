"""The file states all that decides what its inputs become, and what is not known is refused."""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from dataclasses import replace

import pytest

from surgeon.errors import UsageError
from surgeon.graph.encodings import as_document, parse_option, parse_text
from surgeon.graph.preprocess import PRESETS, parse_preprocess
from surgeon.graph.rule import DRAFT, image_metadata
from surgeon.records import AudioEncoding, Preprocess, TensorInfo

NCHW = TensorInfo("x", "float", ("N", 3, 32, 48), 0)
TOKENIZER = {"model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "grüß": 1}}, "version": "1.0"}
HOWS = {
    "picture": Preprocess(scale=1 / 255),
    "grey, cropped, bicubic": Preprocess(channels="L", fit="crop", resize="bicubic"),
    "nearest, 12 bits": Preprocess(resize="nearest", bits=12, draft=False),
    "in the graph": Preprocess(draft=False, embedded=True),
    "sound": AudioEncoding(16_000, 1.0),
    "text": parse_text(TOKENIZER, 9),
}


@pytest.mark.parametrize("name", HOWS)
def test_the_rule_reads_back_from_json(name):
    how = replace(HOWS[name], source="metadata")
    again = parse_option(json.loads(json.dumps(as_document(how))), source="metadata")
    assert again == (replace(how, draft=again.draft) if name.startswith("nearest") else how)


@pytest.mark.parametrize("name", HOWS)
def test_another_rule_is_refused(name):
    document = as_document(HOWS[name])
    for damage in ({"version": 2}, {"version": None}, {"new": 1}, {list(document["rule"])[1]: "x"}):
        with pytest.raises(UsageError) as caught:
            parse_option({**document, "rule": document["rule"] | damage}, source="metadata")
        assert "rule" in caught.value.message
    with pytest.raises(UsageError, match="object"):
        parse_option({**document, "rule": "exif"})


def test_a_file_without_a_rule_decodes_large_jpegs_as_before():
    document = as_document(Preprocess(draft=False))
    assert document["rule"]["draft"] == "none"
    assert not parse_option(document).draft
    del document["rule"]
    assert parse_option(document).draft
    assert as_document(parse_option(document))["rule"]["draft"] == DRAFT
    assert not parse_option({**document, "draft": False}).draft
    with pytest.raises(UsageError, match="draft"):
        parse_option({**document, "draft": "no"})


@pytest.mark.parametrize(
    ("preset", "pixels", "span"),
    [
        ("imagenet", "Rgb8", None),
        ("caffe", "Bgr8", None),
        ("raw", "Rgb8", "NominalRange_0_255"),
        ("zero-one", "Rgb8", "Normalized_0_1"),
        ("tf", "Rgb8", "Normalized_1_1"),
    ],
)
def test_the_specifications_own_words_are_beside_it(preset, pixels, span):
    assert preset in PRESETS
    said = image_metadata(parse_preprocess(preset, NCHW))
    assert said["Image.BitmapPixelFormat"] == pixels
    assert said["Image.NominalPixelRange"] == span


def test_a_tokenizer_is_packed_and_a_damaged_one_refused():
    how = parse_text(TOKENIZER)
    document = as_document(how)
    (packed,) = document["tokenizer"].values()
    assert parse_option({**document, "tokenizer": TOKENIZER}) == how  # as files of before hold it
    for bad in ("", "%", packed[:-8], b64encode(zlib.compress(b"[" * 9)).decode(), 3):
        with pytest.raises(UsageError):
            parse_option({**document, "tokenizer": {"zlib_base64": bad}})
