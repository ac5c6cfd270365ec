"""The head solved to its optimum on the features of the frozen part: the probe.

What must not enter: training by steps, and whether the probe is delivered.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surgeon.graph.frontier import split as split_graph
from surgeon.runtime.metrics import score, softmax
from surgeon.tune.device import is_out_of_memory
from surgeon.tune.frozen import features_of, note_frontier, require_finite, rows_of, view_features
from surgeon.tune.head import solve
from surgeon.tune.run import (
    Probe,
    Run,
    Trained,
    head_names,
    stored_type,
    torch_device,
    with_tensors,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surgeon.records import Stage
    from surgeon.tune.head import HeadSolution


def solve_head(run: Run, stage: Stage, result: Trained) -> Probe:
    """Compute features once per sample and solve the head on them to its optimum."""
    weight_name, bias_name = head_names(run.patient.proto)
    current = with_tensors(run.patient.proto, result.tensors)
    front = split_graph(current, [weight_name, bias_name], run.patient.anatomy().shapes)
    started = time.perf_counter()
    features = features_of(run, front)
    result.seconds_features += time.perf_counter() - started
    note_frontier(front, features, result)
    started = time.perf_counter()
    name = front.tensors[0].name
    parts = rows_of(run, features)
    values = features.array(name)
    values = values.reshape(len(values), -1)
    require_finite(run, features, values, name)
    viewed, sample = values[parts["train"]], features.rows[parts["train"]]
    if run.views > 1:
        counted = time.perf_counter()
        more, of = view_features(run, front, sample, result)
        viewed, sample = np.concatenate([viewed, more]), np.concatenate([sample, of])
        result.seconds_features += time.perf_counter() - counted
        started += time.perf_counter() - counted
    solution = _solved(run, viewed, sample, result)
    found = {
        weight_name: solution.weight.astype(stored_type(run, weight_name)),
        bias_name: solution.bias.astype(stored_type(run, bias_name)),
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
    return Probe(found, scores, cross, judged[order], predicted["validation"][order])


def _solved(
    run: Run, features: NDArray[Any], sample: NDArray[np.int64], result: Trained
) -> HeadSolution:
    """Solve the head on rows of features; on the CPU where they do not fit into a GPU's memory."""
    solved = functools.partial(
        solve,
        features,
        run.codes[sample],
        run.classes,
        views_of=sample if run.views > 1 else None,
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
