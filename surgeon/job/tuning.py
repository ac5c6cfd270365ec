"""Tuning by steps: one stage from one start, or a race of two.

A stage splits the operated graph at its own frontier, so a head trains on cached vectors and a
whole network has no frozen part; the set of weights is one. What must not enter: the order of the
stages, and which result is delivered.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surgeon.errors import UnsupportedError
from surgeon.graph import precision as halves
from surgeon.graph.cuts import first_use
from surgeon.graph.frontier import Frontier
from surgeon.graph.frontier import split as split_graph
from surgeon.graph.initialization import scheme
from surgeon.graph.walk import label, reads
from surgeon.graph.weights import roles, tuned_names
from surgeon.job import race
from surgeon.job.frozen import features_of, note_frontier, rows_of
from surgeon.job.proving import require_alike
from surgeon.job.run import (
    Believed,
    Run,
    Trained,
    head_names,
    stage_names,
    stored_type,
    with_tensors,
)
from surgeon.probe.solver import torch_threads
from surgeon.torch_graph import arrays
from surgeon.torch_graph.initialize import draw_all, randomize
from surgeon.torch_graph.module import tensors, to_module
from surgeon.torch_graph.stepwise import quantised_values
from surgeon.train import batches
from surgeon.train.device import arithmetic
from surgeon.train.fit import fit
from surgeon.train.settings import FitResult, FitSettings, Progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.records import Stage
    from surgeon.runtime.store import Features


BELIEVED = 32
"""Validation samples whose logits by torch are compared with those of the written file."""
TORCH_SLACK = 10
"""Times the bound of parity by which they may differ: batches are summed in other orders."""


@dataclass(frozen=True)
class Ready:
    """The trained part of a stage, converted: what `fit` takes."""

    module: Any
    graph: ModelProto
    names: list[str]
    train: Any
    validation: Any
    judged: NDArray[np.int64]
    """the samples of `validation`, by position"""


def fit_stage(
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
        result.tensors = drawn(run)
    ready = _open(run, stage, result.tensors, result)
    if anew:
        _scale(run, ready)
    settings = _settings(run, stage, start, _seconds_left(run, started))
    fitted = _fit(run, ready, settings, checkpoint, result)
    result.stopped = fitted.stopped
    if fitted.improved:
        _take(run, ready, result)
    return fitted.improved


def race_stage(
    run: Run, stage: Stage, result: Trained, started: float, checkpoint: Path | None
) -> tuple[race.Start, bool]:
    """Train both starts for a short while on the same batches; the better one goes on.

    Returns:
        Which that was, and whether it improved on what it started from.
    """
    seconds = _seconds_left(run, started)
    opened: dict[race.Start, Ready] = {}
    legs: dict[race.Start, FitResult] = {}
    for start in race.STARTS:
        values = result.tensors if start == "pretrained" else drawn(run)
        ready = _open(run, stage, values, result, like=opened.get("pretrained"))
        if ready.validation is None:
            result.notes.append("no race of two starts: there are no samples to judge them by")
            return "pretrained", fit_stage(
                run, stage, result, started, checkpoint, start="pretrained", fresh=True
            )
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
        result.tensors = drawn(run)
    improved = winner == "random" or leg.improved
    if improved:
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
            improved = True
            _take(run, ready, result)
    result.race = found.as_dict(final)
    return winner, improved


def _open(
    run: Run,
    stage: Stage,
    values: Mapping[str, NDArray[Any]],
    result: Trained,
    *,
    like: Ready | None = None,
) -> Ready:
    """Convert the trained part with these values; the samples are those of `like`, if given."""
    patient = run.patient
    names = stage_names(run, stage)
    current = with_tensors(patient.proto, values)
    front = split_graph(current, names, patient.anatomy().shapes, keep_weightless=False)
    _require_numbers(front)
    if like is None:
        require_alike(run, front.trained)
    half = halves.is_half(front.trained)
    trained = halves.widen(front.trained) if half else front.trained
    module = to_module(trained, roles=roles(trained), quantized=names)
    shapes = patient.anatomy().shapes
    if like is None:
        begun = time.perf_counter()
        *sets, features = _batches(run, front, module.input_names, widen=half)
        result.seconds_features += time.perf_counter() - begun
        note_frontier(front, features, result)
    else:
        sets = [like.train, like.validation, like.judged]
    if result.alone or shapes.batches[0] == shapes.batches[1]:
        axes = [info.batch_axis for info in front.tensors]
        batches.keep_batch(module, 1 if result.alone else shapes.batches[0], axes)
    return Ready(module, trained, names, *sets)


def _require_numbers(front: Frontier) -> None:
    """Refuse to train behind a value that torch cannot hold.

    Raises:
        UnsupportedError: naming a node that reads it.
    """
    for info in front.tensors:
        if info.dtype not in ("string", "undefined"):
            continue
        node = next(n for n in front.trained.graph.node if info.name in reads(n))
        raise UnsupportedError(
            f"{label(node)} reads {info.name!r} ({info.dtype}) behind or beside a weight that is "
            "trained; torch holds tensors of numbers only",
            where=f"tensor {info.name!r}",
            remedy="train the head only (`--case small-similar`), or a case that trains what lies "
            "behind this node",
        )


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
    ready: Ready,
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
    if fitted.resumed is not None:
        result.resumed = {"stage": settings.stage, "epoch": fitted.resumed}
        result.notes.append(
            f"resumed: stage {settings.stage!r} went on after {fitted.resumed} of "
            f"{fitted.planned_epochs} epochs"
        )
    result.compiled |= fitted.compiled
    if fitted.decision is not None:
        result.decisions.append({"stage": settings.stage, **fitted.decision})
    result.peak_memory = fitted.peak_memory
    if fitted.stopped == "nan":
        result.notes.append(
            f"the loss became NaN in stage {settings.stage!r}: training stopped there, the best "
            "weights so far are delivered; a lower --lr may help"
        )
    return fitted


def _take(run: Run, ready: Ready, result: Trained) -> None:
    """Take a trained module's weights as what is delivered so far."""
    result.delivered, result.stepped, result.scores = "tuned", True, {}
    result.believed = _believed(run, ready)
    wanted = set(tuned_names(run.patient.proto, ready.names))
    for name, value in tensors(ready.module).items():
        if name in wanted:
            result.tensors[name] = arrays.to_array(value).astype(stored_type(run, name))


