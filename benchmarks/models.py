"""Every indexed model through every verb: what `docs/models.md` says, and what it is made of.

    python benchmarks/models.py                  # whatever benchmarks/results/models.json lacks
    python benchmarks/models.py NAME ... --again # these once more
    python benchmarks/models.py --write          # only the page, from the figures there are

Each model is measured in a process of its own and written down at once, so that a broken-off run
goes on where it was. Data: `surgeon_models.sample_data`, of each model's own kind. A case counts
only if the file runs in ONNX Runtime, `verify --source` passes and every frozen initializer has the
bytes of the source's; anything else is written down with its reason, nothing is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "models.json"
PAGE = Path(__file__).parent.parent / "docs" / "models.md"
SAMPLES = 48
LARGE_MACS = 6_000_000_000  # per sample; one epoch of more takes too long on two cores
LARGE_PARAMETERS = 100_000_000  # four float32 copies of more do not fit beside the file's
FROZEN = ("small-similar", "small-different")
CASES = (*FROZEN, "large-similar")
COLUMNS = ("inspect", "cuts", *FROZEN, "convert", "large-similar")
SECONDS = 900  # of one model's process


def main() -> None:
    """Measure what is lacking, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--again", action="store_true", help="measure also what is there already")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--write", action="store_true", help="only write the page")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.names[0], arguments.samples)))
        return
    from surgeon_models import names

    rows = load()["models"]
    for name in () if arguments.write else arguments.names or names():
        if name in rows and not arguments.again:
            continue
        rows[name] = run_alone(name, arguments.samples)
        print(name, *(f"{key}: {cell(rows[name], key)}" for key in COLUMNS), sep="\n  ", flush=True)
        save({key: rows[key] for key in names() if key in rows}, arguments.samples)
    PAGE.write_text(page(load()), "utf-8")


def load() -> dict:
    """Read the figures there are."""
    return json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {"models": {}}


def save(rows: dict, samples: int) -> None:
    """Write the figures."""
    document = {
        "samples": samples,
        "versions": {key: version(key) for key in ("onnx", "onnxruntime-gpu", "torch")},
        "models": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def run_alone(name: str, samples: int) -> dict:
    """Measure one model in a process of its own; a crash is a result, too."""
    command = [sys.executable, __file__, name, "--one", "--samples", str(samples)]
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return dict.fromkeys(COLUMNS, {"failed": f"not done in {SECONDS} s"})
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [""])[-1][:200]
        return dict.fromkeys(COLUMNS, {"failed": f"exit {done.returncode}: {said}"})
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, samples: int) -> dict:
    """Take one model through every verb."""
    import surgeon
    from surgeon import operation
    from surgeon_models import get, sample_data

    path, data = get(name), sample_data(name, samples=samples)
    row = {"inspect": attempt(lambda: looked_at(operation.inspect(path)))}
    row["cuts"] = attempt(lambda: listed(operation.cuts(path)))
    for case in FROZEN:
        row[case] = attempt(lambda case=case: tuned(path, data, case))
    row["convert"] = attempt(lambda: converted(surgeon.load(path), path, data))
    macs, parameters = row["cuts"].get("macs", 0), row["inspect"].get("parameters", 0)
    if "refused" in row["convert"] or "failed" in row["convert"]:
        row["large-similar"] = attempt(lambda: tuned(path, data, "large-similar"))
    elif macs > LARGE_MACS:
        row["large-similar"] = {"skipped": f"{macs / 1e9:.1f} GMAC per sample: too slow for a CPU"}
    elif parameters > LARGE_PARAMETERS:
        row["large-similar"] = {
            "skipped": f"{parameters / 1e6:.0f} M parameters: too much memory for this page"
        }
    else:
        row["large-similar"] = attempt(lambda: tuned(path, data, "large-similar"))
    return row


def attempt(work) -> dict:
    """Return what `work` returns and its seconds, or why it was refused, or how it failed."""
    from surgeon.errors import SurgeonError

    begun = time.perf_counter()
    try:
        result = work()
    except SurgeonError as error:
        kind = "refused" if error.exit == 2 else "failed"
        result = {kind: f"{error.message}", "where": error.where, "exit": error.exit}
    except Exception as error:  # noqa: BLE001 - a crash belongs on the page
        result = {"failed": f"{type(error).__name__}: {error}"[:300]}
    return result | {"seconds": round(time.perf_counter() - begun, 1)}


