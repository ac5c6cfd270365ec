"""The stages of training, in order: features → the head solved → everything tuned → the guard.

Each stage splits the operated graph at its own frontier, so a head trains on cached vectors and a
whole network has no frozen part; the set of weights is one. Then the result is measured and proven.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import helper

from surgeon.errors import CheckError, DataError, UsageError
from surgeon.graph import precision as halves
from surgeon.graph.cuts import first_use
from surgeon.graph.files import sha256_model
from surgeon.graph.frontier import Frontier
from surgeon.graph.frontier import split as split_graph
from surgeon.graph.initialization import scheme
from surgeon.graph.weights import roles, store
from surgeon.records import SOLVE_HEAD, TRAIN_ALL, Init, Stage, as_json
from surgeon.runtime.features import extract
from surgeon.runtime.metrics import score, softmax
from surgeon.runtime.observe import relative_error
from surgeon.runtime.proof import fill_batch, make_proof, seeded_input, tuned_names
from surgeon.runtime.proof import golden_samples as make_golden
from surgeon.runtime.sessions import choose_device, open_session
from surgeon.runtime.stream import Runner
from surgeon.tune import arrays, batches, guard, race
from surgeon.tune.augment import Views
from surgeon.tune.engines import engine_for
from surgeon.tune.fit import FitResult, FitSettings, Progress, fit
from surgeon.tune.head import solve, torch_threads
from surgeon.tune.initialize import draw_all, randomize
from surgeon.tune.module import tensors, to_module
from surgeon.tune.stepwise import Agreement, compare, quantised_values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.data.samples import Samples
    from surgeon.data.splits import Splits
    from surgeon.model import Model
    from surgeon.runtime.features import Features
    from surgeon.runtime.sessions import Device, Session


@dataclass(frozen=True)
class Run:
    """Everything one training run is a function of."""

    patient: Model
    samples: Samples
    codes: NDArray[np.int64]
    parts: Splits
    device: str = "auto"
    seed: int = 0
    threads: int | None = None
    cache_limit: int | None = None
    precision: str = "float32"
    batch: int | None = None
    lr: float | None = None
    epochs: int | None = None
    budget: float | None = None
    augment: str = "auto"
    views: int = 1
    accumulate: int = 1
    compile: str = "auto"
    memory: str = "normal"
    deterministic: bool = False
    resume: bool = False
    progress: Callable[..., None] | None = None
    checkpoint: Path | None = None
    expected: float | None = None
    """accuracy of a probe at the cut, cross-validated over more samples than validate"""
    drawn: bool = False
    """whether the patient's weights are random ones already, so that no pretrained ones are left"""

    @property
    def classes(self) -> int:
        """Outputs of the head."""
        assert self.patient.plan is not None
        assert self.patient.plan.classes is not None
        return self.patient.plan.classes

    def say(self, stage: str, done: float, total: float | None = None, **figures: Any) -> None:
        """Tell the caller how far it is."""
        if self.progress is not None:
            self.progress(stage, done, total, **figures)


@dataclass
class Trained:
    """What training gave.

    Attributes:
        tensors: {initializer: values} of everything that was trained, statistics included.
        frontier: the `frontier` object of the document.
        history: rows of all stages.
        delivered: `tuned`, `probe` (the solved head on the weights as they came) or `start`.
        stopped: why a stage ended early, or None.
        statistics: names of statistics that training moved.
        scores: metrics by part where they follow from features, else empty.
        cross: cross-validated metrics of the solved head on the training samples, or None.
        probe: the first solved head, kept as a candidate.
        stepped: whether weights that were trained by gradient are among the tensors.
        guard: the `guard` object of the document: tuned against probe; None where there was
            nothing to compare.
        race: the `race` object of the document; None where there was none.
        device: where torch trained.
        providers: what computed the frozen part.
    """

    tensors: dict[str, NDArray[Any]] = field(default_factory=dict)
    frontier: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    delivered: str = "start"
    stopped: str | None = None
    statistics: list[str] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    cross: dict[str, Any] | None = None
    probe: _Probe | None = None
    stepped: bool = False
    guard: dict[str, Any] | None = None
    race: dict[str, Any] | None = None
    device: str = "cpu"
    providers: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    seconds_features: float = 0.0
    seconds_train: float = 0.0
    samples_seen: int = 0
    compiled: bool = False
    peak_memory: int | None = None


