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
HEAVY_MACS, HEAVY_SAMPLES = 3_000_000_000, 12  # of a sample; so many then
LARGE_MACS = 6_000_000_000  # per sample; one epoch of more takes too long on two cores
LARGE_PARAMETERS = 100_000_000  # four float32 copies of more do not fit beside the file's
FLIPS = 1e-4  # share of int8 values that may round the other way in the first layer that differs
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
    parser.add_argument("--columns", default=",".join(COLUMNS), help="with --again: only these")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    columns = tuple(arguments.columns.split(","))
    if arguments.one:
        print(json.dumps(measure(arguments.names[0], arguments.samples, columns)))
        return
    from surgeon_models import names

    rows = load()["models"]
    for name in () if arguments.write else arguments.names or names():
        if name in rows and not arguments.again:
            continue
        fresh = columns if name in rows else COLUMNS
        rows[name] = rows.get(name, {}) | run_alone(name, arguments.samples, fresh)
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


def run_alone(name: str, samples: int, columns: tuple[str, ...] = COLUMNS) -> dict:
    """Measure one model in a process of its own; a crash is a result, too."""
    command = [sys.executable, __file__, name, "--one", "--samples", str(samples)]
    command += ["--columns", ",".join(columns)]
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return {key: {"failed": f"not done in {SECONDS} s"} for key in columns}
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [""])[-1][:200]
        return {key: {"failed": f"exit {done.returncode}: {said}"} for key in columns}
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, samples: int, columns: tuple[str, ...] = COLUMNS) -> dict:
    """Take one model through every verb."""
    import surgeon
    from surgeon import operation
    from surgeon_models import get, sample_data

    path = get(name)
    looks = {
        "inspect": attempt(lambda: looked_at(operation.inspect(path))),
        "cuts": attempt(lambda: listed(operation.cuts(path))),
    }
    macs, parameters = looks["cuts"].get("macs", 0), looks["inspect"].get("parameters", 0)
    data = sample_data(name, samples=min(samples, HEAVY_SAMPLES) if macs > HEAVY_MACS else samples)
    row = {}
    for column in columns:
        if column in looks:
            row[column] = looks[column]
        elif column == "convert":
            row[column] = attempt(lambda: converted(surgeon.load(path), path, data))
        elif column == "large-similar" and macs > LARGE_MACS:
            row[column] = {"skipped": f"{macs / 1e9:.1f} GMAC per sample: too slow for a CPU"}
        elif column == "large-similar" and parameters > LARGE_PARAMETERS:
            row[column] = {"skipped": f"{parameters / 1e6:.0f} M parameters: too much memory"}
        else:
            row[column] = attempt(lambda case=column: tuned(path, data, case))
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
        "inputs": [
            f"{value['name']} {value['dtype']} {value['shape']}" for value in body["inputs"]
        ],
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
    crossed = metrics.get("cross_validation") if case in FROZEN else None
    scored = crossed or metrics["validation"]
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
    import onnx
    import onnxruntime
    import torch

    import surgeon
    from surgeon.errors import CheckError

    proto = with_logits(onnx.load(path))
    module = surgeon.to_torch(proto)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = first_samples(model, data)
    wanted = session.run(None, feeds)
    given = [torch.from_numpy(feeds[info.name]) for info in model.inputs]
    if any(value.dtype == torch.float16 for value in given):  # compared in float32
        module, given = module.float(), [value.float() for value in given]
    with torch.no_grad():
        got = module(*given)
    got = got if isinstance(got, tuple) else (got,)
    worst = 0.0
    for one, other in zip(got, wanted, strict=True):
        near, far = flattened(one), flattened(other)
        if near.shape != far.shape:
            raise CheckError(f"torch gives {near.shape}, ONNX Runtime {far.shape}")
        worst = max(worst, float(np.abs(near - far).max() / max(np.abs(far).max(), 1e-6)))
    flip = None
    if not worst <= model.bound:
        flip = first_flip(proto, feeds, options)
        if flip is None or flip["steps"] > 1 or flip["share"] > FLIPS:
            raise CheckError(
                f"torch differs from ONNX Runtime by {worst:.1e}, more than {model.bound:.0e}"
            )
    return {"max_relative": worst, "outputs": len(got), "flip": flip}


