"""Operators of `ai.onnx.ml`: encoders, scalers, linear models, support vectors and trees.

ONNX Runtime decides where the specification is silent. Labels and maps live on the host.
What must not enter: anything a neural network trains; trees have no gradient.
"""

# ruff: noqa: ARG001 - the specification decides which parameters a function has

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from surgeon.ops.convert import torch_dtype
from surgeon.ops.registry import op, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

_ML = "ai.onnx.ml"


def transformed(scores: Tensor, post_transform: str) -> Tensor:
    """Apply the transformation of scores that classic models name."""
    if post_transform == "NONE":
        return scores
    if post_transform == "SOFTMAX":
        return scores.softmax(-1)
    if post_transform == "LOGISTIC":
        return torch.sigmoid(scores)
    if post_transform == "SOFTMAX_ZERO":
        present = scores.abs() > 1e-7
        powers = torch.where(present, (scores - scores.amax(-1, keepdim=True)).exp(), 0)
        return powers / powers.sum(-1, keepdim=True)
    if post_transform == "PROBIT":
        return math.sqrt(2) * torch.erfinv(2 * scores - 1)
    return refuse(f"post_transform={post_transform!r} is not in the specification")


def _labels(index: Tensor, integers: list[int] | None, strings: list[str] | None) -> Any:
    """Return the labels at positions: int64, or strings on the host."""
    if strings:
        return np.array(strings, dtype=object)[index.cpu().numpy()]
    if integers:
        return torch.tensor(integers, dtype=torch.int64, device=index.device)[index]
    return index


@op("ArrayFeatureExtractor", domain=_ML)
def array_feature_extractor(X: Any, Y: Tensor) -> Any:
    """Take columns of the last axis."""
    if isinstance(X, np.ndarray):
        taken = X[..., Y.flatten().numpy()]
        return taken.reshape(1, -1) if X.ndim == 1 else taken
    found = X.index_select(-1, Y.flatten().long())
    return found.unsqueeze(0) if X.dim() == 1 else found


@op("Binarizer", domain=_ML)
def binarizer(X: Tensor, *, threshold: float) -> Tensor:
    """1 above the threshold, else 0."""
    return (threshold < X).to(X.dtype)


@op("CastMap", domain=_ML)
def cast_map(X: dict[Any, Any], *, cast_to: str, map_form: str, max_map: int) -> Any:
    """Turn a map of integers into a row of values."""
    if map_form == "SPARSE":
        cells: list[Any] = [X.get(i, 0) for i in range(max_map)]
    else:
        cells = [X[k] for k in sorted(X)]
    if cast_to == "TO_STRING":
        return np.array([[str(c) for c in cells]], dtype=object)
    if cast_to == "TO_INT64":
        return torch.tensor([[int(c) for c in cells]], dtype=torch.int64)
    return torch.tensor([[float(c) for c in cells]])


@op("DictVectorizer", domain=_ML)
def dict_vectorizer(
    X: dict[Any, Any],
    *,
    int64_vocabulary: list[int] | None,
    string_vocabulary: list[str] | None,
    input_types: tuple[int, ...],
) -> Any:
    """Turn a map into a row, ordered by a vocabulary; missing keys are 0."""
    vocabulary: Sequence[Any] = int64_vocabulary or string_vocabulary or ()
    cells = [X.get(word, 0) for word in vocabulary]
    if any(isinstance(c, str) for c in cells):
        return np.array([[str(c) for c in cells]], dtype=object)
    return torch.tensor([cells], dtype=torch_dtype(input_types[0]) if input_types[0] else None)


@op("FeatureVectorizer", domain=_ML)
def feature_vectorizer(*X: Tensor, inputdimensions: list[int] | None) -> Tensor:
    """Join columns of several inputs as float."""
    rows = [x.reshape(x.shape[0] if x.dim() > 1 else 1, -1).float() for x in X]
    return torch.cat(rows, 1)