def train(run: Run) -> Trained:
    """Run the plan's stages in order; each starts from what the one before it gave.

    The solved head on the weights as they came, the probe, is always a candidate: what is tuned
    further is delivered only if it is better on validation.
    """
    plan = run.patient.plan
    assert plan is not None
    device = _torch_device(run)  # one that is missing is refused now, not behind the frozen part
    result = Trained(device=str(device))
    started = time.perf_counter()
    stages = _stages(run)
    start: Init = "pretrained" if run.patient.tuned else plan.init
    fresh, vain = True, []
    if stages[0].method != "solve" and not run.drawn:
        _probe_aside(run, result)
    for number, stage in enumerate(stages):
        if stage.method == "solve":
            _solve_stage(run, stage, result)
            continue
        folder = _checkpoint(run, number)
        if start == "race":
            start = _race_stage(run, stage, result, started, folder)
        elif not _fit_stage(run, stage, result, started, folder, start=start, fresh=fresh):
            vain.append(stage.name)
        fresh = False
        if result.stopped in ("nan", "interrupt", "budget"):
            break
    if start == "random" and not result.stepped:
        result.tensors, result.delivered = {}, "start"  # what was drawn has led nowhere
    _guard(run, result)
    result.notes += [
        f"stage {name!r} did not improve on what it started from; "
        f"the {result.delivered} is delivered"
        for name in vain
    ]
    moving = set(tuned_names(run.patient.proto, run.patient.trainable))
    result.statistics = sorted(moving - set(run.patient.trainable))
    result.notes += _places(run, device, result.providers)
    return result


def _places(run: Run, device: torch.device, providers: Sequence[str]) -> list[str]:
    """Return notes on what ran where, if torch and ONNX Runtime did not both use the GPU."""
    notes = []
    if device.type == "cpu" and choose_device(run.device).kind == "cuda":
        why = "cannot use it" if torch.version.cuda else "is built for CPUs only"
        notes.append(
            f"this machine has a CUDA device, but torch {torch.__version__} {why}: "
            "training ran on the CPU"
        )
    front = "cuda" if any("cuda" in name.lower() for name in providers) else "cpu"
    if providers and front != device.type:
        notes.append(f"the frozen part ran on {front} ({providers[0]}), training on {device}")
    return notes


def _checkpoint(run: Run, number: int) -> Path | None:
    """Return where a stage keeps its checkpoint: a folder named by what the run is a function of.

    Raises:
        UsageError: going on was asked for, and what is there belongs to other data or weights.
    """
    if run.checkpoint is None:
        return None
    weights = sha256_model(run.patient.proto)
    digest = hashlib.sha256(f"{weights} {run.samples.sha256} {run.augment}".encode())
    folder = run.checkpoint / f"stage-{number}-{digest.hexdigest()[:16]}"
    others = run.checkpoint.is_dir() and any(run.checkpoint.iterdir())
    if run.resume and number == _first_fit(run) and others and not folder.is_dir():
        raise UsageError(
            "the checkpoint is of another run: its data or the weights it began with differ",
            where=str(run.checkpoint),
            remedy="give the same model and data as before, or start again without --resume",
        )
    return folder


def _first_fit(run: Run) -> int:
    return next(i for i, stage in enumerate(_stages(run)) if stage.method != "solve")


def _stages(run: Run) -> tuple[Stage, ...]:
    plan = run.patient.plan
    assert plan is not None
    stages: tuple[Stage, ...] = plan.stages
    if not stages:
        only_head = set(run.patient.trainable) <= set(head_names(run.patient.proto))
        stages = (SOLVE_HEAD,) if only_head else (SOLVE_HEAD, TRAIN_ALL)
    for stage in stages:
        if stage.method not in ("solve", "adamw"):
            raise UsageError(
                f"stage {stage.name!r} has the method {stage.method!r}",
                where=f"case {plan.case!r}",
                remedy="`solve` or `adamw`",
            )
        if stage.method == "solve" and stage.trains != "head":
            raise UsageError(
                f"stage {stage.name!r} solves for {stage.trains!r}",
                where=f"case {plan.case!r}",
                remedy="only the head is a convex problem; train the rest by `adamw`",
            )
        _stage_names(run, stage)
    return stages


def head_names(model: ModelProto) -> tuple[str, str]:
    """Return the names of the new head's weight and bias: inputs of the Gemm that makes logits."""
    for node in reversed(model.graph.node):
        if node.op_type == "Gemm" and node.output[0] == model.graph.output[0].name:
            return node.input[1], node.input[2]
    raise UsageError(
        "the graph does not end in a Gemm head",
        where="graph output",
        remedy="operate on it first: `surgeon operate` appends one",
    )


