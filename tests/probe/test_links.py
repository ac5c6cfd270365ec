"""The solver with other links: labels and numbers, against scikit-learn's own."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from surgeon.errors import DataError
from surgeon.probe.solver import solve


@pytest.fixture
def data():
    """Return features, standardised ones, and the scores of five outputs."""
    random = np.random.default_rng(0)
    # Below FLOORED_FEATURES, so that both standardise alike.
    scale = random.uniform(0.5, 3, 20)
    x = (random.normal(size=(300, 20)) * scale + 3).astype("f")
    wide = x.astype(np.float64)
    scores = (wide - 3) @ random.normal(size=(20, 5)) / 8 + random.normal(size=(300, 5)) / 2
    return x, (wide - wide.mean(0)) / wide.std(0), scores


def outputs(solution, x):
    return x.astype(np.float64) @ solution.weight.T.astype(np.float64) + solution.bias


def test_numbers_are_ridge_regression(data):
    x, standard, scores = data
    y = 1000 * scores + 7  # of another scale: targets are standardised, and that is folded back
    found = solve(x, y, 5, link="squared", grid=(0.1,))
    expected = Ridge(alpha=10.0).fit(standard, y).predict(standard)
    np.testing.assert_allclose(outputs(found, x), expected, atol=1e-5 * np.abs(expected).max())
    assert found.iterations <= 2  # in closed form
    assert found.cv_quality[0] > 0.3
    assert np.isfinite(found.out_of_fold).all()
    error = (found.out_of_fold - y) / y.std(0)
    assert found.cv_quality[0] == pytest.approx(1 - (error**2).mean(), rel=1e-3)


def test_labels_are_logistic_regressions(data):
    x, standard, scores = data
    y = (scores > 0).astype(float)
    unknown = np.random.default_rng(1).random(y.shape) < 0.2
    given = np.where(unknown, np.nan, y)
    for label in range(5):
        known = ~unknown[:, label]
        theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000)
        theirs.fit(standard[known], y[known, label])
        ours = outputs(solve(x, given[:, [label]], 1, link="logistic", grid=(1.0,), folds=0), x)[
            :, 0
        ]
        np.testing.assert_allclose(ours, theirs.decision_function(standard), atol=1e-3)
    together = outputs(solve(x, given, 5, link="logistic", folds=0), x)
    np.testing.assert_allclose(together[:, 4], ours, atol=1e-3)  # each label by itself


def test_the_penalty_is_chosen_for_every_link_by_samples_that_were_not_seen(data):
    x, _, scores = data
    random = np.random.default_rng(2)
    for link, y in (
        ("softmax", scores.argmax(1)),
        ("logistic", (scores > 0).astype(float)),
        ("squared", scores),
    ):
        found = solve(x, y, 5, link=link)
        assert found.regularisation == found.grid[int(np.argmin(found.cv_loss))]
        assert found.cv_loss[0] > min(found.cv_loss)
        noise = solve(random.normal(size=x.shape), y, 5, link=link)
        assert noise.regularisation < found.regularisation


def test_folds_keep_together_what_belongs_together(data):
    x, _, scores = data
    group = np.repeat(np.arange(150), 2)
    y = scores[::2].repeat(2, axis=0)  # two copies with noise of their own
    seen = x[::2].repeat(2, axis=0) + np.random.default_rng(0).normal(size=x.shape) / 100
    wide = np.random.default_rng(1).normal(size=(150, 200)).repeat(2, axis=0)
    seen = np.concatenate([seen, wide], axis=1)
    for link, target in (("squared", y), ("softmax", y.argmax(1)), ("logistic", 1.0 * (y > 0))):
        torn = solve(seen, target, 5, link=link)
        kept = solve(seen, target, 5, link=link, groups=group)
        assert kept.folds == 5
        assert min(torn.cv_loss) < min(kept.cv_loss)  # a copy tells the other's answer


def test_held_samples_are_judged_and_choose_nothing(data):
    x, _, scores = data
    held = np.arange(len(x)) % 3 == 0
    other = scores.copy()
    other[held] = other[held][::-1]
    for link, make in (("squared", lambda s: s), ("logistic", lambda s: 1.0 * (s > 0))):
        one = solve(x, make(scores), 5, link=link, held=held)
        two = solve(x, make(other), 5, link=link, held=held)
        assert one.regularisation == two.regularisation
        assert one.cv_loss == two.cv_loss
        assert np.isfinite(one.out_of_fold).all()
        assert np.isfinite(one.out_of_fold_loss).all()


def test_a_label_that_all_have_has_an_end(data):
    x, _, scores = data
    y = (scores > 0).astype(float)
    y[:, 2] = 1
    found = solve(x, y, 5, link="logistic")
    assert np.isfinite(found.weight).all()
    assert (outputs(found, x)[:, 2] > 0).all()


@pytest.mark.parametrize(
    ("link", "target", "words"),
    [
        ("logistic", np.full((300, 5), 0.5), "not 0, 1"),
        ("logistic", np.ones((300, 5)), "nothing to tell apart"),
        ("logistic", np.ones((300, 4)), "do not fit"),
        ("squared", np.ones((300, 5)), "nothing to learn"),
        ("squared", np.full((300, 5), np.nan), "nothing to learn"),
    ],
)
def test_targets_that_nothing_can_be_learnt_from_are_refused(data, link, target, words):
    with pytest.raises(DataError, match=words):
        solve(data[0], target, 5, link=link)