def _mapped(X: Any, table: dict[Any, Any], default: Any, kind: type) -> Any:
    """Look every element up; the result is strings, int64 or float."""
    shape = X.shape
    found = [table.get(v, default) for v in X.flatten().tolist()]
    if kind is str:
        return np.array(found, dtype=object).reshape(tuple(shape))
    dtype = torch.int64 if kind is int else torch.float32
    return torch.tensor(found, dtype=dtype).reshape(tuple(shape))


@op("CategoryMapper", domain=_ML)
def category_mapper(
    X: Any,
    *,
    cats_int64s: list[int] | None,
    cats_strings: list[str] | None,
    default_int64: int,
    default_string: str,
) -> Any:
    """Turn category names into numbers or back."""
    strings, integers = cats_strings or [], cats_int64s or []
    if isinstance(X, np.ndarray):
        return _mapped(X, dict(zip(strings, integers, strict=True)), default_int64, int)
    return _mapped(X, dict(zip(integers, strings, strict=True)), default_string, str)


@op("LabelEncoder", 1, domain=_ML)
def label_encoder_1(
    X: Any, *, classes_strings: list[str] | None, default_int64: int, default_string: str
) -> Any:
    """Turn class names into their positions or back."""
    names = classes_strings or []
    if isinstance(X, np.ndarray):
        return _mapped(X, {n: i for i, n in enumerate(names)}, default_int64, int)
    return _mapped(X, dict(enumerate(names)), default_string, str)


class _Nan:
    """Equal to every NaN, so that a table can hold one."""


def _key(value: Any) -> Any:
    return _Nan if isinstance(value, float) and math.isnan(value) else value


@op("LabelEncoder", 2, 4, domain=_ML)
def label_encoder(
    X: Any,
    *,
    default_float: float,
    default_int64: int,
    default_string: str,
    default_tensor: Any = None,
    keys_floats: list[float] | None,
    keys_int64s: list[int] | None,
    keys_strings: list[str] | None,
    keys_tensor: Any = None,
    values_floats: list[float] | None,
    values_int64s: list[int] | None,
    values_strings: list[str] | None,
    values_tensor: Any = None,
) -> Any:
    """Replace keys by values."""
    keys: Sequence[Any] = keys_floats or keys_int64s or keys_strings or ()
    if keys_tensor is not None:
        keys = keys_tensor.flatten().tolist()
    values: Sequence[Any] = values_floats or values_int64s or values_strings or ()
    default: Any = default_float
    dtype: torch.dtype | None = torch.float32
    if values_strings:
        default, dtype = default_string, None
    elif values_int64s:
        default, dtype = default_int64, torch.int64
    elif values_tensor is not None:
        values = values_tensor.flatten().tolist()
        dtype = None if isinstance(values_tensor, np.ndarray) else values_tensor.dtype
        if default_tensor is not None:
            default = default_tensor.flatten().tolist()[0]
        elif dtype is None:
            default = default_string
        elif not dtype.is_floating_point:
            default = default_int64
    table = {_key(k): v for k, v in zip(keys, values, strict=True)}
    found = [table.get(_key(v), default) for v in X.flatten().tolist()]
    shape = tuple(X.shape)
    if dtype is None:
        return np.array(found, dtype=object).reshape(shape)
    return torch.tensor(found, dtype=dtype).reshape(shape)


@op("Imputer", domain=_ML)
def imputer(
    X: Tensor,
    *,
    imputed_value_floats: list[float] | None,
    imputed_value_int64s: list[int] | None,
    replaced_value_float: float,
    replaced_value_int64: int,
) -> Tensor:
    """Replace a marker (NaN, if that is it) by a value, one for all columns or one each."""
    values: Sequence[float] = imputed_value_floats or imputed_value_int64s or ()
    marker = replaced_value_float if X.is_floating_point() else replaced_value_int64
    missing = torch.isnan(X) if math.isnan(marker) else torch.eq(X, marker)
    fill = torch.tensor(list(values), dtype=X.dtype, device=X.device)
    return torch.where(missing, fill, X)


