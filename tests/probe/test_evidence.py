"""Evidence: probes against scikit-learn, pooled values against the graph's own, and the figures."""

from __future__ import annotations

import networks as nw
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge

import surgeon
from surgeon.data.read import open_data
from surgeon.data.splits import stratified_folds
from surgeon.errors import DataError
from surgeon.graph.taps import MOST, add_taps, choose_cuts
from surgeon.probe import evidence
from surgeon.probe.evidence import Looked, Sought
from surgeon.records import CutPoint
from surgeon.runtime.features import Request
from surgeon.runtime.stream import Runner

CUT = CutPoint("x", 1.0, ("N", 64), "float", 0, 0, 0, 0)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x.astype(np.float32), y.astype(np.int64)


def opened(model, n=24, classes=3):
    free = model.anatomy().model
    data = nw.feeds(free, batch=n, seed=1) | {"labels": np.arange(n) % classes}
    samples = open_data(data, model.inputs)
    return samples, np.asarray([int(label) for label in samples.answers], np.int64)


# ── the pass ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["convnet", "residual", "nhwc", "lstm", "vit"])
def test_a_tap_is_the_mean_of_the_value_it_listens_to(name):
    model = surgeon.load(nw.ZOO[name]())
    anatomy = model.anatomy()
    cuts = choose_cuts(anatomy)
    taps = add_taps(anatomy, cuts)
    samples, _ = opened(model, n=6)
    rows = np.arange(6)
    outputs = list(dict.fromkeys(taps.outputs))
    found = Runner(taps.model, samples, outputs=outputs).run_at(rows).outputs
    whole = nw.with_outputs(anatomy.model, *(cut.tensor for cut in cuts))
    values = nw.run(whole, samples.batch(rows), [cut.tensor for cut in cuts])
    for cut, name_ in zip(cuts, taps.outputs, strict=True):
        value = np.moveaxis(values[cut.tensor], cut.batch_axis, 0)
        pooled = found[name_]
        assert pooled.ndim == 2
        means = [
            value.mean(axis=tuple(a for a in range(1, value.ndim) if a != kept))
            for kept in range(1, value.ndim)
        ] or [value[:, None]]
        alike = [mean.shape == pooled.shape and np.allclose(mean, pooled, atol=1e-5)
                 for mean in means]  # fmt: skip
        assert any(alike)


@pytest.mark.parametrize("name", [n for n in nw.ZOO if n != "lstm_state"])
def test_cuts_ascend_and_end_with_the_late_one(name):
    anatomy = surgeon.load(nw.ZOO[name]()).anatomy()
    cuts = choose_cuts(anatomy)
    depths = [cut.depth for cut in cuts]
    assert depths == sorted(set(depths))
    assert 1 <= len(cuts) <= MOST
    assert cuts[-1].tensor == anatomy.late


def test_the_pass_is_kept_and_found_again(tmp_path):
    model = surgeon.load(nw.convnet())
    samples, codes = opened(model)
    first, again = (
        evidence.measure(
            model.anatomy(),
            samples,
            Looked(np.arange(24), codes),
            Request(cache_dir=tmp_path, device="cpu"),
        )
        for _ in range(2)
    )
    assert (first.hit, again.hit) == (False, True)
    assert [p.quality for p in first.probes] == [p.quality for p in again.probes]
    assert first.curve == again.curve


def test_the_old_head_gives_leep(tmp_path):
    model = surgeon.load(nw.convnet())
    samples, codes = opened(model)
    looked = Looked(np.arange(24), codes)
    found = evidence.measure(model.anatomy(), samples, looked, Request(cache_dir=tmp_path))
    assert found.leep is not None
    assert -np.log(3) - 0.1 <= found.leep <= 0


# ── the probe ────────────────────────────────────────────────────────────────────────────────────


def test_a_probe_predicts_what_sklearns_ridge_predicts(digits):
    x, y = digits[0][:600], digits[1][:600]
    values = evidence.project(x, 0)
    found = evidence.probe(values, Sought.classes(y), CUT, 64)
    fold = stratified_folds(y, 0)
    targets = np.eye(10)[y]
    predicted = np.empty(600, np.int64)
    for part in range(fold.max() + 1):
        train, out = fold != part, fold == part
        ridge = Ridge(alpha=found.penalty * train.sum()).fit(values[train], targets[train])
        predicted[out] = ridge.predict(values[out]).argmax(axis=1)
    assert (predicted == found.scores.argmax(axis=1)).mean() > 0.998
    assert found.quality == pytest.approx((predicted == y).mean(), abs=0.003)
    assert found.quality > 0.9


def test_labels_without_meaning_are_not_learnt(digits):
    x = digits[0][:500]
    y = np.random.default_rng(0).integers(0, 10, 500)
    found = evidence.probe(evidence.project(x, 0), Sought.classes(y), CUT, 64)
    assert abs(found.quality - 0.1) < 4 * found.error


def test_projection_keeps_what_tells_classes_apart(digits):
    x, y = digits
    random = np.random.default_rng(3)
    wide = np.tanh((x[:800] / 16) @ random.standard_normal((64, 1500)) / 4).astype(np.float32)
    values = evidence.project(wide, 0)
    assert values.shape == (800, evidence.DIMENSIONS)
    assert np.array_equal(values, evidence.project(wide, 0))
    narrow = evidence.probe(evidence.project(x[:800], 0), Sought.classes(y[:800]), CUT, 64)
    assert (
        evidence.probe(values, Sought.classes(y[:800]), CUT, 1500).quality >= narrow.quality - 0.01
    )


