"""The demonstration: one pretrained network, one small data set, all four cases side by side.

Everything in it goes the way a user's own job goes: pictures in folders, `finetune`, `verify`,
`predict`. What must not enter: a shortcut that a user could not take, and any figure that was not
measured in this very run.
"""

from __future__ import annotations

import math
import statistics
import textwrap
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon import operation
from surgeon.data.read import open_data
from surgeon.data.splits import split_samples
from surgeon.errors import CheckError, OutputError
from surgeon.model import load
from surgeon.runtime.sessions import open_session
from surgeon.targets import ask_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from surgeon.data.samples import Samples
    from surgeon.model import Model
    from surgeon.outcome import Outcome

MODEL = "efficientnet-lite0"
CASES = ("small-similar", "small-different", "large-similar", "large-different")
SIZE = (64, 64)
"""(height, width) of the pictures: small enough for two cores to train the whole network on."""
BUDGET = 75.0
"""Seconds that each large case trains."""
_PICTURES = "digits"
_RUNS, _WARM = 50, 5
_WIDTH, _INDENT = 78, 10


def run(
    out: Path, *, progress: Callable[..., None] | None = None, budget: float | None = None
) -> dict[str, Any]:
    """Tune EfficientNet-Lite0 (ImageNet) on scikit-learn's handwritten digits by all four cases.

    Args:
        out: folder for the pictures and the four tuned files; files of an earlier demonstration
            in it are replaced.
        progress: called as `progress(stage, done, total, **figures)`.
        budget: seconds of training of each large case; None = `BUDGET`.

    Returns:
        the body of the `demo` document: `rows`, one per case; `notes`, lines for people; `best`,
        the file of the best validation accuracy; `prediction`; `verified`; `parity`.

    Raises:
        OutputError: the folder holds something else than an earlier demonstration.
        EnvironmentLacksError: the model's package cannot be had.
        CheckError: a tuned file fails its own proof.
    """
    import surgeon_models

    seconds = budget or BUDGET
    say = progress or _silent
    say("pictures", 0, 1)
    pictures = _write_pictures(out)
    say("pictures", 1, 1)
    say(MODEL, 0, 1)  # downloaded and built where it is not in the cache; the store says how far
    source = surgeon_models.get(MODEL)
    original = load(source)
    say(MODEL, 1, 1)
    outcomes: dict[str, Outcome] = {}
    rows = []
    for case in CASES:
        started = time.perf_counter()
        path = out / f"{case}.onnx"
        outcome = operation.finetune(
            original,
            str(pictures),
            path,
            case=case,
            size=SIZE,
            budget=seconds if case.startswith("large") else None,
            force=True,
            progress=_named(case, progress),
        )
        took = time.perf_counter() - started
        outcomes[case] = outcome
        rows.append(_row(outcome, path, took))
        rows[-1]["like"] = _like(rows)
    verdicts = []
    for number, row in enumerate(rows):
        say("proofs", number, len(rows))
        verdicts.append(operation.verify(row["path"], source=original))
    say("proofs", len(rows), len(rows))
    failed = [
        row["path"] for row, verdict in zip(rows, verdicts, strict=True) if not verdict.passed
    ]
    if failed:
        raise CheckError(f"{len(failed)} tuned files fail their proof", where=", ".join(failed))
    # Chosen by validation, so that the test accuracy stays that of samples nothing was decided by.
    best = max(rows, key=lambda row: row["validation_accuracy"])
    picture, truth = _held_out(pictures, outcomes[best["case"]])
    prediction = operation.predict(best["path"], [picture]).document()["predictions"][0]
    parity = max(outcome.proof["parity"]["max_relative"] for outcome in outcomes.values())
    body = {
        "model": str(source),
        "data": str(pictures),
        "rows": rows,
        "best": best["path"],
        "prediction": {**prediction, "truth": truth},
        "verified": len(verdicts),
        "parity": parity,
        "budget": seconds,
        "size": list(SIZE),
        "warnings": [],
    }
    return {**body, "notes": _notes(body, next(iter(outcomes.values())))}


def _write_pictures(out: Path) -> Path:
    """Write the digits as PNG files, one sub-folder per class, unless they are there already."""
    from surgeon_models import datasets

    pictures = out / _PICTURES
    if pictures.is_dir():
        return pictures
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(
            "the folder is not empty and not that of an earlier demonstration",
            where=str(out),
            remedy="name a new folder: surgeon demo -o FOLDER",
        )
    out.mkdir(parents=True, exist_ok=True)
    digits = datasets.digits()
    datasets.write_folder(digits.images, digits.labels, pictures, classes=digits.classes)
    return pictures


def _named(case: str, progress: Callable[..., None] | None) -> Callable[..., None] | None:
    if progress is None:
        return None

    def report(stage: str, done: float, total: float | None = None, **figures: Any) -> None:
        progress(f"{case}: {stage}", done, total, **figures)

    return report