@op("OneHotEncoder", domain=_ML)
def one_hot_encoder(
    X: Any, *, cats_int64s: list[int] | None, cats_strings: list[str] | None, zeros: bool
) -> Tensor:
    """Add an axis with a 1 at the category; an unknown one is all zeros, or an error."""
    if isinstance(X, np.ndarray):
        names = cats_strings or []
        hot = torch.from_numpy(np.stack([np.equal(X, n) for n in names], -1).astype(bool))
    else:
        categories = torch.tensor(cats_int64s or [], dtype=torch.int64, device=X.device)
        hot = X.to(torch.int64).unsqueeze(-1) == categories
    if not zeros and not bool(hot.any(-1).all()):
        raise ValueError("a value is none of the categories")
    return hot.float()


@op("Scaler", domain=_ML)
def scaler(X: Tensor, *, offset: list[float] | None, scale: list[float] | None) -> Tensor:
    """(x − offset) · scale, per column or for all."""
    y = X.float()
    if offset:
        y = y - torch.tensor(offset, device=X.device)
    return y * torch.tensor(scale, device=X.device) if scale else y


@op("Normalizer", domain=_ML)
def normalizer(X: Tensor, *, norm: str) -> Tensor:
    """Divide every row by its maximum, L1 or L2 norm."""
    y = X.float()
    if norm == "MAX":
        size = y.amax(-1, keepdim=True)
    elif norm == "L1":
        size = y.abs().sum(-1, keepdim=True)
    elif norm == "L2":
        length = y.square().sum(-1, keepdim=True).sqrt()
        return torch.where(length == 0, y, y / length)
    else:
        refuse(f"norm={norm!r} is not in the specification")
    return torch.where(size == 0, y, y / size)


def _matrix(values: list[float] | None, rows: int, device: torch.device) -> Tensor:
    return torch.tensor(values or [], dtype=torch.float32, device=device).reshape(rows, -1)


@op("LinearRegressor", domain=_ML)
def linear_regressor(
    X: Tensor,
    *,
    coefficients: list[float] | None,
    intercepts: list[float] | None,
    post_transform: str,
    targets: int,
) -> Tensor:
    """X W + b."""
    scores = X.float() @ _matrix(coefficients, targets, X.device).T
    if intercepts:
        scores = scores + torch.tensor(intercepts, device=X.device)
    return transformed(scores, post_transform)


@op("LinearClassifier", domain=_ML)
def linear_classifier(
    X: Tensor,
    *,
    classlabels_ints: list[int] | None,
    classlabels_strings: list[str] | None,
    coefficients: list[float],
    intercepts: list[float] | None,
    multi_class: int,
    post_transform: str,
) -> tuple[Any, Tensor]:
    """Labels and scores of a linear model; one row of weights stands for two classes."""
    rows = X.float().reshape(-1, X.shape[-1])
    features = rows.shape[1]
    # Real files carry more coefficients than are used; ONNX Runtime counts the intercepts, too.
    count = len(intercepts) if intercepts else len(coefficients) // features
    if len(coefficients) < count * features:
        refuse(f"{len(coefficients)} coefficients for {count} rows of {features}")
    weights = _matrix(coefficients[: count * features], count, X.device)
    scores = rows @ weights.T
    if intercepts:
        scores = scores + torch.tensor(intercepts, device=X.device)
    names = classlabels_ints or classlabels_strings or []
    if scores.shape[1] == 1 and len(names) == 2:
        index = (scores[:, 0] > 0).long()
        one = transformed(scores, post_transform) if post_transform == "LOGISTIC" else scores
        both = _two_classes(one, "NONE", positive=True)
        return _labels(index, classlabels_ints, classlabels_strings), both
    index = scores.argmax(1)
    labels = _labels(index, classlabels_ints, classlabels_strings)
    return labels, transformed(scores, post_transform)


