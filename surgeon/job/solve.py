"""The head solved to its optimum on the features of the frozen part: the probe.

What must not enter: training by steps, and whether the probe is delivered.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surgeon.errors import UnsupportedError
from surgeon.graph.frontier import split as split_graph
from surgeon.job.frozen import (
    features_of,
    note_frontier,
    require_finite,
    rows_of,
    slack_of,
    view_features,
)
from surgeon.job.run import (
    Probe,
    Run,
    Trained,
    head_input,
    head_names,
    stored_type,
    torch_device,
    with_tensors,
)
from surgeon.probe.solver import solve
from surgeon.runtime.metrics import score_told, softmax
from surgeon.train.device import is_out_of_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.graph.frontier import Frontier
    from surgeon.probe.solver import HeadSolution
    from surgeon.records import Stage

_AT_ONCE = 2**22
"""Logits computed at once."""


def solve_head(run: Run, stage: Stage, result: Trained, *, refit: bool = False) -> Probe:
    """Compute features once per sample and solve the head on them to its optimum.

    With `refit` it is fitted to training and validation samples together, at the penalty that the
    training samples choose; of validation samples each is then judged by a head that has not seen
    it.
    """
    weight_name, bias_name = head_names(run.patient.proto)
    current = with_tensors(run.patient.proto, result.tensors)
    front = split_graph(current, [weight_name, bias_name], run.patient.anatomy().shapes)
    started = time.perf_counter()
    features = features_of(run, front)
    result.seconds_features += time.perf_counter() - started
    note_frontier(front, features, result)
    started = time.perf_counter()
    name = _features_of_head(front, current)
    parts = rows_of(run, features)
    values = features.array(name)
    values = values.reshape(len(values), -1)
    require_finite(run, features, values, name)
    fitted = [parts["train"], *([parts["validation"]] if refit else [])]
    viewed, sample = values[np.concatenate(fitted)], features.rows[np.concatenate(fitted)]
    if run.views > 1:
        counted = time.perf_counter()
        more, of = view_features(run, front, sample, result)
        viewed, sample = np.concatenate([viewed, more]), np.concatenate([sample, of])
        result.seconds_features += time.perf_counter() - counted
        started += time.perf_counter() - counted
    held = np.isin(sample, features.rows[parts["validation"]]) if refit else None
    solution = _solved(run, viewed, sample, held, result)
    found = {
        weight_name: solution.weight.astype(stored_type(run, weight_name)),
        bias_name: solution.bias.astype(stored_type(run, bias_name)),
    }
    codes = {part: run.codes[features.rows[rows]] for part, rows in parts.items()}
    scores: dict[str, Any] = {"validation": None, "test": None, "train": None}
    for part, rows in parts.items():
        if len(rows):
            scores[part] = _scored(values[rows], solution, codes[part])
    # Of what was fitted to, the samples themselves stand in front of their views.
    trained, judged = len(parts["train"]), len(parts["validation"])
    cross = _outside(solution, slice(0, trained), codes["train"])
    cross = cross and cross | {"folds": solution.folds}
    if refit and judged:
        scores["validation"] = _outside(
            solution, slice(trained, trained + judged), codes["validation"]
        )
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
    order = parts["validation"][np.argsort(features.rows[parts["validation"]])]
    return Probe(
        found, scores, cross, features.rows[order], values[order], solution.weight, solution.bias,
        slack_of(run, front, features), refitted=refit,
    )  # fmt: skip


def _scored(
    features: NDArray[Any], solution: HeadSolution, codes: NDArray[np.int64]
) -> dict[str, Any]:
    """Return the metrics of the solved head on samples, some at a time."""
    at_once = max(1, _AT_ONCE // len(solution.bias))
    predicted, told = [], []
    for first in range(0, len(codes), at_once):
        rows = slice(first, first + at_once)
        probabilities = softmax(features[rows] @ solution.weight.T + solution.bias)
        predicted.append(probabilities.argmax(axis=1))
        told.append(probabilities[np.arange(len(probabilities)), codes[rows]])
    return score_told(np.concatenate(predicted), np.concatenate(told), codes)


def _outside(
    solution: HeadSolution, rows: slice, codes: NDArray[np.int64]
) -> dict[str, Any] | None:
    """Return the metrics of heads that have not seen the samples; None where there were none."""
    predicted = solution.out_of_fold[rows]
    if not len(predicted) or (predicted < 0).any():
        return None
    told = np.exp(-solution.out_of_fold_loss[rows])
    return score_told(predicted, told, codes) | {"method": "cross-validated"}


def _features_of_head(front: Frontier, model: ModelProto) -> str:
    """Return the name of the features that the head reads; they are what is solved on.

    Raises:
        UnsupportedError: samples cannot be told apart in them, so that they are not kept.
    """
    name = head_input(model)
    if [tensor.name for tensor in front.tensors] != [name]:
        raise UnsupportedError(
            "the features of the new head cannot be divided into samples",
            where=f"tensor {name!r}",
            remedy="choose another cut (`surgeon cuts` lists them)",
        )
    return name


def _solved(
    run: Run,
    features: NDArray[Any],
    sample: NDArray[np.int64],
    held: NDArray[np.bool_] | None,
    result: Trained,
) -> HeadSolution:
    """Solve the head on rows of features; on the CPU where they do not fit into a GPU's memory."""
    solved = functools.partial(
        solve,
        features,
        run.codes[sample],
        run.classes,
        views_of=sample if run.views > 1 else None,
        held=held,
        seed=run.seed,
        threads=run.threads,
        progress=lambda done, total: run.say("solving the head", done, total),
    )
    device = torch_device(run)
    try:
        return solved(device=device)
    except Exception as error:
        if device.type == "cpu" or not is_out_of_memory(error):
            raise
    # Here, and not above: the error's frames hold what was in that memory.
    torch.cuda.empty_cache()
    result.notes.append("the head did not fit into the GPU's memory: solved on the CPU")
    return solved(device="cpu")
