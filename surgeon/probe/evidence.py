"""Evidence: what one pass over the data says about it, before anything is trained.

Pooled values of several cut points come from one ONNX Runtime session. On each of them a ridge
classifier is cross-validated in closed form: one Gram matrix a cut, from which every fold's is a
difference, so that all probes together take about a second. Beside it stand LogME (You et al.,
"LogME: Practical Assessment of Pre-trained Models for Transfer Learning", 2021) and, where the old
head is still there, LEEP (Nguyen et al., "LEEP: A New Measure to Evaluate Transferability of
Learned Representations", 2020). What must not enter: what is decided from the evidence.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.data.splits import stratified_folds
from surgeon.graph.apart import doubtful_nodes
from surgeon.graph.content import add_content
from surgeon.graph.preprocess import infer_layout
from surgeon.graph.taps import add_taps, choose_cuts
from surgeon.probe.sought import Sought
from surgeon.runtime.extract import extract
from surgeon.runtime.features import Request
from surgeon.tasks.base import Targets
from surgeon.tasks.metrics import softmax

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.data.samples import Samples
    from surgeon.graph.cuts import Anatomy
    from surgeon.records import CutPoint
    from surgeon.tasks.base import TaskCode

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

SAMPLED = 2000
"""Samples looked at; more hardly move an accuracy (one standard error is 1 point at most)."""
MOST_CLASSES = 1000
"""Classes looked at: of more, a random part; arrays of the probes grow with samples · classes."""
DIMENSIONS = 256
"""Features a probe sees; more are projected."""
REPEATED_TO = 1000
MOST_REPETITIONS = 5
"""Fewer samples are cross-validated so often that this many are judged, at most five times: where
the folds fall moves an accuracy as much as one depth differs from the next."""
SHARES = (0.125, 0.25, 0.5, 1.0)
"""Parts of the training samples of the learning curve."""
PENALTIES = tuple(float(10.0**power) for power in np.arange(-4, 4.01, 0.5))
"""Ridge penalties tried, per sample and in units of a standardised feature's variance."""


@dataclass(frozen=True)
class Probe:
    """What a linear classifier makes of the pooled value of one cut.

    Attributes:
        cut: where it reads.
        features: numbers in the pooled value, before projection.
        quality: mean over samples, judged by the fold that did not see them: the share that is
            right.
        error: its standard error.
        train_quality: of a probe on the samples it was fitted to.
        logme: log maximum evidence per sample and output, nats; higher transfers better.
        correct: for each sample, whether the held-out prediction was right: 0 or 1, or the share
            of repetitions in which it was; of other answers what its task makes of it.
        penalty: the ridge penalty that was chosen, by squared error on held-out samples.
        scores: held-out scores, [n, outputs], the mean over repetitions.
    """

    cut: CutPoint
    features: int
    quality: float
    error: float
    train_quality: float
    logme: float
    correct: Floats = field(repr=False)
    penalty: float
    scores: Floats = field(repr=False, default_factory=lambda: np.zeros((0, 0)))


@dataclass(frozen=True)
class Measured:
    """The evidence of one pass.

    Attributes:
        probes: one per cut, by ascending depth.
        rows: index of each sample looked at.
        codes: class of each, as a position in `classes`; strata where answers are no classes.
        classes: the classes looked at, by their codes in the data; empty where there are none.
        quality: name of the figure that probes are judged by.
        baseline: that figure of the one answer that is best for all samples.
        curve: learning curve of the probe that is best: (training samples, accuracy, its error).
        curve_tensor: the cut it was measured at.
        leep: LEEP of the old head's predictions, nats per sample, or None.
        providers: where the pass ran.
        hit: whether the pass was in the cache.
        seconds: of the pass, and of the probes.
        notes: what the user should be told.
        seen: index of each sample in the pass: `rows`, and those that were only compared.
        features: pooled value of the last cut of each of them, [m, d].
        content: what went into the graph, coarsely, [m, c]; None where nothing coarse says it.
    """

    probes: tuple[Probe, ...]
    rows: Ints = field(repr=False)
    codes: Ints = field(repr=False)
    classes: Ints = field(repr=False)
    quality: str
    baseline: float
    curve: tuple[tuple[int, float, float], ...]
    curve_tensor: str
    leep: float | None
    providers: tuple[str, ...]
    hit: bool
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()
    seen: Ints = field(repr=False, default_factory=lambda: np.zeros(0, np.int64))
    features: NDArray[Any] = field(repr=False, default_factory=lambda: np.zeros((0, 0)))
    content: NDArray[Any] | None = field(repr=False, default=None)