def test_constant_and_infinite_values_are_survived():
    y = np.arange(40) % 2
    assert evidence.project(np.ones((40, 5)), 0).shape == (40, 1)
    found = evidence.probe(evidence.project(np.ones((40, 5)), 0), Sought.classes(y), CUT, 5)
    assert found.quality <= 0.6
    values = np.random.default_rng(0).standard_normal((40, 5))
    values[3, 2] = np.inf
    assert np.isfinite(evidence.project(values, 0)).all()


def test_more_data_more_accuracy(digits):
    values = evidence.project(digits[0], 0)
    curve = evidence.learning_curve(values, Sought.classes(digits[1]), 0)
    counts, accuracies = [point[0] for point in curve], [point[1] for point in curve]
    assert counts == sorted(counts)
    assert counts[-1] == pytest.approx(8 * counts[0], rel=0.02)
    assert accuracies[-1] > accuracies[0]


def test_a_rare_class_is_held_out_in_fewer_folds():
    codes = np.array([0] * 20 + [1] * 2)
    fold = stratified_folds(codes, 0)
    assert fold.max() == 4
    assert len(set(fold[codes == 1])) == 2
    with pytest.raises(DataError, match="two samples"):
        stratified_folds(np.arange(5), 0)


def test_two_samples_of_each_class_are_survived():
    y = np.arange(10) % 5
    values = evidence.project(np.random.default_rng(0).standard_normal((10, 4)), 0)
    assert np.isfinite(evidence.probe(values, Sought.classes(y), CUT, 4).quality)
    assert all(
        np.isfinite(point[1]) for point in evidence.learning_curve(values, Sought.classes(y), 0)
    )


def test_a_sample_keeps_every_class():
    codes = np.array([0] * 5000 + [1] * 50 + [2] * 3)
    rows = evidence.stratified(np.arange(len(codes)), codes, 500, 0)
    counts = np.bincount(codes[rows])
    assert (counts >= [480, 4, 2]).all()
    assert len(rows) <= 510
    assert (np.diff(rows) > 0).all()


def test_logme_prefers_features_that_fit_and_matches_the_evidence_itself():
    random = np.random.default_rng(0)
    y = np.arange(200) % 2
    good = np.column_stack([y + 0.1 * random.standard_normal(200), random.standard_normal(200)])
    bad = random.standard_normal((200, 2))
    assert (
        evidence.logme(good, Sought.classes(y).targets)
        > evidence.logme(bad, Sought.classes(y).targets) + 0.5
    )
    # The evidence of a Bayesian linear model, maximised by brute force over both precisions.
    best = []
    for target in ((y == 0).astype(float), (y == 1).astype(float)):
        tried = []
        for alpha in 10.0 ** np.arange(-3, 3, 0.1):
            for beta in 10.0 ** np.arange(0, 4, 0.1):
                a = alpha * np.eye(2) + beta * good.T @ good
                m = beta * np.linalg.solve(a, good.T @ target)
                tried.append(
                    np.log(alpha) + 100 * np.log(beta) - np.linalg.slogdet(a)[1] / 2
                    - beta / 2 * ((target - good @ m) ** 2).sum() - alpha / 2 * m @ m
                    - 100 * np.log(2 * np.pi)
                )  # fmt: skip
        best.append(max(tried) / 200)
    assert evidence.logme(good, Sought.classes(y).targets) == pytest.approx(
        np.mean(best), abs=0.002
    )


def test_leep_is_zero_for_a_perfect_map_and_the_entropy_for_none():
    y = np.arange(60) % 3
    perfect = np.eye(3)[(y + 1) % 3]
    assert evidence.leep(perfect, y) == pytest.approx(0.0, abs=1e-9)
    assert evidence.leep(np.full((60, 4), 0.25), y) == pytest.approx(-np.log(3))


def test_numbers_are_found_in_a_cut_as_classes_are():
    """Whoever says what is sought says how it is judged; the probe knows neither."""
    random = np.random.default_rng(0)
    x = random.standard_normal((400, 12))
    y = x[:, :2] @ random.standard_normal((2, 3)) + 0.5 * random.standard_normal((400, 3))
    y = (y - y.mean(axis=0)) / y.std(axis=0)
    strata = np.zeros(len(y), np.int64)
    sought = Sought(y, strata, lambda told: 1 - ((told - y) ** 2).mean(axis=1), shares=False)
    found = evidence.probe(x, sought, CUT, 12)
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import cross_val_predict

    expected = cross_val_predict(RidgeCV(), x, y, cv=5)
    assert found.quality == pytest.approx(1 - ((expected - y) ** 2).mean(), abs=0.02)
    assert 0 < found.error < 0.1
    noise = evidence.probe(random.standard_normal((400, 12)), sought, CUT, 12)
    assert noise.quality < 0.05
    assert noise.logme < found.logme
    curve = evidence.learning_curve(x, sought, 0)
    assert curve[-1][1] == pytest.approx(found.quality, abs=0.05)
