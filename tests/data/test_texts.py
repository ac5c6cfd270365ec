from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from surgeon.data import JoinedSamples, open_data, open_inputs
from surgeon.data.media.texts import text_inputs
from surgeon.data.read import needs_preprocess
from surgeon.errors import DataError, UsageError
from surgeon.graph.encodings import as_document, parse_option, parse_text
from surgeon.records import TensorInfo
from surgeon.tasks.labels import plain_texts, sort_labels

SENTENCES = ("the cat sat on the mat", "a dog ran", "rain fell all day and all night", "the dog")
IDS = TensorInfo("input_ids", "int64", ("N", "T"), 0)
MASK = TensorInfo("attention_mask", "int64", ("N", "T"), 0)
TYPES = TensorInfo("token_type_ids", "int64", ("N", "T"), 0)
BERT = [IDS, MASK, TYPES]


def train(special=("[PAD]", "[UNK]", "[CLS]", "[SEP]"), **parts):
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        SENTENCES, trainers.WordLevelTrainer(special_tokens=list(special))
    )
    if "[CLS]" in special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
        )
    if "padding" in parts:
        tokenizer.enable_padding(**parts["padding"])
    if "truncation" in parts:
        tokenizer.enable_truncation(parts["truncation"])
    return tokenizer


@pytest.fixture
def rule(tmp_path):
    train().save(str(tmp_path / "tokenizer.json"))
    return parse_text(tmp_path / "tokenizer.json")


@pytest.fixture
def folder(tmp_path):
    for number, text in enumerate(SENTENCES):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "data" / "a" / "picture.png").write_bytes(b"x")
    return tmp_path / "data"


def rule_of(tokenizer, **given):
    return parse_text(json.loads(tokenizer.to_str()), **given)


def test_a_folder_becomes_ids_mask_and_types_padded_to_the_longest(folder, rule):
    samples = open_data(folder, BERT, preprocess=rule)
    assert sort_labels(plain_texts(samples.answers)) == ["a", "b"]
    assert (samples.n, samples.ignored, samples.is_images) == (4, 1, False)
    feeds = samples.batch(range(4))
    wanted = [train().encode(text).ids for text in (SENTENCES[i] for i in (0, 2, 1, 3))]
    assert list(feeds) == ["input_ids", "attention_mask", "token_type_ids"]
    for row, ids in enumerate(wanted):
        assert feeds["input_ids"][row].tolist() == ids + [0] * (9 - len(ids))
        assert feeds["attention_mask"][row].tolist() == [1] * len(ids) + [0] * (9 - len(ids))
    assert feeds["input_ids"].dtype == np.int64
    assert not feeds["token_type_ids"].any()
    assert samples.notes == ["texts have 4 to 9 tokens, padded to 9"]
    # A graph with a mask may be padded to any length, so the file need not know it.
    assert samples.encoding.length is None
    assert samples.read([]).feeds["input_ids"].shape == (0, 9)


def test_max_length_cuts_and_says_so(folder, rule):
    samples = open_data(folder, BERT, preprocess=replace(rule, max_length=5))
    feeds = samples.batch([1])
    assert feeds["input_ids"].shape == (1, 5)
    assert feeds["input_ids"][0, -1] == train().token_to_id("[SEP]")
    assert samples.notes == ["texts have 4 to 5 tokens, padded to 5; 2 of 4 were cut to 5"]
    with pytest.raises(UsageError, match="leave no room"):
        open_data(folder, BERT, preprocess=replace(rule, max_length=2))


def test_the_tokenizers_own_truncation_counts_where_none_is_asked_for(folder):
    own = rule_of(train(truncation=4))
    assert open_data(folder, BERT, preprocess=own).batch([0])["input_ids"].shape == (1, 4)
    more = replace(own, max_length=6)
    assert open_data(folder, BERT, preprocess=more).batch([0])["input_ids"].shape == (1, 6)


def test_without_a_mask_the_length_becomes_part_of_the_rule(folder, rule):
    samples = open_data(folder, [IDS], preprocess=rule)
    assert samples.encoding.length == 9
    kept = parse_option(as_document(samples.encoding))
    one = open_inputs([folder / "b" / "3.txt"], [IDS], preprocess=kept)
    np.testing.assert_array_equal(one.batch([0])["input_ids"], samples.batch([3])["input_ids"])


def test_a_fixed_length_of_the_graph_pads_and_cuts(folder, rule):
    fixed = [replace(info, shape=("N", 6), dtype="int32") for info in BERT]
    ids = open_data(folder, fixed, preprocess=rule).batch(range(4))["input_ids"]
    assert (ids.shape, ids.dtype) == ((4, 6), np.int32)
    with pytest.raises(DataError, match="different lengths"):
        open_data(folder, [fixed[0], replace(MASK, shape=("N", 7))], preprocess=rule)