@dataclass(frozen=True)
class Looked:
    """Which samples a pass looks at, and what is known of them.

    Attributes:
        indices: those that probes may look at (not the test split).
        codes: class of every sample of the data, [samples.n]; its stratum, where `targets` say
            the answers.
        compared: more samples to run, for their features alone: no probe sees them.
        groups: what each sample of the data belongs to, [samples.n]: no fold tears it apart.
        task: what the answers are; None = the codes are classes.
        targets: the answers of all samples, where there is a task.
    """

    indices: Ints = field(repr=False)
    codes: Ints = field(repr=False)
    compared: Ints | None = field(repr=False, default=None)
    groups: Ints | None = field(repr=False, default=None)
    task: TaskCode | None = None
    targets: Targets | None = field(repr=False, default=None)

    @classmethod
    def of(
        cls, indices: Ints, task: TaskCode, targets: Targets, compared: Ints | None,
        groups: Ints | None,
    ) -> Looked:  # fmt: skip
        """Return those of some samples that tell an answer."""
        indices = indices[np.isin(indices, targets.answered)]
        link, values = task.sought(targets)
        strata = values if link == "softmax" else task.strata(targets)
        codes = np.zeros(len(targets), np.int64) if strata is None else strata
        return cls(indices, codes, compared, groups, task, targets)

    @property
    def of_classes(self) -> bool:
        """Whether what is sought are classes."""
        if self.task is None or self.targets is None:
            return True
        return self.task.sought(self.targets[:1])[0] == "softmax"

    def drawn(self, seed: int) -> tuple[Ints, Ints, tuple[str, ...]]:
        """Return the samples probed, the classes they are of, and what is to be said of that."""
        indices, codes, classes = self.indices, self.codes, np.unique(self.codes)
        notes: tuple[str, ...] = ()
        if len(classes) > MOST_CLASSES and self.of_classes:
            number = len(classes)
            classes = some_classes(codes[indices], seed, MOST_CLASSES)
            indices = indices[np.isin(codes[indices], classes)]
            told = f"probes and learning curve are those of {len(classes)} classes of {number}"
            notes = (f"{told}: with all of them accuracies are lower",)
        return stratified(indices, codes, SAMPLED, seed), classes, notes

    def sought(self, rows: Ints, classes: Ints) -> Sought:
        """Return what is to be found in some samples, classes by their places among `classes`."""
        codes = self.codes[rows]
        if not self.of_classes:
            assert self.task is not None
            assert self.targets is not None
            return Sought.of(self.task, self.targets[rows], codes)
        places = np.searchsorted(classes, codes)
        if self.task is None or self.targets is None or self.task.link != "softmax":
            return Sought.classes(places)
        names = self.targets.names
        told = Targets(places, tuple(names[at] for at in classes.tolist()) if names else ())
        return Sought.of(self.task, told, places)


def _silent(*_: Any) -> None:
    """Say nothing."""