def first_flip(proto, feeds: dict, options) -> dict | None:
    """Find the first quantised value of a QDQ graph in which torch and ONNX Runtime differ.

    Float sums differ in their last digit; next to a tie that moves a value by a whole step of int8,
    and behind it everything. So only the first one can be judged: single steps, in few places.
    """
    import onnx
    import onnxruntime
    import torch

    import surgeon

    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    names = [node.output[0] for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    if not names:
        return None
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    wanted = session.run(None, feeds)
    with torch.no_grad():
        got = surgeon.to_torch(shown)(*(torch.from_numpy(value) for value in feeds.values()))
    for name, one, other in zip(names, got, wanted, strict=True):
        steps = np.abs(one.numpy().astype(np.int64) - other.astype(np.int64))
        if steps.any():
            return {"value": name, "steps": int(steps.max()), "share": float((steps > 0).mean())}
    return None


def with_logits(proto):
    """Give out what goes into a last Sigmoid or Softmax instead of what comes out of it.

    Far from zero their outputs have no correct digits: a detector that sees nothing says 9e-8, and
    ONNX Runtime with and without optimisation differ by 9 % of that.
    """
    from onnx.helper import make_empty_tensor_value_info

    last = {node.output[0]: node for node in proto.graph.node}
    for number, value in enumerate(proto.graph.output):
        node = last.get(value.name)
        if node is not None and node.op_type in ("Sigmoid", "Softmax"):
            proto.graph.output[number].CopyFrom(make_empty_tensor_value_info(node.input[0]))
    return proto


def flattened(value) -> np.ndarray:
    """Return the numbers in an output: a tensor, or a list of them, or of maps from labels."""
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, list):
        return np.concatenate([np.atleast_1d(flattened(one)) for one in value])
    return np.asarray(value, np.float64)


def first_samples(model, data: dict) -> dict:
    """Return the first samples (the graph's fixed batch, else two) as its inputs."""
    infos = model.inputs
    fixed = [
        info.shape[info.batch_axis]
        for info in infos
        if info.batch_axis is not None and isinstance(info.shape[info.batch_axis], int)
    ]
    feeds = {}
    for info in infos:
        value = np.asarray(data[info.name])
        if info.batch_axis is not None and value.ndim > info.batch_axis:
            value = value.take(range(min(fixed, default=2)), axis=info.batch_axis)
        feeds[info.name] = np.ascontiguousarray(value)
    return feeds


# ── the page ─────────────────────────────────────────────────────────────────────────────────────


INTRODUCTION = """# The indexed models
Made by `python benchmarks/models.py` out of `benchmarks/results/models.json`; a test holds the two
together. Data of each model's own kind (`surgeon_models.sample_data`): at most {samples} samples,
{heavy} where one takes more than {macs} GMAC.

- **inspect**: nodes, parameters, multiply-adds of one sample.
- **cuts**: how many are listed; the late one.
- **small-similar, small-different**: cross-validated accuracy (of validation where there are
  too few samples) / share of the largest class; depth of the cut; number of frozen initializers,
  each byte for byte the source's. The file ran in ONNX Runtime and passed `verify --source`.
- **convert whole**: largest relative difference between torch and ONNX Runtime on two samples,
  in front of a last Sigmoid or Softmax, in float32. Where int8 lies between float operators,
  last digits decide which way a value rounds: then of the first layer that differs, how many
  values do, by one step.
- **large-similar**: one epoch over the few samples, which shows that it trains, runs, proves and
  verifies, and nothing else. `tuned` is what training gave; `probe` and `start` are what was
  delivered because so short a training did not beat the solved head or the start. How many
  initializers changed; parity of torch and ONNX Runtime afterwards.

The `light-*` models have random weights: their accuracy is that of random features.
"""


def page(document: dict) -> str:
    """Return `docs/models.md` for the figures."""
    rows = document["models"]
    titles = ("model", "inspect", "cuts", *FROZEN, "convert whole", "large-similar")
    lines = [
        INTRODUCTION.format(
            samples=document["samples"], heavy=HEAVY_SAMPLES, macs=HEAVY_MACS // 10**9
        ),
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
        parameters, macs = count(figure["parameters"]).strip(), count(figure["macs"])
        return f"{figure['nodes']} nodes, {parameters}, {macs}MAC"
    if key == "cuts":
        return f"{figure['count']}; `{str(figure['late']).replace('|', chr(92) + '|')}`"
    if key == "convert":
        flip = figure.get("flip")
        share = f"; first, 1 step of int8 in {flip['share']:.0e} of the values" if flip else ""
        return f"{figure['max_relative']:.1e}{share}"
    if key in FROZEN:
        score = f"{100 * figure['accuracy']:.0f} % / {100 * figure['majority']:.0f} %"
        return f"{score}, @{figure['depth']:.2f}, {figure['frozen']} frozen"
    return f"{figure['delivered']}, {figure['changed']} changed, parity {figure['parity']:.0e}"


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