def test_padding_follows_the_tokenizers_file(folder):
    left = rule_of(train(padding={"direction": "left", "pad_id": 3, "pad_type_id": 1}))
    feeds = open_data(folder, BERT, preprocess=left).batch([3])
    assert feeds["input_ids"][0, :5].tolist() == [3] * 5
    assert feeds["attention_mask"][0].tolist() == [0] * 5 + [1] * 4
    assert feeds["token_type_ids"][0].tolist() == [1] * 5 + [0] * 4


def test_no_padding_token_and_no_mask_is_an_error_only_if_texts_differ(folder):
    bare = rule_of(train(special=("[UNK]",)))
    with pytest.raises(DataError, match="neither a mask nor a padding token"):
        open_data(folder, [IDS], preprocess=bare)
    assert open_data(folder, [IDS, MASK], preprocess=bare).n == 4
    assert open_inputs([folder / "b" / "3.txt"], [IDS], preprocess=bare).batch([0])


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (("input_ids", "attention_mask"), ("ids", "mask")),
        (("input_ids:0", "input_mask:0", "segment_ids:0"), ("ids", "mask", "types")),
        (("tokens",), ("ids",)),
        (("Input.1", "Mask"), ("ids", "mask")),
        (("input_ids", "position_ids"), None),
        (("attention_mask",), None),
        (("mask", "input_mask", "ids"), None),
    ],
)
def test_names_decide_what_an_input_takes(names, roles):
    found = text_inputs([replace(IDS, name=name) for name in names], {})
    wanted = None if roles is None else dict(zip(roles, names, strict=True))
    assert (None if found is None else {r: i.name for r, i in found.items()}) == wanted


def test_inputs_that_are_not_clear_are_an_error_naming_the_option(folder, rule):
    other = replace(IDS, name="position_ids")
    with pytest.raises(DataError, match="not clear") as caught:
        open_data(folder, [IDS, other], preprocess=rule)
    assert "--input" in caught.value.remedy
    assert "position_ids" in caught.value.where
    constants = {"position_ids": np.arange(9)}
    feeds = open_data(folder, [IDS, other], preprocess=rule, constants=constants).batch([0, 1])
    assert feeds["position_ids"].tolist() == [list(range(9))] * 2
    with pytest.raises(DataError):
        open_data(folder, [replace(IDS, dtype="float")], preprocess=rule)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_has_a_text_column(suffix, tmp_path, folder, rule):
    rows = [
        {"id": n, "text": SENTENCES[n % 4], "label": "ab"[n % 2], "source": "web"} for n in range(6)
    ]
    path = tmp_path / f"t{suffix}"
    if suffix == ".csv":
        lines = ["id,text,label,source", *(",".join(str(v) for v in r.values()) for r in rows)]
        path.write_text("\n".join(lines))
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    samples = open_data(path, BERT, preprocess=rule)
    assert (samples.names[0], plain_texts(samples.answers)[:2]) == ("row 1", ["a", "b"])
    from_folder = open_data(folder, BERT, preprocess=rule)
    np.testing.assert_array_equal(
        samples.batch([0])["input_ids"], from_folder.batch([0])["input_ids"]
    )
    assert open_inputs([path], BERT, preprocess=rule).n == 6


def test_a_table_whose_text_column_is_not_clear(tmp_path, rule):
    path = tmp_path / "t.csv"
    path.write_text("one,two,label\nx,y,a\n")
    with pytest.raises(UsageError, match="which column holds the texts"):
        open_data(path, BERT, preprocess=rule)
    path.write_text("one,label\nx,a\n")
    assert open_data(path, BERT, preprocess=rule).n == 1
    path.write_text("text,n,label\n42,1,a\nfour,2,a\n")
    assert open_data(path, BERT, preprocess=rule).n == 2


def test_a_data_set_of_texts(rule):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"text": list(SENTENCES), "label": [0, 1, 0, 1]})
    samples = open_data(data, BERT, preprocess=rule)
    assert (samples.n, sort_labels(plain_texts(samples.answers))) == (4, ["0", "1"])
    with pytest.raises(UsageError, match="tokens") as caught:
        open_data(data, BERT)
    assert "--tokenizer" in caught.value.remedy


def test_texts_without_a_tokenizer_name_the_option(folder):
    for path in (folder, folder / "a" / "0.txt"):
        with pytest.raises(UsageError) as caught:
            needs_preprocess(path, BERT)
        assert "--tokenizer" in caught.value.remedy
    with pytest.raises(UsageError):
        open_inputs([folder / "a" / "0.txt"], BERT)


