"""The discriminant from moments alone is scikit-learn's of the samples; moments add up."""

import json

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from surgeon.errors import ModelError
from surgeon.job.statistics import as_document, of_document
from surgeon.probe.discriminant import Moments, fit


def drawn(classes=4, each=30, width=6, seed=0):
    """Return features of unit spread within classes, and the class of each."""
    random = np.random.default_rng(seed)
    codes = np.repeat(np.arange(classes), [each + code for code in range(classes)])
    mixed = random.normal(size=(width, width))
    values = random.normal(size=(len(codes), width)) @ mixed
    apart = values - Moments.of(values, codes, classes).means[codes]
    centres = 1.5 * random.normal(size=(classes, width))
    return apart / np.sqrt((apart**2).mean(axis=0)) + centres[codes], codes


@pytest.mark.parametrize("shrinkage", [0.1, 0.7])
def test_it_is_that_of_scikit_learn_on_the_samples(shrinkage):
    values, codes = drawn()
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(values, codes)
    weight, bias = Moments.of(values, codes, 4).head(shrinkage)
    assert weight == pytest.approx(theirs.coef_, abs=1e-8)
    assert bias == pytest.approx(theirs.intercept_, abs=1e-8)


def test_moments_of_parts_add_up():
    values, codes = drawn()
    whole = Moments.of(values, codes, 4)
    order = np.random.default_rng(1).permutation(len(codes))
    for rows in (order < 50, codes < 2):  # classes torn apart, and whole ones
        one, other = (Moments.of(values[some], codes[some], 4) for some in (rows, ~rows))
        parts = one + other
        for name in ("counts", "means", "scatter"):
            assert getattr(parts, name) == pytest.approx(getattr(whole, name))


def test_classes_without_samples_stand_beside_new_ones():
    values, codes = drawn(each=60)
    old = codes < 2
    known = Moments.of(values[old], codes[old], 2).widened(4)
    found = fit(known, values[~old], codes[~old])
    together = Moments.of(values, codes, 4).head()
    said, alike = (
        (values @ weight.T + bias).argmax(axis=1)
        for weight, bias in ((found.weight, found.bias), together)
    )
    assert (said == alike).all()
    assert (found.outside.argmax(axis=1) >= 2).mean() > 0.9
    assert 0 < found.temperature <= 1


def test_what_a_file_stores_gives_the_same_head():
    values, codes = drawn(width=20)
    values[:, 3] = 7.0  # never moves
    whole = Moments.of(values, codes, 4)
    stored = of_document(json.loads(json.dumps(as_document(whole))))
    for mine, theirs in zip(stored.head(), whole.head(), strict=True):
        assert mine == pytest.approx(theirs, abs=0.02 * np.abs(theirs).max())
    assert (stored.counts == whole.counts).all()


def test_many_features_are_stored_in_few_numbers():
    values, codes = drawn(each=50, width=700)
    assert len(json.dumps(as_document(Moments.of(values, codes, 4)))) < 400_000


@pytest.mark.parametrize(
    "change",
    [
        {"counts": [30, 30, 0, 30]},
        {"counts": [30]},
        {"counts": "many"},
        {"means": {"dtype": "float32", "shape": [2], "zlib_base64": "eJxjYGBgAAAABAAB"}},
        {"axes": None},
        {"spread": {"dtype": "float32", "shape": [6], "zlib_base64": "not base64"}},
    ],
)
def test_damaged_statistics_are_refused(change):
    values, codes = drawn()
    document = as_document(Moments.of(values, codes, 4))
    with pytest.raises(ModelError, match="statistics"):
        of_document(document | change)
