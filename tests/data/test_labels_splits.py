from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgeon.data import folds, split
from surgeon.errors import DataError, UsageError
from surgeon.tasks.labels import check_trainable, sort_labels


def test_order_of_labels():
    assert sort_labels(["10", "9", "-1", "9"]) == ["-1", "9", "10"]
    assert sort_labels(["10", "9", "a"]) == ["10", "9", "a"]
    assert sort_labels(["1", "01", "0"]) == ["0", "01", "1"]
    assert sort_labels(["1.0", "0.5", "10"]) == ["0.5", "1.0", "10"]


def test_labels_nothing_can_be_trained_on():
    check_trainable(["a", "a", "b", "b"])
    for labels, words in (([], "no sample"), (["a", "a"], "same label"), (["a", "a", "b"], "'b'")):
        with pytest.raises(DataError, match=words):
            check_trainable(labels)


def test_large_data_get_a_test_split_small_ones_do_not():
    codes = np.arange(500) % 7
    parts = split(codes, seed=3)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (300, 100, 100)
    assert not parts.cross
    small = split(codes[:499], seed=3)
    assert small.test is None
    assert small.cross
    assert len(small.validation) == 100


def test_the_seed_decides():
    codes = np.arange(600) % 3
    assert split(codes, seed=1).train.tolist() == split(codes, seed=1).train.tolist()
    assert split(codes, seed=1).train.tolist() != split(codes, seed=2).train.tolist()


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(2, 90), min_size=2, max_size=12),
    fraction=st.floats(0.05, 0.6),
    seed=st.integers(0, 9),
)
def test_splits_partition_and_every_class_trains(counts, fraction, seed):
    codes = np.repeat(np.arange(len(counts)), counts)
    parts = split(codes, fraction=fraction, seed=seed)
    together = [parts.train, parts.validation, *([] if parts.test is None else [parts.test])]
    assert sorted(np.concatenate(together).tolist()) == list(range(len(codes)))
    assert set(codes[parts.train]) == set(range(len(counts)))
    for code, count in enumerate(counts):
        held = int((codes[parts.validation] == code).sum())
        assert abs(held - fraction * count) < 1.5 + count * 0.2
        assert held < count


def test_the_datas_own_split_wins():
    given_ = np.array(["train"] * 400 + ["validation"] * 100 + ["test"] * 100)
    codes = np.arange(600) % 2
    parts = split(codes, given=given_)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (400, 100, 100)
    without = split(codes, given=np.array(["train"] * 500 + ["test"] * 100))
    assert len(without.validation) == 120
    assert len(without.test) == 100
    assert without.validation.max() < 500
    held = split(codes, given=np.array(["train"] * 500 + ["validation"] * 100), hold_test=True)
    assert len(held.test) == 120
    assert split(codes, given=np.array(["train"] * 500 + ["validation"] * 100)).test is None


def test_unreadable_samples_are_in_no_part():
    usable = np.ones(20, bool)
    usable[3] = False
    parts = split(np.arange(20) % 2, usable=usable)
    assert 3 not in np.concatenate([parts.train, parts.validation])
    assert len(parts.train) + len(parts.validation) == 19


def test_bad_splits():
    with pytest.raises(UsageError):
        split(np.arange(10) % 2, fraction=1.5)
    with pytest.raises(DataError, match=r"\[1\]"):
        split(np.array([0, 0, 1]), given=["train", "validation", "validation"])
    with pytest.raises(DataError, match="validation"):
        split(np.array([0, 1]))


def test_folds_hold_out_each_sample_once():
    codes = np.array([0] * 13 + [1] * 7 + [2] * 5)
    pairs = folds(codes, 5, seed=1)
    assert len(pairs) == 5
    assert sorted(np.concatenate([held for _, held in pairs]).tolist()) == list(range(25))
    for train, held in pairs:
        assert len(held) == 5
        assert set(codes[train]) == {0, 1, 2}
        assert not set(train) & set(held)
    assert len(folds(np.array([0, 0, 0, 1, 1]), 5)) == 2
    with pytest.raises(DataError):
        folds(np.array([0, 0, 1]), 5)