def _with_tensors(model: ModelProto, values: Mapping[str, NDArray[Any]]) -> ModelProto:
    """Return a graph with some initializers replaced, where it has them."""
    copy = type(model)()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in values:
            store(tensor, values[tensor.name])
    return copy


# ── the head, on cached features ────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Probe:
    """A solved head.

    Attributes:
        tensors: its weight and bias.
        scores: metrics by part.
        cross: cross-validated metrics on the training samples, or None.
        rows: validation samples.
        probabilities: [rows, classes].
    """

    tensors: dict[str, NDArray[Any]]
    scores: dict[str, Any]
    cross: dict[str, Any] | None
    rows: NDArray[np.int64]
    probabilities: NDArray[np.float64]


def _solve_stage(run: Run, stage: Stage, result: Trained) -> None:
    """Solve the head and go on from there."""
    solved = _solve(run, stage, result)
    result.probe = result.probe or solved
    result.tensors |= solved.tensors
    result.scores, result.cross = solved.scores, solved.cross
    only_head = set(run.patient.trainable) <= set(solved.tensors)
    result.delivered = "tuned" if only_head or result.stepped else "probe"


def _probe_aside(run: Run, result: Trained) -> None:
    """Solve the head as a candidate only: the stages start from what the plan says."""
    try:
        result.probe = _solve(run, replace(SOLVE_HEAD, name="probe"), result)
    except DataError as error:
        result.notes.append(f"there is no probe to compare with: {error.message}")


def _guard(run: Run, result: Trained) -> None:
    """Deliver the probe if what was tuned is not better than it on the validation samples."""
    probe = result.probe
    if probe is None or (result.stepped and not len(probe.rows)):
        return
    if result.stepped:
        tuned = _with_tensors(run.patient.proto, result.tensors)
        predicted = _predict_part(run, tuned, probe.rows, result)
        if predicted is None:
            return
        probabilities, rows = predicted
        known = np.searchsorted(probe.rows, rows)
        compared = guard.compare(
            probe.probabilities[known], probabilities, run.codes[rows], expected=run.expected
        )
        result.guard = compared.as_dict()
        # Who asked for random weights by name gets them, and is told what they cost.
        asked = run.patient.plan is not None and run.patient.plan.init == "random"
        if compared.better or asked:
            result.scores = {"validation": score(probabilities, run.codes[rows])}
            if not compared.better:
                result.notes.append(compared.warning)
            return
        result.notes.append(compared.note)
    elif result.delivered != "start":
        return
    result.tensors, result.delivered = dict(probe.tensors), "probe"
    result.scores, result.cross = probe.scores, probe.cross


def _solve(run: Run, stage: Stage, result: Trained) -> _Probe:
    """Compute features once per sample and solve the head on them to its optimum."""
    weight_name, bias_name = head_names(run.patient.proto)
    current = _with_tensors(run.patient.proto, result.tensors)
    front = split_graph(current, [weight_name, bias_name], run.patient.anatomy().shapes)
    started = time.perf_counter()
    features = _features(run, front)
    result.seconds_features += time.perf_counter() - started
    _note_frontier(front, features, result)
    started = time.perf_counter()
    name = front.tensors[0].name
    parts = _rows(run, features)
    values = features.array(name)
    values = values.reshape(len(values), -1)
    _require_finite(run, features, values, name)
    viewed, sample = values[parts["train"]], features.rows[parts["train"]]
    if run.views > 1:
        counted = time.perf_counter()
        more, of = _view_features(run, front, sample, result)
        viewed, sample = np.concatenate([viewed, more]), np.concatenate([sample, of])
        result.seconds_features += time.perf_counter() - counted
        started += time.perf_counter() - counted
    solution = solve(
        viewed,
        run.codes[sample],
        run.classes,
        views_of=sample if run.views > 1 else None,
        seed=run.seed,
        device=_torch_device(run),
        threads=run.threads,
        progress=lambda done, total: run.say("solving the head", done, total),
    )
    found = {
        weight_name: solution.weight.astype(_stored(run, weight_name)),
        bias_name: solution.bias.astype(_stored(run, bias_name)),
    }
    scores: dict[str, Any] = {"validation": None, "test": None, "train": None}
    predicted = {}
    for part, rows in parts.items():
        predicted[part] = softmax(values[rows] @ solution.weight.T + solution.bias)
        if len(rows):
            scores[part] = score(predicted[part], run.codes[features.rows[rows]])
    cross = None
    if solution.out_of_fold_log_probabilities is not None:
        codes = run.codes[features.rows[parts["train"]]]
        held_out = solution.out_of_fold_log_probabilities[: len(codes)]  # views stand behind
        probabilities = np.exp(held_out.astype(np.float64))
        cross = score(probabilities, codes) | {"folds": solution.folds}
    seconds = time.perf_counter() - started
    result.seconds_train += seconds
    result.samples_seen += len(sample)
    validation = scores["validation"] or {}
    result.history.append(
        {
            "stage": stage.name,
            "epoch": 1,
            "step": solution.iterations,
            "loss": scores["train"]["loss"],
            "validation_loss": validation.get("loss"),
            "validation_accuracy": validation.get("accuracy"),
            "lr": None,
            "seconds": seconds,
            "regularisation": solution.regularisation,
            "converged": solution.converged,
        }
    )
    judged = features.rows[parts["validation"]]
    order = np.argsort(judged)
    return _Probe(found, scores, cross, judged[order], predicted["validation"][order])