def measure(
    anatomy: Anatomy,
    samples: Samples,
    looked: Looked,
    request: Request | None = None,
    *,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Measured:
    """Run the graph once over a stratified sample and probe what it computes, spread over depth.

    Args:
        anatomy: the graph understood.
        samples: the data.
        looked: which of them.
        request: where the pass runs and is kept; None = the defaults.
        seed: of sample, folds and projection.
        progress: called as `progress(stage, done, total)`.

    Raises:
        DataError: fewer than two classes, or no class with two samples.
        UnsupportedError: no cut can be looked at.
        CheckError: what the graph computes of a sample depends on its batch.
    """
    say = progress or _silent
    taps = add_taps(anatomy, list(choose_cuts(anatomy)))
    looked_at, classes, notes = looked.drawn(seed)
    started = time.perf_counter()
    content = _content_of(taps.model, samples)
    names = list(dict.fromkeys([*taps.outputs, *filter(None, [taps.head, content])]))
    run = looked_at if looked.compared is None else np.union1d(looked_at, looked.compared)
    doubtful = bool(doubtful_nodes(anatomy.model, anatomy.shapes))
    found = extract(
        taps.model, names, samples, run, replace(request or Request(), doubtful=doubtful),
        progress=lambda done, total: say(f"features at {len(taps.cuts)} cuts", done, total),
    )  # fmt: skip
    passed = time.perf_counter()
    judged = np.isin(found.rows, looked_at)
    rows = found.rows[judged]
    sought, of_classes = looked.sought(rows, classes), looked.of_classes
    groups = None if looked.groups is None else looked.groups[rows]
    values = (found.array(name)[judged] for name in taps.outputs)
    probes, best, curve = _probed(taps.cuts, values, sought, groups, seed, say)
    leep = None
    if of_classes and taps.head is not None and anatomy.head is not None:
        leep = _leep_of(found.array(taps.head)[judged], sought.strata, anatomy.head.activation)
    return Measured(
        probes=probes,
        rows=rows,
        codes=sought.strata,
        classes=classes if of_classes else classes[:0],
        quality=sought.quality,
        baseline=sought.baseline,
        curve=curve,
        curve_tensor=best.cut.tensor,
        leep=leep,
        providers=found.providers,
        hit=found.hit,
        seconds={"pass": passed - started, "probes": time.perf_counter() - passed},
        notes=(*found.notes, *notes, *filter(None, [sought.note])),
        seen=found.rows,
        features=np.asarray(found.array(taps.outputs[-1])).reshape(found.n, -1),
        content=None if content is None else found.array(content).reshape(found.n, -1),
    )


def _probed(
    cuts: Sequence[CutPoint],
    values: Iterable[NDArray[Any]],
    sought: Sought,
    groups: Ints | None,
    seed: int,
    say: Callable[[str, int, int], None],
) -> tuple[tuple[Probe, ...], Probe, tuple[tuple[int, float, float], ...]]:
    """Return a probe of each cut's values, the best (the earliest of equals), and its curve."""
    drawn: dict[str, Any] = {
        "seed": seed,
        "repetitions": max(1, min(MOST_REPETITIONS, REPEATED_TO // len(sought.strata))),
        "groups": groups,
    }
    probes, projected = [], []
    for cut, raw in zip(cuts, values, strict=True):
        projected.append(project(raw, seed))
        width = int(np.prod(raw.shape[1:]))
        probes.append(probe(projected[-1], sought, cut, width, **drawn))
        say("linear probes", len(probes), len(cuts))
    best = max(range(len(probes)), key=lambda at: (probes[at].quality, -at))
    return tuple(probes), probes[best], learning_curve(projected[best], sought, **drawn)


def _content_of(model: ModelProto, samples: Samples) -> str | None:
    """Let the pass give a coarse form of its input too; see `add_content`."""
    differing = [info for info in samples.inputs if info.batch_axis is not None]
    feeds = samples.read([]).feeds
    if len(differing) != 1:
        return None
    info = differing[0]
    layout = samples.preprocess.layout if samples.preprocess else infer_layout(info)
    return add_content(model, differing, feeds[info.name].shape[1:], layout)


def some_classes(codes: Ints, seed: int, most: int) -> Ints:
    """Return at most `most` of the classes, ascending: of several samples where there are any."""
    found, counts = np.unique(codes, return_counts=True)
    if (counts > 1).any():
        found = found[counts > 1]
    if len(found) <= most:
        return found
    return np.sort(np.random.default_rng(seed).choice(found, most, replace=False))


def stratified(indices: Ints, codes: Ints, most: int, seed: int) -> Ints:
    """Return at most `most` of the indices, ascending, every class by its share (at least two)."""
    indices = np.asarray(indices, np.int64)
    if len(indices) <= most:
        return np.sort(indices)
    random = np.random.default_rng(seed)
    taken = []
    for code in np.unique(codes[indices]):
        members = random.permutation(indices[codes[indices] == code])
        share = max(2, round(most * len(members) / len(indices)))
        taken.append(members[:share])
    return np.sort(np.concatenate(taken))


def project(values: NDArray[Any], seed: int, dimensions: int = DIMENSIONS) -> Floats:
    """Return standardised features [n, ≤ dimensions]; more are projected onto a seeded subspace.

    The subspace is that of a randomised range finder with one power step (Halko, Martinsson, Tropp,
    "Finding structure with randomness", 2011): it holds nearly all the variance that so many
    dimensions can, so that wide values are not at a disadvantage against narrow ones.
    """
    flat = np.asarray(values).reshape(len(values), -1).astype(np.float32)
    flat = np.where(np.isfinite(flat), flat, 0.0)
    mean, spread = flat.mean(axis=0, dtype=np.float64), flat.std(axis=0, dtype=np.float64)
    # What hardly moves is rounding noise: it counts as constant (the same bound as the head's).
    moves = spread > 1e-5 * np.abs(mean) + 1e-30
    if not moves.any():
        return np.zeros((len(flat), 1))
    floor = float(np.median(spread[moves]))
    kept: Floats = flat[:, moves].astype(np.float64) - mean[moves]
    kept /= np.maximum(spread[moves], floor)
    if kept.shape[1] <= dimensions:
        return kept
    random = np.random.default_rng(seed)
    basis = kept @ random.standard_normal((kept.shape[1], dimensions))
    basis, _ = np.linalg.qr(kept.T @ basis)
    return np.asarray(kept @ basis, np.float64)


def probe(
    values: Floats,
    sought: Sought,
    cut: CutPoint,
    features: int,
    *,
    seed: int = 0,
    repetitions: int = 1,
    groups: Ints | None = None,
) -> Probe:
    """Cross-validate ridge regression in closed form and compute LogME of the same features.

    Args:
        values: [n, d] from `project`.
        sought: what is to be found in them.
        cut: where the values were read.
        features: numbers in the pooled value.
        seed: of the folds.
        repetitions: of the cross-validation with other folds, where few samples are looked at and
            the luck of the folds would show.
        groups: what each sample belongs to, [n]: no fold tears it apart.
    """
    strata, targets = sought.strata, sought.targets
    folds = [stratified_folds(strata, seed + again, groups=groups) for again in range(repetitions)]
    scores, penalty = _cross_validate(values, targets, folds[0])
    worth = sought.worth(scores)
    for fold in folds[1:]:
        other, _ = _cross_validate(values, targets, fold)
        worth += sought.worth(other)
        scores = scores + other
    worth /= repetitions
    fitted = _Ridge.fit(_Moments.of(values, targets)).scores(values, [penalty])[0]
    return Probe(
        cut=cut,
        features=features,
        quality=float(worth.mean()),
        error=sought.error(worth),
        train_quality=float(sought.worth(fitted).mean()),
        logme=logme(values, targets),
        correct=worth,
        penalty=penalty,
        scores=scores / repetitions,
    )


def paired(first: Probe, second: Probe) -> tuple[float, float]:
    """Return quality of `first` − `second` and the standard error of it, on the same samples."""
    difference = first.correct - second.correct
    count = len(difference)
    # One disagreement either way is added, so that a few samples in agreement prove nothing.
    spread = np.sqrt(((difference - difference.mean()) ** 2).sum() + 2.0) / count
    return float(difference.mean()), float(spread)


def learning_curve(
    values: Floats,
    sought: Sought,
    seed: int,
    *,
    repetitions: int = 1,
    groups: Ints | None = None,
) -> tuple[tuple[int, float, float], ...]:
    """Return (training samples, held-out quality, its error) of the probe at `SHARES` of the data.

    The parts are nested and stratified; every part is judged on the same held-out samples. With
    repetitions, folds and parts are drawn anew and qualities are means.
    """
    strata, n = sought.strata, len(values)
    worth = np.zeros((len(SHARES), n))
    trained = []
    for again in range(repetitions):
        fold = stratified_folds(strata, seed + again, groups=groups)
        rank = _ranks(strata, seed + again + 1)
        for place, share in enumerate(SHARES):
            use = rank <= share if share < 1 else None
            scores, _ = _cross_validate(values, sought.targets, fold, use)
            worth[place] += sought.worth(scores) / repetitions
        trained = [round(share * n * (1 - 1 / (int(fold.max()) + 1))) for share in SHARES]
    return tuple(
        (count, float(each.mean()), sought.error(each))
        for count, each in zip(trained, worth, strict=True)
    )


def _ranks(codes: Ints, seed: int) -> Floats:
    """Return the rank of every sample within its class as a share, [n]; half of each is <= 0.5."""
    random = np.random.default_rng(seed)
    rank = np.empty(len(codes))
    for code in np.unique(codes):
        members = random.permutation(np.flatnonzero(codes == code))
        rank[members] = (np.arange(len(members)) + random.random()) / len(members)
    return rank


@dataclass(frozen=True)
class _Moments:
    """Sums over samples from which ridge regression follows; folds are differences of them."""

    gram: Floats
    total: Floats
    cross: Floats
    counts: Floats
    n: int

    @classmethod
    def of(cls, values: Floats, targets: Floats) -> _Moments:
        return cls(
            values.T @ values, values.sum(axis=0), values.T @ targets, targets.sum(axis=0),
            len(values),
        )  # fmt: skip

    def __sub__(self, other: _Moments) -> _Moments:
        return _Moments(
            self.gram - other.gram, self.total - other.total, self.cross - other.cross,
            self.counts - other.counts, self.n - other.n,
        )  # fmt: skip


@dataclass(frozen=True)
class _Ridge:
    """Ridge regression, for every penalty at once."""

    axes: Floats
    variances: Floats
    mean: Floats
    prior: Floats
    pull: Floats

    @classmethod
    def fit(cls, sums: _Moments) -> _Ridge:
        mean, prior = sums.total / sums.n, sums.counts / sums.n
        covariance = sums.gram / sums.n - np.outer(mean, mean)
        variances, axes = np.linalg.eigh(covariance)
        pull = axes.T @ (sums.cross / sums.n - np.outer(mean, prior))
        return cls(axes, np.maximum(variances, 0.0), mean, prior, pull)

    def scores(self, values: Floats, penalties: Sequence[float]) -> Floats:
        """Return [penalties, n, outputs]."""
        turned = (values - self.mean) @ self.axes
        return np.stack(
            [turned @ (self.pull / (self.variances + p)[:, None]) + self.prior for p in penalties]
        )


def _cross_validate(
    values: Floats, targets: Floats, fold: Ints, use: NDArray[np.bool_] | None = None
) -> tuple[Floats, float]:
    """Return held-out scores [n, outputs] at the penalty of least squared error, and that penalty.

    `use` [n] limits what is trained on; every sample is judged all the same.
    """
    train = np.ones(len(values), bool) if use is None else use
    whole = _Moments.of(values[train], targets[train])
    held = np.zeros((len(PENALTIES), *targets.shape))
    for part in range(int(fold.max()) + 1):
        out = fold == part
        both = out & train
        rest = whole - _Moments.of(values[both], targets[both])
        if rest.n:  # of very few samples a fold may leave none to fit: its scores stay 0
            held[:, out] = _Ridge.fit(rest).scores(values[out], PENALTIES)
    squared = (held**2).sum(axis=(1, 2)) - 2 * np.einsum("pnk,nk->p", held, targets)
    best = int(squared.argmin())
    return held[best], PENALTIES[best]


def logme(values: Floats, targets: Floats) -> float:
    """Return the log maximum evidence of a linear model of each target, mean per sample and target.

    The fixed-point iteration of You et al. (2021), all targets at once. Targets that are 0
    everywhere (classes without a sample) count for nothing.
    """
    n, d = values.shape
    targets = targets[:, targets.any(axis=0)]
    squares, axes = np.linalg.eigh(values.T @ values)
    keep = squares > 1e-10 * max(float(squares.max()), 1e-30)
    squares = squares[keep][:, None]
    along = (axes[:, keep].T @ (values.T @ targets)) ** 2 / squares
    outside = np.maximum((targets**2).sum(axis=0) - along.sum(axis=0), 0.0)
    alpha = np.ones(targets.shape[1])
    beta = np.ones(targets.shape[1])
    for _ in range(100):
        ratio = alpha / beta
        gamma = (squares / (squares + ratio)).sum(axis=0)
        weight = (squares * along / (ratio + squares) ** 2).sum(axis=0)
        rest = (along / (1 + squares / ratio) ** 2).sum(axis=0) + outside
        alpha = np.maximum(gamma, 1e-12) / np.maximum(weight, 1e-12)
        beta = (n - gamma) / np.maximum(rest, 1e-12)
        moved = np.abs(alpha / beta - ratio) / np.maximum(ratio, 1e-12)
        if (moved < 1e-3).all():
            break
    ratio = alpha / beta
    weight = (squares * along / (ratio + squares) ** 2).sum(axis=0)
    rest = (along / (1 + squares / ratio) ** 2).sum(axis=0) + outside
    logdet = np.log(alpha + beta * squares).sum(axis=0) + (d - len(squares)) * np.log(alpha)
    evidence = (
        d / 2 * np.log(alpha) + n / 2 * np.log(beta) - logdet / 2
        - beta / 2 * rest - alpha / 2 * weight - n / 2 * np.log(2 * np.pi)
    )  # fmt: skip
    return float((evidence / n).mean())


def leep(probabilities: Floats, codes: Ints) -> float:
    """Return LEEP: mean log-likelihood of the labels given the old classes, nats (0 at best).

    Args:
        probabilities: of the old classes, [n, old classes].
        codes: new class of each sample, [n].
    """
    targets = (codes[:, None] == np.unique(codes)[None, :]).astype(float)
    joint = targets.T @ probabilities / len(codes)
    given = joint / np.maximum(joint.sum(axis=0, keepdims=True), 1e-30)
    expected = probabilities @ given.T
    likelihood = expected[targets.astype(bool)]
    return float(np.log(np.maximum(likelihood, 1e-30)).mean())


def _leep_of(scores: NDArray[Any], codes: Ints, activation: str | None) -> float | None:
    """Return LEEP of what an old head gives, or None where it is no distribution over classes."""
    flat = np.asarray(scores, np.float64)
    flat = flat.reshape(len(flat), -1) if flat.ndim == 2 or flat[0].size == flat.shape[1] else flat
    if flat.ndim != 2 or flat.shape[1] < 2 or activation == "Sigmoid":
        return None
    if activation == "LogSoftmax":
        flat = np.exp(flat)
    elif activation != "Softmax":
        flat = softmax(flat)
    return leep(flat, codes)


__all__ = [
    "Measured",
    "Probe",
    "Sought",
    "learning_curve",
    "leep",
    "logme",
    "measure",
    "paired",
    "probe",
    "project",
    "some_classes",
    "stratified",
]
