"""Tokens, segmentation and embedding through the door of tasks: read, judged and told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgeon.errors import DataError
from surgeon.tasks.base import Piece, Targets
from surgeon.tasks.find import find_task
from surgeon_tasks.places import ratio_of_sums
from surgeon_tasks.spans import find_spans, scheme_of

TOKENS, SEGMENTATION, EMBEDDING = map(find_task, ("tokens", "segmentation", "embedding"))


def sure(codes, classes, axis, p=0.9):
    """Return probabilities that say some classes, those below 0 the first."""
    eye = np.full((classes, classes), (1 - p) / (classes - 1))
    np.fill_diagonal(eye, p)
    return np.moveaxis(eye[np.maximum(codes, 0)], -1, axis)


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────


def spans(labels):
    scheme = scheme_of(sorted(set(labels) | {"O"}))
    names = sorted(set(labels) | {"O"})
    codes = np.array([names.index(label) for label in labels])
    found = find_spans(codes, np.zeros(len(codes), int), scheme)
    return [
        (a, b, scheme.types[k])
        for a, b, k in zip(*map(np.ndarray.tolist, found), strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [  # what seqeval.metrics.sequence_labeling.get_entities gives
        ("B-PER I-PER O B-LOC", [(0, 1, "PER"), (3, 3, "LOC")]),
        ("I-PER I-PER O I-LOC", [(0, 1, "PER"), (3, 3, "LOC")]),
        ("B-PER B-PER I-PER", [(0, 0, "PER"), (1, 2, "PER")]),
        ("B-PER I-LOC I-LOC", [(0, 0, "PER"), (1, 2, "LOC")]),
        ("S-PER I-PER E-PER E-PER O", [(0, 0, "PER"), (1, 2, "PER"), (3, 3, "PER")]),
        ("U-A B-A L-A I-A", [(0, 0, "A"), (1, 2, "A"), (3, 3, "A")]),
        ("O O", []),
    ],
)
def test_spans_are_those_of_seqeval(labels, wanted):
    if wanted:
        assert spans(labels.split()) == wanted
    else:
        assert scheme_of(labels.split()) is None


def test_a_span_does_not_go_from_one_sample_to_the_next():
    scheme = scheme_of(["B-X", "I-X", "O"])
    found = find_spans(np.array([0, 1, 1]), np.array([0, 0, 1]), scheme)
    assert found.last.tolist() == [1, 2]


@pytest.mark.parametrize("names", [["NOUN", "VERB"], ["O"], [], ["B-X", "I", "O"]])
def test_labels_that_mark_no_spans_are_judged_by_accuracy(names):
    assert scheme_of(names) is None


@pytest.mark.parametrize(
    "column",
    [
        [["b", "a"], ["a", None, "b"]],
        [("b", "a"), ("a", "", "b")],
        np.array([["b", "a", ""], ["a", "", "b"]]),
        np.array([[1, 0, -100], [0, -100, 1]]),
    ],
)
def test_labels_of_positions_are_read_whatever_their_form(column):
    found = TOKENS.read(column, "labels")
    assert found.values.tolist() == [[1, 0, -100], [0, -100, 1]]
    assert found.names in {("a", "b"), ("0", "1")}
    assert (TOKENS.outputs(found), found.known) == (2, None)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (["a"], "labels[0]"),
        ([["a"], 3], "labels[1]"),
        ([["a", float("nan")]], "missing"),
        ([["a", ["b"]]], "list"),
        (np.zeros((2, 3, 4), int), "list of labels"),
        ([[["a"], ["b"]]], "is a list"),
        ([["a", {"b": 1}]], "dict"),
        (np.array([[0.0, np.nan]]), "missing"),
    ],
)
def test_what_is_no_list_of_labels_says_where(column, words):
    with pytest.raises(DataError) as caught:
        TOKENS.read(column, "labels")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("column", "words"),
    [([], "no sample"), ([[None, None]], "no position"), ([["a", "a"], ["a"]], "same label 'a'")],
)
def test_positions_that_nothing_can_be_learnt_from_are_refused(column, words):
    with pytest.raises(DataError, match=words):
        TOKENS.check(TOKENS.read(column, "labels"))


def test_labels_of_positions_are_said_in_the_outputs_of_a_file():
    given = TOKENS.read([["b", "a"], ["z", None]], "labels")
    with pytest.raises(DataError, match=r"1 positions have labels.*'z'") as caught:
        TOKENS.onto(given, ["a", "b", "c"], ignore_unknown=False)
    assert "--ignore-unknown" in caught.value.remedy
    found = TOKENS.onto(given, ["a", "b", "c"], ignore_unknown=True)
    assert found.values.tolist() == [[1, 0], [-100, -100]]
    assert (found.known.tolist(), found.names) == ([True, False], ("a", "b", "c"))
    with pytest.raises(DataError):
        TOKENS.onto(given, ["c"], ignore_unknown=True)


def test_spans_and_positions_are_judged_over_the_whole_set():
    names = ("B-X", "I-X", "O")
    right = np.array([[0, 1, 2, 0], [2, 2, 0, -100]])
    said = np.array([[0, 1, 2, 0], [2, 0, 2, 2]])
    parts = [
        (sure(said[row : row + 1], 3, -1), Targets(right[row : row + 1], names)) for row in (0, 1)
    ]
    scores = TOKENS.score(parts)
    assert scores.figures["accuracy"] == pytest.approx(5 / 7)
    assert scores.figures["span_f1"] == scores.figures["quality"] == pytest.approx(2 * 2 / 6)
    assert scores.quality.mean() == pytest.approx(scores.figures["quality"])
    assert scores.figures["loss"] == pytest.approx(-(5 * np.log(0.9) + 2 * np.log(0.05)) / 7)
    (row,) = scores.details["per_class"]
    assert (row["label"], row["support"], row["recall"]) == ("X", 3, pytest.approx(2 / 3))


def test_parts_of_speech_are_judged_by_accuracy_and_each_by_itself():
    right = np.array([[0, 1], [1, -100], [-100, -100]])
    targets = Targets(right, ("NOUN", "VERB"), np.array([True, True, False]))
    scores = TOKENS.score([(sure(np.zeros((3, 2), int), 2, -1), targets)])
    assert scores.figures["span_f1"] is None
    assert scores.figures["quality"] == scores.figures["accuracy"] == pytest.approx(1 / 3)
    assert np.isnan(scores.quality).tolist() == [False, False, True]
    assert np.isnan(scores.loss).tolist() == [False, False, True]
    assert [row["label"] for row in scores.details["per_class"]] == ["NOUN", "VERB"]


def test_positions_are_told_with_label_and_probability():
    decoded = TOKENS.decode(np.log(sure(np.array([[1, 0]]), 2, -1)), "Identity")
    (row,) = TOKENS.rows(decoded.answers, ["a", "b"])
    assert [one["label"] for one in row["tokens"]] == ["b", "a"]
    assert row["tokens"][0]["probability"] == pytest.approx(0.9)


def test_labels_are_told_beside_the_words_they_are_of():
    (row,) = TOKENS.rows(sure(np.array([[0, 1, 0]]), 2, -1), ["a", "b"])
    found = TOKENS.beside(row, [None, Piece("cats", 5, 9), None])
    assert [(one["text"], one["start"], one["end"], one["label"]) for one in found["tokens"]] == [
        ("cats", 5, 9, "b")
    ]  # fmt: skip
    assert EMBEDDING.beside({"embedding": []}, []) == {"embedding": []}
    assert TOKENS.masks(np.zeros((1, 2, 3))) is None


@pytest.mark.parametrize(("task", "axis"), [(TOKENS, -1), (SEGMENTATION, 1)])
def test_what_the_graph_has_done_is_not_done_again(task, axis):
    shape = (2, 3, 4) if task is TOKENS else (2, 4, 3, 5)
    scores = np.random.default_rng(0).normal(size=shape)
    once = task.decode(scores, "Identity").answers
    np.testing.assert_allclose(once.sum(axis), 1)
    np.testing.assert_array_equal(task.decode(once, "Softmax").answers, once)
    np.testing.assert_allclose(task.decode(np.log(once), "LogSoftmax").answers, once)


# ── segmentation ─────────────────────────────────────────────────────────────────────────────────


def test_masks_are_read_whatever_their_form():
    column = [np.array([[0, 7], [255, 7]], np.uint8), np.array([[7, 7], [0, -100]])]
    for given in (
        column,
        np.stack([one.astype(int) for one in column]),
        [c.tolist() for c in column],
    ):
        found = SEGMENTATION.read(given, "masks")
        assert found.values.tolist() == [[[0, 1], [-100, 1]], [[1, 1], [0, -100]]]
        assert found.names == ("0", "7")


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([np.zeros((2, 2), int), np.zeros((3, 2), int)], "masks[1]"),
        ([np.zeros(4, int)], "no mask"),
        ([np.full((2, 2), 0.5)], "no mask"),
        ([np.full((2, 2), np.nan)], "no mask"),
        ([np.zeros((0, 2), int)], "no mask"),
        (["mask.png"], "no mask"),
        ([np.full((2, 2), 70000)], "32,767"),
        ([np.full((2, 2), -1)], "255 where none"),
    ],
)
def test_what_is_no_mask_says_where(column, words):
    with pytest.raises(DataError) as caught:
        SEGMENTATION.read(column, "masks")
    assert words in str(caught.value)


def test_intersection_over_union_is_of_the_whole_set():
    rng = np.random.default_rng(1)
    right, said = (rng.integers(0, 3, (4, 5, 6)) for _ in range(2))
    right[right == 2] = np.where(rng.random((right == 2).sum()) < 0.5, 2, -100)
    targets = Targets(right, ("a", "b", "c", "never"))
    parts = [(sure(said[i : i + 2], 4, 1), targets[i : i + 2]) for i in (0, 2)]
    scores = SEGMENTATION.score(parts)
    told = right >= 0
    wanted = [
        ((right == c) & (said == c) & told).sum() / (((right == c) | (said == c)) & told).sum()
        for c in range(3)
    ]
    assert scores.figures["miou"] == scores.figures["quality"] == pytest.approx(np.mean(wanted))
    assert scores.figures["pixel_accuracy"] == pytest.approx((right == said)[told].mean())
    assert scores.quality.mean() == pytest.approx(np.mean(wanted))
    assert [row["iou"] for row in scores.details["per_class"]] == [
        *map(pytest.approx, wanted), None,
    ]  # fmt: skip


@pytest.mark.parametrize("task", [TOKENS, SEGMENTATION])
def test_a_split_keeps_the_rarest_class_of_each_sample(task):
    codes = np.array([[0, 0], [0, 1], [0, 1], [2, 0], [-100, -100]])
    targets = Targets(codes if task is TOKENS else codes[..., None], ("a", "b", "c", "d"))
    assert task.counts(targets).tolist() == [4, 2, 1, 0]
    strata = task.strata(targets)
    assert len(set(strata[[0, 1, 3, 4]].tolist())) == 4
    assert strata[1] == strata[2]


def test_a_sample_without_a_pixel_that_is_told_counts_nowhere():
    right = np.array([[[0, 1]], [[-100, -100]]])
    scores = SEGMENTATION.score([(sure(right, 2, 1), Targets(right, ("a", "b")))])
    assert scores.figures["miou"] == 1.0
    assert np.isnan([scores.quality[1], scores.loss[1]]).all()


def test_masks_are_drawn_as_the_likeliest_class():
    codes = np.array([[[0, 1], [2, 2]]])
    assert SEGMENTATION.masks(sure(codes, 3, 1)).tolist() == codes.tolist()
    assert SEGMENTATION.rows(sure(codes, 3, 1), None) == [{"mask": None}]


def test_the_spread_of_shares_is_that_of_a_ratio():
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 50, (400, 2))
    hits = rng.binomial(sizes, (0.3, 0.8))
    whole, shares = ratio_of_sums(hits, sizes, np.ones(400, bool))
    error = shares.std() / np.sqrt(400)
    again = []
    for _ in range(300):
        some = rng.integers(0, 400, 400)
        again.append((hits[some].sum(0) / sizes[some].sum(0)).mean())
    assert shares.mean() == pytest.approx(whole)
    assert error == pytest.approx(np.std(again), rel=0.15)


# ── embedding ────────────────────────────────────────────────────────────────────────────────────


def test_neighbours_are_looked_for_among_all_others():
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.05], [-1, 0]], float)
    targets = Targets(np.array([0, 0, 1, 1, 1, 2]))
    scores = EMBEDDING.score([(vectors[:3], targets[:3]), (vectors[3:] * 9, targets[3:])])
    # the fifth lies among the first two, and is their nearest; the sixth has no fellow
    assert scores.quality[:5].tolist() == [0, 0, 1, 1, 0]
    assert np.isnan(scores.quality[5])
    assert scores.figures["recall_at_1"] == scores.figures["quality"] == pytest.approx(0.4)
    assert scores.figures["map_at_10"] == pytest.approx(
        np.mean([1 / 2, 1 / 2, *(scores_of_third())])
    )


def scores_of_third():
    """Return average precisions by hand of the third, fourth and fifth vector above."""
    # third: 4th, then by cosine 2nd, 5th, 1st: hits at 1 and 3; fourth: 3rd, 2nd, 5th, 1st
    # fifth: 1st or 2nd twice, 4th, 3rd: hits at 3 and 4
    return [(1 + 2 / 3) / 2, (1 + 2 / 3) / 2, (1 / 3 + 2 / 4) / 2]


def test_figures_do_not_depend_on_how_many_are_compared_at_once(monkeypatch):
    import surgeon_tasks.embedding as module

    rng = np.random.default_rng(0)
    vectors, codes = rng.normal(size=(60, 5)), rng.integers(0, 7, 60)
    whole = EMBEDDING.score([(vectors, Targets(codes))])
    monkeypatch.setattr(module, "_AT_ONCE", 1)
    parts = EMBEDDING.score(
        [(vectors[i : i + 20], Targets(codes[i : i + 20])) for i in (0, 20, 40)]
    )
    np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-6)
    assert parts.figures == pytest.approx(whole.figures)


def test_the_loss_is_that_of_the_objective():
    from surgeon_losses.embedding import supcon

    rng = np.random.default_rng(0)
    vectors, codes = rng.normal(size=(30, 4)), rng.integers(0, 5, 30)
    wanted = supcon(torch.tensor(vectors), torch.tensor(codes)).numpy()
    scores = EMBEDDING.score([(vectors, Targets(codes))])
    np.testing.assert_allclose(np.nan_to_num(scores.loss), wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("column", "words"),
    [([], "no sample"), (["a", "a"], "same class"), (["a", "b"], "single sample")],
)
def test_classes_without_pairs_are_refused(column, words):
    with pytest.raises(DataError, match=words):
        EMBEDDING.check(EMBEDDING.read(column, "labels"))


def test_classes_that_groups_keep_whole_are_no_strata():
    codes = np.array([0, 0, 1, 1])
    assert EMBEDDING.strata(Targets(codes, groups=np.array([5, 5, 6, 6]))) is None
    assert EMBEDDING.strata(Targets(codes, groups=np.array([5, 6, 6, 6]))).tolist() == [0, 0, 1, 1]
    assert EMBEDDING.strata(Targets(codes)).tolist() == [0, 0, 1, 1]


def test_vectors_are_judged_by_classes_that_no_file_names():
    found = EMBEDDING.read(["x", "y", "x"], "labels")
    assert (found.values.tolist(), found.names) == ([0, 1, 0], ())
    assert EMBEDDING.onto(found, [], ignore_unknown=False) is found
    with pytest.raises(DataError, match=r"\[n\]"):
        EMBEDDING.read(np.zeros((3, 2)), "labels")
    (row,) = EMBEDDING.rows(EMBEDDING.decode(np.ones((1, 3), np.float32), None).answers, None)
    assert row == {"embedding": [1.0, 1.0, 1.0]}
