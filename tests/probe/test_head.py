"""The solver against closed expectations and against scikit-learn, on real features."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.preprocessing import StandardScaler

from surgeon.data.splits import deal
from surgeon.errors import DataError
from surgeon.probe import basis, convex
from surgeon.probe import solver as head
from surgeon.probe.solver import solve


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x.astype(np.float32), y.astype(np.int64)


def logits(solution, features):
    return features @ solution.weight.astype(np.float64).T + solution.bias


def blobs(n, d, classes, *, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = rng.standard_normal((classes, d))
    return (centres[labels] + noise * rng.standard_normal((n, d))).astype(np.float32), labels


@pytest.mark.parametrize("rows", [1797, 40])  # more samples than features, and fewer
def test_reaches_the_optimum_that_sklearn_reaches(digits, rows, monkeypatch):
    x, y = digits[0][:rows], digits[1][:rows]
    monkeypatch.setattr(
        basis, "FLOORED_FEATURES", 10**9
    )  # plain standardisation, as sklearn has it
    ours = solve(x, y, 10)
    c = ours.regularisation
    x = x.astype(np.float64)
    scaler = StandardScaler().fit(x)
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(scaler.transform(x), y)
    expected = theirs.decision_function(scaler.transform(x))
    got = logits(ours, x)
    centred = got - got.mean(1, keepdims=True)
    np.testing.assert_allclose(centred, expected - expected.mean(1, keepdims=True), atol=2e-3)
    assert ours.converged
    assert ours.gradient_norm < 1e-5


def test_is_not_worse_than_sklearn_on_the_same_out_of_fold_samples(digits):
    x, y = digits[0][:700], digits[1][:700]
    ours = solve(x, y, 10, seed=0)
    fold = deal(y, 5, 0)
    z = StandardScaler().fit_transform(x)
    splits = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(5)]
    theirs = LogisticRegressionCV(
        Cs=[1e-3, 1e-2, 1e-1, 1.0],
        cv=splits,
        max_iter=1000,
        use_legacy_attributes=False,
        scoring="accuracy",
        l1_ratios=(0.0,),
    ).fit(z, y)
    best = np.asarray(theirs.scores_).mean(0).max()
    assert (ours.out_of_fold == y).mean() >= best - 0.005


def test_floor_of_the_scale_helps_on_unseen_samples(digits, monkeypatch):
    x, y = digits[0][:700], digits[1][:700]
    rng = np.random.default_rng(0)
    floored, plain = [], []
    for _ in range(4):
        order = rng.permutation(len(y))
        seen, unseen = order[:80], order[80:]
        for kept, results in ((32, floored), (10**9, plain)):
            monkeypatch.setattr(basis, "FLOORED_FEATURES", kept)
            solution = solve(x[seen], y[seen], 10)
            results.append((logits(solution, x[unseen]).argmax(1) == y[unseen]).mean())
    assert np.mean(floored) > np.mean(plain)


def test_out_of_fold_is_honest():
    # Labels without any relation to the features: whoever peeks beats chance.
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((300, 400)).astype(np.float32), rng.integers(0, 2, 300)
    solution = solve(x, y, 2)
    assert abs((solution.out_of_fold == y).mean() - 0.5) < 0.1
    index = solution.grid.index(solution.regularisation)
    assert solution.cv_loss[index] == pytest.approx(solution.out_of_fold_loss.mean(), rel=1e-5)
    assert solution.cv_quality[index] == pytest.approx((solution.out_of_fold == y).mean())


def test_same_seed_same_bits(digits):
    x, y = digits[0][:600], digits[1][:600]
    first, second = (solve(x, y, 10, seed=3, threads=1) for _ in range(2))
    assert first.weight.tobytes() == second.weight.tobytes()
    assert first.bias.tobytes() == second.bias.tobytes()
    assert first.cv_loss == second.cv_loss
    other = solve(x, y, 10, seed=4, threads=1)
    assert other.cv_loss != first.cv_loss


def test_threads_are_put_back():
    before = torch.get_num_threads()
    solve(*blobs(40, 3, 2), 2, threads=before + 1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("n", "d", "classes"), [(60, 1, 3), (30, 500, 3), (200, 40, 2), (12, 5, 6), (2, 3, 2)]
)
def test_odd_shapes(n, d, classes):
    x, y = blobs(n, d, classes, noise=0.1)
    solution = solve(x, y, classes)
    assert solution.weight.shape == (classes, d)
    assert solution.weight.dtype == solution.bias.dtype == np.float32
    assert np.isfinite(solution.weight).all()
    if d > 1:
        assert (logits(solution, x).argmax(1) == y).mean() > 0.95


def test_separable_data_end():
    x = np.concatenate([np.full((50, 4), -1), np.full((50, 4), 1)]).astype(np.float32)
    y = np.repeat([0, 1], 50)
    solution = solve(x, y, 2)
    assert solution.converged
    assert np.abs(solution.weight).max() < 100


def test_constant_huge_and_tiny_features():
    x, y = blobs(200, 4, 2, noise=0.5)
    scaled = x.astype(np.float64) * [1e12, 1e-6, 1, 1] + [0, 0, 7, 0]
    scaled = np.column_stack([scaled, np.full(200, 3.3), np.zeros(200)])
    plain, odd = solve(x, y, 2), solve(scaled, y, 2)
    assert (odd.weight[:, 4:] == 0).all()
    np.testing.assert_allclose(logits(odd, scaled), logits(plain, x), atol=1e-2)


def test_half_precision_and_memory_map(tmp_path):
    x, y = blobs(300, 20, 3)
    np.save(tmp_path / "x.npy", x.astype(np.float16))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    solution = solve(mapped, y, 3)
    assert (logits(solution, x).argmax(1) == y).mean() > 0.9


def test_rare_and_missing_classes():
    x, y = blobs(100, 6, 3, noise=0.2)
    y[y == 2] = 1
    y[0] = 2  # one sample of class 2, none of class 3
    solution = solve(x, y, 4)
    assert solution.folds == 5
    assert np.isfinite(solution.bias).all()
    assert logits(solution, x).argmax(1).max() <= 2


def test_too_few_samples_fall_back():
    x, y = blobs(5, 6, 4, noise=0.1)
    solution = solve(x, y, 4)
    assert solution.folds == 0
    assert (solution.out_of_fold == -1).all()
    assert np.isnan(solution.out_of_fold_loss).all()
    assert solution.regularisation == head.FALLBACK_C
    assert (logits(solution, x).argmax(1) == y).all()


def test_class_weights_move_the_border():
    rng = np.random.default_rng(0)
    y = (np.arange(400) % 20 == 0).astype(np.int64)
    x = (rng.standard_normal((400, 1)) + 1.5 * y[:, None]).astype(np.float32)
    plain = logits(solve(x, y, 2), x).argmax(1)
    balanced = logits(solve(x, y, 2, class_weights="balanced"), x).argmax(1)
    given = solve(x, y, 2, class_weights=np.array([1.0, 19.0]))
    assert plain[y == 1].mean() < 0.5 < balanced[y == 1].mean()
    np.testing.assert_array_equal(logits(given, x).argmax(1), balanced)


def test_progress_reaches_the_end():
    seen = []
    solve(*blobs(60, 5, 3), 3, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == len(head.GRID)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (np.where(x == x[3, 1], np.nan, x), y), "sample 3, feature 1"),
        (lambda x, y: (np.where(x == x[3, 1], np.inf, x), y), "sample 3, feature 1"),
        (lambda x, y: (x, np.zeros_like(y)), "nothing to tell apart"),
        (lambda x, y: (x, y + 1), "outside"),
        (lambda x, y: (x, y - 1), "outside"),
        (lambda x, y: (x[:-1], y), "do not fit"),
        (lambda x, y: (x, y.astype(float)), "not integers"),
        (lambda x, y: (x[:0], y[:0]), "no samples"),
    ],
)
def test_bad_data_is_refused(change, words):
    with pytest.raises(DataError, match=words):
        solve(*change(*blobs(30, 4, 3)), 3)


def test_bad_class_weights_are_refused():
    for weights in (np.ones(2), -np.ones(3), np.zeros(3)):
        with pytest.raises(DataError):
            solve(*blobs(30, 4, 3), 3, class_weights=weights)


@pytest.mark.slow
def test_wide_features_converge():
    x, y = blobs(2000, 1280, 10, noise=8.0)
    assert solve(np.maximum(x, 0), y, 10).converged


@pytest.mark.slow
def test_is_not_worse_than_sklearn_on_real_features():
    """Features of a pretrained network: many dead and correlated ones, unlike pixels."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    import surgeon_models

    model = onnx.load(surgeon_models.get("mobilenetv2"))
    for axis in (2, 3):  # smaller pictures keep the test short
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    del model.graph.value_info[:]
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x, y = load_digits(return_X_y=True)
    pictures = np.kron(x.reshape(-1, 1, 8, 8), np.ones((1, 3, 8, 8)))[:900].astype(np.float32)
    y = y[:900].astype(np.int64)
    name = session.get_inputs()[0].name
    features = np.concatenate(
        [session.run(None, {name: part / 8 - 1})[0] for part in np.array_split(pictures, 18)]
    ).reshape(900, -1)
    ours = solve(features, y, 10)
    fold = deal(y, 5, 0)
    theirs = LogisticRegressionCV(
        Cs=10,
        cv=[(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(5)],
        max_iter=1000,
        tol=1e-3,
        use_legacy_attributes=False,
        scoring="accuracy",
        l1_ratios=(0.0,),
    ).fit(StandardScaler().fit_transform(features), y)
    best = np.asarray(theirs.scores_).reshape(5, -1).mean(0).max()
    assert (ours.out_of_fold == y).mean() >= best - 0.005


def test_views_of_a_sample_share_a_fold_and_its_weight_and_do_not_judge():
    x, y = blobs(120, 6, 3, noise=2.0)
    rng = np.random.default_rng(1)
    plain = solve(x, y, 3, views_of=np.arange(120))
    alone = solve(x, y, 3)
    np.testing.assert_array_equal(plain.weight, alone.weight)
    # The same rows once more are the same problem, whatever their number.
    twice = solve(np.concatenate([x, x]), np.tile(y, 2), 3, views_of=np.tile(np.arange(120), 2))
    np.testing.assert_allclose(twice.cv_loss, alone.cv_loss, rtol=1e-4)
    np.testing.assert_allclose(twice.weight, alone.weight, atol=1e-5)
    assert twice.regularisation == alone.regularisation
    # Views with which a fold could cheat, were they dealt out on their own.
    far = np.concatenate([x, x + rng.normal(0, 1e-3, x.shape).astype(np.float32)])
    grouped = solve(far, np.tile(y, 2), 3, views_of=np.tile(np.arange(120), 2))
    torn = solve(far, np.tile(y, 2), 3)
    assert min(torn.cv_loss) < min(grouped.cv_loss)
    assert grouped.out_of_fold.shape == (240,)
    with pytest.raises(DataError, match="120 rows"):
        solve(x, y, 3, views_of=np.arange(3))


# ── on a GPU ─────────────────────────────────────────────────────────────────────────────────────


def test_products_are_exact_while_the_head_is_solved(digits, monkeypatch):
    """TF32 keeps ten bits: no gradient falls below a tolerance with it."""
    inside, products, asked = [], [], []

    @contextmanager
    def arithmetic(device, *, exact):
        asked.append((device, exact))
        inside.append(True)
        yield
        inside.clear()

    def multiply(*arguments):
        products.append(bool(inside))
        return real(*arguments)

    real = convex.multiply
    monkeypatch.setattr(head, "arithmetic", arithmetic)
    monkeypatch.setattr(convex, "multiply", multiply)
    solve(digits[0][:200], digits[1][:200], 10, device="cpu")
    assert asked == [(torch.device("cpu"), True)]
    assert len(products) > 10
    assert all(products)


class OnGpu(torch.Tensor):
    """A tensor that says that it lies on a GPU."""

    is_cuda = True


def test_a_gpu_that_does_not_converge_is_helped_by_the_cpu(monkeypatch):
    real, asked = torch.linalg.eigh, []

    def eigh(matrix):
        asked.append(matrix)
        if len(asked) == 1:
            raise torch.linalg.LinAlgError("cusolver error: the algorithm failed to converge")
        return real(matrix)

    matrix = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    values, _ = basis._eigh(matrix.as_subclass(OnGpu))
    assert values.tolist() == pytest.approx([1.0, 3.0])
    assert len(asked) == 2
    asked.clear()
    with pytest.raises(torch.linalg.LinAlgError):
        basis._eigh(matrix)  # there is no other CPU
    assert len(asked) == 1
