"""Exported forms of four tuned networks: what they answer, how fast, how large.

    python benchmarks/export.py            # all, or the names of some: pictures mail …
    python benchmarks/export.py --write    # only the table of docs/export.md

A network is tuned on two thirds of real data (`real.py`) and exported in each form; 8 bits are
calibrated on the same two thirds. The unseen third judges both files, `--check`. Seconds are
medians of runs in turn, one sample each. `written` is the share of the unseen samples whose class
is the same when ONNX Runtime runs the file operator by operator, in floats, as processors with
other integer instructions do within a rounding.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import real

RESULTS = Path(__file__).parent / "results" / "export.json"
PAGE = Path(__file__).parent.parent / "docs" / "export.md"
BEGIN, END = "<!-- benchmarks/export.py writes from here -->", "<!-- to here -->"
NAMES = ("pictures", "mail", "sounds", "files")
MOST = 200
"""Samples that judge."""


def forms(name: str, train: Any, opset: int) -> dict[str, dict[str, Any]]:
    """Return the options of each form."""
    later = {"opset": 13} if opset < 13 else {}
    dynamic = {"int8-dynamic": {"int8_dynamic": True}} if name == "mail" else {}
    return {"fp16": {"fp16": True}, "int8": {"int8": train, **later}, **dynamic}


def measure(name: str, task: real.Task) -> dict[str, Any]:
    """Tune one network, export it in each form, judge each."""
    import surgeon
    from surgeon.errors import SurgeonError
    from surgeon_models import get

    order = np.random.default_rng(0).permutation(len(task.labels))
    count = len(order) * 2 // 3
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        given = []
        for part, rows in (("train", order[:count]), ("held", order[count:][:MOST])):
            (folder / part).mkdir()
            data = task.train(rows, folder / part)
            given.append({k: v for k, v in data.items() if k != "split"}
                         if isinstance(data, dict) else data)  # fmt: skip
        train, held = given
        tuned = folder / "tuned.onnx"
        surgeon.finetune(
            get(task.model), train, tuned, case="small-similar", device="cpu", **task.options
        )
        opset = surgeon.inspect(tuned)["opsets"].get("ai.onnx", 1)
        row: dict[str, Any] = {"data": task.data, "model": task.model, "forms": {}}
        for form, settings in forms(name, train, opset).items():
            out = folder / f"{form}.onnx"
            begun = time.process_time()
            try:
                body = surgeon.export(tuned, out, check=held, **settings)
            except SurgeonError as error:
                row["forms"][form] = {"refused": error.message}
                print(name, form, error.message, flush=True)
                continue
            told = {**body["comparison"], "bytes": body["bytes"], "quantised": body["quantised"]}
            told["export_seconds"] = round(time.process_time() - begun, 1)  # of the CPU
            told["verified"] = all(
                surgeon.verify(out, source=one).passed for one in (None, tuned, get(task.model))
            )
            told["written"] = written(out, held)
            row["forms"][form] = told
            print(name, form, told, flush=True)
    return row


def written(path: Path, held: Any) -> float:
    """Return the share of samples with the same class where nothing is fused."""
    from surgeon import intake, load
    from surgeon.options import Options
    from surgeon.runtime.sessions import open_session

    model = load(path)
    opened = intake.open_labelled(model, held, Options(), progress=None, plugins=None)
    loaded = [opened.samples.load(row) for row in range(min(opened.samples.n, 60))]
    feeds = [one for one in loaded if isinstance(one, dict)]
    name = model.stored.graph.output[0].name
    fast, plain = (
        open_session(model.stored, device="cpu", optimised=optimised) for optimised in (True, False)
    )
    same = [
        fast.run(one, [name])[0].argmax() == plain.run(one, [name])[0].argmax() for one in feeds
    ]
    return float(np.mean(same))


def section(document: dict[str, Any]) -> str:
    """Return the table."""
    lines = [
        "| network, data | form | accuracy | after | same class | time | size | left in float |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"].values():
        for form, told in row["forms"].items():
            what = f"| {row['model']}, {row['data']} | `{form}` |"
            if "refused" in told:
                lines.append(f"{what} refused: {told['refused']} ||||||")
                continue
            quantised = told["quantised"] or {}
            left = len(quantised.get("floats", ()))
            of = left + quantised.get("layers", 0)
            lines.append(
                f"{what} {100 * told['quality_before']:.1f} % | {100 * told['quality_after']:.1f} %"
                f" | {100 * told['agreement']:.1f} %"
                f" | ×{told['seconds_after'] / told['seconds_before']:.2f}"
                f" | ×{told['bytes'] / told['bytes_before']:.2f}"
                f" | {f'{left} of {of}' if quantised else ''} |"
            )
    counts = {row["model"]: next(iter(row["forms"].values())) for row in document["rows"].values()}
    judged = ", ".join(f"{one.get('samples')} of {name}" for name, one in counts.items())
    lines += ["", f"Judged on samples that nothing was learnt from: {judged}."]
    noted = [
        f"{row['model']}: {row['note']}." for row in document["rows"].values() if "note" in row
    ]
    lines += ["", *noted] if noted else []
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write figures and table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--write", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    rows = json.loads(RESULTS.read_text("utf-8"))["rows"] if RESULTS.exists() else {}
    for name in () if arguments.write else arguments.names or NAMES:
        rows[name] = measure(name, real.TASKS[name]())
        document = {
            "date": datetime.now(UTC).date().isoformat(),
            "versions": {key: version(key) for key in ("onnx-surgeon", "onnxruntime-gpu")},
            "rows": {key: rows[key] for key in NAMES if key in rows},
        }
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    table = section(json.loads(RESULTS.read_text("utf-8")))
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