def looked_at(body: dict) -> dict:
    """Keep of `inspect` what the page says."""
    head = body["head"]
    return {key: body[key] for key in ("bytes", "nodes", "parameters", "macs", "opsets")} | {
        "head": None if head is None else head["form"],
        "inputs": [f"{value['name']} {value['dtype']} {value['shape']}" for value in body["inputs"]],
    }


def listed(body: dict) -> dict:
    """Keep of `cuts` what the page says."""
    return {"count": len(body["cuts"])} | {key: body[key] for key in ("late", "early", "macs")}


def tuned(path: Path, data: dict, case: str) -> dict:
    """Tune, run, verify, and compare the frozen bytes; raise CheckError if one does not hold."""
    import surgeon
    from surgeon.errors import CheckError

    outcome = surgeon.finetune(
        path, data, case=case, device="cpu", threads=1,
        epochs=None if case in FROZEN else 1, budget=None if case in FROZEN else 120,
    )  # fmt: skip
    body = outcome.document()
    predicted = surgeon.predict(
        outcome.model.proto, {key: data[key] for key in data if key != "labels"}, device="cpu"
    )
    told = np.array([None if one is None else str(one) for one in predicted.labels])
    if len(told) != len(data["labels"]) or any(one is None for one in predicted.labels):
        raise CheckError(f"{len(told)} predictions for {len(data['labels'])} samples")
    verdict = surgeon.verify(outcome.model.proto, source=path)
    if not verdict.passed:
        wrong = [f"{check.name}: {check.detail}" for check in verdict.checks if not check.passed]
        raise CheckError("verify does not pass: " + "; ".join(wrong))
    same, other = compare_frozen(path, outcome.model.proto, set(body["changed"]))
    if other:
        raise CheckError(f"frozen initializers have other bytes: {', '.join(other[:5])}")
    metrics = outcome.metrics
    scored = metrics.get("cross_validation") or metrics["validation"]
    labels = np.unique(data["labels"], return_counts=True)[1]
    return {
        "cut": body["plan"]["cut"],
        "depth": body["plan"]["depth"],
        "samples": int(labels.sum()),
        "classes": len(labels),
        "accuracy": round(scored["accuracy"], 4),
        "majority": round(float(labels.max() / labels.sum()), 4),
        "delivered": body["delivered"],
        "trained_parameters": body["trained_parameters"],
        "parity": body["proof"]["parity"]["max_relative"],
        "frozen": same,
        "changed": len(body["changed"]),
    }


def compare_frozen(path: Path, proto, changed: set[str]) -> tuple[int, list[str]]:
    """Return how many frozen initializers are the source's byte for byte, and the names of others.

    Those that only the operation has (head, a folded branch's values) have no counterpart.
    """
    import surgeon

    before = {tensor.name: tensor for tensor in surgeon.load(path).proto.graph.initializer}
    same, other = 0, []
    for tensor in proto.graph.initializer:
        if tensor.name in changed or tensor.name not in before:
            continue
        if tensor.SerializeToString(deterministic=True) == before[tensor.name].SerializeToString(
            deterministic=True
        ):
            same += 1
        else:
            other.append(tensor.name)
    return same, other