def _two_classes(scores: Tensor, post_transform: str, *, positive: bool) -> Tensor:
    """Make the scores of two classes out of one, as ONNX Runtime does."""
    if post_transform == "PROBIT":
        refuse("PROBIT over one column of scores")
    if post_transform == "LOGISTIC":
        return torch.cat([torch.sigmoid(-scores), torch.sigmoid(scores)], 1)
    if positive:
        return torch.cat([1 - scores, scores], 1)
    both = torch.cat([-scores, scores], 1)
    return transformed(both, post_transform) if post_transform != "NONE" else both


def _kernel(X: Tensor, vectors: Tensor, kind: str, parameters: list[float] | None) -> Tensor:
    gamma, coefficient, degree = ([*list(parameters or ()), 0.0, 0.0, 0.0])[:3]
    if kind == "LINEAR":
        return X @ vectors.T
    if kind == "POLY":
        return (gamma * (X @ vectors.T) + coefficient) ** degree
    if kind == "RBF":
        return torch.exp(-gamma * (X.unsqueeze(1) - vectors).square().sum(-1))
    if kind == "SIGMOID":
        return torch.tanh(gamma * (X @ vectors.T) + coefficient)
    return refuse(f"kernel_type={kind!r} is not in the specification")


@op("SVMRegressor", domain=_ML)
def svm_regressor(
    X: Tensor,
    *,
    coefficients: list[float] | None,
    kernel_params: list[float] | None,
    kernel_type: str,
    n_supports: int,
    one_class: bool,
    post_transform: str,
    rho: list[float] | None,
    support_vectors: list[float] | None,
) -> Tensor:
    """Support vector regression, or with `one_class` the sign of it."""
    x = X.float()
    if n_supports:
        vectors = _matrix(support_vectors, n_supports, X.device)
        scores = (
            _kernel(x, vectors, kernel_type, kernel_params) @ _matrix(coefficients, 1, X.device).T
        )
    else:
        scores = x @ _matrix(coefficients, 1, X.device).T
    scores = scores + (rho or [0.0])[0]
    if one_class:
        return torch.where(scores > 0, 1.0, -1.0)
    return transformed(scores, post_transform)


@op("SVMClassifier", domain=_ML)
def svm_classifier(
    X: Tensor,
    *,
    classlabels_ints: list[int] | None,
    classlabels_strings: list[str] | None,
    coefficients: list[float] | None,
    kernel_params: list[float] | None,
    kernel_type: str,
    post_transform: str,
    prob_a: list[float] | None,
    prob_b: list[float] | None,
    rho: list[float] | None,
    support_vectors: list[float] | None,
    vectors_per_class: list[int] | None,
) -> tuple[Any, Tensor]:
    """One-against-one support vectors (Chang and Lin, LIBSVM), or one linear model per class."""
    if not coefficients:
        refuse("SVMClassifier without coefficients")
    x = X.float()
    if not vectors_per_class:
        classes = len(classlabels_strings or classlabels_ints or ())
        scores = x @ _matrix(coefficients, classes, X.device).T + (rho or [0.0])[0]
        index = scores.argmax(1)
        if classes == 2:  # the runtime's own rule: a positive best score means the second class
            limit = scores.amax(1) >= 0.5 if min(coefficients) >= 0 else scores.amax(1) > 0
            index = torch.where(limit, 1, index)
        labels = _labels(index, classlabels_ints, classlabels_strings)
        return labels, transformed(scores, post_transform)
    classes = len(vectors_per_class)
    vectors = _matrix(support_vectors, sum(vectors_per_class), X.device)
    kernel = _kernel(x, vectors, kernel_type, kernel_params)
    weights = _matrix(coefficients, classes - 1, X.device)
    starts = np.cumsum([0, *vectors_per_class]).tolist()
    votes = torch.zeros(x.shape[0], classes, device=X.device)
    decisions: list[Tensor] = []
    for i, j in itertools.combinations(range(classes), 2):
        mine, other = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        value = kernel[:, mine] @ weights[j - 1, mine] + kernel[:, other] @ weights[i, other]
        value = value + (rho or [0.0] * (len(decisions) + 1))[len(decisions)]
        decisions.append(value)
        votes[:, i] += value > 0
        votes[:, j] += value <= 0
    scores = torch.stack(decisions, 1)
    labels = _labels(votes.argmax(1), classlabels_ints, classlabels_strings)
    if prob_a and prob_b:
        slopes, offsets = _matrix(prob_a, 1, X.device), _matrix(prob_b, 1, X.device)
        wins = torch.sigmoid(-(scores * slopes + offsets)).clamp(1e-7, 1 - 1e-7)
        return labels, transformed(_coupled(wins, classes), post_transform)
    if classes == 2:
        if post_transform == "PROBIT":
            refuse("post_transform='PROBIT' of two classes")
        if post_transform in {"NONE", "LOGISTIC"}:
            return labels, transformed(torch.cat([-scores, scores], 1), post_transform)
        return labels, torch.cat([1 - scores, scores], 1)
    return labels, transformed(scores, post_transform)


