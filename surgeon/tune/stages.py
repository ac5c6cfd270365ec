"""The stages of training, in order: features at the frontier → the head solved → everything tuned.

Each stage splits the operated graph at its own frontier, so a head trains on cached vectors and a
whole network has no frozen part; the set of weights is one. Then the result is measured and proven.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surgeon.errors import CheckError, DataError, UsageError
from surgeon.graph import precision as halves
from surgeon.graph.cuts import first_use
from surgeon.graph.frontier import Frontier
from surgeon.graph.frontier import split as split_graph
from surgeon.graph.weights import roles, store, to_array
from surgeon.records import SOLVE_HEAD, TRAIN_ALL, Stage, as_json
from surgeon.runtime.features import extract
from surgeon.runtime.metrics import score, softmax
from surgeon.runtime.observe import relative_error
from surgeon.runtime.proof import fill_batch, make_proof, seeded_input, tuned_names
from surgeon.runtime.proof import golden_samples as make_golden
from surgeon.runtime.sessions import open_session
from surgeon.runtime.stream import Runner
from surgeon.tune import arrays, batches
from surgeon.tune.fit import FitSettings, Progress, fit
from surgeon.tune.head import solve, torch_threads
from surgeon.tune.module import tensors, to_module

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.data.samples import Samples
    from surgeon.data.splits import Splits
    from surgeon.model import Model
    from surgeon.runtime.features import Features


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
    resume: bool = False
    progress: Callable[..., None] | None = None
    checkpoint: Path | None = None

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
    """

    tensors: dict[str, NDArray[Any]] = field(default_factory=dict)
    frontier: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    delivered: str = "start"
    stopped: str | None = None
    statistics: list[str] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    cross: dict[str, Any] | None = None
    providers: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    seconds_features: float = 0.0
    seconds_train: float = 0.0
    samples_seen: int = 0


def train(run: Run) -> Trained:
    """Run the plan's stages in order; each starts from what the one before it gave."""
    assert run.patient.plan is not None
    result = Trained()
    started = time.perf_counter()
    for number, stage in enumerate(_stages(run)):
        if stage.method == "solve":
            _solve_stage(run, stage, result)
        else:
            _fit_stage(run, stage, result, started, _checkpoint(run, number))
            if result.stopped in ("nan", "interrupt", "budget"):
                break
    moving = set(tuned_names(run.patient.proto, run.patient.trainable))
    result.statistics = sorted(moving - set(run.patient.trainable))
    return result


def _checkpoint(run: Run, number: int) -> Path | None:
    """Return where a stage keeps its checkpoint: a folder named by what the run is a function of.

    Raises:
        UsageError: going on was asked for, and what is there belongs to other data or weights.
    """
    if run.checkpoint is None:
        return None
    digest = hashlib.sha256(run.patient.proto.SerializeToString(deterministic=True))
    digest.update(f"{run.samples.sha256} {run.augment}".encode())
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


def _solve_stage(run: Run, stage: Stage, result: Trained) -> None:
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
    solution = solve(
        values[parts["train"]],
        run.codes[features.rows[parts["train"]]],
        run.classes,
        seed=run.seed,
        device=_torch_device(run),
        threads=run.threads,
        progress=lambda done, total: run.say("solving the head", done, total),
    )
    result.tensors[weight_name] = solution.weight.astype(_stored(run, weight_name))
    result.tensors[bias_name] = solution.bias.astype(_stored(run, bias_name))
    scores: dict[str, Any] = {"validation": None, "test": None, "train": None}
    for part, rows in parts.items():
        if len(rows):
            logits = values[rows] @ solution.weight.T + solution.bias
            scores[part] = score(softmax(logits), run.codes[features.rows[rows]])
    result.scores = scores
    if solution.out_of_fold_log_probabilities is not None:
        probabilities = np.exp(solution.out_of_fold_log_probabilities.astype(np.float64))
        codes = run.codes[features.rows[parts["train"]]]
        result.cross = score(probabilities, codes) | {"folds": solution.folds}
    seconds = time.perf_counter() - started
    result.seconds_train += seconds
    result.samples_seen += len(parts["train"])
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
    only_head = set(run.patient.trainable) <= {weight_name, bias_name}
    result.delivered = "tuned" if only_head else "probe"