def _require_finite(run: Run, features: Features, values: NDArray[Any], name: str) -> None:
    """Refuse features that are no numbers, naming the samples they come from.

    Raises:
        DataError: with the count and the first samples.
    """
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if not len(bad):
        return
    samples = [str(run.samples.names[features.rows[row] % run.samples.n]) for row in bad[:3]]
    raise DataError(
        f"the frozen part gives NaN or infinity for {len(bad)} of {len(values)} samples",
        where=f"tensor {name!r}: {', '.join(samples)}",
        remedy="check these samples and the preprocessing; a float16 model may overflow on them",
    )


def _features(
    run: Run,
    front: Frontier,
    samples: Samples | None = None,
    indices: NDArray[np.int64] | None = None,
) -> Features:
    names = [info.name for info in front.tensors]
    axes = {info.name: info.batch_axis for info in front.tensors if info.batch_axis}
    engines = engine_for(
        run.device,
        precision=run.precision,
        compile=run.compile,  # type: ignore[arg-type]
        deterministic=run.deterministic,
    )
    return extract(
        front.frozen,
        names,
        run.samples if samples is None else samples,
        indices,
        key_parts=() if engines is None else engines.key_parts,
        axes=axes,
        device=_place(run) if engines is None else engines.place,
        threads=run.threads,
        limit_bytes=run.cache_limit,
        faster=engines,
        progress=lambda done, total: run.say("features", done, total),
        where=None if run.patient.path is None else str(run.patient.path),
    )


