"""Labels of words and spans of texts, brought to the tokens that the graph is given."""

import json

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from surgeon.data import JoinedSamples, open_data
from surgeon.data.alignment import label_spans, label_words
from surgeon.errors import DataError
from surgeon.graph.encodings import parse_text
from surgeon.records import TensorInfo
from surgeon.targets import ask_for, choose

BERT = [TensorInfo(name, "int64", ("N", "T"), 0) for name in ("input_ids", "attention_mask")]
PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "ann", "##a", "lives", "in", "new", "york", ".", "b")


def rule(**more):
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    if more.get("left"):
        tokenizer.enable_padding(direction="left")
    return parse_text(json.loads(tokenizer.to_str()), max_length=more.get("max_length"))


def opened(path, rows, **more):
    path.write_text("\n".join(map(json.dumps, rows)))
    return open_data(path, BERT, preprocess=rule(**more))


WORDS = [
    {"tokens": ["Anna", "lives", "in", "New York", "."], "tags": ["P", "O", "O", "L", "O"]},
    {"tokens": ["b"], "tags": ["O"]},
]
TOLD = [None, "P", None, "O", "O", "L", None, "O", None]


def test_a_words_label_is_that_of_its_first_token(tmp_path):
    samples = opened(tmp_path / "t.jsonl", WORDS)
    assert choose(samples) == "tokens"
    assert samples.answers_along(("length",)) == [TOLD, [None, "O", *[None] * 7]]
    assert samples.answers_along(()) == [row["tags"] for row in WORDS]
    found = ask_for("tokens", samples, None).targets
    assert found.names == ("L", "O", "P")
    words = [None if piece is None else piece.text for piece in samples.pieces(0)]
    assert [word is not None for word in words] == [label is not None for label in TOLD]
    assert [word for word in words if word] == WORDS[0]["tokens"]
    assert found.values[0].tolist() == [-100, 2, -100, 1, 1, 0, -100, 1, -100]
    assert found.values.shape[1] == samples.batch([0])["input_ids"].shape[1]


def test_words_of_a_text_are_what_blanks_divide_and_padding_may_stand_in_front(tmp_path):
    rows = [
        {"text": "Anna  lives", "labels": ["P", "O"]},
        {"text": "b in new york .", "labels": ["O"] * 5},
    ]
    samples = opened(tmp_path / "t.jsonl", rows, left=True)
    told = samples.answers_along(("length",))
    assert told[0] == [None, None, None, "P", None, "O", None][-7:]
    assert len(told[1]) == 7


def test_spans_become_begin_inside_and_outside(tmp_path):
    text = "Anna lives in New York."
    spans = [{"start": 14, "end": 22, "label": "PLACE"}, {"start": 0, "end": 4, "label": "NAME"}]
    samples = opened(
        tmp_path / "t.jsonl", [{"text": text, "spans": spans}, {"text": "b", "spans": []}]
    )
    assert choose(samples) == "tokens"
    first, second = samples.answers_along(("length",))
    assert first == [
        None, "B-NAME", None, "O", "O", "B-PLACE", "I-PLACE", "O", None,
    ]  # fmt: skip
    assert second[:3] == [None, "O", None]


def test_what_is_cut_off_has_no_label(tmp_path):
    samples = opened(tmp_path / "t.jsonl", WORDS, max_length=4)
    assert samples.answers_along(("length",))[0] == [None, "P", None, None]


def test_texts_of_two_sources_have_one_length(tmp_path):
    one, other = opened(tmp_path / "a.jsonl", WORDS), opened(tmp_path / "b.jsonl", WORDS[1:])
    joined = JoinedSamples(one, other)
    assert choose(joined) == "tokens"
    assert {len(row) for row in joined.answers_along(("length",))} == {9}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"tokens": ["b", "in"], "tags": ["O"]}, "1 labels for 2 words"),
        ({"tokens": ["b"], "tags": ["O", "O"]}, "2 labels for 1 words"),
        ({"tokens": ["b"], "tags": "O"}, "no list of labels"),
        ({"tokens": ["b"], "tags": None}, "no list of labels"),
        ({"text": "b in", "spans": [{"start": 0, "end": 9, "label": "X"}]}, "4 characters"),
        ({"text": "b in", "spans": [{"start": 2, "end": 2, "label": "X"}]}, "does not lie"),
        ({"text": "b in", "spans": [{"start": "0", "end": 1, "label": "X"}]}, "does not lie"),
        ({"text": "b in", "spans": [{"start": 0, "end": 1, "label": ""}]}, "no label"),
        ({"text": "b in", "spans": [{"start": 0, "end": 1}]}, "is no span"),
        (
            {"text": "b in", "spans": [{"start": 0, "end": 3, "label": "X"}] * 2},
            "overlap at character 0",
        ),
    ],
)
def test_labels_that_do_not_fit_are_named_by_their_row(tmp_path, row, words):
    good = (
        {"tokens": ["b"], "tags": ["O"]}
        if "tokens" in row
        else {"text": "b", "spans": [{"start": 0, "end": 1, "label": "X"}]}
    )
    samples = opened(tmp_path / "t.jsonl", [good, row])
    with pytest.raises(DataError, match=words) as caught:
        ask_for("tokens", samples, None)
    assert "row 2" in caught.value.where


def test_alignment_without_a_tokenizer():
    assert label_words(["a", "b"], [(0, 2), (3, 5)], [(0, 0), (0, 5), (5, 6)]) == [None, "a", None]
    spans = [{"start": 1, "end": 3, "label": "x"}]
    tokens = [(0, 1), (1, 2), (2, 3)]
    assert label_spans(spans, "abc", tokens, [False, True, True]) == ["O", "B-x", None]


def test_names_of_classes_in_lists_of_a_parquet_schema_are_read(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    about = {"info": {"features": {"tags": {"_type": "List", "feature": {
        "names": ["O", "B-P"], "_type": "ClassLabel"}}}}}  # fmt: skip
    table = pa.table({"tokens": [["b", "anna"]], "tags": [[0, 1]]})
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(about)}), tmp_path / "t.parquet"
    )
    samples = open_data(tmp_path / "t.parquet", BERT, preprocess=rule())
    assert samples.answers == [["O", "B-P"]]