def converted(model, path: Path, data: dict) -> dict:
    """Convert the whole network and compare it with ONNX Runtime on samples of its own kind."""
    import onnxruntime
    import torch

    import surgeon
    from surgeon.errors import CheckError

    module = surgeon.to_torch(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = first_samples(model, data)
    wanted = session.run(None, feeds)
    with torch.no_grad():
        got = module(*(torch.from_numpy(feeds[info.name]) for info in model.inputs))
    got = got if isinstance(got, tuple) else (got,)
    worst = 0.0
    for one, other in zip(got, wanted, strict=True):
        near, far = flattened(one), flattened(other)
        if near.shape != far.shape:
            raise CheckError(f"torch gives {near.shape}, ONNX Runtime {far.shape}")
        worst = max(worst, float(np.abs(near - far).max() / max(np.abs(far).max(), 1e-6)))
    bound = model.bound
    if not worst <= bound:
        raise CheckError(f"torch differs from ONNX Runtime by {worst:.1e}, more than {bound:.0e}")
    return {"max_relative": worst, "outputs": len(got)}


def flattened(value) -> np.ndarray:
    """Return the numbers in an output: a tensor, or a list of them, or of maps from labels."""
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, list):
        return np.concatenate([np.atleast_1d(flattened(one)) for one in value])
    return np.asarray(value, np.float64)


def first_samples(model, data: dict) -> dict:
    """Return the first samples (the graph's fixed batch, else two) as its inputs."""
    feeds = {}
    for info in model.inputs:
        value, shape = np.asarray(data[info.name]), info.shape or ()
        axis = info.batch_axis
        if axis is not None and value.ndim > axis:
            fixed = shape[axis] if axis < len(shape) else None
            count = fixed if isinstance(fixed, int) else 2
            value = value.take(range(count), axis=axis)
        feeds[info.name] = np.ascontiguousarray(value)
    return feeds


# ── the page ─────────────────────────────────────────────────────────────────────────────────────


def page(document: dict) -> str:
    """Return `docs/models.md` for the figures."""
    rows = document["models"]
    titles = ("model", "inspect", "cuts", *FROZEN, "convert whole", "large-similar")
    lines = [
        "# The indexed models",
        "Made by `python benchmarks/models.py` out of `benchmarks/results/models.json`; a test holds the",
        f"two together. Data of each model's own kind, at most {document.get('samples', SAMPLES)} samples"
        " (`surgeon_models.sample_data`).",
        "",
        "- **inspect**: nodes, parameters, multiply-adds of one sample up to the old head.",
        "- **cuts**: listed cuts; the late one.",
        "- **small-similar, small-different**: cross-validated accuracy (validation where there is none)",
        "  against the largest class's share; depth of the cut; frozen initializers, every one",
        "  byte for byte the source's. Each file ran in ONNX Runtime and passed `verify --source`.",
        "- **convert whole**: largest relative difference between torch and ONNX Runtime.",
        "- **large-similar**: one epoch over the few samples: it runs, proves and verifies. The",
        "  accuracy says nothing; `probe` and `start` mean that training did not beat the solved head",
        "  or the start, which was delivered instead.",
        "",
        "The `light-*` models have random weights: their accuracy is that of random features.",
        "",
        "| " + " | ".join(titles) + " |",
        "|" + "---|" * len(titles),
    ]
    lines += [
        f"| `{name}` | " + " | ".join(cell(row, key) for key in COLUMNS) + " |"
        for name, row in rows.items()
    ]
    return "\n".join(lines) + "\n"


def cell(row: dict, key: str) -> str:
    """Return one figure, or the reason why there is none, in words."""
    figure = row[key]
    for kind in ("skipped", "refused", "failed"):
        if kind in figure:
            text = figure[kind] + (f" ({figure['where']})" if figure.get("where") else "")
            return f"**{kind}**: " + text.replace("|", "\\|").replace("\n", " ")
    if key == "inspect":
        return f"{figure['nodes']} nodes, {count(figure['parameters'])}, {count(figure['macs'])}MAC"
    if key == "cuts":
        return f"{figure['count']}; `{str(figure['late']).replace('|', chr(92) + '|')}`"
    if key == "convert":
        return f"{figure['max_relative']:.1e}"
    score = f"{100 * figure['accuracy']:.0f} % / {100 * figure['majority']:.0f} %"
    if key in FROZEN:
        return f"{score}, @{figure['depth']:.2f}, {figure['frozen']} frozen"
    return f"{score}, {figure['delivered']}, parity {figure['parity']:.0e}"


def count(number: int | None) -> str:
    """Return a number with its SI prefix: `4.7 M`."""
    if number is None:
        return "? "
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {prefix}"
    return f"{number} "


if __name__ == "__main__":
    main()