def _coupled(wins: Tensor, classes: int) -> Tensor:
    """Return the probability of every class from those of every pair, [n, pairs] → [n, classes].

    The second method of Wu, Lin and Weng, "Probability estimates for multi-class classification by
    pairwise coupling" (2004), with the stopping rule of ONNX Runtime.
    """
    pairwise = wins.new_zeros(wins.shape[0], classes, classes)
    for number, (i, j) in enumerate(itertools.combinations(range(classes), 2)):
        pairwise[:, i, j], pairwise[:, j, i] = wins[:, number], 1 - wins[:, number]
    q = -pairwise.mT * pairwise + torch.diag_embed((pairwise**2).sum(1))
    p = wins.new_full((wins.shape[0], classes), 1 / classes)
    for _ in range(100):
        qp = (q @ p.unsqueeze(-1)).squeeze(-1)
        pqp = (p * qp).sum(-1)
        active = (qp - pqp.unsqueeze(-1)).abs().amax(-1) >= 0.005 / classes
        if not bool(active.any()):
            break
        new = p
        for i in range(classes):
            step = (pqp - qp[:, i]) / q[:, i, i]
            whole = 1 + step
            pqp = (pqp + step * (step * q[:, i, i] + 2 * qp[:, i])) / whole**2
            qp = (qp + step.unsqueeze(-1) * q[:, i]) / whole.unsqueeze(-1)
            moved = new + step.unsqueeze(-1) * F.one_hot(torch.tensor(i), classes)
            new = moved / whole.unsqueeze(-1)
        p = torch.where(active.unsqueeze(-1), new, p)
    return p


class _Trees(NamedTuple):
    """Trees as columns, one row per node; a leaf points at itself."""

    feature: Tensor
    value: Tensor
    mode: Tensor
    yes: Tensor
    no: Tensor
    missing_yes: Tensor
    roots: Tensor
    leaf: Tensor


_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "MEMBER")


def _descend(X: Tensor, trees: _Trees, members: dict[int, Tensor] | None = None) -> Tensor:
    """Return the leaf every sample reaches in every tree, [n, trees]."""
    node = trees.roots.unsqueeze(0).expand(X.shape[0], -1)
    while True:
        if bool(trees.leaf[node].all()):
            return node
        x = X.gather(1, trees.feature[node])
        v, mode = trees.value[node], trees.mode[node]
        taken = torch.zeros_like(x, dtype=torch.bool)
        for number, test in enumerate((x <= v, x < v, x >= v, x > v, x == v, x != v)):
            taken = torch.where(mode == number, test, taken)
        if members:
            for place, allowed in members.items():
                inside = (x.unsqueeze(-1) == allowed).any(-1)
                taken = torch.where(node == place, inside, taken)
        taken = taken | (torch.isnan(x) & trees.missing_yes[node])
        node = torch.where(taken, trees.yes[node], trees.no[node])