def _row(outcome: Outcome, path: Path, seconds: float) -> dict[str, Any]:
    body = outcome.document()
    return {
        "case": body["case"],
        "cut": f"@{body['plan']['depth']:.4g}",
        "tensor": body["plan"]["cut"],
        "init": body["plan"]["init"],
        "trained_parameters": body["trained_parameters"],
        "images_seen": body["samples_seen"],
        "seconds": seconds,
        "accuracy": body["metrics"]["test"]["accuracy"],
        "validation_accuracy": body["metrics"]["validation"]["accuracy"],
        "bytes": path.stat().st_size,
        "latency": _latency(outcome.model),
        "path": str(path),
        "features_from_cache": body["frontier"]["cache"] is not None
        and body["frontier"]["cache"]["hit"],
        "delivered": body["delivered"],
        "stopped": body["stopped"],
    }


def _like(rows: list[dict[str, Any]]) -> str | None:
    """Return the earlier case whose result the last one shows again, or None.

    The same network, as accurate to the digit that is shown: a second row would say nothing.
    """
    *before, last = rows
    network = ("tensor", "init")
    for row in before:
        as_accurate = f"{row['accuracy']:.3f}" == f"{last['accuracy']:.3f}"
        if as_accurate and all(row[name] == last[name] for name in network):
            return str(row["case"])
    return None


def _silent(*_: Any, **__: Any) -> None:
    """Say nothing."""


def _latency(model: Model) -> float:
    """Return the median seconds of one picture through ONNX Runtime, on the CPU."""
    (info,) = model.inputs
    feeds = {info.name: np.zeros((1, 3, *SIZE), np.float32)}
    session = open_session(model.proto, device="cpu")
    taken = []
    for _ in range(_WARM + _RUNS):
        started = time.perf_counter()
        session.run(feeds)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[_WARM:])


def _held_out(pictures: Path, outcome: Outcome) -> tuple[str, str]:
    """Return path and class of a picture of the test split."""
    model = outcome.model
    samples: Samples = open_data(str(pictures), model.inputs, preprocess=model.preprocess)
    right = ask_for(model.task, samples, None).targets
    parts = split_samples(samples, right.values, seed=0)
    if parts.test is None or len(parts.test) != outcome.metrics["test"]["samples"]:
        raise CheckError("the test split cannot be found again", where=str(pictures))
    middle = int(parts.test[len(parts.test) // 2])
    return str(samples.names[middle]), right.names[right.values[middle]]


def _notes(body: dict[str, Any], outcome: Outcome) -> list[str]:
    """Write what the table alone would not say, as lines of at most `_WIDTH` characters."""
    rows, prediction = body["rows"], body["prediction"]
    data = outcome.document()["data"]
    best = max(row["accuracy"] for row in rows)
    error = math.sqrt(best * (1 - best) / data["test"])
    size = "x".join(map(str, body["size"]))
    stopped = [row["case"] for row in rows if row["stopped"] == "budget"]
    probes = [row["case"] for row in rows if row["delivered"] != "tuned" and not row["like"]]
    cached = [row["case"] for row in rows if row["features_from_cache"]]
    told = {
        "data": f"{data['samples']} pictures, 8x8 grey, read at {size}: {data['train']} train, "
        f"{data['validation']} validation, {data['test']} test",
        "accuracy": "of the test pictures, the same for all; standard error of the best "
        f"{100 * error:.1f} points",
        "seconds": "the whole job, proof included",
        "latency": "one picture in ONNX Runtime on the CPU, median",
    }
    for row in rows:
        if row["like"]:
            why = (
                "training did not better the solved head, so that head is delivered"
                if row["delivered"] != "tuned"
                else "trained in another way, it is as accurate on these pictures"
            )
            told[f"no row of {row['case']}"] = f"it shows what {row['like']} shows: {why}"
    if cached:
        told["seconds"] += f"; {_listed(cached)} found the features in the cache"
    if stopped:
        told["budget"] = (
            f"{_listed(stopped)} ended after {body['budget']:g} s; nothing is claimed beyond that"
        )
    if probes:
        told["delivered"] = f"{_listed(probes)}: the solved head, which training did not better"
    told |= {
        "proof": f"{body['verified']} of {len(rows)} files pass `surgeon verify --source`; torch "
        f"and ONNX Runtime agree within {body['parity']:.0e} relative (bound 1e-04)",
        "best": f"{body['best']} (by validation)",
        "predict": f"{prediction['input']} is a {prediction['label']} "
        f"({100 * prediction['probability']:.1f} %); a test picture of a {prediction['truth']}",
    }
    lines = [""]
    for name, text in told.items():
        indent = " " * _INDENT
        lines += textwrap.wrap(
            text,
            _WIDTH,
            initial_indent=f"{name:<{_INDENT}}" if len(name) < _INDENT else f"{name}: ",
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