def test_texts_that_cannot_be_read_are_named_and_skipped(tmp_path, rule):
    for number in range(60):
        path = tmp_path / "d" / "ab"[number % 2] / f"{number:02}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SENTENCES[number % 4])
    (tmp_path / "d" / "a" / "00.txt").write_bytes(b"caf\xe9")
    (tmp_path / "d" / "b" / "01.txt").write_text(" \n")
    samples = open_data(tmp_path / "d", BERT, preprocess=rule)
    assert len(samples.read(range(60)).indices) == 58
    reasons = dict(samples.skipped)
    assert reasons[str(tmp_path / "d" / "a" / "00.txt")] == "not UTF-8: byte 3 is 0xe9"
    assert reasons[str(tmp_path / "d" / "b" / "01.txt")] == "the text is empty"
    for number in range(2, 6):
        (tmp_path / "d" / "ab"[number % 2] / f"{number:02}.txt").write_text("")
    with pytest.raises(DataError, match="more than 5%"):
        open_data(tmp_path / "d", BERT, preprocess=rule).read(range(60))


def test_training_and_validation_texts_share_one_length(folder, tmp_path, rule):
    held = tmp_path / "held" / "a" / "0.txt"
    held.parent.mkdir(parents=True)
    held.write_text("the cat and the dog ran on the mat all day all night")
    for inputs, length in ((BERT, None), ([IDS], 15)):
        train_part = open_data(folder, inputs, preprocess=rule)
        held_part = open_data(tmp_path / "held", inputs, preprocess=rule)
        both = JoinedSamples(train_part, held_part)
        assert both.batch([0, 4])["input_ids"].shape == (2, 15)
        assert both.encoding.length == length


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_say_which_word_of_the_text_begins_there(side, tmp_path):
    tokenizer = Tokenizer(
        models.WordPiece({"[UNK]": 0, "the": 1, "cat": 2, "##s": 3}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(direction=side)
    for name, text in (("a", "the  cats"), ("b", "cats cats the cat")):
        (tmp_path / f"{name}.txt").write_text(text)
    first = open_inputs([tmp_path], BERT, preprocess=rule_of(tokenizer))
    found = first.pieces(0)
    assert len(found) == first.batch([0])["input_ids"].shape[1] == 6
    assert [piece for piece in found if piece] == [("the", 0, 3), ("cats", 5, 9)]
    assert [piece is not None for piece in found] == {
        "right": [True, True, False, False, False, False],
        "left": [False, False, False, True, True, False],
    }[side]
    both = JoinedSamples(first, first)
    assert both.pieces(2) == found
    assert both.pieces(3) == first.pieces(1)


def test_the_hash_knows_content_tokenizer_and_length(folder, rule):
    first = open_data(folder, BERT, preprocess=rule).content_sha256(np.array([0]))
    assert first == open_data(folder, BERT, preprocess=rule).content_sha256(np.array([0]))
    shorter = open_data(folder, BERT, preprocess=replace(rule, max_length=5))
    assert shorter.content_sha256(np.array([0])) != first
    other = rule_of(train(padding={"pad_id": 3}))
    assert open_data(folder, BERT, preprocess=other).content_sha256(np.array([0])) != first
    (folder / "b" / "3.txt").write_text("all day and all night rain fell on the mat")
    assert open_data(folder, BERT, preprocess=rule).content_sha256(np.array([0])) != first


def test_files_that_are_no_texts(folder, tmp_path, rule):
    (tmp_path / "x.wav").write_bytes(b"x")
    with pytest.raises(DataError, match="none of the texts"):
        open_inputs([tmp_path / "x.wav"], BERT, preprocess=rule)
    with pytest.raises(DataError, match="not all texts"):
        open_inputs([folder, tmp_path / "x.wav"], BERT, preprocess=rule)
    both = open_inputs([folder / "a" / "0.txt", folder / "b"], BERT, preprocess=rule)
    assert (both.n, both.failure_bound) == (3, 1.0)


def test_broken_tokenizers_are_usage_errors(folder, tmp_path):
    path = tmp_path / "t.json"
    for content in ("", "[1]", '{"vocab": {}}', '{"model": 3}'):
        path.write_text(content)
        with pytest.raises(UsageError):
            parse_text(path)
    with pytest.raises(UsageError):
        parse_text(tmp_path / "none.json")
    with pytest.raises(UsageError, match="cannot be used"):
        open_data(folder, BERT, preprocess=parse_text({"model": {"type": "Nonsense"}}))
    for number in (0, -1, True, 1.5):
        with pytest.raises(UsageError):
            parse_text({"model": {}}, number)