def _view_features(
    run: Run, front: Frontier, train: NDArray[np.int64], result: Trained
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the features of augmented views of training samples, and the sample of each row."""
    strength = {"auto": "light"}.get(run.augment, run.augment)
    varied = Views(run.samples, run.views - 1, strength, seed=run.seed)
    wanted = np.concatenate([train + view * run.samples.n for view in range(run.views - 1)])
    with torch_threads(1):  # every core augments pictures of its own
        features = _features(run, front, varied, wanted)
    name = front.tensors[0].name
    values = features.array(name)
    values = values.reshape(len(values), -1)
    _require_finite(run, features, values, name)
    result.frontier["views"] = {
        "views": run.views,
        "augment": strength,
        "bytes": features.bytes,
        "hit": features.hit,
    }
    return values, wanted % run.samples.n


def _note_frontier(front: Frontier, features: Features | None, result: Trained) -> None:
    cache = None
    if features is not None:
        result.providers = features.providers
        result.notes += [note for note in features.notes if note not in result.notes]
        cache = {
            "path": None if features.path is None else str(features.path),
            "bytes": features.bytes,
            "hit": features.hit,
        }
    result.frontier = {
        "tensors": [
            {"name": t.name, "shape": as_json(t.shape), "dtype": t.dtype} for t in front.tensors
        ],
        "nodes_frozen": front.nodes_frozen,
        "nodes_trained": front.nodes_trained,
        "cache": cache,
    }


def _rows(run: Run, features: Features) -> dict[str, NDArray[np.int64]]:
    """Return positions in the features of every part, unreadable samples left out."""
    where = np.full(run.samples.n, -1, np.int64)
    where[features.rows] = np.arange(features.n)
    test = np.zeros(0, np.int64) if run.parts.test is None else run.parts.test
    parts = {"train": run.parts.train, "validation": run.parts.validation, "test": test}
    found = {name: where[indices][where[indices] >= 0] for name, indices in parts.items()}
    present = set(run.codes[features.rows[found["train"]]].tolist())
    if len(present) < len(set(run.codes.tolist())):
        raise DataError(
            "a class has no readable sample left to train on",
            remedy="repair its files, or remove the class",
        )
    return found


def _stored(run: Run, name: str) -> Any:
    tensor = next(t for t in run.patient.proto.graph.initializer if t.name == name)
    return helper.tensor_dtype_to_np_dtype(tensor.data_type)


def _place(run: Run) -> Device:
    """Return where ONNX Runtime computes."""
    return replace(choose_device(run.device), repeatable=run.deterministic)


def _torch_device(run: Run) -> torch.device:
    from surgeon.tune.device import choose

    return choose(run.device)


# ── everything, step by step ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Ready:
    """The trained part of a stage, converted: what `fit` takes."""

    module: Any
    graph: ModelProto
    names: list[str]
    train: Any
    validation: Any


def _fit_stage(
    run: Run,
    stage: Stage,
    result: Trained,
    started: float,
    checkpoint: Path | None,
    *,
    start: race.Start,
    fresh: bool,
) -> bool:
    """Tune the stage's weights by gradient, from what the stages before it gave.

    A random start begins with the first such stage (`fresh`): its weights are drawn there.

    Returns:
        Whether it improved on what it started from.
    """
    anew = start == "random" and fresh
    if anew:
        result.tensors = _drawn(run)
    ready = _open(run, stage, result.tensors, result)
    if anew:
        _scale(run, ready)
    settings = _settings(run, stage, start, _seconds_left(run, started))
    fitted = _fit(run, ready, settings, checkpoint, result)
    result.stopped = fitted.stopped
    if fitted.improved:
        _take(run, ready, result)
    return fitted.improved


def _race_stage(
    run: Run, stage: Stage, result: Trained, started: float, checkpoint: Path | None
) -> race.Start:
    """Train both starts for a short while on the same batches; the better one goes on."""
    seconds = _seconds_left(run, started)
    opened: dict[race.Start, _Ready] = {}
    legs: dict[race.Start, FitResult] = {}
    for start in race.STARTS:
        values = result.tensors if start == "pretrained" else _drawn(run)
        ready = _open(run, stage, values, result, like=opened.get("pretrained"))
        if ready.validation is None:
            result.notes.append("no race of two starts: there are no samples to judge them by")
            _fit_stage(run, stage, result, started, checkpoint, start="pretrained", fresh=True)
            return "pretrained"
        if start == "random":
            _scale(run, ready)
        opened[start] = ready
        whole = _settings(run, stage, start, None)
        settings = race.short(whole, start, ready.train.n, seconds, legs.get("pretrained"))
        folder = None if checkpoint is None else checkpoint / start
        legs[start] = _fit(run, ready, settings, folder, result, start=start)
        if legs[start].stopped == "interrupt":
            break
    found = race.Race(legs["pretrained"], legs.get("random"))
    winner, ready, leg = found.winner, opened[found.winner], legs[found.winner]
    if winner == "random":
        result.tensors = _drawn(run)
    if winner == "random" or leg.improved:
        _take(run, ready, result)
    result.notes.append(found.note)
    final = leg.best
    ended = [one.stopped for one in legs.values()]
    if "interrupt" in ended:
        result.stopped = "interrupt"
    elif leg.stopped == "nan":
        result.stopped = "nan"
    rest = race.rest(_settings(run, stage, winner, _seconds_left(run, started)), leg, ready.train.n)
    if result.stopped is None and rest is not None:
        fitted = _fit(run, ready, rest, checkpoint, result, start=winner)
        result.stopped, final = fitted.stopped, fitted.best
        if fitted.improved:
            _take(run, ready, result)
    result.race = found.as_dict(final)
    return winner


def _open(
    run: Run,
    stage: Stage,
    values: Mapping[str, NDArray[Any]],
    result: Trained,
    *,
    like: _Ready | None = None,
) -> _Ready:
    """Convert the trained part with these values; the samples are those of `like`, if given."""
    patient = run.patient
    names = _stage_names(run, stage)
    current = _with_tensors(patient.proto, values)
    front = split_graph(current, names, patient.anatomy().shapes, keep_weightless=False)
    half = halves.is_half(front.trained)
    trained = halves.widen(front.trained) if half else front.trained
    module = to_module(trained, roles=roles(trained), quantized=names)
    shapes = patient.anatomy().shapes
    if shapes.batches[0] == shapes.batches[1]:
        axes = [info.batch_axis for info in front.tensors]
        batches.keep_batch(module, shapes.batches[0], axes)
    if like is not None:
        return _Ready(module, trained, names, like.train, like.validation)
    begun = time.perf_counter()
    train_set, validation_set, features = _batches(run, front, module.input_names, widen=half)
    result.seconds_features += time.perf_counter() - begun
    _note_frontier(front, features, result)
    return _Ready(module, trained, names, train_set, validation_set)


def _settings(run: Run, stage: Stage, start: race.Start, seconds: float | None) -> FitSettings:
    """Return how a stage is trained from one start; `seconds` are left for it."""
    scratch = start == "random"
    return FitSettings(
        stage=stage.name,
        epochs=run.epochs or stage.epochs,
        budget_seconds=seconds,
        batch=run.batch,
        lr=run.lr or stage.lr,
        lr_decay=stage.lr_decay,
        # A solved head fits its samples: smoothing would first tear its logits, then the backbone.
        label_smoothing=0.1 if scratch else 0.0,
        scratch=scratch,
        precision=run.precision,  # type: ignore[arg-type]
        device=run.device,
        seed=run.seed,
        accumulate=run.accumulate,
        compile=run.compile,  # type: ignore[arg-type]
        memory=run.memory,  # type: ignore[arg-type]
        deterministic=run.deterministic,
    )


def _seconds_left(run: Run, started: float) -> float | None:
    """Return what is left of the budget: what the frozen part took counts.

    A tenth is kept, so that something is always trained.
    """
    if run.budget is None:
        return None
    return max(run.budget - (time.perf_counter() - started), 0.1 * run.budget)


def _fit(
    run: Run,
    ready: _Ready,
    settings: FitSettings,
    checkpoint: Path | None,
    result: Trained,
    *,
    start: race.Start | None = None,
) -> FitResult:
    """Train, and write down what was done; rows of a race say which start they belong to."""
    begun = time.perf_counter()
    with torch_threads(run.threads):
        fitted = fit(
            ready.module,
            ready.train,
            ready.validation,
            trainable=ready.names,
            depths=first_use(run.patient.anatomy()),
            classes=run.classes,
            settings=settings,
            progress=lambda progress: _report(run, progress),
            checkpoint_dir=checkpoint,
            resume=run.resume,
        )
    result.seconds_train += time.perf_counter() - begun
    result.history += [dict(row) | ({"start": start} if start else {}) for row in fitted.history]
    result.notes += list(fitted.notes)
    result.samples_seen += fitted.samples
    result.compiled |= fitted.compiled
    result.peak_memory = fitted.peak_memory
    if fitted.stopped == "nan":
        result.notes.append(
            f"the loss became NaN in stage {settings.stage!r}: training stopped there, the best "
            "weights so far are delivered; a lower --lr may help"
        )
    return fitted


def _take(run: Run, ready: _Ready, result: Trained) -> None:
    """Take a trained module's weights as what is delivered so far."""
    result.delivered, result.stepped, result.scores = "tuned", True, {}
    wanted = set(tuned_names(run.patient.proto, ready.names))
    for name, value in tensors(ready.module).items():
        if name in wanted:
            result.tensors[name] = arrays.to_array(value).astype(_stored(run, name))


def _drawn(run: Run) -> dict[str, NDArray[Any]]:
    """Draw every weight that is trained anew; the head has its random weights already."""
    proto, trainable = run.patient.proto, run.patient.trainable
    names = [n for n in tuned_names(proto, trainable) if n not in head_names(proto)]
    drawn = draw_all(proto, names, seed=run.seed)
    return {name: values.astype(_stored(run, name)) for name, values in drawn.items()}


def _stage_names(run: Run, stage: Stage) -> list[str]:
    trainable = run.patient.trainable
    if stage.trains == "all":
        return trainable
    if stage.trains == "head":
        return list(head_names(run.patient.proto))
    wanted = {stage.trains} if isinstance(stage.trains, str) else set(stage.trains)
    unknown = wanted - set(trainable)
    if unknown:
        raise UsageError(
            f"stage {stage.name!r} trains {min(unknown)!r}, which the plan does not train",
            where=f"stage {stage.name!r}",
            remedy="a stage trains `head`, `all`, or names that the plan trains",
        )
    return [name for name in trainable if name in wanted]


def _batches(
    run: Run, front: Frontier, inputs: Sequence[str], *, widen: bool
) -> tuple[Any, Any, Features | None]:
    if front.frozen is not None:
        features = _features(run, front)
        rows = _rows(run, features)
        sets = [
            batches.ValueBatches(
                batches.of_features(features, rows[part]),
                run.codes[features.rows[rows[part]]],
                inputs,
                widen=widen,
            )
            for part in ("train", "validation")
        ]
        return sets[0], sets[1] if sets[1].n else None, features
    parts = {"train": run.parts.train, "validation": run.parts.validation}
    if run.samples.is_images:
        pictures = batches.Pictures(run.samples, run.progress)
        readable = {name: rows[pictures.readable[rows]] for name, rows in parts.items()}
        strength = {"auto": "light"}.get(run.augment, run.augment)
        found = [
            batches.PictureBatches(pictures, readable[part], run.codes, inputs, applied)
            for part, applied in (("train", strength), ("validation", "none"))
        ]
        return found[0], found[1] if found[1].n else None, None
    values = [
        batches.ValueBatches(
            batches.of_samples(run.samples, rows), run.codes[rows], inputs, widen=widen
        )
        for rows in parts.values()
    ]
    return values[0], values[1] if values[1].n else None, None


def _scale(run: Run, ready: _Ready) -> None:
    """Scale a random start by data, where normalization layers were folded away (LSUV)."""
    inputs = ready.train.load(np.arange(min(ready.train.n, 64)))
    if hasattr(ready.train, "prepare"):
        inputs = ready.train.prepare(inputs)
    with torch_threads(run.threads):
        randomize(ready.module, scheme(ready.graph), ready.names, seed=run.seed, inputs=inputs)


def _report(run: Run, progress: Progress) -> None:
    row = progress.row or {}
    run.say(
        progress.stage,
        progress.share,
        1.0,
        epoch=progress.epoch,
        loss=row.get("loss", progress.loss),
        left=progress.seconds_left,
        accuracy=row.get("validation_accuracy"),
        throughput=progress.samples_per_second,
    )


# ── measuring and proving ────────────────────────────────────────────────────────────────────────


def measure(run: Run, tuned: ModelProto, trained: Trained, *, limit: int) -> dict[str, Any]:
    """Return validation, test and train metrics of the tuned file by ONNX Runtime.

    Where only the head was trained they follow from the features. Otherwise the file is run over
    validation and test samples, and over at most `limit` training samples.
    """
    scores = dict(trained.scores)
    random = np.random.default_rng(run.seed)
    some = run.parts.train
    if len(some) > limit:
        some = np.sort(random.choice(some, limit, replace=False))
    parts = {"validation": run.parts.validation, "test": run.parts.test, "train": some}
    for name, indices in parts.items():
        if name not in scores:
            scores[name] = None if indices is None else _score_part(run, tuned, indices, trained)
    if run.parts.cross and trained.cross is not None:
        scores["cross_validation"] = trained.cross
    return scores


def _score_part(
    run: Run, model: ModelProto, indices: NDArray[np.int64], result: Trained
) -> dict[str, Any] | None:
    predicted = _predict_part(run, model, indices, result)
    return None if predicted is None else score(predicted[0], run.codes[predicted[1]])


def _predict_part(
    run: Run, model: ModelProto, indices: NDArray[np.int64], result: Trained
) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Return probabilities by ONNX Runtime and the samples they are of; None without any."""
    if not len(indices):
        return None
    output = model.graph.output[0].name
    runner = Runner(model, run.samples, outputs=[output], device=_place(run), threads=run.threads)
    logits, rows = [], []
    for chunk in runner.stream(indices):
        logits.append(np.asarray(chunk.outputs[output], np.float64))
        rows.append(indices[chunk.positions])
    result.notes += [note for note in runner.notes if note not in result.notes]
    if not logits:
        return None
    return softmax(np.concatenate(logits)), np.concatenate(rows)


def prove(
    run: Run,
    tuned: ModelProto,
    trained: Trained,
    *,
    golden_samples: bool,
    constants: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Compare torch with ONNX Runtime before and after tuning, and write the proof.

    Raises:
        CheckError: they differ by more than the bound.
    """
    plan = run.patient.plan
    assert plan is not None
    seen = _real_samples(run)
    real = seen if golden_samples else []
    sizes, ranges = dict(run.patient.sizes), _integer_ranges(seen)
    feeds = [seeded_input(tuned, seed, constants, sizes, ranges) for seed in (0, 1)] + seen
    worst, rounded = 0.0, None
    session = open_session(tuned, device="cpu", threads=run.threads)
    made: list[dict[str, Any]] = []
    for model, opened in ((run.patient.proto, None), (tuned, session)):
        found = parity(run, model, feeds, session=opened, made=made)
        if isinstance(found, Agreement):
            rounded, found = found, found.relative if found.rounds_alike else math.inf
        worst = max(worst, found)
    bound = run.patient.bound
    if rounded is not None and rounded.optimised > bound:
        trained.notes.append(
            "ONNX Runtime's optimised 8-bit kernels give logits that differ by "
            f"{rounded.optimised:.0e} relative from the graph computed as written; the metrics are "
            "those of the optimised ones"
        )
    if not worst <= bound:
        raise CheckError(
            f"torch and ONNX Runtime differ by {worst:.2e} relative, the bound is {bound:.0e}",
            where="parity",
            remedy="nothing was written; report the model's operators",
        )
    trained.providers = trained.providers or session.providers
    return make_proof(
        tuned,
        plan,
        source_sha256=run.patient.source_sha256,
        parity={"samples": len(feeds), "max_relative": worst, "bound": bound}
        | ({} if rounded is None else {"quantised": asdict(rounded)}),
        golden=make_golden(tuned, session, real, constants, sizes, ranges),
    )


def parity(
    run: Run,
    model: ModelProto,
    feeds: Sequence[Mapping[str, Any]],
    *,
    session: Session | None = None,
    made: list[dict[str, Any]] | None = None,
) -> float | Agreement:
    """Return the relative error between torch (behind the frontier) and ONNX Runtime.

    Where values are quantised behind the frontier: how far both agree step by step.

    The samples' logits are one tensor, as in a batch: a sample whose logits happen to lie near zero
    is measured by the size that logits have.

    Half-precision weights are computed with in float32, as ONNX Runtime's CPU provider does.

    Args:
        run: what is trained on what.
        model: the patient or what came of it.
        feeds: samples.
        session: of `model`, if one is open.
        made: what the frozen part makes of the feeds, the same before and after; filled if empty.
    """
    names = run.patient.trainable
    front = split_graph(model, names, run.patient.anatomy().shapes, keep_weightless=False)
    graph = halves.widen(front.trained) if halves.is_half(front.trained) else front.trained
    module = to_module(graph, roles=roles(graph))
    quantised = quantised_values(graph)
    if quantised:
        half = graph is not front.trained
        return compare(
            model, module, quantised, feeds, threads=run.threads,
            as_tensor=lambda values: _tensor(values, half=half),
        )  # fmt: skip
    session = session or open_session(model, device="cpu", threads=run.threads)
    made = [] if made is None else made
    if not made and front.frozen is not None:
        frozen = open_session(front.frozen, device="cpu", threads=run.threads)
        made += [dict(zip(frozen.outputs, frozen.run(one), strict=True)) for one in feeds]
    output = model.graph.output[0].name
    wanted, got = [], []
    for place, one in enumerate(feeds):
        wanted.append(session.run(one, [output])[0])
        values = {**one, **(made[place] if made else {})}
        inputs = [
            _tensor(values[name], half=graph is not front.trained) for name in module.input_names
        ]
        with torch.no_grad():
            got.append(module(*inputs).float().numpy())
    return relative_error(np.concatenate(got), np.concatenate(wanted))


def _tensor(values: NDArray[Any], *, half: bool) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(values))
    return tensor.float() if half and tensor.dtype == torch.float16 else tensor


def _integer_ranges(feeds: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, tuple[int, int]]:
    """Return the least and the most of every integer input, over some samples."""
    found: dict[str, tuple[int, int]] = {}
    for one in feeds:
        for name, values in one.items():
            if np.issubdtype(values.dtype, np.integer) and values.size:
                least, most = found.get(name, (int(values.min()), int(values.max())))
                found[name] = (min(least, int(values.min())), max(most, int(values.max())))
    return found


def _real_samples(run: Run) -> list[dict[str, NDArray[Any]]]:
    found: list[dict[str, NDArray[Any]]] = []
    for index in run.parts.validation[:8]:
        if len(found) == 2:
            break
        loaded = run.samples.load(int(index))
        if isinstance(loaded, dict):
            found.append(fill_batch(run.patient.proto, loaded))
    return found


def clean(run: Run) -> None:
    """Remove the checkpoint of a run that was delivered."""
    if run.checkpoint is not None and run.checkpoint.is_dir():
        import shutil

        shutil.rmtree(run.checkpoint)


__all__ = ["Run", "Trained", "clean", "head_names", "measure", "parity", "prove", "train"]