def _require_finite(run: Run, features: Features, values: NDArray[Any], name: str) -> None:
    """Refuse features that are no numbers, naming the samples they come from.

    Raises:
        DataError: with the count and the first samples.
    """
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if not len(bad):
        return
    samples = [str(run.samples.names[features.rows[row]]) for row in bad[:3]]
    raise DataError(
        f"the frozen part gives NaN or infinity for {len(bad)} of {len(values)} samples",
        where=f"tensor {name!r}: {', '.join(samples)}",
        remedy="check these samples and the preprocessing; a float16 model may overflow on them",
    )


def _features(run: Run, front: Frontier) -> Features:
    names = [info.name for info in front.tensors]
    axes = {info.name: info.batch_axis for info in front.tensors if info.batch_axis}
    return extract(
        front.frozen,
        names,
        run.samples,
        axes=axes,
        device=run.device,
        threads=run.threads,
        limit_bytes=run.cache_limit,
        progress=lambda done, total: run.say("features", done, total),
        where=None if run.patient.path is None else str(run.patient.path),
    )


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
    return to_array(tensor).dtype


def _torch_device(run: Run) -> torch.device:
    from surgeon.tune.device import choose

    return choose(run.device)


# ── everything, step by step ─────────────────────────────────────────────────────────────────────


def _fit_stage(
    run: Run, stage: Stage, result: Trained, started: float, checkpoint: Path | None
) -> None:
    """Tune the stage's weights by gradient, from what the stages before it gave."""
    patient = run.patient
    names = _stage_names(run, stage)
    current = _with_tensors(patient.proto, result.tensors)
    front = split_graph(current, names, patient.anatomy().shapes, keep_weightless=False)
    half = halves.is_half(front.trained)
    trained = halves.widen(front.trained) if half else front.trained
    module = to_module(trained, roles=roles(trained))
    shapes = patient.anatomy().shapes
    if shapes.batches[0] == shapes.batches[1]:
        axes = [info.batch_axis for info in front.tensors]
        batches.keep_batch(module, shapes.batches[0], axes)
    data_started = time.perf_counter()
    train_set, validation_set, features = _batches(run, front, module.input_names, widen=half)
    result.seconds_features += time.perf_counter() - data_started
    _note_frontier(front, features, result)
    scratch = patient.plan is not None and patient.plan.init == "random" and not patient.tuned
    if scratch:
        _scale(run, module, trained, names, train_set)
    budget = run.budget
    if budget is not None:
        # What the frozen part took counts; a tenth is kept, so that something is always trained.
        budget = max(budget - (time.perf_counter() - started), 0.1 * budget)
    settings = FitSettings(
        stage=stage.name,
        epochs=run.epochs or stage.epochs,
        budget_seconds=budget,
        batch=run.batch,
        lr=run.lr or stage.lr,
        lr_decay=stage.lr_decay,
        # A solved head fits its samples: smoothing would first tear its logits, then the backbone.
        label_smoothing=0.1 if scratch else 0.0,
        scratch=scratch,
        precision=run.precision,  # type: ignore[arg-type]
        device=run.device,
        seed=run.seed,
    )
    begun = time.perf_counter()
    with torch_threads(run.threads):
        fitted = fit(
            module,
            train_set,
            validation_set,
            trainable=names,
            depths=first_use(patient.anatomy()),
            classes=run.classes,
            settings=settings,
            progress=lambda progress: _report(run, progress),
            checkpoint_dir=checkpoint,
            resume=run.resume,
        )
    result.seconds_train += time.perf_counter() - begun
    result.history += [dict(row) for row in fitted.history]
    result.stopped = fitted.stopped
    result.notes += list(fitted.notes)
    result.samples_seen += fitted.samples
    if fitted.stopped == "nan":
        result.notes.append(
            f"the loss became NaN in stage {stage.name!r}: training stopped there, the best "
            "weights so far are delivered; a lower --lr may help"
        )
    if fitted.improved:
        result.delivered = "tuned"
        result.scores = {}
        wanted = set(tuned_names(patient.proto, names))
        for name, value in tensors(module).items():
            if name in wanted:
                result.tensors[name] = arrays.to_array(value).astype(_stored(run, name))
    else:
        result.notes.append(
            f"stage {stage.name!r} did not improve on what it started from; "
            f"the {result.delivered} is delivered"
        )


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