def _believed(run: Run, ready: Ready) -> list[Believed]:
    """Return what the trained module gives for some validation samples.

    Where values are quantised, each step is compared instead (`surgeon.torch_graph.stepwise`).
    """
    if ready.validation is None or quantised_values(ready.graph):
        return []
    count = min(ready.validation.n, BELIEVED)
    module = ready.module.eval()
    device = next(module.parameters()).device
    inputs = ready.validation.load(np.arange(count))
    inputs = tuple(None if value is None else value.to(device) for value in inputs)
    if hasattr(ready.validation, "prepare"):
        inputs = ready.validation.prepare(inputs)
    with torch_threads(run.threads), torch.no_grad(), arithmetic(device, exact=True):
        logits = module(*inputs).double().cpu().numpy()
    rows = ready.judged[:count]
    order = np.argsort(rows)
    return [Believed.of(rows[order], logits[order], TORCH_SLACK * run.patient.bound)]


def drawn(run: Run) -> dict[str, NDArray[Any]]:
    """Draw every weight that is trained anew; the head has its random weights already."""
    proto, trainable = run.patient.proto, run.patient.trainable
    names = [n for n in tuned_names(proto, trainable) if n not in head_names(proto)]
    drawn = draw_all(proto, names, seed=run.seed)
    return {name: values.astype(stored_type(run, name)) for name, values in drawn.items()}


def _batches(
    run: Run, front: Frontier, inputs: Sequence[str], *, widen: bool
) -> tuple[Any, Any, NDArray[np.int64], Features | None]:
    """Return what is trained on, what is judged on and the samples of it, and the features."""
    if front.frozen is not None:
        features = features_of(run, front)
        rows = rows_of(run, features)
        sets = [
            batches.ValueBatches(
                batches.of_features(features, rows[part]),
                run.codes[features.rows[rows[part]]],
                inputs,
                widen=widen,
            )
            for part in ("train", "validation")
        ]
        judged = features.rows[rows["validation"]]
        return sets[0], sets[1] if sets[1].n else None, judged, features
    parts = {"train": run.parts.train, "validation": run.parts.validation}
    if run.samples.is_images:
        pictures = batches.Pictures(run.samples, run.progress)
        readable = {name: rows[pictures.readable[rows]] for name, rows in parts.items()}
        strength = {"auto": "light"}.get(run.augment, run.augment)
        found = [
            batches.PictureBatches(pictures, readable[part], run.codes, inputs, applied)
            for part, applied in (("train", strength), ("validation", "none"))
        ]
        return found[0], found[1] if found[1].n else None, readable["validation"], None
    values = [
        batches.ValueBatches(
            batches.of_samples(run.samples, rows), run.codes[rows], inputs, widen=widen
        )
        for rows in parts.values()
    ]
    return values[0], values[1] if values[1].n else None, parts["validation"], None


def _scale(run: Run, ready: Ready) -> None:
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
