"""Samples that belong together are never on both sides: of a split, of a fold, of evidence."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgeon.data import Samples, open_data, split
from surgeon.data.examine import examine_samples
from surgeon.data.samples import JoinedSamples
from surgeon.data.splits import deal, folds, keep_together, split_samples, stratified_folds
from surgeon.errors import DataError, UsageError
from surgeon.records import TensorInfo
from surgeon.targets import ask_for
from surgeon.tasks.labels import code_groups

ROW = TensorInfo("x", "float", ("N", 3), 0)


@st.composite
def grouped(draw):
    """Return codes [n] and groups [n]; every class lies in at least two groups."""
    seed, classes = draw(st.integers(0, 999)), draw(st.integers(2, 6))
    size, count = draw(st.integers(1, 9)), draw(st.integers(4, 60))
    random = np.random.default_rng(seed)
    sizes = random.integers(1, size + 1, count)
    groups = np.repeat(np.arange(count), sizes)
    main = np.arange(count) % classes  # a group is mostly of one class
    mixed = random.random(len(groups)) < draw(st.sampled_from([0.0, 0.2]))
    codes = np.where(mixed, random.integers(0, classes, len(groups)), main[groups])
    order = random.permutation(len(groups))
    codes, groups = codes[order], groups[order]
    apart = [len(set(groups[codes == code].tolist())) for code in set(codes.tolist())]
    if len(apart) < 2 or min(apart) < 2:
        return np.arange(40) % 2, np.arange(40) // 4
    return codes, groups


@settings(max_examples=150, deadline=None)
@given(data=grouped(), fraction=st.floats(0.1, 0.5), seed=st.integers(0, 9))
def test_no_group_is_torn_every_class_trains_and_shares_are_kept(data, fraction, seed):
    codes, groups = data
    parts = split(codes, fraction=fraction, seed=seed, groups=groups, hold_test=False)
    train, held = set(groups[parts.train].tolist()), set(groups[parts.validation].tolist())
    assert not train & held
    assert sorted([*parts.train, *parts.validation]) == list(range(len(codes)))
    assert set(codes[parts.train].tolist()) == set(codes.tolist())
    largest = np.bincount(groups).max()
    assert abs(len(parts.validation) - fraction * len(codes)) <= 2 * largest * len(set(codes)) + 2
    again = split(codes, fraction=fraction, seed=seed, groups=groups, hold_test=False)
    assert parts.validation.tolist() == again.validation.tolist()


@settings(max_examples=150, deadline=None)
@given(data=grouped(), seed=st.integers(0, 9))
def test_folds_hold_groups_whole_and_none_is_empty(data, seed):
    codes, groups = data
    fold = stratified_folds(codes, seed, 5, groups)
    assert all(len(set(fold[groups == one].tolist())) == 1 for one in set(groups.tolist()))
    assert set(fold.tolist()) == set(range(fold.max() + 1))
    assert 2 <= fold.max() + 1 <= 5
    assert fold.tolist() == stratified_folds(codes, seed, 5, groups).tolist()
    for train, held in folds(codes, 5, seed, groups):
        assert not set(groups[train].tolist()) & set(groups[held].tolist())


def test_parts_have_nearly_the_shares_that_were_asked_for():
    random = np.random.default_rng(0)
    patient = np.repeat(np.arange(150), random.integers(1, 13, 150))
    ill = (random.random(150) < 0.2).astype(int)[patient]  # a rare class, by patient
    parts = split(ill, fraction=0.2, groups=patient)
    for part in (parts.validation, parts.test):
        assert abs(len(part) / len(ill) - 0.2) < 0.02
        assert abs(ill[part].mean() - ill.mean()) < 0.05
    fold = deal(ill, 5, 0, patient)
    assert np.ptp(np.bincount(fold)) <= 13
    assert np.ptp([ill[fold == one].mean() for one in range(5)]) < 0.05


def test_groups_of_one_sample_are_no_groups_and_seeds_differ():
    codes = np.arange(200) % 4
    alone = split(codes, groups=np.arange(200)[::-1].copy())
    assert alone.validation.tolist() == split(codes).validation.tolist()
    pairs = np.arange(200) // 4
    drawn = {tuple(split(codes, seed=seed, groups=pairs).validation) for seed in range(5)}
    assert len(drawn) == 5


def test_a_class_in_one_group_trains_and_nothing_else_is_left_is_said():
    codes, groups = np.array([0] * 10 + [1] * 10), np.array([0] * 10 + [1, 2] * 5)
    parts = split(codes, groups=groups)
    assert set(codes[parts.validation].tolist()) == {1}
    with pytest.raises(DataError, match="validation"):
        split(codes, groups=np.array([0] * 10 + [1] * 10))
    with pytest.raises(DataError, match="single group"):
        folds(codes, 5, 0, groups)
    with pytest.raises(DataError, match="two groups"):
        stratified_folds(codes, 0, 5, np.array([0] * 10 + [1] * 10))


def test_the_own_split_wins_and_only_training_samples_are_divided():
    codes = np.arange(60) % 2
    groups = np.arange(60) // 6
    own = np.array(["train"] * 45 + ["test"] * 15)  # tears group 7
    parts = split(codes, given=own, groups=groups)
    assert parts.test.tolist() == list(range(45, 60))
    assert not set(groups[parts.train].tolist()) & set(groups[parts.validation].tolist())


# ── where groups are told ────────────────────────────────────────────────────────────────────────


def rows(n: int = 24, **more) -> dict:
    return {
        "x": np.random.default_rng(0).normal(size=(n, 3)).astype("f4"),
        "labels": np.arange(n) % 2,
        **more,
    }


def divided(samples: Samples, **asked):
    codes = ask_for("classification", samples, None).targets.values
    return split_samples(samples, codes, **asked), codes


def examined(samples: Samples, parts):
    found = ask_for("classification", samples, None)
    return examine_samples(samples, found.task, found.targets, parts, 0)


def test_arrays_tell_groups_and_an_input_of_that_name_takes_the_prefix(tmp_path):
    np.savez(tmp_path / "d.npz", **rows(groups=np.arange(24) // 3))
    for data in (tmp_path / "d.npz", rows(groups=[f"p{i // 3}" for i in range(24)])):
        samples = open_data(data, [ROW])
        assert samples.group_count == 8
        parts, _ = divided(samples)
        assert not set(parts.groups[parts.train]) & set(parts.groups[parts.validation])
    fed = {"input:groups": rows()["x"], "labels": np.arange(24) % 2}
    samples = open_data(fed, [TensorInfo("groups", "float", ("N", 3), 0)])
    assert samples.groups is None
    assert samples.read([0]).feeds["groups"].shape == (1, 3)
    with pytest.raises(DataError, match="groups has 3"):
        open_data(rows(groups=[1, 2, 3]), [ROW])
    with pytest.raises(DataError, match="names no group"):
        open_data(rows(groups=["a"] * 23 + [""]), [ROW])


def test_a_table_names_its_column(tmp_path):
    path = tmp_path / "d.jsonl"
    table = [
        {"a": float(i), "b": i * 0.5, "c": 1.0, "label": "ab"[i % 2], "patient": i // 4}
        for i in range(24)
    ]
    path.write_text("\n".join(map(json.dumps, table)))
    samples = open_data(path, [ROW], group_column="patient")
    assert samples.groups[:5] == ["0", "0", "0", "0", "1"]
    assert samples.read([4]).feeds["x"].tolist() == [[4.0, 2.0, 1.0]]  # no value of it
    with pytest.raises(UsageError, match="no column 'doctor'"):
        open_data(path, [ROW], group_column="doctor")
    with pytest.raises(UsageError, match="only a table"):
        open_data(rows(), [ROW], group_column="patient")


def test_groups_enter_the_hash_and_validation_of_its_own_keeps_them():
    plain, told = open_data(rows(), [ROW]), open_data(rows(groups=np.arange(24) // 3), [ROW])
    assert plain.sha256 != told.sha256
    other = open_data(rows(12, groups=[7] * 12), [ROW])
    joined = JoinedSamples(told, other)
    assert joined.group_count == 8  # group 7 is in both
    assert JoinedSamples(plain, other).group_count == 24 + 1
    assert code_groups(["b", None, "b", None, "a"]).tolist() == [0, 1, 0, 3, 4]


def test_groups_that_the_datas_own_split_tears_are_found():
    own = ["train"] * 12 + ["validation"] * 12
    samples = open_data(rows(groups=np.arange(24) // 5, split=own), [ROW])
    parts, codes = divided(samples)
    found = examined(samples, parts)
    (torn,) = [one for one in found if one.kind == "torn-groups"]
    assert torn.level == "warning"
    assert torn.groups == (tuple(f"row {i}" for i in range(10, 15)),)
    assert {detail["part"] for detail in torn.details} == {"train", "validation"}
    drawn = open_data(rows(groups=np.arange(24) % 2), [ROW])  # a class is a group
    kinds = {
        one.kind
        for one in examined(drawn, split(codes, groups=None))
    }  # fmt: skip
    assert "single-group" in kinds


def test_groups_that_leave_nothing_to_validate_are_said():
    with pytest.raises(DataError) as caught:
        split(np.arange(20) % 2, groups=np.zeros(20, int))
    assert "1 groups" in caught.value.message
    assert "groups" in caught.value.remedy


# ── copies ───────────────────────────────────────────────────────────────────────────────────────


def test_exact_copies_are_one_group():
    data = rows(60)
    data["x"][30:40] = data["x"][:10]
    samples = open_data(data, [ROW])
    parts, _ = divided(samples)
    for one in range(10):
        assert (one in parts.train) == (one + 30 in parts.train)
    assert not [f for f in examined(samples, parts) if f.kind == "leak"]
    joined = open_data(data | {"groups": np.arange(60) // 2}, [ROW])
    parts, _ = divided(joined)
    kin = parts.groups
    assert kin[0] == kin[1] == kin[30] == kin[31]
    assert not set(kin[parts.train]) & set(kin[parts.validation])


def test_copies_that_leave_nothing_to_judge_by_are_told_instead():
    data = rows(40) | {"x": np.zeros((40, 3), "f4")}
    samples = open_data(data, [ROW])
    parts, codes = divided(samples)
    assert parts.validation.tolist() == split(codes).validation.tolist()
    kinds = {f.kind for f in examined(samples, parts)}
    assert "leak" in kinds


def test_like_samples_found_later_train_together():
    codes = np.arange(40) % 2
    parts = split(codes, seed=1)
    held, other = parts.validation[:2].tolist()
    pair = (int(parts.train[0]), held)
    kept = keep_together(parts, [tuple(sorted(pair))], 40)
    assert held in kept.train
    assert kept.validation.tolist() == parts.validation[1:].tolist()
    assert set(parts.train) < set(kept.train)
    assert kept.groups[pair[0]] == kept.groups[held] != kept.groups[other]
    assert keep_together(parts, [], 40) is parts
    many = [tuple(sorted((int(a), int(b)))) for a, b in zip(parts.train, parts.validation)]  # noqa: B905 - as many as validate
    assert keep_together(parts, many, 40).validation.tolist() == parts.validation.tolist()
    own = split(codes, given=np.array(["train"] * 30 + ["validation"] * 10))
    assert keep_together(own, [(0, 35)], 40).validation.tolist() == own.validation.tolist()