def _trees(
    tree_ids: list[int],
    node_ids: list[int],
    features: list[int],
    modes: list[str],
    values: Sequence[float],
    yes: list[int],
    no: list[int],
    missing: list[int] | None,
    dtype: torch.dtype,
    device: torch.device,
) -> _Trees:
    place = {key: i for i, key in enumerate(zip(tree_ids, node_ids, strict=True))}
    leaf = [mode == "LEAF" for mode in modes]
    numbers = [0 if end else _MODES.index(mode) for mode, end in zip(modes, leaf, strict=True)]
    there = [i if leaf[i] else place[tree_ids[i], yes[i]] for i in range(len(modes))]
    other = [i if leaf[i] else place[tree_ids[i], no[i]] for i in range(len(modes))]
    first: dict[int, int] = {}
    for i, tree in enumerate(tree_ids):
        first.setdefault(tree, i)

    def whole(column: Sequence[Any], kind: torch.dtype = torch.int64) -> Tensor:
        return torch.tensor(list(column), dtype=kind, device=device)

    return _Trees(
        feature=whole(features),
        value=whole(values, dtype),
        mode=whole(numbers),
        yes=whole(there),
        no=whole(other),
        missing_yes=whole(missing or [0] * len(modes), torch.bool),
        roots=whole(list(first.values())),
        leaf=whole(leaf, torch.bool),
    )


def _aggregate(reached: Tensor, weights: Tensor, present: Tensor, how: str) -> Tensor:
    """Combine the weights [nodes, targets] of the leaves reached [n, trees]."""
    picked = weights[reached]
    if how == "SUM":
        return picked.sum(1)
    if how == "AVERAGE":
        return picked.sum(1) / reached.shape[1]
    there = present[reached]
    sign = 1 if how == "MIN" else -1
    if how not in {"MIN", "MAX"}:
        refuse(f"aggregate_function={how!r} is not in the specification")
    filled = torch.where(there, sign * picked, math.inf)
    best = sign * filled.amin(1)
    return torch.where(there.any(1), best, torch.zeros_like(best))