def _scale(run: Run, module: Any, proto: ModelProto, names: Sequence[str], train_set: Any) -> None:
    """Scale a random start by data, where normalization layers were folded away (LSUV)."""
    from surgeon.graph.initialization import scheme
    from surgeon.tune.initialize import randomize

    inputs = train_set.load(np.arange(min(train_set.n, 64)))
    if hasattr(train_set, "prepare"):
        inputs = train_set.prepare(inputs)
    with torch_threads(run.threads):
        randomize(module, scheme(proto), names, seed=run.seed, inputs=inputs)


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
    if not scores:
        random = np.random.default_rng(run.seed)
        some = run.parts.train
        if len(some) > limit:
            some = np.sort(random.choice(some, limit, replace=False))
        parts = {"validation": run.parts.validation, "test": run.parts.test, "train": some}
        for name, indices in parts.items():
            scores[name] = None if indices is None else _score_part(run, tuned, indices)
    if run.parts.cross and trained.cross is not None:
        scores["cross_validation"] = trained.cross
    return scores


def _score_part(run: Run, model: ModelProto, indices: NDArray[np.int64]) -> dict[str, Any] | None:
    if not len(indices):
        return None
    output = model.graph.output[0].name
    runner = Runner(model, run.samples, outputs=[output], device=run.device, threads=run.threads)
    logits, rows = [], []
    for chunk in runner.stream(indices):
        logits.append(np.asarray(chunk.outputs[output], np.float64))
        rows.append(indices[chunk.positions])
    if not logits:
        return None
    return score(softmax(np.concatenate(logits)), run.codes[np.concatenate(rows)])


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
    worst = 0.0
    for model in (run.patient.proto, tuned):
        worst = max(worst, parity(run, model, feeds))
    bound = run.patient.bound
    if not worst <= bound:
        raise CheckError(
            f"torch and ONNX Runtime differ by {worst:.2e} relative, the bound is {bound:.0e}",
            where="parity",
            remedy="nothing was written; report the model's operators",
        )
    session = open_session(tuned, device="cpu")
    trained.providers = trained.providers or session.providers
    return make_proof(
        tuned,
        plan,
        source_sha256=run.patient.source_sha256,
        parity={"samples": len(feeds), "max_relative": worst, "bound": bound},
        golden=make_golden(tuned, session, real, constants, sizes, ranges),
    )


def parity(run: Run, model: ModelProto, feeds: Sequence[Mapping[str, Any]]) -> float:
    """Return the relative error between torch (behind the frontier) and ONNX Runtime.

    The samples' logits are one tensor, as in a batch: a sample whose logits happen to lie near zero
    is measured by the size that logits have.

    Half-precision weights are computed with in float32, as ONNX Runtime's CPU provider does.
    """
    names = run.patient.trainable
    front = split_graph(model, names, run.patient.anatomy().shapes, keep_weightless=False)
    graph = halves.widen(front.trained) if halves.is_half(front.trained) else front.trained
    module = to_module(graph, roles=roles(graph))
    session = open_session(model, device="cpu", threads=run.threads)
    frozen = None if front.frozen is None else open_session(front.frozen, device="cpu")
    output = model.graph.output[0].name
    wanted, got = [], []
    for one in feeds:
        wanted.append(session.run(one, [output])[0])
        if frozen is None:
            values: dict[str, Any] = dict(one)
        else:
            made = dict(zip(frozen.outputs, frozen.run(one), strict=True))
            values = {**one, **made}
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


__all__ = ["Run", "Trained", "clean", "measure", "parity", "prove", "train"]
