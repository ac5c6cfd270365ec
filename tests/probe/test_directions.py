"""Discriminant directions against scikit-learn, on few samples, few classes and bad features."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.preprocessing import StandardScaler

from surgeon.errors import DataError
from surgeon.probe import directions
from surgeon.tasks.base import Targets
from surgeon.tasks.find import find_task

TASK = find_task("embedding")


def blobs(classes=4, each=15, wide=10, seed=0):
    random = np.random.default_rng(seed)
    codes = np.arange(classes * each) % classes
    spread = random.uniform(0.5, 2, wide)
    x = (
        random.normal(size=(classes, wide))[codes] * 2
        + random.normal(size=(len(codes), wide)) * spread
    )
    return x.astype(np.float32), codes


def found(x, codes, outputs=3, **options):
    def worth(vectors, rows):
        return TASK.score([(vectors, Targets(codes[rows]))]).figures["quality"]

    return directions.solve(x, codes, outputs, worth=worth, **options)


def said(head, x):
    return x @ head.weight.T + head.bias


def between(vectors):
    """Return the distances of all pairs of whitened vectors: no turn and no scale changes them."""
    vectors = vectors - vectors.mean(axis=0)
    whole = np.linalg.svd(vectors, full_matrices=False)[0]
    return np.linalg.norm(whole[:, None] - whole[None], axis=2)


@pytest.mark.parametrize("each", [15, 3])
def test_directions_are_those_of_scikit_learn(each):
    x, codes = blobs(each=each, wide=20)
    head = found(x, codes)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=head.regularisation)
    z = StandardScaler().fit_transform(x.astype(np.float64))
    scores = theirs.fit(z, codes).decision_function(z)
    scores -= scores.mean(axis=1, keepdims=True)
    axes = np.linalg.svd(scores - scores.mean(axis=0), full_matrices=False)[2][:3]
    np.testing.assert_allclose(between(said(head, x)), between(scores @ axes.T), atol=1e-4)


def test_without_shrinkage_distances_are_those_of_the_eigen_solver():
    x, codes = blobs(each=40)
    z = StandardScaler().fit_transform(x.astype(np.float64))
    ours = directions.Axes.of(z, codes, z.shape[1]).directions(3, 0.0, 1.0)
    theirs = LinearDiscriminantAnalysis(solver="eigen").fit(z, codes).transform(z)
    one, other = (v - v.mean(axis=0) for v in (z @ ours.T, theirs))
    np.testing.assert_allclose(one @ one.T, other @ other.T, rtol=1e-6, atol=1e-6)


def test_more_outputs_than_classes_are_filled_and_more_than_features_are_zero():
    x, codes = blobs(classes=3, wide=6)
    head = found(x, codes, 9)
    assert np.linalg.matrix_rank(head.weight) == 6
    assert (np.abs(head.weight).sum(axis=1) > 0).sum() == 6
    np.testing.assert_allclose(said(head, x).mean(axis=0), 0, atol=1e-4)


def test_held_samples_choose_nothing_and_are_judged_by_directions_without_them():
    x, codes = blobs(classes=8, each=6)
    held = codes >= 6
    other = np.where(held, codes[::-1], codes)
    one, two = found(x, codes, held=held), found(x, other, held=held)
    assert one.regularisation == two.regularisation
    assert np.isnan(one.out_of_fold[~held]).all()
    np.testing.assert_allclose(one.out_of_fold[held], two.out_of_fold[held], rtol=1e-5, atol=1e-6)
    assert not np.allclose(one.weight, two.weight)  # the head itself is of all


def test_views_of_a_sample_are_not_its_neighbours():
    x, codes = blobs(classes=8, each=3)
    rows = np.concatenate([np.arange(len(x))] * 2)
    seen = []

    def worth(_, some):
        seen.append(some)
        return 0.5

    directions.solve(x[rows], codes[rows], 3, worth=worth, views_of=rows)
    assert max(some.max() for some in seen) < len(x)
    for one in seen:  # whole classes: what is judged was not seen
        assert len(one) == 3 * len(np.unique(codes[one]))


@pytest.mark.parametrize("classes", [4, 3])
def test_groups_stay_in_one_fold(classes):
    x, codes = blobs(classes=classes, each=12)
    groups = np.arange(len(x)) // 6  # of several classes each
    places = directions._folds(codes, groups, 0)
    assert all(len(np.unique(places[groups == one])) == 1 for one in np.unique(groups))


def test_classes_of_one_sample_and_features_that_hardly_move():
    x, codes = blobs(classes=5, each=4)
    lonely = np.concatenate([codes, [5, 6]])
    more = np.concatenate([x, x[:2] + 1])
    more[:, :3] = 7
    head = found(more, lonely)
    assert np.isfinite(head.weight).all()
    assert not head.weight[:, :3].any()
    alone = found(x[:5], np.arange(5))  # nothing is known of how samples of a class differ
    assert np.isfinite(alone.weight).all()
    assert alone.folds == 0


@pytest.mark.parametrize(
    ("x", "codes", "what"),
    [
        (np.ones((6, 3), np.float32), np.arange(6) % 2, "same for all"),
        (np.eye(6, dtype=np.float32), np.zeros(6, np.int64), "same class"),
        (np.full((6, 3), np.nan, np.float32), np.arange(6) % 2, "NaN"),
        (np.zeros((0, 3), np.float32), np.zeros(0, np.int64), "do not fit"),
    ],
)
def test_what_nothing_can_be_found_in_is_refused(x, codes, what):
    with pytest.raises(DataError, match=what):
        found(x, codes)


def test_very_many_axes_are_some_of_them(monkeypatch):
    monkeypatch.setattr(directions, "MOST_AXES", 12)
    x, codes = blobs(classes=6, each=10, wide=40)
    head = found(x, codes, 5)
    assert TASK.score([(said(head, x), Targets(codes))]).figures["quality"] > 0.8
    x[-1, 0] = np.inf
    with pytest.raises(DataError, match="NaN"):
        found(x, codes, 5)