def _leaf_weights(
    place: dict[tuple[int, int], int],
    trees: list[int],
    nodes: list[int],
    targets: list[int],
    weights: Sequence[float],
    count: int,
    total: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    table = torch.zeros(total, count, dtype=dtype, device=device)
    present = torch.zeros(total, count, dtype=torch.bool, device=device)
    for tree, node, target, weight in zip(trees, nodes, targets, weights, strict=True):
        row = place[tree, node]
        table[row, target] += weight
        present[row, target] = True
    return table, present


def _numbers(floats: list[float] | None, tensor: Tensor | None) -> list[float] | None:
    return tensor.flatten().tolist() if tensor is not None else floats


@op("TreeEnsembleRegressor", domain=_ML)
def tree_ensemble_regressor(
    X: Tensor,
    *,
    aggregate_function: str,
    base_values: list[float] | None,
    base_values_as_tensor: Tensor | None = None,
    n_targets: int | None,
    nodes_falsenodeids: list[int] | None,
    nodes_featureids: list[int] | None,
    nodes_hitrates: list[float] | None,
    nodes_hitrates_as_tensor: Tensor | None = None,
    nodes_missing_value_tracks_true: list[int] | None,
    nodes_modes: list[str] | None,
    nodes_nodeids: list[int] | None,
    nodes_treeids: list[int] | None,
    nodes_truenodeids: list[int] | None,
    nodes_values: list[float] | None,
    nodes_values_as_tensor: Tensor | None = None,
    post_transform: str,
    target_ids: list[int] | None,
    target_nodeids: list[int] | None,
    target_treeids: list[int] | None,
    target_weights: list[float] | None,
    target_weights_as_tensor: Tensor | None = None,
) -> Tensor:
    """Sum (or average, least, greatest) of the leaves that a sample reaches."""
    ids, nodes = nodes_treeids or [], nodes_nodeids or []
    dtype = X.dtype if X.dtype == torch.float64 else torch.float32
    trees = _trees(
        ids, nodes, nodes_featureids or [], nodes_modes or [],
        _numbers(nodes_values, nodes_values_as_tensor) or [], nodes_truenodeids or [],
        nodes_falsenodeids or [], nodes_missing_value_tracks_true, dtype, X.device,
    )  # fmt: skip
    place = {key: i for i, key in enumerate(zip(ids, nodes, strict=True))}
    count = n_targets or 1
    table, present = _leaf_weights(
        place, target_treeids or [], target_nodeids or [], target_ids or [],
        _numbers(target_weights, target_weights_as_tensor) or [], count, len(ids), dtype, X.device,
    )  # fmt: skip
    scores = _aggregate(_descend(X.to(dtype), trees), table, present, aggregate_function)
    base = _numbers(base_values, base_values_as_tensor)
    if base:
        scores = scores + torch.tensor(base, dtype=dtype, device=X.device)
    return transformed(scores, post_transform).to(torch.float32)


@op("TreeEnsembleClassifier", domain=_ML)
def tree_ensemble_classifier(
    X: Tensor,
    *,
    base_values: list[float] | None,
    base_values_as_tensor: Tensor | None = None,
    class_ids: list[int] | None,
    class_nodeids: list[int] | None,
    class_treeids: list[int] | None,
    class_weights: list[float] | None,
    class_weights_as_tensor: Tensor | None = None,
    classlabels_int64s: list[int] | None,
    classlabels_strings: list[str] | None,
    nodes_falsenodeids: list[int] | None,
    nodes_featureids: list[int] | None,
    nodes_hitrates: list[float] | None,
    nodes_hitrates_as_tensor: Tensor | None = None,
    nodes_missing_value_tracks_true: list[int] | None,
    nodes_modes: list[str] | None,
    nodes_nodeids: list[int] | None,
    nodes_treeids: list[int] | None,
    nodes_truenodeids: list[int] | None,
    nodes_values: list[float] | None,
    nodes_values_as_tensor: Tensor | None = None,
    post_transform: str,
) -> tuple[Any, Tensor]:
    """Labels and scores of summed leaves; leaves of one class alone stand for two classes."""
    ids, nodes = nodes_treeids or [], nodes_nodeids or []
    dtype = X.dtype if X.dtype == torch.float64 else torch.float32
    trees = _trees(
        ids, nodes, nodes_featureids or [], nodes_modes or [],
        _numbers(nodes_values, nodes_values_as_tensor) or [], nodes_truenodeids or [],
        nodes_falsenodeids or [], nodes_missing_value_tracks_true, dtype, X.device,
    )  # fmt: skip
    place = {key: i for i, key in enumerate(zip(ids, nodes, strict=True))}
    count = len(classlabels_int64s or classlabels_strings or [])
    weights = _numbers(class_weights, class_weights_as_tensor) or []
    table, _ = _leaf_weights(
        place, class_treeids or [], class_nodeids or [], class_ids or [], weights, count,
        len(ids), dtype, X.device,
    )  # fmt: skip
    scores = table[_descend(X.to(dtype), trees)].sum(1)
    base = _numbers(base_values, base_values_as_tensor)
    used = set(class_ids or [])
    if count == 2 and len(used) == 1:
        if base:
            refuse("a TreeEnsembleClassifier of two classes in one column with base values")
        only = next(iter(used))
        positive = min(weights, default=0) >= 0
        score = scores[:, [only]]
        index = (score[:, 0] > (0.5 if positive else 0.0)).long()
        if only == 0:
            scores = _two_classes(score, post_transform, positive=positive)
        else:
            scores = transformed(scores, post_transform)
        labels = _labels(index, classlabels_int64s, classlabels_strings)
        return labels, scores.to(torch.float32)
    if base:
        scores = scores + torch.tensor(base, dtype=dtype, device=X.device)
    # Of two classes ONNX Runtime names the second wherever its score is positive.
    index = (scores[:, 1] > 0).long() if count == 2 else scores.argmax(1)
    labels = _labels(index, classlabels_int64s, classlabels_strings)
    return labels, transformed(scores, post_transform).to(torch.float32)


@op("TreeEnsemble", domain=_ML)
def tree_ensemble(
    X: Tensor,
    *,
    aggregate_function: int,
    leaf_targetids: list[int],
    leaf_weights: Tensor,
    membership_values: Tensor | None,
    n_targets: int | None,
    nodes_falseleafs: list[int],
    nodes_falsenodeids: list[int],
    nodes_featureids: list[int],
    nodes_hitrates: Tensor | None,
    nodes_missing_value_tracks_true: list[int] | None,
    nodes_modes: Tensor,
    nodes_splits: Tensor,
    nodes_trueleafs: list[int],
    nodes_truenodeids: list[int],
    post_transform: int,
    tree_roots: list[int],
) -> Tensor:
    """Trees by rows of nodes and leaves; a node may test membership in a set."""
    inner, device = len(nodes_featureids), X.device
    leaves = len(leaf_targetids)

    def target(node: int, is_leaf: int) -> int:
        return inner + node if is_leaf else node

    yes = [target(n, f) for n, f in zip(nodes_truenodeids, nodes_trueleafs, strict=True)]
    no = [target(n, f) for n, f in zip(nodes_falsenodeids, nodes_falseleafs, strict=True)]
    ends = list(range(inner, inner + leaves))

    def whole(column: list[int]) -> Tensor:
        return torch.tensor(column, dtype=torch.int64, device=device)

    zeros = [0] * leaves
    missing = nodes_missing_value_tracks_true or [0] * inner
    # A tree of one leaf is a root whose two branches are both that leaf, so roots need no case.
    trees = _Trees(
        feature=whole(nodes_featureids + zeros),
        value=torch.cat([nodes_splits.to(device), X.new_zeros(leaves, dtype=nodes_splits.dtype)]),
        mode=torch.cat([nodes_modes.to(device).long(), whole(zeros)]),
        yes=whole(yes + ends),
        no=whole(no + ends),
        missing_yes=whole(missing + zeros).bool(),
        roots=whole(tree_roots),
        leaf=torch.cat([whole([0] * inner), whole([1] * leaves)]).bool(),
    )
    members: dict[int, Tensor] = {}
    if membership_values is not None:
        values, position = membership_values.to(device), 0
        for node, mode in enumerate(nodes_modes.tolist()):
            if mode == _MODES.index("MEMBER"):
                end = position
                while not math.isnan(float(values[end])):
                    end += 1
                members[node] = values[position:end]
                position = end + 1
    count = n_targets or 1
    table = X.new_zeros(inner + leaves, count)
    present = torch.zeros(inner + leaves, count, dtype=torch.bool, device=device)
    for i, (column, weight) in enumerate(zip(leaf_targetids, leaf_weights.tolist(), strict=True)):
        table[inner + i, column] = weight
        present[inner + i, column] = True
    how = ("AVERAGE", "SUM", "MIN", "MAX")[aggregate_function]
    scores = _aggregate(_descend(X, trees, members), table, present, how)
    names = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
    return transformed(scores, names[post_transform])


@op("ZipMap", domain=_ML)
def zip_map(
    X: Tensor, *, classlabels_int64s: list[int] | None, classlabels_strings: list[str] | None
) -> list[dict[Any, float]]:
    """Turn every row of scores into a map from label to score."""
    names: Sequence[Any] = classlabels_strings or classlabels_int64s or ()
    rows = X.reshape(-1, len(names)).tolist()
    return [dict(zip(names, row, strict=True)) for row in rows]
